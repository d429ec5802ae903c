//! Control operations that run at once, by the code that they share: who is told that a ring is over is told so when its messages are answered, whoever
//! drained it.

use super::{explore, must_fail};
use crate::ring::Attention;
use crate::ring::departures::{self, Departures};
use crate::ring::lockfree::LockFree;
use crate::ring::scheme::{Channel, Scheme, Sender};
use crate::sync::{Arc, AtomicU32, Mutex, Ordering, Protection};
use loom::thread;

type Rings = <LockFree as Scheme>::Channel<u32>;

/// What the control mutex protects.
struct Control {
    channel: Rings,
    departures: Departures<Rings, u32, ()>,
}

struct Shared {
    control: Mutex<Control>,
    answered: AtomicU32,
}

/// As registrations, unregistrations and detaches do it.
fn settle(shared: &Shared) -> bool {
    departures::settle(
        None,
        |run| {
            let mut control = shared.control.lock().unwrap();
            let Control { channel, departures } = &mut *control;
            run(channel, departures);
        },
        |(), run| {
            run.for_each(|_message| {
                // Relaxed: whoever is told that all is over has had the mutex after this.
                shared.answered.fetch_add(1, Ordering::Relaxed);
            });
        },
        || (),
    )
}

/// A ring with two messages, closed, that its poller has left: an unregistration is at it while a detach waits for the end.
fn an_unregistration_meets_a_detach() {
    let attention = Arc::new(Attention::new());
    let (mut channel, receiver) = Rings::new(&attention);
    drop(receiver);
    let sender = channel.publish(2);
    sender.push(1).unwrap();
    sender.push(2).unwrap();
    let mut departures = Departures::new();
    let number = departures.add(channel.retire().unwrap(), ());
    let shared = Arc::new(Shared {
        control: Mutex::new(Control { channel, departures }),
        answered: AtomicU32::new(0),
    });
    let unregistering = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            while !settle(&shared) {
                thread::yield_now();
            }
        })
    };
    while !settle(&shared) {
        thread::yield_now();
    }
    // Relaxed: see `settle`.
    assert_eq!(shared.answered.load(Ordering::Relaxed), 2, "all is answered when it is said to be over");
    assert!(shared.control.lock().unwrap().departures.is_over(Some(number)));
    unregistering.join().unwrap();
}

#[test]
fn each_of_two_control_operations_ends_when_the_messages_are_answered() {
    explore(3, an_unregistration_meets_a_detach);
}

#[test]
fn without_counting_a_ring_in_another_threads_hands_a_detach_ends_too_early() {
    must_fail(Protection::HeldRing, "all is answered", an_unregistration_meets_a_detach);
}
