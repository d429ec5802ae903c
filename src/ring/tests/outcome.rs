//! Responders and callbacks: exactly one answer, and no panic gets out.

use super::{Census, Counted};
use crate::ring::inside::is_inside_poll;
use crate::ring::mpsc::Ring;
use crate::ring::place::Taken;
use crate::ring::{AbortReason, Aborted, Envelope, Mailbox, Outcome, Responder};
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

/// Messages to two mailboxes in turns of uneven length, one of which is gone, and callbacks between them: more than one run, and around the end of the ring.
#[test]
fn all_that_is_left_is_aborted_once_and_in_order() {
    let census = Census::default();
    let ring = Ring::new(128);
    let mut mailboxes = [Mailbox::<u64>::new(256), Mailbox::new(256)];
    let mut forgotten = Mailbox::new(256);
    let (sender, called) = channel();
    let mut envelope = |id: u64| {
        let responder = match id % 17 {
            0..9 => mailboxes[0].responder(id).unwrap(),
            9..12 => mailboxes[1].responder(id).unwrap(),
            12 => {
                let (sender, census) = (sender.clone(), census.clone());
                Responder::to_callback(Box::new(move |outcome| {
                    sender.send((id, outcome, census.count())).unwrap();
                }))
            }
            _ => forgotten.responder(id).unwrap(),
        };
        Envelope { message: census.value(id), responder }
    };
    for id in 0..100 {
        ring.push(envelope(id)).unwrap();
    }
    // SAFETY: the one consumer is this thread.
    unsafe { ring.consume_runs(|run| run.abort_all(AbortReason::Unregistered, |message| drop(message))) };
    for id in 100..200 {
        ring.push(envelope(id)).unwrap();
    }
    drop(forgotten);
    let discard = |message: Taken<'_, Counted>| {
        let id = message.get().id;
        drop(message);
        assert_ne!(id % 10, 0, "on purpose");
    };
    // SAFETY: as above.
    unsafe { ring.consume_runs(|run| run.abort_all(AbortReason::Detached, discard)) };
    assert!(ring.is_empty());
    assert_eq!(census.count(), 0);

    let aborted = |id: u64| {
        let reason = if id < 100 { AbortReason::Unregistered } else { AbortReason::Detached };
        (id, Outcome::Aborted(Aborted::unexecuted(reason)))
    };
    for (mailbox, turn) in mailboxes.iter_mut().zip([0..9, 9..12]) {
        let mut received = Vec::new();
        mailbox.receive(|token, outcome| received.push((token, outcome)));
        let expected: Vec<_> = (0..200).filter(|id| turn.contains(&(id % 17))).map(aborted).collect();
        assert_eq!(received, expected);
        assert_eq!(mailbox.in_flight(), 0);
    }
    let called: Vec<_> = called.try_iter().collect();
    let expected: Vec<_> = (0..200).filter(|id| id % 17 == 12).map(aborted).collect();
    assert_eq!(called.iter().map(|(id, outcome, _)| (*id, *outcome)).collect::<Vec<_>>(), expected);
    // Each heard of it when its message was dropped.
    assert!(called.iter().all(|(id, _, left)| (*left as u64) < 100 - id % 100));
}
