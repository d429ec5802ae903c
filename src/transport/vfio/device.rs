//! One opened PCI device: the transport over VFIO.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::{pread, pwrite};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioRegionInfoCap};
use vmm_sys_util::eventfd::EventFd;

use super::address::PciAddress;
use super::bar::{Area, Bar};
use super::iova::IovaSpace;
use super::sysfs::{NotReady, Sysfs};
use crate::dma::{DmaError, DmaMap, MemoryBlock};
use crate::spec::registers::DOORBELLS;
use crate::transport::{DeviceEvents, Doorbell, Transport, TransportError};

/// The vendor of PCI configuration space; all ones where no device answers.
const PCI_VENDOR: u64 = 0x00;
/// The command register of PCI configuration space, and its bits.
const PCI_COMMAND: u64 = 0x04;
const MEMORY_SPACE: u16 = 1 << 1;
const BUS_MASTER: u16 = 1 << 2;
/// Blocks of at least this size are placed at multiples of it, so that the IOMMU can use large pages.
const LARGE_PAGE_BYTES: u64 = 2 << 20;
const PAGE_BYTES: u64 = 4096;

/// Why a PCI device could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VfioError {
    /// It cannot be used as it is; the text has the command that mends it.
    #[error("{0}")]
    NotReady(#[from] NotReady),
    /// Another process has it.
    #[error(
        "{address} is in use by another process, which holds /dev/vfio/{group}; stop it first (sudo fuser -v /dev/vfio/{group})"
    )]
    InUse {
        /// The address.
        address: PciAddress,
        /// Its IOMMU group.
        group: u32,
    },
    /// The device's registers are not as an NVMe controller's must be.
    #[error("{address}: {what}")]
    Registers {
        /// The address.
        address: PciAddress,
        /// What is wrong.
        what: String,
    },
    /// A step failed for a reason that is not known to have a remedy.
    #[error("could not {what} of {address}: {source}")]
    Step {
        /// The address.
        address: PciAddress,
        /// The step.
        what: &'static str,
        /// The answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What is held while the device is open. Fields are dropped in this order, which is the one that lets the kernel go.
struct Open {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    /// Read once more when the device is dropped.
    _folder: PrivateFolder,
    /// All MSI-X vectors; the kernel signals them.
    vectors: Vec<EventFd>,
    /// Signalled when the kernel wants the device back.
    remove_request: Option<EventFd>,
    /// Signalled on an unrecoverable bus error.
    bus_error: Option<EventFd>,
    iovas: IovaSpace,
    /// IOVA to length and memory: VFIO forgets mappings silently, so these are our own books.
    mappings: BTreeMap<u64, Arc<MemoryBlock>>,
}

/// A PCI device through VFIO. See [`Transport`].
pub struct VfioTransport {
    address: PciAddress,
    bar: Arc<Bar>,
    msix_vectors: usize,
    /// `None` after [`Transport::close`].
    open: Mutex<Option<Open>>,
    is_gone: AtomicBool,
}

impl VfioTransport {
    /// Opens the device at `address`, which must be bound to vfio-pci. It is reset by that, and bus mastering is off.
    ///
    /// # Errors
    /// [`VfioError`], most of which say what to do.
    pub fn open(address: PciAddress) -> Result<Arc<Self>, VfioError> {
        let sysfs = Sysfs::default();
        sysfs.check(address)?;
        let group = sysfs.iommu_group(address).ok_or(NotReady::NoIommu { address })?;
        let step = |what: &'static str| {
            move |source: Box<dyn std::error::Error + Send + Sync>| VfioError::Step { address, what, source }
        };
        let container = VfioContainer::new(None).map_err(|error| step("open the container")(error.into()))?;
        let container = Arc::new(container);
        let folder = PrivateFolder::new(&sysfs, address);
        let folder = folder.map_err(|error| step("prepare the opening")(error.into()))?;
        let device = VfioDevice::new(&folder.0, Arc::clone(&container) as _, true)
            .map_err(|error| opening_error(&sysfs, address, group, error))?;
        let mut open = Open {
            // SAFETY: the container is open while `container` lives, which outlasts this call.
            iovas: IovaSpace::of(unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) }),
            device,
            container,
            _folder: folder,
            vectors: Vec::new(),
            remove_request: None,
            bus_error: None,
            mappings: BTreeMap::new(),
        };
        let bar = map_bar(address, &open.device)?;
        open.set_command(MEMORY_SPACE, true).map_err(|error| step("enable the registers")(error.into()))?;
        open.watch();
        let msix_vectors =
            open.device.get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX).map_or(0, |irq| irq.count as usize);
        Ok(Arc::new(Self {
            address,
            bar: Arc::new(bar),
            msix_vectors,
            open: Mutex::new(Some(open)),
            is_gone: AtomicBool::new(false),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        // Every change is whole before anything can panic.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> TransportError {
        TransportError::Gone { address: self.address.to_string() }
    }

    /// Runs `action` on PCI configuration space, as a test that switches memory decoding off needs it.
    #[doc(hidden)]
    pub fn set_memory_decoding(&self, on: bool) -> io::Result<()> {
        match &*self.lock() {
            Some(open) => open.set_command(MEMORY_SPACE, on),
            None => Err(io::Error::other("closed")),
        }
    }
}

/// A private folder named as the device, with a link to its group in it: `vfio-ioctls` reads that link again when the device is dropped, and
/// panics if it is not there any more, as after a removal.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new(sysfs: &Sysfs, address: PciAddress) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only to be different each time.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = std::env::temp_dir().join(format!("slipring-{}-{count}", std::process::id()));
        let folder = Self(parent.join(address.to_string()));
        // What a killed process of the same number left. What is not ours stays, and the creation fails.
        folder.remove();
        fs::DirBuilder::new().mode(0o700).create(&parent)?;
        fs::DirBuilder::new().mode(0o700).create(&folder.0)?;
        symlink(sysfs.iommu_group_link(address)?, folder.0.join("iommu_group"))?;
        Ok(folder)
    }

    fn remove(&self) {
        // Nothing depends on it, and there may be nothing to remove.
        let _ = fs::remove_file(self.0.join("iommu_group"));
        let _ = fs::remove_dir(&self.0);
        if let Some(parent) = self.0.parent() {
            let _ = fs::remove_dir(parent);
        }
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        self.remove();
    }
}

fn opening_error(sysfs: &Sysfs, address: PciAddress, group: u32, error: vfio_ioctls::VfioError) -> VfioError {
    use vfio_ioctls::VfioError as Crate;
    const EBUSY: i32 = 16;
    match &error {
        Crate::OpenGroup(source, _) if source.raw_os_error() == Some(EBUSY) => {
            VfioError::InUse { address, group }
        }
        // What keeps it may have changed since it was looked at.
        Crate::OpenGroup(..) | Crate::GroupViable => match sysfs.check(address) {
            Err(not_ready) => VfioError::NotReady(not_ready),
            Ok(()) => VfioError::Step { address, what: "open the IOMMU group", source: error.into() },
        },
        _ => VfioError::Step { address, what: "open the device", source: error.into() },
    }
}

fn map_bar(address: PciAddress, device: &VfioDevice) -> Result<Bar, VfioError> {
    let len = device.get_region_size(VFIO_PCI_BAR0_REGION_INDEX) as usize;
    if len <= DOORBELLS {
        let what = format!("BAR0 has {len:#x} bytes; an NVMe controller has more than {DOORBELLS:#x}");
        return Err(VfioError::Registers { address, what });
    }
    let caps = device.get_region_caps(VFIO_PCI_BAR0_REGION_INDEX);
    let sparse = caps.iter().find_map(|cap| match cap {
        VfioRegionInfoCap::SparseMmap(sparse) => Some(&sparse.areas),
        _ => None,
    });
    let areas: Vec<Area> = match sparse {
        Some(areas) => areas.iter().map(|area| (area.offset as usize, area.size as usize)).collect(),
        None => vec![(0, len)],
    };
    if !areas.iter().any(|&(start, area_len)| start == 0 && area_len > DOORBELLS) {
        let what = "the kernel does not allow its registers and doorbells to be mapped".to_owned();
        return Err(VfioError::Registers { address, what });
    }
    let offset = device.get_region_offset(VFIO_PCI_BAR0_REGION_INDEX);
    // SAFETY: the device is open while `device` lives, which outlasts this call.
    let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    Bar::map(fd, offset, len, &areas).map_err(|error| VfioError::Step {
        address,
        what: "map the registers",
        source: error.into(),
    })
}

impl Open {
    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open while `self.device` lives.
        unsafe { BorrowedFd::borrow_raw(self.device.as_raw_fd()) }
    }

    /// Reads a word of PCI configuration space: the crate's own access would drop an error.
    fn read_config(&self, offset: u64) -> io::Result<u16> {
        let mut bytes = [0_u8; 2];
        let at = self.device.get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + offset;
        match pread(self.fd(), &mut bytes, at)? {
            2 => Ok(u16::from_le_bytes(bytes)),
            _ => Err(io::Error::other("short read of PCI configuration space")),
        }
    }

    /// Sets or clears bits of the PCI command register, and reads them back.
    fn set_command(&self, bits: u16, on: bool) -> io::Result<()> {
        let at = self.device.get_region_offset(VFIO_PCI_CONFIG_REGION_INDEX) + PCI_COMMAND;
        let read = || self.read_config(PCI_COMMAND);
        let command = read()?;
        let wanted = if on { command | bits } else { command & !bits };
        if pwrite(self.fd(), &wanted.to_le_bytes(), at)? != 2 {
            return Err(io::Error::other("short write of the PCI command register"));
        }
        if read()? & bits == wanted & bits {
            Ok(())
        } else {
            Err(io::Error::other("the PCI command register did not take the value"))
        }
    }

    /// After a reset of the device that the kernel knows nothing of. Writing the command register has the kernel restore the BARs, which it keeps; MSI-X has
    /// to be switched off and on, as the kernel takes it for enabled.
    fn restore(&self) -> io::Result<()> {
        // Else reading the command register back would find all bits set.
        if self.read_config(PCI_VENDOR)? == u16::MAX {
            return Err(io::Error::other("the device does not answer"));
        }
        self.set_command(MEMORY_SPACE | BUS_MASTER, true)?;
        if self.vectors.is_empty() {
            return Ok(());
        }
        let connected =
            self.device.disable_msix().and_then(|()| self.device.enable_msix(self.vectors.iter().collect()));
        connected.map_err(|error| io::Error::other(error.to_string()))
    }

    /// Has the kernel tell of removals and bus errors, where it can.
    fn watch(&mut self) {
        let connect = |device: &VfioDevice, index| {
            let event = EventFd::new(libc::EFD_NONBLOCK).ok()?;
            device.enable_irq(index, vec![&event]).ok()?;
            Some(event)
        };
        self.remove_request = connect(&self.device, VFIO_PCI_REQ_IRQ_INDEX);
        self.bus_error = connect(&self.device, VFIO_PCI_ERR_IRQ_INDEX);
    }
}

impl DmaMap for VfioTransport {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        let len = block.len() as u64;
        let fail = |reason: String| DmaError::Map { len: block.len(), reason };
        let mut open = self.lock();
        let open = open.as_mut().ok_or(DmaError::Detached)?;
        let align = if len >= LARGE_PAGE_BYTES { LARGE_PAGE_BYTES } else { PAGE_BYTES };
        let iova =
            open.iovas.take(len, align).ok_or_else(|| fail("no I/O addresses are left for it".into()))?;
        // SAFETY: the block stays mapped in this process until it was unmapped from the device: `mappings` keeps it. It is only accessed by
        // atomics and raw pointers.
        let mapped = unsafe { open.container.vfio_dma_map(iova, block.len(), block.as_ptr().as_ptr()) };
        if let Err(error) = mapped {
            open.iovas.give_back(iova, len);
            return Err(fail(mapping_error(&error)));
        }
        open.mappings.insert(iova, Arc::clone(block));
        Ok(iova)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        let mut open = self.lock();
        // Closing took all mappings away.
        let Some(open) = open.as_mut() else { return Ok(()) };
        match open.mappings.get(&iova) {
            Some(block) if block.len() == len => {}
            _ => return Err(DmaError::NotMapped { iova, len }),
        }
        if let Err(error) = open.container.vfio_dma_unmap(iova, len) {
            // After a removal the kernel has dropped all mappings already, and says EINVAL.
            if !self.is_gone() {
                let reason = format!("unmapping: {error}");
                return Err(DmaError::Map { len, reason });
            }
        }
        open.mappings.remove(&iova);
        open.iovas.give_back(iova, len as u64);
        Ok(())
    }
}

/// What a failed mapping means, and what to do.
fn mapping_error(error: &vfio_ioctls::VfioError) -> String {
    let text = error.to_string();
    let errno = match error {
        vfio_ioctls::VfioError::IommuDmaMap(source) => source.errno(),
        _ => 0,
    };
    match errno {
        libc::ENOMEM => format!(
            "{text}: over the limit for locked memory; raise it: ulimit -l unlimited (or LimitMEMLOCK= of the service)"
        ),
        libc::EEXIST => format!("{text}: the addresses overlap with a mapping that exists"),
        libc::EINVAL => format!(
            "{text}: the addresses are not the IOMMU's to map (alignment, width, or the interrupt window)"
        ),
        libc::ENOSPC => {
            format!("{text}: the IOMMU's limit of mappings is reached; use larger blocks (dma.block_bytes)")
        }
        _ => text,
    }
}

impl Transport for VfioTransport {
    fn address(&self) -> String {
        self.address.to_string()
    }

    fn read_u32(&self, offset: usize) -> u32 {
        self.bar.read_u32(offset)
    }

    fn read_u64(&self, offset: usize) -> u64 {
        self.bar.read_u64(offset)
    }

    fn write_u32(&self, offset: usize, value: u32) {
        self.bar.write_u32(offset, value);
    }

    fn write_u64(&self, offset: usize, value: u64) {
        self.bar.write_u64(offset, value);
    }

    fn doorbell(&self, offset: usize) -> Result<Doorbell, TransportError> {
        if !offset.is_multiple_of(size_of::<u32>()) {
            return Err(TransportError::Unaligned { offset, align: size_of::<u32>() });
        }
        let bar_len = self.bar.len();
        if offset.checked_add(size_of::<u32>()).is_none_or(|end| end > bar_len) {
            return Err(TransportError::OutOfRange { offset, bar_len });
        }
        let register = self.bar.register(offset).ok_or_else(|| self.gone())?;
        // SAFETY: aligned, inside the mapping, which lives as long as the bar that is passed along.
        Ok(unsafe { Doorbell::in_mapping(register, Arc::clone(&self.bar) as _) })
    }

    fn set_bus_master(&self, on: bool) -> Result<(), TransportError> {
        match &*self.lock() {
            // Reading the register back flushes the write: after it the device starts no access.
            Some(open) => open.set_command(BUS_MASTER, on).map_err(|source| TransportError::Io {
                address: self.address.to_string(),
                what: "switch the bus mastering",
                source,
            }),
            None => Err(self.gone()),
        }
    }

    fn is_gone(&self) -> bool {
        // Relaxed: a flag that only goes up; nothing else is concluded from it.
        self.is_gone.load(Ordering::Relaxed) || self.bar.was_hit()
    }

    fn interrupt_count(&self) -> usize {
        self.msix_vectors
    }

    fn enable_interrupts(&self, count: usize) -> Result<Vec<OwnedFd>, TransportError> {
        let mut open = self.lock();
        let open = open.as_mut().ok_or_else(|| self.gone())?;
        if count > self.msix_vectors || !open.vectors.is_empty() {
            return Err(TransportError::Interrupts { asked: count, available: self.msix_vectors });
        }
        let io_error = |source| TransportError::Io {
            address: self.address.to_string(),
            what: "connect the interrupts",
            source,
        };
        // All vectors at once: a set cannot grow.
        let vectors: io::Result<Vec<_>> =
            (0..self.msix_vectors).map(|_| EventFd::new(libc::EFD_NONBLOCK)).collect();
        let vectors = vectors.map_err(io_error)?;
        open.device
            .enable_msix(vectors.iter().collect())
            .map_err(|error| io_error(io::Error::other(error.to_string())))?;
        let fds: io::Result<Vec<_>> = vectors
            .iter()
            .take(count)
            .map(|vector| {
                // SAFETY: open while `vector` lives, which outlasts this call.
                let fd = unsafe { BorrowedFd::borrow_raw(vector.as_raw_fd()) };
                fd.try_clone_to_owned()
            })
            .collect();
        open.vectors = vectors;
        fds.map_err(io_error)
    }

    fn restore(&self) -> Result<(), TransportError> {
        let open = self.lock();
        let open = open.as_ref().ok_or_else(|| self.gone())?;
        open.restore().map_err(|source| TransportError::Io {
            address: self.address.to_string(),
            what: "restore the configuration",
            source,
        })
    }

    fn take_events(&self) -> DeviceEvents {
        // Asked on the polling thread, which waits for nobody: what is missed now is seen the next time.
        let Ok(open) = self.open.try_lock() else { return DeviceEvents::default() };
        let Some(open) = &*open else { return DeviceEvents::default() };
        let signalled = |event: &Option<EventFd>| event.as_ref().is_some_and(|event| event.read().is_ok());
        DeviceEvents {
            remove_requested: signalled(&open.remove_request),
            bus_error: signalled(&open.bus_error),
        }
    }

    fn close(&self) {
        // Relaxed: see `is_gone`.
        self.is_gone.store(true, Ordering::Relaxed);
        // Under the lock to the end: who closes second returns when the device is closed, too.
        let mut open = self.lock();
        // First the registers: a mapping keeps the device open, and a removal would hang.
        self.bar.withdraw();
        *open = None;
    }
}

impl Drop for VfioTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for VfioTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioTransport").field("address", &self.address.to_string()).finish_non_exhaustive()
    }
}
