//! The mapped register space (BAR0): reads and writes, doorbells, and what keeps a late access from crashing the process.
//!
//! A mapping is never taken away below whoever holds it. [`Bar::withdraw`] replaces it by anonymous memory in place, which lets the kernel
//! go of the device while a late doorbell goes nowhere. With the SIGBUS guard installed ([`install_sigbus_guard`]) the same happens, page by page,
//! when an access hits a device whose memory decoding is off.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

const PAGE_BYTES: usize = 4096;

/// Where a part of the register space can be mapped: offset and length in bytes.
pub(super) type Area = (usize, usize);

/// A mapped register space.
#[derive(Debug)]
pub(super) struct Bar {
    base: NonNull<u8>,
    len: usize,
    is_withdrawn: AtomicBool,
    /// Its place in the guard's table.
    guarded: Option<usize>,
}

// SAFETY: the memory is accessed by atomics only, on any thread, and stays mapped while `self` lives.
unsafe impl Send for Bar {}
// SAFETY: as above.
unsafe impl Sync for Bar {}

impl Bar {
    /// Maps `areas` of the `len` bytes of registers that are at `offset` of the device descriptor. What lies between areas reads as zero.
    pub(super) fn map(device: BorrowedFd<'_>, offset: u64, len: usize, areas: &[Area]) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever the kernel finds room; nothing else is touched.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        let guarded = guard(base.as_ptr().addr(), len);
        let bar = Self { base, len, is_withdrawn: AtomicBool::new(false), guarded };
        for &(start, area_len) in areas {
            if start.checked_add(area_len).is_none_or(|end| end > len) {
                return Err(io::Error::other(format!(
                    "area {start:#x}+{area_len:#x} is outside the {len:#x} bytes of BAR0"
                )));
            }
            // SAFETY: inside the reservation.
            let place = unsafe { base.as_ptr().add(start) };
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            // SAFETY: replaces a part of the reservation that was made above and that nobody uses yet.
            unsafe { mmap(place.cast(), area_len, protection, flags, device, offset + start as u64) }?;
        }
        Ok(bar)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The register at `offset`, if it is inside, aligned for `T`, and there.
    fn at<T>(&self, offset: usize) -> Option<NonNull<T>> {
        let is_inside = offset.checked_add(size_of::<T>()).is_some_and(|end| end <= self.len);
        // Relaxed: a race with `withdraw` reads or writes anonymous memory.
        if !is_inside || !offset.is_multiple_of(align_of::<T>()) || self.is_withdrawn.load(Ordering::Relaxed)
        {
            return None;
        }
        // SAFETY: inside the mapping.
        Some(unsafe { self.base.add(offset) }.cast())
    }

    pub(super) fn read_u32(&self, offset: usize) -> u32 {
        // SAFETY: mapped and aligned; a device register is accessed by one 32-bit load.
        self.at::<u32>(offset).map_or(u32::MAX, |register| unsafe { register.read_volatile() })
    }

    pub(super) fn read_u64(&self, offset: usize) -> u64 {
        // SAFETY: mapped and aligned; a device register is accessed by one 64-bit load.
        self.at::<u64>(offset).map_or(u64::MAX, |register| unsafe { register.read_volatile() })
    }

    pub(super) fn write_u32(&self, offset: usize, value: u32) {
        if let Some(register) = self.at::<u32>(offset) {
            // SAFETY: mapped and aligned. Release: what was written to memory before is visible to who reads the register.
            unsafe { AtomicU32::from_ptr(register.as_ptr()) }.store(value, Ordering::Release);
        }
    }

    pub(super) fn write_u64(&self, offset: usize, value: u64) {
        if let Some(register) = self.at::<u64>(offset) {
            // SAFETY: as in `write_u32`.
            unsafe { AtomicU64::from_ptr(register.as_ptr()) }.store(value, Ordering::Release);
        }
    }

    /// The 32-bit register at `offset`, which stays valid while the bar lives.
    pub(super) fn register(&self, offset: usize) -> Option<NonNull<u32>> {
        self.at::<u32>(offset)
    }

    /// Whether an access found the device's memory gone, and the guard put a page there.
    pub(super) fn was_hit(&self) -> bool {
        // Relaxed: a hint that the device is gone.
        self.guarded.is_some_and(|place| TABLE[place].hits.load(Ordering::Relaxed) != 0)
    }

    /// Puts anonymous memory in the place of the registers: the kernel can let go of the device, and late accesses go nowhere.
    pub(super) fn withdraw(&self) {
        // Relaxed: see `at`.
        self.is_withdrawn.store(true, Ordering::Relaxed);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: replaces our own mapping by one of the same length; who still holds a pointer into it finds memory there.
        if let Err(error) = unsafe { mmap_anonymous(self.base.as_ptr().cast(), self.len, protection, flags) }
        {
            tracing::error!(%error, "the register mapping could not be replaced; the kernel may not let go of the device");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(place) = self.guarded {
            TABLE[place].release();
        }
        // SAFETY: our mapping, and nobody has a pointer into it any more: doorbells hold the bar.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::error!(%error, "a register mapping could not be unmapped");
        }
    }
}

/// One mapping that the guard knows. A start of 0 is a free place.
struct Guarded {
    start: AtomicUsize,
    len: AtomicUsize,
    hits: AtomicUsize,
}

/// The mappings at a time that the guard can protect; further ones work, unguarded.
const PLACES: usize = 64;

static TABLE: [Guarded; PLACES] =
    [const { Guarded { start: AtomicUsize::new(0), len: AtomicUsize::new(0), hits: AtomicUsize::new(0) } };
        PLACES];

impl Guarded {
    fn release(&self) {
        // Release: pairs with the compare-and-swap in `guard`.
        self.start.store(0, Ordering::Release);
    }
}

/// Enters a mapping into the guard's table.
fn guard(start: usize, len: usize) -> Option<usize> {
    TABLE.iter().position(|place| {
        // Acquire: pairs with the Release in `release`. Relaxed on failure: somebody else's.
        let is_mine = place.start.compare_exchange(0, start, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if is_mine {
            place.hits.store(0, Ordering::Relaxed);
            // Release: pairs with the Acquire in `on_sigbus`, which reads the length first.
            place.len.store(len, Ordering::Release);
        }
        is_mine
    })
}

/// The handler that was there before, to be asked about what is not ours.
static PREVIOUS: AtomicPtr<libc::sigaction> = AtomicPtr::new(std::ptr::null_mut());

/// Installs a handler for SIGBUS that puts an anonymous page of all ones where a register access hits a device that is not there any more, and
/// passes every other SIGBUS on to the handler that was installed before. Idempotent; for the whole process.
///
/// On request only, since a library has no business with signals otherwise.
///
/// # Errors
/// What `sigaction` says.
pub fn install_sigbus_guard() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install());
    result
}

fn install() -> io::Result<()> {
    // SAFETY: all zero is a valid `sigaction`: no flags, an empty mask, the default handler.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_sigbus as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let previous: &mut libc::sigaction = Box::leak(Box::new(unsafe { std::mem::zeroed() }));
    // Release: pairs with the Acquire in `on_sigbus`; set first, since the handler may run at once.
    PREVIOUS.store(previous, Ordering::Release);
    // SAFETY: both point to valid structures; the handler does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, previous) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The handler. Only atomics, a system call and plain stores: nothing that a handler may not do.
extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid `siginfo_t` to a SA_SIGINFO handler, and for SIGBUS it has an address.
    let info_ref = unsafe { &*info };
    // SAFETY: as above.
    let address = unsafe { info_ref.si_addr() }.addr();
    for place in &TABLE {
        // Acquire: pairs with the Release in `guard`.
        let len = place.len.load(Ordering::Acquire);
        let start = place.start.load(Ordering::Relaxed);
        if start == 0 || !(start..start + len).contains(&address) {
            continue;
        }
        let page = (address & !(PAGE_BYTES - 1)) as *mut libc::c_void;
        // SAFETY: a page of a mapping that lives (the access that brought us here holds it), replaced in place.
        let mapped = unsafe {
            libc::mmap(
                page,
                PAGE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            // SAFETY: just mapped, a whole page.
            unsafe { std::ptr::write_bytes(page.cast::<u8>(), 0xff, PAGE_BYTES) };
            place.hits.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    chain(signal, info, context);
}

/// Passes a SIGBUS that is not ours on.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // Acquire: pairs with the Release in `install`.
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: set before the handler was installed, never freed.
    let previous = unsafe { &*previous };
    match previous.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => {
            // Ignoring a SIGBUS of our own making would come back for ever: the default ends the process, as without us.
            // SAFETY: restoring the default action is allowed in a handler; the access is then repeated.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO the value is a function of this type.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO the value is a function of this type.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
