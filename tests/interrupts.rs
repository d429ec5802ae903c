//! Waiting instead of spinning, on the emulated device's interrupts: nothing is slept through, and waiting mixes with polling.

mod support;

use slipring::ctrlr::{AttachError, Ctrlr, CtrlrOptions, Message, Reply, admin};
use slipring::emulated::{self, Config, Latency, QueueKind};
use slipring::poller::{PollError, QpairOptions, QueuePair};
use slipring::ring::{LockFree, Mailbox, Outcome};
use slipring::spec::command::Command;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};
use support::{DEADLINE, Rig, Stepped};

/// Far longer than anything takes: a sleep that is not ended by what it waits for fails the test's deadline.
const LONG: Duration = Duration::from_secs(3600);

fn with_interrupts() -> CtrlrOptions {
    // The health watch must not be what wakes the poller.
    CtrlrOptions { interrupts: true, watch_period: LONG, ..CtrlrOptions::default() }
}

/// A thread that never spins: it only waits.
fn waiting_thread(rig: &Rig) -> std::thread::JoinHandle<u64> {
    let mut poller = rig.poller();
    std::thread::spawn(move || {
        let mut waits = 0;
        loop {
            match poller.wait(LONG) {
                Ok(_) => waits += 1,
                Err(PollError::Detached) => return waits,
                Err(error) => panic!("{error}"),
            }
        }
    })
}

#[test]
fn a_sleeping_poller_is_woken_by_messages_completions_registrations_and_detach() {
    let config = Config { nssr: Some(Duration::from_millis(5)), ..Config::default() };
    let rig: Rig = Rig::attach_with(config, with_interrupts());
    let waiting = waiting_thread(&rig);
    for round in 0..50 {
        let producer = rig.ctrlr.register("monitor").expect("registered");
        // Long enough now and then for the poller to be asleep.
        std::thread::sleep(Duration::from_millis(round % 3));
        let ticket = producer.send(Message::call(|_| 5)).expect("sent");
        assert!(matches!(ticket.wait(DEADLINE), Ok(Outcome::Completed(Reply::Called(5)))), "round {round}");
        producer.call(admin::smart_log(), DEADLINE).expect("a completion wakes it");
        let flush = Message::Io { command: Command::flush(1), data: None };
        let flushed = producer.send(flush).expect("sent").wait(DEADLINE);
        assert!(matches!(flushed, Ok(Outcome::Completed(_))), "one of an I/O message too: {flushed:?}");
        rig.ctrlr.unregister("monitor", DEADLINE).expect("a retirement wakes it");
    }
    rig.ctrlr.reset().expect("asked").wait(DEADLINE).expect("a reset wakes it, and ends");
    rig.ctrlr.reset_subsystem().expect("there is one").wait(DEADLINE).expect("and one of the subsystem");
    let producer = rig.ctrlr.register("monitor").expect("registered");
    producer.call(admin::smart_log(), DEADLINE).expect("its interrupts were connected again");
    rig.finish();
    let waits = waiting.join().expect("no panic");
    assert!(waits > 50, "{waits} waits");
}

#[test]
fn no_message_of_a_storm_is_slept_through() {
    let rig: Rig = Rig::attach_with(Config::default(), with_interrupts());
    let waiting = waiting_thread(&rig);
    let producer = rig.ctrlr.register("storm").expect("registered");
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let producer = producer.clone();
            std::thread::spawn(move || {
                let mut mailbox = Mailbox::new(4);
                let (mut sent, mut received) = (0_u64, 0_u64);
                let started = Instant::now();
                while received < 5000 {
                    if sent < 5000 && producer.send_to(&mut mailbox, sent, Message::call(|_| 1)).is_ok() {
                        sent += 1;
                    }
                    received += mailbox
                        .receive(|_, outcome| assert!(matches!(outcome, Outcome::Completed(_))))
                        as u64;
                    assert!(started.elapsed() < DEADLINE, "{received} of {sent} answered");
                }
            })
        })
        .collect();
    for sender in senders {
        sender.join().expect("every message was answered");
    }
    rig.finish();
    waiting.join().expect("no panic");
}

/// A poller that polls may leave messages for a moment, until more of them have come. One that is about to sleep must not.
#[test]
fn no_message_that_a_poll_left_is_slept_through() {
    let rig: Rig = Rig::attach_with(Config::default(), with_interrupts());
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("burst").expect("registered");
    let mut mailbox = Mailbox::new(16);
    let receive = |mailbox: &mut Mailbox<Reply>| {
        mailbox.receive(|_, outcome| assert!(matches!(outcome, Outcome::Completed(_))))
    };
    for id in 0..12 {
        producer.send_to(&mut mailbox, id, Message::call(|_| 0)).expect("there is room");
    }
    let now = Instant::now();
    let mut received = 0;
    while received < 8 {
        poller.poll(now).expect("live");
        received += receive(&mut mailbox);
    }
    assert_eq!(received, 8, "a full batch, after which a poll would leave the others for a moment");
    poller.wait(LONG).expect("live");
    assert_eq!(receive(&mut mailbox), 4, "taken before the sleep");
    drop(poller);
    rig.finish();
}

#[test]
fn a_queue_pair_waits_polls_and_waits_again() {
    waits_and_polls(with_interrupts());
    // Without an external queue pair the first one has a vector of its own.
    waits_and_polls(CtrlrOptions { external_queue_entries: 0, ..with_interrupts() });
}

fn waits_and_polls(options: CtrlrOptions) {
    let mut config = Config::default();
    config.latencies.push(Latency { queue: QueueKind::Io, opcode: None, delay: Duration::from_millis(2) });
    let rig: Rig = Rig::attach_with(config, options);
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    assert!(qpair.interrupt_descriptor().is_some());
    let namespace = rig.ctrlr.namespaces()[0];
    let started = Instant::now();
    let mut completed = 0;
    for token in 0..100 {
        qpair.flush(&namespace, token).expect("submitted");
        let waits_at_all = token % 4 != 3;
        while qpair.outstanding() > 0 {
            if waits_at_all {
                qpair.wait(LONG);
            }
            completed += qpair.poll(8, |completion| assert!(completion.is_success())).expect("alive");
            assert!(started.elapsed() < DEADLINE);
        }
    }
    assert_eq!(completed, 100);
    drop(qpair);
    drop(poller);
    rig.finish();
}

/// Whether the descriptor that its owner may sleep on was signalled; clears it.
fn was_signalled(qpair: &QueuePair) -> bool {
    let descriptor = qpair.interrupt_descriptor().expect("it has a vector of its own");
    let descriptor = descriptor.try_clone_to_owned().expect("another one");
    File::from(descriptor).read(&mut [0; 8]).is_ok()
}

#[test]
fn completions_of_a_queue_pair_signal_its_descriptor_and_no_other() {
    for external_queue_entries in [0, 64] {
        let options = CtrlrOptions { external_queue_entries, ..with_interrupts() };
        let mut rig: Stepped = Stepped::attach(Config::default(), options);
        let mut poller = rig.poller();
        let request = |()| QueuePair::request(&rig.ctrlr, &QpairOptions::default()).expect("a queue pair");
        let mut qpairs = [(); 2].map(request);
        rig.run(&mut poller, "connected", || qpairs.iter_mut().all(|qpair| qpair.connected().expect("well")));
        for place in [0, 1] {
            assert!(!qpairs.iter().any(was_signalled));
            qpairs[place].flush(&rig.ctrlr.namespaces()[0], 7).expect("submitted");
            qpairs[place].commit();
            rig.run(&mut poller, "signalled", || was_signalled(&qpairs[place]));
            assert!(!was_signalled(&qpairs[1 - place]));
            assert_eq!(qpairs[place].poll(8, |completion| assert!(completion.is_success())), Ok(1));
            // A signal for what was polled already ends one wait, and no more.
            qpairs[place].flush(&rig.ctrlr.namespaces()[0], 8).expect("submitted");
            let mut count = 0;
            rig.run(&mut poller, "answered", || {
                count += qpairs[place].poll(8, |_| ()).expect("well");
                count == 1
            });
            qpairs[place].wait(LONG);
            assert!(!was_signalled(&qpairs[place]));
        }
        drop((qpairs, poller));
        rig.finish();
    }
}

#[test]
fn with_too_few_vectors_queue_pairs_nap_and_without_any_attach_says_so() {
    let config = Config { interrupts: 1, ..Config::default() };
    let rig: Rig = Rig::attach_with(config, with_interrupts());
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    assert!(qpair.interrupt_descriptor().is_none(), "the one vector is the poller's");
    qpair.flush(&rig.ctrlr.namespaces()[0], 0).expect("submitted");
    let started = Instant::now();
    while qpair.poll(8, |_| {}).expect("alive") == 0 {
        qpair.wait(LONG);
        assert!(started.elapsed() < DEADLINE);
    }
    drop(qpair);
    drop(poller);
    rig.finish();

    let config = Config { interrupts: 0, ..Config::default() };
    let (transport, device) = emulated::new(config).expect("valid");
    let _device = device.spawn(None).expect("a thread");
    let refused = Ctrlr::<LockFree>::attach(transport, with_interrupts()).expect_err("no vectors");
    assert!(matches!(refused, AttachError::Failed { .. }));
    assert!(refused.to_string().contains("no interrupt vectors"), "{refused}");
}
