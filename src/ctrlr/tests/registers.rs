//! Registers of a device that is not there, or not as it should be: whatever they read, it is said which, and nothing is made of them.
#![forbid(unsafe_code)]

use crate::ctrlr::Failure;
use crate::ctrlr::registers::{check_cap, check_csts, check_running};
use crate::dma::{DmaError, DmaMap, MemoryBlock};
use crate::spec::registers::{CAP, CC, CSTS, Cap, Cc, Csts, VS};
use crate::transport::{Doorbell, Transport, TransportError};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A device that is nothing but what its registers read.
#[derive(Clone, Copy, Debug)]
struct Registers {
    cap: u64,
    version: u32,
    cc: Cc,
    csts: u32,
    is_gone: bool,
}

impl Registers {
    /// Those of a controller that runs.
    fn running() -> Self {
        let csts = Csts::new().with_rdy(true).into_bits();
        Self { cap: 0x20_0400_03ff, version: 0x0002_0000, cc: Cc::new().with_en(true), csts, is_gone: false }
    }

    /// All of them read zeroes.
    fn zero() -> Self {
        Self { cap: 0, version: 0, cc: Cc::new(), csts: 0, is_gone: false }
    }

    fn gone(self) -> Self {
        Self { is_gone: true, ..self }
    }
}

impl DmaMap for Registers {
    fn map(&self, _: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        unreachable!("it is only read")
    }

    fn unmap(&self, _: u64, _: usize) -> Result<(), DmaError> {
        unreachable!("it is only read")
    }
}

impl Transport for Registers {
    fn address(&self) -> String {
        "registers".to_owned()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        match offset {
            VS => self.version,
            CC => self.cc.into_bits(),
            CSTS => self.csts,
            _ => unreachable!("a register of 32 bits at {offset:#x}"),
        }
    }

    fn read_u64(&self, offset: usize) -> u64 {
        assert_eq!(offset, CAP);
        self.cap
    }

    fn write_u32(&self, _: usize, _: u32) {
        unreachable!("it is only read")
    }

    fn write_u64(&self, _: usize, _: u64) {
        unreachable!("it is only read")
    }

    fn doorbell(&self, _: usize) -> Result<Doorbell, TransportError> {
        unreachable!("it is only read")
    }

    fn set_bus_master(&self, _: bool) -> Result<(), TransportError> {
        unreachable!("it is only read")
    }

    fn is_gone(&self) -> bool {
        self.is_gone
    }

    fn interrupt_count(&self) -> usize {
        0
    }

    fn enable_interrupts(&self, _: usize) -> Result<Vec<OwnedFd>, TransportError> {
        unreachable!("it is only read")
    }

    fn close(&self) {}
}

fn removed<T>(register: &'static str, value: u64) -> Result<T, Failure> {
    Err(Failure::Removed { register, value })
}

/// A device that was pulled out reads as all ones; QEMU's as zeroes. The kernel may know before any register tells.
#[test]
fn a_device_that_is_not_there_is_known_by_its_capabilities() {
    let there = Registers::running();
    assert_eq!(check_cap(&there).map(Cap::into_bits), Ok(there.cap));
    for value in [0, u64::MAX] {
        assert_eq!(check_cap(&Registers { cap: value, ..there }).map(|_| ()), removed("CAP", value));
    }
    assert_eq!(check_cap(&there.gone()).map(|_| ()), removed("CAP", there.cap));
}

#[test]
fn a_status_of_all_ones_is_a_removal_and_no_fatal_status() {
    let there = Registers::running();
    assert_eq!(check_csts(&there).map(Csts::into_bits), Ok(there.csts));
    let ones = u64::from(u32::MAX);
    assert_eq!(check_csts(&Registers { csts: u32::MAX, ..there }).map(|_| ()), removed("CSTS", ones));
    assert_eq!(check_csts(&there.gone()).map(|_| ()), removed("CSTS", there.csts.into()));
    let fatal = Csts::new().with_rdy(true).with_cfs(true).into_bits();
    let failure = Failure::Fatal { csts: fatal };
    assert_eq!(check_csts(&Registers { csts: fatal, ..there }).map(|_| ()), Err(failure));
}

/// Zero is a status that a controller may have; only the version, which none has, tells that it is not there.
#[test]
fn a_controller_that_runs_no_longer_is_gone_or_was_reset_or_stopped_by_itself() {
    let running = Registers::running();
    assert_eq!(check_running(&running), Ok(()));
    assert_eq!(check_running(&Registers::zero()), removed("VS", 0));
    let not_ready = Registers { csts: 0, ..running };
    let ones = u64::from(u32::MAX);
    assert_eq!(check_running(&Registers { version: u32::MAX, ..not_ready }), removed("VS", ones));
    let why = |registers: Registers| match check_running(&registers) {
        Err(Failure::Unusable(why)) => why,
        other => panic!("{other:?}"),
    };
    let reset = why(Registers { cc: Cc::new(), ..not_ready });
    assert!(reset.contains("somebody else reset it"), "{reset}");
    let stopped = why(not_ready);
    assert!(stopped.contains("it stopped being ready"), "{stopped}");
}
