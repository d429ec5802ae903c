//! A sender that is preempted in the middle of a push, while pollers and registrations come and go, by the code that the control operations share: each message
//! has one outcome, and nobody waits for the sender.

use crate::ring::departures::{self, Departures};
use crate::ring::scheme::{Channel, Receiver, Scheme, Sender};
use crate::ring::{Attention, LockFree};
use std::sync::Arc;

type Rings = <LockFree as Scheme>::Channel<u32>;
type Reader = <Rings as Channel<u32>>::Receiver;

/// What a controller has of it.
struct Control {
    channel: Rings,
    departures: Departures<Rings, u32, &'static str>,
    /// Messages that were left in rings, with the reason.
    answered: Vec<(&'static str, u32)>,
}

impl Control {
    fn new() -> (Self, Reader) {
        let (channel, reader) = Rings::new(&Arc::new(Attention::new()));
        (Self { channel, departures: Departures::new(), answered: Vec::new() }, reader)
    }

    /// The last unregistration: its ring is known by this number from then on.
    fn retire(&mut self, reason: &'static str) -> u64 {
        let ring = self.channel.retire().expect("published");
        self.departures.add(ring, reason)
    }

    /// What each control operation does first; true when no message is left unanswered.
    fn settle(&mut self) -> bool {
        let Self { channel, departures, answered } = self;
        let mut settle = || {
            departures::settle(
                None,
                |run| run(channel, departures),
                |reason, run| run.for_each(|message| answered.push((reason, message.take()))),
                || (),
            )
        };
        (0..4).any(|_| settle())
    }
}

fn poll(reader: &mut Reader) -> Vec<u32> {
    let mut taken = Vec::new();
    reader.refresh();
    reader.receive(8, None, |message| taken.push(message.take()));
    taken
}

/// The poller is dropped while a message is being written: what lies before it is not lost, and it comes to whoever polls next.
#[test]
fn a_poller_that_is_dropped_leaves_a_message_that_is_being_written_to_the_next() {
    let (mut control, mut reader) = Control::new();
    let sender = control.channel.publish(4);
    assert!(poll(&mut reader).is_empty());
    sender.push(1).expect("room");
    let pushed = sender.push_with(1, |_, place| {
        // Its place is claimed: accepted, and not there yet.
        reader.offline();
        assert_eq!(poll(&mut reader), [1], "the next poller");
        assert!(poll(&mut reader).is_empty(), "which waits for nobody");
        place.fill(2)
    });
    assert_eq!(pushed, Ok(1));
    assert_eq!(poll(&mut reader), [2]);
    assert!(poll(&mut reader).is_empty());
    control.retire("unregistered");
    reader.offline();
    assert!(control.settle());
    assert!(control.answered.is_empty());
}

/// The same with an unregistration, which finds the message accepted and not written yet: it does not wait for it past its deadline, and the next control
/// operation after it was written answers it. The next registration has a ring of its own meanwhile.
#[test]
fn an_unregistration_leaves_a_message_that_is_being_written_to_the_next_operation() {
    for is_dropped_first in [true, false] {
        let (mut control, mut reader) = Control::new();
        let sender = control.channel.publish(4);
        assert!(poll(&mut reader).is_empty());
        sender.push(1).expect("room");
        let mut number = None;
        let mut next = None;
        let pushed = sender.push_with(1, |_, place| {
            if is_dropped_first {
                reader.offline();
            }
            let retired = control.retire("unregistered");
            if !is_dropped_first {
                assert!(!control.settle());
                assert!(control.answered.is_empty(), "the poller may be in it");
                reader.offline();
            }
            assert!(!control.settle(), "a message is claimed");
            assert_eq!(control.answered, [("unregistered", 1)], "what lies before it is answered");
            assert!(!control.departures.is_over(Some(retired)));
            sender.push(9).expect_err("closed");
            let registered = control.channel.publish(4);
            registered.push(3).expect("room");
            assert_eq!(poll(&mut reader), [3], "the next registration is not held up");
            (number, next) = (Some(retired), Some(registered));
            place.fill(2)
        });
        assert_eq!(pushed, Ok(1), "it was accepted");
        assert!(poll(&mut reader).is_empty(), "and is not the poller's any more");
        assert!(control.settle());
        assert_eq!(control.answered, [("unregistered", 1), ("unregistered", 2)]);
        assert!(number.is_some_and(|number| control.departures.is_over(Some(number))));
        next.expect("registered").push(4).expect("room");
        assert_eq!(poll(&mut reader), [4]);
        control.retire("detached");
        reader.offline();
        assert!(control.settle());
        assert_eq!(control.answered.len(), 2, "each once");
    }
}
