//! What is true of the rivals only: they take part in a fair comparison only if they do their own part well.

use crate::ring::Attention;
use crate::ring::place::Taken;
use crate::ring::rivals::{RobustMutex, Spinlock, SpinlockFlag};
use crate::ring::scheme::{BATCH, Channel, Gate, Quiet, Receiver, Scheme, Sender};
use std::sync::Arc;
use std::thread;

/// What the poller's end receives in one poll.
fn poll<S: Scheme>(receiver: &mut <S::Channel<u64> as Channel<u64>>::Receiver) -> Vec<u64> {
    let mut taken = Vec::new();
    receiver.enter();
    receiver.refresh();
    receiver.receive(usize::MAX, None, |message: Taken<'_, u64>| taken.push(*message.get()));
    receiver.leave();
    taken
}

/// More messages than one poll takes are taken by those that follow, without another send to say so. And since the lock keeps the poller
/// out, a retirement waits for no poll.
fn a_backlog_is_worked_off<S: Scheme>() {
    let (mut channel, mut receiver) = S::Channel::<u64>::new(&Arc::new(Attention::new()));
    let sender = channel.publish(4 * BATCH);
    let sent: Vec<_> = (0..3 * BATCH as u64).collect();
    for message in &sent {
        sender.push(*message).expect("room");
    }
    let mut taken = Vec::new();
    for _ in 0..2 {
        taken.extend(poll::<S>(&mut receiver));
    }
    assert_eq!(taken, sent[..2 * BATCH]);
    assert!(!receiver.is_online());
    let retiring = channel.retire().expect("published");
    let Ok(mut quiet) = channel.settle(retiring) else { panic!("nobody is inside") };
    assert!(quiet.drain(|run| run.for_each(|message| taken.push(*message.get()))));
    assert_eq!(taken, sent);
}

#[test]
fn a_backlog_is_worked_off_by_each() {
    a_backlog_is_worked_off::<Spinlock>();
    a_backlog_is_worked_off::<SpinlockFlag>();
    a_backlog_is_worked_off::<RobustMutex>();
}

/// What SPDK has a robust mutex for.
#[test]
fn a_thread_that_dies_inside_a_robust_mutex_stops_nobody() {
    let (mut channel, mut receiver) =
        <RobustMutex as Scheme>::Channel::<u64>::new(&Arc::new(Attention::new()));
    let gate = channel.gate();
    thread::spawn(move || std::mem::forget(gate.enter())).join().expect("it ended inside");
    channel.publish(2).push(7).expect("room");
    assert_eq!(poll::<RobustMutex>(&mut receiver), [7]);
    let retiring = channel.retire().expect("published");
    assert!(channel.settle(retiring).is_ok());
}
