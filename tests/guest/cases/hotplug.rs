//! A guest with PCIe's own hot plug: orderly unplug by the attention button, and surprise removal.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media};
use crate::inside::{Inside, nvme, pci, wait_for};
use std::time::{Duration, Instant};

pub fn group() -> Group {
    Group::new("hotplug")
        .native_hotplug()
        .controller(Controller::new("nv0").serial("SER0000").media(Media::disk(64)))
        .test(Test::new("an_orderly_unplug_waits_for_the_button", orderly))
        .test(Test::new("a_controller_is_pulled_out_and_comes_back", surprise))
}

fn orderly(inside: &Inside) {
    let address = inside.address("nv0");
    pci::block_device(&address, 1);
    let begun = Instant::now();
    inside.device_del("nv0");
    inside.wait_deleted("nv0", Duration::from_secs(30)).expect("the kernel lets it go");
    assert!(begun.elapsed() > Duration::from_secs(4), "the button's delay: {:?}", begun.elapsed());
    assert!(!pci::exists(&address));
    inside.device_add("nv0");
    pci::block_device(&address, 1);
}

fn surprise(inside: &Inside) {
    let address = inside.address("nv0");
    for _ in 0..5 {
        pci::block_device(&address, 1);
        inside.surprise_remove("nv0");
        wait_for("the kernel to notice", pci::KERNEL, || (!pci::exists(&address)).then_some(()));
        inside.device_add("nv0");
        pci::block_device(&address, 1);
    }
    let name = pci::kernel_name(&address).expect("the kernel's driver has it");
    assert_eq!(
        nvme(&["id-ctrl", &format!("/dev/{name}")])["sn"].as_str().map(str::trim_end),
        Some("SER0000")
    );
}
