//! Our own driver inside the guest, as several groups use it: a controller attached through VFIO, and the command's verified I/O.
#![forbid(unsafe_code)]

use super::{Inside, SLIPRING, pci, run};
use serde_json::Value;
use slipring::ctrlr::{Ctrlr, CtrlrOptions};
use slipring::ring::LockFree;
use slipring::transport::vfio::VfioTransport;
use std::fs;

/// A controller of the group on vfio-pci, attached with the default options.
pub fn attach(inside: &Inside, id: &str) -> Ctrlr<LockFree> {
    attach_with(inside, id, CtrlrOptions::default())
}

/// The same, with options.
pub fn attach_with(inside: &Inside, id: &str, options: CtrlrOptions) -> Ctrlr<LockFree> {
    pci::bind(&inside.address(id), "vfio-pci");
    open(inside, id, options)
}

/// The same, of one that is bound already.
pub fn attach_bound(inside: &Inside, id: &str) -> Ctrlr<LockFree> {
    open(inside, id, CtrlrOptions::default())
}

fn open(inside: &Inside, id: &str, options: CtrlrOptions) -> Ctrlr<LockFree> {
    let transport = VfioTransport::open(inside.address(id).parse().expect("an address")).expect("opened");
    Ctrlr::attach(transport, options).expect("attached")
}

/// A second of `slipring perf` with random reads and writes, every block of them verified; the words are beside those that are always the same.
pub fn perf_verifies(address: &str, words: &[&str]) {
    let always = [
        "perf",
        address,
        "-w",
        "randrw",
        "-M",
        "50",
        "-t",
        "1",
        "--verify",
        "--quiet",
        "--json=/tmp/perf.json",
    ];
    run(SLIPRING, &[&always[..], words].concat());
    let json: Value =
        serde_json::from_str(&fs::read_to_string("/tmp/perf.json").expect("written")).expect("JSON");
    assert!(json["verified_blocks"].as_u64() > Some(0), "{words:?}: {json}");
    assert_eq!(
        (json["errors"].as_u64(), json["wrong_blocks"].as_u64()),
        (Some(0), Some(0)),
        "{words:?}: {json}"
    );
}
