//! A consumer's distance from a stream: when it lets messages gather, and that it does so neither for long nor again and again.

use crate::ring::distance::{DISTANCE, Distance, PATIENCE, PATIENCE_POLLS};
use crate::ring::scheme::BATCH;
use std::time::{Duration, Instant};

/// For a look that is not to be made.
fn unlooked(others: usize) -> bool {
    panic!("looked at the message {others} behind the first")
}

/// One that has just taken a full batch, and so expects a stream.
fn in_stream() -> Distance {
    let mut distance = Distance::default();
    distance.took(BATCH);
    distance
}

/// How many polls in a row leave the messages where they are, at one time.
fn polls_held_back(distance: &mut Distance, now: Instant) -> u32 {
    (0..1_000).find(|_| !distance.holds_back(Some(now), |_| false)).expect("it ends")
}

#[test]
fn few_messages_are_never_left() {
    let mut distance = Distance::default();
    let now = Instant::now();
    for taken in (0..BATCH).rev() {
        assert!(!distance.holds_back(Some(now), unlooked));
        distance.took(taken);
    }
    let mut distance = in_stream();
    distance.took(BATCH - 1);
    assert!(!distance.holds_back(Some(now), unlooked), "and a stream ends with the first of these");
}

#[test]
fn who_cannot_come_back_soon_leaves_nothing() {
    assert!(!in_stream().holds_back(None, unlooked));
}

#[test]
fn what_has_gathered_is_taken_without_another_look() {
    let mut distance = in_stream();
    let now = Instant::now();
    for _ in 0..100 {
        assert!(distance.holds_back(Some(now), |_| false));
        assert!(!distance.holds_back(Some(now), |others| others == DISTANCE - 1));
        distance.took(BATCH);
        for batch in 2..=DISTANCE / BATCH {
            assert!(!distance.holds_back(Some(now), unlooked), "batch {batch} is known to be there");
            distance.took(BATCH);
        }
    }
}

#[test]
fn it_gives_up_after_some_polls_or_some_time() {
    let now = Instant::now();
    assert_eq!(polls_held_back(&mut in_stream(), now), PATIENCE_POLLS);
    let mut distance = in_stream();
    assert!(distance.holds_back(Some(now), |_| false));
    assert!(distance.holds_back(Some(now + PATIENCE.saturating_sub(Duration::from_nanos(1))), |_| false));
    assert!(!distance.holds_back(Some(now + PATIENCE), |_| false));
    let mut distance = in_stream();
    assert!(distance.holds_back(Some(now), |_| false));
    assert!(
        distance.holds_back(Some(now.checked_sub(PATIENCE).unwrap_or(now)), |_| false),
        "a clock may go back"
    );
}

#[test]
fn waits_in_vain_become_rare() {
    let mut distance = Distance::default();
    let now = Instant::now();
    let mut batches_between = Vec::new();
    for _ in 0..8 {
        let mut batches = 0;
        while polls_held_back(&mut distance, now) == 0 {
            distance.took(BATCH);
            batches += 1;
        }
        batches_between.push(batches);
    }
    assert_eq!(batches_between, [1, 2, 4, 8, 16, 32, 64, 64]);
    // One that was not in vain, and it expects the best again.
    while !distance.holds_back(Some(now), |_| false) {
        distance.took(BATCH);
    }
    assert!(!distance.holds_back(Some(now), |_| true));
    (0..DISTANCE / BATCH).for_each(|_| distance.took(BATCH));
    assert_eq!(polls_held_back(&mut distance, now), PATIENCE_POLLS);
    distance.took(BATCH);
    distance.took(BATCH);
    assert_eq!(polls_held_back(&mut distance, now), PATIENCE_POLLS);
}
