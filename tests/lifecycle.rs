//! A controller's life on the emulated device: attach, admin calls, I/O, messages, reset, detach.

#[path = "support/meddled.rs"]
mod meddled;
mod support;

use meddled::{Hooks, Meddled};
use slipring::ctrlr::{
    ControllerEvent, Ctrlr, CtrlrOptions, CtrlrState, EventAnswer, Message, OnEvent, Reply, admin,
};
use slipring::emulated::{self, Config, Device, Latency, NamespaceConfig, QueueKind};
use slipring::poller::{PollError, Poller, QpairError, QpairOptions, QueuePair};
use slipring::ring::{AbortReason, LockFree, Outcome};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use support::{DEADLINE, PollThread, Rig, wait_until};

#[test]
fn attach_reads_the_controller_and_detach_leaves_nothing() {
    let rig: Rig = Rig::attach(Config::default());
    assert_eq!(rig.ctrlr.state(), CtrlrState::Live);
    let namespaces = rig.ctrlr.namespaces();
    assert_eq!(namespaces.len(), 1);
    assert!(rig.ctrlr.identity().is_some_and(|identity| !identity.serial().is_empty()));
    let ctrlr = rig.ctrlr.clone();
    rig.finish();
    assert_eq!(ctrlr.state(), CtrlrState::Detached);
    assert_eq!(ctrlr.dma_bytes().1, 0, "DMA memory is unmapped");
}

#[test]
fn io_writes_and_reads_back() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = rig.ctrlr.namespaces()[0];
    let buffer = rig.ctrlr.allocate(8192).expect("memory");
    let pattern: Vec<u8> = (0..8192_u32).map(|i| (i * 7) as u8).collect();
    buffer.write_at(0, &pattern);
    qpair.write(&namespace, 8, buffer.into(), 1).expect("submitted");
    let mut data = None;
    assert!(
        qpair
            .drain(DEADLINE, |completion| {
                assert!(completion.is_success(), "{:?}", completion.outcome);
                data = completion.data;
            })
            .expect("alive")
    );
    let buffer = data.expect("the buffer comes back").into_buffer();
    buffer.fill(0);
    qpair.read(&namespace, 8, buffer.into(), 2).expect("submitted");
    let mut read = Vec::new();
    assert!(
        qpair
            .drain(DEADLINE, |completion| {
                assert_eq!(completion.token, 2);
                assert!(completion.is_success());
                read = completion.data.expect("data").buffer().to_vec();
            })
            .expect("alive")
    );
    assert!(read == pattern, "what was written is read back");
    drop(qpair);
    drop(poller);
    rig.finish();
}

#[test]
fn other_threads_get_their_answers() {
    let rig: Rig = Rig::attach(Config::default());
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("monitor").expect("registered");
    let smart = producer.call(admin::smart_log(), DEADLINE).expect("SMART");
    assert!(smart.temperature_k() > 200);
    let identity = producer.call(admin::identify_ctrlr(), DEADLINE).expect("Identify");
    assert_eq!(Some(identity.serial()), rig.ctrlr.identity().map(|identity| identity.serial()));
    let ticket = producer.send(Message::call(|turn| turn.namespaces().len() as u64)).expect("sent");
    assert!(matches!(ticket.wait(DEADLINE), Ok(Outcome::Completed(Reply::Called(1)))));
    let rescan = producer.send(Message::Rescan).expect("sent");
    assert!(matches!(rescan.wait(DEADLINE), Ok(Outcome::Completed(Reply::Rescanned))));
    let mut qpair = QueuePair::create(&producer, &QpairOptions { entries: 16 }, DEADLINE)
        .expect("a queue pair by message");
    qpair.flush(&rig.ctrlr.namespaces()[0], 7).expect("submitted");
    assert!(qpair.drain(DEADLINE, |completion| assert!(completion.is_success())).expect("alive"));
    drop(qpair);
    rig.ctrlr.unregister("monitor", DEADLINE).expect("unregistered");
    drop(polling.stop());
    rig.finish();
}

#[test]
fn a_reset_gives_requests_back_and_queue_pairs_reconnect() {
    let rig: Rig<LockFree> = Rig::attach(Config::default());
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let polling = PollThread::spawn(poller);
    let namespace = rig.ctrlr.namespaces()[0];
    for round in 0..5 {
        rig.ctrlr.reset().expect("asked").wait(DEADLINE).expect("reset");
        let started = Instant::now();
        while !qpair.is_connected() {
            qpair.poll(8, |_| {}).expect("alive");
            assert!(started.elapsed() < DEADLINE, "connected again");
            std::thread::yield_now();
        }
        qpair.flush(&namespace, round).expect("submitted");
        assert!(qpair.drain(DEADLINE, |completion| assert!(completion.is_success())).expect("alive"));
    }
    assert_eq!(qpair.statistics().reconnects, 5);
    drop(qpair);
    drop(polling.stop());
    rig.finish();
}

#[test]
fn a_reset_gives_back_no_more_at_a_time_than_the_caller_has_places_for() {
    let mut config = Config::default();
    let delay = Duration::from_secs(3600);
    config.latencies.push(Latency { queue: QueueKind::Io, opcode: None, delay });
    let rig: Rig = Rig::attach(config);
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let polling = PollThread::spawn(poller);
    let namespace = rig.ctrlr.namespaces()[0];
    for token in 0..10 {
        let data = rig.ctrlr.allocate(4096).expect("memory").into();
        qpair.read(&namespace, token * 8, data, token).expect("submitted");
    }
    qpair.commit();
    rig.ctrlr.reset().expect("asked").wait(DEADLINE).expect("reset");
    let mut tokens = Vec::new();
    for expected in [4, 4, 2] {
        let mut places = [const { None }; 4];
        assert_eq!(qpair.poll_into(&mut places).expect("alive"), expected);
        for completion in places.into_iter().flatten() {
            let Outcome::Aborted(aborted) = completion.outcome else { panic!("the device never answered") };
            assert_eq!((aborted.reason, aborted.may_have_executed), (AbortReason::Reset, true));
            assert_eq!(completion.data.map(|data| data.len()), Some(4096), "the buffer comes back");
            tokens.push(completion.token);
        }
    }
    tokens.sort_unstable();
    assert_eq!(tokens, (0..10).collect::<Vec<_>>(), "each exactly once");
    drop(qpair);
    drop(polling.stop());
    rig.finish();
}

#[test]
fn nothing_is_submitted_after_the_goodbye() {
    // A reading of so many namespaces is a long chain of commands, each of which follows the one before.
    let namespaces = vec![NamespaceConfig { size_bytes: 4096, ..NamespaceConfig::default() }; 64];
    for _ in 0..20 {
        let rig: Rig = Rig::attach(Config { namespaces: namespaces.clone(), ..Config::default() });
        let mut poller = rig.poller();
        let producer = rig.ctrlr.register("monitor").expect("registered");
        let rescans = [(); 2].map(|()| producer.send(Message::Rescan).expect("sent"));
        while rig.ctrlr.statistics().messages < 2 {
            poller.poll(Instant::now()).expect("alive");
        }
        drop(poller);
        rig.finish();
        for rescan in rescans {
            assert!(rescan.is_ready(), "every message is answered by the end of the detach");
        }
    }
}

#[test]
fn a_detach_in_the_middle_of_a_reset_shuts_down_too() {
    let ready_delay = Duration::from_micros(200);
    for polls in (0..160).step_by(4) {
        let rig: Rig = Rig::attach(Config { ready_delay, ..Config::default() });
        let mut poller = rig.poller();
        let qpair = poller.queue_pair(&QpairOptions { entries: 8 }).expect("a queue pair");
        let reset = rig.ctrlr.reset().expect("asked for");
        for _ in 0..polls {
            poller.poll(Instant::now()).expect("alive");
            std::thread::sleep(Duration::from_micros(5));
        }
        drop(poller);
        let ctrlr = rig.ctrlr.clone();
        // Checks that the device saw no rule broken, as a missing shutdown notification is.
        rig.finish();
        assert_eq!(ctrlr.state(), CtrlrState::Detached);
        assert!(reset.is_over().is_some(), "the reset came to an end, one way or another");
        drop(qpair);
    }
}

#[test]
fn a_controller_that_never_becomes_ready_is_given_up_in_time() {
    let timeout = Duration::from_millis(500);
    let config = Config { timeout, ready_delay: Duration::from_secs(3600), ..Config::default() };
    let (transport, device) = emulated::new(config).expect("valid");
    let _device = device.spawn(None).expect("a thread");
    let begun = Instant::now();
    let error = Ctrlr::<LockFree>::attach(transport, CtrlrOptions::default()).expect_err("it is never ready");
    assert!(begun.elapsed() >= timeout, "it was given the time that it says it needs (CAP.TO)");
    let said = error.to_string();
    assert!(
        said.contains("the controller did not reach CSTS.RDY = 1 within") && said.lines().count() == 1,
        "{said}"
    );
}

/// An emulated device that others meddle with, and what steps it.
fn meddled(config: Config, hooks: Hooks) -> (Arc<Meddled>, Device) {
    let (device, runner) = emulated::new(config).expect("a valid configuration");
    (Meddled::new(device, hooks), runner)
}

/// Whoever asks for a queue pair while the controller goes is told that it has gone, and not that memory or a doorbell was missing on the way.
#[test]
fn a_detach_in_the_midst_of_a_request_for_a_queue_pair_is_what_it_says() {
    let detached: Arc<Mutex<Option<Ctrlr<LockFree>>>> = Arc::default();
    let at_doorbell = Arc::clone(&detached);
    let hooks = Hooks {
        at_doorbell: Box::new(move || {
            let ctrlr = at_doorbell.lock().expect("no panic").take();
            if let Some(ctrlr) = ctrlr {
                ctrlr.detach(DEADLINE).expect("detached");
            }
        }),
        ..Hooks::default()
    };
    let (transport, runner) = meddled(Config::default(), hooks);
    let _runner = runner.spawn(None).expect("a device thread");
    let ctrlr = Ctrlr::<LockFree>::attach(transport, CtrlrOptions::default()).expect("attached");
    *detached.lock().expect("no panic") = Some(ctrlr.clone());
    let refused = QueuePair::request(&ctrlr, &QpairOptions::default()).expect_err("there is none any more");
    assert!(matches!(refused, QpairError::Gone(None)), "{refused}");
    assert_eq!(ctrlr.state(), CtrlrState::Detached);
}

#[test]
fn a_device_that_the_system_wants_back_is_detached_unless_the_embedder_objects() {
    const MS: Duration = Duration::from_millis(1);
    for answer in [EventAnswer::Object, EventAnswer::Proceed] {
        let is_wanted = Arc::new(AtomicBool::new(false));
        let wanted = Arc::clone(&is_wanted);
        // Relaxed: a value of its own.
        let is_wanted_back = Box::new(move || wanted.load(Ordering::Relaxed));
        let (transport, runner) = meddled(Config::default(), Hooks { is_wanted_back, ..Hooks::default() });
        let _runner = runner.spawn(None).expect("a device thread");
        let told = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&told);
        let on_event = OnEvent::new(move |event| {
            assert_eq!(event, &ControllerEvent::RemoveRequested);
            counted.fetch_add(1, Ordering::Relaxed);
            answer
        });
        let options = CtrlrOptions { watch_period: MS, on_event: Some(on_event), ..CtrlrOptions::default() };
        let ctrlr = Ctrlr::<LockFree>::attach(transport, options).expect("attached");
        let mut poller = Poller::new(&ctrlr, "test").expect("the seat is free");
        let mut now = Instant::now();
        let mut poll = || {
            now += MS;
            poller.poll(now)
        };
        for _ in 0..20 {
            poll().expect("well");
        }
        assert_eq!(told.load(Ordering::Relaxed), 0, "nobody wants it");
        is_wanted.store(true, Ordering::Relaxed);
        if answer == EventAnswer::Object {
            for _ in 0..20 {
                poll().expect("the embedder sees to it");
            }
            assert_eq!(ctrlr.state(), CtrlrState::Live);
            assert!(told.load(Ordering::Relaxed) >= 10, "as long as it is wanted");
            drop(poller);
            ctrlr.detach(DEADLINE).expect("detached");
        } else {
            wait_until("the poller is to leave", || matches!(poll(), Err(PollError::Detached)));
            wait_until("it is detached", || ctrlr.state() == CtrlrState::Detached);
        }
    }
}

/// A device that was stopped since it failed, and that the system takes its time to take back: a detach has nothing to say to it.
#[test]
fn a_device_that_has_stopped_is_not_stopped_again() {
    let faults = "wrong-cid opcode=get-log-page nth=1".parse().expect("a fault");
    let (lets_go, closing) = mpsc::channel::<()>();
    // What the first close waits for.
    let closing = Arc::new(Mutex::new(Some(closing)));
    let at_close = Arc::clone(&closing);
    let before_close = Box::new(move || {
        let closing = at_close.lock().expect("no panic").take();
        let _ = closing.map(|closing| closing.recv());
    });
    let hooks = Hooks { before_close, ..Hooks::default() };
    let (transport, mut device) = meddled(Config { faults, ..Config::default() }, hooks);
    let mut attach = Ctrlr::<LockFree>::begin_attach(transport, CtrlrOptions::default()).expect("begins");
    let ctrlr = loop {
        if let Some(ctrlr) = attach.step(Instant::now()).expect("attach") {
            break ctrlr;
        }
        device.step();
    };
    let mut poller = Poller::new(&ctrlr, "test").expect("the seat is free");
    let smart = poller.start_call(admin::smart_log()).expect("running");
    wait_until("it has stopped", || {
        let _ = poller.poll(Instant::now());
        device.step();
        smart.is_ready()
    });
    assert_eq!(ctrlr.state(), CtrlrState::Failed);
    wait_until("it is about to be given back", || closing.lock().expect("no panic").is_none());
    drop(poller);
    assert!(ctrlr.begin_detach(DEADLINE).expect("begins").step(Instant::now()), "nothing is left to be done");
    drop(lets_go);
}
