//! What the driver and the owners of queue pairs do about commands that take too long: how often they look, and what is left of it after a reset.
#![forbid(unsafe_code)]

use super::{World, config};
use crate::ctrlr::recovery::Plea;
use crate::ctrlr::{CtrlrOptions, CtrlrState, Message, Timeouts};
use crate::emulated::Config;
use crate::spec::command::Command;
use std::time::Duration;

/// Each look costs the owner's next poll its cold path, and nobody has to know sooner.
#[test]
fn owners_are_to_look_for_late_commands_once_in_each_period() {
    let mut world = World::new();
    let qpair = world.queue_pair();
    let slot = world.ctrlr.0.hub.slots()[usize::from(qpair.qid()) - 1].clone();
    let period = world.ctrlr.0.hub.options.timeouts.period();
    let is_told = |_: &u32| {
        world.now += period / 10;
        world.poller.poll(world.now).expect("well");
        slot.is_tapped()
    };
    let told: Vec<u32> = (0..50).filter(is_told).collect();
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] == 10), "{told:?}");
    drop(qpair);
    assert_eq!(world.detach(), Vec::<String>::new());
}

/// What was late before a reset has ended with it: the command that has its number afterwards is another one.
#[test]
fn what_an_owner_asks_for_during_a_reset_is_not_done_after_it() {
    let mut moments = 0;
    loop {
        let faults = "delay=0us queue=admin opcode=0x08".parse().expect("a fault that only counts");
        let mut world =
            World::with(Config { faults, io_queues: 4, ..Config::default() }, CtrlrOptions::default());
        let reset = world.ctrlr.reset().expect("asked");
        for _ in 0..=moments {
            world.step().expect("well");
        }
        if world.ctrlr.state() == CtrlrState::Live {
            break;
        }
        world.ctrlr.0.hub.plead(Plea::Abort { qid: 2, cid: 0 });
        world.run("over", |_| reset.is_over().is_some());
        for _ in 0..5 {
            world.now += world.ctrlr.0.hub.options.timeouts.period();
            world.step().expect("well");
        }
        assert_eq!(world.transport.faults_met(), [0], "moment {moments}: nothing is aborted");
        assert_eq!(world.detach(), Vec::<String>::new());
        moments += 1;
    }
    assert!(moments > 5, "a reset takes longer than {moments} polls");
}

/// A poller that sleeps wakes up for it, though nothing else is due for long.
#[test]
fn a_poller_may_sleep_until_the_next_try_of_a_command_and_no_longer() {
    let minute = Duration::from_secs(60);
    let timeouts = Timeouts { io: minute, admin: minute, abort: minute, ..Timeouts::default() };
    let options = CtrlrOptions { retries: 1, watch_period: minute, timeouts, ..CtrlrOptions::default() };
    let faults = config("status=namespace-not-ready/crd1 opcode=read nth=1");
    let mut world = World::with(Config { crdt: [5, 0, 0], ..faults }, options);
    let data = world.ctrlr.allocate(512).expect("memory");
    let message = Message::Io { command: Command::read(1, 0, 1), data: Some(Box::new(data.into())) };
    let ticket = world.poller.send(message).expect("running");
    world.run("waits", |world| world.transport.faults_met() == [1]);
    (0..10).for_each(|_| drop(world.poll()));
    let World { ctrlr, poller, now, .. } = world;
    drop(poller);
    let seated = ctrlr.0.seat.take().expect("free");
    let due = seated.core.due_in(now);
    assert!((Duration::from_millis(490)..=Duration::from_millis(500)).contains(&due), "{due:?}");
    drop(ticket);
}
