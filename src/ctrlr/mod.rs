//! `ctrlr`: the controller. Messages, bring-up, namespaces, admin calls, registration, reset, detach.
//!
//! | file | what |
//! |---|---|
//! | [`state`], [`seat`], [`qpair_slot`] | the state machines: controller, poller's seat, queue pair hand-over |
//! | [`message`], [`producer`], [`admin`] | what other threads ask, and how |
//! | [`control`] | registration and the rings on their way out |
//! | [`core`], [`turn`] | what one thread at a time may touch, and executes messages |
//! | [`phases`] | what the core is in the middle of, and how it gets on |
//! | [`recovery`], [`watchdog`] | commands that take too long, and controllers that break |
//! | [`aborts`] | messages that are taken back by message |
//! | [`retry`], [`resubmission`] | commands that are sent again |
//! | [`bring_up`], [`takedown`], [`rescan`], [`events`], [`connect`] | what the core is driven through, in steps that never wait |
//! | [`wait`] | how long each of these steps is waited for |
//! | [`subscription`] | asynchronous events for everybody who wants them |
//! | [`keep_alive`] | telling the controller that somebody is there |
//! | [`interrupts`] | waiting instead of spinning |
//! | [`attach`], [`detach`] | beginning and end |
//!
//! A poller is made from a controller; a controller does not know that pollers exist, only that its core is in the seat or is not.
#![forbid(unsafe_code)]

mod aborts;
pub mod admin;
mod attach;
mod bring_up;
mod connect;
mod control;
mod core;
mod detach;
mod events;
mod execute;
mod hub;
mod interrupts;
mod keep_alive;
mod message;
mod namespace;
mod options;
mod passthru;
mod phases;
mod producer;
mod qpair_slot;
mod recovery;
mod registers;
mod rescan;
mod reset;
mod resubmission;
mod retry;
mod seat;
mod state;
mod statistics;
mod subscription;
mod takedown;
#[cfg(test)]
mod tests;
mod turn;
mod wait;
mod watchdog;

pub use admin::{AdminCall, CallError, PendingCall};
pub use attach::{Attach, AttachError};
pub use control::{RegisterError, UnregisterError};
pub use detach::{Detach, DetachError, WaitsFor};
pub use hub::Limits;
pub use message::{Call, ConnectRequest, Message, Refusal, Reply};
pub use namespace::{Namespace, Unsupported};
pub use options::{ControllerEvent, CtrlrOptions, EventAnswer, OnEvent, TimeoutAction, Timeouts};
pub use producer::{Producer, SendError, SendErrorReason};
pub use reset::{Queued, Reset, ResetError};
pub use seat::Stalled;
pub use state::{CtrlrState, Failure};
pub use statistics::CtrlrStatistics;
pub use subscription::{EventReport, Subscription};
pub use turn::Turn;

pub(crate) use bring_up::io_pair;
pub(crate) use connect::QpairSlot;
pub(crate) use control::{Pause, Shared};
pub(crate) use hub::{Hub, attention};
pub(crate) use message::{Envelope, Responder};
pub(crate) use qpair_slot::{QueueMemory, SlotState};
pub(crate) use recovery::{Plea, verdict};
pub(crate) use retry::{Keeper, Kept, Policy};
pub(crate) use seat::Seated;
pub(crate) use watchdog::{Late, Watchdog};

use crate::dma::{DmaBuffer, DmaError};
use crate::ring::{LockFree, Scheme};
use crate::spec::identify::IdentifyCtrlr;
use crate::transport::Transport;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long the drop of a controller that was not detached waits for a sender in the middle of a send.
const LAST_SEND: Duration = Duration::from_secs(1);

/// One attached controller. Clones are handles to the same one; any thread may use them.
///
/// To be polled, it needs a [`crate::poller::Poller`]. Dropping the last handle without [`Ctrlr::detach`] stops the device at once, without a shutdown
/// notification, as a power loss would.
pub struct Ctrlr<S: Scheme = LockFree>(pub(crate) Arc<Shared<S>>);

impl<S: Scheme> Clone for Ctrlr<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: Scheme> Ctrlr<S> {
    /// Brings the controller behind `transport` up and returns it ready for commands.
    ///
    /// Blocks; each of its waits is bounded by what the controller promises (CAP.TO) or by [`CtrlrOptions::admin_timeout`].
    pub fn attach(transport: Arc<dyn Transport>, options: CtrlrOptions) -> Result<Self, AttachError> {
        Attach::begin(transport, options)?.wait()
    }

    /// As [`Ctrlr::attach`], in steps.
    pub fn begin_attach(
        transport: Arc<dyn Transport>,
        options: CtrlrOptions,
    ) -> Result<Attach<S>, AttachError> {
        Attach::begin(transport, options)
    }

    /// Registers a producer under `name`. The first one publishes the message ring. During a reset it works, and its messages are served after it.
    pub fn register(&self, name: &str) -> Result<Producer<S>, RegisterError> {
        self.0.register(name)
    }

    /// Unregisters `name`: sends of its producers (and their clones) are refused from now on. The last one closes the ring; then this waits, at most for
    /// `timeout`, until the poller has left it and everything in it is answered.
    pub fn unregister(&self, name: &str, timeout: Duration) -> Result<(), UnregisterError> {
        self.0.unregister(name, timeout)
    }

    /// Detaches: when it returns, nobody is in the ring or can add to it, every outcome is delivered, the device has stopped, its memory is unmapped.
    ///
    /// Any thread may call it, several at once; not from inside a message or completion (on the polling thread use
    /// [`crate::poller::Poller::detach`]). Past `timeout` it says what it waits for, has lost nothing, and can be called again.
    pub fn detach(&self, timeout: Duration) -> Result<(), DetachError> {
        Detach::begin(&self.0, timeout)?.wait(timeout)
    }

    /// As [`Ctrlr::detach`], in steps; `timeout` only says how much time the device may be given for a goodbye (half of it).
    pub fn begin_detach(&self, timeout: Duration) -> Result<Detach<S>, DetachError> {
        Detach::begin(&self.0, timeout)
    }

    /// Asks for a controller reset, which the poller drives. Any thread may call it; what is returned waits for the end.
    ///
    /// Messages in flight are aborted, those in the ring wait (see [`Ctrlr::reset_with`]). Queue pairs get their requests back once the device has stopped, and reconnect.
    pub fn reset(&self) -> Result<Reset, ResetError> {
        Reset::ask(&self.0.hub, Queued::Wait)
    }

    /// As [`Ctrlr::reset`], with a choice of what becomes of messages that are queued meanwhile.
    pub fn reset_with(&self, queued: Queued) -> Result<Reset, ResetError> {
        Reset::ask(&self.0.hub, queued)
    }

    /// Asks for a reset of the whole NVM subsystem (NSSR), where the controller has it ([`Limits::nssrs`]); [`ResetError::NoSubsystemReset`] if not. It ends every
    /// controller of the subsystem, those of other drivers too, and the device may be away from its bus for a while.
    ///
    /// For this controller it is as [`Ctrlr::reset`], but that it is first told of a shutdown, where it can hear of it, for what may lie in its caches.
    pub fn reset_subsystem(&self) -> Result<Reset, ResetError> {
        Reset::ask_subsystem(&self.0.hub)
    }

    /// Subscribes to the controller's asynchronous events (health, namespaces, firmware), from now on. Every subscriber gets all of them, each with how often
    /// it came; that of a change of namespaces when they were read anew.
    pub fn subscribe(&self) -> Subscription {
        self.0.hub.subscribe()
    }

    /// What the controller is doing.
    pub fn state(&self) -> CtrlrState {
        self.0.hub.state.get()
    }

    /// Why it failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.0.hub.state.failure().cloned()
    }

    /// The address that it was attached by.
    pub fn address(&self) -> String {
        self.0.hub.transport.address()
    }

    /// The active namespaces, as last read.
    pub fn namespaces(&self) -> Arc<Vec<Namespace>> {
        self.0.hub.namespaces.load_full()
    }

    /// Namespace `nsid`, as last read.
    pub fn namespace(&self, nsid: u32) -> Option<Namespace> {
        self.0.hub.namespaces.load().iter().find(|namespace| namespace.nsid == nsid).copied()
    }

    /// What Identify Controller said at the last bring-up. `None` only if it never answered.
    pub fn identity(&self) -> Option<Arc<IdentifyCtrlr>> {
        self.0.hub.identity.load_full()
    }

    /// Transfer, page and queue limits.
    pub fn limits(&self) -> Option<Limits> {
        self.0.hub.limits.load_full().map(|limits| *limits)
    }

    /// DMA memory that the controller can reach, zeroed. See [`crate::dma::DmaSpace::allocate`].
    pub fn allocate(&self, len: usize) -> Result<DmaBuffer, DmaError> {
        self.0.hub.dma.allocate(len)
    }

    /// DMA memory in use and mapped, in bytes.
    pub fn dma_bytes(&self) -> (usize, usize) {
        (self.0.hub.dma.bytes_allocated(), self.0.hub.dma.bytes_mapped())
    }

    /// The counters, as of now.
    pub fn statistics(&self) -> CtrlrStatistics {
        self.0.hub.read_statistics()
    }
}

impl<S: Scheme> Drop for Shared<S> {
    /// Nobody polls any more and nobody detaches: no more messages are taken, and those that were taken get their outcomes.
    fn drop(&mut self) {
        self.hub.state.advance(CtrlrState::Detaching);
        self.close_for_detach();
        if let Some(seated) = self.seat.take() {
            let Seated { core, receiver } = *seated;
            drop(receiver);
            core.abandon();
        }
        // The reader has left; only a sender in the middle of a send can hold this up.
        let mut pause = Pause::new(LAST_SEND);
        while !self.settle(None) && pause.take() {}
    }
}

impl<S: Scheme> fmt::Debug for Ctrlr<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ctrlr").field("hub", &self.0.hub).field("scheme", &S::NAME).finish()
    }
}
