//! Aborting messages that are under way: before they reach the device, at the device, and when it is too late. One thread, so everything has its order.

mod support;

use slipring::ctrlr::{CtrlrOptions, Message, Producer, Reply};
use slipring::emulated::{Config, Latency, NamespaceConfig, QueueKind};
use slipring::poller::Poller;
use slipring::ring::{AbortReason, LockFree, Mailbox, Outcome};
use slipring::spec::command::{AdminOpcode, Command};
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use std::collections::HashMap;
use std::time::Duration;
use support::Stepped;

const FOR_EVER: Duration = Duration::from_secs(3600);

fn slow(queue: QueueKind, opcode: u8) -> Latency {
    Latency { queue, opcode: Some(opcode), delay: FOR_EVER }
}

/// A controller of which SMART logs and reads take for ever.
fn attach() -> (Stepped<LockFree>, Poller, Producer<LockFree>, Mailbox<Reply>) {
    let latencies = vec![slow(QueueKind::Admin, AdminOpcode::GET_LOG_PAGE.0), slow(QueueKind::Io, 2)];
    let namespaces = vec![NamespaceConfig { size_bytes: 1 << 20, ..NamespaceConfig::default() }];
    let rig = Stepped::attach(Config { namespaces, latencies, ..Config::default() }, CtrlrOptions::default());
    let poller = rig.poller();
    let producer = rig.ctrlr.register("aborting").expect("registered");
    (rig, poller, producer, Mailbox::new(64))
}

fn smart(producer: &Producer<LockFree>) -> Message {
    let data = Some(Box::new(producer.allocate(512).expect("memory").into()));
    Message::Admin { command: Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), data }
}

fn read(producer: &Producer<LockFree>) -> Message {
    let data = Some(Box::new(producer.allocate(512).expect("memory").into()));
    Message::Io { command: Command::read(1, 0, 1), data }
}

/// Steps until so many outcomes are there.
fn receive(
    rig: &mut Stepped<LockFree>,
    poller: &mut Poller,
    mailbox: &mut Mailbox<Reply>,
    count: usize,
) -> HashMap<u64, Outcome<Reply>> {
    let mut outcomes = HashMap::new();
    rig.run(poller, "the outcomes arrive", || {
        mailbox.receive(|token, outcome| {
            assert!(outcomes.insert(token, outcome).is_none(), "one outcome for message {token}");
        });
        outcomes.len() >= count
    });
    outcomes
}

fn status(outcome: Option<&Outcome<Reply>>) -> Status {
    match outcome {
        Some(Outcome::Completed(Reply::Command { status, .. })) => *status,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_at_the_device_is_aborted_there() {
    for message in [smart, read] {
        let (mut rig, mut poller, producer, mut mailbox) = attach();
        for token in [1, 2] {
            producer.send_to(&mut mailbox, token, message(&producer)).expect("sent");
        }
        // A device need not know a command yet that was handed to it together with its Abort.
        for _ in 0..10 {
            poller.poll(std::time::Instant::now()).expect("well");
            rig.device.step();
        }
        let abort = Message::Abort { mailbox: mailbox.id(), token: 1 };
        producer.send_to(&mut mailbox, 3, abort).expect("sent");
        let outcomes = receive(&mut rig, &mut poller, &mut mailbox, 2);
        assert_eq!(status(outcomes.get(&1)), Status::ABORTED_BY_REQUEST);
        assert_eq!(status(outcomes.get(&3)), Status::SUCCESS);
        // The other one is still there; another mailbox's message of the same token is not this one.
        let mut other = Mailbox::new(4);
        for (mailbox, token) in [(other.id(), 2), (mailbox.id(), 1), (mailbox.id(), 77)] {
            producer.send_to(&mut other, 9, Message::Abort { mailbox, token }).expect("sent");
            let outcomes = receive(&mut rig, &mut poller, &mut other, 1);
            assert!(matches!(outcomes[&9], Outcome::Completed(Reply::Called(0))), "{outcomes:?}");
        }
        assert_eq!(mailbox.in_flight(), 1);
        drop(poller);
        rig.finish();
        mailbox.receive(|token, outcome| {
            let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
            assert!(token == 2 && aborted.reason == AbortReason::Detached && aborted.may_have_executed);
        });
        assert_eq!(mailbox.in_flight(), 0);
    }
}

#[test]
fn what_waits_for_room_never_reaches_the_device() {
    abort_while_it_waits(false);
    abort_while_it_waits(true);
}

fn abort_while_it_waits(is_late: bool) {
    let (mut rig, mut poller, producer, mut mailbox) = attach();
    // More than the external queue pair holds: the last ones wait.
    let count = 64 + 2;
    let mut mailboxes: Vec<Mailbox<Reply>> = (0..count).map(|_| Mailbox::new(1)).collect();
    for (token, mailbox) in (0..).zip(&mut mailboxes) {
        producer.send_to(mailbox, token, read(&producer)).expect("sent");
    }
    for _ in 0..200 {
        poller.poll(std::time::Instant::now()).expect("well");
        rig.device.step();
    }
    // One of those that were taken from the ring and found no room; it is answered by the driver alone. Those behind it in the ring are not known yet.
    let held = 63;
    let (of, token) = (mailboxes[held].id(), held as u64);
    // Its sender wants it aborted, or has no more time for it.
    let message = if is_late {
        Message::TimedOut { mailbox: of, token }
    } else {
        Message::Abort { mailbox: of, token }
    };
    // Past the ring, in which it would wait for room as well.
    let ticket = poller.send(message).expect("seated");
    let answer = ticket.try_take().expect("at once");
    assert!(matches!(answer, Outcome::Completed(Reply::Called(1))), "{answer:?}");
    let mut aborted = None;
    mailboxes[held].receive(|_, outcome| aborted = Some(outcome));
    let Some(Outcome::Aborted(aborted)) = aborted else { panic!("{aborted:?}") };
    assert_eq!((aborted.reason, aborted.may_have_executed), (AbortReason::Requested, false));
    mailbox.receive(|_, _| panic!("nothing was sent to it"));
    drop(poller);
    rig.finish();
}

/// Its command identifier may be another command's by the time that there is room: so an Abort is not held.
#[test]
fn an_abort_that_finds_no_room_is_answered_at_once() {
    let (rig, mut poller, producer, mut mailbox) = attach();
    producer.send_to(&mut mailbox, 1, smart(&producer)).expect("sent");
    poller.poll(std::time::Instant::now()).expect("well");
    let others: Vec<_> = (0..64).map(|_| poller.send(smart(&producer)).expect("seated")).collect();
    let abort = Message::Abort { mailbox: mailbox.id(), token: 1 };
    let answer = poller.send(abort).expect("seated").try_take().expect("at once");
    assert!(matches!(answer, Outcome::Completed(Reply::Called(0))), "{answer:?}");
    assert_eq!(mailbox.receive(|_, outcome| panic!("{outcome:?}")), 0);
    drop(poller);
    rig.finish();
    assert_eq!(mailbox.receive(|token, _| assert_eq!(token, 1)), 1);
    assert!(others.iter().all(slipring::ring::Ticket::is_ready));
}
