//! Resets: for which reasons, what waits for them, and how they end.

use crate::world::{TICK, World, config, ms, timeouts};
use slipring::ctrlr::{
    ControllerEvent, CtrlrState, EventAnswer, Failure, Message, Queued, Reply, ResetError, Timeouts,
};
use slipring::emulated::{Config, EmulatedTransport};
use slipring::poller::{PollError, QpairError, QpairOptions, QueuePair};
use slipring::ring::{AbortReason, Aborted, Outcome};
use slipring::spec::registers::{CC, CSTS, Cc, Csts};
use slipring::spec::status::Status;
use slipring::transport::Transport as _;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_fatal_status_is_answered_with_a_reset() {
    // So long that no command is late before the look.
    let slow = Timeouts { io: ms(500), ..timeouts() };
    let mut world = World::new("fatal opcode=read nth=1", slow);
    let mut qpair = world.queue_pair();
    let ticket = world.send_read(0);
    let (outcome, took) = world.outcome(ticket);
    let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
    assert_eq!(aborted, Aborted::maybe_executed(AbortReason::Reset));
    assert!(took < ms(110), "one look at CSTS each 100 ms: {took:?}");
    assert!(matches!(&world.told()[..], [ControllerEvent::Recovering(Failure::Fatal { .. })]));
    world.run("connected again", |world| {
        qpair.poll(1, |_| ()).expect("well");
        qpair.is_connected() && world.ctrlr.state() == CtrlrState::Live
    });
    assert!(world.works());
    drop(qpair);
    world.finish();
}

#[test]
fn an_embedder_may_have_the_controller_fail_instead() {
    let mut world = World::with(config("fatal opcode=read nth=1"), timeouts(), EventAnswer::Object);
    let ticket = world.send_read(0);
    let (outcome, _) = world.outcome(ticket);
    assert!(matches!(outcome, Outcome::Aborted(Aborted { reason: AbortReason::Failed, .. })), "{outcome:?}");
    assert!(matches!(world.step(), Err(PollError::Failed(Failure::Fatal { .. }))));
    assert_eq!(world.ctrlr.state(), CtrlrState::Failed);
    world.finish();
}

/// A controller that breaks again and again is given up, and still detaches.
#[test]
fn too_many_resets_in_a_minute_are_a_failure() {
    let mut world = World::new("fatal opcode=read", timeouts());
    for round in 0..3 {
        let ticket = world.send_read(0);
        let (outcome, _) = world.outcome(ticket);
        assert!(
            matches!(outcome, Outcome::Aborted(Aborted { reason: AbortReason::Reset, .. })),
            "{outcome:?}"
        );
        world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
        assert_eq!(world.ctrlr.statistics().resets, round + 1);
    }
    let ticket = world.send_read(0);
    let (outcome, _) = world.outcome(ticket);
    assert!(matches!(outcome, Outcome::Aborted(Aborted { reason: AbortReason::Failed, .. })), "{outcome:?}");
    assert_eq!(world.ctrlr.state(), CtrlrState::Failed);
    assert!(matches!(world.ctrlr.reset(), Err(ResetError::Failed(Failure::Fatal { .. }))));
    world.finish();
}

#[test]
fn resets_a_minute_apart_are_no_failure() {
    let one = Timeouts { resets_per_minute: 1, ..timeouts() };
    let mut world = World::new("fatal opcode=read", one);
    for _ in 0..4 {
        let ticket = world.send_read(0);
        let _ = world.outcome(ticket);
        world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
        world.now += Duration::from_secs(61);
    }
    world.finish();
}

/// A reset that does not succeed: within its bounds the controller has failed, everything is answered, and it still detaches.
#[test]
fn a_reset_that_fails_leaves_a_failed_controller_that_detaches() {
    // CAP.TO is a second, twice where the stop is tried once more; admin_timeout is 400 ms.
    let faults = [
        ("never-stops nth=1..", ms(3000)),
        ("never-ready nth=2", ms(1100)),
        ("hang opcode=identify nth=5", ms(500)),
        ("status=internal-error opcode=identify nth=5", ms(100)),
        ("fatal opcode=identify nth=5", ms(100)),
    ];
    for (fault, bound) in faults {
        let mut world = World::new(fault, timeouts());
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        let producer = world.ctrlr.register("waits").expect("registered");
        let reset = world.ctrlr.reset().expect("asked");
        let ticket = producer.send(Message::call(|_| 0)).expect("room");
        let took = world.run("over", |_| reset.is_over().is_some());
        assert!(took <= bound, "{fault}: {took:?}");
        assert!(matches!(reset.is_over(), Some(Err(ResetError::Failed(_)))), "{fault}");
        let (_, more) = world.outcome(ticket);
        let (back, again) = world.back(&mut qpair, 1);
        assert!(back[0].data.is_some());
        assert!(took + more + again <= bound + ms(2100), "{fault}: a shutdown of 2 s at most lies between");
        assert_eq!(world.ctrlr.state(), CtrlrState::Failed, "{fault}");
        // A closure needs no device: it runs, whether it came through the ring or from the polling thread.
        let through_the_ring = producer.send(Message::call(|_| 5)).expect("room");
        let past_it = world.poller.send(Message::call(|_| 5)).expect("seated");
        for ticket in [through_the_ring, past_it] {
            let (outcome, _) = world.outcome(ticket);
            assert!(matches!(outcome, Outcome::Completed(Reply::Called(5))), "{fault}: {outcome:?}");
        }
        drop(qpair);
        assert!(world.detach() < ms(100), "{fault}: the device was stopped before");
    }
}

/// The polling thread pauses for an hour at each moment of a reset and of a detach: what the device did meanwhile is seen when it is looked at again.
#[test]
fn a_pause_in_a_reset_or_a_detach_is_not_the_devices_fault() {
    let hour = Duration::from_secs(3600);
    for moment in 0..40 {
        let slow = Config { ready_delay: ms(3), shutdown_delay: ms(3), ..config("") };
        let mut world = World::with(slow, timeouts(), EventAnswer::Proceed);
        let qpair = world.queue_pair();
        let reset = world.ctrlr.reset().expect("asked");
        for _ in 0..moment {
            world.step().expect("well");
        }
        world.now += hour;
        world.run("over", |_| reset.is_over().is_some());
        assert_eq!(reset.is_over(), Some(Ok(())), "moment {moment}");
        assert!(world.works());
        let (ctrlr, transport) = (world.ctrlr.clone(), world.transport.clone());
        drop((qpair, world.poller));
        let mut detach = ctrlr.begin_detach(4 * hour).expect("begins");
        let mut steps = 0;
        while !detach.step(world.now) {
            world.now += if steps == moment { hour } else { TICK };
            world.device.step_at(world.now);
            steps += 1;
            assert!(steps < 1000, "moment {moment}: {ctrlr:?}");
        }
        assert_eq!(transport.violations(), Vec::<String>::new(), "moment {moment}: it said goodbye");
    }
}

/// CC, and whether the controller is ready.
fn configuration(transport: &EmulatedTransport) -> (Cc, bool) {
    (Cc::from_bits(transport.read_u32(CC)), Csts::from_bits(transport.read_u32(CSTS)).rdy())
}

/// A controller in a reset, which is enabled again and takes 50 ms to be ready.
fn coming_up() -> World {
    let slow = Config { ready_delay: ms(50), ..config("") };
    let mut world = World::with(slow, timeouts(), EventAnswer::Proceed);
    let _ = world.ctrlr.reset().expect("asked");
    let is_coming_up = |world: &mut World| matches!(configuration(&world.transport), (cc, false) if cc.en());
    world.run("enabled again, and not ready", is_coming_up);
    world
}

/// A controller that comes up would not hear of its shutdown: a detach in the midst of that waits until it is ready.
#[test]
fn a_controller_that_comes_up_is_told_of_its_shutdown_when_it_is_ready() {
    let mut world = coming_up();
    let transport = Arc::clone(&world.transport);
    drop(world.poller);
    let mut detach = world.ctrlr.begin_detach(Duration::from_secs(8)).expect("begins");
    let (mut was_ready, mut was_told) = (false, false);
    while !detach.step(world.now) {
        let (cc, is_ready) = configuration(&transport);
        was_ready |= is_ready;
        was_told |= cc.shn() != 0;
        assert!(was_ready || !was_told && cc.en(), "it is left alone until it is ready");
        world.now += TICK;
        world.device.step_at(world.now);
    }
    assert!(was_ready && was_told);
    assert_eq!(transport.violations(), Vec::<String>::new());
}

/// There is no time for a goodbye: but CC.EN is not cleared before the controller is ready all the same.
#[test]
fn a_controller_that_comes_up_is_not_disabled_before_it_is_ready() {
    let mut world = coming_up();
    let transport = Arc::clone(&world.transport);
    drop(world.poller);
    let mut detach = world.ctrlr.begin_detach(ms(10)).expect("begins");
    let mut was_ready = false;
    while !detach.step(world.now) {
        let (cc, is_ready) = configuration(&transport);
        was_ready |= is_ready;
        assert!(was_ready || cc.en());
        world.now += TICK;
        world.device.step_at(world.now);
    }
    assert!(was_ready);
}

#[test]
fn a_reset_may_be_asked_for_by_message() {
    let mut world = World::new("", timeouts());
    let producer = world.ctrlr.register("asks").expect("registered");
    let tickets = [(); 2].map(|()| producer.send(Message::Reset).expect("room"));
    let after = producer.send(Message::call(|turn| u64::from(turn.statistics().resets))).expect("room");
    for ticket in tickets {
        let (outcome, _) = world.outcome(ticket);
        assert!(matches!(outcome, Outcome::Completed(Reply::WasReset)), "{outcome:?}");
    }
    assert!(world.ctrlr.statistics().resets >= 1);
    assert!(matches!(world.outcome(after).0, Outcome::Completed(Reply::Called(_))));
    // One that is under way when the end comes.
    let ticket = producer.send(Message::Reset).expect("room");
    world.step().expect("well");
    world.finish();
    assert!(matches!(
        ticket.try_take().expect("answered"),
        Outcome::Aborted(Aborted { reason: AbortReason::Detached, .. })
    ));
}

/// Messages that are queued during a reset wait for its end, or are aborted, as who asks for it chooses.
#[test]
fn queued_messages_wait_or_are_aborted_by_choice() {
    for queued in [Queued::Wait, Queued::Abort] {
        let mut world = World::new("", timeouts());
        let producer = world.ctrlr.register("sends").expect("registered");
        let reset = world.ctrlr.reset_with(queued).expect("asked");
        world.step().expect("well");
        let data = Box::new(world.ctrlr.allocate(512).expect("memory").into());
        let command = slipring::spec::command::Command::read(1, 0, 1);
        let tickets = [
            producer.send(Message::call(|_| 5)).expect("room"),
            producer.send(Message::Io { command, data: Some(data) }).expect("room"),
            producer.send(Message::Rescan).expect("room"),
        ];
        for ticket in tickets {
            let (outcome, _) = world.outcome(ticket);
            match (queued, outcome) {
                (Queued::Wait, Outcome::Completed(_)) => assert_eq!(reset.is_over(), Some(Ok(()))),
                (Queued::Abort, Outcome::Aborted(aborted)) => {
                    assert_eq!(aborted, Aborted::unexecuted(AbortReason::Reset));
                    assert_eq!(reset.is_over(), None, "at once");
                }
                (_, outcome) => panic!("{queued:?}: {outcome:?}"),
            }
        }
        world.run("over", |_| reset.is_over().is_some());
        // The choice is this reset's, and not the next one's.
        let reset = world.ctrlr.reset().expect("asked");
        world.step().expect("well");
        let ticket = producer.send(Message::call(|_| 5)).expect("room");
        assert!(matches!(world.outcome(ticket).0, Outcome::Completed(Reply::Called(5))));
        assert_eq!(reset.is_over(), Some(Ok(())));
        world.finish();
    }
}

/// One thread polls two controllers, of which one does not come back from its reset: the other goes on, poll by poll.
#[test]
fn a_controller_that_does_not_come_back_holds_up_no_other() {
    let mut sick = World::new("never-ready nth=2", timeouts());
    let mut well = World::new("", timeouts());
    let mut qpair = well.queue_pair();
    let reset = sick.ctrlr.reset().expect("asked");
    let mut served = 0_u64;
    while reset.is_over().is_none() {
        let _ = sick.step();
        well.read(&mut qpair, 0);
        let (back, took) = well.back(&mut qpair, 1);
        assert!(back[0].is_success() && took <= ms(2));
        served += 1;
    }
    assert!(served > 1000, "a second of the sick one's waiting");
    drop(qpair);
    well.finish();
    sick.detach();
}

/// What is in flight comes back as fast as its owner takes it, and until then the queue pair is not connected again.
#[test]
fn a_stop_gives_no_more_back_than_is_asked_for() {
    let mut world = World::new("hang opcode=read", timeouts());
    let mut qpair = world.queue_pair();
    (0..3).for_each(|lba| world.read(&mut qpair, lba));
    let reset = world.ctrlr.reset().expect("asked");
    world.run("over", |_| reset.is_over().is_some());
    for left in (0..3).rev() {
        let mut back = Vec::new();
        assert_eq!(qpair.poll(1, |completion| back.push(completion.outcome)), Ok(1));
        let expected = Aborted::maybe_executed(AbortReason::Reset);
        assert!(matches!(&back[..], [Outcome::Aborted(aborted)] if *aborted == expected), "{back:?}");
        let statistics = qpair.statistics();
        assert_eq!(
            (qpair.outstanding(), statistics.aborted, statistics.completed),
            (left, 3 - left as u64, 0)
        );
        assert_eq!(statistics.reconnects, u64::from(left == 0));
    }
    world.run("connected", |_| qpair.connected().expect("well"));
    drop(qpair);
    world.finish();
}

/// A creation of which one half is refused, and then the deletion of the other: the identifier and the memory are the device's until a reset.
#[test]
fn a_queue_that_cannot_be_deleted_keeps_its_identifier_until_a_reset() {
    // The first submission queue is that of messages.
    let half = "status=0x4002 queue=admin opcode=0x01 nth=2";
    let mut world = World::new(half, timeouts());
    let options = QpairOptions { entries: 8 };
    let mut refused = QueuePair::request(&world.ctrlr, &options).expect("a queue pair");
    let why = QpairError::Refused(Status(0x4002));
    world.run("refused", |_| refused.connected().is_err_and(|error| error == why));
    let polled = refused.poll(1, |_| panic!("nothing was submitted"));
    assert_eq!(polled, refused.connected().map(|_| 0), "a poll says so, too");
    drop(refused);
    let all: Vec<_> = (0..3).map(|_| world.queue_pair()).collect();
    drop(all);
    world.finish();

    let both = format!("{half}\nstatus=internal-error queue=admin opcode=0x04 nth=1");
    let mut world = World::new(&both, timeouts());
    let mut stuck = QueuePair::request(&world.ctrlr, &options).expect("a queue pair");
    world.pass(ms(20));
    assert_eq!(stuck.connected(), Ok(false));
    drop(stuck);
    world.pass(ms(20));
    let kept = [world.queue_pair(), world.queue_pair()];
    let none = QueuePair::request(&world.ctrlr, &options).expect_err("its identifier is not free");
    assert_eq!(none, QpairError::NoneFree { io_queues: 4 });
    drop(kept);
    let reset = world.ctrlr.reset().expect("asked");
    world.run("over", |_| reset.is_over().is_some());
    let all: Vec<_> = (0..3).map(|_| world.queue_pair()).collect();
    drop(all);
    world.finish();
}

/// The device refuses the queues of an owner that has not waited for them: nothing is left, and the identifier is free.
#[test]
fn queues_that_are_refused_when_their_owner_has_gone_leave_their_identifier_free() {
    // The first queues are those of messages.
    for (half, opcode) in [("completion", "0x05"), ("submission", "0x01")] {
        for moment in 1..6 {
            let mut world =
                World::new(&format!("status=0x4002 queue=admin opcode={opcode} nth=2"), timeouts());
            let goes = QueuePair::request(&world.ctrlr, &QpairOptions { entries: 8 }).expect("a queue pair");
            for _ in 0..moment {
                world.step().expect("well");
            }
            drop(goes);
            world.pass(ms(20));
            assert_eq!(world.transport.faults_met(), [1], "{half} queue, moment {moment}");
            let all: Vec<_> = (0..3).map(|_| world.queue_pair()).collect();
            drop(all);
            world.finish();
        }
    }
}

/// A device that refuses to delete a submission queue may go on to fetch from it, and to write to the buffers of what it fetched: nothing of it is used again, and
/// its completion queue, which may not go before it, is not asked for. A reset, or a detach, ends that.
#[test]
fn a_submission_queue_that_is_not_deleted_keeps_its_memory_until_a_reset() {
    for is_reset in [true, false] {
        // The first is that of the completion queue's deletion, to count.
        let faults = "delay=1us queue=admin opcode=0x04\nstatus=internal-error/dnr queue=admin opcode=0x00 nth=1\nhang queue=2 opcode=read";
        let mut world = World::new(faults, timeouts());
        let sweep = |world: &World| {
            // Whether the name is taken or not.
            let _ = world.ctrlr.register("sweep");
            world.ctrlr.dma_bytes().0
        };
        let before = sweep(&world);
        let mut stuck = world.queue_pair();
        world.read(&mut stuck, 3);
        world.pass(ms(2));
        let with_it = sweep(&world);
        assert!(with_it > before);
        drop(stuck);
        world.pass(ms(20));
        assert_eq!(sweep(&world), with_it, "queues and buffer stay");
        assert_eq!(world.transport.faults_met()[..2], [0, 1], "no completion queue is deleted");
        let kept = [world.queue_pair(), world.queue_pair()];
        let none = QueuePair::request(&world.ctrlr, &QpairOptions { entries: 8 });
        assert_eq!(none.expect_err("its identifier is not free"), QpairError::NoneFree { io_queues: 4 });
        drop(kept);
        world.pass(ms(20));
        assert_eq!(world.transport.faults_met()[0], 2, "others are deleted as ever");
        assert_eq!(sweep(&world), with_it);
        if is_reset {
            let reset = world.ctrlr.reset().expect("asked");
            world.run("over", |_| reset.is_over().is_some());
            assert_eq!(sweep(&world), before, "now they are free");
            let all: Vec<_> = (0..3).map(|_| world.queue_pair()).collect();
            drop(all);
            world.pass(ms(20));
        }
        let ctrlr = world.ctrlr.clone();
        world.finish();
        assert_eq!(ctrlr.dma_bytes(), (0, 0));
    }
}

/// The same when a detach deletes the queues: it goes on without, and breaks no rule.
#[test]
fn a_detach_goes_on_without_the_deletion_of_a_queue() {
    for nth in 1..=4 {
        let faults = format!("status=internal-error/dnr queue=admin opcode=0x00 nth={nth}");
        let mut world = World::new(&faults, timeouts());
        let mut qpairs: Vec<_> = (0..3).map(|_| world.queue_pair()).collect();
        // One is being deleted when the detach begins.
        qpairs.truncate(2);
        let (ctrlr, transport) = (world.ctrlr.clone(), Arc::clone(&world.transport));
        let took = world.detach();
        assert!(took < ms(100), "{took:?}");
        assert_eq!(transport.faults_met(), [1]);
        assert_eq!(transport.violations(), Vec::<String>::new(), "queue {nth}");
        drop(qpairs);
        assert_eq!(ctrlr.dma_bytes(), (0, 0));
    }
}
