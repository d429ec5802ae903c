//! What a seed draws before the first step: the controller and its limits, what goes wrong with it, the driver's options, and how often each thing happens.
#![forbid(unsafe_code)]

use super::oracle::BLOCK_BYTES;
use super::plan::{Part, Plan};
use crate::numbers::Random;
use slipring::ctrlr::{CtrlrOptions, TimeoutAction, Timeouts};
use slipring::dma::DmaOptions;
use slipring::emulated::{
    Backing, Config, Effect, Fault, Faults, Latency, NamespaceConfig, OnQueue, QueueKind,
};
use slipring::spec::command::{AdminOpcode, NvmOpcode};
use slipring::spec::status::Status;
use std::time::Duration;

/// Blocks of the namespace: few, so that requests meet.
pub(super) const BLOCKS: u64 = 48;
/// How long the driver gives an admin command of its own.
pub(super) const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What CAP.TO promises.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Round,
    Device,
    Poll,
    PollLanes,
    Io,
    Message,
    Collect,
    Time,
    Registrations,
    Owners,
    Reset,
    Event,
    Detach,
    Remove,
}

/// How often each thing happens, in parts of their sum.
#[derive(Clone, Debug)]
pub(super) struct Weights([(Act, u64); 14]);

impl Weights {
    /// What happens next.
    pub(super) fn draw(&self, random: &mut Random) -> Act {
        let mut drawn = random.below(self.0.iter().map(|(_, weight)| weight).sum());
        for (act, weight) in self.0 {
            if drawn < weight {
                return act;
            }
            drawn -= weight;
        }
        Act::Round
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) options: CtrlrOptions,
    pub(super) weights: Weights,
    /// As drawn, before any was left out.
    pub(super) drawn: Faults,
    /// Those that the oracle knows of: all, but for a test that sees whether it notices the others.
    pub(super) told: Faults,
}

impl Setup {
    pub(super) fn draw(plan: &Plan) -> Self {
        let mut random = plan.random(Part::Setup);
        let random = &mut random;
        let mut config = config(random);
        let mut options = CtrlrOptions {
            ring_slots: 2 << random.below(5),
            admin_queue_entries: [8, 9, 16, 32][random.below(4) as usize],
            external_queue_entries: [2, 3, 8, 16][random.below(4) as usize],
            io_queues: [1, 3, 4, 6, 6][random.below(5) as usize],
            max_transfer_bytes: 64 << 10,
            admin_timeout: ADMIN_TIMEOUT,
            dma: DmaOptions { block_bytes: 256 << 10, huge_pages: false },
            ..CtrlrOptions::default()
        };
        let weights = weights(random);
        let mut drawn = faults(random);
        // Last, so that what seeds meant before they still mean.
        if one_in(random, 3) {
            options.timeouts = timeouts(random);
        }
        if one_in(random, 3) {
            options.retries = 1 + random.below(3) as u8;
            config.crdt = [1, 1 + random.below(5) as u16, random.below(50) as u16];
            drawn = with_delays(random, &drawn);
        }
        if one_in(random, 3) {
            config.nssr = Some(Duration::from_micros(random.below(3) * random.below(20_000)));
            options.timeouts.subsystem_reset = one_in(random, 2);
        }
        let kept = drawn.list().iter().enumerate().filter(|(place, _)| !plan.without.contains(place));
        config.faults = kept.map(|(_, fault)| fault.clone()).collect::<Vec<_>>().into();
        let told = config.faults.clone();
        Self { config, options, weights, drawn, told }
    }
}

/// The same faults, of which those that leave hope say when.
fn with_delays(random: &mut Random, faults: &Faults) -> Faults {
    let with_delay = |fault: &Fault| match fault.effect {
        Effect::Status(status) if !status.dnr() => {
            let status = status.with_crd(random.below(4) as u8);
            Fault { effect: Effect::Status(status), ..fault.clone() }
        }
        _ => fault.clone(),
    };
    faults.list().iter().map(with_delay).collect::<Vec<_>>().into()
}

/// Short ones, that commands which are lost meet.
fn timeouts(random: &mut Random) -> Timeouts {
    let millis = |random: &mut Random| Duration::from_millis(200 + random.below(800));
    let actions = [TimeoutAction::Report, TimeoutAction::Abort, TimeoutAction::Abort, TimeoutAction::Reset];
    Timeouts {
        io: millis(random),
        admin: millis(random),
        abort: millis(random),
        action: actions[random.below(4) as usize],
        resets_per_minute: random.below(4) as u32,
        ..Timeouts::default()
    }
}

fn one_in(random: &mut Random, many: u64) -> bool {
    random.below(many) == 0
}

fn config(random: &mut Random) -> Config {
    let namespace =
        NamespaceConfig { size_bytes: BLOCKS * BLOCK_BYTES as u64, lba_bytes: 512, backing: Backing::Ram };
    let micros = |random: &mut Random, most| Duration::from_micros(random.below(most));
    let mut latencies = Vec::new();
    if one_in(random, 2) {
        let delay = micros(random, 300);
        latencies.push(Latency { queue: QueueKind::Io, opcode: None, delay });
        let delay = micros(random, 300);
        latencies.push(Latency { queue: QueueKind::Io, opcode: Some(NvmOpcode::READ.0), delay });
    }
    if one_in(random, 4) {
        let delay = micros(random, 1000);
        latencies.push(Latency { queue: QueueKind::Admin, opcode: None, delay });
    }
    Config {
        namespaces: vec![namespace],
        mdts: [0, 1, 2, 5][random.below(4) as usize],
        mqes: [2, 3, 8, 16, 64, 64][random.below(6) as usize],
        io_queues: [1, 2, 4, 4, 8][random.below(5) as usize],
        dstrd: [0, 3, 4][random.below(3) as usize],
        timeout: READY_TIMEOUT,
        ready_delay: if one_in(random, 4) { micros(random, 2000) } else { Duration::ZERO },
        shutdown_delay: if one_in(random, 4) { micros(random, 2000) } else { Duration::ZERO },
        version: [0x0001_0000, 0x0001_0200, 0x0001_0400, 0x0002_0000][random.below(4) as usize],
        async_events: 1 + random.below(6) as u16,
        nn: 4,
        latencies,
        ..Config::default()
    }
}

fn weights(random: &mut Random) -> Weights {
    // Some worlds have a slow device, a poller that hardly comes by, or an owner that does not look.
    let busy = |random: &mut Random| [30, 30, 30, 100, 4][random.below(5) as usize];
    let rare = |random: &mut Random| [0, 0, 1, 1, 3][random.below(5) as usize];
    Weights([
        (Act::Round, [10, 40, 3][random.below(3) as usize]),
        (Act::Device, busy(random)),
        (Act::Poll, busy(random)),
        (Act::PollLanes, busy(random)),
        (Act::Io, [30, 60, 5][random.below(3) as usize]),
        (Act::Message, [20, 40, 2, 0][random.below(4) as usize]),
        (Act::Collect, 5),
        (Act::Time, 10),
        (Act::Registrations, [1, 3, 10][random.below(3) as usize]),
        (Act::Owners, [1, 3, 8][random.below(3) as usize]),
        (Act::Reset, rare(random)),
        (Act::Event, rare(random)),
        (Act::Detach, u64::from(one_in(random, 3))),
        (Act::Remove, u64::from(one_in(random, 16))),
    ])
}

/// None in some worlds, and up to four in the others.
fn faults(random: &mut Random) -> Faults {
    let count = [0, 0, 1, 1, 2, 4][random.below(6) as usize];
    (0..count).map(|_| fault(random)).collect::<Vec<_>>().into()
}

fn fault(random: &mut Random) -> Fault {
    let first = 1 + random.below(60);
    let nth = first..=first + [0, 0, 0, 2][random.below(4) as usize];
    match random.below(20) {
        0 => Fault { nth: 1..=1 + random.below(2), ..Fault::new(Effect::NeverReady) },
        1 => Fault { nth: 1..=1 + random.below(2), ..Fault::new(Effect::NeverStops) },
        2 => Fault::new(Effect::NeverShutsDown),
        3 => {
            // Only the first: whatever else Identify returns would make the oracle's own namespace another.
            let effect = Effect::Corrupt(random.below(4096) as u32);
            let opcode = Some(AdminOpcode::IDENTIFY.0);
            Fault { queue: OnQueue::Admin, opcode, nth: 1..=1, ..Fault::new(effect) }
        }
        4 => {
            let effect = Effect::Corrupt(random.below(512) as u32);
            Fault {
                queue: OnQueue::Admin,
                opcode: Some(AdminOpcode::GET_LOG_PAGE.0),
                nth,
                ..Fault::new(effect)
            }
        }
        5..=9 => {
            Fault { queue: OnQueue::Admin, opcode: admin_opcode(random), nth, ..Fault::new(effect(random)) }
        }
        _ => Fault { queue: OnQueue::Io, opcode: io_opcode(random), nth, ..Fault::new(effect(random)) },
    }
}

fn effect(random: &mut Random) -> Effect {
    match random.below(20) {
        0..=2 => Effect::Hang,
        3..=5 => Effect::Drop,
        6..=8 => Effect::Delay(Duration::from_micros(1 + random.below(5000))),
        9 => Effect::WrongCid,
        10 => Effect::Repeat,
        11 => Effect::StalePhase,
        12 => Effect::WrongSqHead,
        13..=15 => {
            let any = [
                Status::INTERNAL_ERROR,
                Status::INVALID_FIELD.with_dnr(),
                Status::ABORTED_SQ_DELETION,
                Status::ABORTED_BY_REQUEST,
                Status::UNRECOVERED_READ_ERROR,
                Status::NAMESPACE_NOT_READY,
            ];
            Effect::Status(any[random.below(any.len() as u64) as usize])
        }
        16 => Effect::Fatal,
        17 => Effect::Remove,
        18 => Effect::RegistersOnes,
        _ => Effect::RegistersZero,
    }
}

fn admin_opcode(random: &mut Random) -> Option<u8> {
    let any = [
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::DELETE_IO_SQ,
        AdminOpcode::DELETE_IO_CQ,
        AdminOpcode::IDENTIFY,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::ASYNC_EVENT_REQUEST,
    ];
    any.get(random.below(any.len() as u64 + 3) as usize).map(|opcode| opcode.0)
}

fn io_opcode(random: &mut Random) -> Option<u8> {
    let any = [NvmOpcode::READ, NvmOpcode::WRITE, NvmOpcode::FLUSH, NvmOpcode::WRITE_ZEROES];
    any.get(random.below(any.len() as u64 + 2) as usize).map(|opcode| opcode.0)
}

/// Whether a controller may fail after it has met this fault.
pub(super) fn may_break(fault: &Fault) -> bool {
    match fault.effect {
        Effect::Delay(_) => false,
        // What an I/O command is answered is its owner's business.
        Effect::Status(_) | Effect::Corrupt(_) => fault.queue != OnQueue::Io,
        _ => true,
    }
}

/// Whether a request may be answered with an error, or a message refused, after this fault was met.
pub(super) fn may_refuse(fault: &Fault) -> bool {
    !matches!(fault.effect, Effect::Delay(_))
}
