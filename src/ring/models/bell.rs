//! The bell: no wake-up is lost.

use super::{STUCK, explore, must_fail};
use crate::ring::bell::Bell;
use crate::sync::{Arc, AtomicBool, Ordering, Protection};
use loom::thread;

/// One sleeper waits for something that one ringer does.
fn sleeper_and_ringer() {
    let shared = Arc::new((Bell::new(), AtomicBool::new(false)));
    let ringing = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            // Relaxed: the bell's own fences are what the model is about.
            shared.1.store(true, Ordering::Relaxed);
            shared.0.ring();
        })
    };
    // Relaxed: as above.
    assert!(shared.0.sleep_until(None, || shared.1.load(Ordering::Relaxed)));
    ringing.join().unwrap();
}

#[test]
fn no_wake_up_is_lost() {
    explore(3, sleeper_and_ringer);
}

#[test]
fn without_the_bell_fence_a_wake_up_is_lost() {
    must_fail(Protection::BellFence, STUCK, sleeper_and_ringer);
}

#[test]
fn without_the_sleeper_fence_a_wake_up_is_lost() {
    must_fail(Protection::SleeperFence, STUCK, sleeper_and_ringer);
}

#[test]
fn without_the_count_a_ring_before_the_sleep_is_lost() {
    must_fail(Protection::BellCount, STUCK, sleeper_and_ringer);
}

#[test]
fn a_ring_for_somebody_else_loses_no_wake_up() {
    explore(3, || {
        let shared = Arc::new((Bell::new(), AtomicBool::new(false)));
        let ringing = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.ring();
                // Relaxed: as above.
                shared.1.store(true, Ordering::Relaxed);
                shared.0.ring();
            })
        };
        // Relaxed: as above.
        assert!(shared.0.sleep_until(None, || shared.1.load(Ordering::Relaxed)));
        ringing.join().unwrap();
    });
}
