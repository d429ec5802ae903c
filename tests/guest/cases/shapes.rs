//! Controllers of other shapes than usual, as `nvme-cli` sees them: what the driver's own tests rely on.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::{Inside, nvme, pci, run, wait_for};
use serde_json::Value;

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
}

/// The node of a controller.
fn node(inside: &Inside, id: &str) -> String {
    let address = inside.address(id);
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
