//! From arguments to workers: everything that can be wrong is found here, before the first I/O.
#![forbid(unsafe_code)]

use super::args::PerfArgs;
use super::lane::{Lane, Ledger, Source};
use super::worker::{Schedule, Tally, Worker};
use crate::device::{Address, Session};
use crate::error::Error;
use crate::identify;
use crate::latency::Clock;
use crate::numbers::{self, Random};
use crate::report::thousands;
use crate::{cores, report};
use slipring::ctrlr::{ControllerEvent, CtrlrOptions, EventAnswer, Namespace, OnEvent};
use slipring::poller::QpairOptions;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks that one command can transfer (NLB is a zero-based 16-bit field).
const MAX_COMMAND_BLOCKS: u64 = 65_536;
const MAX_IO_QUEUES: u64 = 1024;

/// What is to be done, checked.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) session: Session,
    pub(super) namespaces: Vec<Namespace>,
    /// The cores to pin to; none for one worker that is not pinned.
    pub(super) cores: Vec<usize>,
    pub(super) seed: u64,
    /// Blocks must be stamped before reading makes sense.
    pub(super) fills_first: bool,
    /// Set when the system wants the device back: then the run ends, and the device is given back once nothing is in flight.
    pub(super) asked_back: Arc<AtomicBool>,
}

impl Plan {
    /// Opens the device and checks `args` against it.
    pub(super) fn make(args: &PerfArgs) -> Result<Self, Error> {
        check_alone(args)?;
        let cores = args.core_mask.as_deref().map_or(Ok(Vec::new()), cores::parse)?;
        report::check_writable(args.json.as_deref())?;
        let address = Address::parse(&args.address)?;
        // A pinned worker's core is no place for the device's thread.
        let device_core = if cores.is_empty() { None } else { cores::other_than(&cores) };
        let workers = cores.len().max(1) as u64;
        let per_namespace = workers * u64::from(args.qpairs);
        let most = per_namespace * args.ns.map_or(address.namespaces(), |_| 1);
        let io_queues = most.min(MAX_IO_QUEUES) as u16;
        let asked_back = Arc::new(AtomicBool::new(false));
        let options = CtrlrOptions {
            io_queues: io_queues.max(1),
            // No message does I/O here.
            external_queue_entries: 0,
            interrupts: args.interrupts,
            on_event: Some(notice(&asked_back)),
            ..CtrlrOptions::default()
        };
        let mut session = Session::open(&address, device_core, options)?;
        let namespaces = choose(&mut session, args)?;
        let seed = args.seed.unwrap_or_else(|| if args.verify { 0 } else { numbers::fresh_seed() });
        let fills_first = args.verify && !args.pattern.writes() && session.device.is_volatile;
        let plan = Self { session, namespaces, cores, seed, fills_first, asked_back };
        plan.check(args, per_namespace)?;
        Ok(plan)
    }

    pub(super) fn workers(&self) -> usize {
        self.cores.len().max(1)
    }

    /// Whether the system wants the device back.
    pub(super) fn is_asked_back(&self) -> bool {
        // Relaxed: a flag, nothing more.
        self.asked_back.load(Ordering::Relaxed)
    }

    fn check(&self, args: &PerfArgs, per_namespace: u64) -> Result<(), Error> {
        let limits =
            self.session.ctrlr.limits().ok_or_else(|| Error::failed("the controller has no limits"))?;
        let deepest = limits.max_queue_entries - 1;
        if args.queue_depth > deepest {
            return Err(Error::input(format!(
                "queue depth {} is over the limit: this controller's queues hold 1 to {deepest} (-q)",
                args.queue_depth
            )));
        }
        let most = limits.max_transfer_bytes as u64;
        if args.io_size == 0 || args.io_size > most {
            return Err(Error::input(format!(
                "I/O size {} is out of range: this controller transfers 1 block to {most} bytes at a time (-o)",
                args.io_size
            )));
        }
        let wanted = per_namespace * self.namespaces.len() as u64;
        let there_are = u64::from(limits.io_queues);
        if wanted > there_are {
            return Err(Error::input(format!(
                "{wanted} queue pairs are needed, and this controller grants {there_are}: expected a smaller -P, fewer \
                 cores, or one namespace (--ns)"
            )));
        }
        self.namespaces.iter().try_for_each(|namespace| check_namespace(args, namespace, per_namespace))
    }

    /// Makes the workers. The first one polls the controller too, once it is given the poller.
    pub(super) fn workers_for(&mut self, args: &PerfArgs, clock: &Clock) -> Result<Vec<Worker>, Error> {
        let count = self.workers();
        (0..count).map(|number| self.worker(args, clock, number, count)).collect()
    }

    fn worker(
        &mut self,
        args: &PerfArgs,
        clock: &Clock,
        number: usize,
        count: usize,
    ) -> Result<Worker, Error> {
        let mut lanes = Vec::new();
        for namespace in self.namespaces.clone() {
            for qpair in 0..u64::from(args.qpairs) {
                let place = number as u64 * u64::from(args.qpairs) + qpair;
                let places = count as u64 * u64::from(args.qpairs);
                lanes.push(self.lane(args, namespace, place, places)?);
            }
        }
        let schedule = args.rate.map(|rate| {
            let between_all = 1e9 / rate;
            Schedule { offset_ns: number as f64 * between_all, interval_ns: count as f64 * between_all }
        });
        let core = self.cores.get(number).copied();
        Ok(Worker {
            core,
            lanes,
            poller: None,
            schedule,
            clock: clock.clone(),
            waits: args.interrupts,
            tally: Tally::new(),
        })
    }

    /// The lane at `place` of `places` in `namespace`.
    fn lane(
        &mut self,
        args: &PerfArgs,
        namespace: Namespace,
        place: u64,
        places: u64,
    ) -> Result<Lane, Error> {
        let unit_blocks = args.io_size / u64::from(namespace.block_bytes);
        let all_units = namespace.size_blocks / unit_blocks;
        let first_unit = part(all_units, place, places);
        let units = part(all_units, place + 1, places) - first_unit;
        let mut source = Source::new(first_unit * unit_blocks, units, unit_blocks as u32);
        source.is_random = args.pattern.is_random();
        source.reads = match args.pattern {
            pattern if !pattern.writes() => 1 << 32,
            pattern if pattern.is_mixed() => (u64::from(args.read_share.unwrap_or(50)) << 32) / 100,
            _ => 0,
        };
        source.random =
            Random::new(numbers::mix(self.seed ^ numbers::mix(place << 32 | u64::from(namespace.nsid))));
        let unit_bytes = args.io_size as usize;
        let from_earlier_run = !args.pattern.writes() && !self.fills_first;
        let block_bytes = namespace.block_bytes as usize;
        let ledger =
            args.verify.then(|| Ledger::new(units, self.seed, from_earlier_run, unit_bytes, block_bytes));
        let entries = (args.queue_depth + 1).max(2);
        let qpair = self.session.poller.queue_pair(&QpairOptions { entries }).map_err(Error::failed)?;
        let mut buffers = Vec::with_capacity(args.queue_depth as usize);
        for _ in 0..args.queue_depth {
            let buffer = self.session.poller.allocate(unit_bytes).map_err(|error| {
                Error::input(format!("{error}; expected a smaller queue depth (-q) or I/O size (-o)"))
            })?;
            buffer.fill(0xa5);
            buffers.push(buffer);
        }
        Ok(Lane::new(qpair, namespace, buffers, source, ledger))
    }
}

/// Has a request to give the device back noted. It is given back at the end of the run, which follows at once; the driver's own way would cut off
/// what is in flight.
fn notice(asked_back: &Arc<AtomicBool>) -> OnEvent {
    let asked_back = Arc::clone(asked_back);
    OnEvent::new(move |event| {
        if *event != ControllerEvent::RemoveRequested {
            return EventAnswer::Proceed;
        }
        // Relaxed: a flag, nothing more.
        asked_back.store(true, Ordering::Relaxed);
        EventAnswer::Object
    })
}

/// What can be wrong without a look at the device.
fn check_alone(args: &PerfArgs) -> Result<(), Error> {
    if args.queue_depth == 0 {
        let _ = Address::parse(&args.address)?;
        return Err(Error::input(
            "queue depth 0 does nothing: expected 1 or more, up to what the controller's queues hold (-q)",
        ));
    }
    if args.read_share.is_some() && !args.pattern.is_mixed() {
        let name = args.pattern.name();
        return Err(Error::input(format!(
            "-M is for the patterns rw and randrw: expected no -M with {name}"
        )));
    }
    if args.time.is_zero() {
        return Err(Error::input("a time of 0 measures nothing: expected seconds above 0 (-t)"));
    }
    Ok(())
}

/// The namespaces to work on.
fn choose(session: &mut Session, args: &PerfArgs) -> Result<Vec<Namespace>, Error> {
    let chosen = session.namespaces(args.ns)?;
    for namespace in &chosen {
        let is_written = args.pattern.writes();
        if is_written && identify::is_write_protected(&*identify::namespace_data(session, namespace.nsid)?) {
            return Err(Error::input(format!(
                "namespace {} is read only and {} writes: expected a pattern that only reads (read, randread)",
                namespace.nsid,
                args.pattern.name()
            )));
        }
    }
    Ok(chosen)
}

fn check_namespace(args: &PerfArgs, namespace: &Namespace, lanes: u64) -> Result<(), Error> {
    let Namespace { nsid, block_bytes, size_blocks, .. } = *namespace;
    let blocks = args.io_size / u64::from(block_bytes);
    if !args.io_size.is_multiple_of(block_bytes.into()) || blocks > MAX_COMMAND_BLOCKS {
        return Err(Error::input(format!(
            "I/O size {} does not suit namespace {nsid}: expected a multiple of its {block_bytes} bytes per block (-o)",
            args.io_size
        )));
    }
    // The smallest part that any lane gets.
    let units = size_blocks / blocks / lanes;
    let least = if args.verify { u64::from(args.queue_depth) } else { 1 };
    if units < least {
        let room = thousands(units);
        return Err(Error::input(format!(
            "namespace {nsid} is too small: each of {lanes} queue pairs would have room for {room} I/Os of {} bytes: \
             expected {least} at least",
            args.io_size
        )));
    }
    if args.verify && units > u64::from(u32::MAX) {
        return Err(Error::input(format!(
            "namespace {nsid} is too large for --verify: {} I/Os per queue pair: expected a larger I/O size (-o), or more \
             queue pairs (-P)",
            thousands(units)
        )));
    }
    Ok(())
}

/// Where part `place` of `places` of `all` begins.
fn part(all: u64, place: u64, places: u64) -> u64 {
    (u128::from(all) * u128::from(place) / u128::from(places)) as u64
}
