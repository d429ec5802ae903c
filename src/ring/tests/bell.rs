//! The bell on real threads.

use crate::ring::bell::Bell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_sleeper_gives_up_at_its_deadline() {
    let bell = Bell::new();
    let deadline = Instant::now() + Duration::from_millis(20);
    assert!(!bell.sleep_until(Some(deadline), || false));
    assert!(Instant::now() >= deadline);
    assert!(bell.sleep_until(Some(deadline), || true), "what is ready is ready after the deadline too");
}

#[test]
fn every_sleeper_gets_each_of_its_outcomes() {
    const ROUNDS: usize = 2_000;
    let shared = Arc::new((Bell::new(), [const { AtomicUsize::new(0) }; 3], AtomicUsize::new(0)));
    let sleepers: Vec<_> = (0..3)
        .map(|index| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (bell, delivered, seen) = &*shared;
                for round in 1..=ROUNDS {
                    // Relaxed: the bell's fences order it; that is what is tested.
                    assert!(bell.sleep_until(None, || delivered[index].load(Ordering::Relaxed) >= round));
                    // Relaxed: a count.
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (bell, delivered, seen) = &*shared;
    for round in 1..=ROUNDS {
        for outcome in delivered {
            // Relaxed: as above.
            outcome.store(round, Ordering::Relaxed);
            bell.ring();
        }
        // Now and then all are let fall asleep, so that each of them must be woken.
        // Relaxed: as above.
        while round % 10 == 0 && seen.load(Ordering::Relaxed) < 3 * round {
            thread::yield_now();
        }
    }
    for sleeper in sleepers {
        sleeper.join().unwrap();
    }
}
