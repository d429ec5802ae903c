//! Media that fail or are slow, under the kernel's driver: what the driver's own tests rely on.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::{Inside, output, pci, run};
use std::time::{Duration, Instant};

/// The 512-byte sector that cannot be read, and the one that cannot be written.
const UNREADABLE: u64 = 1000;
const UNWRITABLE: u64 = 2000;
const LATENCY: Duration = Duration::from_millis(500);

pub fn group() -> Group {
    Group::new("media")
        .controller(
            Controller::new("bad")
                .media(Media::disk(64).error_at("read", UNREADABLE).error_at("write", UNWRITABLE)),
        )
        .controller(
            Controller::new("slow")
                .namespace(Namespace::new(1, Media::slow(64, LATENCY)))
                .namespace(Namespace::new(2, Media::disk(64))),
        )
        .test(Test::new("a_sector_fails_with_its_status", failing_sector))
        .test(Test::new("a_slow_medium_takes_its_time", slow_medium))
        .test(Test::new("a_medium_is_throttled_and_let_go", throttled))
}

/// What nvme-cli says of reading or writing one sector.
fn one_sector(node: &str, command: &str, sector: u64) -> String {
    let start = format!("--start-block={sector}");
    let output =
        output("nvme", &[command, node, &start, "--block-count=0", "--data-size=512", "--data=/tmp/sector"]);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).to_lowercase()
}

fn failing_sector(inside: &Inside) {
    let node = pci::block_device(&inside.address("bad"), 1);
    std::fs::write("/tmp/sector", [7; 512]).expect("a sector to write");
    for (command, sector, status) in [("read", UNREADABLE, "(0x281)"), ("write", UNWRITABLE, "(0x280)")] {
        for _ in 0..2 {
            let said = one_sector(&node, command, sector);
            assert!(
                said.contains(status),
                "{command} of sector {sector} fails with {status}, every time: {said}"
            );
        }
        let said = one_sector(&node, command, sector + 1);
        assert!(said.contains("success"), "{command} of the next sector succeeds: {said}");
    }
}

/// How long one uncached read of this block device takes.
fn one_read(node: &str) -> Duration {
    let begun = Instant::now();
    run(
        "nvme",
        &["read", node, "--start-block=0", "--block-count=0", "--data-size=512", "--data=/tmp/sector"],
    );
    begun.elapsed()
}

fn slow_medium(inside: &Inside) {
    let address = inside.address("slow");
    let took = one_read(&pci::block_device(&address, 1));
    assert!(took >= LATENCY, "a read took {took:?}, and the medium's latency is {LATENCY:?}");
}

fn throttled(inside: &Inside) {
    let node = pci::block_device(&inside.address("slow"), 2);
    let id = inside.namespace_id("slow", 2);
    let several = || {
        let begun = Instant::now();
        for _ in 0..4 {
            one_read(&node);
        }
        begun.elapsed()
    };
    let before = several();
    inside.throttle(&id, 1);
    let limited = several();
    inside.throttle(&id, 0);
    let after = several();
    assert!(limited > Duration::from_secs(2), "one operation a second: {before:?}, {limited:?}, {after:?}");
    assert!(after < limited, "the limit is gone: {before:?}, {limited:?}, {after:?}");
}
