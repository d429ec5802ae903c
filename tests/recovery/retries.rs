//! Retries: which commands are sent again, how often and when, that each has one outcome with its data, and what overtakes those that wait.

use crate::world::{World, attach, config, io_status, is_status, ms, timeouts};
use slipring::ctrlr::{
    AttachError, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, Reply, TimeoutAction, Timeouts,
    admin,
};
use slipring::emulated::Config;
use slipring::poller::{QueuePair, SubmitError, SubmitReason};
use slipring::ring::{AbortReason, Aborted, Mailbox, Outcome};
use slipring::spec::command::Command;
use slipring::spec::status::Status;
use std::time::Duration;

/// How late a try may be: the poller's note of the time, and the steps of the test.
const SLACK: Duration = Duration::from_millis(4);

fn options(retries: u8) -> CtrlrOptions {
    let timeouts = Timeouts { io: ms(800), admin: ms(800), ..timeouts() };
    CtrlrOptions { retries, timeouts, ..CtrlrOptions::default() }
}

fn world(faults: &str, retries: u8) -> World {
    World::of(Config { crdt: [1, 3, 9], ..config(faults) }, options(retries), EventAnswer::Proceed)
}

/// A read meets `fault`, as a queue pair's request and as a message; returns its status and how long it took, and checks that it was submitted
/// `1 + again` times.
fn read(fault: &str, retries: u8, again: u64) -> [(Status, Duration); 2] {
    [(2, true), (1, false)].map(|(qid, is_queue_pair)| {
        let counted =
            format!("delay=1us queue={qid} opcode=read\n{}", fault.replace("QID", &qid.to_string()));
        let mut world = world(&counted, retries);
        let mut qpair = world.queue_pair();
        let seen = if is_queue_pair {
            world.read(&mut qpair, 3);
            let (back, took) = world.back(&mut qpair, 1);
            assert_eq!((back.len(), qpair.outstanding()), (1, 0));
            assert_eq!(
                back[0].data.as_ref().map(slipring::dma::DmaSlice::len),
                Some(512),
                "{fault}: with its data"
            );
            assert_eq!(qpair.statistics().retries, again, "{fault}");
            (io_status(&back[0]), took)
        } else {
            let ticket = world.send_read(3);
            let (outcome, took) = world.outcome(ticket);
            let Outcome::Completed(Reply::Command { status, data, .. }) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(data.map(|data| data.len()), Some(512), "{fault}: with its data");
            assert_eq!(world.ctrlr.statistics().retries, again, "{fault}");
            (status.without_dnr(), took)
        };
        assert_eq!(world.transport.faults_met()[0], 1 + again, "{fault}");
        assert_eq!(world.ctrlr.statistics().resets, 0, "{fault}");
        drop(qpair);
        world.finish();
        seen
    })
}

#[test]
fn what_may_succeed_later_is_sent_again_until_it_does() {
    for (status, took) in read("status=namespace-not-ready queue=QID opcode=read nth=1..2", 2, 2) {
        assert_eq!(status, Status::SUCCESS);
        assert!(took < ms(10), "without a delay: {took:?}");
    }
}

/// Not when the time is looked at next: here the clock stands still.
#[test]
fn a_try_without_a_delay_begins_at_once() {
    for queue in ["queue=io opcode=read", "queue=admin opcode=get-log-page"] {
        let mut world = world(&format!("status=namespace-not-ready {queue} nth=1..5"), 5);
        world.pass(ms(5));
        let message = if queue.contains("admin") { world.log_message() } else { world.read_message(3) };
        let ticket = world.poller.send(message).expect("running");
        for _ in 0..100 {
            world.device.step_at(world.now);
            world.poller.poll(world.now).expect("well");
        }
        let outcome = ticket.try_take().expect("answered");
        assert!(is_status(&outcome, Status::SUCCESS), "{queue}: {outcome:?}");
        assert_eq!(world.transport.faults_met(), [5]);
        world.finish();
    }
}

#[test]
fn no_more_often_than_was_asked_for() {
    for retries in [0, 1, 5] {
        for (status, _) in read("status=internal-error queue=QID opcode=read", retries, retries.into()) {
            assert_eq!(status, Status::INTERNAL_ERROR, "the device's own word, in the end");
        }
    }
}

#[test]
fn what_cannot_be_helped_is_not_sent_again() {
    for status in [
        "internal-error/dnr",
        "command-abort-requested",
        "compare-failure",
        "firmware-activation-requires-controller-level-reset",
    ] {
        for (seen, _) in read(&format!("status={status} queue=QID opcode=read nth=1"), 3, 0) {
            assert_ne!(seen, Status::SUCCESS, "{status}");
        }
    }
}

#[test]
fn a_try_waits_as_long_as_the_controller_asks() {
    for (crd, delay) in [(1, ms(100)), (2, ms(300))] {
        let fault = format!("status=namespace-not-ready/crd{crd} queue=QID opcode=read nth=1..2");
        for (status, took) in read(&fault, 2, 2) {
            assert_eq!(status, Status::SUCCESS);
            assert!((2 * delay..2 * delay + 2 * SLACK).contains(&took), "{took:?}");
        }
    }
}

/// The controller may have any of the three, and is to know each time that they are heeded.
#[test]
fn a_controller_may_have_some_of_the_delays_only() {
    for (crdt, crd) in
        [([2, 0, 0], 1), ([0, 2, 0], 2), ([0, 0, 2], 3), ([2, 2, 0], 1), ([0, 2, 2], 3), ([2, 0, 2], 1)]
    {
        let fault = format!("status=namespace-not-ready/crd{crd} queue=1 opcode=read nth=1");
        let mut world = World::of(Config { crdt, ..config(&fault) }, options(1), EventAnswer::Proceed);
        let ticket = world.send_read(0);
        let (outcome, took) = world.outcome(ticket);
        assert!(is_status(&outcome, Status::SUCCESS), "{outcome:?}");
        assert!((ms(200)..ms(200) + SLACK).contains(&took), "{crdt:?}: {took:?}");
        world.finish();
    }
}

#[test]
fn a_try_is_late_but_made_where_its_owner_polls_seldom() {
    let mut world = world("status=namespace-not-ready/crd1 queue=2 opcode=read nth=1", 1);
    let mut qpair = world.queue_pair();
    world.read(&mut qpair, 0);
    let mut back = Vec::new();
    for _ in 0..6 {
        world.pass(ms(150));
        qpair.poll(8, |completion| back.push(io_status(&completion))).expect("well");
    }
    assert_eq!(back, [Status::SUCCESS]);
    drop(qpair);
    world.finish();
}

/// Those that may be sent again are counted as others are, and no more of them are given back than are asked for.
#[test]
fn requests_are_counted_with_and_without_retries() {
    for retries in [0, 1] {
        let mut world = world("", retries);
        let mut qpair = world.queue_pair();
        (0..3).for_each(|lba| world.read(&mut qpair, lba));
        let counts = |qpair: &QueuePair| (qpair.statistics().submitted, qpair.statistics().completed);
        assert_eq!(counts(&qpair), (3, 0), "they are in flight");
        world.pass(ms(5));
        for (max, expected) in [(0, 0), (2, 2), (8, 1), (8, 0)] {
            let mut given = 0;
            assert_eq!(qpair.poll(max, |_| given += 1), Ok(expected));
            assert_eq!(given, expected);
        }
        assert_eq!(counts(&qpair), (3, 3));
        drop(qpair);
        world.finish();
    }
}

/// 900 ms are more than a read may take: its owner hears at once.
#[test]
fn no_try_begins_past_the_time_limit() {
    for (status, took) in read("status=namespace-not-ready/crd3 queue=QID opcode=read nth=1", 2, 0) {
        assert_eq!(status, Status::NAMESPACE_NOT_READY);
        assert!(took < ms(10), "{took:?}");
    }
    // Three tries of 300 ms: the third would begin past the 800 ms.
    for (status, took) in read("status=namespace-not-ready/crd2 queue=QID opcode=read", 9, 2) {
        assert_eq!(status, Status::NAMESPACE_NOT_READY);
        assert!((ms(600)..ms(600) + 2 * SLACK).contains(&took), "{took:?}");
    }
}

/// The time limit runs from the first try on: 800 ms, of which 100 or 300 are over when the last one begins, and two looks of 5 ms.
#[test]
fn the_time_limit_holds_over_all_tries() {
    for (crd, begins) in [(1, 100), (2, 300)] {
        let fault = format!(
            "status=namespace-not-ready/crd{crd} queue=QID opcode=read nth=1\nhang queue=QID opcode=read nth=2"
        );
        for (status, took) in read(&fault, 2, 1) {
            assert_eq!(status, Status::ABORTED_BY_REQUEST, "after {begins} ms");
            assert!((ms(799)..ms(820)).contains(&took), "{took:?}");
        }
    }
}

/// A command that was late and comes back with an error after all is not begun anew.
#[test]
fn what_was_late_is_not_sent_again() {
    let fault = "delay=830ms queue=QID opcode=read nth=1\nstatus=internal-error queue=QID opcode=read nth=1\nhang opcode=0x08 queue=admin nth=1";
    for (status, took) in read(fault, 3, 0) {
        assert_eq!(status, Status::INTERNAL_ERROR);
        assert!((ms(830)..ms(840)).contains(&took), "{took:?}");
    }
}

#[test]
fn admin_messages_are_sent_again_too() {
    let mut world = world("status=internal-error/crd1 opcode=get-log-page nth=1", 1);
    let smart = world.poller.start_call(admin::smart_log()).expect("running");
    let took = world.run("answered", |_| smart.is_ready());
    assert!(smart.wait(Duration::ZERO).is_ok());
    assert!((ms(100)..ms(100) + SLACK).contains(&took), "{took:?}");
    world.finish();
}

/// Before the controller was told that its delays are heeded it may not give any: these are sent again at once.
#[test]
fn the_drivers_own_commands_are_sent_again_at_bring_up() {
    for fault in
        ["opcode=identify", "opcode=set-features", "queue=admin opcode=0x05", "queue=admin opcode=0x01"]
    {
        let fault = format!("status=internal-error {fault} nth=1");
        let attach = |retries| attach(Config { crdt: [1, 0, 0], ..config(&fault) }, options(retries));
        let refused = attach(0).map(drop);
        let is_refused =
            matches!(&refused, Err(AttachError::Failed { failure: Failure::Refused { .. }, .. }));
        assert!(is_refused, "{fault}: {refused:?}");
        assert!(attach(1).is_ok(), "{fault}");
    }
}

/// A controller that will not be told so gives no delays, and is attached all the same.
#[test]
fn without_host_behavior_support_there_are_no_delays() {
    let faults = "status=invalid-field-in-command/dnr opcode=set-features nth=1\nstatus=namespace-not-ready/crd2 queue=1 opcode=read nth=1";
    let mut world = world(faults, 1);
    let ticket = world.send_read(0);
    let (outcome, took) = world.outcome(ticket);
    assert!(is_status(&outcome, Status::SUCCESS), "{outcome:?}");
    assert!(took < ms(10), "{took:?}");
    world.finish();
}

#[test]
fn the_queues_of_a_queue_pair_are_asked_for_again() {
    // The first one is the external pair's.
    let mut world = world("status=internal-error/crd1 queue=admin opcode=0x05 nth=2", 1);
    let begun = world.now;
    let qpair = world.queue_pair();
    assert!(world.now - begun >= ms(100));
    drop(qpair);
    world.finish();
}

/// Requests that wait for their next try take their places: the queue is as full as if they were at the device.
#[test]
fn who_waits_counts_as_outstanding() {
    let mut world = world("status=namespace-not-ready/crd2 queue=2 opcode=read nth=1..15", 1);
    let mut qpair = world.queue_pair();
    let capacity = qpair.capacity();
    for lba in 0..capacity as u64 {
        world.read(&mut qpair, lba);
    }
    world.run("all wait", |world| {
        qpair.poll(32, |_| panic!("none is over")).expect("well");
        world.transport.faults_met()[0] == capacity as u64
    });
    world.pass(ms(20));
    qpair.poll(32, |_| panic!("none is over")).expect("well");
    assert_eq!(qpair.outstanding(), capacity);
    let data = world.ctrlr.allocate(512).expect("memory").into();
    let full = qpair.read(&world.ctrlr.namespaces()[0], 0, data, 99);
    assert!(matches!(full, Err(SubmitError { reason: SubmitReason::QueueFull, data: Some(_) })), "{full:?}");
    let (back, _) = world.back(&mut qpair, capacity);
    assert!(back.iter().map(io_status).all(|status| status == Status::SUCCESS));
    assert_eq!((back.len(), qpair.outstanding()), (capacity, 0));
    drop(qpair);
    world.finish();
}

const WAITS: &str =
    "status=namespace-not-ready/crd2 opcode=read\nstatus=namespace-not-ready/crd2 opcode=get-log-page";

/// A reset answers what waits as it answers what is in flight: once, as aborted, and with its data.
#[test]
fn a_reset_overtakes_what_waits() {
    let mut world = world(WAITS, 9);
    let mut qpair = world.queue_pair();
    world.read(&mut qpair, 0);
    let ticket = world.send_read(1);
    let smart = world.poller.start_call(admin::smart_log()).expect("running");
    world.run("both wait", |world| {
        qpair.poll(8, |_| panic!("it waits")).expect("well");
        world.transport.faults_met() == [2, 1]
    });
    world.pass(ms(10));
    qpair.poll(8, |_| panic!("it waits")).expect("well");
    let reset = world.ctrlr.reset().expect("asked");
    let (back, _) = world.back(&mut qpair, 1);
    let expected = Aborted::maybe_executed(AbortReason::Reset);
    assert!(matches!(&back[0].outcome, Outcome::Aborted(aborted) if *aborted == expected), "{back:?}");
    assert!(back[0].data.is_some());
    let (outcome, _) = world.outcome(ticket);
    assert!(matches!(&outcome, Outcome::Aborted(aborted) if *aborted == expected), "{outcome:?}");
    world.run("over", |_| reset.is_over().is_some() && smart.is_ready());
    world.run("connected", |world| {
        qpair.poll(8, |_| panic!("nothing is in flight")).expect("well");
        qpair.is_connected() && world.ctrlr.state() == CtrlrState::Live
    });
    // Nothing is left of them: what comes later would be a second outcome.
    world.pass(ms(700));
    qpair.poll(8, |_| panic!("nothing is in flight")).expect("well");
    assert_eq!(qpair.outstanding(), 0);
    drop(qpair);
    world.finish();
}

/// Whenever the detach or the removal comes, everything is answered once and nothing is left.
#[test]
fn a_detach_or_a_removal_may_come_at_any_moment_of_the_waits() {
    for (moment, is_removed) in (0..650).step_by(23).flat_map(|moment| [(moment, false), (moment, true)]) {
        let mut world = world(WAITS, 9);
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        world.read(&mut qpair, 1);
        let ticket = world.send_read(2);
        let smart = world.poller.start_call(admin::smart_log()).expect("running");
        let until = world.now + ms(moment);
        let mut back = Vec::new();
        while world.now < until {
            let _ = world.step();
            qpair.poll(8, |completion| back.push(completion.token)).expect("not detached");
        }
        if is_removed {
            world.transport.remove();
        }
        let ctrlr = world.ctrlr.clone();
        world.detach();
        while qpair.poll(8, |completion| back.push(completion.token)).is_ok() {}
        back.sort_unstable();
        assert_eq!(back, [0, 1], "moment {moment}: each exactly once");
        assert!(ticket.is_ready() && smart.is_ready(), "moment {moment}");
        drop((qpair, ticket, smart));
        assert_eq!(ctrlr.dma_bytes(), (0, 0), "moment {moment}");
    }
}

/// A queue pair that is dropped while its requests wait leaves nothing behind.
#[test]
fn a_queue_pair_may_be_dropped_while_requests_wait() {
    let mut world = world(WAITS, 9);
    let mut qpair = world.queue_pair();
    world.read(&mut qpair, 0);
    world.run("waits", |world| {
        qpair.poll(8, |_| panic!("it waits")).expect("well");
        world.transport.faults_met()[0] == 1 && qpair.outstanding() == 1
    });
    drop(qpair);
    world.pass(ms(50));
    let ctrlr = world.ctrlr.clone();
    world.finish();
    assert_eq!(ctrlr.dma_bytes(), (0, 0));
}

/// An Abort of a message that waits for its next try, or its sender's own time, ends it with what it came to before.
#[test]
fn a_message_that_waits_can_be_aborted() {
    for is_late in [false, true] {
        let mut world = world(WAITS, 9);
        let mut mailbox: Mailbox<Reply> = Mailbox::new(4);
        let producer = world.ctrlr.register("sender").expect("registered");
        producer.send_to(&mut mailbox, 7, world.read_message(0)).expect("sent");
        world.run("waits", |world| world.transport.faults_met()[0] == 1);
        world.pass(ms(10));
        let (mailbox_id, token) = (mailbox.id(), 7);
        let end = if is_late {
            Message::TimedOut { mailbox: mailbox_id, token }
        } else {
            Message::Abort { mailbox: mailbox_id, token }
        };
        let ticket = world.poller.send(end).expect("running");
        let (outcome, _) = world.outcome(ticket);
        assert!(matches!(outcome, Outcome::Completed(Reply::Called(1))), "{outcome:?}");
        let answered = mailbox.receive(|token, outcome| {
            assert!(token == 7 && is_status(&outcome, Status::NAMESPACE_NOT_READY), "{outcome:?}");
        });
        assert_eq!(answered, 1);
        world.pass(ms(700));
        assert_eq!(mailbox.receive(|_, outcome| panic!("a second outcome: {outcome:?}")), 0);
        drop(producer);
        world.finish();
    }
}

/// As what was late by the driver's time.
#[test]
fn what_its_sender_calls_late_is_not_sent_again() {
    let faults = "delay=30ms queue=1 opcode=read nth=1\nstatus=internal-error queue=1 opcode=read nth=1\nhang opcode=0x08 queue=admin nth=1";
    let mut world = world(faults, 3);
    let mut mailbox: Mailbox<Reply> = Mailbox::new(4);
    let producer = world.ctrlr.register("impatient").expect("registered");
    producer.send_to(&mut mailbox, 7, world.read_message(0)).expect("sent");
    world.pass(ms(10));
    let late = Message::TimedOut { mailbox: mailbox.id(), token: 7 };
    let ticket = world.poller.send(late).expect("running");
    let (outcome, _) = world.outcome(ticket);
    assert!(matches!(outcome, Outcome::Completed(Reply::Called(1))), "{outcome:?}");
    let mut seen = None;
    world.run("answered", |_| {
        mailbox.receive(|_, outcome| seen = Some(outcome));
        seen.is_some()
    });
    assert!(is_status(seen.as_ref().expect("answered"), Status::INTERNAL_ERROR), "{seen:?}");
    assert_eq!(world.ctrlr.statistics().retries, 0);
    drop(producer);
    world.finish();
}

/// A queue of one, which another message has by the time that the next try is due: it is not waited for past the time limit.
#[test]
fn a_try_that_finds_no_room_is_given_up_in_time() {
    let faults =
        "status=namespace-not-ready/crd1 queue=1 opcode=read nth=1\ndelay=900ms queue=1 opcode=write";
    let options = CtrlrOptions { external_queue_entries: 2, ..options(5) };
    let timeouts = Timeouts { action: TimeoutAction::Report, ..options.timeouts };
    let options = CtrlrOptions { timeouts, ..options };
    let mut world = World::of(Config { crdt: [1, 3, 9], ..config(faults) }, options, EventAnswer::Proceed);
    let ticket = world.send_read(3);
    world.run("waits", |world| world.transport.faults_met()[0] == 1);
    world.pass(ms(10));
    let data = world.ctrlr.allocate(512).expect("memory");
    let write = Message::Io { command: Command::write(1, 0, 1), data: Some(Box::new(data.into())) };
    let written = world.poller.send(write).expect("running");
    let (outcome, took) = world.outcome(ticket);
    assert!(is_status(&outcome, Status::NAMESPACE_NOT_READY), "{outcome:?}");
    assert!((ms(780)..ms(800)).contains(&took), "10 ms of it went before: {took:?}");
    assert_eq!(world.ctrlr.statistics().retries, 0);
    assert!(is_status(&world.outcome(written).0, Status::SUCCESS));
    world.finish();
}

/// Nor what is to be aborted, though the device would not.
#[test]
fn what_is_to_be_aborted_is_not_sent_again() {
    for (queue, opcode) in [("1", "read"), ("admin", "get-log-page")] {
        let of = format!("queue={queue} opcode={opcode} nth=1");
        let faults = format!(
            "delay=30ms {of}\nstatus=internal-error {of}\nstatus=internal-error queue=admin opcode=0x08"
        );
        let mut world = world(&faults, 3);
        let mut mailbox: Mailbox<Reply> = Mailbox::new(4);
        let producer = world.ctrlr.register("undecided").expect("registered");
        let message = if queue == "1" { world.read_message(0) } else { world.log_message() };
        producer.send_to(&mut mailbox, 7, message).expect("sent");
        world.pass(ms(10));
        let ticket = world.poller.send(Message::Abort { mailbox: mailbox.id(), token: 7 }).expect("running");
        let (outcome, _) = world.outcome(ticket);
        assert!(is_status(&outcome, Status::INTERNAL_ERROR), "the Abort: {outcome:?}");
        let mut seen = None;
        world.run("answered", |_| {
            mailbox.receive(|_, outcome| seen = Some(outcome));
            seen.is_some()
        });
        assert!(is_status(seen.as_ref().expect("answered"), Status::INTERNAL_ERROR), "{seen:?}");
        assert_eq!(world.ctrlr.statistics().retries, 0, "{opcode}");
        drop(producer);
        world.finish();
    }
}
