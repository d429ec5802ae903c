//! What the ring module promises, on real threads and over random histories. The interleavings are explored in `models`.

mod bell;
mod departures;
mod distance;
mod mailbox;
mod mpsc;
mod outcome;
mod parcel;
mod preempted;
mod rivals;
mod schemes;
mod sleeper;
mod ticket;
mod waiters;

use super::{Answer, Word};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts how many of its values exist.
#[derive(Clone, Debug, Default)]
struct Census(Arc<AtomicUsize>);

impl Census {
    fn count(&self) -> usize {
        // Relaxed: looked at when the threads that change it are joined.
        self.0.load(Ordering::Relaxed)
    }

    fn value(&self, id: u64) -> Counted {
        // Relaxed: as above.
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted { id, census: self.clone() }
    }
}

/// A value that its census counts.
#[derive(Debug)]
struct Counted {
    id: u64,
    census: Census,
}

/// More than a word.
macro_rules! is_no_word {
    ($($answer:ty),*) => {$(
        impl Answer for $answer {
            fn to_word(&self) -> Option<Word> {
                None
            }

            fn of_word(word: Word) -> Self {
                unreachable!("{word:?} was never made")
            }
        }
    )*};
}

is_no_word!((), u32, Counted);

/// Always a word.
impl Answer for u64 {
    fn to_word(&self) -> Option<Word> {
        Some(Word { code: 1, value: *self })
    }

    fn of_word(word: Word) -> Self {
        assert_eq!(word.code, 1);
        word.value
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Relaxed: see `Census::count`.
        self.census.0.fetch_sub(1, Ordering::Relaxed);
    }
}
