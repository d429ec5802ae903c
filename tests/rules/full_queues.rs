//! Queues that are full: what waits for room, and who comes first when there is some.

use crate::support::{DEADLINE, PollThread, Rig, Stepped, wait_until};
use slipring::ctrlr::{CtrlrOptions, Message, Reply, SendErrorReason};
use slipring::emulated::{Config, Latency, QueueKind};
use slipring::poller::{Poller, QpairOptions, QueuePair};
use slipring::ring::{LockFree, Outcome, Ticket};
use slipring::spec::command::Command;
use slipring::spec::feature::FeatureId;
use slipring::spec::status::Status;
use std::time::{Duration, Instant};

/// An admin command that takes a while.
fn slow_admin(delay_ms: u64) -> Config {
    let delay = Duration::from_millis(delay_ms);
    let latency = Latency { queue: QueueKind::Admin, opcode: Some(0x0a), delay };
    Config { latencies: vec![latency], ..Config::default() }
}

/// An admin command: Get Features, 0x0A.
fn admin_message() -> Message {
    Message::Admin { command: Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0), data: None }
}

/// Sends `count` slow ones past the ring.
fn send_slow(poller: &mut Poller, count: usize) -> Vec<Ticket<Reply>> {
    (0..count).map(|_| poller.send(admin_message()).expect("running")).collect()
}

/// Takes steps until one says that it is enough.
fn step_until(what: &str, mut step: impl FnMut() -> bool) {
    assert!((0..Stepped::<LockFree>::STEPS).any(|_| step()), "not after so many steps: {what}");
}

/// The driver's own admin commands find room, however many messages are in flight.
#[test]
fn a_full_admin_queue_keeps_an_entry_for_a_rescan_and_for_queue_pairs() {
    for admin_queue_entries in [8, 32] {
        let options = CtrlrOptions { admin_queue_entries, ..CtrlrOptions::default() };
        // On a clock that stands still the slow ones take for ever.
        let mut rig: Stepped<LockFree> = Stepped::attach(slow_admin(30), options);
        let mut poller = rig.poller();
        let mut now = Instant::now();
        poller.poll(now).expect("alive");
        let slow = send_slow(&mut poller, 64);
        let rescan = poller.send(Message::Rescan).expect("running");
        step_until("rescanned", || {
            poller.poll(now).expect("alive");
            rig.device.step_at(now);
            rescan.is_ready()
        });
        let outcome = rescan.try_take();
        assert!(matches!(outcome, Ok(Outcome::Completed(Reply::Rescanned))), "{outcome:?}");
        assert_eq!(rig.ctrlr.namespaces().len(), 1, "the namespaces are still there after a rescan");
        let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 4 }).expect("a queue pair");
        assert!(!slow.iter().any(Ticket::is_ready), "the admin queue was full all the while");
        // The first of them to be answered make room for it, and not for more of their kind.
        let mut pass = |what, ready: &mut dyn FnMut() -> bool| {
            step_until(what, || {
                now += Duration::from_millis(1);
                poller.poll(now).expect("alive");
                rig.device.step_at(now);
                ready()
            });
        };
        pass("connected", &mut || qpair.connected().expect("well"));
        assert!(!slow.iter().all(Ticket::is_ready), "the admin queue was full all the while");
        for ticket in slow {
            pass("answered", &mut || ticket.is_ready());
            let outcome = ticket.try_take();
            assert!(
                matches!(outcome, Ok(Outcome::Completed(Reply::Command { status: Status::SUCCESS, .. }))),
                "{outcome:?}"
            );
        }
        drop((qpair, poller));
        rig.finish();
    }
}

/// More queue pairs than the admin queue has entries, and messages in flight there: all queues are deleted in the right order all the same.
#[test]
fn a_detach_deletes_more_queues_than_fit_in_the_admin_queue() {
    let options = CtrlrOptions { admin_queue_entries: 8, ..CtrlrOptions::default() };
    let rig: Rig = Rig::attach_with(slow_admin(5), options);
    let mut poller = rig.poller();
    let request = |_| QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 2 }).expect("a queue pair");
    let mut qpairs: Vec<QueuePair> = (0..40).map(request).collect();
    wait_until("all are connected", || {
        poller.poll(Instant::now()).expect("alive");
        qpairs.iter_mut().all(|qpair| qpair.connected().expect("well"))
    });
    let slow = send_slow(&mut poller, 20);
    poller.detach(DEADLINE).expect("detached");
    assert!(slow.iter().all(Ticket::is_ready), "every message is answered when detach returns");
    drop(qpairs);
    rig.finish();
}

/// What waits for room in a queue, or was sent past the ring during a reset, is served after it: its queues do not exist before.
#[test]
fn messages_that_wait_for_room_are_served_after_a_reset() {
    let delay = Duration::from_millis(2);
    let latency = Latency { queue: QueueKind::Io, opcode: None, delay };
    let options = CtrlrOptions { external_queue_entries: 4, ..CtrlrOptions::default() };
    for round in 0..5 {
        let config =
            Config { latencies: vec![latency], ready_delay: Duration::from_millis(1), ..Config::default() };
        let rig: Rig = Rig::attach_with(config, options.clone());
        let mut poller = rig.poller();
        poller.poll(Instant::now()).expect("alive");
        let flush = || Message::Io { command: Command::flush(1), data: None };
        let mut tickets: Vec<_> = (0..32).map(|_| poller.send(flush()).expect("running")).collect();
        let reset = rig.ctrlr.reset().expect("asked");
        // Past the ring, in each phase of the reset.
        while reset.is_over().is_none() {
            poller.poll(Instant::now()).expect("alive");
            tickets.push(poller.send(flush()).expect("running"));
            tickets.extend(send_slow(&mut poller, 1));
            std::thread::sleep(Duration::from_micros(200));
        }
        reset.wait(DEADLINE).expect("reset");
        let (mut completed, mut aborted) = (0, 0);
        let sent = tickets.len();
        for ticket in tickets {
            wait_until("a message is answered", || {
                poller.poll(Instant::now()).expect("alive");
                ticket.is_ready()
            });
            match ticket.try_take().expect("ready") {
                Outcome::Completed(Reply::Command { status: Status::SUCCESS, .. }) => completed += 1,
                Outcome::Aborted(why) if why.may_have_executed => aborted += 1,
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert_eq!(completed + aborted, sent);
        assert!(aborted <= 3 + 31, "only what was in flight is aborted: {aborted}");
        drop(poller);
        rig.finish();
    }
}

/// A steady stream of messages through the ring does not keep a queue pair from being connected, nor a detach from ending.
#[test]
fn a_steady_stream_of_admin_messages_keeps_nobody_out() {
    let options = CtrlrOptions { admin_queue_entries: 8, ring_slots: 16, ..CtrlrOptions::default() };
    let rig: Rig = Rig::attach_with(Config::default(), options);
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("stream").expect("registered");
    let stream = std::thread::spawn(move || {
        let mut tickets = Vec::new();
        loop {
            match producer.send(admin_message()) {
                Ok(ticket) => tickets.push(ticket),
                Err(error) if error.reason == SendErrorReason::Full => std::thread::yield_now(),
                Err(error) => {
                    assert_eq!(error.reason, SendErrorReason::Detached);
                    return tickets;
                }
            }
            if tickets.len() > 4096 {
                tickets.retain(|ticket: &Ticket<Reply>| !ticket.is_ready());
            }
        }
    });
    for round in 0..10 {
        let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 4 }).expect("a queue pair");
        wait_until("the queue pair is connected", || qpair.connected().expect("well"));
        qpair.flush(&rig.ctrlr.namespaces()[0], round).expect("submitted");
        assert!(qpair.drain(DEADLINE, |completion| assert!(completion.is_success())).expect("alive"));
    }
    rig.ctrlr.detach(DEADLINE).expect("detached");
    let tickets = stream.join().expect("the stream's thread");
    assert!(tickets.iter().all(Ticket::is_ready), "every accepted message is answered when detach returns");
    drop(polling.stop());
    rig.finish();
}
