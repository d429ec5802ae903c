//! How a failed controller ends.
#![forbid(unsafe_code)]

use super::{World, config};
use crate::ctrlr::{
    ControllerEvent, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, OnEvent, Queued,
};
use crate::poller::PollError;
use crate::ring::{AbortReason, Aborted, Outcome, Ticket};
use crate::spec::command::Command;
use crate::spec::log::LogId;
use crate::spec::registers::CSTS;
use crate::transport::Transport;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A device that works, and whose driver gives up: it hears of the shutdown, for there is no later moment to tell it.
#[test]
fn a_failed_controller_is_told_of_the_shutdown() {
    let mut world = World::new();
    let mut qpair = world.queue_pair();
    let data = qpair.allocate(512).expect("memory").into();
    qpair.read(&world.ctrlr.namespaces()[0], 0, data, 1).expect("submitted");
    world.ctrlr.0.hub.fail(Failure::Protocol("as a test has it".into()));
    let mut back = 0;
    world.run("requests come back", |_| {
        let _ = qpair.poll(1, |_| back += 1);
        back == 1
    });
    assert!(matches!(world.poll(), Err(PollError::Failed(Failure::Protocol(_)))));
    drop(qpair);
    assert_eq!(world.detach(), Vec::<String>::new());
}

/// One that does not even hear that: it takes seconds, not for ever.
#[test]
fn a_failed_controller_that_does_not_answer_is_stopped_within_its_bounds() {
    let mut world = World::new();
    let mut qpair = world.queue_pair();
    let data = qpair.allocate(512).expect("memory").into();
    qpair.read(&world.ctrlr.namespaces()[0], 0, data, 1).expect("submitted");
    let begun = world.now;
    world.ctrlr.0.hub.fail(Failure::Protocol("as a test has it".into()));
    let mut back = 0;
    while back == 0 {
        world.now += Duration::from_millis(1);
        let _ = world.poll();
        let _ = qpair.poll(1, |_| back += 1);
        // 2 s for the shutdown, 10 s (CAP.TO of the default configuration) for RDY = 0.
        assert!(world.now - begun < Duration::from_millis(12_100), "still not stopped");
    }
    assert_ne!(world.transport.read_u32(CSTS), 0, "its bus mastering was taken instead, and it was closed");
    drop(qpair);
    assert_eq!(world.ctrlr.state(), CtrlrState::Failed);
    world.detach();
}

/// A removal may be waiting for it.
#[test]
fn the_device_of_a_failed_controller_is_given_back_without_a_detach() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let on_event = OnEvent::new(move |event| {
        tell.lock().expect("no panic").push(event.clone());
        EventAnswer::Proceed
    });
    let mut world =
        World::with(config(""), CtrlrOptions { on_event: Some(on_event), ..CtrlrOptions::default() });
    let failure = Failure::Protocol("as a test has it".into());
    world.ctrlr.0.hub.fail(failure.clone());
    world.run("stopped", |_| !told.lock().expect("no panic").is_empty());
    // By a thread of its own, which nobody waits for.
    let begun = Instant::now();
    while !world.device.is_closed() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it is not given back");
        std::thread::yield_now();
        world.device.step();
    }
    assert_eq!(world.ctrlr.dma_bytes().1, 0, "nothing is mapped any more");
    assert_eq!(world.poll(), Err(PollError::Failed(failure.clone())));
    assert_eq!(*told.lock().expect("no panic"), [ControllerEvent::Failed(failure)]);
    world.detach();
}

/// A poller that has not heard of a detach yet: what it answers from then on is aborted by that.
#[test]
fn messages_to_a_failed_controller_are_aborted_for_what_ended_it_last() {
    let mut world = World::new();
    world.ctrlr.0.hub.fail(Failure::Protocol("as a test has it".into()));
    let first = world.poller.send(Message::Rescan).expect("seated");
    world.run("stopped", |_| first.is_ready());
    let reason = |world: &mut World| {
        let ticket = world.poller.send(Message::Rescan).expect("seated");
        match ticket.try_take().expect("at once") {
            Outcome::Aborted(aborted) => aborted,
            other @ Outcome::Completed(_) => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(&mut world), Aborted::unexecuted(AbortReason::Failed));
    assert!(world.ctrlr.0.hub.state.advance(CtrlrState::Detaching));
    assert_eq!(reason(&mut world), Aborted::unexecuted(AbortReason::Detached));
    world.detach();
}

/// A reset whose device does not stop: no message reaches what is half stopped, not in the poll that gives up either.
#[test]
fn nothing_is_submitted_to_a_device_that_would_not_stop() {
    let mut world = World::new();
    let producer = world.ctrlr.register("waits").expect("registered");
    let reset = world.ctrlr.reset().expect("asked");
    // The device is not stepped from here on.
    world.poll().expect("well");
    let flush = Command::flush(1);
    let ticket = producer.send(Message::Io { command: flush, data: None }).expect("room");
    world.now += Duration::from_secs(11);
    let mut polls = 0;
    while !ticket.is_ready() {
        let _ = world.poll();
        world.now += Duration::from_millis(100);
        polls += 1;
        assert!(polls < 1000);
    }
    assert_eq!(world.ctrlr.state(), CtrlrState::Failed);
    assert!(reset.is_over().is_some_and(|result| result.is_err()));
    match ticket.try_take().expect("ready") {
        Outcome::Aborted(aborted) => assert_eq!(aborted, Aborted::unexecuted(AbortReason::Failed)),
        other @ Outcome::Completed(_) => panic!("{other:?}"),
    }
    world.detach();
}

/// Also those that have found no room yet, which were not executed; whether the controller fails, or is reset with the wish that nothing waits.
#[test]
fn messages_that_wait_for_room_are_aborted_too() {
    for fails in [true, false] {
        let mut world = World::with(config("hang opcode=get-log-page"), CtrlrOptions::default());
        let tickets: Vec<_> = (0..200)
            .map(|_| {
                let command = Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
                world.poller.send(Message::Admin { command, data: None }).expect("running")
            })
            .collect();
        if fails {
            world.ctrlr.0.hub.fail(Failure::Protocol("as a test has it".into()));
        } else {
            let _ = world.ctrlr.reset_with(Queued::Abort).expect("asked");
        }
        world.run("all are answered", |_| tickets.iter().all(Ticket::is_ready));
        let aborted: Vec<_> = tickets.into_iter().map(|ticket| ticket.try_take().expect("ready")).collect();
        let reason = if fails { AbortReason::Failed } else { AbortReason::Reset };
        assert!(
            aborted.iter().any(
                |outcome| matches!(outcome, Outcome::Aborted(why) if *why == Aborted::unexecuted(reason))
            )
        );
        let all =
            aborted.iter().all(|outcome| matches!(outcome, Outcome::Aborted(why) if why.reason == reason));
        assert!(all, "{aborted:?}");
        world.detach();
    }
}
