//! Resets of the NVM subsystem: by choice, and as the last step before a controller is given up.

use crate::meddled::{Hooks, Meddled};
use crate::world::{World, config, is_status, ms, timeouts};
use slipring::ctrlr::{
    ControllerEvent, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, Refusal, Reply, ResetError,
    Timeouts,
};
use slipring::emulated::Config;
use slipring::poller::IoCompletion;
use slipring::ring::{AbortReason, Aborted, Outcome};
use slipring::spec::registers::{CAP, CSTS, Cap, Csts};
use slipring::spec::status::Status;
use slipring::transport::Transport as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a device may be away, by the driver.
const ABSENCE: Duration = Duration::from_secs(10);
/// How long this one is.
const AWAY: Duration = Duration::from_millis(50);
const DEPTH: u64 = 12;

fn with_nssr(faults: &str, away: Duration) -> Config {
    Config { nssr: Some(away), ..config(faults) }
}

fn world(faults: &str) -> World {
    World::with(with_nssr(faults, AWAY), timeouts(), EventAnswer::Proceed)
}

fn allowed() -> Timeouts {
    Timeouts { subsystem_reset: true, ..timeouts() }
}

fn recoveries(world: &World) -> usize {
    world.told().iter().filter(|event| matches!(event, ControllerEvent::Recovering(_))).count()
}

fn reset_subsystem(world: &mut World) -> Duration {
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    let took = world.run("over", |_| reset.is_over().is_some());
    assert_eq!(reset.is_over(), Some(Ok(())));
    took
}

/// Blocks that differ from round to round.
fn block(lba: u64, round: u64) -> Vec<u8> {
    (0..512).map(|at| (at * 7 + lba * 31 + round * 13) as u8).collect()
}

/// Writes in flight, some answered and some that the device holds for long: each has one outcome, none is given up before the device has stopped, and what was
/// acknowledged is there.
#[test]
fn under_load_nothing_is_lost_and_nothing_comes_back_before_the_device_has_stopped() {
    let mut world = world("delay=30s opcode=write chance=50% seed=7");
    let mut qpair = world.queue_pair();
    let namespace = world.ctrlr.namespaces()[0];
    let mut held = vec![vec![0; 512]; DEPTH as usize];
    let mut aborted = 0;
    for round in 1..=10 {
        for lba in 0..DEPTH {
            let data = world.ctrlr.allocate(512).expect("memory");
            data.write_at(0, &block(lba, round));
            qpair.write(&namespace, lba, data.into(), lba).expect("submitted");
        }
        qpair.commit();
        let message = world.send_read(0);
        world.pass(ms(round % 4));
        let reset = world.ctrlr.reset_subsystem().expect("there is one");
        let (mut back, mut has_stopped) = (Vec::<IoCompletion>::new(), false);
        world.run("the reset is over", |world| {
            // All ones while the device is away, which is not yet to have stopped.
            has_stopped |= !Csts::from_bits(world.transport.read_u32(CSTS)).rdy();
            let poll = qpair.poll(16, |io| {
                assert!(has_stopped || io.is_success(), "round {round}: {:?}", io.outcome);
                back.push(io);
            });
            poll.expect("well");
            reset.is_over().is_some() && back.len() as u64 == DEPTH && qpair.is_connected()
        });
        assert_eq!(reset.is_over(), Some(Ok(())));
        let (outcome, _) = world.outcome(message);
        assert!(is_status(&outcome, Status::SUCCESS) || is_reset(&outcome), "{outcome:?}");
        back.sort_by_key(|io| io.token);
        for (lba, io) in (0..).zip(back) {
            assert_eq!(io.token, lba, "round {round}: one outcome each");
            assert!(io.data.is_some());
            let found = read(&mut world, lba);
            let is_new = found == block(lba, round);
            if !io.is_success() {
                assert!(is_reset(&io.outcome), "{:?}", io.outcome);
                aborted += 1;
            }
            assert!(is_new || !io.is_success() && found == held[lba as usize], "round {round}, block {lba}");
            held[lba as usize] = found;
        }
    }
    assert!((10..10 * DEPTH - 10).contains(&aborted), "{aborted}");
    let statistics = world.ctrlr.statistics();
    assert_eq!((statistics.resets, statistics.subsystem_resets), (10, 10));
    let csts = Csts::from_bits(world.transport.read_u32(CSTS));
    assert!(csts.rdy() && !csts.nssro(), "{csts:?}");
    drop(qpair);
    world.finish();
}

fn is_reset<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Outcome::Aborted(aborted) if *aborted == Aborted::maybe_executed(AbortReason::Reset))
}

/// What a block holds, by message.
fn read(world: &mut World, lba: u64) -> Vec<u8> {
    let ticket = world.send_read(lba);
    let (outcome, _) = world.outcome(ticket);
    let Outcome::Completed(Reply::Command { data: Some(data), .. }) = outcome else { panic!("{outcome:?}") };
    data.buffer().to_vec()[..512].to_vec()
}

#[test]
fn a_controller_without_it_says_so() {
    let mut world = World::new("", allowed());
    assert!(!world.ctrlr.limits().expect("known").nssrs);
    assert!(matches!(world.ctrlr.reset_subsystem(), Err(ResetError::NoSubsystemReset)));
    let ticket = world.poller.send(Message::ResetSubsystem).expect("running");
    let (outcome, _) = world.outcome(ticket);
    let refused = |outcome: &Outcome<Reply>| {
        matches!(outcome, Outcome::Completed(Reply::Refused { why: Refusal::NoSubsystemReset, .. }))
    };
    assert!(refused(&outcome), "{outcome:?}");
    assert_eq!(world.ctrlr.statistics().resets, 0);
    world.finish();
}

#[test]
fn it_may_be_asked_for_by_message_and_those_who_ask_meanwhile_join() {
    let mut world = world("");
    let producer = world.ctrlr.register("asks").expect("registered");
    let tickets = [(); 2].map(|()| producer.send(Message::ResetSubsystem).expect("room"));
    world.run("it has begun", |world| world.ctrlr.state() == CtrlrState::Resetting);
    let joined = [(); 2].map(|()| world.ctrlr.reset_subsystem().expect("joins"));
    let plain = world.ctrlr.reset().expect("joins as well");
    for ticket in tickets {
        let (outcome, _) = world.outcome(ticket);
        assert!(matches!(outcome, Outcome::Completed(Reply::WasReset)), "{outcome:?}");
    }
    for reset in joined.iter().chain([&plain]) {
        assert_eq!(reset.is_over(), Some(Ok(())));
    }
    world.pass(ms(100));
    let statistics = world.ctrlr.statistics();
    assert_eq!((statistics.resets, statistics.subsystem_resets), (1, 1));
    world.finish();
}

/// A controller reset is not what was asked for: that of the subsystem follows it.
#[test]
fn it_follows_a_controller_reset_that_is_in_progress() {
    let mut world = world("");
    let plain = world.ctrlr.reset().expect("asked");
    world.run("it has begun", |world| world.ctrlr.state() == CtrlrState::Resetting);
    let reset = world.ctrlr.reset_subsystem().expect("asked");
    let ticket = world.poller.send(Message::ResetSubsystem).expect("seated");
    world.run("the first is over", |_| plain.is_over().is_some());
    assert_eq!(reset.is_over(), None);
    assert!(!ticket.is_ready());
    world.run("the second as well", |_| reset.is_over().is_some());
    assert!(matches!(world.outcome(ticket).0, Outcome::Completed(Reply::WasReset)));
    let statistics = world.ctrlr.statistics();
    assert_eq!((statistics.resets, statistics.subsystem_resets), (2, 1));
    assert!(world.works());
    world.finish();
}

/// However long the device is away, within bounds, and whatever its controller was at: it comes back, and is told of its shutdown where it can hear of it.
#[test]
fn the_device_may_be_away_up_to_a_bound() {
    for away in [Duration::ZERO, ms(1), ms(10), ms(9900)] {
        let slow = Config { shutdown_delay: ms(20), ..with_nssr("", away) };
        let mut world = World::with(slow, timeouts(), EventAnswer::Proceed);
        assert!(world.works());
        let took = reset_subsystem(&mut world);
        assert!((away + ms(20)..away + ms(50)).contains(&took), "{away:?}: {took:?}");
        assert!(world.works());
        world.finish();
    }
    let mut world = World::with(with_nssr("", ABSENCE + ms(100)), timeouts(), EventAnswer::Proceed);
    let mut qpair = world.queue_pair();
    let ticket = world.poller.start_call(slipring::ctrlr::admin::smart_log()).expect("running");
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    let took = world.run("failed", |_| reset.is_over().is_some());
    assert!((ABSENCE..ABSENCE + ms(20)).contains(&took), "{took:?}");
    assert!(matches!(reset.is_over(), Some(Err(ResetError::Failed(Failure::Removed { .. })))));
    world.run("answered", |_| ticket.is_ready());
    world.run("the owner is told", |_| qpair.poll(1, |_| ()).is_err());
    drop(qpair);
    world.detach();
}

/// The polling thread pauses for an hour at each moment: what the device did meanwhile is seen when it is looked at again.
#[test]
fn a_pause_is_not_the_devices_fault() {
    for moment in 0..60 {
        let mut world = World::with(with_nssr("", ms(8)), timeouts(), EventAnswer::Proceed);
        let reset = world.ctrlr.reset_subsystem().expect("there is one");
        for _ in 0..moment {
            world.step().expect("well");
        }
        world.now += Duration::from_secs(3600);
        world.run("over", |_| reset.is_over().is_some());
        assert_eq!(reset.is_over(), Some(Ok(())), "moment {moment}");
        assert!(world.works());
        world.finish();
    }
}

#[test]
fn a_detach_may_come_at_any_moment() {
    for moment in 0..60 {
        let mut world = World::with(with_nssr("", ms(8)), timeouts(), EventAnswer::Proceed);
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        let reset = world.ctrlr.reset_subsystem().expect("there is one");
        for _ in 0..moment {
            let _ = world.step();
        }
        let ctrlr = world.ctrlr.clone();
        world.finish();
        assert!(reset.is_over().is_some(), "moment {moment}");
        let mut back = 0;
        while qpair.poll(8, |_| back += 1).is_ok() {}
        assert_eq!(back, 1, "moment {moment}");
        drop(qpair);
        assert_eq!(ctrlr.dma_bytes(), (0, 0), "moment {moment}");
    }
}

/// Resets that come to nothing, by their faults.
const FAULTS: [&str; 5] = [
    "never-stops nth=1",
    "never-ready nth=2",
    "hang opcode=identify nth=5",
    "status=internal-error opcode=identify nth=5",
    "fatal opcode=identify nth=5",
];

/// The last step before a controller is given up: where the embedder allows it, a reset that fails is followed by one of the subsystem, once.
#[test]
fn a_reset_that_fails_is_followed_by_one_of_the_subsystem_where_that_is_allowed() {
    for fault in FAULTS {
        let mut world = World::with(with_nssr(fault, AWAY), allowed(), EventAnswer::Proceed);
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        let producer = world.ctrlr.register("waits").expect("registered");
        let reset = world.ctrlr.reset().expect("asked");
        let ticket = producer.send(Message::call(|_| 5)).expect("room");
        world.run("over", |_| reset.is_over().is_some());
        assert_eq!(reset.is_over(), Some(Ok(())), "{fault}: {:?}", world.told());
        assert!(matches!(world.outcome(ticket).0, Outcome::Completed(Reply::Called(5))), "{fault}");
        let (back, _) = world.back(&mut qpair, 1);
        assert!(back[0].data.is_some());
        world.run("connected", |_| qpair.poll(1, |_| panic!("one outcome")).is_ok() && qpair.is_connected());
        let statistics = world.ctrlr.statistics();
        assert_eq!(
            (statistics.resets, statistics.subsystem_resets),
            (1, 1),
            "{fault}: one, as who asked sees it"
        );
        assert_eq!(recoveries(&world), 1, "{fault}: the embedder was told");
        assert!(world.works());
        drop(qpair);
        world.finish();
    }
}

#[test]
fn it_is_not_where_nobody_allows_it_or_it_would_be_of_no_use() {
    let with =
        |fault: &str, timeouts: Timeouts, answer| World::with(with_nssr(fault, AWAY), timeouts, answer);
    for fault in FAULTS {
        let worlds = [
            ("not allowed", with(fault, timeouts(), EventAnswer::Proceed), 0),
            ("the embedder objects", with(fault, allowed(), EventAnswer::Object), 1),
            ("there is none", World::new(fault, allowed()), 0),
        ];
        for (why, mut world, told) in worlds {
            let reset = world.ctrlr.reset().expect("asked");
            world.run("over", |_| reset.is_over().is_some());
            assert!(matches!(reset.is_over(), Some(Err(ResetError::Failed(_)))), "{why}: {fault}");
            assert_eq!(recoveries(&world), told, "{why}: {fault}");
            assert_eq!(world.ctrlr.statistics().subsystem_resets, 0);
            world.detach();
        }
    }
    // Once: if that fails as well, the controller has failed.
    for fault in ["never-ready nth=2..", "hang opcode=identify nth=5..", "fatal opcode=identify nth=5.."] {
        let mut world = with(fault, allowed(), EventAnswer::Proceed);
        let reset = world.ctrlr.reset().expect("asked");
        world.run("over", |_| reset.is_over().is_some());
        assert!(matches!(reset.is_over(), Some(Err(ResetError::Failed(_)))), "{fault}");
        assert_eq!((recoveries(&world), world.ctrlr.statistics().subsystem_resets), (1, 0), "{fault}");
        world.detach();
    }
    // It is not over before CSTS.RDY has fallen, and by then the time is over.
    let mut world = World::with(with_nssr("never-stops", Duration::ZERO), allowed(), EventAnswer::Proceed);
    let reset = world.ctrlr.reset().expect("asked");
    let took = world.run("over", |_| reset.is_over().is_some());
    let Some(Err(ResetError::Failed(Failure::Timeout { what, .. }))) = reset.is_over() else {
        panic!("{reset:?}")
    };
    assert_eq!(what, "the end of its subsystem reset");
    assert!((ABSENCE + ms(1000)..ABSENCE + ms(1020)).contains(&took), "{took:?}");
    assert_eq!(recoveries(&world), 1);
    world.detach();
    // Nor for a device that is not there.
    let mut world = with("registers=ones opcode=read", allowed(), EventAnswer::Proceed);
    drop(world.send_read(0));
    world.run("failed", |world| world.ctrlr.state() == CtrlrState::Failed);
    assert_eq!(recoveries(&world), 0);
    world.detach();
}

/// What the driver begins by itself goes the same way: a fatal status, a reset that fails, and one of the subsystem.
#[test]
fn a_broken_controller_is_mended_step_by_step() {
    let fault = "fatal opcode=read nth=1\nnever-stops nth=1";
    // So long that no command is late before the look.
    let slow = Timeouts { io: ms(500), ..allowed() };
    let mut world = World::with(with_nssr(fault, AWAY), slow, EventAnswer::Proceed);
    let ticket = world.send_read(0);
    let (outcome, _) = world.outcome(ticket);
    assert!(is_reset(&outcome), "{outcome:?}");
    world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
    let told = world.told();
    assert!(
        matches!(
            &told[..],
            [
                ControllerEvent::Recovering(Failure::Fatal { .. }),
                ControllerEvent::Recovering(Failure::Timeout { .. })
            ]
        ),
        "{told:?}"
    );
    assert!(world.works());
    world.finish();
}

/// What is odd about a device whose subsystem is reset.
#[derive(Debug, Default)]
struct Oddities {
    /// CSTS.NSSRO, which a controller need not have, stays 0.
    hides_nssro: AtomicBool,
    /// So often its bus cannot be set up yet.
    refusals: AtomicU32,
    /// Its capabilities make no sense: MPSMIN is above MPSMAX.
    is_unusable: AtomicBool,
}

/// A controller on such a device, to be made odd, that may reset its subsystem by itself.
fn odd_world() -> (World, Arc<Oddities>) {
    let oddities = Arc::new(Oddities::default());
    let (read, restored) = (Arc::clone(&oddities), Arc::clone(&oddities));
    let hooks = Hooks {
        reads_as: Box::new(move |offset, value| match offset {
            CSTS if read.hides_nssro.load(Relaxed) => {
                Csts::from_bits(value as u32).with_nssro(false).into_bits().into()
            }
            CAP if read.is_unusable.load(Relaxed) => {
                Cap::from_bits(value).with_mpsmin(4).with_mpsmax(0).into_bits()
            }
            _ => value,
        }),
        can_be_restored: Box::new(move || {
            restored.refusals.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_err()
        }),
        ..Hooks::default()
    };
    let options = CtrlrOptions { timeouts: allowed(), ..CtrlrOptions::default() };
    let wrap = |device| Meddled::new(device, hooks);
    let world = World::through(wrap, Instant::now(), with_nssr("", ms(1)), options, EventAnswer::Proceed);
    (world, oddities)
}

#[test]
fn a_controller_without_nssro_is_known_to_be_reset_when_it_is_disabled() {
    let (mut world, odd) = odd_world();
    odd.hides_nssro.store(true, Relaxed);
    assert!(reset_subsystem(&mut world) < ms(100));
    world.finish();
}

/// What its bus was set up to is asked for until it is there; within the bound of the whole, and no longer.
#[test]
fn a_bus_that_cannot_be_set_up_yet_is_tried_again_until_the_time_is_over() {
    let (mut world, odd) = odd_world();
    odd.refusals.store(5, Relaxed);
    let took = reset_subsystem(&mut world);
    assert!((ms(50)..ms(150)).contains(&took), "{took:?}");
    assert_eq!(odd.refusals.load(Relaxed), 0);
    odd.refusals.store(u32::MAX, Relaxed);
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    let took = world.run("over", |_| reset.is_over().is_some());
    assert!((ABSENCE..ABSENCE + ms(100)).contains(&took), "{took:?}");
    assert!(matches!(reset.is_over(), Some(Err(ResetError::Failed(Failure::Host(_))))), "{reset:?}");
    world.detach();
}

/// One that was disabled before looks the same afterwards. Only NSSRO tells; without it nobody can, and it is not taken for one that was reset.
#[test]
fn a_controller_that_was_disabled_before_is_known_to_be_reset_by_nssro_alone() {
    for hides_nssro in [false, true] {
        let (mut world, odd) = odd_world();
        odd.hides_nssro.store(hides_nssro, Relaxed);
        // So each bring-up fails before the controller is enabled, and after the first one the subsystem is reset.
        odd.is_unusable.store(true, Relaxed);
        let reset = world.ctrlr.reset().expect("asked");
        world.run("over", |_| reset.is_over().is_some());
        match reset.is_over() {
            Some(Err(ResetError::Failed(Failure::Unusable(_)))) => assert!(!hides_nssro, "it was brought up"),
            Some(Err(ResetError::Failed(Failure::Timeout { what, .. }))) => {
                assert!(hides_nssro && what == "the end of its subsystem reset", "{what}");
            }
            other => panic!("{other:?}"),
        }
        world.detach();
    }
}
