//! One thread and a device that it steps itself: everything happens in a known order, so what must work at any moment is tried at every moment. Time is given,
//! not waited for.

mod support;

use slipring::ctrlr::{Ctrlr, CtrlrOptions, CtrlrState, Message, Namespace, Reply, admin};
use slipring::emulated::{self, Backing, Config, Latency, NamespaceConfig, QueueKind};
use slipring::poller::{IoCompletion, Poller, QpairError, QpairOptions, QueuePair};
use slipring::ring::{AbortReason, LockFree, Outcome};
use slipring::spec::command::{AdminOpcode, Command};
use slipring::spec::feature::FeatureId;
use slipring::spec::status::Status;
use std::time::{Duration, Instant};
use support::Stepped;

const HOUR: Duration = Duration::from_secs(3600);

fn small() -> Config {
    let namespace = NamespaceConfig { size_bytes: 1 << 20, lba_bytes: 512, backing: Backing::Ram };
    Config { namespaces: vec![namespace], io_queues: 4, ..Config::default() }
}

fn attach(config: Config) -> Stepped<LockFree> {
    Stepped::attach(config, CtrlrOptions::default())
}

/// A queue pair, connected.
fn connect(rig: &mut Stepped<LockFree>, poller: &mut Poller) -> QueuePair {
    let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 8 }).expect("a queue pair");
    rig.run(poller, "connected", || qpair.connected().expect("well"));
    qpair
}

fn read(ctrlr: &Ctrlr<LockFree>, qpair: &mut QueuePair, token: u64) {
    let namespace: Namespace = ctrlr.namespaces()[0];
    let data = ctrlr.allocate(512).expect("memory").into();
    qpair.read(&namespace, token, data, token).expect("submitted");
}

/// What happened, in order, with the step at which it did.
fn life(log: &mut Vec<String>) {
    let base = Instant::now();
    let mut micros = 0;
    let mut now = || {
        micros += 1;
        base + Duration::from_micros(micros)
    };
    let delay = Duration::from_micros(40);
    let slow_reads = Latency { queue: QueueKind::Io, opcode: Some(2), delay };
    let (transport, mut device) =
        emulated::new(Config { latencies: vec![slow_reads], ..small() }).expect("a controller");
    let mut attach =
        Ctrlr::<LockFree>::begin_attach(transport.clone(), CtrlrOptions::default()).expect("begins");
    let mut steps = 0;
    let ctrlr = loop {
        steps += 1;
        if let Some(ctrlr) = attach.step(now()).expect("attach") {
            break ctrlr;
        }
        device.step_at(now());
    };
    log.push(format!("attached after {steps}"));
    let mut poller = Poller::new(&ctrlr, "stepped").expect("the seat");
    let mut qpair = QueuePair::request(&ctrlr, &QpairOptions { entries: 8 }).expect("a queue pair");
    let producer = ctrlr.register("stepped").expect("registered");
    let smart = producer.start_call(admin::smart_log()).expect("sent");
    let namespace = ctrlr.namespaces()[0];
    let (mut sent, mut done) = (0, 0);
    for step in 0..2000 {
        poller.poll(now()).expect("well");
        device.step_at(now());
        if qpair.is_connected() && sent < 20 && step % 3 == 0 {
            let data = ctrlr.allocate(512).expect("memory").into();
            let submitted = if sent % 2 == 0 {
                qpair.read(&namespace, sent, data, sent)
            } else {
                qpair.write(&namespace, sent, data, sent)
            };
            sent += u64::from(submitted.is_ok());
        }
        qpair
            .poll(8, |completion| {
                done += 1;
                log.push(format!("{step}: {} {:?}", completion.token, completion.outcome));
            })
            .expect("well");
        if step == 1000 {
            assert!(smart.is_ready());
            let _ = ctrlr.reset().expect("asked");
            log.push(format!("reset, with {} in flight", qpair.outstanding()));
        }
    }
    assert_eq!((sent, done), (20, 20), "every request once");
    assert_eq!((ctrlr.statistics().resets, qpair.statistics().reconnects), (1, 1));
    log.push(format!("{:?} {:?}", ctrlr.statistics(), qpair.statistics()));
    drop((qpair, poller));
    let mut detach = ctrlr.begin_detach(Duration::from_secs(10)).expect("begins");
    let mut steps = 0;
    while !detach.step(now()) {
        steps += 1;
        device.step_at(now());
        assert!(steps < Stepped::<LockFree>::STEPS);
    }
    log.push(format!("detached after {steps}, {:?}", transport.violations()));
    assert_eq!(transport.violations(), Vec::<String>::new());
}

#[test]
fn a_life_is_the_same_each_time() {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    life(&mut first);
    life(&mut second);
    assert_eq!(first, second);
    // Slow reads are overtaken by quick writes: the device's order, and not the order of submission.
    let place = |token: &str| first.iter().position(|line| line.contains(token)).expect("in the log");
    assert!(place(": 1 Completed") < place(": 0 Completed"), "{first:#?}");
}

/// At every step of a reset, a detach: nothing is left, nothing lost, no rule broken.
#[test]
fn a_detach_may_come_at_any_moment_of_a_reset() {
    let mut met_reset = 0;
    for moment in 0..60 {
        let delay = Duration::from_micros(200);
        let slow = Latency { queue: QueueKind::Io, opcode: None, delay };
        let mut rig = attach(Config { latencies: vec![slow], ..small() });
        let mut poller = rig.poller();
        let mut qpair = connect(&mut rig, &mut poller);
        for token in 0..5 {
            read(&rig.ctrlr, &mut qpair, token);
        }
        qpair.commit();
        let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
        let mut tickets = vec![
            poller.send(Message::Admin { command, data: None }).expect("running"),
            poller.send(Message::Io { command: Command::flush(1), data: None }).expect("running"),
            poller.send(Message::Rescan).expect("running"),
        ];
        let reset = rig.ctrlr.reset().expect("asked");
        for step in 0..moment {
            poller.poll(Instant::now()).expect("well");
            // The device is slower than the driver at some moments, and quicker at others.
            if (step + moment) % 3 != 0 {
                rig.device.step();
            }
        }
        met_reset += usize::from(rig.ctrlr.state() == CtrlrState::Resetting);
        tickets.push(poller.send(Message::Io { command: Command::flush(1), data: None }).expect("running"));
        drop(poller);
        let mut detach = rig.ctrlr.begin_detach(support::DEADLINE).expect("begins");
        for step in 0.. {
            if detach.step(Instant::now()) {
                break;
            }
            if (step + moment) % 2 == 0 {
                rig.device.step();
            }
            assert!(step < Stepped::<LockFree>::STEPS, "moment {moment}: {:?}", rig.ctrlr);
        }
        assert_eq!(rig.ctrlr.dma_bytes(), (0, 0));
        assert!(
            tickets.iter().all(slipring::ring::Ticket::is_ready),
            "moment {moment}: every message is answered"
        );
        assert!(reset.is_over().is_some(), "moment {moment}");
        let mut back = Vec::new();
        while qpair.poll(8, |completion: IoCompletion| back.push(completion.token)).is_ok() {}
        back.sort_unstable();
        assert!(
            back.is_empty() && qpair.statistics().completed + qpair.statistics().aborted == 5
                || back == [0, 1, 2, 3, 4]
        );
        assert_eq!(rig.transport.violations(), Vec::<String>::new(), "moment {moment}");
    }
    assert!((10..60).contains(&met_reset), "the moments lie before, in and after the reset: {met_reset}");
}

/// At every step of its creation a queue pair is dropped, or the controller is reset: in the end it is connected, or its identifier and memory are free.
#[test]
fn a_drop_or_a_reset_may_come_at_any_moment_of_a_creation() {
    for moment in 0..24 {
        let mut rig = attach(small());
        let mut poller = rig.poller();
        poller.poll(Instant::now()).expect("well");
        let calm_bytes = rig.ctrlr.dma_bytes().0;
        let request = |rig: &Stepped<LockFree>| QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 8 });
        let dropped = request(&rig).expect("a queue pair");
        let mut kept = request(&rig).expect("a queue pair");
        for _ in 0..moment {
            poller.poll(Instant::now()).expect("well");
            if moment % 2 == 0 {
                rig.device.step();
            }
        }
        drop(dropped);
        if moment % 3 != 0 {
            let _ = rig.ctrlr.reset().expect("asked");
        }
        for _ in 0..moment {
            poller.poll(Instant::now()).expect("well");
            rig.device.step();
            kept.poll(1, |_| panic!("nothing is in flight")).expect("well");
        }
        let ctrlr = rig.ctrlr.clone();
        rig.run(&mut poller, "connected after all", || {
            kept.poll(1, |_| panic!("nothing is in flight")).expect("well");
            ctrlr.state() == CtrlrState::Live && kept.connected().expect("well")
        });
        read(&ctrlr, &mut kept, 7);
        let mut back = None;
        rig.run(&mut poller, "read", || {
            kept.poll(1, |completion| back = Some(completion.is_success())).expect("well");
            back.is_some()
        });
        assert_eq!(back, Some(true), "moment {moment}");
        drop(kept);
        let mut others = Vec::new();
        rig.run(&mut poller, "all identifiers are free", || {
            others.extend(request_of(&ctrlr).ok());
            others.len() == 3
        });
        others.clear();
        rig.run(&mut poller, "all memory is free", || {
            drop(ctrlr.register("sweeper"));
            let swept = ctrlr.dma_bytes().0 == calm_bytes;
            // The poller, on this same thread, is not waited for: the ring goes when it has come by.
            let _ = ctrlr.unregister("sweeper", Duration::ZERO);
            swept
        });
        drop(poller);
        rig.finish();
    }
}

fn request_of(ctrlr: &Ctrlr<LockFree>) -> Result<QueuePair, QpairError> {
    QueuePair::request(ctrlr, &QpairOptions { entries: 4 })
}

/// A queue pair that was connected, and lost its queues to a reset, before the message that asked for it came to its turn: who waits for the answer gets it.
#[test]
fn a_creation_by_message_is_answered_though_a_reset_came_first() {
    let slow = Latency { queue: QueueKind::Io, opcode: None, delay: HOUR };
    let options = CtrlrOptions { external_queue_entries: 2, ..CtrlrOptions::default() };
    let mut rig: Stepped<LockFree> = Stepped::attach(Config { latencies: vec![slow], ..small() }, options);
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("asks").expect("registered");
    // One in flight and one that is held, so that the ring is not looked at.
    let flush = || Message::Io { command: Command::flush(1), data: None };
    let tickets = [poller.send(flush()).expect("running"), poller.send(flush()).expect("running")];
    let asking = std::thread::spawn(move || {
        QueuePair::create(&producer, &QpairOptions { entries: 4 }, support::DEADLINE).map(|_| ())
    });
    std::thread::sleep(Duration::from_millis(50));
    let mut other = connect(&mut rig, &mut poller);
    for _ in 0..20 {
        poller.poll(Instant::now()).expect("well");
        rig.device.step();
    }
    let reset = rig.ctrlr.reset().expect("asked");
    rig.run(&mut poller, "reset", || reset.is_over().is_some());
    // The held one is in flight now; another reset ends it, and the ring is looked at.
    let reset = rig.ctrlr.reset().expect("asked");
    rig.run(&mut poller, "reset", || reset.is_over().is_some());
    let started = Instant::now();
    while !asking.is_finished() {
        poller.poll(Instant::now()).expect("well");
        rig.device.step();
        assert!(started.elapsed() < support::DEADLINE, "the request is never answered");
    }
    assert_eq!(asking.join().expect("its thread did not panic"), Ok(()));
    assert!(tickets.iter().all(slipring::ring::Ticket::is_ready));
    other.poll(1, |_| panic!("nothing is in flight")).expect("well");
    drop((other, poller));
    rig.finish();
}

#[test]
fn a_creation_by_message_that_the_device_refuses_is_answered_with_its_status() {
    // The external pair's queues are the first.
    let faults = "status=internal-error/dnr queue=admin opcode=0x05 nth=2".parse().expect("a fault");
    let mut rig = attach(Config { faults, ..small() });
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("asks").expect("registered");
    let asking = std::thread::spawn(move || {
        QueuePair::create(&producer, &QpairOptions { entries: 4 }, support::DEADLINE).map(|_| ())
    });
    let started = Instant::now();
    while !asking.is_finished() {
        poller.poll(Instant::now()).expect("well");
        rig.device.step();
        assert!(started.elapsed() < support::DEADLINE, "the request is never answered");
    }
    let refused = QpairError::Refused(Status::INTERNAL_ERROR.with_dnr());
    assert_eq!(asking.join().expect("its thread did not panic"), Err(refused));
    drop(poller);
    rig.finish();
}

/// What is in flight in a queue pair that is dropped keeps its memory until the device has deleted the queues.
#[test]
fn memory_dropped_in_flight_is_kept_until_the_device_cannot_write_to_it() {
    let slow = Latency { queue: QueueKind::Io, opcode: None, delay: HOUR };
    let mut rig = attach(Config { latencies: vec![slow], ..small() });
    let mut poller = rig.poller();
    poller.poll(Instant::now()).expect("well");
    let before = rig.ctrlr.dma_bytes().0;
    let mut qpair = connect(&mut rig, &mut poller);
    for token in 0..4 {
        read(&rig.ctrlr, &mut qpair, token);
    }
    qpair.commit();
    rig.device.step();
    let in_flight = rig.ctrlr.dma_bytes().0;
    assert!(in_flight >= before + 4 * 4096);
    drop(qpair);
    assert_eq!(rig.ctrlr.dma_bytes().0, in_flight, "the device may still write to all of it");
    // The driver asks for the deletion; a device that does not get on keeps the memory.
    for _ in 0..10 {
        poller.poll(Instant::now()).expect("well");
        drop(request_of(&rig.ctrlr).expect("another one"));
        assert!(rig.ctrlr.dma_bytes().0 >= in_flight);
    }
    let ctrlr = rig.ctrlr.clone();
    rig.run(&mut poller, "the memory is free", || {
        drop(request_of(&ctrlr));
        ctrlr.dma_bytes().0 == before
    });
    drop(poller);
    rig.finish();
}

/// A device that takes an hour for everything is detached by the deadline, on a clock that this test keeps.
#[test]
fn a_slow_device_is_detached_by_its_deadline() {
    let slow = |queue, opcode| Latency { queue, opcode, delay: HOUR };
    let features = Some(AdminOpcode::GET_FEATURES.0);
    let delete_sq = Some(AdminOpcode::DELETE_IO_SQ.0);
    let configs = [
        Config { latencies: vec![slow(QueueKind::Io, None), slow(QueueKind::Admin, features)], ..small() },
        Config { latencies: vec![slow(QueueKind::Io, None), slow(QueueKind::Admin, delete_sq)], ..small() },
        Config { shutdown_delay: HOUR, ..small() },
        Config {
            shutdown_delay: HOUR,
            latencies: vec![slow(QueueKind::Io, None), slow(QueueKind::Admin, delete_sq)],
            ..small()
        },
    ];
    for (index, config) in configs.into_iter().enumerate() {
        let mut rig = attach(config);
        let mut poller = rig.poller();
        let mut qpair = connect(&mut rig, &mut poller);
        for token in 0..4 {
            read(&rig.ctrlr, &mut qpair, token);
        }
        qpair.commit();
        let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
        let tickets = [
            poller.send(Message::Admin { command, data: None }).expect("running"),
            poller.send(Message::Io { command: Command::flush(1), data: None }).expect("running"),
        ];
        poller.poll(Instant::now()).expect("well");
        rig.device.step();
        drop(poller);
        let timeout = Duration::from_secs(8);
        let mut detach = rig.ctrlr.begin_detach(timeout).expect("begins");
        let started = Instant::now();
        let mut now = started;
        while !detach.step(now) {
            rig.device.step_at(now);
            now += Duration::from_millis(1);
            assert!(now - started < timeout, "case {index}: not by the deadline, {:?}", rig.ctrlr);
        }
        assert_eq!(rig.ctrlr.state(), CtrlrState::Detached);
        assert_eq!(rig.ctrlr.dma_bytes(), (0, 0));
        for ticket in tickets {
            match ticket.try_take().expect("answered") {
                Outcome::Completed(Reply::Command { .. }) => {}
                Outcome::Aborted(why) => assert_eq!(why.reason, AbortReason::Detached, "case {index}"),
                other @ Outcome::Completed(_) => panic!("case {index}: {other:?}"),
            }
        }
        let mut back = 0;
        while qpair.poll(8, |completion| back += u64::from(completion.data.is_some())).is_ok() {}
        assert_eq!(back, 4, "case {index}: all requests come back, with their data");
        // Where the device did not even get to the shutdown, there was no time left for it: which it rightly says.
        let excused = "the transport was closed without a shutdown notification";
        let violations = rig.transport.violations();
        assert!(violations.iter().all(|violation| violation.starts_with(excused)), "{violations:?}");
        assert!(violations.is_empty() || index >= 2, "case {index}: {violations:?}");
    }
}

/// Dropping an attach at any of its steps leaves a stopped device and no memory.
#[test]
fn an_attach_may_be_dropped_at_any_moment() {
    let mut attached = 0;
    for moment in 0..60 {
        let (transport, mut device) = emulated::new(small()).expect("a controller");
        let options = CtrlrOptions::default();
        let mut attach = Ctrlr::<LockFree>::begin_attach(transport.clone(), options).expect("begins");
        let mut ctrlr = None;
        for step in 0..moment {
            ctrlr = attach.step(Instant::now()).expect("attach");
            if ctrlr.is_some() {
                attached += 1;
                break;
            }
            if (step + moment) % 3 != 0 {
                device.step();
            }
        }
        drop(attach);
        drop(ctrlr);
        device.step();
        assert!(device.is_closed(), "moment {moment}");
        // Without a goodbye, as documented; anything else would be a fault.
        let excused = "the transport was closed without a shutdown notification";
        let early = "CC.EN was cleared before CSTS.RDY had risen";
        let violations = transport.violations();
        let is_excused = |violation: &String| violation.starts_with(excused) || violation.starts_with(early);
        assert!(violations.iter().all(is_excused), "moment {moment}: {violations:?}");
    }
    assert!((1..59).contains(&attached), "the moments lie before and after the end: {attached}");
}
