//! Controllers of other shapes than usual: as `nvme-cli` sees them, which the driver's own tests rely on, and under the driver. And what is refused.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::driver::{attach, perf_verifies};
use crate::inside::{Inside, SLIPRING, nvme, output, pci, run, wait_for};
use serde_json::Value;
use slipring::ctrlr::{Message, Reply};
use slipring::dma::DmaSlice;
use slipring::poller::{Poller, QpairError, QpairOptions};
use slipring::ring::Outcome;
use slipring::spec::command::Command;
use std::fs;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);

pub fn group() -> Group {
    let one = |id: &'static str| Controller::new(id).media(Media::disk(16));
    Group::new("shapes")
        .controller(one("oneq").set("max_ioqpairs", 1))
        .controller(one("mdts1").set("mdts", 1))
        .controller(one("msix").set("msix_qsize", 2).set("max_ioqpairs", 8).set("mdts", 0))
        .controller(
            Controller::new("many")
                .namespace(Namespace::new(1, Media::disk(16)))
                .namespace(Namespace::new(100, Media::disk(16)))
                .namespace(Namespace::new(256, Media::disk(16))),
        )
        .controller(
            Controller::new("odd")
                .namespace(
                    Namespace::new(1, Media::disk(16)).set("zoned", true).set("zoned.zone_size", 1 << 20),
                )
                .namespace(Namespace::new(2, Media::disk(16)).lba_bytes(4096).set("ms", 8))
                .namespace(Namespace::new(3, Media::disk(16))),
        )
        .controller(one("fn0"))
        .controller(one("fn1").beside("fn0"))
        .test(Test::new("queues_vectors_and_mdts_are_as_asked", limits))
        .test(Test::new("namespaces_are_sparse_zoned_and_with_metadata", namespaces))
        .test(Test::new("two_functions_share_a_group", shared_group))
        .test(Test::new("one_io_queue_pair_is_enough", one_queue_pair).deadline(120))
        .test(Test::new("transfers_are_as_long_as_the_controller_takes", transfer_limits).deadline(120))
        .test(Test::new("more_queue_pairs_than_vectors_wait_for_interrupts", few_vectors))
        .test(Test::new("sparse_namespaces_have_their_own_bytes", sparse))
        .test(Test::new("zoned_and_metadata_namespaces_are_refused_and_the_others_work", odd))
        .test(Test::new("what_cannot_be_used_is_refused_in_one_line", refusals).deadline(120))
}

/// The node of a controller.
fn node(inside: &Inside, id: &str) -> String {
    let address = inside.address(id);
    pci::bind(&address, "nvme");
    format!("/dev/{}", wait_for(&format!("the name of {id}"), pci::KERNEL, || pci::kernel_name(&address)))
}

fn identity(inside: &Inside, id: &str) -> Value {
    nvme(&["id-ctrl", &node(inside, id)])
}

fn limits(inside: &Inside) {
    for (id, mdts) in [("oneq", 7), ("mdts1", 1), ("msix", 0)] {
        assert_eq!(identity(inside, id)["mdts"], mdts, "{id}'s MDTS");
    }
    // Feature 7, Number of Queues: submission queues below, completion queues above, both zero-based.
    for (id, queues_z) in [("oneq", "00000000"), ("msix", "00070007")] {
        let said = run("nvme", &["get-feature", &node(inside, id), "--feature-id=7"]);
        let value = said.trim().rsplit(':').next().unwrap_or_default();
        assert_eq!(value.trim_start_matches("0x"), queues_z, "{id}: {said}");
    }
    assert_eq!(pci::msix_vectors(&inside.address("msix")), Some(2));
    assert_eq!(pci::msix_vectors(&inside.address("oneq")), Some(65));
}

fn namespaces(inside: &Inside) {
    assert_eq!(identity(inside, "many")["nn"], 256, "256 namespaces are allowed");
    for nsid in [1, 100, 256] {
        pci::block_device(&inside.address("many"), nsid);
    }
    let odd = node(inside, "odd");
    let listed = run("nvme", &["list-ns", &odd]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let metadata = nvme(&["id-ns", &odd, "--namespace-id=2"]);
    let format = metadata["flbas"].as_u64().expect("a format") as usize & 15;
    assert_eq!(metadata["lbafs"][format]["ms"], 8, "8 bytes of metadata");
    assert_eq!(metadata["lbafs"][format]["ds"], 12, "with 4096-byte blocks");
    let descriptors = run("nvme", &["ns-descs", &odd, "--namespace-id=1"]);
    assert!(descriptors.contains("csi     : 0x2"), "a zoned namespace: {descriptors}");
}

fn shared_group(inside: &Inside) {
    let (first, second) = (inside.address("fn0"), inside.address("fn1"));
    assert!(first.ends_with(":00.0") && second.ends_with(":00.1"), "{first} and {second}");
    assert_eq!(pci::group(&first), pci::group(&second));
    assert_eq!(pci::group_members(pci::group(&first)), [first, second]);
}

fn one_queue_pair(inside: &Inside) {
    let address = inside.address("oneq");
    // With the default options it serves messages, and queue pairs are refused clearly.
    let ctrlr = attach(inside, "oneq");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    assert_eq!(ctrlr.limits().expect("limits").io_queues, 1);
    let refused = poller.queue_pair(&QpairOptions::default()).expect_err("the messages have it");
    assert!(matches!(refused, QpairError::NoneFree { io_queues: 1 }), "{refused}");
    let data = DmaSlice::from(poller.allocate(512).expect("memory"));
    let ticket = poller
        .send(Message::Io { command: Command::read(1, 0, 1), data: Some(Box::new(data)) })
        .expect("running");
    while !ticket.is_ready() {
        poller.poll(Instant::now()).expect("alive");
    }
    let outcome = ticket.wait(Duration::ZERO).expect("it is ready");
    assert!(
        matches!(&outcome, Outcome::Completed(Reply::Command { status, .. }) if status.is_success()),
        "{outcome:?}"
    );
    poller.detach(DEADLINE).expect("detached");
    // Without I/O messages it is the embedder's, as the commands do it.
    perf_verifies(&address, &["-q", "8", "-o", "4096"]);
    perf_verifies(&address, &["-q", "8", "-o", "4096", "--interrupts"]);
    refused_in_one_line(
        &["perf", &address, "-P", "2"],
        "2 queue pairs are needed, and this controller grants 1",
    );
}

fn transfer_limits(inside: &Inside) {
    for (id, limit) in [("mdts1", 8 << 10), ("msix", 1 << 20)] {
        let ctrlr = attach(inside, id);
        assert_eq!(ctrlr.limits().expect("limits").max_transfer_bytes, limit, "{id}");
        ctrlr.detach(DEADLINE).expect("detached");
        let address = inside.address(id);
        perf_verifies(&address, &["-q", "2", "-o", &limit.to_string()]);
        perf_verifies(&address, &["-q", "8", "-o", "512"]);
        refused_in_one_line(
            &["perf", &address, "-o", &(2 * limit).to_string()],
            &format!("1 block to {limit} bytes"),
        );
    }
}

/// Two vectors, and four queue pairs that wait: one of them, or two, have their own, the others nap.
fn few_vectors(inside: &Inside) {
    let address = inside.address("msix");
    pci::bind(&address, "vfio-pci");
    perf_verifies(&address, &["-q", "4", "-o", "4096", "-P", "4", "--interrupts"]);
}

fn sparse(inside: &Inside) {
    let ctrlr = attach(inside, "many");
    let nsids: Vec<_> = ctrlr.namespaces().iter().map(|namespace| namespace.nsid).collect();
    assert_eq!(nsids, [1, 100, 256]);
    ctrlr.detach(DEADLINE).expect("detached");
    let address = inside.address("many");
    let bytes_of = |nsid: u32| vec![nsid as u8 ^ 0x5a; 64 << 10];
    for nsid in nsids.iter().copied() {
        fs::write("/tmp/image", bytes_of(nsid)).expect("room");
        run(SLIPRING, &["write", &address, &format!("--ns={nsid}"), "--lba=8", "--file=/tmp/image"]);
    }
    for nsid in nsids {
        run(
            SLIPRING,
            &["read", &address, &format!("--ns={nsid}"), "--lba=8", "--blocks=128", "--file=/tmp/back"],
        );
        assert!(fs::read("/tmp/back").expect("read") == bytes_of(nsid), "namespace {nsid} has its own bytes");
    }
    refused_in_one_line(&["read", &address, "--ns=2", "--blocks=1"], "expected one of 1, 100, 256");
}

fn odd(inside: &Inside) {
    let address = inside.address("odd");
    pci::bind(&address, "vfio-pci");
    for (ns, why) in [("--ns=1", "0x2 (zoned)"), ("--ns=2", "8 bytes of metadata per block")] {
        fs::write("/tmp/image", vec![0; 4096]).expect("room");
        refused_in_one_line(&["read", &address, ns, "--blocks=1"], why);
        refused_in_one_line(&["write", &address, ns, "--file=/tmp/image"], why);
        refused_in_one_line(&["perf", &address, ns], why);
    }
    perf_verifies(&address, &["--ns=3", "-q", "8", "-o", "4096"]);
    let identity: Value =
        serde_json::from_str(&run(SLIPRING, &["identify", &address, "--json"])).expect("JSON");
    assert_eq!(identity["namespaces"].as_array().map(Vec::len), Some(3), "{identity}");
    let text = run(SLIPRING, &["identify", &address]);
    assert!(text.contains("zoned") && text.contains("metadata"), "it says which cannot be used: {text}");
}

/// What cannot be done, or not yet: one line says why, and nothing panics.
fn refusals(inside: &Inside) {
    let (first, second) = (inside.address("fn0"), inside.address("fn1"));
    let bridge = "0000:00:04.0";
    let identify = |address: &str, why: &str| refused_in_one_line(&["identify", address], why);
    identify("0000:7f:00.0", "there is no PCI device 0000:7f:00.0");
    identify(bridge, "0000:00:04.0 is no NVMe controller");
    refused_in_one_line(&["bind", bridge], "is no NVMe controller");
    // The kernel's driver has it, and no driver.
    pci::bind(&first, "nvme");
    pci::bind(&second, "nvme");
    identify(&first, "is bound to the driver 'nvme'");
    pci::unbind(&first);
    identify(&first, "is bound to no driver");
    // The other function of its group is the kernel's; with both given up it works.
    run(SLIPRING, &["bind", &first]);
    identify(&first, &format!("with {second}, which must be given up too: sudo slipring bind {second}"));
    run(SLIPRING, &["bind", &second]);
    assert!(run(SLIPRING, &["identify", &first]).contains("SERIAL-fn0"));
    let list = run(SLIPRING, &["list"]);
    let line = list.lines().find(|line| line.contains(&first)).expect("listed");
    assert!(line.contains("vfio-pci") && line.contains("ready"), "{line}");
    // What is mounted is not taken, unless by force.
    run(SLIPRING, &["unbind", &first]);
    let node = pci::block_device(&first, 1);
    run("modprobe", &["-a", "crc32c_generic", "ext4"]);
    run("mkfs.ext4", &["-q", &node]);
    run("mount", &["-t", "ext4", "-o", "ro", &node, "/mnt"]);
    refused_in_one_line(&["bind", &first], "mounted at /mnt");
    run(SLIPRING, &["bind", &first, "--force"]);
    assert_eq!(pci::driver(&first).as_deref(), Some("vfio-pci"));
    run("umount", &["/mnt"]);
    run(SLIPRING, &["unbind", &first]);
    run(SLIPRING, &["unbind", &second]);
}

/// It is refused with status 2 and one line, which says why.
fn refused_in_one_line(arguments: &[&str], why: &str) {
    let output = output(SLIPRING, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), said.lines().count()), (Some(2), 1), "{arguments:?}: {said}");
    assert!(said.contains(why), "{arguments:?}: {said}");
}
