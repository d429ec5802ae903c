//! Addresses and sysfs, on a tree made up in a temporary folder; what needs a device is tested in the guest.

use super::address::PciAddress;
use super::sysfs::{BindError, NotReady, Sysfs};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const NVME: &str = "0000:01:00.0";
const OTHER: &str = "0000:01:00.1";

/// A made-up machine, removed when dropped.
struct Machine {
    root: PathBuf,
}

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("slipring-sysfs-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        for folder in ["sys/bus/pci/devices", "sys/bus/pci/drivers", "dev/vfio", "proc"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        fs::write(root.join("dev/vfio/vfio"), "").expect("a node");
        fs::write(root.join("sys/bus/pci/drivers_probe"), "").expect("a file");
        Self { root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn add(&self, address: &str, class: &str, driver: Option<&str>, group: Option<u32>) -> PathBuf {
        let device = self.path("sys/bus/pci/devices").join(address);
        fs::create_dir_all(&device).expect("a device");
        for (file, value) in [
            ("class", class),
            ("vendor", "0x1b36\n"),
            ("device", "0x0010\n"),
            ("driver_override", "(null)\n"),
        ] {
            fs::write(device.join(file), value).expect("a file");
        }
        if let Some(driver) = driver {
            let folder = self.path("sys/bus/pci/drivers").join(driver);
            fs::create_dir_all(&folder).expect("a driver");
            fs::write(folder.join("unbind"), "").expect("a file");
            symlink(&folder, device.join("driver")).expect("a link");
        }
        if let Some(group) = group {
            let folder = self.path(&format!("sys/kernel/iommu_groups/{group}"));
            fs::create_dir_all(folder.join("devices").join(address)).expect("a group");
            symlink(&folder, device.join("iommu_group")).expect("a link");
            fs::write(self.path(&format!("dev/vfio/{group}")), "").expect("a node");
        }
        device
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::below(&self.root)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn address(text: &str) -> PciAddress {
    text.parse().expect("an address")
}

#[test]
fn addresses_are_read_as_people_write_them() {
    for (text, shown) in [
        ("0000:01:00.0", "0000:01:00.0"),
        ("01:00.0", "0000:01:00.0"),
        ("10000:e1:1f.7", "10000:e1:1f.7"),
        ("0:1:2.3", "0000:01:02.3"),
    ] {
        assert_eq!(address(text).to_string(), shown, "{text}");
    }
    for text in [
        "",
        "01:00",
        "01:00.8",
        "01:20.0",
        "0000:01:00:00.0",
        "nvme0",
        "0000:001:00.0",
        "01:00.0 ",
        "+1:00.0",
    ] {
        let error = text.parse::<PciAddress>().expect_err(text);
        assert!(
            error.to_string().contains(&format!("{text:?}")) && error.to_string().contains("0000:01:00.0"),
            "{error}"
        );
    }
}

#[test]
fn what_keeps_a_device_from_being_used_is_said_with_the_command_that_mends_it() {
    let machine = Machine::new("check");
    let sysfs = machine.sysfs();
    let text = |address: PciAddress| sysfs.check(address).expect_err("not ready").to_string();
    assert!(text(address(NVME)).contains("there is no PCI device 0000:01:00.0"));
    machine.add("0000:02:00.0", "0x020000\n", None, None);
    assert!(text(address("02:00.0")).contains("no NVMe controller"));
    machine.add("0000:03:00.0", "0x010802\n", Some("nvme"), None);
    assert!(text(address("03:00.0")).contains("intel_iommu=on"));
    let device = machine.add(NVME, "0x010802\n", Some("nvme"), Some(7));
    assert!(
        text(address(NVME))
            .contains("bound to the driver 'nvme'; give it to slipring: sudo slipring bind 0000:01:00.0")
    );
    fs::remove_file(device.join("driver")).expect("unbound");
    assert!(text(address(NVME)).contains("bound to no driver"));
    machine.add(NVME, "0x010802\n", Some("vfio-pci"), None);
    machine.add(OTHER, "0x010802\n", Some("nvme"), Some(7));
    let shared = sysfs.check(address(NVME)).expect_err("shared");
    assert_eq!(
        shared,
        NotReady::SharedGroup { address: address(NVME), group: 7, others: vec![address(OTHER)] }
    );
    assert!(shared.to_string().ends_with("sudo slipring bind 0000:01:00.1"), "{shared}");
    fs::remove_file(machine.path("sys/bus/pci/devices").join(OTHER).join("driver")).expect("unbound");
    assert_eq!(sysfs.check(address(NVME)), Ok(()), "a device without a driver is in nobody's way");
    fs::remove_file(machine.path("dev/vfio/vfio")).expect("removed");
    assert!(text(address(NVME)).contains("sudo modprobe vfio-pci"));
}

#[test]
fn the_list_shows_controllers_only_with_model_and_reason() {
    let machine = Machine::new("list");
    machine.add("0000:00:01.0", "0x060400\n", None, Some(1));
    let device = machine.add(NVME, "0x010802\n", Some("nvme"), Some(1));
    fs::create_dir_all(device.join("nvme/nvme0")).expect("a folder");
    fs::write(device.join("nvme/nvme0/model"), "QEMU NVMe Ctrl            \n").expect("a file");
    let controllers = machine.sysfs().controllers();
    assert_eq!(controllers.len(), 1);
    let controller = &controllers[0];
    assert_eq!((controller.vendor, controller.device, controller.iommu_group), (0x1b36, 0x10, Some(1)));
    assert_eq!(controller.model.as_deref(), Some("QEMU NVMe Ctrl"));
    assert!(matches!(controller.not_ready, Some(NotReady::WrongDriver { .. })));
}

#[test]
fn a_controller_in_use_is_not_bound_unless_forced() {
    let machine = Machine::new("bind");
    let device = machine.add(NVME, "0x010802\n", Some("nvme"), Some(7));
    fs::create_dir_all(device.join("nvme/nvme0/nvme0n1/nvme0n1p1")).expect("a folder");
    fs::write(machine.path("proc/mounts"), "/dev/nvme0n1p1 /data ext4 rw 0 0\nproc /proc proc rw 0 0\n")
        .expect("a file");
    let sysfs = machine.sysfs();
    let refused = sysfs.bind(address(NVME), false).expect_err("in use");
    assert!(refused.to_string().contains("nvme0n1p1 mounted at /data"), "{refused}");
    assert_eq!(read(&device.join("driver_override")), "(null)\n", "nothing was changed");
    // No kernel acts on the made-up files: forced, it goes through all writes, and then says that the driver did not come.
    let BindError::NotTaken { wanted, has, .. } = sysfs.bind(address(NVME), true).expect_err("no kernel")
    else {
        panic!("the writes went through")
    };
    assert_eq!((wanted, has.as_deref()), ("vfio-pci", Some("nvme")));
    assert_eq!(read(&device.join("driver_override")), "vfio-pci");
    assert_eq!(read(&machine.path("sys/bus/pci/drivers/nvme/unbind")), NVME);
    assert_eq!(read(&machine.path("sys/bus/pci/drivers_probe")), NVME);
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file")
}
