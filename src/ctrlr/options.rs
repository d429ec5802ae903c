//! What an embedder may choose when it attaches a controller.
#![forbid(unsafe_code)]

use super::state::Failure;
use crate::dma::DmaOptions;
use crate::ring::inside::{InsidePoll, contain_panic};
use crate::spec::command::AdminOpcode;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Something that happened to a controller.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ControllerEvent {
    /// The system wants the device back (an orderly unplug, `unbind`, sysfs `remove`), and waits until it is given up. Repeated while it waits.
    RemoveRequested,
    /// A command takes too long; what [`Timeouts::action`] says follows, unless the handler objects: then it is left alone, and told again after the same
    /// time. Of a queue pair's command, its owner's thread is told, while it polls.
    TimedOut {
        /// The queue: 0 is the admin queue, 1 that of messages.
        qid: u16,
        /// The command's identifier.
        cid: u16,
        /// Its opcode.
        opcode: u8,
        /// How long it has been outstanding, at least.
        waited: Duration,
    },
    /// The driver begins a reset by itself, for this reason; if it is that of a reset which failed, one of the subsystem
    /// ([`Timeouts::subsystem_reset`]). If the handler objects, the controller fails instead.
    Recovering(Failure),
    /// The controller failed, or is gone. Its device is stopped and its descriptor closed without anybody's doing; only detaching is left.
    Failed(Failure),
}

/// How long commands may take, and what follows when one takes longer. Times are counted while the queue pair is polled, in milliseconds, up to an
/// hour; longer ones are never over. A command is found late by up to an eighth of the shortest of them, or a second, and never too early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// I/O commands, of queue pairs and of messages.
    pub io: Duration,
    /// Admin commands of messages.
    pub admin: Duration,
    /// Those admin commands that take minutes: format, sanitize, self-test, firmware, namespace management.
    pub slow_admin: Duration,
    /// An Abort, and what it was to abort; past it the controller is reset.
    pub abort: Duration,
    /// What is done about a command that takes too long.
    pub action: TimeoutAction,
    /// How many resets the driver begins by itself (for a command that could not be aborted, one of its own that is stuck, a fatal status) within a minute;
    /// one more such reason, and the controller has failed.
    pub resets_per_minute: u32,
    /// Whether a controller reset that fails, whoever began it, is followed by a reset of the NVM subsystem where there is one ([`super::Limits::nssrs`]), before
    /// the controller has failed. It ends every controller of the subsystem, those of other drivers too, so that only the embedder can know.
    pub subsystem_reset: bool,
}

/// What is done about a command that takes too long, if the embedder does not object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeoutAction {
    /// The embedder is told, each time that the command's time is over, and nothing else.
    Report,
    /// It is aborted; if that does not help, the controller is reset.
    #[default]
    Abort,
    /// The controller is reset.
    Reset,
}

impl Default for Timeouts {
    /// 30 s for I/O, 60 s for an admin command, 15 minutes for a slow one, 5 s for an Abort; late commands are aborted; three resets a minute, none of them of
    /// the subsystem.
    fn default() -> Self {
        Self {
            io: Duration::from_secs(30),
            admin: Duration::from_secs(60),
            slow_admin: Duration::from_secs(15 * 60),
            abort: Duration::from_secs(5),
            action: TimeoutAction::default(),
            resets_per_minute: 3,
            subsystem_reset: false,
        }
    }
}

impl Timeouts {
    /// How often to look.
    pub(crate) fn period(&self) -> Duration {
        let shortest = self.io.min(self.admin).min(self.slow_admin).min(self.abort);
        (shortest / 8).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    /// How long an admin command of a message may take.
    pub(crate) fn of_admin(&self, opcode: u8) -> Duration {
        match AdminOpcode(opcode) {
            AdminOpcode::FORMAT_NVM
            | AdminOpcode::SANITIZE
            | AdminOpcode::DEVICE_SELF_TEST
            | AdminOpcode::FIRMWARE_COMMIT
            | AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD
            | AdminOpcode::NAMESPACE_MANAGEMENT => self.slow_admin,
            _ => self.admin,
        }
    }
}

/// What [`CtrlrOptions::keep_alive_timeout`] may be: one unit of KAS, to what the timer's field holds.
const KEEP_ALIVE_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_millis(u32::MAX as u64);

/// What follows an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventAnswer {
    /// What the driver does by itself: after [`ControllerEvent::RemoveRequested`] it detaches.
    #[default]
    Proceed,
    /// The embedder sees to it: after [`ControllerEvent::RemoveRequested`] nothing is detached.
    Object,
}

/// What is told of events; see [`CtrlrOptions::on_event`].
#[derive(Clone)]
pub struct OnEvent(Arc<dyn Fn(&ControllerEvent) -> EventAnswer + Send + Sync>);

impl OnEvent {
    /// Has `handler` told.
    pub fn new(handler: impl Fn(&ControllerEvent) -> EventAnswer + Send + Sync + 'static) -> Self {
        Self(Arc::new(handler))
    }
}

impl fmt::Debug for OnEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEvent")
    }
}

/// Options of one controller. `CtrlrOptions::default()` suits most.
#[derive(Clone, Debug)]
pub struct CtrlrOptions {
    /// Slots of the message ring: a power of two from 2 to 65,536. 128 bytes each.
    pub ring_slots: usize,
    /// Entries of the admin queues: 8 to 4,096. Two to six of them are kept by asynchronous event requests and internal commands.
    pub admin_queue_entries: u16,
    /// Entries of the external queue pair, on which I/O messages run: 2 to 65,535, and no more than the controller has; or 0 for none: I/O messages are refused
    /// ([`super::Refusal::NoIoQueue`]), and all of the controller's queue pairs are the embedder's, which matters where it has one only.
    pub external_queue_entries: u16,
    /// I/O queue pairs to ask the controller for, the external one included if there is to be one: 1 to 1,024.
    pub io_queues: u16,
    /// The longest transfer of one command, in bytes: 4,096 to 32 MiB, as far as the controller takes it (MDTS). For each command that may be in flight,
    /// PRP lists for that much are set aside, a five-hundredth of it; memory that no transfer needed is never touched.
    pub max_transfer_bytes: usize,
    /// How long an admin command of bring-up or detach may take.
    pub admin_timeout: Duration,
    /// How often the poller looks whether the controller is still there and well (CSTS), and whether the system wants it back.
    pub watch_period: Duration,
    /// Whether to connect the controller's interrupts, so that [`crate::poller::Poller::wait`] and [`crate::poller::QueuePair::wait`] can sleep. Polling goes on as
    /// before; a sender pays a fence a message. Refused where the device has none.
    pub interrupts: bool,
    /// How long commands may take, and what follows.
    pub timeouts: Timeouts,
    /// How long the controller waits for a sign of life before it takes the driver for dead and stops (CSTS.CFS): 100 ms to 49 days, rounded up by the
    /// controller to its granularity (KAS). The poller sends a Keep Alive each half of it, from its first poll on; whoever then stops polling for that long finds
    /// the controller fatal, and has it reset. Refused where the controller has none. `None`, the default, suits PCIe, where it is the bus that tells a
    /// controller that its host has gone, and a host that was only asleep would cost a reset.
    pub keep_alive_timeout: Option<Duration>,
    /// How often a command that fails with a status that leaves hope (DNR is 0) is sent again before its owner sees that status: 0 to 255. Each try waits as
    /// long as the controller asks (CRD), and none begins past the command's time limit ([`Timeouts`]); those whose end was wanted, and those that were late, are
    /// not sent again. For messages, requests of queue pairs and the driver's own commands.
    pub retries: u8,
    /// Told what happens to the controller, on the polling thread, where it must not wait; its answer decides what follows. Without one, a
    /// controller that is asked back is detached.
    pub on_event: Option<OnEvent>,
    /// How long the detach may take that follows when the system wants the device back.
    pub removal_timeout: Duration,
    /// Where DMA memory comes from.
    pub dma: DmaOptions,
}

impl Default for CtrlrOptions {
    /// A ring of 1,024 slots, 32 admin entries, 64 external entries, up to 64 I/O queue pairs, transfers of 1 MiB, 30 s for an admin command, a look at
    /// CSTS each 100 ms, no keep-alive, no retries.
    fn default() -> Self {
        Self {
            ring_slots: 1024,
            admin_queue_entries: 32,
            external_queue_entries: 64,
            io_queues: 64,
            max_transfer_bytes: 1 << 20,
            admin_timeout: Duration::from_secs(30),
            watch_period: Duration::from_millis(100),
            interrupts: false,
            timeouts: Timeouts::default(),
            keep_alive_timeout: None,
            retries: 0,
            on_event: None,
            removal_timeout: Duration::from_secs(10),
            dma: DmaOptions::default(),
        }
    }
}

impl CtrlrOptions {
    /// Tells the embedder of an event. A handler that panics has no objection.
    pub(crate) fn tell(&self, event: &ControllerEvent) -> EventAnswer {
        let Some(OnEvent(handler)) = &self.on_event else { return EventAnswer::Proceed };
        let _inside = InsidePoll::enter();
        contain_panic(|| handler(event)).unwrap_or_default()
    }

    /// Whether messages get an I/O queue pair of their own.
    pub(super) fn has_external_queue(&self) -> bool {
        self.external_queue_entries != 0
    }

    /// Checks the ranges; the error says which one was left, and what is allowed.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.ring_slots.is_power_of_two() || !(2..=65_536).contains(&self.ring_slots) {
            return Err(format!(
                "ring_slots is {}: a power of two from 2 to 65536 is needed",
                self.ring_slots
            ));
        }
        if !(8..=4096).contains(&self.admin_queue_entries) {
            return Err(format!(
                "admin_queue_entries is {}: 8 to 4096 are allowed",
                self.admin_queue_entries
            ));
        }
        if let Some(timeout) = self.keep_alive_timeout {
            if !KEEP_ALIVE_RANGE.contains(&timeout) {
                return Err(format!(
                    "keep_alive_timeout is {timeout:?}: 100 ms to 4294967295 ms are allowed, or none"
                ));
            }
            if self.admin_queue_entries < 9 {
                return Err(format!(
                    "admin_queue_entries is {}: with keep_alive_timeout, which keeps one for itself, 9 to 4096 are allowed",
                    self.admin_queue_entries
                ));
            }
        }
        if self.external_queue_entries == 1 {
            return Err(
                "external_queue_entries is 1: 2 or more are needed, or 0 for no external queue pair".into()
            );
        }
        if !(1..=1024).contains(&self.io_queues) {
            return Err(format!("io_queues is {}: 1 to 1024 are allowed", self.io_queues));
        }
        if !(4096..=32 << 20).contains(&self.max_transfer_bytes) {
            return Err(format!(
                "max_transfer_bytes is {}: 4096 to 33554432 are allowed",
                self.max_transfer_bytes
            ));
        }
        Ok(())
    }
}
