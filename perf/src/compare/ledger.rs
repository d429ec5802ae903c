//! The ledger: every message that is sent is counted by its identifier, and every outcome is checked against it.
#![forbid(unsafe_code)]

use slipring::ctrlr::{Message, Producer, Reply, SendErrorReason};
use slipring::ring::{Mailbox, Outcome, Scheme};
use std::time::{Duration, Instant};

/// More than are ever in flight, so that each of those has a place of its own.
const PLACES: usize = 2048;
/// Identifiers of one place are so far apart. What is sent begins with the second lap.
const LAP: u64 = PLACES as u64;
/// How long the last outcomes may take.
const DRAIN: Duration = Duration::from_secs(5);

/// What became of all messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Accepted by the driver.
    pub(super) sent: u64,
    /// Executed, and answered.
    pub(super) completed: u64,
    /// Answered as aborted.
    pub(super) aborted: u64,
    /// Not accepted, and given back.
    pub(super) rejected: u64,
    /// Accepted and never answered.
    pub(super) lost: u64,
    /// Answered more than once, or never sent.
    pub(super) duplicated: u64,
}

impl Counts {
    /// Nothing was lost, and nothing answered twice.
    pub(super) fn is_exact(&self) -> bool {
        self.lost == 0 && self.duplicated == 0
    }

    /// Adds another's counts.
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.completed += other.completed;
        self.aborted += other.aborted;
        self.rejected += other.rejected;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
    }
}

/// One sender's account. A message's identifier is its token, and its place the low bits of it.
///
/// Sending costs it nothing but a count: a place has the newest identifier that was answered, each must be answered once the one before it in its place
/// was, and what was sent last is known.
pub(super) struct Ledger {
    answered: Box<[u64; PLACES]>,
    next: u64,
    counts: Counts,
}

impl Ledger {
    pub(super) fn new() -> Self {
        // As if the first lap had been sent and answered.
        let answered = Box::new(std::array::from_fn(|place| place as u64));
        Self { answered, next: LAP, counts: Counts::default() }
    }

    /// The identifier of the message that is sent next.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The next `count` messages were accepted.
    #[inline]
    pub(super) fn accepted(&mut self, count: usize) {
        self.next += count as u64;
    }

    /// The next message was refused.
    pub(super) fn rejected(&mut self) {
        self.counts.rejected += 1;
    }

    /// An outcome came for message `id`.
    #[inline]
    pub(super) fn outcome(&mut self, id: u64, outcome: &Outcome<Reply>) {
        let newest = &mut self.answered[id as usize % PLACES];
        if id <= *newest || id >= self.next {
            self.counts.duplicated += 1;
            return;
        }
        if id - *newest > LAP {
            // Those in between would have had to come long ago: windows are smaller than the ledger.
            self.counts.lost += (id - *newest) / LAP - 1;
        }
        *newest = id;
        match outcome {
            Outcome::Completed(_) => self.counts.completed += 1,
            Outcome::Aborted(_) => self.counts.aborted += 1,
        }
    }

    /// Sends one message that does nothing but run; whether it was accepted, or why not.
    #[inline]
    pub(super) fn send<S: Scheme>(
        &mut self,
        producer: &Producer<S>,
        mailbox: &mut Mailbox<Reply>,
    ) -> Result<(), SendErrorReason> {
        match producer.send_to(mailbox, self.next, Message::call(|_| 0)) {
            Ok(()) => {
                self.accepted(1);
                Ok(())
            }
            Err(error) => {
                self.rejected();
                Err(error.reason)
            }
        }
    }

    /// Takes the outcomes that have arrived.
    #[inline]
    pub(super) fn receive(&mut self, mailbox: &mut Mailbox<Reply>) -> usize {
        mailbox.receive(|id, outcome| self.outcome(id, &outcome))
    }

    /// Waits for the last outcomes, bounded, and closes the account: what is in flight then is lost.
    pub(super) fn close(mut self, mailbox: &mut Mailbox<Reply>) -> Counts {
        let started = Instant::now();
        while mailbox.in_flight() > 0 && started.elapsed() < DRAIN {
            if self.receive(mailbox) == 0 {
                std::thread::yield_now();
            }
        }
        self.counts.sent = self.next - LAP;
        let last = self.next - 1;
        for (place, newest) in (0..).zip(self.answered.iter()) {
            let last_here = last - (last - place) % LAP;
            self.counts.lost += (last_here - newest) / LAP;
        }
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipring::ring::{AbortReason, Aborted};

    fn completed() -> Outcome<Reply> {
        Outcome::Completed(Reply::Called(0))
    }

    #[test]
    fn each_end_of_a_message_is_counted_once() {
        let mut ledger = Ledger::new();
        let mut mailbox = Mailbox::new(1);
        let first = ledger.next();
        ledger.accepted(3);
        ledger.accepted(1);
        ledger.rejected();
        ledger.outcome(first, &completed());
        ledger.outcome(first + 1, &Outcome::Aborted(Aborted::unexecuted(AbortReason::Detached)));
        ledger.outcome(first + 1, &completed());
        ledger.outcome(first + 4, &completed());
        ledger.outcome(0, &completed());
        ledger.outcome(u64::MAX, &completed());
        let counts = ledger.close(&mut mailbox);
        let expected = Counts { sent: 4, completed: 1, aborted: 1, rejected: 1, lost: 2, duplicated: 4 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn a_message_that_is_overtaken_by_a_whole_ledger_is_lost() {
        let mut ledger = Ledger::new();
        let first = ledger.next();
        ledger.accepted(2 * PLACES + 1);
        for id in first + 1..=first + 2 * LAP {
            ledger.outcome(id, &completed());
        }
        let overtaken = ledger.counts;
        ledger.outcome(first, &completed());
        let counts = ledger.close(&mut Mailbox::new(1));
        assert_eq!((overtaken.lost, overtaken.duplicated), (1, 0));
        assert_eq!((counts.lost, counts.duplicated), (1, 1));
    }

    #[test]
    fn what_was_never_answered_is_lost_however_long_ago_it_was_sent() {
        let mut ledger = Ledger::new();
        ledger.accepted(3 * PLACES + 5);
        let counts = ledger.close(&mut Mailbox::new(1));
        assert_eq!((counts.sent, counts.lost), (3 * LAP + 5, 3 * LAP + 5));
    }
}
