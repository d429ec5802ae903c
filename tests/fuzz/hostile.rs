//! A device whose registers, completions and data are drawn, stepped by the test: right for the most part, or nothing would ever be reached behind bring-up, and
//! wrong in whatever way the dice have it. It knows the queues as the specification has them, and nothing of the driver.

use crate::completions::Memory;
use crate::dice::Dice;
use slipring::dma::{DmaError, DmaMap, MemoryBlock};
use slipring::spec::command::Command;
use slipring::spec::completion::Completion;
use slipring::spec::registers::{
    ACQ, AQA, ASQ, CAP, CC, CRTO, CSTS, Cap, Csts, DOORBELLS, NSSR, NSSR_MAGIC, VS,
};
use slipring::transport::{Doorbell, Transport, TransportError};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// Opcodes that the device answers in a way of their own.
mod opcode {
    pub const CREATE_SQ: u8 = 0x01;
    pub const CREATE_CQ: u8 = 0x05;
    pub const GET_LOG: u8 = 0x02;
    pub const IDENTIFY: u8 = 0x06;
    pub const SET_FEATURES: u8 = 0x09;
    pub const ASYNC_EVENT: u8 = 0x0c;
}

/// In how many accesses one is wrong; `usize::MAX` for none.
#[derive(Clone, Copy, Debug)]
pub struct Wildness {
    pub registers: usize,
    pub completions: usize,
    pub data: usize,
    pub statuses: usize,
}

/// Identify and log pages to answer with, before they are changed: by name.
pub type Pages = BTreeMap<String, Vec<u8>>;

struct State {
    dice: Dice,
    wildness: Wildness,
    cap: u64,
    registers: BTreeMap<usize, u64>,
    /// Where each queue is: submission, completion, entries, head, completion tail and phase.
    queues: BTreeMap<u16, Queue>,
    /// Completion queues that were made and have no submission queue yet.
    completion_queues: BTreeMap<u16, (u64, u32)>,
    /// Commands that wait for an event.
    events: Vec<u16>,
}

#[derive(Clone, Copy)]
struct Queue {
    sq: u64,
    cq: u64,
    sq_entries: u32,
    cq_entries: u32,
    head: u32,
    tail: u32,
    phase: bool,
}

pub struct Hostile {
    state: Mutex<State>,
    memory: Memory,
    doorbells: Arc<MemoryBlock>,
    pages: Arc<Pages>,
    is_master: AtomicBool,
    is_closed: AtomicBool,
}

impl std::fmt::Debug for Hostile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hostile")
    }
}

impl Hostile {
    const DOORBELL_BYTES: usize = 64 << 10;

    pub fn new(mut dice: Dice, wildness: Wildness, pages: Arc<Pages>) -> Arc<Self> {
        let cap =
            Cap::new().with_mqes_z(63).with_cqr(true).with_to(4).with_css(dice.choose(&[1, 0x41, 0x80, 0]));
        let mut cap = cap.with_mpsmax(4).with_nssrs(true).into_bits().to_le_bytes();
        if dice.below(wildness.registers) < 16 {
            let changes = 1 + dice.below(3);
            dice.mutate(&mut cap, changes);
        }
        let cap = u64::from_le_bytes(cap);
        let state = State {
            dice,
            wildness,
            cap,
            registers: BTreeMap::from([(CAP, cap), (VS, 0x2_0000)]),
            queues: BTreeMap::new(),
            completion_queues: BTreeMap::new(),
            events: Vec::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            memory: Memory::default(),
            doorbells: MemoryBlock::new(Self::DOORBELL_BYTES, false).expect("memory"),
            pages,
            is_master: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the device does not panic")
    }

    /// Whether nothing is mapped for the device any more.
    pub fn is_unmapped(&self) -> bool {
        self.memory.is_empty()
    }

    fn read(&self, offset: usize, bits: u32) -> u64 {
        let mut state = self.lock();
        let ones = u64::MAX >> (64 - bits);
        if self.is_closed.load(Ordering::Relaxed) {
            return ones;
        }
        let value = state.registers.get(&offset).copied().unwrap_or(0);
        let State { dice, wildness, .. } = &mut *state;
        let value = match dice.below(wildness.registers) {
            0 => {
                let any = [0, u64::MAX, value ^ 1 << dice.below(bits as usize), dice.next()];
                dice.choose(&any)
            }
            _ => value,
        };
        value & ones
    }

    fn write(&self, offset: usize, value: u64) {
        if !self.is_closed.load(Ordering::Relaxed) {
            self.lock().registers.insert(offset, value);
        }
    }

    fn doorbell_value(&self, state: &State, number: usize) -> u32 {
        let stride = 4 << Cap::from_bits(state.cap).dstrd();
        let offset = number * stride;
        // Acquire: pairs with the Release in `Doorbell::ring`.
        if offset + 4 > Self::DOORBELL_BYTES { 0 } else { self.doorbells.load_u32(offset, Ordering::Acquire) }
    }

    /// One step: what CC says, then a few commands of each queue.
    pub fn step(&self) {
        if self.is_closed.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        self.step_registers(&mut state);
        let qids: Vec<u16> = state.queues.keys().copied().collect();
        for qid in qids {
            for _ in 0..8 {
                let Some(command) = self.fetch(&mut state, qid) else { break };
                self.execute(&mut state, qid, command);
            }
        }
        if state.dice.one_in(64)
            && let Some(cid) = state.events.pop()
        {
            let dw0 = state.dice.number() as u32;
            self.complete(&mut state, 0, Completion { cid, dw0, ..Completion::default() });
        }
    }

    fn step_registers(&self, state: &mut State) {
        if state.registers.remove(&NSSR) == Some(NSSR_MAGIC.into()) {
            let csts = Csts::new().with_nssro(true).into_bits();
            state.registers.extend([(CC, 0), (CSTS, csts.into())]);
        }
        let cc = state.registers.get(&CC).copied().unwrap_or(0);
        let (enabled, shn) = (cc & 1 != 0, cc >> 14 & 3);
        let csts = state.registers.get(&CSTS).copied().unwrap_or(0);
        let mut next = csts & !0b1101;
        if enabled {
            next |= 1;
            if csts & 1 == 0 {
                let aqa = state.registers.get(&AQA).copied().unwrap_or(0);
                let register = |offset| state.registers.get(&offset).copied().unwrap_or(0);
                let admin = Queue {
                    sq: register(ASQ),
                    cq: register(ACQ),
                    sq_entries: (aqa & 0xfff) as u32 + 1,
                    cq_entries: (aqa >> 16 & 0xfff) as u32 + 1,
                    head: 0,
                    tail: 0,
                    phase: true,
                };
                self.doorbells.fill(0, Self::DOORBELL_BYTES, 0);
                state.queues = BTreeMap::from([(0, admin)]);
                state.events.clear();
            }
            if shn != 0 {
                next |= 2 << 2;
            }
        } else {
            state.queues.clear();
        }
        let State { dice, wildness, .. } = state;
        if dice.below(wildness.registers) == 0 {
            // A fatal status, or a bit that comes and goes.
            next ^= dice.choose(&[2, 1, 4, 8, 16]);
        }
        state.registers.insert(CSTS, next);
    }

    fn fetch(&self, state: &mut State, qid: u16) -> Option<Command> {
        let tail = self.doorbell_value(state, usize::from(qid) * 2);
        let queue = state.queues.get_mut(&qid)?;
        if tail >= queue.sq_entries || queue.head == tail {
            return None;
        }
        let (block, offset) = self.memory.find(queue.sq + u64::from(queue.head) * 64, 64)?;
        let mut bytes = [0; 64];
        block.read(offset, &mut bytes);
        queue.head = (queue.head + 1) % queue.sq_entries;
        Some(zerocopy::transmute!(bytes))
    }

    fn execute(&self, state: &mut State, qid: u16, command: Command) {
        let mut dw0 = 0;
        match command.opcode {
            opcode::ASYNC_EVENT if qid == 0 => return state.events.push(command.cid),
            opcode::IDENTIFY if qid == 0 => {
                let name = match command.cdw10 & 0xff {
                    0 => "identify-ns",
                    1 => "identify-ctrlr",
                    2 => "active-ns-list",
                    3 => "ns-descriptors",
                    _ => "any",
                };
                self.answer(state, name, command);
            }
            opcode::GET_LOG if qid == 0 => {
                let name = match command.cdw10 & 0xff {
                    1 => "error-log",
                    2 => "smart-log",
                    3 => "firmware-log",
                    4 => "changed-ns-log",
                    5 => "effects-log",
                    _ => "any",
                };
                self.answer(state, name, command);
            }
            opcode::SET_FEATURES if qid == 0 => {
                dw0 = 0x0003_0003;
                if state.dice.below(state.wildness.data) < 4 {
                    dw0 = state.dice.number() as u32;
                }
            }
            opcode::CREATE_CQ if qid == 0 => {
                let made = (command.prp1, (command.cdw10 >> 16) + 1);
                state.completion_queues.insert(command.cdw10 as u16, made);
            }
            opcode::CREATE_SQ if qid == 0 => {
                let made = state.completion_queues.get(&((command.cdw11 >> 16) as u16));
                if let Some(&(cq, cq_entries)) = made {
                    let sq_entries = (command.cdw10 >> 16) + 1;
                    let queue =
                        Queue { sq: command.prp1, cq, sq_entries, cq_entries, head: 0, tail: 0, phase: true };
                    state.queues.insert(command.cdw10 as u16, queue);
                }
            }
            _ => {}
        }
        let status = match state.dice.below(state.wildness.statuses) {
            0 => state.dice.number() as u16 & !1,
            _ => 0,
        };
        self.complete(state, qid, Completion { cid: command.cid, dw0, status, ..Completion::default() });
    }

    /// Writes a page to where the command wants it, changed as the dice have it.
    fn answer(&self, state: &mut State, name: &str, command: Command) {
        let State { dice, wildness, .. } = state;
        let mut bytes = self.pages.get(name).cloned().unwrap_or_default();
        if bytes.is_empty() {
            bytes = (0..4096).map(|_| dice.next() as u8).collect();
        }
        if dice.below(wildness.data) < 8 {
            let changes = dice.choose(&[1, 4, 64]);
            dice.mutate(&mut bytes, changes);
        }
        if dice.below(wildness.data) == 0 {
            bytes.fill_with(|| dice.next() as u8);
        }
        if self.is_master.load(Ordering::Relaxed)
            && let Some((block, offset)) = self.memory.find(command.prp1, bytes.len())
        {
            block.write(offset, &bytes);
        }
    }

    fn complete(&self, state: &mut State, qid: u16, completion: Completion) {
        let Some(&queue) = state.queues.get(&qid) else { return };
        let right = Completion {
            sqid: qid,
            sqhd: queue.head as u16,
            status: completion.status | u16::from(queue.phase),
            ..completion
        };
        let mut bytes: [u8; 16] = zerocopy::transmute!(right);
        let mut slot = queue.tail;
        let State { dice, wildness, .. } = state;
        match dice.below(wildness.completions) {
            0 => dice.mutate(&mut bytes, 1),
            1 => bytes = [(); 16].map(|()| dice.number() as u8),
            2 => slot = dice.below(queue.cq_entries as usize) as u32,
            // Lost.
            3 => return,
            _ => {}
        }
        let times = if dice.below(wildness.completions) == 0 { 2 } else { 1 };
        for _ in 0..times {
            self.post(queue.cq, slot, bytes);
            slot = (slot + 1) % queue.cq_entries;
        }
        if let Some(queue) = state.queues.get_mut(&qid) {
            queue.tail += 1;
            if queue.tail == queue.cq_entries {
                (queue.tail, queue.phase) = (0, !queue.phase);
            }
        }
    }

    fn post(&self, cq: u64, slot: u32, bytes: [u8; 16]) {
        if !self.is_master.load(Ordering::Relaxed) {
            return;
        }
        let Some((block, offset)) = self.memory.find(cq + u64::from(slot) * 16, 16) else { return };
        let [first, second]: [u64; 2] = zerocopy::transmute!(bytes);
        block.store_u64(offset, first, Ordering::Relaxed);
        // Release: pairs with the Acquire of the phase tag in `Pair::process`.
        block.store_u64(offset + 8, second, Ordering::Release);
    }
}

impl DmaMap for Hostile {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        self.memory.map(block)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        self.memory.unmap(iova, len)
    }
}

impl Transport for Hostile {
    fn address(&self) -> String {
        "hostile".into()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.read(offset, 32) as u32
    }

    fn read_u64(&self, offset: usize) -> u64 {
        self.read(offset, 64)
    }

    fn write_u32(&self, offset: usize, value: u32) {
        if offset != CSTS && offset != CRTO {
            self.write(offset, value.into());
        }
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.write(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError> {
        let bar_len = DOORBELLS + Self::DOORBELL_BYTES;
        let within = offset.checked_sub(DOORBELLS).ok_or(TransportError::OutOfRange { offset, bar_len })?;
        Doorbell::in_block(Arc::clone(&self.doorbells), within)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        self.is_master.store(on, Ordering::Relaxed);
        Ok(())
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn interrupt_count(&self) -> usize {
        0
    }

    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError> {
        Err(TransportError::Interrupts { asked: count, available: 0 })
    }

    fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
    }
}
