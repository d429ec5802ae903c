//! The rings on their way out: those that are closed and still visited, and those that somebody is draining. Whoever asks whether all is over is told so when
//! every message is answered, also when it was another thread that took the ring to drain it.
//!
//! What the mutex is under which this is changed, and what becomes of the messages, is the user's business.
#![forbid(unsafe_code)]

use super::scheme::{Channel, Quiet};
use super::slot::Run;
use crate::sync::{Protection, protected};
use std::collections::VecDeque;

/// Rings of channel `C` for messages of type `M`, each with the reason `R` for which its messages are aborted.
pub(crate) struct Departures<C: Channel<M>, M, R> {
    /// Each with the number that its waiter knows it by.
    leaving: VecDeque<(u64, R, Leaving<C, M>)>,
    /// Numbers of rings on their way out, also while a thread has one in its hands to drain it.
    undrained: Vec<u64>,
    next_number: u64,
}

enum Leaving<C: Channel<M>, M> {
    Closed(C::Retiring),
    Quiet(C::Quiet),
}

impl<C: Channel<M>, M, R: Copy> Departures<C, M, R> {
    pub(crate) fn new() -> Self {
        Self { leaving: VecDeque::new(), undrained: Vec::new(), next_number: 0 }
    }

    /// Takes a closed ring in, and says by what number it is known.
    pub(crate) fn add(&mut self, ring: C::Retiring, reason: R) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.undrained.push(number);
        self.leaving.push_back((number, reason, Leaving::Closed(ring)));
        number
    }

    /// Whether every message of ring `awaited` is answered, or of every ring if none is named.
    pub(crate) fn is_over(&self, awaited: Option<u64>) -> bool {
        match awaited {
            Some(number) => !self.undrained.contains(&number),
            None if protected(Protection::HeldRing) => self.undrained.is_empty(),
            None => self.leaving.is_empty(),
        }
    }

    /// Takes out the next of the first `untried` rings that the poller has left. Those that stay go to the end, each once.
    fn take_quiet(&mut self, channel: &mut C, untried: &mut usize) -> Option<(u64, R, C::Quiet)> {
        while let Some(left) = untried.checked_sub(1) {
            *untried = left;
            let (number, reason, ring) = self.leaving.pop_front()?;
            let settled = match ring {
                Leaving::Quiet(ring) => Ok(ring),
                Leaving::Closed(ring) => channel.settle(ring),
            };
            match settled {
                Ok(ring) => return Some((number, reason, ring)),
                Err(ring) => self.leaving.push_back((number, reason, Leaving::Closed(ring))),
            }
        }
        None
    }

    /// Takes note of what became of a ring that was taken out: none but its number is left, or it is to be drained again.
    fn put_back(&mut self, drained: Result<u64, (u64, R, C::Quiet)>) {
        match drained {
            Ok(drained) => self.undrained.retain(|number| *number != drained),
            Err((number, reason, ring)) => self.leaving.push_back((number, reason, Leaving::Quiet(ring))),
        }
    }
}

/// Moves the rings on their way out on as far as they go. `locked` runs what it is given under the mutex; `answer` answers messages that were left in a ring,
/// and `answered` is told when that is done, both outside the mutex, as they may run foreign code. Never waits. True when every message of ring `awaited` is answered,
/// or of every ring if none is named.
pub(crate) fn settle<C: Channel<M>, M, R: Copy>(
    awaited: Option<u64>,
    mut locked: impl FnMut(&mut dyn FnMut(&mut C, &mut Departures<C, M, R>)),
    mut answer: impl FnMut(R, &mut Run<'_, M>),
    mut answered: impl FnMut(),
) -> bool {
    let mut drained = None;
    let mut untried = None;
    loop {
        let mut quiet = None;
        let mut is_over = false;
        locked(&mut |channel, departures| {
            if let Some(drained) = drained.take() {
                departures.put_back(drained);
            }
            let untried = untried.get_or_insert(departures.leaving.len());
            quiet = departures.take_quiet(channel, untried);
            is_over = departures.is_over(awaited);
        });
        let Some((number, reason, mut ring)) = quiet else { return is_over };
        let is_drained = ring.drain(|run| answer(reason, run));
        answered();
        drained = Some(if is_drained { Ok(number) } else { Err((number, reason, ring)) });
    }
}
