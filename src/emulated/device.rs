//! `Device`: the controller itself, and its step: look at CC, at the doorbells, serve commands, post completions.
//! What single commands do is in `admin` and `io`; what follows from CC in `control`.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Config, ConfigError, Latency, QueueKind};
use super::control::State;
use super::events::Events;
use super::faults::{Mischief, Plan};
use super::features::Features;
use super::keep_alive::KeepAlive;
use super::logs::Logs;
use super::namespace::Namespace;
use super::prp::HostMemory;
use super::queues::{Cq, Sq};
use super::registers::Control;
use super::thread::DeviceThread;
use super::transport::EmulatedTransport;
use crate::spec::status::Status;

/// Commands of one submission queue that are served before the next queue has its turn.
const BURST: usize = 32;
/// Bytes that an image or a log page is copied through.
const SCRATCH_BYTES: usize = 256 * 1024;

/// What a command came to: dword 0 of its completion, or the status that it failed with.
pub(super) type Reply = Result<u32, Status>;

/// Delays by queue kind and opcode.
#[derive(Debug)]
struct Delays {
    by_opcode: Box<[[Duration; 256]; 2]>,
    /// None is set: there is no need to look at a clock.
    none: bool,
}

impl Delays {
    fn new(latencies: &[Latency]) -> Self {
        let mut by_opcode = Box::new([[Duration::ZERO; 256]; 2]);
        for latency in latencies {
            let delays = &mut by_opcode[usize::from(latency.queue == QueueKind::Io)];
            match latency.opcode {
                Some(opcode) => delays[usize::from(opcode)] = latency.delay,
                None => delays.fill(latency.delay),
            }
        }
        let none = by_opcode.iter().flatten().all(Duration::is_zero);
        Self { by_opcode, none }
    }

    #[inline]
    fn of(&self, qid: u16, opcode: u8) -> Duration {
        if self.none { Duration::ZERO } else { self.by_opcode[usize::from(qid != 0)][usize::from(opcode)] }
    }
}

/// An NVMe controller: the far side of an [`EmulatedTransport`].
///
/// It does nothing by itself. Either a test calls [`step`](Self::step), and everything happens in a known order, or
/// [`spawn`](Self::spawn) gives it a thread that does so.
#[derive(Debug)]
pub struct Device {
    pub(super) transport: Arc<EmulatedTransport>,
    pub(super) config: Config,
    pub(super) state: State,
    /// CC and the count of resets that `state` follows.
    pub(super) control: Control,
    /// The admin queue is the first.
    pub(super) sqs: Vec<Sq>,
    /// By queue id.
    pub(super) cqs: Vec<Option<Cq>>,
    pub(super) memory: HostMemory,
    pub(super) namespaces: Vec<Namespace>,
    pub(super) features: Features,
    pub(super) logs: Logs,
    pub(super) events: Events,
    pub(super) keep_alive: KeepAlive,
    pub(super) scratch: Vec<u8>,
    /// By queue id: the submission queue exists.
    pub(super) sq_exists: Vec<bool>,
    /// The mappings with which the queues were found.
    pub(super) queues_generation: u64,
    /// Doorbells were rung while bus mastering is off, and that was said.
    pub(super) stalled_bus_master: bool,
    delays: Delays,
    /// What goes wrong by description; `None` when nothing does.
    pub(super) plan: Option<Plan>,
    /// What goes wrong with the command that is being executed.
    pub(super) mischief: Option<Mischief>,
    pub(super) held_sequence: u64,
    /// Which doorbell `patrol` looks at next: twice the queue id, and one more for the completion queue.
    pub(super) patrol: u16,
    /// Temperature and warnings as last seen.
    pub(super) health_seen: u32,
    /// The time given to `step_at`.
    given_now: Option<Instant>,
}

impl Device {
    pub(super) fn new(transport: Arc<EmulatedTransport>, config: Config) -> Result<Self, ConfigError> {
        let namespaces = (1..)
            .zip(&config.namespaces)
            .map(|(nsid, ns)| Namespace::new(nsid, ns))
            .collect::<Result<_, _>>()?;
        let mut cqs = Vec::new();
        cqs.resize_with(usize::from(config.io_queues) + 1, || None);
        let sq_exists = vec![false; cqs.len()];
        Ok(Self {
            state: State::Disabled,
            control: Control(0),
            sqs: Vec::with_capacity(cqs.len()),
            cqs,
            memory: HostMemory::new(transport.clone()),
            namespaces,
            features: Features::new(&config),
            logs: Logs::new(),
            events: Events::new(config.async_events),
            keep_alive: KeepAlive::default(),
            scratch: vec![0; SCRATCH_BYTES],
            sq_exists,
            queues_generation: 0,
            stalled_bus_master: false,
            delays: Delays::new(&config.latencies),
            plan: Plan::new(&config.faults),
            mischief: None,
            held_sequence: 0,
            patrol: 0,
            health_seen: transport.health.load(Ordering::Relaxed),
            given_now: None,
            transport,
            config,
        })
    }

    /// Does what is due, at most a bounded number of commands per queue, and returns how many things were done. With
    /// nothing to do it costs a few loads per queue.
    #[inline]
    pub fn step(&mut self) -> usize {
        self.given_now = None;
        self.run()
    }

    /// As [`step`](Self::step) at a moment of the caller's choice, which decides about latencies and delays. Moments must
    /// not go back.
    pub fn step_at(&mut self, now: Instant) -> usize {
        self.given_now = Some(now);
        self.transport.registers.set_now(now);
        self.run()
    }

    /// Runs the device on a thread of its own, pinned to `core` (a number as in `/proc/cpuinfo`) if one is given.
    ///
    /// # Errors
    /// Those of creating a thread, and [`std::io::ErrorKind::InvalidInput`] when the thread cannot be pinned to that core.
    pub fn spawn(self, core: Option<usize>) -> std::io::Result<DeviceThread> {
        DeviceThread::spawn(self, core)
    }

    /// Whether the transport was closed, so that there will never be anything to do.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether nobody but this device is left who could give it something to do.
    pub(super) fn is_abandoned(&self) -> bool {
        // One is the device's own, one `memory`'s.
        Arc::strong_count(&self.transport) == 2
    }

    pub(super) fn now(&self) -> Instant {
        self.given_now.unwrap_or_else(Instant::now)
    }

    /// The eventfd of a vector, if it is enabled.
    pub(super) fn vector(&self, vector: u16) -> Option<Arc<OwnedFd>> {
        if !self.transport.registers.are_interrupts_enabled() {
            return None;
        }
        let vectors = self.transport.vectors.lock().unwrap_or_else(PoisonError::into_inner);
        vectors.get(usize::from(vector)).cloned()
    }

    fn is_changing(&self) -> bool {
        use State::{Disabling, Enabling, Paused, ShuttingDown};
        matches!(self.state, Disabling(_) | Enabling(_) | ShuttingDown(_) | Paused(_))
    }

    #[inline]
    fn run(&mut self) -> usize {
        let control = self.transport.registers.control();
        let mut done = 0;
        if control != self.control || self.is_changing() {
            done += self.follow_control(control);
        }
        if self.state != State::Ready {
            return done + self.watch_stopped();
        }
        // By index: an admin command may add or remove queues behind the first.
        let mut index = 0;
        while let Some(sq) = self.sqs.get(index) {
            if sq.bell.is_rung(&self.transport.doorbells) || sq.has_entries() || self.is_due(sq) {
                done += self.serve(index);
            }
            index += 1;
        }
        if self.events.is_deliverable() {
            done += self.deliver_events();
        }
        if self.keep_alive.is_on() && self.is_given_up_by_host() {
            self.expire_keep_alive();
            done += 1;
        }
        done + self.patrol()
    }

    /// Whether a held command's time has come.
    #[inline]
    fn is_due(&self, sq: &Sq) -> bool {
        sq.held.peek().is_some_and(|held| held.due <= self.now())
    }

    /// While no commands are served: notices a driver that submits after a shutdown.
    fn watch_stopped(&mut self) -> usize {
        if self.state == State::ShutDown {
            let rung = self.sqs.iter_mut().find(|sq| sq.bell.is_rung(&self.transport.doorbells));
            if let Some(sq) = rung {
                sq.bell.take(&self.transport.doorbells);
                let qid = sq.qid;
                self.transport
                    .violations
                    .record(format!("the doorbell of submission queue {qid} was rung after the shutdown"));
                return 1;
            }
        }
        0
    }

    /// One turn of a submission queue.
    fn serve(&mut self, index: usize) -> usize {
        let taken = self.take_tail(index);
        if !self.memory.port.enter() {
            return self.stall_without_bus_master(taken);
        }
        if self.memory.port.generation != self.queues_generation && !self.find_queues_again() {
            self.memory.port.leave();
            return 1;
        }
        let mut done = usize::from(taken);
        let cqid = self.sqs[index].cqid;
        self.take_head(cqid);
        done += self.serve_held(index);
        for _ in 0..BURST {
            let sq = &mut self.sqs[index];
            if sq.head == sq.tail || self.state != State::Ready {
                break;
            }
            // A command is only fetched when its completion would find room.
            if self.cqs[usize::from(cqid)].as_ref().is_none_or(Cq::is_full) {
                break;
            }
            let command = sq.fetch();
            let (qid, opcode) = (sq.qid, command.opcode);
            done += 1;
            let delay = self.delays.of(qid, opcode);
            if self.plan.is_some() {
                self.serve_with_faults(index, &command, delay);
            } else if delay.is_zero() {
                self.execute(index, &command);
            } else {
                self.hold(index, command, delay, None);
            }
        }
        self.memory.port.leave();
        if let Some(cq) = &mut self.cqs[usize::from(cqid)] {
            cq.interrupt();
            cq.bell.mark(&self.transport.doorbells);
        }
        if let Some(sq) = self.sqs.get_mut(index) {
            sq.bell.mark(&self.transport.doorbells);
        }
        done
    }
}
