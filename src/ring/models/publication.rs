//! Publication: a reader that the flag says has left can no longer reach the value; a ring that was published is found.

use super::{RACE, explore, must_fail};
use crate::ring::Attention;
use crate::ring::lockfree::LockFree;
use crate::ring::published::{Publisher, Reader, published};
use crate::ring::scheme::{Channel, Receiver, Scheme, Sender};
use crate::sync::{Arc, Protection, UnsafeCell};
use loom::thread;

/// A value that only one thread at a time may use; loom sees each use.
struct Value(UnsafeCell<()>);

// SAFETY: loom checks in each model that uses do not overlap.
unsafe impl Sync for Value {}
// SAFETY: as above.
unsafe impl Send for Value {}

impl Value {
    fn make_use(&self) {
        self.0.with_mut(|_| ());
    }
}

/// A published value and its reader, online and in the newest epoch, as after some polls.
///
/// (The first pins of a participant advance the epoch by themselves; afterwards a retirement takes two advances, one of them its own.)
fn settled() -> (Publisher<Value>, Reader<Value>) {
    let (mut publisher, mut reader) = published();
    publisher.publish(Arc::new(Value(UnsafeCell::new(()))));
    for _ in 0..2 {
        publisher.advance();
        reader.refresh();
    }
    (publisher, reader)
}

/// The reader moves on to a new epoch while the value is being retired; the retirer uses the value as soon as the flag says it may.
fn reader_moves_on() {
    let (mut publisher, mut reader) = settled();
    let polling = thread::spawn(move || {
        reader.refresh();
        if let Some(value) = reader.current() {
            value.make_use();
        }
        // Stays online, as one that polls no more: it must hold the retirement up.
        reader
    });
    let unpublished = publisher.unpublish_closing(|_| ()).unwrap();
    let retired = publisher.retire(unpublished);
    thread::yield_now();
    publisher.advance();
    if retired.has_left() {
        retired.value().make_use();
    }
    drop(polling.join().unwrap());
}

#[test]
fn a_reader_that_has_left_does_not_reach_the_value() {
    explore(3, reader_moves_on);
}

#[test]
fn without_the_reader_fence_a_reader_that_has_left_reaches_the_value() {
    must_fail(Protection::ReaderFence, RACE, reader_moves_on);
}

#[test]
fn without_the_grace_period_the_value_is_used_while_the_reader_uses_it() {
    must_fail(Protection::GracePeriod, RACE, reader_moves_on);
}

#[test]
fn a_reader_that_comes_back_online_is_out_of_what_was_retired() {
    explore(3, || {
        let (mut publisher, mut reader) = settled();
        reader.offline();
        let polling = thread::spawn(move || {
            for _ in 0..2 {
                reader.refresh();
                if let Some(value) = reader.current() {
                    value.make_use();
                }
                reader.offline();
            }
        });
        let unpublished = publisher.unpublish_closing(|_| ()).unwrap();
        let retired = publisher.retire(unpublished);
        thread::yield_now();
        publisher.advance();
        if retired.has_left() {
            retired.value().make_use();
        }
        polling.join().unwrap();
    });
}

/// A poll as a poller makes it.
fn poll(attention: &Attention, receiver: &mut impl Receiver<u32>, taken: &mut Vec<u32>) {
    if attention.bits() != 0 {
        receiver.refresh();
    }
    receiver.receive(usize::MAX, None, |message| taken.push(message.take()));
}

fn a_ring_is_published_while_the_reader_polls() {
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = <LockFree as Scheme>::Channel::<u32>::new(&attention);
    let polling = {
        let attention = Arc::clone(&attention);
        thread::spawn(move || {
            let mut taken = Vec::new();
            // Something else had raised attention, so that it looks whether or not it sees the ring's bit.
            receiver.refresh();
            poll(&attention, &mut receiver, &mut taken);
            (receiver, taken)
        })
    };
    let sender = channel.publish(2);
    sender.push(1).unwrap();
    let (mut receiver, mut taken) = polling.join().unwrap();
    poll(&attention, &mut receiver, &mut taken);
    assert_eq!(taken, [1], "the published ring is found");
}

#[test]
fn a_published_ring_is_found() {
    explore(3, a_ring_is_published_while_the_reader_polls);
}

#[test]
fn a_reader_that_looks_before_it_lowers_misses_a_ring() {
    must_fail(
        Protection::LowerFirst,
        "the published ring is found",
        a_ring_is_published_while_the_reader_polls,
    );
}
