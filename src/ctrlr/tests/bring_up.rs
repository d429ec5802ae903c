//! What a controller is brought up from, and what is said of one that cannot be.
#![forbid(unsafe_code)]

use super::STEPS;
use crate::ctrlr::bring_up::{command_sets, page_bytes, pairs_granted, takes_entries};
use crate::ctrlr::events::Events;
use crate::ctrlr::{AttachError, Ctrlr, CtrlrOptions, Failure};
use crate::dma::{DmaMap, DmaOptions, DmaSpace};
use crate::emulated::{self, Config, Device, EmulatedTransport};
use crate::ring::LockFree;
use crate::spec::registers::{ACQ, AQA, ASQ, Aqa, CAP, CC, CSTS, Cap, Cc, Csts};
use crate::transport::Transport;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);

/// Attaches, with two steps of the driver for each of the device, a millisecond apart.
fn attach(transport: &Arc<EmulatedTransport>, device: &mut Device) -> Result<Ctrlr<LockFree>, AttachError> {
    let mut attach = Ctrlr::begin_attach(transport.clone(), CtrlrOptions::default())?;
    let mut now = Instant::now();
    for _ in 0..STEPS {
        now += MS;
        for _ in 0..2 {
            if let Some(ctrlr) = attach.step(now)? {
                return Ok(ctrlr);
            }
        }
        device.step_at(now);
    }
    panic!("not attached after {STEPS} steps");
}

/// Attaches to a controller that does `fault`; why it could not be.
fn refusal(fault: &str) -> Failure {
    let faults = fault.parse().expect("a fault");
    let (transport, mut device) = emulated::new(Config { faults, ..Config::default() }).expect("valid");
    match attach(&transport, &mut device) {
        Err(AttachError::Failed { failure, .. }) => failure,
        other => panic!("{fault}: {other:?}"),
    }
}

#[test]
fn what_bring_up_needs_and_is_refused_is_named() {
    for (fault, needed) in [
        ("status=internal-error opcode=identify nth=1", "Identify Controller"),
        ("status=internal-error queue=admin opcode=0x09 nth=1", "Set Features (Number of Queues)"),
    ] {
        match refusal(fault) {
            Failure::Refused { what, .. } => assert_eq!(what, needed),
            other => panic!("{needed}: {other:?}"),
        }
    }
}

/// SQES is at 512 of Identify Controller, and CQES at 513: each excludes the driver's size when all its bits are turned.
#[test]
fn a_controller_whose_queue_entries_have_another_size_is_not_driven() {
    for fault in ["corrupt=512 opcode=identify nth=1", "corrupt=513 opcode=identify nth=1"] {
        match refusal(fault) {
            Failure::Unusable(why) => assert!(why.contains("queue entry sizes"), "{why}"),
            other => panic!("{fault}: {other:?}"),
        }
    }
}

#[test]
fn the_smallest_page_that_the_controller_takes_is_the_one_that_is_used() {
    let of = |min, max| page_bytes(Cap::new().with_mpsmin(min).with_mpsmax(max));
    for (min, max, bytes) in
        [(0, 0, 4096), (0, 4, 4096), (1, 4, 8192), (3, 3, 32_768), (8, 8, 1 << 20), (8, 15, 1 << 20)]
    {
        assert_eq!(of(min, max), Ok(bytes), "{min} to {max}");
    }
    for (min, max) in [(1, 0), (8, 7), (9, 9), (9, 15), (15, 0)] {
        assert!(matches!(of(min, max), Err(Failure::Unusable(_))), "{min} to {max}");
    }
}

#[test]
fn all_command_sets_are_enabled_where_that_can_be_and_none_where_there_is_none() {
    for (bits, css) in [
        (0b0000_0000, 0b000),
        (0b0000_0001, 0b000),
        (0b0100_0001, 0b110),
        (0b1100_0001, 0b110),
        (0b1000_0001, 0b000),
        (0b1000_0000, 0b111),
    ] {
        assert_eq!(command_sets(Cap::new().with_css(bits)), css, "CAP.CSS {bits:#010b}");
    }
}

#[test]
fn queue_entries_may_be_as_large_as_needed_and_as_small_as_is_enough() {
    for (field, fits) in [
        (0x66, true),
        (0x64, true),
        (0xf0, true),
        (0x60, true),
        (0x77, false),
        (0x67, false),
        (0x55, false),
        (0x50, false),
    ] {
        assert_eq!(takes_entries(field, 6), fits, "{field:#04x}");
    }
}

#[test]
fn of_the_queues_that_are_granted_the_pairs_count() {
    for (dw0, pairs) in [
        (0, 1),
        (0x0007_0003, 4),
        (0x0003_0007, 4),
        (0x0009_0009, 10),
        (0x003f_003f, 10),
        (0xfffe_fffe, 10),
        (u32::MAX, 10),
    ] {
        assert_eq!(pairs_granted(dw0, 10), pairs, "{dw0:#010x}");
    }
}

/// CAP.TO ends at 127.5 s; CRTO goes on.
#[test]
fn a_controller_may_need_longer_to_be_ready_than_cap_to_can_say() {
    const SECOND: Duration = Duration::from_secs(1);
    let config = Config { timeout: 200 * SECOND, ready_delay: 150 * SECOND, ..Config::default() };
    let (transport, mut device) = emulated::new(config).expect("valid");
    assert_eq!(Cap::from_bits(transport.read_u64(CAP)).to(), 255);
    let mut attach = Ctrlr::<LockFree>::begin_attach(transport, CtrlrOptions::default()).expect("begins");
    let mut now = Instant::now();
    for _ in 0..STEPS {
        now += SECOND;
        if attach.step(now).expect("it is waited for").is_some() {
            return;
        }
        device.step_at(now);
    }
    panic!("not attached after {STEPS} steps");
}

/// CSTS.CFS says that it will not be: there is nothing to wait for.
#[test]
fn a_controller_that_fails_as_it_is_enabled_is_given_up_at_once() {
    let (transport, mut device) = emulated::new(Config::default()).expect("valid");
    let mut attach =
        Ctrlr::<LockFree>::begin_attach(transport.clone(), CtrlrOptions::default()).expect("begins");
    let mut now = Instant::now();
    while !Cc::from_bits(transport.read_u32(CC)).en() {
        device.step_at(now);
        now += MS;
        assert!(attach.step(now).expect("well").is_none());
    }
    // Spoilt before the device has seen it: no arbitration like that is there.
    let cc = Cc::from_bits(transport.read_u32(CC)).with_ams(1);
    transport.write_u32(CC, cc.into_bits());
    for _ in 0..STEPS {
        device.step_at(now);
        now += MS;
        match attach.step(now) {
            Ok(None) => {}
            Err(AttachError::Failed { failure: Failure::Fatal { .. }, .. }) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("not given up after {STEPS} steps");
}

/// Somebody else had it before, and may have been in the middle of anything.
#[test]
fn a_controller_that_is_found_enabled_is_disabled_by_the_rules() {
    for is_ready in [false, true] {
        let config = Config { ready_delay: 20 * MS, timeout: Duration::from_secs(1), ..Config::default() };
        let (transport, mut device) = emulated::new(config).expect("valid");
        transport.write_u32(AQA, Aqa::new().with_asqs_z(7).with_acqs_z(7).into_bits());
        let dma = DmaSpace::new(Arc::clone(&transport) as Arc<dyn DmaMap>, DmaOptions::default());
        let queues = dma.allocate(8192).expect("memory");
        transport.write_u64(ASQ, queues.iova());
        transport.write_u64(ACQ, queues.iova() + 4096);
        let cc = Cc::new().with_iosqes(6).with_iocqes(4).with_en(true);
        transport.write_u32(CC, cc.into_bits());
        let mut now = Instant::now();
        device.step_at(now);
        while is_ready && !Csts::from_bits(transport.read_u32(CSTS)).rdy() {
            now += MS;
            device.step_at(now);
        }
        let _ctrlr = attach(&transport, &mut device).expect("attach");
        assert_eq!(transport.violations(), Vec::<String>::new(), "ready: {is_ready}");
    }
}

/// One that could not use what it was enabled with was never ready, so it says only by CSTS.CFS when a reset of it is over.
#[test]
fn a_controller_that_is_found_failed_is_enabled_when_its_failure_is_over() {
    let (transport, mut device) = emulated::new(Config::default()).expect("valid");
    transport.write_u32(AQA, 0);
    transport.write_u32(CC, Cc::new().with_iosqes(6).with_iocqes(4).with_en(true).into_bits());
    device.step_at(Instant::now());
    let csts = Csts::from_bits(transport.read_u32(CSTS));
    assert!(csts.cfs() && !csts.rdy(), "{csts:?}");
    let violations = transport.violations().len();
    let mut attach =
        Ctrlr::<LockFree>::begin_attach(transport.clone(), CtrlrOptions::default()).expect("begins");
    let mut now = Instant::now();
    for _ in 0..STEPS {
        now += MS;
        // The device is slower than its driver.
        for _ in 0..8 {
            if let Some(_ctrlr) = attach.step(now).expect("attach") {
                assert_eq!(transport.violations()[violations..], Vec::<String>::new());
                return;
            }
        }
        device.step_at(now);
    }
    panic!("not attached after {STEPS} steps");
}

/// Else a message could take the entry that the report of an event needs.
#[test]
fn event_reporting_keeps_an_entry_for_each_request_that_the_controller_takes_and_one_to_read() {
    let (transport, _device) = emulated::new(Config::default()).expect("valid");
    let dma = DmaSpace::new(transport as Arc<dyn DmaMap>, DmaOptions::default());
    let mut events = Events::new(dma.allocate(4096).expect("memory"));
    for (aerl_z, needed) in [(0, 2), (1, 3), (3, 5), (4, 5), (255, 5)] {
        events.set_limit(aerl_z);
        assert_eq!(events.entries_needed(), needed, "AERL {aerl_z}");
    }
}
