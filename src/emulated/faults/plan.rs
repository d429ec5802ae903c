//! Faults at work: which of them a command meets, counted as the device runs, and what it then does wrong. The way of a command that meets none is in `serve`.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CERTAIN_PPM, Effect, Fault, Faults, OnQueue};
use crate::emulated::control::State;
use crate::emulated::device::Device;
use crate::spec::command::{Command, DataTransfer, NvmOpcode};
use crate::spec::status::Status;

/// How long something takes that never comes: a century, which no clock runs out of.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What is counted of one fault.
#[derive(Debug)]
struct Counted {
    fault: Fault,
    /// Commands that it matched so far.
    matched: u64,
    /// State of its random numbers.
    random: u64,
}

/// The faults of a running device.
#[derive(Debug)]
pub(crate) struct Plan(Vec<Counted>);

/// What a command meets.
#[derive(Debug, Default, Clone, Copy)]
struct Met {
    delay: Duration,
    effect: Option<Effect>,
}

/// What is to go wrong with a command that is on its way through the device. It is named by its queue and CID, since executing it may complete others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mischief {
    qid: u16,
    cid: u16,
    effect: Effect,
}

impl Plan {
    /// `None` when there is nothing to plan.
    pub(crate) fn new(faults: &Faults) -> Option<Self> {
        let counted = |fault: &Fault| Counted { fault: fault.clone(), matched: 0, random: fault.seed };
        (!faults.is_empty()).then(|| Self(faults.list().iter().map(counted).collect()))
    }
}

impl Counted {
    /// Whether it hits, now that it matched once more.
    fn hits(&mut self) -> bool {
        self.matched += 1;
        self.fault.nth.contains(&self.matched)
            && (self.fault.chance_ppm == CERTAIN_PPM || self.draw() < self.fault.chance_ppm)
    }

    /// A number below a million: a Weyl sequence, mixed.
    fn draw(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.random ^ self.random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((number >> 32) * u64::from(CERTAIN_PPM)) >> 32) as u32
    }

    fn matches(&self, qid: u16, command: &Command) -> bool {
        let fault = &self.fault;
        let is_queue = match fault.queue {
            OnQueue::Any => true,
            OnQueue::Admin => qid == 0,
            OnQueue::Io => qid != 0,
            OnQueue::Id(id) => qid == id,
        };
        is_queue
            && fault.effect.is_about_commands()
            && fault.opcode.is_none_or(|opcode| opcode == command.opcode)
            && fault.nsid.is_none_or(|nsid| nsid == command.nsid)
            && fault.lbas.as_ref().is_none_or(|lbas| {
                blocks_of(qid, command)
                    .is_some_and(|(first, last)| first <= *lbas.end() && last >= *lbas.start())
            })
    }
}

/// The first and the last block that an I/O command names in dwords 10 to 12.
fn blocks_of(qid: u16, command: &Command) -> Option<(u64, u64)> {
    let has_blocks = matches!(
        NvmOpcode(command.opcode),
        NvmOpcode::READ
            | NvmOpcode::WRITE
            | NvmOpcode::COMPARE
            | NvmOpcode::WRITE_ZEROES
            | NvmOpcode::VERIFY
            | NvmOpcode::WRITE_UNCORRECTABLE
    );
    let slba = u64::from(command.cdw11) << 32 | u64::from(command.cdw10);
    (qid != 0 && has_blocks).then(|| (slba, slba.saturating_add(u64::from(command.cdw12 & 0xffff))))
}

impl Device {
    /// What a command that was fetched just now meets.
    fn meet(&mut self, qid: u16, command: &Command) -> Met {
        let mut met = Met::default();
        let Some(Plan(plan)) = &mut self.plan else { return met };
        for (index, counted) in plan.iter_mut().enumerate() {
            if counted.matches(qid, command) && counted.hits() {
                match counted.fault.effect {
                    Effect::Delay(delay) => met.delay += delay,
                    effect => met.effect = Some(effect),
                }
                self.transport.count_fault(index);
            }
        }
        met
    }

    /// How much longer a transition takes than it should, for which `effect` is what can go wrong.
    pub(crate) fn transition_delay(&mut self, effect: Effect) -> Duration {
        let Some(Plan(plan)) = &mut self.plan else { return Duration::ZERO };
        let mut delay = Duration::ZERO;
        for (index, counted) in plan.iter_mut().enumerate() {
            if counted.fault.effect == effect && counted.hits() {
                delay = NEVER;
                // Whoever waits for that in vain has done what it could to shut the device down.
                self.transport.registers.set_shutdown_due(false);
                self.transport.count_fault(index);
            }
        }
        delay
    }

    /// Serves a command that was fetched just now, and that a fault may hit.
    #[cold]
    pub(crate) fn serve_with_faults(&mut self, index: usize, command: &Command, delay: Duration) {
        let qid = self.sqs[index].qid;
        let Met { delay: longer, effect } = self.meet(qid, command);
        let mut delay = delay + longer;
        match effect {
            Some(Effect::Fatal) => return self.break_down(),
            Some(Effect::Remove) => return self.vanish(),
            Some(Effect::RegistersOnes) => self.transport.registers.pretend(u64::MAX),
            Some(Effect::RegistersZero) => self.transport.registers.pretend(0),
            Some(Effect::Hang) => delay = NEVER,
            _ => {}
        }
        let mischief = effect.map(|effect| Mischief { qid, cid: command.cid, effect });
        if delay.is_zero() {
            self.execute_with(index, command, mischief);
        } else {
            self.hold(index, *command, delay, mischief);
        }
    }

    /// Executes a command whose completion may go wrong.
    #[cold]
    pub(crate) fn execute_with(&mut self, index: usize, command: &Command, mischief: Option<Mischief>) {
        self.mischief = mischief;
        match mischief.map(|mischief| mischief.effect) {
            Some(Effect::Status(status)) => {
                self.mischief = None;
                // A host that does not heed delays is not given any (ACRE).
                let heeds = self.features.heeds_retry_delays();
                return self.complete(index, command, Err(if heeds { status } else { status.with_crd(0) }));
            }
            // What data there are is known again when it is executed, if it has any.
            Some(Effect::Corrupt(_)) => self.memory.forget(),
            _ => {}
        }
        self.execute(index, command);
        self.mischief = None;
    }

    /// Posts the completion of a command in hand, or not, or another; false when nothing is wrong with this one.
    #[cold]
    pub(crate) fn complete_with_mischief(
        &mut self,
        index: usize,
        command: &Command,
        dw0: u32,
        status: Status,
    ) -> bool {
        let qid = self.sqs[index].qid;
        let Some(Mischief { effect, .. }) = self.mischief.filter(|it| (it.qid, it.cid) == (qid, command.cid))
        else {
            return false;
        };
        if let Effect::Corrupt(offset) = effect {
            if status.is_success() {
                self.corrupt(qid, command, offset as usize);
            }
            return false;
        }
        let sq = &mut self.sqs[index];
        let Some(cq) = &mut self.cqs[usize::from(sq.cqid)] else { return true };
        match effect {
            Effect::Drop => {}
            Effect::WrongCid => cq.post(sq, command.cid ^ 0x8000, dw0, status),
            Effect::WrongSqHead => cq.post_with_head(sq.qid, u16::MAX, command.cid, dw0, status),
            Effect::StalePhase => cq.post_stale(sq, command.cid, dw0, status),
            Effect::Repeat => {
                cq.post(sq, command.cid, dw0, status);
                if !cq.is_full() {
                    cq.post(sq, command.cid, dw0, status);
                }
            }
            _ => return false,
        }
        true
    }

    /// Inverts a byte of the data that a command moved.
    fn corrupt(&mut self, qid: u16, command: &Command, offset: usize) {
        if DataTransfer::of(command.opcode) == DataTransfer::ControllerToHost {
            self.memory.invert(offset);
        } else if qid != 0
            && NvmOpcode(command.opcode) == NvmOpcode::WRITE
            && let Some((first, _)) = blocks_of(qid, command)
            && let Ok(index) = self.active_namespace(command.nsid)
        {
            self.namespaces[index].invert(first, offset as u64);
        }
    }

    /// CSTS.CFS, for no fault of the driver's.
    fn break_down(&mut self) {
        tracing::info!("fault: CSTS.CFS is set");
        let csts = self.transport.registers.csts();
        self.transport.registers.set_csts(csts.with_cfs(true));
        // Nobody can ask for a shutdown any more.
        self.transport.registers.set_shutdown_due(false);
        self.state = State::Fatal;
    }

    /// As [`EmulatedTransport::remove`](crate::emulated::EmulatedTransport::remove), from inside of the gate.
    fn vanish(&mut self) {
        self.memory.port.leave();
        self.transport.remove();
        self.state = State::Fatal;
    }
}

impl crate::emulated::EmulatedTransport {
    fn count_fault(&self, index: usize) {
        // Relaxed: a count, ordered with nothing.
        self.faults_met[index].fetch_add(1, Ordering::Relaxed);
    }

    /// How often each fault of [`Config::faults`](crate::emulated::Config::faults) has hit so far, in their order.
    pub fn faults_met(&self) -> Vec<u64> {
        // Relaxed: as above.
        self.faults_met.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
