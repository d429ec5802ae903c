//! Retirement, with the scheme's own ends and the real collector: every accepted message is taken once, by one consumer at a time.

use super::{RACE, explore, must_fail};
use crate::ring::Attention;
use crate::ring::lockfree::{LockFree, LockFreeReceiver};
use crate::ring::place::Taken;
use crate::ring::scheme::{Channel, Quiet, Receiver, Scheme, Sender};
use crate::sync::{Arc, Protection, UnsafeCell};
use loom::thread;

type Control = <LockFree as Scheme>::Channel<u32>;

/// The consumer's seat: loom sees it when two threads take messages without one happening before the other.
struct Seat(UnsafeCell<()>);

// SAFETY: loom checks in each model that nobody sits there with another.
unsafe impl Sync for Seat {}
// SAFETY: as above.
unsafe impl Send for Seat {}

impl Seat {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(())))
    }

    fn sit(&self) {
        self.0.with_mut(|_| ());
    }
}

/// A poll as a poller makes it.
fn poll(attention: &Attention, receiver: &mut LockFreeReceiver<u32>, seat: &Seat, taken: &mut Vec<u32>) {
    if attention.bits() != 0 {
        receiver.refresh();
    }
    receiver.receive(usize::MAX, None, |message| {
        seat.sit();
        taken.push(message.take());
    });
}

/// A channel whose receiver is online and in the newest epoch, as after some rings and polls.
fn settled(attention: &Arc<Attention>) -> (Control, LockFreeReceiver<u32>) {
    let (mut channel, mut receiver) = Control::new(attention);
    drop(channel.publish(2));
    receiver.refresh();
    let mut retiring = channel.retire().unwrap();
    loop {
        receiver.refresh();
        match channel.settle(retiring) {
            Ok(mut quiet) => break assert!(quiet.drain(|_| ())),
            Err(again) => retiring = again,
        }
    }
    receiver.refresh();
    (channel, receiver)
}

/// The polling thread: two polls, after which it stays online until it is joined.
type Polling = thread::JoinHandle<(LockFreeReceiver<u32>, Vec<u32>)>;

fn spawn_poller(
    attention: &Arc<Attention>,
    mut receiver: LockFreeReceiver<u32>,
    seat: &Arc<Seat>,
) -> Polling {
    let (attention, seat) = (Arc::clone(attention), Arc::clone(seat));
    thread::spawn(move || {
        let mut taken = Vec::new();
        poll(&attention, &mut receiver, &seat, &mut taken);
        poll(&attention, &mut receiver, &seat, &mut taken);
        (receiver, taken)
    })
}

/// Retires, settles and drains while the poller polls; returns what the poller took, and what was drained.
fn retire_and_drain(channel: &mut Control, polling: Polling, seat: &Seat) -> (Vec<u32>, Vec<u32>) {
    let (mut taken, mut drained) = (Vec::new(), Vec::new());
    let mut polling = Some(polling);
    let mut retiring = channel.retire().unwrap();
    let mut attempts = 0;
    let mut quiet = loop {
        match channel.settle(retiring) {
            Ok(quiet) => break quiet,
            Err(again) => retiring = again,
        }
        if attempts < 2 {
            thread::yield_now();
        } else if let Some(polling) = polling.take() {
            let (mut receiver, received) = polling.join().unwrap();
            receiver.offline();
            taken = received;
        }
        attempts += 1;
        assert!(attempts < 6, "a receiver that is offline holds nobody up");
    };
    let mut take = |message: Taken<'_, u32>| {
        seat.sit();
        drained.push(message.take());
    };
    while !quiet.drain(|run| run.for_each(&mut take)) {
        thread::yield_now();
    }
    if let Some(polling) = polling {
        taken = polling.join().unwrap().1;
    }
    (taken, drained)
}

/// Two messages lie in a ring that is retired while the reader polls it, with `attention` raised by the controller too.
fn reader_and_retirer() {
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = settled(&attention);
    let sender = channel.publish(2);
    sender.push(1).unwrap();
    sender.push(2).unwrap();
    receiver.refresh();
    attention.raise(Attention::FIRST_FREE);
    let seat = Seat::new();
    let polling = spawn_poller(&attention, receiver, &seat);
    let (mut taken, drained) = retire_and_drain(&mut channel, polling, &seat);
    taken.extend(drained);
    assert_eq!(taken, [1, 2], "each message once, in order");
    assert_eq!(attention.bits() & Attention::RETIRING, 0);
}

#[test]
fn each_message_is_taken_once_by_one_consumer_at_a_time() {
    explore(3, reader_and_retirer);
}

#[test]
fn without_the_grace_period_two_consume() {
    must_fail(Protection::GracePeriod, RACE, reader_and_retirer);
}

#[test]
fn without_the_reader_fence_two_consume() {
    must_fail(Protection::ReaderFence, RACE, reader_and_retirer);
}

fn producer_reader_and_retirer() {
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = settled(&attention);
    let sender = channel.publish(2);
    receiver.refresh();
    let seat = Seat::new();
    let producer = thread::spawn(move || sender.push(1).is_ok());
    let polling = spawn_poller(&attention, receiver, &seat);
    let (taken, drained) = retire_and_drain(&mut channel, polling, &seat);
    let accepted = producer.join().unwrap();
    assert_eq!(
        taken.len() + drained.len(),
        usize::from(accepted),
        "accepted is taken, {taken:?}, or drained, {drained:?}"
    );
}

#[test]
fn a_message_accepted_during_retirement_is_taken_once() {
    explore(3, producer_reader_and_retirer);
}

#[test]
fn without_the_closed_bit_a_message_is_lost_in_the_retired_ring() {
    must_fail(Protection::ClosedBit, "accepted is taken", producer_reader_and_retirer);
}

#[test]
fn the_next_ring_is_served_while_the_last_one_retires() {
    explore(3, || {
        let attention = Arc::new(Attention::new());
        let (mut channel, mut receiver) = settled(&attention);
        let first = channel.publish(2);
        first.push(1).unwrap();
        receiver.refresh();
        let seat = Seat::new();
        let polling = spawn_poller(&attention, receiver, &seat);
        let mut retiring = channel.retire().unwrap();
        let second = channel.publish(2);
        second.push(2).unwrap();
        let (mut receiver, mut taken) = polling.join().unwrap();
        // Two more polls let the first ring's retirement pass, and find the second.
        let mut drained = Vec::new();
        loop {
            poll(&attention, &mut receiver, &seat, &mut taken);
            match channel.settle(retiring) {
                Ok(mut quiet) => {
                    break assert!(quiet.drain(|run| run.for_each(|message| drained.push(message.take()))));
                }
                Err(again) => retiring = again,
            }
        }
        poll(&attention, &mut receiver, &seat, &mut taken);
        let from_first = usize::from(taken.first() == Some(&1));
        assert_eq!(from_first + drained.len(), 1);
        assert_eq!(taken[from_first..], [2]);
    });
}
