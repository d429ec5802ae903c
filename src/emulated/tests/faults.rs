//! Each fault by description, seen from the host: what happens, to which command, and to no other. Whatever happens, the host is not blamed for it.

use std::time::Duration;

use super::super::{Config, Faults};
use super::{DATA_AT, Host, pattern, small};
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::feature::FeatureId;
use crate::spec::identify::Cns;
use crate::spec::log::LogId;
use crate::spec::registers::{self, Cc};
use crate::spec::status::Status;
use crate::transport::Transport;

fn config(faults: &str) -> Config {
    Config { faults: faults.parse().expect("faults"), ..small() }
}

/// A host with one I/O queue pair.
fn host(faults: &str) -> Host {
    let mut host = Host::ready(config(faults));
    host.create_pair(1, 8);
    host
}

fn innocent(host: &Host) {
    assert_eq!(host.violations(), Vec::<String>::new());
}

fn read(lba: u64) -> Command {
    Command::read(1, lba, 1)
}

/// The CIDs that are answered, in order.
fn answers(host: &mut Host, qid: u16) -> Vec<u16> {
    std::iter::from_fn(|| host.reap(qid).map(|completion| completion.cid)).collect()
}

fn push_reads(host: &mut Host, count: u64) -> Vec<u16> {
    let cids = (0..count).map(|lba| host.push(1, host.with_data(read(lba)))).collect();
    host.ring(1);
    cids
}

#[test]
fn a_dropped_completion_never_comes_though_the_command_was_executed() {
    let mut host = host("drop opcode=write nth=2");
    host.block.write(DATA_AT, &pattern(1, 512));
    let cids: Vec<_> = (0..3).map(|lba| host.push(1, host.with_data(Command::write(1, lba, 1)))).collect();
    host.ring(1);
    assert_eq!(answers(&mut host, 1), [cids[0], cids[2]]);
    host.block.fill(DATA_AT, 512, 0);
    assert!(host.status(1, host.with_data(read(1))).is_success());
    assert_eq!(host.data(512), pattern(1, 512));
    assert_eq!(host.transport.faults_met(), [1]);
    innocent(&host);
}

#[test]
fn a_command_that_hangs_can_be_aborted_and_ends_with_its_queue() {
    let mut host = host("hang opcode=read nth=1..2");
    let cids = push_reads(&mut host, 3);
    host.pass(Duration::from_secs(3600));
    assert_eq!(answers(&mut host, 1), [cids[2]]);
    assert_eq!(host.admin_ok(Command::abort(1, cids[0])), 0, "it is aborted");
    host.settle();
    let aborted = host.reap(1).expect("its completion");
    assert_eq!((aborted.cid, aborted.status()), (cids[0], Status::ABORTED_BY_REQUEST));
    host.admin_ok(Command::delete_io_sq(1));
    let deleted = host.reap(1).expect("its completion");
    assert_eq!((deleted.cid, deleted.status()), (cids[1], Status::ABORTED_SQ_DELETION));
    innocent(&host);
}

#[test]
fn a_delay_lets_others_pass() {
    let mut host = host("delay=5ms lba=0 opcode=read\ndelay=1ms lba=0..1 opcode=read");
    let cids = push_reads(&mut host, 3);
    assert_eq!(answers(&mut host, 1), [cids[2]]);
    host.pass(Duration::from_millis(1));
    assert_eq!(answers(&mut host, 1), [cids[1]]);
    host.pass(Duration::from_millis(4));
    assert!(answers(&mut host, 1).is_empty(), "delays add up");
    host.pass(Duration::from_millis(1));
    assert_eq!(answers(&mut host, 1), [cids[0]]);
    assert_eq!(host.transport.faults_met(), [1, 2]);
    innocent(&host);
}

#[test]
fn completions_are_wrong_in_the_ways_that_were_asked_for() {
    let mut wrong_cid = host("wrong-cid opcode=read nth=2");
    let cids = push_reads(&mut wrong_cid, 3);
    assert_eq!(answers(&mut wrong_cid, 1), [cids[0], cids[1] ^ 0x8000, cids[2]]);
    let mut repeat = host("repeat opcode=read nth=2");
    let cids = push_reads(&mut repeat, 3);
    assert_eq!(answers(&mut repeat, 1), [cids[0], cids[1], cids[1], cids[2]]);
    let mut stale = host("stale-phase opcode=read nth=2");
    let cids = push_reads(&mut stale, 3);
    assert_eq!(answers(&mut stale, 1), [cids[0]], "nothing is seen from the stale one on");
    let mut head = host("wrong-sqhd opcode=read nth=2");
    push_reads(&mut head, 3);
    let heads: Vec<_> = std::iter::from_fn(|| head.reap(1)).map(|completion| completion.sqhd).collect();
    assert_eq!(heads, [1, 0xffff, 3]);
    for host in [&wrong_cid, &repeat, &stale, &head] {
        innocent(host);
    }
}

#[test]
fn a_status_takes_the_place_of_the_execution() {
    let mut host = host("status=write-fault opcode=write\nstatus=0x4006 queue=admin opcode=get-features");
    host.block.write(DATA_AT, &pattern(1, 512));
    assert_eq!(host.status(1, host.with_data(Command::write(1, 0, 1))), Status::WRITE_FAULT);
    assert!(host.status(1, host.with_data(read(0))).is_success());
    assert_eq!(host.data(512), vec![0; 512], "nothing was written");
    let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
    host.fails(0, command, Status::INTERNAL_ERROR);
    innocent(&host);
}

#[test]
fn data_are_corrupted_where_they_go() {
    let mut host = host(
        "corrupt=3 opcode=read lba=7\ncorrupt=5 opcode=write lba=8\ncorrupt=77 opcode=identify\ncorrupt=600 opcode=read lba=9\ncorrupt opcode=get-features",
    );
    let bytes = pattern(9, 512);
    let inverted = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] = !bytes[at];
        bytes
    };
    for (lba, expected) in [(7, inverted(3)), (8, inverted(5)), (9, bytes.clone())] {
        host.block.write(DATA_AT, &bytes);
        assert!(host.status(1, host.with_data(Command::write(1, lba, 1))).is_success());
        host.block.fill(DATA_AT, 512, 0);
        assert!(host.status(1, host.with_data(read(lba))).is_success());
        assert_eq!(host.data(512), expected, "LBA {lba}");
    }
    let identity = host.admin_data(Command::identify(Cns::CTRLR, 0, 0));
    assert_eq!(identity[77], !small().mdts);
    // No data: nobody's are touched.
    let before = host.data(4096);
    host.admin_ok(Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0));
    assert_eq!(host.data(4096), before);
    innocent(&host);
}

#[test]
fn a_controller_fails_vanishes_and_lies() {
    let mut fatal = host("fatal opcode=read nth=2");
    push_reads(&mut fatal, 3);
    assert!(fatal.csts().cfs());
    assert_eq!(answers(&mut fatal, 1).len(), 1);
    fatal.reset();
    assert!(!fatal.csts().cfs(), "a reset helps");
    let mut removed = host("remove opcode=read nth=2");
    push_reads(&mut removed, 3);
    assert!(removed.transport.is_gone() && removed.device.is_closed());
    assert_eq!(removed.transport.read_u32(registers::CSTS), u32::MAX);
    for (faults, value) in [("registers=ones opcode=read", u32::MAX), ("registers=zero opcode=read", 0)] {
        let mut lying = host(faults);
        let cids = push_reads(&mut lying, 2);
        assert_eq!(lying.transport.read_u32(registers::CSTS), value);
        assert_eq!(lying.transport.read_u64(registers::CAP) as u32, value);
        assert_eq!(answers(&mut lying, 1), cids, "it goes on");
        lying.transport.set_bus_master(false).expect("off");
        lying.transport.close();
        innocent(&lying);
    }
    innocent(&fatal);
    innocent(&removed);
}

#[test]
fn transitions_that_never_end() {
    let hour = Duration::from_secs(3600);
    let mut host = Host::ready(config("never-ready nth=2\nnever-stops nth=3\nnever-shuts-down"));
    host.write_cc(Cc::new());
    assert!(!host.csts().rdy());
    host.write_cc(Host::cc());
    host.pass(hour);
    assert!(!host.csts().rdy(), "not the second time");
    host.write_cc(Cc::new());
    host.forget_queues();
    host.enable();
    host.write_cc(Host::cc().with_shn(1));
    host.pass(hour);
    assert_eq!(host.csts().shst(), 1);
    host.write_cc(Cc::new());
    host.pass(hour);
    assert!(host.csts().rdy(), "not the third time");
    assert_eq!(host.transport.faults_met(), [1, 1, 1]);
    innocent(&host);
}

#[test]
fn events_are_lost_late_or_refused() {
    let heat = |host: &mut Host| {
        host.transport.set_temperature_k(400);
        host.settle();
    };
    let request = Command::async_event_request();
    let mut host = Host::ready(config("drop opcode=asynchronous-event-request nth=1"));
    host.admin_ok(Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, 0b10));
    host.push(0, request);
    let second = host.push(0, request);
    host.ring(0);
    heat(&mut host);
    assert!(host.reap(0).is_none(), "the event is lost");
    host.admin_ok(host.with_data(Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, false)));
    host.transport.set_temperature_k(300);
    host.settle();
    heat(&mut host);
    assert_eq!(host.reap(0).expect("the next event").cid, second);
    let mut late = Host::ready(config("delay=1s opcode=asynchronous-event-request"));
    late.admin_ok(Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, 0b10));
    late.push(0, request);
    late.ring(0);
    heat(&mut late);
    assert!(late.reap(0).is_none());
    late.pass(Duration::from_secs(1));
    assert!(late.reap(0).is_some());
    let mut refused = Host::ready(config("status=0x105 opcode=asynchronous-event-request"));
    let status = refused.status(0, request);
    assert_eq!(status, Status::AER_LIMIT_EXCEEDED, "{status}");
    assert_eq!(Command::async_event_request().opcode, AdminOpcode::ASYNC_EVENT_REQUEST.0);
    for host in [&host, &late, &refused] {
        innocent(host);
    }
}

/// The deletion of a queue completes others; what is to go wrong with the deletion does not go wrong with those.
#[test]
fn a_fault_stays_with_its_command() {
    let mut host = host("hang opcode=read\ndrop queue=admin opcode=0x00");
    let cids = push_reads(&mut host, 2);
    host.push(0, Command::delete_io_sq(1));
    host.ring(0);
    assert!(host.reap(0).is_none());
    let mut answered = answers(&mut host, 1);
    answered.sort_unstable();
    assert_eq!(answered, cids);
    innocent(&host);
}

#[test]
fn chances_are_drawn_from_their_seed() {
    let met = |faults: &str| {
        let mut host = host(faults);
        let mut met = Vec::new();
        for round in 0..200 {
            let status = host.status(1, host.with_data(read(round % 8)));
            met.push(status == Status::INTERNAL_ERROR);
        }
        assert_eq!(host.transport.faults_met(), [met.iter().filter(|met| **met).count() as u64]);
        met
    };
    let line = |seed| format!("status=internal-error opcode=read chance=25% seed={seed}");
    let (one, same, other) = (met(&line(1)), met(&line(1)), met(&line(2)));
    assert_eq!(one, same);
    assert_ne!(one, other);
    let hits = one.iter().filter(|met| **met).count();
    assert!((20..80).contains(&hits), "{hits} of 200 are not about a quarter");
}

#[test]
fn registers_can_be_slow() {
    let faults: Faults = "slow-registers=2ms\nslow-registers=3ms".parse().expect("faults");
    let host = Host::new(Config { faults, ..small() });
    let started = std::time::Instant::now();
    host.csts();
    assert!(started.elapsed() >= Duration::from_millis(5), "they add up");
}
