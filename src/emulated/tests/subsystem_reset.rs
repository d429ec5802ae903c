//! The reset of the NVM subsystem: what it takes along, what it leaves, and who may ask for it.

use std::time::Duration;

use super::{Host, pattern, small};
use crate::emulated::Config;
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::registers::{self, Cap, Cc, Csts, NSSR, NSSR_MAGIC};
use crate::spec::status::Status;
use crate::transport::{Transport, TransportError};

const AWAY: Duration = Duration::from_millis(200);

fn host(away: Duration) -> Host {
    Host::ready(Config { nssr: Some(away), ..small() })
}

#[test]
fn it_resets_everything_at_once_and_says_that_it_occurred() {
    let mut host = host(Duration::ZERO);
    assert!(Cap::from(host.transport.read_u64(registers::CAP)).nssrs());
    assert!(!host.csts().nssro());
    host.create_pair(1, 16);
    let (sq, cq) = host.queue_iovas(1);
    let written = host.with_data(Command::write(1, 7, 1));
    host.block.write(super::DATA_AT, &pattern(3, 512));
    assert_eq!(host.status(1, written), Status::SUCCESS);
    // One that never comes back: what is outstanding is forgotten.
    let event = host.push(0, Command::async_event_request());
    host.ring(0);
    host.transport.write_u32(NSSR, NSSR_MAGIC);
    let read = |offset| host.transport.read_u32(offset);
    assert_eq!([registers::CC, registers::AQA, registers::ASQ, registers::ACQ].map(read), [0; 4]);
    host.settle();
    assert_eq!(host.csts(), Csts::new().with_nssro(true));
    assert!(host.peek(0).is_none(), "command {event:#x} is not answered");
    // Other bits are not the driver's, and NSSRO goes when 1 is written to it.
    host.transport.write_u32(registers::CSTS, !u32::from(Csts::new().with_nssro(true)));
    assert!(host.csts().nssro());
    host.transport.write_u32(registers::CSTS, Csts::new().with_nssro(true).into());
    assert_eq!(host.csts(), Csts::new());
    host.transport.restore().expect("it is there");
    host.forget_queues();
    host.enable();
    assert!(!host.csts().nssro());
    // The queue is gone, and what was written is there.
    assert_eq!(host.violations(), Vec::<String>::new());
    host.fails(0, Command::delete_io_sq(1), Status::INVALID_QUEUE_ID);
    host.expect_violation("there is no such I/O queue");
    host.admin_ok(Command { prp1: cq, ..Command::create_io_cq(1, 16, None) });
    host.admin_ok(Command { prp1: sq, ..Command::create_io_sq(1, 1, 16, 0) });
    host.block.fill(super::DATA_AT, 512, 0);
    let read = host.with_data(Command::read(1, 7, 1));
    assert_eq!(host.status(1, read), Status::SUCCESS);
    assert_eq!(host.data(512), pattern(3, 512));
}

#[test]
fn features_have_their_saved_values_after_it() {
    let mut host = host(Duration::ZERO);
    let get = |id| Command::get_features(id, 0, 0);
    host.admin_ok(Command::set_features(FeatureId::ARBITRATION, true, 0, 0x0102_0303));
    host.admin_ok(Command::set_features(FeatureId::ARBITRATION, false, 0, 1));
    host.admin_ok(Command::set_features(FeatureId::WRITE_ATOMICITY, false, 0, 1));
    host.transport.write_u32(NSSR, NSSR_MAGIC);
    host.settle();
    host.transport.restore().expect("it is there");
    host.forget_queues();
    host.enable();
    assert_eq!(host.admin_ok(get(FeatureId::ARBITRATION)), 0x0102_0303);
    assert_eq!(host.admin_ok(get(FeatureId::WRITE_ATOMICITY)), 0, "the default");
}

/// Without bus mastering the device reaches no memory, and without its vectors it signals nothing: both are the driver's to restore.
#[test]
fn what_pci_says_is_lost_with_it() {
    let mut host = Host::new(Config { nssr: Some(Duration::ZERO), ..small() });
    host.transport.enable_interrupts(2).expect("two vectors");
    host.enable();
    host.transport.write_u32(NSSR, NSSR_MAGIC);
    host.settle();
    host.forget_queues();
    host.enable();
    host.push(0, Command::identify(crate::spec::identify::Cns::CTRLR, 0, 0));
    host.ring(0);
    assert!(host.peek(0).is_none());
    host.expect_violation("bus mastering is off");
    assert!(host.device.vector(0).is_none());
    host.transport.restore().expect("it is there");
    assert!(host.device.vector(0).is_some());
    assert_eq!(host.violations().len(), 2, "interrupts come before CC.EN: {:?}", host.violations());
}

#[test]
fn the_device_may_be_away_for_a_moment() {
    let mut host = host(AWAY);
    host.transport.write_u32(NSSR, NSSR_MAGIC);
    // Seen at once; from now on the time counts.
    host.settle();
    for _ in 0..2 {
        assert_eq!(host.transport.read_u32(registers::CSTS), u32::MAX);
        assert_eq!(host.transport.read_u64(registers::CAP), u64::MAX);
        assert!(!host.transport.is_gone(), "not for good");
        assert!(matches!(host.transport.restore(), Err(TransportError::Gone { .. })));
        // What is written is lost.
        host.transport.write_u32(registers::AQA, 0x000f_000f);
        host.transport.write_u32(registers::CC, Host::cc().into());
        host.transport.write_u32(NSSR, NSSR_MAGIC);
        host.pass(AWAY * 49 / 100);
    }
    assert_eq!(host.transport.read_u32(registers::CSTS), u32::MAX);
    host.pass(AWAY * 2 / 100);
    assert_eq!(host.csts(), Csts::new().with_nssro(true));
    assert_eq!(host.transport.read_u32(registers::AQA), 0);
    host.transport.restore().expect("it is back");
    host.forget_queues();
    host.enable();
    assert_eq!(host.violations(), Vec::<String>::new());
}

#[test]
fn a_fatal_controller_and_one_that_is_not_enabled_are_reset_too() {
    let mut host = host(Duration::ZERO);
    host.device.fail("for this test");
    assert!(host.csts().cfs());
    for _ in 0..2 {
        host.transport.write_u32(NSSR, NSSR_MAGIC);
        host.settle();
        assert_eq!(host.csts(), Csts::new().with_nssro(true));
    }
    host.transport.restore().expect("it is there");
    host.forget_queues();
    host.enable();
}

#[test]
fn any_other_value_does_nothing() {
    let mut host = host(Duration::ZERO);
    let before = (host.csts(), host.transport.read_u32(registers::CC));
    for value in [0, 1, NSSR_MAGIC - 1, NSSR_MAGIC.swap_bytes(), u32::MAX] {
        host.transport.write_u32(NSSR, value);
        host.settle();
        assert_eq!((host.csts(), host.transport.read_u32(registers::CC)), before, "{value:#x}");
    }
    assert_eq!(host.transport.read_u32(NSSR), 0);
    assert_eq!(host.violations(), Vec::<String>::new());
}

#[test]
fn a_controller_without_it_takes_a_write_for_a_mistake() {
    let mut host = Host::ready(small());
    assert!(!Cap::from(host.transport.read_u64(registers::CAP)).nssrs());
    host.transport.write_u32(NSSR, NSSR_MAGIC);
    host.settle();
    host.expect_violation("register offset 0x20: it cannot be written");
    assert!(host.csts().rdy() && Cc::from(host.transport.read_u32(registers::CC)).en());
}
