//! Asynchronous events: every subscriber gets them all, also in a flood, after a reset, and when it is slow.

use crate::world::{World, config, io_status, ms, timeouts};
use slipring::ctrlr::{CtrlrOptions, CtrlrState, EventAnswer, EventReport, Message, Subscription};
use slipring::ring::Outcome;
use slipring::spec::command::Command;
use slipring::spec::log::LogId;
use slipring::spec::registers::{CSTS, Csts};
use slipring::spec::status::Status;
use slipring::transport::Transport;

const HOT_K: u16 = 400;
const COOL_K: u16 = 310;

fn all(subscription: &Subscription) -> Vec<EventReport> {
    std::iter::from_fn(|| subscription.next()).collect()
}

/// Lets the temperature cross its threshold, and the event be reported.
fn heat(world: &mut World) {
    let before = world.ctrlr.statistics().events;
    world.transport.set_temperature_k(HOT_K);
    world.run("reported", |world| world.ctrlr.statistics().events > before);
    world.transport.set_temperature_k(COOL_K);
    world.pass(ms(300));
}

#[test]
fn every_subscriber_gets_every_event() {
    let mut world = World::new("", timeouts());
    world.pass(ms(5));
    let subscribers = [world.ctrlr.subscribe(), world.ctrlr.subscribe()];
    drop(world.ctrlr.subscribe());
    heat(&mut world);
    for subscriber in &subscribers {
        let events = all(subscriber);
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!((events[0].event.log_page(), events[0].count), (LogId::SMART, 1));
    }
    // Who comes later is told of what comes then; who is gone, of nothing.
    let late = world.ctrlr.subscribe();
    assert_eq!(late.wait(ms(1)), None);
    heat(&mut world);
    assert!(subscribers.iter().chain([&late]).all(|subscriber| all(subscriber).len() == 1));
    drop(late);
    world.finish();
}

/// A thousand events, one subscriber that reads none of them until the end: all are counted, each request is armed again, and the memory is what it was.
#[test]
fn a_flood_loses_nothing_to_a_slow_subscriber() {
    let mut world = World::new("", timeouts());
    world.pass(ms(5));
    let (quick, slow) = (world.ctrlr.subscribe(), world.ctrlr.subscribe());
    let begun = world.ctrlr.statistics().events;
    let mut counted = 0;
    for round in 0..20_000 {
        world.transport.set_temperature_k(if round % 20 < 10 { HOT_K } else { COOL_K });
        world.step().expect("well");
        counted += all(&quick).iter().map(|report| u64::from(report.count)).sum::<u64>();
    }
    world.transport.set_temperature_k(COOL_K);
    world.pass(ms(10));
    counted += all(&quick).iter().map(|report| u64::from(report.count)).sum::<u64>();
    let reported = world.ctrlr.statistics().events - begun;
    assert!(reported >= 500, "a flood: {reported}");
    assert_eq!(counted, reported);
    let events = all(&slow);
    assert_eq!(events.iter().map(|report| u64::from(report.count)).sum::<u64>(), reported, "{events:?}");
    world.finish();
}

/// A reset forgets the controller's event requests and what it was told to report: both are given again.
#[test]
fn events_come_after_a_reset_too() {
    let mut world = World::new("", timeouts());
    let subscriber = world.ctrlr.subscribe();
    for _ in 0..3 {
        let reset = world.ctrlr.reset().expect("asked");
        world.run("over", |_| reset.is_over().is_some());
        world.run("live", |world| world.ctrlr.state() == CtrlrState::Live);
        world.pass(ms(5));
        heat(&mut world);
        assert_eq!(all(&subscriber).len(), 1);
    }
    world.finish();
}

/// Who is told of a change of namespaces finds it made.
#[test]
fn a_change_of_namespaces_is_told_when_it_can_be_seen() {
    let mut world = World::new("", timeouts());
    world.pass(ms(5));
    let subscriber = world.ctrlr.subscribe();
    assert_eq!(world.ctrlr.namespaces()[0].block_bytes, 512);
    let command = Command::format_nvm(1, 1, 0);
    let format = world.poller.send(Message::Admin { command, data: None }).expect("running");
    assert!(matches!(world.outcome(format).0, Outcome::Completed(_)));
    let mut told = None;
    world.run("told", |_| {
        told = subscriber.next();
        told.is_some()
    });
    assert_eq!(told.map(|report| report.event.log_page()), Some(LogId::CHANGED_NS_LIST));
    assert_eq!(world.ctrlr.namespaces()[0].block_bytes, 4096);
    world.finish();
}

/// All subscribers are told that firmware is activated, each time; and a controller that processes nothing meanwhile, and says so (CSTS.PP), is well.
#[test]
fn firmware_is_activated_without_a_reset() {
    let options = CtrlrOptions { timeouts: timeouts(), watch_period: ms(5), ..CtrlrOptions::default() };
    let mut world = World::of(config(""), options, EventAnswer::Proceed);
    world.pass(ms(5));
    let mut qpair = world.queue_pair();
    let subscribers = [world.ctrlr.subscribe(), world.ctrlr.subscribe(), world.ctrlr.subscribe()];
    for _ in 0..3 {
        world.transport.activate_firmware(ms(60));
        let is_paused = |world: &mut World| Csts::from_bits(world.transport.read_u32(CSTS)).pp();
        world.run("paused", is_paused);
        world.read(&mut qpair, 7);
        let ticket = world.send_read(8);
        loop {
            world.step().expect("well");
            if !is_paused(&mut world) {
                break;
            }
            assert_eq!(qpair.poll(8, |_| panic!("nothing is processed")), Ok(0));
            assert!(!ticket.is_ready() && world.ctrlr.state() == CtrlrState::Live);
        }
        let (back, took) = world.back(&mut qpair, 1);
        assert_eq!(io_status(&back[0]), Status::SUCCESS);
        assert!(took < ms(5), "{took:?}");
        assert!(matches!(world.outcome(ticket).0, Outcome::Completed(_)));
        for subscriber in &subscribers {
            let [report] = all(subscriber)[..] else { panic!("one event") };
            // A notice: firmware activation starting.
            assert_eq!((report.event.aet(), report.event.aei(), report.count), (2, 1, 1));
            assert_eq!(report.event.log_page(), LogId::FIRMWARE_SLOT);
        }
        world.pass(ms(5));
    }
    assert!(world.told().is_empty() && world.ctrlr.statistics().resets == 0, "{:?}", world.told());
    drop(qpair);
    world.finish();
}

/// A reset does not wait for the end of the pause.
#[test]
fn a_controller_that_pauses_can_be_reset() {
    let mut world = World::new("", timeouts());
    world.pass(ms(5));
    world.transport.activate_firmware(ms(3_600_000));
    world.run("paused", |world| Csts::from_bits(world.transport.read_u32(CSTS)).pp());
    let reset = world.ctrlr.reset().expect("asked");
    world.run("over", |_| reset.is_over().is_some());
    world.run("live", |world| world.ctrlr.state() == CtrlrState::Live);
    assert!(world.works());
    world.finish();
}

/// An event may come late, get lost, or none may ever come: no request for one is ever late, and all else goes on. What was lost is not reported again before its
/// log is read, or a reset.
#[test]
fn events_that_are_late_lost_or_absent_harm_nothing_else() {
    for (fault, count) in
        [("delay=500ms REQUEST nth=1..4", 1), ("drop REQUEST nth=1", 0), ("hang REQUEST nth=1..4", 0)]
    {
        let mut world =
            World::new(&fault.replace("REQUEST", "opcode=asynchronous-event-request"), timeouts());
        world.pass(ms(5));
        let subscriber = world.ctrlr.subscribe();
        world.transport.set_temperature_k(HOT_K);
        world.pass(ms(20));
        assert!(all(&subscriber).is_empty(), "{fault}: not yet");
        // Longer than any command may take.
        world.pass(ms(2000));
        assert_eq!(all(&subscriber).len(), count, "{fault}");
        assert!(world.works() && world.told().is_empty(), "{fault}: {:?}", world.told());
        world.transport.set_temperature_k(COOL_K);
        let reset = world.ctrlr.reset().expect("asked");
        world.run("over", |_| reset.is_over().is_some());
        world.run("live", |world| world.ctrlr.state() == CtrlrState::Live);
        world.pass(ms(5));
        heat(&mut world);
        assert_eq!(all(&subscriber).len(), 1, "{fault}: after a reset");
        world.finish();
    }
}
