//! Keeping a distance: how a consumer stays behind the producers of a stream, instead of at their heels.
//!
//! A slot that the consumer looks at while its message is still to come has left the producer's cache when that writes it, and the producer's next claim waits for the way
//! there and back. A consumer as fast as its producers looks at every slot so: each message then costs a way that nobody needs. So when messages come in
//! full batches, it lets [`DISTANCE`] of them gather, and takes these without a look at what is being written.
//!
//! What a message may wait for those behind it is bounded, by time and by polls; and whoever sends a few, and no more until these are answered, is found out: after
//! each wait in vain, twice as many batches are taken before the next one.
#![forbid(unsafe_code)]

use super::scheme::BATCH;
use std::time::{Duration, Instant};

/// How many messages gather before a batch of them is taken, in a stream.
pub(super) const DISTANCE: usize = 4 * BATCH;

/// How long they may, by the poller's own clock, which it may not look at in each poll,
pub(super) const PATIENCE: Duration = Duration::from_micros(1);

/// and for how many polls at most: about as long, where polls are short.
pub(super) const PATIENCE_POLLS: u32 = 64;

/// The most full batches that are taken between two waits in vain.
const LONGEST_PENALTY: u32 = 63;

/// One consumer's. Only ever a hint: it says when to look, and never what is there.
#[derive(Debug, Default)]
pub(super) struct Distance {
    /// Whether messages come in full batches.
    is_stream: bool,
    /// Messages that lie ready and need not be looked for.
    known: usize,
    /// When the present wait began, and how many polls it has lasted.
    waiting: Option<(Instant, u32)>,
    /// Full batches to take before the next wait, and how many it was after the last wait in vain.
    sit_out: u32,
    penalty: u32,
}

impl Distance {
    /// Whether the messages that lie there are to be left for now. `is_ready` says whether the one so many positions behind the first lies ready; `now` is the
    /// poll's time, or `None` for whoever cannot come back soon.
    #[inline]
    pub(super) fn holds_back(&mut self, now: Option<Instant>, is_ready: impl FnOnce(usize) -> bool) -> bool {
        let Some(now) = now else { return false };
        if !self.is_stream || self.known >= BATCH {
            return false;
        }
        if is_ready(DISTANCE - 1) {
            self.known = DISTANCE;
            self.waiting = None;
            self.penalty = 0;
            return false;
        }
        let (since, polls) = self.waiting.unwrap_or((now, 0));
        if polls < PATIENCE_POLLS && now.saturating_duration_since(since) < PATIENCE {
            self.waiting = Some((since, polls + 1));
            return true;
        }
        self.waiting = None;
        self.is_stream = false;
        self.penalty = (2 * self.penalty + 1).min(LONGEST_PENALTY);
        self.sit_out = self.penalty;
        false
    }

    /// So many were taken, of [`BATCH`] at most.
    #[inline]
    pub(super) fn took(&mut self, count: usize) {
        self.known = self.known.saturating_sub(count);
        self.is_stream = count == BATCH && self.sit_out == 0;
        if count == BATCH {
            self.sit_out = self.sit_out.saturating_sub(1);
        }
    }
}
