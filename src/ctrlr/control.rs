//! The control side: registrations, and the rings that are on their way out. A plain mutex that neither `poll` nor `send` ever takes, and that is
//! never held across a wait or a callback.
#![forbid(unsafe_code)]

use super::hub::Hub;
use super::message::{Envelope, Message};
use super::producer::{Producer, Registration, SenderOf};
use super::seat::{Seat, Stalled};
use crate::ring::departures::{self, Departures};
use crate::ring::inside::is_inside_poll;
use crate::ring::scheme::{Channel, Gate, HeldOf};
use crate::ring::{AbortReason, Scheme};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

type GateOf<S> = <<S as Scheme>::Channel<Envelope> as Channel<Envelope>>::Gate;
type DeparturesOf<S> = Departures<<S as Scheme>::Channel<Envelope>, Envelope, AbortReason>;

/// All that the handles of one controller share.
pub(crate) struct Shared<S: Scheme> {
    pub(crate) hub: Arc<Hub>,
    /// What [`Shared::lock`] enters first.
    gate: GateOf<S>,
    control: Mutex<Control<S>>,
    pub(crate) seat: Seat<S>,
}

/// The control mutex, locked, behind the scheme's gate: in the schemes whose polls take a lock, that lock is held by control operations,
/// and nothing waits for the mutex while it holds the lock.
pub(super) struct Locked<'a, S: Scheme> {
    // Dropped in this order.
    control: MutexGuard<'a, Control<S>>,
    held: HeldOf<'a, S::Channel<Envelope>, Envelope>,
}

impl<S: Scheme> Deref for Locked<'_, S> {
    type Target = Control<S>;

    fn deref(&self) -> &Control<S> {
        &self.control
    }
}

impl<S: Scheme> DerefMut for Locked<'_, S> {
    fn deref_mut(&mut self) -> &mut Control<S> {
        &mut self.control
    }
}

/// What the control mutex protects.
pub(super) struct Control<S: Scheme> {
    channel: S::Channel<Envelope>,
    /// The published ring's sending end; `Some` exactly while there are registrations.
    sender: Option<SenderOf<S>>,
    registrations: Vec<Arc<Registration>>,
    /// Rings on their way out.
    departures: DeparturesOf<S>,
}

/// Why a name could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The name is taken.
    #[error(
        "'{name}' is already registered with this controller; unregister it first, or choose another name"
    )]
    AlreadyRegistered {
        /// The name.
        name: String,
    },
    /// The controller is detached, or being detached.
    #[error("the controller is detached; attach it again")]
    Detached,
}

/// Why a name was not unregistered, or not completely.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnregisterError {
    /// There is no such name.
    #[error("'{name}' is not registered with this controller")]
    NotRegistered {
        /// The name.
        name: String,
    },
    /// Called from inside a message or completion: the poller would wait for itself.
    #[error(
        "unregistering from inside a message or completion would wait for the poller that runs it; do it outside"
    )]
    InsidePoll,
    /// The name is unregistered and the ring closed, but somebody is still in it. What was accepted is answered by the next register, unregister or detach.
    #[error("unregistered, but its messages are not all answered yet: {0}")]
    Stalled(Stalled),
}

impl<S: Scheme> Shared<S> {
    pub(super) fn new(hub: Arc<Hub>, channel: S::Channel<Envelope>, seat: Seat<S>) -> Self {
        let control =
            Control { channel, sender: None, registrations: Vec::new(), departures: Departures::new() };
        let gate = Channel::<Envelope>::gate(&control.channel);
        Self { hub, gate, control: Mutex::new(control), seat }
    }

    pub(super) fn lock(&self) -> Locked<'_, S> {
        let held = self.gate.enter();
        // Nothing that can panic leaves the lists half-changed.
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        Locked { control, held }
    }

    pub(super) fn register(&self, name: &str) -> Result<Producer<S>, RegisterError> {
        self.answer_left();
        self.hub.sweep();
        let registration = Arc::new(Registration::new(name));
        let mut prepared = None;
        loop {
            let mut locked = self.lock();
            if self.hub.is_over() {
                return Err(RegisterError::Detached);
            }
            let Locked { control, held } = &mut locked;
            if control.registrations.iter().any(|registration| registration.name == name) {
                return Err(RegisterError::AlreadyRegistered { name: name.to_owned() });
            }
            let sender = match (&control.sender, prepared.take()) {
                (Some(sender), _) => sender.clone(),
                (None, Some(ring)) => control.channel.publish_held(held, ring),
                (None, None) => {
                    // Outside the lock, and then look again.
                    drop(locked);
                    prepared = Some(<S::Channel<Envelope>>::prepare(self.hub.options.ring_slots));
                    continue;
                }
            };
            control.sender = Some(sender.clone());
            control.registrations.push(Arc::clone(&registration));
            drop(locked);
            return Ok(Producer::new(sender, registration, Arc::clone(&self.hub)));
        }
    }

    pub(super) fn unregister(&self, name: &str, timeout: Duration) -> Result<(), UnregisterError> {
        if is_inside_poll() {
            return Err(UnregisterError::InsidePoll);
        }
        let closed = self.close(name);
        let Ok(Some(number)) = closed else {
            self.answer_left();
            return closed.map(drop);
        };
        let mut pause = Pause::new(timeout);
        // By its own number: the rings that are left may be later ones.
        while !self.settle(Some(number)) {
            if !pause.take() {
                return Err(UnregisterError::Stalled(self.hub.reader.stalled(self.hub.epoch)));
            }
        }
        Ok(())
    }

    /// Ends a registration; the number of the ring that goes with it if it was the last one.
    fn close(&self, name: &str) -> Result<Option<u64>, UnregisterError> {
        let Locked { control, held } = &mut self.lock();
        let place = control.registrations.iter().position(|registration| registration.name == name);
        let Some(place) = place else {
            return Err(UnregisterError::NotRegistered { name: name.to_owned() });
        };
        control.registrations.swap_remove(place).close();
        let is_last = control.registrations.is_empty();
        Ok(if is_last { control.retire(held, AbortReason::Unregistered) } else { None })
    }

    /// Closes everything for good: no registration is left and none will come.
    pub(super) fn close_for_detach(&self) {
        let mut control = self.lock();
        for registration in control.registrations.drain(..) {
            registration.close();
        }
        let Locked { control, held } = &mut control;
        control.retire(held, AbortReason::Detached);
    }

    /// Answers what rings on their way out hold that the poller has left. It may take several tries until it is known that it has (an epoch is over when the one
    /// after it is); none of them waits.
    fn answer_left(&self) {
        const TRIES: usize = 4;
        let _ = (0..TRIES).any(|_| self.settle(None));
    }

    /// Moves the rings on their way out on as far as they go; answers what was left in them. Never waits. True when all of ring `awaited` is answered, or of every
    /// ring if none is named.
    pub(super) fn settle(&self, awaited: Option<u64>) -> bool {
        departures::settle(
            awaited,
            |run| {
                let mut control = self.lock();
                let Control { channel, departures, .. } = &mut *control;
                run(channel, departures);
            },
            |reason, messages| messages.abort_all(reason, Message::discard),
            || self.hub.waiters.bell().ring(),
        )
    }
}

impl<S: Scheme> Control<S> {
    /// Closes and unpublishes the ring; its messages will be aborted for `reason`.
    fn retire(
        &mut self,
        held: &mut HeldOf<'_, S::Channel<Envelope>, Envelope>,
        reason: AbortReason,
    ) -> Option<u64> {
        self.sender = None;
        let ring = self.channel.retire_held(held)?;
        Some(self.departures.add(ring, reason))
    }
}

/// A wait with a deadline: spins, then yields, then sleeps, so that both a poller on another core and one on this core get on.
#[derive(Debug)]
pub(crate) struct Pause {
    deadline: Option<Instant>,
    rounds: u32,
}

impl Pause {
    const SPINS: u32 = 64;
    const YIELDS: u32 = 256;
    const SLEEP: Duration = Duration::from_micros(50);

    pub(crate) fn new(timeout: Duration) -> Self {
        // Who has no time does not spin either.
        let rounds = if timeout.is_zero() { Self::SPINS } else { 0 };
        Self { deadline: Instant::now().checked_add(timeout), rounds }
    }

    /// Pauses once; false when the deadline has passed.
    pub(crate) fn take(&mut self) -> bool {
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds <= Self::SPINS {
            std::hint::spin_loop();
            return true;
        }
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        if self.rounds <= Self::YIELDS {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Self::SLEEP);
        }
        true
    }
}
