//! SPDK #3353 as a story (docs/THE-BUG.md): the ring that a poller looks at while somebody frees it, the lock that mends it, what the lock still loses, and
//! the same scenes played by this crate's own scheme. No line of SPDK's is here; its poller, registrations and senders are told in a few.

use super::{RACE, STUCK, explore, must_fail};
use crate::ring::Attention;
use crate::ring::lockfree::{LockFree, LockFreeReceiver};
use crate::ring::scheme::{Channel, Quiet, Receiver, Scheme, Sender};
use crate::sync::{Arc, AtomicBool, AtomicU32, Ordering, Protection, UnsafeCell, protected};
use loom::sync::{Mutex, MutexGuard};
use loom::thread;

const NULL: u32 = 0;
const RING: u32 = 1;

/// A controller as SPDK has it: a pointer to a ring of messages that others may free.
struct Spdk {
    /// The controller's lock. Each poll of the admin queue holds it; what was missing was that registrations do.
    ctrlr_lock: Mutex<()>,
    /// The senders' lock.
    senders_lock: Mutex<()>,
    /// The pointer.
    ring: AtomicU32,
    /// What it points to. Freeing it is a use that nobody else's may overlap.
    memory: UnsafeCell<()>,
    /// Messages in it, and those that were executed: counted, since only their fate matters here.
    queued: AtomicU32,
    executed: AtomicU32,
    aborted: AtomicU32,
}

// SAFETY: that uses of the memory do not overlap is what the models ask.
unsafe impl Sync for Spdk {}
// SAFETY: as above.
unsafe impl Send for Spdk {}

impl Spdk {
    fn with_ring(queued: u32) -> Arc<Self> {
        Arc::new(Self {
            ctrlr_lock: Mutex::new(()),
            senders_lock: Mutex::new(()),
            ring: AtomicU32::new(RING),
            memory: UnsafeCell::new(()),
            queued: AtomicU32::new(queued),
            executed: AtomicU32::new(0),
            aborted: AtomicU32::new(0),
        })
    }

    /// Every access to the pointer is relaxed: a plain pointer in C is no better.
    fn pointer(&self) -> u32 {
        self.ring.load(Ordering::Relaxed)
    }

    fn use_memory(&self) {
        self.memory.with_mut(|_| ());
    }

    /// The poll: is there a ring? Then take from the ring; which looks at the pointer a second time.
    fn poll(&self) {
        let _lock = self.ctrlr_lock.lock().unwrap();
        if self.pointer() == NULL {
            return;
        }
        let ring = self.pointer();
        assert_ne!(ring, NULL, "the poller takes a message from a NULL ring");
        self.take_all();
    }

    /// A poll that looks once and keeps what it saw: no NULL any more, but memory that is no longer a ring.
    fn poll_looking_once(&self) {
        let _lock = self.ctrlr_lock.lock().unwrap();
        if self.pointer() != NULL {
            self.use_memory();
        }
    }

    fn take_all(&self) {
        let taken = self.queued.swap(0, Ordering::Relaxed);
        self.executed.fetch_add(taken, Ordering::Relaxed);
    }

    /// The lock that the fix has registrations take.
    fn fix(&self) -> Option<MutexGuard<'_, ()>> {
        protected(Protection::SpdkFix).then(|| self.ctrlr_lock.lock().unwrap())
    }

    /// The last producer is unregistered: the ring is freed.
    fn unregister(&self) {
        let _fix = self.fix();
        self.use_memory();
        self.ring.store(NULL, Ordering::Relaxed);
    }

    /// The same where messages are counted: what lies in the ring is freed with it, or answered first.
    fn unregister_with_messages(&self) {
        let _fix = self.fix();
        self.ring.store(NULL, Ordering::Relaxed);
        let left = self.queued.swap(0, Ordering::Relaxed);
        if protected(Protection::SpdkDrain) {
            self.aborted.fetch_add(left, Ordering::Relaxed);
        }
    }
}

/// Act one: a poll, and an unregistration on another thread.
fn a_poll_meets_an_unregistration() {
    let ctrlr = Spdk::with_ring(0);
    let other = Arc::clone(&ctrlr);
    let unregistering = thread::spawn(move || other.ring_goes());
    ctrlr.poll();
    unregistering.join().unwrap();
}

impl Spdk {
    /// An unregistration of which only the pointer counts.
    fn ring_goes(&self) {
        let _fix = self.fix();
        self.ring.store(NULL, Ordering::Relaxed);
    }
}

#[test]
fn act_1_without_the_lock_the_poller_takes_from_a_null_ring() {
    must_fail(Protection::SpdkFix, "from a NULL ring", a_poll_meets_an_unregistration);
}

#[test]
fn act_2_with_the_lock_it_does_not() {
    explore(3, a_poll_meets_an_unregistration);
}

/// Looking once is no way out.
fn a_poll_that_looks_once_meets_an_unregistration() {
    let ctrlr = Spdk::with_ring(0);
    let other = Arc::clone(&ctrlr);
    let polling = thread::spawn(move || other.poll_looking_once());
    ctrlr.unregister();
    polling.join().unwrap();
}

#[test]
fn act_1_without_the_lock_a_poller_that_looks_once_uses_freed_memory() {
    must_fail(Protection::SpdkFix, RACE, a_poll_that_looks_once_meets_an_unregistration);
}

#[test]
fn act_2_with_the_lock_it_uses_none() {
    explore(3, a_poll_that_looks_once_meets_an_unregistration);
}

/// What the lock does not mend, one: a message is in the ring when the last producer goes.
fn messages_wait_at_the_last_unregistration() {
    let ctrlr = Spdk::with_ring(1);
    let other = Arc::clone(&ctrlr);
    let unregistering = thread::spawn(move || other.unregister_with_messages());
    ctrlr.poll();
    unregistering.join().unwrap();
    let answered = ctrlr.executed.load(Ordering::Relaxed) + ctrlr.aborted.load(Ordering::Relaxed);
    assert_eq!(answered, 1, "an accepted message is answered");
}

#[test]
fn act_3_with_the_lock_an_accepted_message_is_still_lost() {
    must_fail(
        Protection::SpdkDrain,
        "an accepted message is answered",
        messages_wait_at_the_last_unregistration,
    );
}

#[test]
fn act_3_a_drain_would_answer_it() {
    explore(3, messages_wait_at_the_last_unregistration);
}

/// What the lock does not mend, two: senders hold another lock than the one under which the ring is freed.
fn a_sender_meets_an_unregistration() {
    let ctrlr = Spdk::with_ring(0);
    let other = Arc::clone(&ctrlr);
    let sending = thread::spawn(move || {
        let _lock = other.senders_lock.lock().unwrap();
        if other.pointer() != NULL {
            other.use_memory();
        }
    });
    let senders = protected(Protection::SpdkSenders).then(|| ctrlr.senders_lock.lock().unwrap());
    ctrlr.unregister();
    drop(senders);
    sending.join().unwrap();
}

#[test]
fn act_3_with_the_lock_a_sender_still_uses_freed_memory() {
    must_fail(Protection::SpdkSenders, RACE, a_sender_meets_an_unregistration);
}

#[test]
fn act_3_a_second_lock_around_the_freeing_would_keep_it_out() {
    explore(3, a_sender_meets_an_unregistration);
}

type Control = <LockFree as Scheme>::Channel<u32>;

fn poll(attention: &Attention, receiver: &mut LockFreeReceiver<u32>, taken: &mut Vec<u32>) {
    if attention.bits() != 0 {
        receiver.refresh();
    }
    receiver.receive(usize::MAX, None, |message| taken.push(message.take()));
}

/// What the lock does not mend, three: whoever holds it is preempted, and goes on only after the poller has polled. (A word to spin on, and no mutex: loom
/// gives up the whole process when all wait for one.)
fn a_registration_is_preempted_until_the_poller_has_polled() {
    let has_polled = Arc::new(AtomicBool::new(false));
    let preempted = |has_polled: &AtomicBool| {
        // Acquire: pairs with the Release below; nothing but the order is of interest.
        while !has_polled.load(Ordering::Acquire) {
            thread::yield_now();
        }
    };
    if protected(Protection::NoLockInPolls) {
        let attention = Arc::new(Attention::new());
        let (mut channel, mut receiver) = Control::new(&attention);
        drop(channel.publish(2));
        let told = Arc::clone(&has_polled);
        let polling = thread::spawn(move || {
            poll(&attention, &mut receiver, &mut Vec::new());
            told.store(true, Ordering::Release);
            receiver
        });
        // In the middle of an unregistration.
        let mut retiring = channel.retire().unwrap();
        preempted(&has_polled);
        polling.join().unwrap().offline();
        while let Err(again) = channel.settle(retiring) {
            retiring = again;
        }
    } else {
        let is_locked = Arc::new(AtomicBool::new(false));
        let lock = |is_locked: &AtomicBool| {
            while is_locked.swap(true, Ordering::AcqRel) {
                thread::yield_now();
            }
        };
        let (theirs, told) = (Arc::clone(&is_locked), Arc::clone(&has_polled));
        let polling = thread::spawn(move || {
            lock(&theirs);
            theirs.store(false, Ordering::Release);
            told.store(true, Ordering::Release);
        });
        lock(&is_locked);
        preempted(&has_polled);
        is_locked.store(false, Ordering::Release);
        polling.join().unwrap();
    }
}

#[test]
fn act_3_with_the_lock_a_preempted_registration_stops_the_poller() {
    must_fail(Protection::NoLockInPolls, STUCK, a_registration_is_preempted_until_the_poller_has_polled);
}

#[test]
fn act_4_a_preempted_unregistration_does_not_stop_ours() {
    explore(2, a_registration_is_preempted_until_the_poller_has_polled);
}

#[test]
fn act_4_ours_polls_sends_and_unregisters_at_once_and_every_accepted_message_is_answered() {
    explore(2, || {
        let attention = Arc::new(Attention::new());
        let (mut channel, mut receiver) = Control::new(&attention);
        let sender = channel.publish(2);
        receiver.refresh();
        let sending = thread::spawn(move || u32::from(sender.push(7).is_ok()));
        let polling = {
            let attention = Arc::clone(&attention);
            thread::spawn(move || {
                let mut taken = Vec::new();
                poll(&attention, &mut receiver, &mut taken);
                receiver.offline();
                taken
            })
        };
        let mut retiring = channel.retire().unwrap();
        let taken = polling.join().unwrap();
        let mut quiet = loop {
            match channel.settle(retiring) {
                Ok(quiet) => break quiet,
                Err(again) => retiring = again,
            }
        };
        let mut drained = Vec::new();
        while !quiet.drain(|run| run.for_each(|message| drained.push(message.take()))) {
            thread::yield_now();
        }
        let accepted = sending.join().unwrap();
        assert_eq!((taken.len() + drained.len()) as u32, accepted, "executed {taken:?}, aborted {drained:?}");
    });
}
