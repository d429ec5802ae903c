//! PCI devices of the guest through sysfs: drivers, IOMMU groups, config space.
#![forbid(unsafe_code)]

use super::wait_for;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEVICES: &str = "/sys/bus/pci/devices";

/// How long the kernel may take to bind, to unbind or to make a node.
pub const KERNEL: Duration = Duration::from_secs(20);

/// Whether the kernel knows a device at this address.
pub fn exists(address: &str) -> bool {
    Path::new(DEVICES).join(address).exists()
}

/// The driver that is bound.
pub fn driver(address: &str) -> Option<String> {
    name_of_link(&Path::new(DEVICES).join(address).join("driver"))
}

/// The number of the IOMMU group.
pub fn group(address: &str) -> u32 {
    let link = Path::new(DEVICES).join(address).join("iommu_group");
    name_of_link(&link)
        .and_then(|name| name.parse().ok())
        .unwrap_or_else(|| panic!("{address} is in no IOMMU group"))
}

/// The addresses of all devices of an IOMMU group.
pub fn group_members(group: u32) -> Vec<String> {
    let folder = format!("/sys/kernel/iommu_groups/{group}/devices");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("an address"))
        .collect();
    names.sort();
    names
}

/// The node of an IOMMU group, which is there while a VFIO driver is bound.
pub fn group_node(group: u32) -> PathBuf {
    PathBuf::from(format!("/dev/vfio/{group}"))
}

/// Takes a device from its driver, and gives it to this one.
pub fn bind(address: &str, to: &str) {
    if driver(address).as_deref() == Some(to) {
        return;
    }
    unbind(address);
    let device = Path::new(DEVICES).join(address);
    write(&device.join("driver_override"), to);
    write(Path::new("/sys/bus/pci/drivers_probe"), address);
    // An override of an empty line is none: the next probe is the kernel's choice.
    write(&device.join("driver_override"), "\n");
    assert_eq!(driver(address).as_deref(), Some(to), "the driver of {address} after binding");
}

/// Takes a device from its driver, if it has one.
pub fn unbind(address: &str) {
    let device = Path::new(DEVICES).join(address);
    if driver(address).is_some() {
        write(&device.join("driver/unbind"), address);
    }
}

/// The name that the kernel's nvme driver gave the controller at this address (`nvme0`), when it has one.
pub fn kernel_name(address: &str) -> Option<String> {
    let folder = Path::new(DEVICES).join(address).join("nvme");
    let mut names = fs::read_dir(folder).ok()?.flatten();
    names.find_map(|entry| entry.file_name().into_string().ok())
}

/// The block device that the kernel's nvme driver made for a namespace (`/dev/nvme0n1`), as soon as it is there and the kernel has looked for
/// partitions on it.
pub fn block_device(address: &str, nsid: u32) -> String {
    wait_for(&format!("a block device of namespace {nsid} of {address}"), KERNEL, || {
        let name = kernel_name(address)?;
        let folder = Path::new(DEVICES).join(address).join("nvme").join(&name);
        // With several controllers of a subsystem the block device is the subsystem's, and has a path (`nvme0c0n1`) here.
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let name = entry.file_name().into_string().ok()?;
            let read = fs::read_to_string(entry.path().join("nsid")).ok();
            if read.and_then(|text| text.trim().parse().ok()) == Some(nsid) && name.starts_with("nvme") {
                let node = format!("/dev/{}", without_path(&name));
                // Opening waits for the kernel's own first reads.
                return File::open(&node).is_ok().then_some(node);
            }
        }
        None
    })
}

/// `nvme0c1n2` is a path to `nvme0n2`.
fn without_path(name: &str) -> String {
    let Some((before, after)) = name.split_once('c') else { return name.to_owned() };
    let namespace = after.trim_start_matches(|letter: char| letter.is_ascii_digit());
    format!("{before}{namespace}")
}

/// A register of 2 bytes of a device's config space.
fn config_u16(config: &File, offset: u64) -> u16 {
    let mut bytes = [0; 2];
    config
        .read_exact_at(&mut bytes, offset)
        .unwrap_or_else(|error| panic!("config space at {offset:#x}: {error}"));
    u16::from_le_bytes(bytes)
}

fn config_space(address: &str) -> File {
    let path = Path::new(DEVICES).join(address).join("config");
    let config = File::options().read(true).write(true).open(&path);
    config.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a capability of this kind is: the list begins at what 0x34 says, and each has its kind and the place of the next.
fn capability(config: &File, kind: u16) -> Option<u64> {
    let mut at = config_u16(config, 0x34) & 0xff;
    while at != 0 {
        let header = config_u16(config, u64::from(at));
        if header & 0xff == kind {
            return Some(u64::from(at));
        }
        at = header >> 8;
    }
    None
}

/// How many MSI-X vectors a device has.
pub fn msix_vectors(address: &str) -> Option<u16> {
    let config = config_space(address);
    // PCI Base, 7.7.2.2, Message Control: the table's size, zero-based, in eleven bits.
    capability(&config, 0x11).map(|at| (config_u16(&config, at + 2) & 0x7ff) + 1)
}

/// Takes from a device what a reset takes that nobody told the kernel of, as an NVM subsystem reset does: nothing is decoded, no bus mastering, no BARs, no MSI-X.
pub fn forget_configuration(address: &str) {
    let config = config_space(address);
    let msix = capability(&config, 0x11).unwrap_or_else(|| panic!("{address} has no MSI-X")) + 2;
    let control = config_u16(&config, msix) & !0x8000;
    let words = [(0x04, 0), (0x10, 0), (0x12, 0), (0x14, 0), (0x16, 0), (msix, control)];
    for (at, value) in words {
        config
            .write_all_at(&value.to_le_bytes(), at)
            .unwrap_or_else(|error| panic!("{address}, at {at:#x}: {error}"));
    }
}

/// Slot Control (PCI Express Base, 7.5.3.10), in the PCI Express capability.
const SLOT_CONTROL: u64 = 0x18;
const INTERRUPTS: u16 = 0x0020;
const POWER_OFF: u16 = 0x0400;
const INDICATOR_OFF: u16 = 0x0300;

/// The config space of a root port, and where its Slot Control is.
fn slot_control(port: &str) -> (File, u64) {
    let config = config_space(port);
    let at = capability(&config, 0x10).unwrap_or_else(|| panic!("{port} has no PCI Express capability"));
    (config, at + SLOT_CONTROL)
}

/// Cuts the power of the slot below this root port, as if somebody pulled the device out, and restores the port. Without the restoring the
/// kernel does not see the removal, and closing the device takes 76 s; the same if it looks in between, so that it is told only afterwards.
pub fn cut_power(port: &str) {
    let (config, at) = slot_control(port);
    let before = config_u16(&config, at);
    for value in [(before & !INTERRUPTS) | POWER_OFF | INDICATOR_OFF, before] {
        config
            .write_all_at(&value.to_le_bytes(), at)
            .unwrap_or_else(|error| panic!("{port}'s slot: {error}"));
    }
}

/// Waits until the kernel has switched the slot below this root port off.
pub fn wait_slot_off(port: &str) {
    let (config, at) = slot_control(port);
    wait_for(&format!("the slot of {port} is off"), KERNEL, || {
        let off = POWER_OFF | INDICATOR_OFF;
        (config_u16(&config, at) & off == off).then_some(())
    });
}

fn name_of_link(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{text} to {}: {error}", path.display()));
}
