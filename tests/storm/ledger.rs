//! The ledger of a storm: what became of each message, by its number.

use slipring::ctrlr::Reply;
use slipring::ring::Outcome;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// Messages of one round at most; one byte each.
const IDS: usize = 1 << 20;

/// In the ledger: how many outcomes a message has had, and what is known of it.
const OUTCOMES: u8 = 0x0f;
pub const ACCEPTED: u8 = 0x10;
pub const REFUSED: u8 = 0x20;
/// Its closure has run.
pub const RAN: u8 = 0x40;
/// It was aborted with the word that it was not executed.
const UNEXECUTED: u8 = 0x80;

/// What became of every message of one round.
pub struct Ledger {
    messages: Box<[AtomicU8]>,
    next: AtomicU64,
    completed: AtomicU64,
    aborted: AtomicU64,
}

impl Ledger {
    pub fn new() -> Self {
        Self {
            messages: (0..IDS).map(|_| AtomicU8::new(0)).collect(),
            next: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        }
    }

    /// An identifier for a message that is about to be sent, unless they are used up.
    pub fn id(&self) -> Option<u64> {
        // Relaxed throughout: read when all threads were joined.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        ((id as usize) < IDS).then_some(id)
    }

    /// How many were asked for.
    pub fn ids(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub fn mark(&self, id: u64, bits: u8) {
        self.messages[id as usize].fetch_or(bits, Ordering::Relaxed);
    }

    pub fn outcome(&self, id: u64, outcome: &Outcome<Reply>) {
        let before = self.messages[id as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(before & OUTCOMES, 0, "message {id} has a second outcome: {outcome:?}");
        match outcome {
            Outcome::Completed(reply) => {
                assert!(!matches!(reply, Reply::Refused { .. }), "message {id}: {reply:?}");
                if let Reply::Called(value) = reply {
                    assert_eq!(*value, id, "each closure's value comes back to its sender");
                }
                self.completed.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Aborted(aborted) => {
                self.mark(id, if aborted.may_have_executed { 0 } else { UNEXECUTED });
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The balance: sent = completed + aborted, by each single message. Returns the three.
    pub fn balance(&self) -> (u64, u64, u64) {
        let mut sent = 0;
        for (id, message) in self.messages.iter().enumerate() {
            let word = message.load(Ordering::Relaxed);
            assert!(word & UNEXECUTED == 0 || word & RAN == 0, "message {id} ran, and was said not to have");
            if word & ACCEPTED != 0 {
                sent += 1;
                assert_eq!(word & OUTCOMES, 1, "message {id} was accepted and has one outcome");
            } else {
                assert_eq!(word & OUTCOMES, 0, "message {id} was refused and has no outcome");
            }
        }
        let (completed, aborted) =
            (self.completed.load(Ordering::Relaxed), self.aborted.load(Ordering::Relaxed));
        assert_eq!(sent, completed + aborted, "sent = completed + aborted");
        (sent, completed, aborted)
    }
}
