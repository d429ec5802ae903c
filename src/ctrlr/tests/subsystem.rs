//! Resets of the NVM subsystem on devices that make it hard to tell when they are over.
#![forbid(unsafe_code)]

use super::World;
use crate::ctrlr::{CtrlrOptions, Failure, Reset, ResetError, Timeouts};
use crate::dma::{DmaError, DmaMap, MemoryBlock};
use crate::emulated::{Config, EmulatedTransport};
use crate::spec::registers::{CAP, CSTS, Cap, Csts};
use crate::transport::{Doorbell, Transport, TransportError};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A device as an emulated one, but for what is odd about it.
#[derive(Debug)]
struct Odd {
    device: Arc<EmulatedTransport>,
    /// CSTS.NSSRO, which a controller need not have, stays 0.
    hides_nssro: AtomicBool,
    /// So often its bus cannot be set up yet.
    refusals: AtomicU32,
    /// Its capabilities make no sense: MPSMIN is above MPSMAX.
    is_unusable: AtomicBool,
}

impl DmaMap for Odd {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        self.device.map(block)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        self.device.unmap(iova, len)
    }
}

impl Transport for Odd {
    fn address(&self) -> String {
        self.device.address()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let value = self.device.read_u32(offset);
        if offset == CSTS && value != u32::MAX && self.hides_nssro.load(Relaxed) {
            return Csts::from_bits(value).with_nssro(false).into_bits();
        }
        value
    }

    fn read_u64(&self, offset: usize) -> u64 {
        let value = self.device.read_u64(offset);
        if offset == CAP && value != u64::MAX && self.is_unusable.load(Relaxed) {
            return Cap::from_bits(value).with_mpsmin(4).with_mpsmax(0).into_bits();
        }
        value
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.device.write_u32(offset, value);
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.device.write_u64(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError> {
        self.device.doorbell(offset)
    }

    fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        self.device.set_bus_master(on)
    }

    fn is_gone(&self) -> bool {
        self.device.is_gone()
    }

    fn interrupt_count(&self) -> usize {
        self.device.interrupt_count()
    }

    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError> {
        self.device.enable_interrupts(count)
    }

    fn restore(&self) -> Result<(), TransportError> {
        // Only once it can be reached: until then it fails as ever.
        if self.device.read_u32(CSTS) != u32::MAX
            && self.refusals.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            return Err(TransportError::Gone { address: self.address() });
        }
        self.device.restore()
    }

    fn close(&self) {
        self.device.close();
    }
}

/// A controller on such a device, to be made odd, that may reset its subsystem by itself.
fn odd_world() -> (World, Arc<Odd>) {
    let config = Config { nssr: Some(Duration::from_millis(1)), io_queues: 4, ..Config::default() };
    let options = CtrlrOptions {
        timeouts: Timeouts { subsystem_reset: true, ..Timeouts::default() },
        ..CtrlrOptions::default()
    };
    let mut odd = None;
    let world = World::through(config, options, |device| {
        let (never, none) = (|| AtomicBool::new(false), AtomicU32::new(0));
        let made = Odd { device, hides_nssro: never(), refusals: none, is_unusable: never() };
        Arc::clone(odd.insert(Arc::new(made)))
    });
    (world, odd.expect("made"))
}

/// Runs it to its end in steps of a millisecond; returns how long that took.
fn end(world: &mut World, reset: &Reset) -> Duration {
    let begun = world.now;
    world.run("over", |world| {
        world.now += Duration::from_millis(1);
        reset.is_over().is_some()
    });
    world.now - begun
}

#[test]
fn a_controller_without_nssro_is_known_to_be_reset_when_it_is_disabled() {
    let (mut world, odd) = odd_world();
    odd.hides_nssro.store(true, Relaxed);
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    assert!(end(&mut world, &reset) < Duration::from_millis(100));
    assert_eq!(reset.is_over(), Some(Ok(())));
    assert_eq!(world.detach(), Vec::<String>::new());
}

/// What its bus was set up to is asked for until it is there; within the bound of the whole, and no longer.
#[test]
fn a_bus_that_cannot_be_set_up_yet_is_tried_again_until_the_time_is_over() {
    let (mut world, odd) = odd_world();
    odd.refusals.store(5, Relaxed);
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    let took = end(&mut world, &reset);
    assert!((Duration::from_millis(50)..Duration::from_millis(150)).contains(&took), "{took:?}");
    assert_eq!((reset.is_over(), odd.refusals.load(Relaxed)), (Some(Ok(())), 0));
    odd.refusals.store(u32::MAX, Relaxed);
    let reset = world.ctrlr.reset_subsystem().expect("there is one");
    let took = end(&mut world, &reset);
    assert!((Duration::from_secs(10)..Duration::from_millis(10_100)).contains(&took), "{took:?}");
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
        end(&mut world, &reset);
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
