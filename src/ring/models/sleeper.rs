//! The sleeping poller: no message and no raised attention is slept through.

use super::{STUCK, explore, must_fail};
use crate::ring::Attention;
use crate::ring::mpsc::Ring;
use crate::ring::sleeper::Sleeper;
use crate::sync::{Arc, Protection};
use loom::thread;

/// A sender pushes one message to a poller that sleeps whenever it finds none.
fn sender_and_sleeping_poller() {
    let shared = Arc::new((Ring::new(2), Sleeper::new().unwrap()));
    let sending = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.push(7).unwrap();
            shared.1.wake();
        })
    };
    let (ring, sleeper) = &*shared;
    let mut received = 0;
    while received == 0 {
        sleeper.falls_asleep();
        // SAFETY: this thread is the only consumer.
        received = unsafe { ring.consume(1, |message| assert_eq!(message.take(), 7)) };
        if received == 0 {
            sleeper.event().wait();
        }
        sleeper.wakes_up();
    }
    sending.join().unwrap();
}

/// Somebody raises attention for a poller that sleeps whenever it finds none raised.
fn raiser_and_sleeping_poller() {
    let shared = Arc::new((Attention::new(), Sleeper::new().unwrap()));
    let raising = {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            shared.0.raise(Attention::FIRST_FREE);
            shared.1.wake();
        })
    };
    let (attention, sleeper) = &*shared;
    loop {
        sleeper.falls_asleep();
        let is_raised = attention.bits() != 0;
        if !is_raised {
            sleeper.event().wait();
        }
        sleeper.wakes_up();
        if is_raised {
            break;
        }
    }
    raising.join().unwrap();
}

#[test]
fn no_message_is_slept_through() {
    explore(3, sender_and_sleeping_poller);
}

#[test]
fn no_raised_attention_is_slept_through() {
    explore(3, raiser_and_sleeping_poller);
}

#[test]
fn without_the_sleepers_fence_a_message_is_slept_through() {
    must_fail(Protection::AsleepFence, STUCK, sender_and_sleeping_poller);
}

#[test]
fn without_the_senders_fence_a_message_is_slept_through() {
    must_fail(Protection::WakeFence, STUCK, sender_and_sleeping_poller);
}
