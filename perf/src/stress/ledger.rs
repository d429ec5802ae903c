//! The ledger: for each message of an episode whether it was accepted, what it came to, and how often it ran. Whoever gets an outcome, on
//! whatever thread, enters it here; the sum is drawn when all threads have ended.
#![forbid(unsafe_code)]

use serde::Serialize;
use slipring::ctrlr::Reply;
use slipring::ring::Outcome;
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

// One word per message; counts are 4 bits wide and stop being exact above 15, which is wrong by then anyway.
const ACCEPTED: u32 = 1;
const REJECTED: u32 = 1 << 1;
/// It runs a closure, which enters itself.
const CLOSURE: u32 = 1 << 2;
/// Its outcome said that it was not executed.
const UNEXECUTED: u32 = 1 << 3;
const COMPLETED: u32 = 1 << 4;
const ABORTED: u32 = 1 << 8;
const RAN: u32 = 1 << 12;
/// Its answer was another message's.
const WRONG: u32 = 1 << 16;

fn count(word: u32, unit: u32) -> u32 {
    (word / unit) & 0xf
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    words: Box<[AtomicU32]>,
    next: AtomicUsize,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Sum {
    pub(super) sent: u64,
    pub(super) completed: u64,
    pub(super) aborted: u64,
    pub(super) rejected: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    /// Answered with something that cannot be true of them.
    pub(super) wrong: u64,
}

impl Ledger {
    /// A ledger for `capacity` messages.
    pub(super) fn new(capacity: usize) -> Self {
        Self { words: (0..capacity).map(|_| AtomicU32::new(0)).collect(), next: AtomicUsize::new(0) }
    }

    // All orderings here are relaxed: each word is a sum of its own, and is read after all threads were joined.

    /// A number for a message; `None` when the ledger is full.
    pub(super) fn open(&self, is_closure: bool) -> Option<u64> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let word = self.words.get(id)?;
        word.store(if is_closure { CLOSURE } else { 0 }, Ordering::Relaxed);
        Some(id as u64)
    }

    fn enter(&self, id: u64, entry: u32) {
        // A number that was never given out is some other message's.
        match self.words.get(id as usize) {
            Some(word) => word.fetch_add(entry, Ordering::Relaxed),
            None => self.words[0].fetch_or(WRONG, Ordering::Relaxed),
        };
    }

    pub(super) fn accepted(&self, id: u64) {
        self.enter(id, ACCEPTED);
    }

    pub(super) fn rejected(&self, id: u64) {
        self.enter(id, REJECTED);
    }

    /// The closure of message `id` runs.
    pub(super) fn ran(&self, id: u64) {
        self.enter(id, RAN);
    }

    /// An outcome for message `id` has arrived.
    pub(super) fn settle(&self, id: u64, outcome: &Outcome<Reply>) {
        let entry = match outcome {
            Outcome::Completed(_) => COMPLETED,
            Outcome::Aborted(aborted) if aborted.may_have_executed => ABORTED,
            Outcome::Aborted(_) => ABORTED + UNEXECUTED,
        };
        self.enter(id, entry);
        let is_closure =
            self.words.get(id as usize).is_some_and(|word| word.load(Ordering::Relaxed) & CLOSURE != 0);
        let is_right = match outcome {
            Outcome::Completed(Reply::Called(answer)) => is_closure && *answer == id,
            Outcome::Completed(_) => !is_closure,
            Outcome::Aborted(_) => true,
        };
        if !is_right && let Some(word) = self.words.get(id as usize) {
            word.fetch_or(WRONG, Ordering::Relaxed);
        }
    }

    /// What became of all messages. To be called when no thread is at work any more.
    pub(super) fn sum(&self) -> Sum {
        let opened = self.next.load(Ordering::Relaxed).min(self.words.len());
        let mut sum = Sum::default();
        for word in &self.words[..opened] {
            sum += Sum::of(word.load(Ordering::Relaxed));
        }
        sum
    }
}

impl Sum {
    /// What became of one message.
    fn of(word: u32) -> Self {
        let (completed, aborted, ran) = (count(word, COMPLETED), count(word, ABORTED), count(word, RAN));
        let is_accepted = word & ACCEPTED != 0;
        let outcomes = completed + aborted;
        // Ran exactly once if it was completed, never if it was refused or aborted before it ran.
        let ran_as_said = match (is_accepted, completed) {
            _ if word & CLOSURE == 0 => ran == 0,
            (false, _) => ran == 0,
            (true, 0) if word & UNEXECUTED != 0 => ran == 0,
            (true, 0) => ran <= 1,
            (true, _) => ran == 1,
        };
        let allowed = u32::from(is_accepted);
        Self {
            sent: allowed.into(),
            completed: u64::from(outcomes > 0 && completed > 0),
            aborted: u64::from(outcomes > 0 && completed == 0),
            rejected: u64::from(word & REJECTED != 0),
            lost: u64::from(is_accepted && outcomes == 0),
            // An outcome of what was never accepted is one too many as well.
            duplicated: u64::from(outcomes > allowed || ran > 1),
            wrong: u64::from(word & WRONG != 0 || !ran_as_said),
        }
    }

    /// Whether every accepted message had exactly one outcome, and the right one.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.wrong == 0
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.completed += other.completed;
        self.aborted += other.aborted;
        self.rejected += other.rejected;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.wrong += other.wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::{Ledger, Sum};
    use slipring::ctrlr::Reply;
    use slipring::ring::{AbortReason, Aborted, Outcome};

    const UNEXECUTED: Outcome<Reply> = Outcome::Aborted(Aborted::unexecuted(AbortReason::Detached));

    fn sum_of(enter: impl FnOnce(&Ledger, u64)) -> Sum {
        let ledger = Ledger::new(4);
        let id = ledger.open(true).unwrap();
        enter(&ledger, id);
        ledger.sum()
    }

    #[test]
    fn one_outcome_is_right() {
        let sum = sum_of(|ledger, id| {
            ledger.settle(id, &Outcome::Completed(Reply::Called(id)));
            ledger.ran(id);
            ledger.accepted(id);
        });
        assert_eq!(sum, Sum { sent: 1, completed: 1, ..Sum::default() });
        let sum = sum_of(|ledger, id| {
            ledger.accepted(id);
            ledger.settle(id, &UNEXECUTED);
        });
        assert_eq!(sum, Sum { sent: 1, aborted: 1, ..Sum::default() });
    }

    #[test]
    fn no_outcome_is_lost_and_two_are_duplicated() {
        assert_eq!(sum_of(Ledger::accepted), Sum { sent: 1, lost: 1, ..Sum::default() });
        let twice = sum_of(|ledger, id| {
            ledger.accepted(id);
            ledger.settle(id, &UNEXECUTED);
            ledger.settle(id, &UNEXECUTED);
        });
        assert!(twice.duplicated == 1 && !twice.is_clean(), "{twice:?}");
    }

    #[test]
    fn outcomes_of_what_was_rejected_and_answers_of_others_are_found() {
        let rejected = sum_of(|ledger, id| {
            ledger.rejected(id);
            ledger.settle(id, &UNEXECUTED);
        });
        assert_eq!((rejected.rejected, rejected.duplicated), (1, 1));
        let others = sum_of(|ledger, id| {
            ledger.accepted(id);
            ledger.ran(id);
            ledger.settle(id, &Outcome::Completed(Reply::Called(id + 1)));
        });
        assert_eq!(others.wrong, 1);
        let ran_all_the_same = sum_of(|ledger, id| {
            ledger.accepted(id);
            ledger.ran(id);
            ledger.settle(id, &UNEXECUTED);
        });
        assert_eq!(ran_all_the_same.wrong, 1);
    }

    #[test]
    fn a_full_ledger_gives_no_more_numbers() {
        let ledger = Ledger::new(1);
        assert!(ledger.open(false).is_some() && ledger.open(false).is_none());
        assert_eq!(ledger.sum(), Sum::default());
    }
}
