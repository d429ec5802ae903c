//! Keep-alive: a controller that wants a sign of life gets it in time, also after resets; and what follows when it does not.

use crate::world::{World, attach, config, ms, timeouts};
use slipring::ctrlr::{ControllerEvent, CtrlrOptions, CtrlrState, EventAnswer, Failure};
use slipring::emulated::Config;
use std::time::Duration;

/// What the tests ask for; a Keep Alive each half of it.
const TIMEOUT: Duration = Duration::from_millis(200);
/// A fault that changes nothing, first among the faults: it counts the Keep Alives.
const COUNT: &str = "delay=1us opcode=keep-alive\n";

fn options() -> CtrlrOptions {
    CtrlrOptions { keep_alive_timeout: Some(TIMEOUT), timeouts: timeouts(), ..CtrlrOptions::default() }
}

fn kept(faults: &str) -> World {
    World::of(Config { kas: 1, ..config(&format!("{COUNT}{faults}")) }, options(), EventAnswer::Proceed)
}

fn count(world: &World) -> u64 {
    world.transport.faults_met()[0]
}

#[test]
fn a_keep_alive_is_sent_each_half_of_the_timeout() {
    let mut world = kept("");
    world.pass(ms(10_000));
    assert!((98..=100).contains(&count(&world)), "one each 100 ms: {}", count(&world));
    assert_eq!((world.ctrlr.state(), world.ctrlr.statistics().resets), (CtrlrState::Live, 0));
    world.finish();
}

/// Slow answers: the next one waits for the one before, and there is time for that.
#[test]
fn there_is_one_at_a_time() {
    let mut world = kept("delay=90ms opcode=keep-alive");
    world.pass(ms(10_000));
    assert!((98..=100).contains(&count(&world)), "{}", count(&world));
    assert_eq!(world.told(), []);
    world.finish();
}

/// It has half the timeout, as have all; one that was not even executed is not in time for the controller either.
#[test]
fn a_missing_answer_is_a_stuck_command_of_the_drivers_own() {
    for fault in ["drop opcode=keep-alive nth=3", "hang opcode=keep-alive nth=3"] {
        let mut world = kept(fault);
        world.run("the third is sent", |world| count(world) == 3);
        let took = world.run("noticed", |world| !world.told().is_empty());
        assert!((ms(99)..ms(100) + ms(12)).contains(&took), "{fault}: {took:?}");
        let told = world.told();
        let [ControllerEvent::Recovering(Failure::Stuck { what, .. })] = &told[..] else {
            panic!("{told:?}")
        };
        assert_eq!(what, "KeepAlive");
        world.run("live", |world| world.ctrlr.statistics().resets == 1);
        world.pass(ms(2000));
        assert_eq!((world.ctrlr.state(), world.told().len()), (CtrlrState::Live, 1));
        assert_eq!(world.transport.violations().len(), usize::from(fault.starts_with("hang")), "{fault}");
        world.detach();
    }
}

#[test]
fn one_that_fails_is_followed_by_another_in_time() {
    let mut world = kept("status=internal-error opcode=keep-alive nth=2..3");
    // 100 ms, 200 (fails), 250 (fails), 300, and on.
    for failed in [2, 3] {
        world.run("it fails", |world| count(world) == failed);
        world.pass(ms(45));
        assert_eq!(count(&world), failed, "a quarter of the timeout between them");
    }
    world.pass(ms(705));
    assert!((10..=11).contains(&count(&world)), "{}", count(&world));
    assert_eq!(world.told(), []);
    world.finish();
}

#[test]
fn it_goes_on_after_resets() {
    let mut world = kept("");
    for round in 0..3 {
        world.pass(ms(130));
        let reset = world.ctrlr.reset().expect("asked");
        world.run("over", |_| reset.is_over().is_some());
        let before = count(&world);
        world.pass(ms(1000));
        assert!((9..=10).contains(&(count(&world) - before)), "round {round}");
    }
    assert_eq!((world.told(), world.ctrlr.statistics().resets), (vec![], 3));
    world.finish();
}

/// Whoever stops polling has the controller give up; the first poll after that finds it fatal, and resets it.
#[test]
fn a_poller_that_stays_away_finds_a_fatal_controller() {
    let mut world = kept("");
    // The reset takes the timer along: it is set anew.
    for round in 1..=2 {
        world.pass(ms(500));
        for _ in 0..3 {
            world.now += ms(90);
            world.device.step_at(world.now);
        }
        let violations = world.transport.violations();
        assert_eq!(
            violations.last().map(String::as_str),
            Some("fatal: no Keep Alive came for 200 ms; CSTS.CFS is set")
        );
        assert_eq!(violations.len(), round);
        world.run("noticed", |world| world.told().len() == round);
        assert!(matches!(&world.told()[round - 1], ControllerEvent::Recovering(Failure::Fatal { .. })));
        world.run("live", |world| world.ctrlr.statistics().resets as usize == round);
        assert!(world.works());
        world.pass(ms(2000));
        assert_eq!((world.told().len(), world.transport.violations().len()), (round, round), "kept again");
    }
    world.detach();
}

/// Until the first poll nobody could keep it, so the timer is not set: an embedder may take its time.
#[test]
fn the_timer_waits_for_the_first_poll() {
    let mut world = kept("");
    world.now += ms(60_000);
    world.device.step_at(world.now);
    assert_eq!(count(&world), 0);
    world.pass(ms(1000));
    assert!(count(&world) >= 9);
    assert_eq!(world.told(), []);
    world.finish();
}

/// The first Set Features is for the number of queues, the second for events.
#[test]
fn a_timer_that_cannot_be_set_fails_the_controller() {
    let mut world = kept("status=keep-alive-timeout-invalid opcode=set-features nth=3");
    world.run("failed", |world| world.ctrlr.state() == CtrlrState::Failed);
    let failure = world.ctrlr.failure().expect("failed");
    assert!(failure.to_string().contains("Set Features (Keep Alive Timer)"), "{failure}");
    world.detach();
}

#[test]
fn what_cannot_be_kept_is_refused_at_attach() {
    let refused = |config, options| attach(config, options).expect_err("refused").to_string();
    let without = refused(config(""), options());
    assert!(without.contains("no keep-alive (KAS is 0)"), "{without}");
    for timeout in [Duration::ZERO, ms(99), ms(u64::from(u32::MAX) + 1)] {
        let options = CtrlrOptions { keep_alive_timeout: Some(timeout), ..options() };
        let said = refused(config(""), options);
        assert!(said.contains("keep_alive_timeout is") && said.contains("100 ms to 4294967295 ms"), "{said}");
    }
    let small = CtrlrOptions { admin_queue_entries: 8, ..options() };
    let said = refused(Config { kas: 1, ..config("") }, small);
    assert!(said.contains("9 to 4096 are allowed"), "{said}");
}

/// The smallest admin queue that goes with it has room for everybody.
#[test]
fn a_small_admin_queue_has_room_for_it() {
    let options = CtrlrOptions { admin_queue_entries: 9, ..options() };
    let mut world = World::of(Config { kas: 1, ..config(COUNT) }, options, EventAnswer::Proceed);
    let qpair = world.queue_pair();
    for _ in 0..40 {
        let smart = world.poller.start_call(slipring::ctrlr::admin::smart_log()).expect("running");
        world.run("answered", |_| smart.is_ready());
        world.pass(ms(50));
    }
    assert!((18..=21).contains(&count(&world)), "{}", count(&world));
    drop(qpair);
    world.finish();
}
