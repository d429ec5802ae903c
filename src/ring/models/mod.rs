//! loom models: one file per protocol, one test per property, and for each protection of `sync::Protection` its negative control,
//! the same model with the protection taken out, which must fail.
//!
//! # How to write one
//! loom lets the main thread run until it blocks, then the others in turn, and goes back to each access that another thread's later access
//! depends on. It remembers only the last access to each word, so a thread that loads a word and then stores to it hides what another did to
//! that word before. Hence: writers on the main thread or in the threads spawned first, readers in those spawned later, and a `yield_now` where
//! somebody waits for somebody. Whether it worked is what the negative controls say.
//!
//! Run with `RUSTFLAGS="--cfg loom --cfg crossbeam_loom" cargo test --lib --release ring::models`. `LOOM_MAX_PREEMPTIONS` overrides each model's bound.

mod bell;
mod departures;
mod doorway;
mod handover;
mod mailbox;
mod mpsc;
mod outcome;
mod publication;
mod retirement;
mod sleeper;
mod the_bug;

/// The controller is not built for loom; this file of it is, for its models: it needs nothing of the rest.
#[allow(dead_code)]
#[path = "../../ctrlr/qpair_slot.rs"]
mod qpair_slot;

use crate::sync::{Protection, without};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Explores `model` with at most `preemptions` preemptions in each execution, and asserts that there was more than one execution.
#[track_caller]
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    // The collector alone makes hundreds of steps.
    builder.max_branches = builder.max_branches.max(5_000);
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&executions);
    builder.check(move || {
        // Relaxed: loom runs one execution after the other, on this thread.
        counter.fetch_add(1, Ordering::Relaxed);
        model();
    });
    // Relaxed: as above.
    let executions = executions.load(Ordering::Relaxed);
    assert!(
        executions > 1,
        "loom explored {executions} execution: the model has no concurrency that loom can see"
    );
}

/// Asserts that `model` fails without `protection`, and in the way that `expected` (a part of the failure's message) says.
#[track_caller]
fn must_fail(protection: Protection, expected: &str, model: impl Fn() + Send + Sync + 'static) {
    let run = std::panic::AssertUnwindSafe(|| explore(3, model));
    match without(protection, run) {
        None => panic!("the model does not need {protection:?}: it proves nothing about it"),
        Some(failure) => assert!(failure.contains(expected), "failed for another reason: {failure}"),
    }
}

/// What loom says when two threads reach a cell without one happening before the other.
const RACE: &str = "Causality violation";
/// What loom says when something is still allocated at the end.
const LEAK: &str = "Arc leaked";
/// What loom says when a thread waits for ever.
const STUCK: &str = "exceeded maximum number of branches";
