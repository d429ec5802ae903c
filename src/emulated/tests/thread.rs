//! The device on a thread of its own.

use std::time::{Duration, Instant};

use zerocopy::{FromBytes, IntoBytes};

use super::{ADMIN_ENTRIES, small};
use crate::dma::{DmaMap, MemoryBlock};
use crate::emulated::DeviceThread;
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::feature::FeatureId;
use crate::spec::registers::{self, Aqa, Cc, Csts};
use crate::transport::Transport;

/// A bound for every wait of these tests, far beyond what any needs.
const DEADLINE: Duration = Duration::from_secs(120);

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        std::thread::yield_now();
    }
}

fn start() -> (std::sync::Arc<crate::emulated::EmulatedTransport>, DeviceThread) {
    let (transport, device) = crate::emulated::new(small()).expect("a controller");
    (transport, device.spawn(None).expect("a thread"))
}

#[test]
fn it_serves_commands_and_stops_for_good() {
    let (transport, thread) = start();
    let block = MemoryBlock::new(64 << 10, false).expect("memory");
    let iova = transport.map(&block).expect("mapped");
    transport.set_bus_master(true).expect("on");
    let z = (ADMIN_ENTRIES - 1) as u16;
    transport.write_u32(registers::AQA, Aqa::new().with_asqs_z(z).with_acqs_z(z).into());
    transport.write_u64(registers::ASQ, iova);
    transport.write_u64(registers::ACQ, iova + 4096);
    transport.write_u32(registers::CC, Cc::new().with_en(true).with_iosqes(6).with_iocqes(4).into());
    let csts = || Csts::from(transport.read_u32(registers::CSTS));
    wait_for("ready", || csts().rdy());
    let dstrd = small().dstrd;
    let tail = transport.doorbell(registers::sq_tail_doorbell(0, dstrd)).expect("a doorbell");
    let head = transport.doorbell(registers::cq_head_doorbell(0, dstrd)).expect("a doorbell");
    for i in 0..3 * ADMIN_ENTRIES {
        // Some while the device spins, some while it sleeps.
        if i % 16 == 5 {
            std::thread::sleep(Duration::from_millis(3));
        }
        let at = (i % ADMIN_ENTRIES) as usize;
        let phase = (i / ADMIN_ENTRIES).is_multiple_of(2);
        let command = Command { cid: i as u16, ..Command::get_features(FeatureId::ARBITRATION, 0, 0) };
        block.write(at * 64, command.as_bytes());
        tail.ring((i + 1) % ADMIN_ENTRIES);
        let mut bytes = [0; 16];
        wait_for("a completion", || {
            block.read(4096 + at * 16, &mut bytes);
            Completion::read_from_bytes(&bytes).expect("16 bytes").phase() == phase
        });
        // Again: what was read before the phase may be older than it.
        block.read(4096 + at * 16, &mut bytes);
        let completion = Completion::read_from_bytes(&bytes).expect("16 bytes");
        assert_eq!((u32::from(completion.cid), completion.dw0), (i, 7));
        head.ring((i + 1) % ADMIN_ENTRIES);
    }
    transport.write_u32(registers::CC, 0);
    wait_for("not ready", || !csts().rdy());
    drop(thread);
    assert!(transport.violations().is_empty(), "{:?}", transport.violations());
}

#[test]
fn it_ends_when_the_transport_is_closed() {
    let (transport, thread) = start();
    assert!(!thread.is_finished());
    transport.close();
    wait_for("the end", || thread.is_finished());
}

#[test]
fn it_ends_when_nobody_holds_the_transport() {
    let (transport, thread) = start();
    drop(transport);
    wait_for("the end", || thread.is_finished());
}

#[test]
fn a_core_that_does_not_exist_is_refused() {
    for core in [1023, 1 << 20] {
        let (_transport, device) = crate::emulated::new(small()).expect("a controller");
        let error = device.spawn(Some(core)).expect_err("no such core");
        assert_eq!(error.to_string(), format!("no such core: {core}"));
    }
    let (_transport, device) = crate::emulated::new(small()).expect("a controller");
    let allowed = rustix::thread::sched_getaffinity(None).expect("own cores");
    let core = (0..1024).find(|&core| allowed.is_set(core)).expect("a core");
    device.spawn(Some(core)).expect("a core that this process may use");
}
