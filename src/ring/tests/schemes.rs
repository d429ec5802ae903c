//! All four schemes, one test body each: what was sent is received or drained, once, whatever comes and goes meanwhile.

use super::{Census, Counted};
use crate::ring::distance::{DISTANCE, PATIENCE_POLLS};
use crate::ring::inside::is_inside_poll;
use crate::ring::mpsc::PushError;
use crate::ring::rivals::{RobustMutex, Spinlock, SpinlockFlag};
use crate::ring::scheme::{BATCH, Channel, Quiet, Receiver, Scheme, Sender};
use crate::ring::{Attention, LockFree};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

type Control<S> = <S as Scheme>::Channel<Counted>;
type SenderOf<S> = <Control<S> as Channel<Counted>>::Sender;
type ReceiverOf<S> = <Control<S> as Channel<Counted>>::Receiver;
type RetiringOf<S> = <Control<S> as Channel<Counted>>::Retiring;
type QuietOf<S> = <Control<S> as Channel<Counted>>::Quiet;

/// One poll, as the poller makes it; adds what it took to `taken`.
fn poll<S: Scheme>(attention: &Attention, receiver: &mut ReceiverOf<S>, taken: &mut Vec<u64>) -> usize {
    poll_at::<S>(None, attention, receiver, taken)
}

/// The same at a time, of a poller that comes back soon.
fn poll_at<S: Scheme>(
    now: Option<Instant>,
    attention: &Attention,
    receiver: &mut ReceiverOf<S>,
    taken: &mut Vec<u64>,
) -> usize {
    receiver.enter();
    if attention.bits() != 0 {
        receiver.refresh();
    }
    let count = receiver.receive(8, now, |message| {
        assert!(is_inside_poll(), "what is received runs inside a poll");
        taken.push(message.get().id);
    });
    assert!(!is_inside_poll(), "and nothing else does");
    receiver.leave();
    count
}

/// Settles, with `meanwhile` between two tries.
fn settle<S: Scheme>(
    channel: &mut Control<S>,
    mut retiring: RetiringOf<S>,
    mut meanwhile: impl FnMut(),
) -> QuietOf<S> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        match channel.settle(retiring) {
            Ok(quiet) => return quiet,
            Err(again) => retiring = again,
        }
        assert!(Instant::now() < deadline, "the receiver never leaves");
        meanwhile();
    }
}

fn drain(mut quiet: impl Quiet<Counted>) -> Vec<u64> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut drained = Vec::new();
    while !quiet.drain(|run| run.for_each(|message| drained.push(message.get().id))) {
        assert!(Instant::now() < deadline, "a claimed slot is never written");
        thread::yield_now();
    }
    drained
}

/// Ends a storm with the thread that holds this, whose panic the others would wait for otherwise.
struct Ends<'s>(&'s AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        // Relaxed: see `Storm::is_over`.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What the threads of a storm share.
struct Storm<S: Scheme> {
    attention: Arc<Attention>,
    /// The sender of the newest ring, as a registry would give it out.
    current: Mutex<Option<SenderOf<S>>>,
    stop: AtomicBool,
    /// Whether the poller has received anything.
    has_received: AtomicBool,
    census: Census,
}

impl<S: Scheme> Storm<S> {
    fn is_over(&self) -> bool {
        // Relaxed: a hint to end; what is counted is counted after the joins.
        self.stop.load(Ordering::Relaxed)
    }

    /// Polls until the end; returns what it took.
    fn poll(&self, mut receiver: ReceiverOf<S>) -> Vec<u64> {
        let _ends = Ends(&self.stop);
        let mut taken = Vec::new();
        let mut polls = 0_u64;
        while !self.is_over() {
            let now = Some(Instant::now());
            if poll_at::<S>(now, &self.attention, &mut receiver, &mut taken) == 0 {
                thread::yield_now();
            } else {
                // Relaxed: a hint as well.
                self.has_received.store(true, Ordering::Relaxed);
            }
            polls += 1;
            if polls.is_multiple_of(1_000) {
                receiver.offline();
            }
        }
        taken
    }

    /// Sends, alone and in batches, through whatever ring there is; returns what was accepted.
    fn produce(&self, first: u64) -> Vec<u64> {
        let _ends = Ends(&self.stop);
        let mut accepted = Vec::new();
        let mut id = first;
        while !self.is_over() {
            let Some(sender) = self.current.lock().unwrap().clone() else {
                thread::yield_now();
                continue;
            };
            while !self.is_over() {
                let (count, refusal) = self.send(&sender, id);
                accepted.extend(id..id + count);
                id += count;
                match refusal {
                    Some(PushError::Closed(())) => break,
                    Some(PushError::Full(())) => thread::yield_now(),
                    None => {}
                }
            }
        }
        accepted
    }

    fn send(&self, sender: &SenderOf<S>, id: u64) -> (u64, Option<PushError<()>>) {
        if id.is_multiple_of(4) {
            let mut made = Vec::new();
            let pushed = sender.push_with(3, |index, place| {
                made.push(index);
                place.fill(self.census.value(id + index as u64))
            });
            made.sort_unstable();
            return match pushed {
                Ok(count) => {
                    assert!(made.iter().copied().eq(0..count), "made as are accepted: {made:?} of {count}");
                    (count as u64, None)
                }
                Err(refusal) => (0, Some(refusal)),
            };
        }
        match sender.push(self.census.value(id)) {
            Ok(()) => (1, None),
            Err(PushError::Full(message)) => {
                assert_eq!(message.id, id);
                (0, Some(PushError::Full(())))
            }
            Err(PushError::Closed(message)) => {
                assert_eq!(message.id, id);
                (0, Some(PushError::Closed(())))
            }
        }
    }

    /// Publishes and retires until the end; returns what it drained. Two rings retire at a time now and then.
    fn register_and_unregister(&self, mut channel: Control<S>) -> Vec<u64> {
        let _ends = Ends(&self.stop);
        let mut drained = Vec::new();
        let end = Instant::now() + Duration::from_millis(700);
        let mut cycles = 0_u32;
        let mut earlier = None;
        // Longer on a machine that is so busy that the poller has not had its turn.
        let has_received = || self.has_received.load(Ordering::Relaxed);
        while !self.is_over() && (Instant::now() < end || cycles < 10 || !has_received()) {
            assert!(Instant::now() < end + Duration::from_secs(120), "the poller receives nothing");
            *self.current.lock().unwrap() = Some(channel.publish(16));
            for _ in 0..cycles % 50 {
                thread::yield_now();
            }
            *self.current.lock().unwrap() = None;
            let retiring = channel.retire().unwrap();
            cycles += 1;
            if cycles.is_multiple_of(3) {
                earlier = Some(retiring);
                continue;
            }
            for retiring in earlier.take().into_iter().chain([retiring]) {
                drained.extend(drain(settle::<S>(&mut channel, retiring, thread::yield_now)));
            }
        }
        assert!(channel.retire().is_none(), "nothing is published any more");
        if let Some(retiring) = earlier {
            drained.extend(drain(settle::<S>(&mut channel, retiring, thread::yield_now)));
        }
        drained
    }
}

fn storm<S: Scheme>() {
    let attention = Arc::new(Attention::new());
    let (channel, receiver) = Control::<S>::new(&attention);
    let census = Census::default();
    let storm = Storm::<S> {
        attention,
        current: Mutex::new(None),
        stop: AtomicBool::new(false),
        has_received: AtomicBool::new(false),
        census,
    };
    let (mut accepted, taken, drained) = thread::scope(|scope| {
        let producers: Vec<_> = (0..3_u64)
            .map(|producer| {
                scope.spawn({
                    let storm = &storm;
                    move || storm.produce(producer << 32)
                })
            })
            .collect();
        let polling = scope.spawn(|| storm.poll(receiver));
        let drained = storm.register_and_unregister(channel);
        let accepted: Vec<_> = producers.into_iter().flat_map(|producer| producer.join().unwrap()).collect();
        (accepted, polling.join().unwrap(), drained)
    });
    assert!(!taken.is_empty(), "the poller received something");
    for producer in 0..3 {
        let from_it = taken.iter().filter(|&&id| id >> 32 == producer);
        assert!(from_it.is_sorted_by(|one, next| one < next), "received in the order of producer {producer}");
    }
    let mut arrived = [taken, drained].concat();
    arrived.sort_unstable();
    accepted.sort_unstable();
    assert!(arrived.is_sorted_by(|one, next| one < next), "nothing arrives twice");
    assert_eq!(arrived.len(), accepted.len(), "as much arrived as was sent");
    assert_eq!(arrived, accepted);
    assert_eq!(storm.census.count(), 0);
}

/// Messages that the receiver has no chance to take are drained, and a sender that comes too late gets its own back.
fn leftovers_are_drained<S: Scheme>() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<S>::new(&attention);
    let mut taken = Vec::new();
    let sender = channel.publish(4);
    sender.push(census.value(0)).unwrap();
    assert_eq!(poll::<S>(&attention, &mut receiver, &mut taken), 1);
    for id in 1..5 {
        sender.push(census.value(id)).unwrap();
    }
    assert!(matches!(sender.push(census.value(5)), Err(PushError::Full(message)) if message.id == 5));
    let retiring = channel.retire().unwrap();
    assert!(matches!(sender.push(census.value(6)), Err(PushError::Closed(message)) if message.id == 6));
    assert_eq!(sender.push_with(1, |_, _| unreachable!("there is no slot")), Err(PushError::Closed(())));
    receiver.offline();
    assert_eq!(drain(settle::<S>(&mut channel, retiring, || ())), [1, 2, 3, 4]);
    assert_eq!(poll::<S>(&attention, &mut receiver, &mut taken), 0);
    assert!(channel.retire().is_none());
    assert_eq!((taken, census.count()), (vec![0], 0));
}

/// The next ring is served while the last one has not been drained yet.
fn rings_follow_each_other<S: Scheme>() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<S>::new(&attention);
    let mut taken = Vec::new();
    channel.publish(2).push(census.value(1)).unwrap();
    let first = channel.retire().unwrap();
    channel.publish(2).push(census.value(2)).unwrap();
    poll::<S>(&attention, &mut receiver, &mut taken);
    assert_eq!(taken, [2]);
    let second = channel.retire().unwrap();
    let mut polls = || {
        poll::<S>(&attention, &mut receiver, &mut taken);
    };
    assert_eq!(drain(settle::<S>(&mut channel, first, &mut polls)), [1]);
    assert_eq!(drain(settle::<S>(&mut channel, second, &mut polls)), [0; 0]);
    assert_eq!(attention.bits() & Attention::RETIRING, 0);
    assert_eq!(census.count(), 0);
}

/// A receiver that keeps its distance leaves messages for some polls, and none for good.
fn a_stream_is_taken_to_its_end<S: Scheme>() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<S>::new(&attention);
    let sender = channel.publish(64);
    let sent = BATCH + DISTANCE + BATCH + 4;
    (0..sent as u64).for_each(|id| sender.push(census.value(id)).unwrap());
    let now = Some(Instant::now());
    let (mut taken, mut polls) = (Vec::new(), Vec::new());
    while taken.len() < sent && polls.len() < 1_000 {
        polls.push(poll_at::<S>(now, &attention, &mut receiver, &mut taken));
    }
    assert_eq!(taken, (0..sent as u64).collect::<Vec<_>>());
    let mut expected = vec![BATCH; (BATCH + DISTANCE) / BATCH];
    // Behind these, 12 are fewer than it waits for.
    expected.extend([0; PATIENCE_POLLS as usize]);
    expected.extend([BATCH, 4]);
    assert_eq!(polls, expected);
}

/// The same tests for each scheme.
macro_rules! for_each_scheme {
    ($($module:ident: $scheme:ty,)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn in_a_storm_everything_sent_arrives_once() {
                storm::<$scheme>();
            }

            #[test]
            fn leftovers_are_drained() {
                super::leftovers_are_drained::<$scheme>();
            }

            #[test]
            fn a_stream_is_taken_to_its_end() {
                super::a_stream_is_taken_to_its_end::<$scheme>();
            }

            #[test]
            fn rings_follow_each_other() {
                super::rings_follow_each_other::<$scheme>();
            }
        }
    )*};
}

for_each_scheme! {
    lock_free: LockFree,
    spinlock: Spinlock,
    spinlock_flag: SpinlockFlag,
    robust_mutex: RobustMutex,
}

#[test]
fn a_reader_that_stalls_holds_the_retirement_up_until_it_looks() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<LockFree>::new(&attention);
    let sender = channel.publish(2);
    receiver.refresh();
    assert!(receiver.is_online());
    let mut retiring = channel.retire().unwrap();
    for _ in 0..300 {
        // (More than the 128 pins after which the collector drives itself on.)
        retiring = channel.settle(retiring).expect_err("the reader has not moved");
    }
    assert_ne!(attention.bits() & Attention::RETIRING, 0);
    let mut looks = 0;
    let quiet = settle::<LockFree>(&mut channel, retiring, || {
        receiver.refresh();
        looks += 1;
    });
    assert!((1..=2).contains(&looks), "one or two looks suffice: {looks}");
    assert_eq!(attention.bits() & Attention::RETIRING, 0);
    assert_eq!(drain(quiet), [0; 0]);
    drop(sender.push(census.value(1)));
}

/// The receiver remembers where the next message will appear: also when it was thrown out of the last one, and however far the ring has wrapped.
#[test]
fn a_receiver_that_panics_finds_what_comes_next() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<LockFree>::new(&attention);
    let sender = channel.publish(2);
    let mut taken = Vec::new();
    for id in 0..8 {
        sender.push(census.value(id)).unwrap();
        if id % 2 == 0 {
            receiver.refresh();
            let panicking = || receiver.receive(8, None, |_| panic!("on purpose"));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        } else {
            assert_eq!(poll::<LockFree>(&attention, &mut receiver, &mut taken), 1);
        }
        assert_eq!(poll::<LockFree>(&attention, &mut receiver, &mut taken), 0);
    }
    assert_eq!((taken, census.count()), (vec![1, 3, 5, 7], 0));
}

#[test]
fn a_reader_that_is_offline_or_gone_holds_nobody_up() {
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<LockFree>::new(&attention);
    drop(channel.publish(2));
    receiver.refresh();
    receiver.offline();
    assert!(!receiver.is_online());
    let retiring = channel.retire().unwrap();
    assert!(channel.settle(retiring).or_else(|retiring| channel.settle(retiring)).is_ok());

    drop(channel.publish(2));
    receiver.refresh();
    let retiring = channel.retire().unwrap();
    drop(receiver);
    assert!(channel.settle(retiring).or_else(|retiring| channel.settle(retiring)).is_ok());
}

#[test]
fn nothing_grows_over_many_registrations() {
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Control::<LockFree>::new(&attention);
    let mut rings = Vec::new();
    for _ in 0..2_000 {
        let sender = channel.publish(2);
        rings.push(Arc::downgrade(&sender));
        drop(sender);
        receiver.refresh();
        let retiring = channel.retire().unwrap();
        drop(settle::<LockFree>(&mut channel, retiring, || receiver.refresh()));
    }
    receiver.refresh();
    let alive = rings.iter().filter(|ring| ring.strong_count() > 0).count();
    assert_eq!(alive, 0, "every ring is freed");
}
