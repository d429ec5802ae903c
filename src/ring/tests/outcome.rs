//! Responders and callbacks: exactly one answer, and no panic gets out.

use super::Census;
use crate::ring::inside::is_inside_poll;
use crate::ring::{AbortReason, Aborted, Outcome, Responder};
use std::panic::panic_any;
use std::sync::mpsc::channel;

#[test]
fn a_callback_gets_its_outcome_marked_as_inside_a_poll() {
    let (sender, outcomes) = channel();
    let callback = move |outcome| sender.send((outcome, is_inside_poll())).unwrap();
    Responder::to_callback(Box::new(callback)).deliver(Outcome::Completed(5));
    assert_eq!(outcomes.iter().collect::<Vec<_>>(), [(Outcome::Completed(5), true)]);
    assert!(!is_inside_poll());
}

#[test]
fn a_dropped_responder_answers_once() {
    let (sender, outcomes) = channel();
    drop(Responder::<u32>::to_callback(Box::new(move |outcome| sender.send(outcome).unwrap())));
    let dropped = Outcome::Aborted(Aborted::maybe_executed(AbortReason::Dropped));
    assert_eq!(outcomes.iter().collect::<Vec<_>>(), [dropped]);
}

#[test]
fn a_disarmed_responder_does_not_answer() {
    let (sender, outcomes) = channel();
    let responder = Responder::<u32>::to_callback(Box::new(move |outcome| sender.send(outcome).unwrap()));
    assert!(responder.disarm().is_none());
    assert_eq!(outcomes.iter().count(), 0);
}

/// What panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("on purpose, in a destructor");
    }
}

#[test]
fn a_callback_that_panics_goes_no_further() {
    let census = Census::default();
    Responder::to_callback(Box::new(|_| panic!("on purpose"))).deliver(Outcome::Completed(census.value(1)));
    Responder::<u32>::to_callback(Box::new(|_| panic_any(Bomb))).deliver(Outcome::Completed(1));
    drop(Responder::<u32>::to_callback(Box::new(|_| panic!("on purpose"))));
    assert_eq!(census.count(), 0);
    assert!(!is_inside_poll(), "the mark is taken away by a panic too");
}

#[test]
fn aborts_say_whether_the_device_may_have_acted() {
    let reset =
        Outcome::<u32>::Aborted(Aborted::maybe_executed(AbortReason::Reset)).into_result().unwrap_err();
    assert_eq!(reset.to_string(), "aborted: the controller was reset (it may have been executed)");
    let detached = Aborted::unexecuted(AbortReason::Detached);
    assert_eq!(detached.to_string(), "aborted: the controller was detached (it was not executed)");
}
