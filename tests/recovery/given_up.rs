//! Retries that end: each kind of command has its own time, and a reset waits for none.

use crate::world::{TICK, World, config, is_status, ms, timeouts};
use slipring::ctrlr::{CtrlrOptions, EventAnswer, TimeoutAction, Timeouts};
use slipring::emulated::Config;
use slipring::ring::{AbortReason, Outcome};
use slipring::spec::status::Status;

/// A controller that asks for 100 ms between two tries, of which there are as many as the time allows.
fn world(faults: &str, io_ms: u64, admin_ms: u64) -> World {
    let action = TimeoutAction::Report;
    let timeouts = Timeouts { io: ms(io_ms), admin: ms(admin_ms), action, ..timeouts() };
    let options = CtrlrOptions { retries: 20, timeouts, ..CtrlrOptions::default() };
    World::of(Config { crdt: [1, 0, 0], ..config(faults) }, options, EventAnswer::Proceed)
}

#[test]
fn each_kind_of_command_is_tried_for_its_own_time() {
    let faults = "status=namespace-not-ready/crd1 queue=1 opcode=read\n\
                  status=namespace-not-ready/crd1 queue=admin opcode=get-log-page";
    for (io_ms, admin_ms) in [(250, 450), (450, 250)] {
        let mut world = world(faults, io_ms, admin_ms);
        let read = world.send_read(3);
        let log = world.log_message();
        let log = world.poller.send(log).expect("running");
        for ticket in [read, log] {
            let (outcome, _) = world.outcome(ticket);
            assert!(is_status(&outcome, Status::NAMESPACE_NOT_READY), "{outcome:?}");
        }
        // At 0, 100, 200, … ms, as long as that is less than the time.
        assert_eq!(world.transport.faults_met(), [io_ms, admin_ms].map(|limit| limit / 100 + 1));
        world.finish();
    }
}

/// Its queue is none until the reset is over, and then it has ended.
#[test]
fn what_waits_for_its_next_try_is_not_sent_during_a_reset() {
    let mut world = world("status=namespace-not-ready/crd1 queue=1 opcode=read nth=1", 800, 800);
    let ticket = world.send_read(3);
    world.run("waits", |world| world.transport.faults_met() == [1]);
    world.pass(ms(10));
    let _ = world.ctrlr.reset().expect("asked");
    // The device takes its time to stop.
    for _ in 0..400 {
        world.now += TICK;
        world.poller.poll(world.now).expect("well");
    }
    let (outcome, _) = world.outcome(ticket);
    assert!(
        matches!(outcome, Outcome::Aborted(aborted) if aborted.reason == AbortReason::Reset),
        "{outcome:?}"
    );
    assert!(world.works());
    let statistics = world.ctrlr.statistics();
    assert_eq!((statistics.resets, statistics.retries), (1, 0));
    world.finish();
}
