//! Who gets the entries of the admin queue: messages have those that the driver does not need for itself.
#![forbid(unsafe_code)]

use super::{World, config};
use crate::ctrlr::core::Purpose;
use crate::ctrlr::{CtrlrOptions, Message};
use crate::dma::DmaSlice;
use crate::emulated::Config;
use crate::ring::Ticket;
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::identify::Cns;
use crate::spec::log::LogId;
use std::time::Duration;

fn message() -> Message {
    let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
    Message::Admin { command, data: None }
}

/// How many of fifty admin messages reach the device before one of them is answered; `fault` is what they meet.
fn at_the_device(fault: &str, config_of: impl Fn(Config) -> Config, options: CtrlrOptions) -> u64 {
    let config = config_of(config(&format!("{fault} queue=admin opcode=0x0a")));
    let mut world = World::with(config, options);
    world.pass(100);
    let tickets: Vec<_> = (0..50).map(|_| world.poller.send(message()).expect("running")).collect();
    world.pass(200);
    assert!(!tickets.iter().any(Ticket::is_ready));
    let reached = world.transport.faults_met()[0];
    assert_eq!(world.detach(), Vec::<String>::new());
    assert!(tickets.iter().all(Ticket::is_ready));
    reached
}

/// An entry for each event request that the controller takes, up to four, one to read a log, one for a rescan, and one for a Keep Alive if there is any; and
/// one entry of a queue is never used.
#[test]
fn messages_have_what_the_driver_does_not_need() {
    let usual = CtrlrOptions::default;
    let hung = |config_of: fn(Config) -> Config, options| at_the_device("hang", config_of, options);
    let plain: fn(Config) -> Config = |config| config;
    assert_eq!(hung(plain, CtrlrOptions { admin_queue_entries: 8, ..usual() }), 1);
    assert_eq!(hung(plain, usual()), 31 - 6);
    let one_event: fn(Config) -> Config = |config| Config { async_events: 1, ..config };
    assert_eq!(hung(one_event, usual()), 31 - 3);
    let keep_alive: fn(Config) -> Config = |config| Config { kas: 1, ..config };
    let keep_alive_timeout = Some(Duration::from_secs(1));
    assert_eq!(hung(keep_alive, CtrlrOptions { admin_queue_entries: 9, keep_alive_timeout, ..usual() }), 1);
    assert_eq!(hung(keep_alive, CtrlrOptions { keep_alive_timeout, ..usual() }), 31 - 7);
}

/// One that waits to be sent again keeps its entry, or it might find none when its time has come.
#[test]
fn a_command_between_two_tries_keeps_its_entry() {
    let fault = "status=namespace-not-ready/crd1";
    let waits: fn(Config) -> Config = |config| Config { crdt: [1, 1, 1], ..config };
    let options =
        |admin_queue_entries| CtrlrOptions { admin_queue_entries, retries: 1, ..CtrlrOptions::default() };
    assert_eq!(at_the_device(fault, waits, options(8)), 1);
    assert_eq!(at_the_device(fault, waits, options(16)), 15 - 6);
}

/// It cannot be, by the rule above; if it is all the same, nothing is lost.
#[test]
fn a_command_of_the_drivers_that_finds_no_room_gives_its_buffer_back() {
    let World { ctrlr, poller, device: _device, .. } = World::new();
    drop(poller);
    let mut seated = ctrlr.0.seat.take().expect("nobody sits there");
    let core = &mut seated.core;
    while core.start_driver(Purpose::Abort, Command::abort(0, 0), None) {}
    let scratch = core.scratch.take().expect("no command has it");
    let log = ctrlr.allocate(4096).expect("memory");
    let command = Command::get_log_page(LogId::SMART, u32::MAX, 4096, 0, false);
    assert!(!core.start_driver(Purpose::EventLog, command, Some(log.into())));
    assert!(core.scratch.is_none(), "what logs are read into is kept elsewhere");
    let command = Command::identify(Cns::CTRLR, 0, 0);
    assert!(!core.start_driver(Purpose::Rescan, command, Some(DmaSlice::from(scratch))));
    assert!(core.scratch.is_some());
    ctrlr.0.seat.deposit(seated);
}

/// The log of an event that comes while the controller is taken down is not asked for: it is about to hear of a shutdown, or to be reset.
#[test]
fn no_log_is_read_of_a_controller_that_is_being_taken_down() {
    let mut world = World::with(config("delay=1us opcode=get-log-page"), CtrlrOptions::default());
    let qpair = world.queue_pair();
    let slot = world.ctrlr.0.hub.slots()[usize::from(qpair.qid()) - 1].clone();
    let subscription = world.ctrlr.subscribe();
    world.transport.set_temperature_k(400);
    world.run("reported", |_| subscription.next().is_some());
    world.pass(20);
    world.transport.set_temperature_k(310);
    world.pass(20);
    let logs_read = |world: &World| world.transport.faults_met()[0];
    assert_eq!(logs_read(&world), 1);
    // While a queue pair's thread is at its doorbell the device goes on.
    slot.ring(|| {
        let _ = world.ctrlr.reset().expect("asked");
        world.step().expect("well");
        world.transport.set_temperature_k(400);
        world.run("reported", |_| subscription.next().is_some());
        world.pass(20);
    });
    assert_eq!(logs_read(&world), 1);
    drop(qpair);
    assert_eq!(world.detach(), Vec::<String>::new());
}
