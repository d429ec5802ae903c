//! What sysfs says about PCI devices: which NVMe controllers there are, who drives them, and what keeps one from being used. Binding and unbinding.
//!
//! Nothing here opens a device.

use super::address::PciAddress;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The class code of an NVMe controller: mass storage, non-volatile memory, NVM Express (PCI Code and ID Assignment).
const NVME_CLASS: u32 = 0x01_08_02;
/// The class code of a PCI bridge; bridges share groups with what is behind them and do not count.
const BRIDGE_CLASS: u32 = 0x06_04;
/// The driver that gives devices to user space.
const VFIO_DRIVER: &str = "vfio-pci";
/// The kernel's own NVMe driver.
const NVME_DRIVER: &str = "nvme";

/// A sysfs tree; the real one but in tests.
#[derive(Clone, Debug)]
pub struct Sysfs {
    root: PathBuf,
    dev: PathBuf,
    proc: PathBuf,
}

/// One NVMe controller of the system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciController {
    /// Where it is.
    pub address: PciAddress,
    /// PCI vendor identifier.
    pub vendor: u16,
    /// PCI device identifier.
    pub device: u16,
    /// The model, where the kernel's driver has read it.
    pub model: Option<String>,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// What keeps it from being used, if anything does.
    pub not_ready: Option<NotReady>,
}

/// Why a device cannot be used, and the command that mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotReady {
    /// No such device.
    #[error("there is no PCI device {address}; `slipring list` shows the NVMe controllers")]
    NoSuchDevice {
        /// The address that was asked for.
        address: PciAddress,
    },
    /// A device of another kind.
    #[error(
        "{address} is no NVMe controller (its class is {class:#08x}, an NVMe controller's is 0x010802); `slipring list` shows those there are"
    )]
    NotNvme {
        /// The address that was asked for.
        address: PciAddress,
        /// Its class code.
        class: u32,
    },
    /// Another driver has it, or none.
    #[error("{address} is bound to {}; give it to slipring: sudo slipring bind {address}", driver.as_deref().map_or("no driver".to_owned(), |driver| format!("the driver '{driver}'")))]
    WrongDriver {
        /// The address that was asked for.
        address: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// The system has no IOMMU, or it is off.
    #[error(
        "{address} has no IOMMU group; switch the IOMMU on in the firmware, and boot with intel_iommu=on or amd_iommu=on"
    )]
    NoIommu {
        /// The address that was asked for.
        address: PciAddress,
    },
    /// Other devices of its group are in the kernel's hands.
    #[error(
        "{address} shares IOMMU group {group} with {}, which must be given up too: {}",
        join(others),
        bind_commands(others)
    )]
    SharedGroup {
        /// The address that was asked for.
        address: PciAddress,
        /// The group.
        group: u32,
        /// The devices of the group that are not bound to vfio-pci.
        others: Vec<PciAddress>,
    },
    /// The VFIO modules are not loaded.
    #[error("{path} is missing; load the driver: sudo modprobe vfio-pci")]
    NoVfio {
        /// The node that is missing.
        path: String,
    },
    /// This user may not open the group.
    #[error("no permission to open {path}; allow it: sudo chown \"$USER\" {path}")]
    NoPermission {
        /// The node.
        path: String,
    },
}

fn join(addresses: &[PciAddress]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn bind_commands(addresses: &[PciAddress]) -> String {
    addresses.iter().map(|address| format!("sudo slipring bind {address}")).collect::<Vec<_>>().join("; ")
}

/// Why a device was not bound or unbound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// It is no device that can be bound.
    #[error("{0}")]
    NotReady(#[from] NotReady),
    /// Its namespaces are in use.
    #[error("{address} is in use: {}; stop using it first, or insist with --force", users.join(", "))]
    InUse {
        /// The address that was asked for.
        address: PciAddress,
        /// Who uses it.
        users: Vec<String>,
    },
    /// The system refused.
    #[error("could not write {value:?} to {path}: {source}{}", if source.kind() == io::ErrorKind::PermissionDenied { "; run it as root" } else { "" })]
    Io {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The driver did not take the device.
    #[error("{address} did not get the driver '{wanted}' (it has {}); does the kernel have it? try: sudo modprobe {wanted}", has.as_deref().unwrap_or("none"))]
    NotTaken {
        /// The address that was asked for.
        address: PciAddress,
        /// The driver that was wanted.
        wanted: &'static str,
        /// The driver that it has.
        has: Option<String>,
    },
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { root: "/sys".into(), dev: "/dev".into(), proc: "/proc".into() }
    }
}

impl Sysfs {
    /// A tree below `root`, with its own `sys`, `dev` and `proc`: for tests.
    pub fn below(root: &Path) -> Self {
        Self { root: root.join("sys"), dev: root.join("dev"), proc: root.join("proc") }
    }

    fn device(&self, address: PciAddress) -> PathBuf {
        self.root.join("bus/pci/devices").join(address.to_string())
    }

    fn driver(&self, address: PciAddress) -> Option<String> {
        link_name(&self.device(address).join("driver"))
    }

    fn class(&self, address: PciAddress) -> Option<u32> {
        read_hex(&self.device(address).join("class"))
    }

    /// The IOMMU group of a device.
    pub fn iommu_group(&self, address: PciAddress) -> Option<u32> {
        link_name(&self.device(address).join("iommu_group"))?.parse().ok()
    }

    /// Where the link to a device's group points, as `vfio-ioctls` reads it.
    pub(super) fn iommu_group_link(&self, address: PciAddress) -> io::Result<PathBuf> {
        fs::read_link(self.device(address).join("iommu_group"))
    }

    /// All NVMe controllers, by address.
    pub fn controllers(&self) -> Vec<PciController> {
        let names = fs::read_dir(self.root.join("bus/pci/devices")).into_iter().flatten().flatten();
        let addresses = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut addresses: Vec<PciAddress> =
            addresses.filter(|address| self.class(*address) == Some(NVME_CLASS)).collect();
        addresses.sort_unstable();
        addresses.into_iter().map(|address| self.controller(address)).collect()
    }

    fn controller(&self, address: PciAddress) -> PciController {
        let device = self.device(address);
        PciController {
            address,
            vendor: read_hex(&device.join("vendor")).unwrap_or_default() as u16,
            device: read_hex(&device.join("device")).unwrap_or_default() as u16,
            model: self.kernel_names(address).first().and_then(|name| {
                let model = fs::read_to_string(device.join("nvme").join(name).join("model")).ok()?;
                Some(model.trim().to_owned())
            }),
            driver: self.driver(address),
            iommu_group: self.iommu_group(address),
            not_ready: self.check(address).err(),
        }
    }

    /// The kernel's names of a controller that it drives: `nvme0`.
    fn kernel_names(&self, address: PciAddress) -> Vec<String> {
        names_in(&self.device(address).join("nvme"))
    }

    /// That a device can be used, or what keeps it from that.
    pub fn check(&self, address: PciAddress) -> Result<(), NotReady> {
        self.check_kind(address)?;
        let group = self.iommu_group(address).ok_or(NotReady::NoIommu { address })?;
        let driver = self.driver(address);
        if driver.as_deref() != Some(VFIO_DRIVER) {
            return Err(NotReady::WrongDriver { address, driver });
        }
        let others = self.others_in_the_way(address, group);
        if !others.is_empty() {
            return Err(NotReady::SharedGroup { address, group, others });
        }
        let container = self.dev.join("vfio/vfio");
        let node = self.dev.join(format!("vfio/{group}"));
        for path in [container, node] {
            let shown = path.display().to_string();
            match fs::OpenOptions::new().read(true).write(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(NotReady::NoVfio { path: shown });
                }
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(NotReady::NoPermission { path: shown });
                }
                // Busy, above all: in use is for the attach to say.
                _ => {}
            }
        }
        Ok(())
    }

    fn check_kind(&self, address: PciAddress) -> Result<(), NotReady> {
        match self.class(address) {
            None => Err(NotReady::NoSuchDevice { address }),
            Some(NVME_CLASS) => Ok(()),
            Some(class) => Err(NotReady::NotNvme { address, class }),
        }
    }

    /// Devices of the group that some other driver holds, bridges aside. A device without a driver is in nobody's way.
    fn others_in_the_way(&self, address: PciAddress, group: u32) -> Vec<PciAddress> {
        let members = names_in(&self.root.join(format!("kernel/iommu_groups/{group}/devices")));
        let members = members.iter().filter_map(|name| name.parse::<PciAddress>().ok());
        let in_the_way = |other: &PciAddress| {
            *other != address
                && self.class(*other).is_none_or(|class| class >> 8 != BRIDGE_CLASS)
                && self.driver(*other).is_some_and(|driver| driver != VFIO_DRIVER)
        };
        members.filter(in_the_way).collect()
    }

    /// Who uses a controller's namespaces: mounts, swap, and whoever stacks a device on them.
    pub fn users(&self, address: PciAddress) -> Vec<String> {
        let mut users = Vec::new();
        for name in self.kernel_names(address) {
            let ctrlr = self.device(address).join("nvme").join(&name);
            for namespace in names_in(&ctrlr).into_iter().filter(|entry| entry.starts_with("nvme")) {
                let block = ctrlr.join(&namespace);
                let partitions = names_in(&block).into_iter().filter(|entry| entry.starts_with(&namespace));
                for disk in partitions.chain([namespace.clone()]) {
                    self.users_of_disk(&disk, &mut users);
                }
                users.extend(
                    names_in(&block.join("holders")).iter().map(|holder| format!("{namespace} by {holder}")),
                );
            }
        }
        users
    }

    fn users_of_disk(&self, disk: &str, users: &mut Vec<String>) {
        let node = format!("/dev/{disk}");
        for (file, what) in [("mounts", "mounted at"), ("swaps", "used for swap as")] {
            let text = fs::read_to_string(self.proc.join(file)).unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split_whitespace();
                if words.next() == Some(&node) {
                    users.push(format!("{disk} {what} {}", words.next().unwrap_or("?")));
                }
            }
        }
    }

    /// Gives a controller to vfio-pci; the previous driver's name comes back. Refuses one whose namespaces are in use, unless forced.
    pub fn bind(&self, address: PciAddress, force: bool) -> Result<Option<String>, BindError> {
        self.check_kind(address)?;
        if self.iommu_group(address).is_none() {
            return Err(NotReady::NoIommu { address }.into());
        }
        self.rebind(address, VFIO_DRIVER, force)
    }

    /// Gives a controller back to the kernel's own driver.
    pub fn unbind(&self, address: PciAddress) -> Result<Option<String>, BindError> {
        self.check_kind(address)?;
        self.rebind(address, NVME_DRIVER, false)
    }

    fn rebind(
        &self,
        address: PciAddress,
        driver: &'static str,
        force: bool,
    ) -> Result<Option<String>, BindError> {
        let device = self.device(address);
        let before = self.driver(address);
        if before.as_deref() == Some(driver) {
            return Ok(before);
        }
        let users = self.users(address);
        if !force && !users.is_empty() {
            return Err(BindError::InUse { address, users });
        }
        let over = device.join("driver_override");
        // Back to the kernel's choice: an override of its own would outlive us.
        write(&over, if driver == VFIO_DRIVER { VFIO_DRIVER } else { "\n" })?;
        if before.is_some() {
            write(&device.join("driver/unbind"), &address.to_string())?;
        }
        write(&self.root.join("bus/pci/drivers_probe"), &address.to_string())?;
        match self.driver(address) {
            Some(now) if now == driver => Ok(before),
            has => Err(BindError::NotTaken { address, wanted: driver, has }),
        }
    }
}

fn write(path: &Path, value: &str) -> Result<(), BindError> {
    fs::write(path, value).map_err(|source| BindError::Io {
        path: path.to_owned(),
        value: value.to_owned(),
        source,
    })
}

fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn read_hex(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
