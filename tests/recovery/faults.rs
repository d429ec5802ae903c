//! Fault by fault: what the owner of a request sees, within what time, and where the controller stands then. `docs/RELIABILITY.md` is the same as a table.

use crate::world::{World, attach, config, ms, timeouts};
use slipring::ctrlr::{AttachError, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, OnEvent};
use slipring::poller::QpairError;
use slipring::ring::{AbortReason, Aborted, Outcome};
use slipring::spec::status::Status;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What becomes of the one request that meets the fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Status(Status),
    Aborted(AbortReason),
}

/// A queue pair's read meets `fault`: it comes back like `seen` within `bound`, and the controller is `state` soon after, for a reason like `why`.
fn meets(fault: &str, seen: Seen, bound: Duration, state: CtrlrState, why: Option<fn(&Failure) -> bool>) {
    let mut world = World::new(fault, timeouts());
    let mut qpair = world.queue_pair();
    world.read(&mut qpair, 3);
    let mut back = Vec::new();
    let took = world.run("the request comes back", |_| {
        let _ = qpair.poll(8, |completion| back.push(completion));
        !back.is_empty()
    });
    assert_eq!(back.len(), 1, "{fault}");
    assert!(back[0].data.is_some(), "{fault}: with its buffer");
    let got = match &back[0].outcome {
        Outcome::Completed(completion) => Seen::Status(completion.status().without_dnr()),
        Outcome::Aborted(aborted) => Seen::Aborted(aborted.reason),
    };
    assert_eq!(got, seen, "{fault}");
    let (statistics, is_answered) = (qpair.statistics(), matches!(got, Seen::Status(_)));
    let counted = (statistics.submitted, statistics.completed, statistics.aborted);
    assert_eq!(counted, (1, u64::from(is_answered), u64::from(!is_answered)), "{fault}");
    assert!(took <= bound, "{fault}: {took:?}");
    world.run("settled", |world| {
        let _ = qpair.poll(8, |_| panic!("nothing is in flight"));
        world.ctrlr.state() == state
    });
    match why {
        None => {
            world.run("connected", |_| {
                qpair.poll(8, |_| panic!("nothing is in flight")).expect("well");
                qpair.is_connected()
            });
            assert!(world.works(), "{fault}");
        }
        Some(why) => {
            let failure = world.ctrlr.failure().expect("it failed");
            assert!(why(&failure), "{fault}: {failure}");
            world.run("said to its owner", |_| {
                matches!(qpair.poll(8, |_| ()), Err(QpairError::Gone(Some(_))))
            });
            let is_removed = matches!(failure, Failure::Removed { .. });
            let reason = if is_removed { AbortReason::Removed } else { AbortReason::Failed };
            let ticket = world.poller.send(Message::Rescan).expect("seated");
            match world.outcome(ticket).0 {
                Outcome::Aborted(aborted) => assert_eq!(aborted, Aborted::unexecuted(reason), "{fault}"),
                other @ Outcome::Completed(_) => panic!("{fault}: {other:?}"),
            }
        }
    }
    drop(qpair);
    assert!(world.detach() < ms(5000), "{fault}");
}

#[test]
fn answers_that_cannot_be_fail_the_controller_at_once() {
    let broken: fn(&Failure) -> bool = |failure| matches!(failure, Failure::Protocol(_));
    for fault in ["wrong-cid queue=2 nth=1", "wrong-sqhd queue=2 nth=1"] {
        meets(fault, Seen::Aborted(AbortReason::Failed), ms(5), CtrlrState::Failed, Some(broken));
    }
    // The first of the two is the right one.
    meets("repeat queue=2 nth=1", Seen::Status(Status::SUCCESS), ms(2), CtrlrState::Failed, Some(broken));
}

/// The same of what messages ask: the poller finds it out by itself.
#[test]
fn answers_to_messages_that_cannot_be_fail_the_controller_at_once() {
    for fault in ["wrong-cid opcode=read nth=1", "wrong-cid queue=admin opcode=get-log-page nth=1"] {
        let mut world = World::new(fault, timeouts());
        let message = if fault.contains("admin") { world.log_message() } else { world.read_message(0) };
        let ticket = world.poller.send(message).expect("running");
        let (outcome, took) = world.outcome(ticket);
        let Outcome::Aborted(aborted) = outcome else { panic!("{fault}: {outcome:?}") };
        assert_eq!(aborted, Aborted::maybe_executed(AbortReason::Failed), "{fault}");
        assert!(took <= ms(5), "{fault}: {took:?}");
        assert!(matches!(world.ctrlr.failure(), Some(Failure::Protocol(_))), "{fault}");
        world.detach();
    }
}

#[test]
fn what_is_never_answered_is_aborted_or_ends_with_a_reset() {
    let aborted = Seen::Status(Status::ABORTED_BY_REQUEST);
    let reset = Seen::Aborted(AbortReason::Reset);
    let (one_look, two) = (ms(80 + 12), ms(80 + 40 + 25));
    meets("hang queue=2 nth=1", aborted, one_look, CtrlrState::Live, None);
    meets("drop queue=2 nth=1", reset, two, CtrlrState::Live, None);
    // Of this queue nothing is seen any more, the answer of the Abort neither.
    meets("stale-phase queue=2 nth=1", reset, two, CtrlrState::Live, None);
    meets("delay=60ms queue=2 nth=1", Seen::Status(Status::SUCCESS), ms(61), CtrlrState::Live, None);
}

#[test]
fn a_status_is_the_devices_own_word() {
    let unreadable = Seen::Status(Status::UNRECOVERED_READ_ERROR);
    meets("status=unrecovered-read-error queue=2 nth=1", unreadable, ms(2), CtrlrState::Live, None);
}

#[test]
fn a_device_that_is_gone_or_gives_up_is_noticed_by_the_watch() {
    let removed: fn(&Failure) -> bool = |failure| matches!(failure, Failure::Removed { .. });
    let watch = ms(100 + 5);
    meets(
        "remove queue=2 nth=1",
        Seen::Aborted(AbortReason::Removed),
        watch,
        CtrlrState::Failed,
        Some(removed),
    );
    // The device goes on for a while, and answers.
    for fault in ["registers=ones queue=2 nth=1", "registers=zero queue=2 nth=1"] {
        meets(fault, Seen::Status(Status::SUCCESS), ms(2), CtrlrState::Failed, Some(removed));
    }
    let late = ms(100 + 25);
    meets("fatal queue=2 nth=1", Seen::Aborted(AbortReason::Reset), late, CtrlrState::Live, None);
}

/// Whoever attaches hears of it by the result, and has no controller yet that an event could be about.
#[test]
fn an_attach_that_fails_is_no_event() {
    let was_told = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&was_told);
    let on_event = OnEvent::new(move |_| {
        told.store(true, Ordering::Relaxed);
        EventAnswer::Proceed
    });
    let options = CtrlrOptions { on_event: Some(on_event), ..CtrlrOptions::default() };
    let refused =
        attach(config("status=internal-error opcode=identify nth=1"), options).expect_err("refused");
    assert!(matches!(refused, AttachError::Failed { failure: Failure::Refused { .. }, .. }), "{refused}");
    assert!(!was_told.load(Ordering::Relaxed));
}

/// A shutdown that is never over: the detach goes on without after RTD3E (ten seconds here), or at half its deadline.
#[test]
fn a_device_that_does_not_shut_down_is_stopped_all_the_same() {
    let mut world = World::new("never-shuts-down", timeouts());
    let qpair = world.queue_pair();
    drop(qpair);
    let took = world.detach_within(ms(60_000));
    assert!((ms(9990)..ms(10_100)).contains(&took), "{took:?}");
}

/// Nor is one waited for that breaks while it is said goodbye to: it hears nothing more.
#[test]
fn a_device_that_breaks_in_a_detach_is_stopped_at_once() {
    for nth in 1..=2 {
        let mut world = World::new(&format!("fatal queue=admin opcode=0x00 nth={nth}"), timeouts());
        let qpair = world.queue_pair();
        let transport = world.transport.clone();
        assert!(world.detach() < ms(100));
        assert_eq!(transport.faults_met(), [1]);
        drop(qpair);
    }
}

/// Hung requests of every kind, an abort, its escalation, the reset: whenever the detach comes, everything is answered once and nothing is left.
#[test]
fn a_detach_may_come_at_any_moment_of_a_recovery() {
    for moment in (0..170).step_by(3) {
        let mut world = World::new(
            "drop opcode=read\nhang opcode=write\nhang queue=admin opcode=get-log-page",
            timeouts(),
        );
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        let data = world.ctrlr.allocate(512).expect("memory").into();
        qpair.write(&world.ctrlr.namespaces()[0], 1, data, 1).expect("submitted");
        qpair.commit();
        let ticket = world.send_read(2);
        let smart = world.poller.start_call(slipring::ctrlr::admin::smart_log()).expect("running");
        let until = world.now + ms(moment);
        let mut back = Vec::new();
        while world.now < until {
            let _ = world.step();
            qpair.poll(8, |completion| back.push(completion.token)).expect("not detached");
        }
        let ctrlr = world.ctrlr.clone();
        assert!(world.detach() < ms(4500), "moment {moment}");
        while qpair.poll(8, |completion| back.push(completion.token)).is_ok() {}
        back.sort_unstable();
        assert_eq!(back, [0, 1], "moment {moment}: each exactly once");
        assert!(ticket.is_ready() && smart.is_ready(), "moment {moment}");
        drop(qpair);
        assert_eq!(ctrlr.dma_bytes(), (0, 0), "moment {moment}");
    }
}
