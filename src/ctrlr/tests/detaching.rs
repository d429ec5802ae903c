//! What a detach waits for, and what the next one goes on with.
#![forbid(unsafe_code)]

use super::{STEPS, World, config};
use crate::ctrlr::{CtrlrOptions, CtrlrState, DetachError, Envelope, Message, Responder, Stalled, WaitsFor};
use crate::ring::scheme::Sender;
use crate::ring::{AbortReason, Aborted, Outcome};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_a_detach_waits_for_is_said_in_words() {
    let stalled = Stalled { poller: Some("io".into()), last_poll_ago: None };
    for (waits_for, words) in [
        (WaitsFor::Poller(stalled), "poller 'io' has never polled"),
        (WaitsFor::Producer, "a producer is in the middle of a send"),
        (WaitsFor::Device, "the device is being stopped"),
    ] {
        let said = DetachError::Deadline { waits_for }.to_string();
        assert_eq!(said, format!("not detached within the deadline: {words}; call detach again"));
    }
}

/// A producer that is preempted in the middle of a send: its slot is claimed, and not filled yet.
#[test]
fn a_detach_past_its_deadline_says_whether_the_device_or_a_producer_holds_it_up() {
    let World { ctrlr, poller, mut device, mut now, .. } = World::new();
    let producer = ctrlr.register("preempted").expect("registered");
    drop(poller);
    let outcome = Arc::new(Mutex::new(None));
    let told = Arc::clone(&outcome);
    let held_up_by = |waits_for| Err(DetachError::Deadline { waits_for });
    let mut responder = Some(Responder::to_callback(Box::new(move |outcome| {
        *told.lock().expect("no panic") = Some(outcome);
    })));
    let sent = producer.sender.push_with(1, |_, place| {
        assert_eq!(ctrlr.detach(Duration::ZERO), held_up_by(WaitsFor::Device));
        let mut detach = ctrlr.begin_detach(20 * SECOND).expect("begins");
        for _ in 0..STEPS / 10 {
            now += Duration::from_micros(1);
            assert!(!detach.step(now), "a producer is in the middle of a send");
            device.step_at(now);
        }
        drop(detach);
        assert_eq!(ctrlr.detach(Duration::ZERO), held_up_by(WaitsFor::Producer));
        place.fill(Envelope { message: Message::Rescan, responder: responder.take().expect("once") })
    });
    assert_eq!(sent, Ok(1), "it came before the detach");
    assert_eq!(ctrlr.detach(Duration::ZERO), Ok(()));
    let outcome = outcome.lock().expect("no panic").take();
    let Some(Outcome::Aborted(aborted)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(aborted, Aborted::unexecuted(AbortReason::Detached));
}

/// Whoever detaches next goes on where the one before gave up, at each of its steps: each queue is deleted once.
#[test]
fn a_detach_goes_on_where_the_one_before_stopped() {
    const DELETIONS: &str = "delay=1us queue=admin opcode=0x00\ndelay=1us queue=admin opcode=0x04";
    for moment in 0..40 {
        let mut world = World::with(config(DELETIONS), CtrlrOptions::default());
        let qpair = world.queue_pair();
        let World { ctrlr, poller, mut device, transport, mut now } = world;
        drop(poller);
        let mut detach = ctrlr.begin_detach(20 * SECOND).expect("begins");
        let mut second = ctrlr.begin_detach(20 * SECOND).expect("two may be at it");
        let mut step = |detach: &mut crate::ctrlr::Detach<_>| {
            now += Duration::from_micros(1);
            device.step_at(now);
            detach.step(now)
        };
        for _ in 0..moment {
            step(&mut detach);
            assert_eq!(step(&mut second), ctrlr.state() == CtrlrState::Detached);
        }
        drop(detach);
        assert!((0..STEPS).any(|_| step(&mut second)), "moment {moment}");
        // Those of the queue pair and of messages.
        assert_eq!(transport.faults_met(), [2, 2], "moment {moment}");
        assert_eq!(transport.violations(), Vec::<String>::new(), "moment {moment}");
        drop(qpair);
    }
}
