//! The usual guest: a controller with one namespace, and one with two, of 512 and 4096 byte blocks.
#![forbid(unsafe_code)]

use crate::group::{Group, Test, User};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::{Inside, SLIPRING, give, is_root, nvme, pci, run, wait_for};
use slipring::ctrlr::{Ctrlr, CtrlrOptions, CtrlrState};
use slipring::emulated::{self, Config};
use slipring::poller::{Poller, QpairOptions};
use slipring::ring::LockFree;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

/// An ordinary user of the guest.
const USER: u32 = 1000;

pub fn group() -> Group {
    Group::new("two_controllers")
        .controller(Controller::new("nv0").serial("SER0000").media(Media::disk(64)))
        .controller(
            Controller::new("nv1")
                .serial("SER0001")
                .namespace(Namespace::new(1, Media::disk(64)))
                .namespace(Namespace::new(2, Media::disk(64)).lba_bytes(4096)),
        )
        .test(Test::new("boots_with_its_modules_and_nodes", modules_and_nodes))
        .test(Test::new("nvme_cli_sees_both_controllers", nvme_cli))
        .test(Test::new("vfio_takes_a_controller_and_gives_it_back", vfio_group))
        .test(Test::new("an_ordinary_user_opens_the_group_it_was_given", ordinary_user).user(User {
            id: USER,
            memlock: 64 << 20,
            prepare: give_first_group,
        }))
        .test(Test::new("unplug_and_return_under_the_kernels_driver", unplug_and_return))
        .test(Test::new("a_file_system_survives_an_unplug", file_system))
        .test(Test::new("the_emulated_controller_lives_inside", emulated_lifecycle))
        .test(Test::new("the_slipring_command_runs_inside", slipring_command))
}

fn modules_and_nodes(_: &Inside) {
    let loaded = fs::read_to_string("/proc/modules").expect("the list of modules");
    for module in ["9p", "nvme", "vfio_pci", "vfio_iommu_type1", "cuse"] {
        let is_loaded = loaded.lines().any(|line| line.split(' ').next() == Some(module));
        assert!(is_loaded, "{module} is not loaded:\n{loaded}");
    }
    for node in ["/dev/cuse", "/dev/vfio/vfio", "/dev/nvme0", "/dev/nvme1"] {
        assert!(wait_for(node, pci::KERNEL, || Path::new(node).exists().then_some(true)));
    }
    assert!(is_root());
}

fn nvme_cli(inside: &Inside) {
    for (id, serial, namespaces) in
        [("nv0", "SER0000", &[(1, "512")][..]), ("nv1", "SER0001", &[(1, "512"), (2, "4096")])]
    {
        let address = inside.address(id);
        let name = wait_for("a name", pci::KERNEL, || pci::kernel_name(&address));
        let identity = nvme(&["id-ctrl", &format!("/dev/{name}")]);
        assert_eq!(identity["sn"].as_str().map(str::trim_end), Some(serial), "{id}'s serial number");
        let listed = run("nvme", &["list-ns", &format!("/dev/{name}")]);
        assert_eq!(listed.lines().count(), namespaces.len(), "{id}'s namespaces: {listed}");
        for (nsid, lba_bytes) in namespaces {
            let node = pci::block_device(&address, *nsid);
            assert_eq!(run("blockdev", &["--getss", &node]).trim(), *lba_bytes, "{node}'s block size");
            assert_eq!(
                run("blockdev", &["--getsize64", &node]).trim(),
                (64 << 20).to_string(),
                "{node}'s size"
            );
        }
    }
}

fn vfio_group(inside: &Inside) {
    let address = inside.address("nv0");
    assert_eq!(address, "0000:01:00.0");
    let group = pci::group(&address);
    assert_eq!(pci::group_members(group), [address.as_str()], "alone in its group");
    assert!(!pci::group_node(group).exists(), "no group node under the kernel's driver");
    pci::bind(&address, "vfio-pci");
    wait_for("the group's node", pci::KERNEL, || pci::group_node(group).exists().then_some(()));
    assert_eq!(pci::kernel_name(&address), None, "the kernel's driver has let it go");
    pci::bind(&address, "nvme");
    assert!(!pci::group_node(group).exists(), "the group's node is gone");
    run("blockdev", &["--getss", &pci::block_device(&address, 1)]);
}

fn give_first_group(inside: &Inside) {
    let mut nodes = Vec::new();
    for id in ["nv0", "nv1"] {
        let address = inside.address(id);
        pci::bind(&address, "vfio-pci");
        let node = pci::group_node(pci::group(&address));
        wait_for("the group's node", pci::KERNEL, || node.exists().then_some(()));
        nodes.push(node);
    }
    give(&nodes[0], USER);
}

fn ordinary_user(inside: &Inside) {
    assert!(!is_root());
    let open = |id: &str| {
        let node = pci::group_node(pci::group(&inside.address(id)));
        File::options().read(true).write(true).open(node)
    };
    open("nv0").expect("the group that it was given");
    assert_eq!(open("nv1").expect_err("not the other one").kind(), ErrorKind::PermissionDenied);
}

fn unplug_and_return(inside: &Inside) {
    let address = inside.address("nv0");
    pci::bind(&address, "nvme");
    pci::block_device(&address, 1);
    for _ in 0..2 {
        inside.device_del("nv0");
        inside.wait_deleted("nv0", Duration::from_secs(20)).expect("the kernel lets it go");
        assert!(!pci::exists(&address), "no such device while it is gone");
        inside.device_add("nv0");
        pci::block_device(&address, 1);
    }
    let name = pci::kernel_name(&address).expect("the kernel's driver has it");
    assert_eq!(
        nvme(&["id-ctrl", &format!("/dev/{name}")])["sn"].as_str().map(str::trim_end),
        Some("SER0000")
    );
}

fn file_system(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "nvme");
    let text = "what was written before the controller went\n".repeat(1000);
    run("modprobe", &["-a", "crc32c_generic", "ext4"]);
    run("mkfs.ext4", &["-q", &pci::block_device(&address, 2)]);
    run("mount", &["-t", "ext4", &pci::block_device(&address, 2), "/mnt"]);
    fs::write("/mnt/file", &text).expect("written");
    run("umount", &["/mnt"]);
    inside.device_del("nv1");
    inside.wait_deleted("nv1", Duration::from_secs(20)).expect("the kernel lets it go");
    inside.device_add("nv1");
    let node = pci::block_device(&address, 2);
    run("e2fsck", &["-fn", &node]);
    run("mount", &["-t", "ext4", &node, "/mnt"]);
    let back = fs::read_to_string("/mnt/file").expect("read");
    run("umount", &["/mnt"]);
    assert!(back == text, "the file came back as it was");
}

/// Attach, I/O, reset and detach with the library itself, as a program that is embedded in the guest would do it.
fn emulated_lifecycle(_: &Inside) {
    let deadline = Duration::from_secs(20);
    let (transport, device) = emulated::new(Config::default()).expect("a valid configuration");
    let _device = device.spawn(None).expect("a device thread");
    let ctrlr = Ctrlr::<LockFree>::attach(transport.clone(), CtrlrOptions::default()).expect("attached");
    let mut poller = Poller::new(&ctrlr, "guest").expect("the seat is free");
    let namespace = ctrlr.namespaces()[0];
    for round in 0..2 {
        let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
        let pattern: Vec<u8> = (0..8192_u32).map(|i| (i * 13 + round) as u8).collect();
        let buffer = ctrlr.allocate(8192).expect("memory");
        buffer.write_at(0, &pattern);
        qpair.write(&namespace, 16, buffer.into(), 1).expect("submitted");
        let mut data = None;
        let drained = qpair.drain(deadline, |io| {
            assert!(io.is_success(), "{:?}", io.outcome);
            data = io.data;
        });
        assert!(drained.expect("alive"), "the write ended");
        let buffer = data.expect("the buffer comes back").into_buffer();
        buffer.fill(0);
        qpair.read(&namespace, 16, buffer.into(), 2).expect("submitted");
        let mut back = Vec::new();
        let drained = qpair.drain(deadline, |io| back = io.data.expect("data").buffer().to_vec());
        assert!(drained.expect("alive") && back == pattern, "what was written is read back");
        drop(qpair);
        let reset = ctrlr.reset().expect("asked");
        let begun = Instant::now();
        while reset.is_over().is_none() {
            poller.poll(Instant::now()).expect("alive");
            assert!(begun.elapsed() < deadline, "the reset ends");
        }
        assert!(matches!(reset.is_over(), Some(Ok(()))), "{:?}", reset.is_over());
    }
    poller.detach(deadline).expect("detached");
    assert_eq!(ctrlr.state(), CtrlrState::Detached);
    assert_eq!(transport.violations(), Vec::<String>::new());
}

fn slipring_command(inside: &Inside) {
    let address = inside.address("nv0");
    pci::bind(&address, "vfio-pci");
    let list = run(SLIPRING, &["list"]);
    let line = list
        .lines()
        .find(|line| line.contains(&address))
        .unwrap_or_else(|| panic!("{address} is not listed"));
    assert!(line.contains("vfio-pci"), "the driver is listed: {line}");
    let identity = run(SLIPRING, &["identify", &address]);
    assert!(identity.contains("SER0000"), "the serial number, through VFIO: {identity}");
}
