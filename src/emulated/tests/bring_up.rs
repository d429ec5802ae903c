//! CC, CSTS, the admin queues' registers, reset, shutdown, and the rules for touching registers.

use std::time::Duration;

use super::{Host, small};
use crate::dma::{DmaMap, MemoryBlock};
use crate::emulated::Config;
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::identify::Cns;
use crate::spec::registers::{self, Aqa, Cap, Cc, Crto};
use crate::spec::status::Status;
use crate::transport::{Transport, TransportError};

#[test]
fn the_registers_say_what_was_configured() {
    let config = Config { timeout: Duration::from_millis(1_700), dstrd: 2, mpsmin: 1, mpsmax: 3, ..small() };
    let host = Host::new(config);
    let cap = Cap::from(host.transport.read_u64(registers::CAP));
    assert_eq!((cap.mqes_z(), cap.to(), cap.dstrd(), cap.mpsmin(), cap.mpsmax()), (63, 4, 2, 1, 3));
    assert!(cap.cqr());
    let low = u64::from(host.transport.read_u32(registers::CAP));
    let high = u64::from(host.transport.read_u32(registers::CAP + 4));
    assert_eq!(low | high << 32, u64::from(cap));
    assert_eq!(host.transport.read_u32(registers::VS), 0x0002_0000);
    assert_eq!(Crto::from(host.transport.read_u32(registers::CRTO)).crwmt(), 4);
    assert!(host.violations().is_empty());
}

#[test]
fn ready_follows_enable_and_reset_after_the_delay() {
    let mut host = Host::new(Config { ready_delay: Duration::from_millis(300), ..small() });
    host.set_admin_queues();
    host.write_cc(Host::cc());
    assert!(!host.csts().rdy());
    host.pass(Duration::from_millis(299));
    assert!(!host.csts().rdy());
    host.pass(Duration::from_millis(1));
    assert!(host.csts().rdy());
    host.write_cc(Cc::new());
    assert!(host.csts().rdy());
    host.pass(Duration::from_millis(300));
    assert!(!host.csts().rdy());
    assert!(host.violations().is_empty());
}

/// Sets one thing wrong, enables, and expects the controller to be fatal for a reason with these words.
fn expect_fatal(words: &str, spoil: impl FnOnce(&mut Host) -> Cc) {
    let mut host = Host::new(Config { mpsmax: 2, ..small() });
    host.set_admin_queues();
    let cc = spoil(&mut host);
    host.write_cc(cc);
    assert!(host.csts().cfs() && !host.csts().rdy(), "{words}");
    host.expect_violation(words);
    // Only a reset helps, and it does.
    host.write_cc(Cc::new());
    assert_eq!(u32::from(host.csts()), 0);
    host.enable();
}

#[test]
fn a_wrong_configuration_is_fatal() {
    expect_fatal("CC.MPS is 3", |_| Host::cc().with_mps(3));
    expect_fatal("CC.CSS", |_| Host::cc().with_css(0b001));
    expect_fatal("CC.AMS", |_| Host::cc().with_ams(1));
    expect_fatal("CC.IOSQES is 5", |_| Host::cc().with_iosqes(5));
    expect_fatal("CC.IOCQES 0", |_| Host::cc().with_iocqes(0));
    expect_fatal("AQA.ASQS is 0", |host| {
        host.transport.write_u32(registers::AQA, Aqa::new().with_acqs_z(15).into());
        Host::cc()
    });
    expect_fatal("AQA.ACQS is 0", |host| {
        host.transport.write_u32(registers::AQA, Aqa::new().with_asqs_z(15).into());
        Host::cc()
    });
    expect_fatal("ASQ is", |host| {
        host.transport.write_u64(registers::ASQ, host.iova + 64);
        Host::cc()
    });
    expect_fatal("ACQ is", |host| {
        host.transport.write_u64(registers::ACQ, host.iova + 2048);
        Host::cc()
    });
    expect_fatal("ACQ is", |host| {
        // Aligned to 4 KiB, but not to the page size that is chosen.
        host.transport.write_u64(registers::ACQ, host.iova + 4096);
        Host::cc().with_mps(1)
    });
    expect_fatal("admin submission queue", |host| {
        host.transport.write_u64(registers::ASQ, 0);
        Host::cc()
    });
    expect_fatal("admin completion queue", |host| {
        host.transport.write_u64(registers::ACQ, host.iova + (super::BLOCK_BYTES as u64));
        Host::cc()
    });
}

#[test]
fn an_admin_completion_queue_smaller_than_its_submission_queue_is_a_breach() {
    let mut host = Host::new(small());
    host.set_admin_queues();
    host.transport.write_u32(registers::AQA, Aqa::new().with_asqs_z(15).with_acqs_z(7).into());
    host.write_cc(Host::cc());
    assert!(host.csts().rdy());
    host.expect_violation("8 entries and the submission queue 16");
}

#[test]
fn queue_registers_are_locked_while_enabled() {
    let mut host = Host::ready(small());
    let asq = host.transport.read_u64(registers::ASQ);
    host.transport.write_u64(registers::ASQ, 0);
    host.transport.write_u32(registers::ACQ + 4, 7);
    host.transport.write_u32(registers::AQA, 0);
    assert_eq!(host.transport.read_u64(registers::ASQ), asq);
    assert_eq!(host.transport.read_u32(registers::AQA), 0x000f_000f);
    let all = host.violations();
    assert_eq!(all.len(), 3);
    for (violation, name) in all.iter().zip(["ASQ", "ACQ", "AQA"]) {
        assert!(violation.starts_with(name), "{violation}");
    }
    host.write_cc(Cc::new());
    host.transport.write_u32(registers::ASQ, 0x1000);
    host.transport.write_u32(registers::ASQ + 4, 0x2);
    assert_eq!(host.transport.read_u64(registers::ASQ), 0x2_0000_1000);
    assert_eq!(host.transport.read_u32(registers::ASQ + 4), 2);
    assert_eq!(host.violations().len(), 3);
}

#[test]
fn clearing_enable_before_ready_is_a_breach() {
    let mut host = Host::new(Config { ready_delay: Duration::from_secs(1), ..small() });
    host.set_admin_queues();
    host.write_cc(Host::cc());
    host.write_cc(Cc::new());
    host.expect_violation("CC.EN was cleared before CSTS.RDY had risen");
}

#[test]
fn clearing_enable_of_a_controller_that_missed_its_timeout_is_allowed() {
    let config = Config { ready_delay: Duration::from_secs(1), timeout: Duration::ZERO, ..small() };
    let mut host = Host::new(config);
    host.set_admin_queues();
    host.write_cc(Host::cc());
    host.write_cc(Cc::new());
    assert!(host.violations().is_empty());
}

#[test]
fn enabling_before_ready_has_fallen_is_a_breach_and_still_a_reset() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    host.transport.write_u32(registers::CC, Cc::new().into());
    host.write_cc(Host::cc());
    host.expect_violation("CC.EN was set before CSTS.RDY had fallen");
    assert!(host.csts().rdy());
    // The I/O queue is gone: its doorbell is nobody's.
    host.pair(1).sq_bell.ring(1);
    host.settle();
    assert!(host.violations()[1].contains("submission queue 1 was rung, and there is no such queue"));
}

#[test]
fn other_fields_of_cc_are_locked_while_enabled() {
    let mut host = Host::ready(small());
    host.write_cc(Host::cc().with_mps(1));
    host.expect_violation("while enabled");
}

#[test]
fn shutdown_is_notified_and_takes_its_time() {
    let mut host = Host::ready(Config { shutdown_delay: Duration::from_secs(2), ..small() });
    host.write_cc(Host::cc().with_shn(1));
    assert_eq!(host.csts().shst(), 1);
    host.pass(Duration::from_secs(2));
    assert_eq!((host.csts().shst(), host.csts().rdy()), (2, true));
    // Nothing is served any more.
    host.push(0, Command::identify(Cns::CTRLR, 0, 0));
    host.ring(0);
    assert!(host.reap(0).is_none());
    host.expect_violation("rung after the shutdown");
    host.write_cc(Cc::new());
    assert_eq!(u32::from(host.csts()), 0);
    host.reset();
    assert_eq!(host.csts().shst(), 0);
}

#[test]
fn a_shutdown_that_outlives_the_reset_is_remembered_until_enabled() {
    let mut host = Host::ready(small());
    host.write_cc(Host::cc().with_shn(1));
    host.write_cc(Host::cc().with_shn(1).with_en(false));
    assert_eq!((host.csts().shst(), host.csts().rdy()), (2, false));
    host.write_cc(Cc::new());
    assert_eq!(host.csts().shst(), 0);
    assert!(host.violations().is_empty());
}

#[test]
fn a_reset_takes_queues_and_outstanding_commands_along() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    assert_eq!(host.run(1, Command::flush(1)).sqhd, 1);
    host.reset();
    host.create_pair(1, 8);
    assert_eq!(host.run(1, Command::flush(1)).sqhd, 1);
    assert!(host.violations().is_empty());
}

#[test]
fn wrong_register_accesses_are_breaches() {
    let host = Host::new(small());
    assert_eq!(host.transport.read_u32(0x16), u32::MAX);
    assert_eq!(host.transport.read_u64(registers::CSTS), u64::MAX);
    host.transport.write_u32(registers::CSTS, 1);
    host.transport.write_u64(registers::CAP, 1);
    assert_eq!(host.violations().len(), 4);
    assert_eq!(host.transport.read_u32(0x38), 0);
    assert_eq!(host.violations().len(), 4);
}

#[test]
fn interrupt_masks_stay_untouched_under_msi_x() {
    let host = Host::new(small());
    host.transport.write_u32(registers::INTMS, u32::MAX);
    assert!(host.violations().is_empty());
    host.transport.enable_interrupts(2).expect("two vectors");
    host.transport.write_u32(registers::INTMC, u32::MAX);
    host.expect_violation("INTMS or INTMC");
}

#[test]
fn interrupts_come_before_enable_and_once() {
    let host = Host::ready(small());
    let refused = host.transport.enable_interrupts(6).expect_err("too many");
    assert!(matches!(refused, TransportError::Interrupts { asked: 6, available: 5 }));
    assert_eq!(host.transport.enable_interrupts(5).expect("all").len(), 5);
    host.expect_violation("interrupts were enabled while CC.EN is 1");
    let refused = host.transport.enable_interrupts(1).expect_err("again");
    assert!(matches!(refused, TransportError::Interrupts { asked: 1, available: 0 }));
}

#[test]
fn doorbells_are_checked_against_the_register_space() {
    let host = Host::new(small());
    let dstrd = small().dstrd;
    let last = registers::cq_head_doorbell(4, dstrd);
    assert!(host.transport.doorbell(last).is_ok());
    let beyond = host.transport.doorbell(registers::sq_tail_doorbell(5, dstrd));
    assert!(matches!(beyond, Err(TransportError::OutOfRange { .. })));
    assert!(matches!(host.transport.doorbell(0x14), Err(TransportError::OutOfRange { .. })));
    assert!(matches!(host.transport.doorbell(0x1002), Err(TransportError::Unaligned { .. })));
}

#[test]
fn a_closed_transport_is_gone() {
    let mut host = Host::ready(small());
    host.transport.close();
    host.expect_violation("closed while bus mastering is on (CSTS.RDY is 1)");
    assert!(host.transport.is_gone());
    assert_eq!(host.transport.read_u32(registers::CSTS), u32::MAX);
    assert_eq!(host.transport.read_u64(registers::CAP), u64::MAX);
    host.transport.write_u32(registers::CC, 0);
    assert!(matches!(host.transport.doorbell(0x1000), Err(TransportError::Gone { .. })));
    assert!(matches!(host.transport.set_bus_master(true), Err(TransportError::Gone { .. })));
    host.device.step();
    assert!(host.device.is_closed());
    // Memory can still be unmapped, by whoever cleans up.
    host.transport.unmap(host.iova, host.block.len()).expect("was mapped");
}

#[test]
fn without_bus_mastering_nothing_is_fetched() {
    let mut host = Host::ready(small());
    host.transport.set_bus_master(false).expect("off");
    let identify = host.with_data(Command::identify(Cns::CTRLR, 0, 0));
    host.push(0, identify);
    host.ring(0);
    assert!(host.reap(0).is_none());
    host.expect_violation("bus mastering is off");
    host.transport.set_bus_master(true).expect("on");
    host.settle();
    assert!(host.reap(0).expect("served now").status().is_success());
}

#[test]
fn queue_memory_that_is_unmapped_under_the_controller_is_fatal() {
    let mut host = Host::ready(small());
    let other = MemoryBlock::new(4096, false).expect("memory");
    let elsewhere = host.transport.map(&other).expect("mapped");
    assert_ne!(elsewhere, host.iova);
    host.transport.unmap(elsewhere, other.len()).expect("was mapped");
    // That was nothing to the queues.
    host.admin_ok(Command::get_features(FeatureId::VOLATILE_WRITE_CACHE, 0, 0));
    host.transport.unmap(host.iova, host.block.len()).expect("was mapped");
    host.pair(0).tail += 1;
    host.ring(0);
    assert!(host.csts().cfs());
    host.expect_violation("unmapped while the queue exists");
}

#[test]
fn after_io_a_shutdown_comes_before_the_end() {
    for (shut_down, violations) in [(true, 0), (false, 1)] {
        let mut host = Host::ready(small());
        host.create_pair(1, 4);
        if shut_down {
            host.write_cc(Host::cc().with_shn(1));
        }
        host.write_cc(Cc::new());
        host.transport.set_bus_master(false).expect("off");
        host.transport.close();
        let all = host.violations();
        assert_eq!(all.len(), violations, "{all:?}");
        assert!(all.iter().all(|violation| violation.contains("without a shutdown notification")));
    }
}

#[test]
fn an_old_controller_has_fewer_choices() {
    let mut host = Host::new(Config { version: 0x0001_0000, ..small() });
    let cap = Cap::from(host.transport.read_u64(registers::CAP));
    assert_eq!((cap.css(), cap.crms(), host.transport.read_u32(registers::CRTO)), (1, 0, 0));
    host.set_admin_queues();
    host.write_cc(Host::cc().with_css(0b110));
    assert!(host.csts().cfs());
    host.expect_violation("CC.CSS is 0b110");
    host.write_cc(Cc::new());
    host.enable();
    host.fails(0, Command::identify(Cns::ACTIVE_NS_LIST, 0, 0), Status::INVALID_FIELD);
    host.fails(0, Command::identify(Cns::NS_DESCRIPTORS, 1, 0), Status::INVALID_FIELD);
    host.admin_data(Command::identify(Cns::NS, 1, 0));
}

#[test]
fn a_device_that_was_pulled_out_is_gone_without_a_complaint() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    let read = host.with_data(Command::read(1, 0, 1));
    host.push(1, read);
    host.transport.remove();
    host.ring(1);
    assert!(host.peek(1).is_none());
    assert!(host.transport.is_gone() && host.device.is_closed());
    assert_eq!(host.transport.read_u32(registers::CSTS), u32::MAX);
    host.transport.close();
    assert!(host.violations().is_empty());
}
