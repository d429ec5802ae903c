//! SPDK's leftovers, as scenarios on real threads: each defect that its message path still has after the fix of #3353. Every one ends with each
//! accepted message answered, nothing leaked, nobody stuck.

mod support;

use slipring::ctrlr::{
    DetachError, Message, Producer, RegisterError, Reply, SendErrorReason, UnregisterError, WaitsFor, admin,
};
use slipring::emulated::{Config, Latency, QueueKind};
use slipring::poller::{PollError, Poller};
use slipring::ring::{AbortReason, LockFree, Mailbox, Outcome, Scheme, rivals};
use slipring::spec::command::AdminOpcode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{DEADLINE, PollThread, Rig};

/// Outcomes by kind. Relaxed throughout: read after the threads were joined, or polled until it is enough.
#[derive(Debug, Default)]
struct Tally {
    completed: AtomicU64,
    aborted: AtomicU64,
}

impl Tally {
    fn count(&self, outcome: &Outcome<Reply>) {
        match outcome {
            Outcome::Completed(_) => self.completed.fetch_add(1, Ordering::Relaxed),
            Outcome::Aborted(_) => self.aborted.fetch_add(1, Ordering::Relaxed),
        };
    }

    fn answered(&self) -> u64 {
        self.completed.load(Ordering::Relaxed) + self.aborted.load(Ordering::Relaxed)
    }

    fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }
}

fn send_counted<S: Scheme>(producer: &Producer<S>, tally: &Arc<Tally>) -> Result<(), SendErrorReason> {
    let counted = Arc::clone(tally);
    let sent = producer.send_with(Message::call(|_| 0), move |outcome| counted.count(&outcome));
    sent.map_err(|error| error.reason)
}

/// Accepted messages are lost at the last unregister: 50,000 of 50,000 in SPDK, without a live poller.
#[test]
fn what_was_accepted_is_answered_at_the_last_unregister_without_a_poller() {
    let rig: Rig = Rig::attach(Config::default());
    let tally = Arc::new(Tally::default());
    let mut sent = 0;
    for round in 0..50 {
        let producer = rig.ctrlr.register("cuse").expect("registered");
        for _ in 0..1000 {
            send_counted(&producer, &tally).expect("room in the ring");
            sent += 1;
        }
        rig.ctrlr.unregister("cuse", DEADLINE).expect("unregistered");
        assert_eq!(
            tally.answered(),
            sent,
            "round {round}: every accepted message is answered when unregister returns"
        );
        let refused = send_counted(&producer, &tally).expect_err("unregistered");
        assert_eq!(refused, SendErrorReason::Unregistered);
    }
    assert_eq!(tally.aborted(), 50_000);
    rig.finish();
}

/// The same with a live poller: 6,630 of 68,018 lost in SPDK.
#[test]
fn what_was_accepted_is_answered_at_the_last_unregister_with_a_live_poller() {
    fn scenario<S: Scheme>() {
        let rig: Rig<S> = Rig::attach(Config::default());
        let polling = PollThread::spawn(rig.poller());
        let tally = Arc::new(Tally::default());
        let mut sent = 0;
        for round in 0..200 {
            let producer = rig.ctrlr.register("cuse").expect("registered");
            for _ in 0..300 {
                sent += u64::from(send_counted(&producer, &tally).is_ok());
            }
            rig.ctrlr.unregister("cuse", DEADLINE).expect("unregistered");
            // The poller may still be about to answer the few that it took out before it left (the rivals' batch).
            let started = Instant::now();
            while tally.answered() < sent && started.elapsed() < DEADLINE {
                std::thread::yield_now();
            }
            assert_eq!(tally.answered(), sent, "{}: round {round}", S::NAME);
        }
        drop(polling.stop());
        rig.finish();
    }
    scenario::<LockFree>();
    scenario::<rivals::Spinlock>();
    scenario::<rivals::SpinlockFlag>();
    scenario::<rivals::RobustMutex>();
}

/// A sender that races with unregister: SIGSEGV 5 of 5 in SPDK, within 16 ms.
#[test]
fn a_sender_that_races_with_unregister_is_answered_or_refused() {
    let rig: Rig = Rig::attach(Config::default());
    let polling = PollThread::spawn(rig.poller());
    let tally = Arc::new(Tally::default());
    let mut senders = Vec::new();
    for _ in 0..3 {
        let (ctrlr, tally) = (rig.ctrlr.clone(), Arc::clone(&tally));
        senders.push(std::thread::spawn(move || {
            let mut sent = 0;
            let until = Instant::now() + Duration::from_millis(700);
            // Once at least: on a busy machine the time may be over before it begins.
            while sent == 0 || Instant::now() < until {
                // Whoever is first registers; all send through what they have, registered or not.
                let Ok(producer) = ctrlr.register("shared") else {
                    std::thread::yield_now();
                    continue;
                };
                let clone = producer.clone();
                let other = std::thread::spawn({
                    let tally = Arc::clone(&tally);
                    move || (0..200).filter(|_| send_counted(&clone, &tally).is_ok()).count() as u64
                });
                sent += (0..50).filter(|_| send_counted(&producer, &tally).is_ok()).count() as u64;
                ctrlr.unregister("shared", DEADLINE).expect("unregistered under the sender");
                sent += other.join().expect("the other sender");
            }
            sent
        }));
    }
    let sent: u64 = senders.into_iter().map(|sender| sender.join().expect("sender")).sum();
    drop(polling.stop());
    rig.finish();
    assert!(sent > 0);
    assert_eq!(tally.answered(), sent);
}

/// Registering during a reset returns success without a ring: SIGSEGV on the first send after it, every time in SPDK.
#[test]
fn registering_during_a_reset_works_and_its_first_message_is_served_after_it() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = rig.poller();
    poller.poll(Instant::now()).expect("live");
    for round in 0..20 {
        let reset = rig.ctrlr.reset().expect("asked");
        poller.poll(Instant::now()).expect("the reset has begun");
        let producer = rig.ctrlr.register("late").expect("registered during the reset");
        let ticket = producer.send(Message::call(|_| 42)).expect("accepted during the reset");
        let started = Instant::now();
        while !ticket.is_ready() {
            poller.poll(Instant::now()).expect("live");
            if ticket.is_ready() {
                assert!(reset.is_over().is_some(), "round {round}: messages wait for the end of the reset");
            }
            assert!(started.elapsed() < DEADLINE, "round {round}: served");
        }
        assert!(matches!(ticket.try_take(), Ok(Outcome::Completed(Reply::Called(42)))));
        reset.wait(DEADLINE).expect("reset");
        // On the polling thread itself: go offline, so that nobody waits for this thread.
        poller.pause();
        rig.ctrlr.unregister("late", DEADLINE).expect("unregistered");
    }
    drop(poller);
    rig.finish();
}

/// A reply after the session was torn down: use after free, 2 of 2 in SPDK.
#[test]
fn a_command_in_flight_at_unregister_is_answered_by_its_completion() {
    let mut config = Config::default();
    let delay = Duration::from_millis(20);
    config.latencies.push(Latency {
        queue: QueueKind::Admin,
        opcode: Some(AdminOpcode::GET_LOG_PAGE.0),
        delay,
    });
    let rig: Rig = Rig::attach(config);
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("cuse").expect("registered");
    let pending: Vec<_> = (0..8).map(|_| producer.start_call(admin::smart_log()).expect("sent")).collect();
    // Until the poller has taken them all: then they are at the device.
    let started = Instant::now();
    while rig.ctrlr.statistics().messages < 8 {
        assert!(started.elapsed() < DEADLINE, "taken");
        std::thread::yield_now();
    }
    rig.ctrlr.unregister("cuse", DEADLINE).expect("unregistered");
    drop(producer);
    for call in pending {
        call.wait(DEADLINE).expect("answered by its completion");
    }
    drop(polling.stop());
    rig.finish();
}

/// A failing register leaks a descriptor, 50 of 50 in SPDK.
#[test]
fn a_failing_registration_leaks_nothing() {
    let rig: Rig = Rig::attach(Config::default());
    let _producer = rig.ctrlr.register("cuse").expect("registered");
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    let (bytes, open) = (rig.ctrlr.dma_bytes(), descriptors());
    for _ in 0..50 {
        let refused = rig.ctrlr.register("cuse").expect_err("taken");
        assert_eq!(refused, RegisterError::AlreadyRegistered { name: "cuse".into() });
        let unknown = rig.ctrlr.unregister("nobody", DEADLINE).expect_err("unknown");
        assert_eq!(unknown, UnregisterError::NotRegistered { name: "nobody".into() });
    }
    assert_eq!(rig.ctrlr.dma_bytes(), bytes);
    // Other tests of this process open and close descriptors too; fifty leaked ones would show all the same.
    assert!(descriptors() < open + 50, "no descriptor per failure");
    rig.finish();
}

#[test]
fn a_stalled_poller_is_named_and_nothing_is_lost() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = Poller::new(&rig.ctrlr, "reactor 3").expect("free");
    let producer = rig.ctrlr.register("monitor").expect("registered");
    poller.poll(Instant::now()).expect("live");
    let tally = Arc::new(Tally::default());
    for _ in 0..10 {
        send_counted(&producer, &tally).expect("accepted");
    }
    // It does not poll any more: the unregistration says who is inside.
    let stalled =
        rig.ctrlr.unregister("monitor", Duration::from_millis(20)).expect_err("the poller is stalled");
    let UnregisterError::Stalled(who) = &stalled else { panic!("{stalled}") };
    assert_eq!(who.poller.as_deref(), Some("reactor 3"));
    assert!(stalled.to_string().contains("'reactor 3' last polled"), "{stalled}");
    assert_eq!(tally.answered(), 0, "nobody else consumes while the poller may be inside");
    let DetachError::Deadline { waits_for: WaitsFor::Poller(who) } =
        rig.ctrlr.detach(Duration::from_millis(20)).expect_err("stalled")
    else {
        panic!("the poller is what it waits for")
    };
    assert_eq!(who.poller.as_deref(), Some("reactor 3"));
    // It comes back to life, learns that it is over, and the next detach ends.
    assert_eq!(poller.poll(Instant::now()), Err(PollError::Detached));
    rig.finish();
    assert_eq!(tally.answered(), 10);
    let refused = producer.send(Message::Rescan).expect_err("detached");
    assert_eq!(refused.reason, SendErrorReason::Detached);
    assert!(matches!(refused.message, Message::Rescan), "the message comes back");
}

/// An unregister that stalls has closed the ring, and freed the name. What the ring still held is nobody's to answer while the poller may be in it; once that has
/// polled again or gone, the next control operation does, whichever that is. The poller does not, and registrations do not wait for it.
#[test]
fn what_an_unregister_that_stalled_has_left_is_answered_by_the_next_control_operation() {
    #[derive(Debug, PartialEq, Eq)]
    enum Next {
        Register,
        Unregister,
        Detach,
    }
    for next in [Next::Register, Next::Unregister, Next::Detach] {
        for is_dropped in [false, true] {
            let rig: Rig = Rig::attach(Config::default());
            let mut poller = Poller::new(&rig.ctrlr, "reactor 3").expect("free");
            let first = rig.ctrlr.register("monitor").expect("registered");
            poller.poll(Instant::now()).expect("live");
            let (left, fresh) = (Arc::new(Tally::default()), Arc::new(Tally::default()));
            for _ in 0..10 {
                send_counted(&first, &left).expect("accepted");
            }
            let stalled = rig.ctrlr.unregister("monitor", Duration::ZERO).expect_err("the poller is in it");
            assert!(matches!(stalled, UnregisterError::Stalled(_)), "{stalled}");
            let second = rig.ctrlr.register("monitor").expect("the name is free at once");
            assert_eq!(send_counted(&first, &left), Err(SendErrorReason::Unregistered));
            send_counted(&second, &fresh).expect("accepted");
            assert_eq!(left.answered(), 0, "the poller may be in it");
            let mut poller = (!is_dropped).then_some(poller).map(|mut poller| {
                poller.poll(Instant::now()).expect("live");
                assert_eq!(fresh.answered(), 1, "the next registration's messages do not wait");
                poller.pause();
                poller
            });
            assert_eq!(left.answered(), 0, "{next:?}, {is_dropped}: not the poller's any more");
            match next {
                Next::Register => drop(rig.ctrlr.register("other").expect("registered")),
                Next::Unregister => rig.ctrlr.unregister("monitor", DEADLINE).expect("unregistered"),
                Next::Detach => {
                    drop(poller.take());
                    rig.ctrlr.detach(DEADLINE).expect("detached");
                }
            }
            assert_eq!((left.answered(), left.aborted()), (10, 10), "{next:?}, {is_dropped}");
            drop(poller);
            rig.finish();
            assert_eq!(fresh.answered(), 1, "{next:?}, {is_dropped}");
            assert_eq!(fresh.aborted(), u64::from(is_dropped));
            assert_eq!(left.answered(), 10, "each once");
        }
    }
}

#[test]
fn a_poller_that_is_dropped_leaves_the_rest_to_the_detacher() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("monitor").expect("registered");
    poller.poll(Instant::now()).expect("live");
    let tally = Arc::new(Tally::default());
    for _ in 0..100 {
        send_counted(&producer, &tally).expect("accepted");
    }
    drop(poller);
    rig.finish();
    assert_eq!((tally.answered(), tally.aborted()), (100, 100));
}

#[test]
fn a_panic_in_a_message_ends_that_message_and_nothing_else() {
    let rig: Rig = Rig::attach(Config::default());
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("careless").expect("registered");
    let ticket = producer.send(Message::call(|_| panic!("on purpose, inside a message"))).expect("sent");
    let Ok(Outcome::Aborted(aborted)) = ticket.wait(DEADLINE) else { panic!("aborted") };
    assert_eq!(aborted.reason, AbortReason::Panicked);
    assert!(aborted.may_have_executed);
    let ticket = producer.send(Message::call(|_| 1)).expect("sent");
    assert!(matches!(ticket.wait(DEADLINE), Ok(Outcome::Completed(Reply::Called(1)))), "the poller goes on");
    drop(polling.stop());
    rig.finish();
}

/// A panic that takes the polling thread with it, with messages left and the poller on its stack.
#[test]
fn a_polling_thread_that_panics_deposits_the_controller() {
    let rig: Rig = Rig::attach(Config::default());
    let producer = rig.ctrlr.register("monitor").expect("registered");
    let mut poller = rig.poller();
    let tally = Arc::new(Tally::default());
    let panicked = std::thread::spawn({
        let (producer, tally) = (producer.clone(), Arc::clone(&tally));
        move || {
            poller.poll(Instant::now()).expect("live");
            (0..5).for_each(|_| send_counted(&producer, &tally).expect("accepted"));
            panic!("on purpose, in the polling thread");
        }
    });
    assert!(panicked.join().is_err());
    let mut next = Poller::new(&rig.ctrlr, "next").expect("the seat is free again");
    let started = Instant::now();
    while tally.answered() < 5 {
        next.poll(Instant::now()).expect("live");
        assert!(started.elapsed() < DEADLINE);
    }
    next.detach(DEADLINE).expect("from the polling thread");
    rig.finish();
}

#[test]
fn what_would_wait_for_itself_is_refused_with_the_reason() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("inside").expect("registered");
    let (ctrlr, clone) = (rig.ctrlr.clone(), producer.clone());
    let ticket = producer
        .send(Message::call(move |_| {
            assert_eq!(ctrlr.detach(DEADLINE), Err(DetachError::InsidePoll));
            assert_eq!(ctrlr.unregister("inside", DEADLINE), Err(UnregisterError::InsidePoll));
            let waited = Instant::now();
            let pending = clone.send(Message::Rescan).expect("sent").wait(DEADLINE);
            assert!(pending.is_err(), "still pending, and said so at once");
            assert!(waited.elapsed() < DEADLINE / 2);
            ctrlr.register("from inside").map(|_| 7).expect("registering waits for nobody")
        }))
        .expect("sent");
    let started = Instant::now();
    while !ticket.is_ready() {
        poller.poll(Instant::now()).expect("live");
        assert!(started.elapsed() < DEADLINE);
    }
    assert!(matches!(ticket.try_take(), Ok(Outcome::Completed(Reply::Called(7)))));
    poller.detach(DEADLINE).expect("outside it is fine");
    rig.finish();
}

#[test]
fn two_detachers_and_registrations_that_race_with_them() {
    for _ in 0..50 {
        let rig: Rig = Rig::attach(Config::default());
        let polling = PollThread::spawn(rig.poller());
        let tally = Arc::new(Tally::default());
        let detachers: Vec<_> = (0..2)
            .map(|_| {
                let ctrlr = rig.ctrlr.clone();
                std::thread::spawn(move || ctrlr.detach(DEADLINE))
            })
            .collect();
        let mut sent = 0;
        for round in 0..1000 {
            match rig.ctrlr.register(&format!("racer {round}")) {
                Ok(producer) => sent += u64::from(send_counted(&producer, &tally).is_ok()),
                Err(RegisterError::Detached) => break,
                Err(error) => panic!("{error}"),
            }
        }
        for detacher in detachers {
            detacher.join().expect("no panic").expect("both see it detached");
        }
        assert_eq!(tally.answered(), sent);
        assert!(polling.stop().is_none(), "the poller learnt of it");
        rig.finish();
    }
}

#[test]
fn a_full_ring_and_a_full_window_give_the_message_back() {
    let options = slipring::ctrlr::CtrlrOptions { ring_slots: 4, ..Default::default() };
    let rig: Rig = Rig::attach_with(Config::default(), options);
    let producer = rig.ctrlr.register("eager").expect("registered");
    let mut mailbox = Mailbox::new(6);
    for token in 0..4 {
        producer.send_to(&mut mailbox, token, Message::call(|_| 0)).expect("room");
    }
    let full = producer.send_to(&mut mailbox, 4, Message::Rescan).expect_err("full");
    assert_eq!(full.reason, SendErrorReason::Full);
    assert!(matches!(full.message, Message::Rescan));
    assert_eq!(mailbox.in_flight(), 4, "the credit came back");
    let mut poller = rig.poller();
    let mut seen = Vec::new();
    let started = Instant::now();
    while seen.len() < 4 {
        poller.poll(Instant::now()).expect("live");
        mailbox.receive(|token, outcome| {
            seen.push((token, matches!(outcome, Outcome::Completed(Reply::Called(0)))));
        });
        assert!(started.elapsed() < DEADLINE);
    }
    assert_eq!(seen, [(0, true), (1, true), (2, true), (3, true)], "in order");
    let mut narrow = Mailbox::new(1);
    producer.send_to(&mut narrow, 0, Message::call(|_| 0)).expect("room");
    let window = producer.send_to(&mut narrow, 1, Message::Rescan).expect_err("the window is used up");
    assert_eq!(window.reason, SendErrorReason::WindowFull);
    poller.detach(DEADLINE).expect("detached");
    rig.finish();
}

/// A controller whose last handle is dropped, with no detach: what was accepted is answered, in the published ring and in those on their way out, and no
/// more is accepted from producers that are left. Found by simulation (seed 9, first of its life).
#[test]
fn a_controller_that_is_dropped_answers_what_was_accepted() {
    for keeps_polling in [false, true] {
        let Rig { ctrlr, transport: _, device: _device } = Rig::<LockFree>::attach(Config::default());
        let tally = Arc::new(Tally::default());
        let mut poller = Poller::new(&ctrlr, "test").expect("the seat");
        let first = ctrlr.register("first").expect("registered");
        poller.poll(Instant::now()).expect("well");
        send_counted(&first, &tally).expect("room in the ring");
        let stalled = ctrlr.unregister("first", Duration::ZERO);
        assert!(
            matches!(stalled, Err(UnregisterError::Stalled(_))),
            "the poller is still in it: {stalled:?}"
        );
        let second = ctrlr.register("second").expect("registered");
        send_counted(&second, &tally).expect("room in the ring");
        if keeps_polling {
            poller.poll(Instant::now()).expect("well");
            send_counted(&second, &tally).expect("room in the ring");
        }
        drop(poller);
        drop(ctrlr);
        assert_eq!(tally.answered(), if keeps_polling { 3 } else { 2 });
        assert_eq!(tally.aborted(), 2);
        assert_eq!(send_counted(&second, &tally), Err(SendErrorReason::Detached));
    }
}
