//! The IOMMU: mapping, unmapping, and the promise that the device is out when the host is told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{Host, small};
use crate::dma::{DmaError, DmaMap, MemoryBlock};
use crate::emulated::iommu::{Iommu, Port};

fn block(bytes: usize) -> Arc<MemoryBlock> {
    MemoryBlock::new(bytes, false).expect("memory")
}

#[test]
fn addresses_are_never_used_twice_and_have_gaps() {
    let iommu = Iommu::new();
    let mut last_end = 0;
    for _ in 0..100 {
        let block = block(8192);
        let iova = iommu.map(&block).expect("mapped");
        assert!(iova > last_end && iova.is_multiple_of(4096));
        last_end = iova + 8192;
        iommu.unmap(iova, 8192).expect("was mapped");
    }
}

#[test]
fn only_what_is_mapped_is_found() {
    let iommu = Arc::new(Iommu::new());
    let mut port = Port::new(iommu.clone());
    let (first, second) = (block(4096), block(8192));
    let (at_first, at_second) = (iommu.map(&first).expect("mapped"), iommu.map(&second).expect("mapped"));
    iommu.set_bus_master(true);
    assert!(port.enter());
    let found = |port: &Port, iova: u64, len: usize| {
        port.table.find(iova, len).map(|place| (place.offset, place.len))
    };
    assert_eq!(found(&port, at_first, 4096), Some((0, 4096)));
    assert_eq!(found(&port, at_first + 4000, 4096), Some((4000, 96)));
    assert_eq!(found(&port, at_first + 4096, 1), None);
    assert_eq!(found(&port, at_first - 1, 1), None);
    assert_eq!(found(&port, at_second + 8191, 1), Some((8191, 1)));
    assert_eq!(found(&port, u64::MAX, 1), None);
    assert_eq!(found(&port, 0, 1), None);
    assert!(port.table.whole(at_second, 8192).is_some());
    assert!(port.table.whole(at_second + 1, 8192).is_none());
    assert!(Arc::ptr_eq(port.table.whole(at_second, 1).expect("mapped").0, &second));
    port.leave();
    iommu.unmap(at_second, 8192).expect("was mapped");
    assert!(port.enter());
    assert_eq!(found(&port, at_second, 1), None);
    assert_eq!(found(&port, at_first, 1), Some((0, 1)));
}

#[test]
fn an_unmap_must_name_a_mapping() {
    let host = Host::new(small());
    for (iova, len) in [(host.iova, 4096), (host.iova + 4096, host.block.len()), (0, 4096)] {
        let error = host.transport.unmap(iova, len).expect_err("no mapping");
        assert!(matches!(error, DmaError::NotMapped { .. }));
    }
    let all = host.violations();
    assert!(all.len() == 3 && all[0].contains("which is no mapping"), "{all:?}");
}

#[test]
fn a_mapping_keeps_its_memory() {
    let host = Host::new(small());
    let mapped = block(4096);
    let weak = Arc::downgrade(&mapped);
    let iova = host.transport.map(&mapped).expect("mapped");
    drop(mapped);
    assert!(weak.upgrade().is_some());
    host.transport.unmap(iova, 4096).expect("was mapped");
    assert!(weak.upgrade().is_none());
}

/// The device is inside; `leave_no_one_behind` must not return before it is out.
fn waits_for_the_device(leave_no_one_behind: impl FnOnce(&Iommu) + Send) {
    let iommu = Arc::new(Iommu::new());
    let mut port = Port::new(iommu.clone());
    iommu.set_bus_master(true);
    assert!(port.enter());
    let returned = AtomicBool::new(false);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            leave_no_one_behind(&iommu);
            // Release: pairs with the Acquire below.
            returned.store(true, Ordering::Release);
        });
        thread::sleep(Duration::from_millis(20));
        // Acquire: pairs with the Release above.
        assert!(!returned.load(Ordering::Acquire));
        port.leave();
        waiter.join().expect("it returns");
    });
}

#[test]
fn bus_mastering_off_waits_until_the_device_is_out() {
    waits_for_the_device(|iommu| iommu.set_bus_master(false));
}

#[test]
fn an_unmap_waits_until_the_device_is_out() {
    waits_for_the_device(|iommu| {
        let block = block(4096);
        let iova = iommu.map(&block).expect("mapped");
        iommu.unmap(iova, 4096).expect("was mapped");
    });
}

#[test]
fn without_bus_mastering_nobody_gets_in() {
    let iommu = Arc::new(Iommu::new());
    let mut port = Port::new(iommu.clone());
    assert!(!port.enter());
    iommu.set_bus_master(true);
    assert!(port.enter());
    // A device that dies inside does not keep the host waiting.
    drop(port);
    iommu.set_bus_master(false);
}

#[test]
fn after_an_unmap_the_device_never_touches_the_memory() {
    let iommu = Arc::new(Iommu::new());
    iommu.set_bus_master(true);
    let (stop, current) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let mut port = Port::new(iommu.clone());
        let (stop, current) = (&stop, &current);
        scope.spawn(move || {
            // Relaxed: nothing but the flag is told.
            while !stop.load(Ordering::Relaxed) {
                assert!(port.enter());
                // Relaxed: an old address is not found, or not used any more.
                if let Some((block, offset)) = port.table.whole(current.load(Ordering::Relaxed), 8) {
                    block.store_u64(offset, 1, Ordering::Relaxed);
                }
                port.leave();
            }
        });
        for _ in 0..500 {
            let block = block(4096);
            let iova = iommu.map(&block).expect("mapped");
            current.store(iova, Ordering::Relaxed);
            while block.load_u64(0, Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            iommu.unmap(iova, 4096).expect("was mapped");
            // Relaxed: the device is out, which `unmap` ordered.
            block.store_u64(0, 7, Ordering::Relaxed);
            std::hint::spin_loop();
            assert_eq!(block.load_u64(0, Ordering::Relaxed), 7);
        }
        stop.store(true, Ordering::Relaxed);
    });
}
