//! Tests of the queue pair against a device of a few lines, which does what each test tells it, right or wrong.

mod pair;
mod storm;
mod untrusted;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use super::{Pair, PairConfig};
use crate::dma::{DmaError, DmaMap, DmaOptions, DmaSpace, MemoryBlock};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::transport::Doorbell;

const QID: u16 = 3;
const SQ_DOORBELL: usize = 0;
const CQ_DOORBELL: usize = 4;
/// What stands in a doorbell register while nobody has rung it.
const SILENT: u32 = u32::MAX;

/// The memory that the device can reach.
#[derive(Default)]
struct Memory {
    blocks: Mutex<BTreeMap<u64, Arc<MemoryBlock>>>,
}

impl DmaMap for Memory {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        let mut blocks = self.blocks.lock().unwrap();
        let iova = blocks.last_key_value().map_or(0x8_0000_0000, |(iova, block)| iova + block.len() as u64);
        blocks.insert(iova, Arc::clone(block));
        Ok(iova)
    }

    fn unmap(&self, iova: u64, _len: usize) -> Result<(), DmaError> {
        self.blocks.lock().unwrap().remove(&iova);
        Ok(())
    }
}

impl Memory {
    fn at(&self, iova: u64) -> (Arc<MemoryBlock>, usize) {
        let blocks = self.blocks.lock().unwrap();
        let (&start, block) = blocks.range(..=iova).next_back().expect("the address is mapped");
        (Arc::clone(block), (iova - start) as usize)
    }
}

/// The other side of one queue pair.
struct Device {
    memory: Arc<Memory>,
    doorbells: Arc<MemoryBlock>,
    sq_iova: u64,
    cq_iova: u64,
    sq_entries: u32,
    cq_entries: u32,
    sq_head: u32,
    sq_tail: u32,
    cq_tail: u32,
    phase: bool,
}

impl Device {
    fn new<R>(memory: Arc<Memory>, doorbells: Arc<MemoryBlock>, pair: &Pair<R>) -> Self {
        doorbells.store_u32(SQ_DOORBELL, SILENT, Ordering::Release);
        doorbells.store_u32(CQ_DOORBELL, SILENT, Ordering::Release);
        Self {
            memory,
            doorbells,
            sq_iova: pair.sq_iova(),
            cq_iova: pair.cq_iova(),
            sq_entries: pair.sq_entries(),
            cq_entries: pair.cq_entries(),
            sq_head: 0,
            sq_tail: 0,
            cq_tail: 0,
            phase: true,
        }
    }

    /// The value of a doorbell if it was rung since the last look, changed or not.
    fn rung(&self, doorbell: usize) -> Option<u32> {
        // Acquire: pairs with the Release in `Doorbell::ring`.
        let value = self.doorbells.load_u32(doorbell, Ordering::Acquire);
        if value != SILENT {
            self.doorbells.store_u32(doorbell, SILENT, Ordering::Relaxed);
        }
        (value != SILENT).then_some(value)
    }

    /// Fetches one command, if the doorbell says that there is one.
    fn fetch(&mut self) -> Option<Command> {
        if let Some(tail) = self.rung(SQ_DOORBELL) {
            assert!(tail < self.sq_entries && tail != self.sq_tail, "rang {tail} after {}", self.sq_tail);
            self.sq_tail = tail;
        }
        if self.sq_head == self.sq_tail {
            return None;
        }
        let (block, offset) = self.memory.at(self.sq_iova + u64::from(self.sq_head) * 64);
        let mut bytes = [0; 64];
        block.read(offset, &mut bytes);
        self.sq_head = (self.sq_head + 1) % self.sq_entries;
        Some(zerocopy::transmute!(bytes))
    }

    fn fetch_all(&mut self) -> Vec<Command> {
        std::iter::from_fn(|| self.fetch()).collect()
    }

    /// Completes a command as a correct device does.
    fn complete(&mut self, cid: u16) {
        self.post(Completion { cid, ..self.completion() });
    }

    fn complete_all(&mut self, cids: &[u16]) {
        for &cid in cids {
            self.complete(cid);
        }
    }

    fn completion(&self) -> Completion {
        Completion { sqhd: self.sq_head as u16, sqid: QID, ..Completion::default() }
    }

    /// Posts a completion of whatever content, with the right phase tag.
    fn post(&mut self, completion: Completion) {
        let status = completion.status & !1 | u16::from(self.phase);
        let [first, second]: [u64; 2] = zerocopy::transmute!(Completion { status, ..completion });
        let (block, offset) = self.memory.at(self.cq_iova + u64::from(self.cq_tail) * 16);
        block.store_u64(offset, first, Ordering::Relaxed);
        // Release: pairs with the Acquire of the phase tag in `Pair::process`.
        block.store_u64(offset + 8, second, Ordering::Release);
        self.cq_tail += 1;
        if self.cq_tail == self.cq_entries {
            self.cq_tail = 0;
            self.phase = !self.phase;
        }
    }
}

fn config(sq_entries: u32, cq_entries: u32) -> PairConfig {
    PairConfig { qid: QID, sq_entries, cq_entries, page_size: 4096, max_transfer_bytes: 1 << 20 }
}

/// A pair, its device, and the space that both share.
fn setup<R>(sq_entries: u32, cq_entries: u32) -> (Pair<R>, Device, DmaSpace) {
    let memory = Arc::new(Memory::default());
    let options = DmaOptions { huge_pages: false, ..DmaOptions::default() };
    let dma = DmaSpace::new(Arc::clone(&memory) as Arc<dyn DmaMap>, options);
    let doorbells = MemoryBlock::new(4096, false).expect("memory");
    let doorbell = |offset| Doorbell::in_block(Arc::clone(&doorbells), offset).expect("inside");
    let config = config(sq_entries, cq_entries);
    let pair = Pair::new(&dma, config, doorbell(SQ_DOORBELL), doorbell(CQ_DOORBELL)).expect("a pair");
    let device = Device::new(memory, doorbells, &pair);
    (pair, device, dma)
}

/// A command that can be told from others.
fn tagged(tag: u32) -> Command {
    Command { opcode: 0x7f, nsid: !tag, cdw10: tag, cdw15: tag.rotate_left(7), ..Command::default() }
}
