//! The one switch between std and loom: every atomic of a protocol that loom models comes from here.
//!
//! What lives here: re-exports, an `UnsafeCell` with loom's closure interface, the futex, and the switch that takes
//! a protection out for a negative control. No protocol lives here.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
    },
};

/// `std::cell::UnsafeCell` behind loom's interface, so that loom sees each access in a model.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// Lets another thread run, where nothing can be done but wait for it.
pub(crate) fn yield_now() {
    #[cfg(not(loom))]
    std::thread::yield_now();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// A word that threads can sleep on until it changes.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct Futex {
    pub(crate) word: AtomicU32,
}

#[cfg(not(loom))]
impl Futex {
    /// Sleeps while the word is `expected`, at most for `timeout`; may wake for no reason.
    pub(crate) fn wait(&self, expected: u32, timeout: Option<std::time::Duration>) {
        use rustix::thread::futex;
        let timeout = timeout.map(|left| rustix::time::Timespec {
            tv_sec: left.as_secs().min(1 << 40).cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        });
        // Errors are reasons to look again: the word changed, a signal came, the time is over.
        let _ = futex::wait(&self.word, futex::Flags::PRIVATE, expected, timeout.as_ref());
    }

    /// Wakes all who sleep on the word.
    pub(crate) fn wake_all(&self) {
        use rustix::thread::futex;
        // Cannot fail for a mapped word; and there would be nothing to do about it on the polling thread.
        let _ = futex::wake(&self.word, futex::Flags::PRIVATE, i32::MAX.cast_unsigned());
    }
}

/// The kernel's futex as loom understands it: a sleeper that nobody wakes yields for ever, which loom reports.
///
/// (loom's own blocking does not do here: its mutex and its condition variable abort the process when they find a deadlock.)
#[cfg(loom)]
#[derive(Debug, Default)]
pub(crate) struct Futex {
    pub(crate) word: AtomicU32,
    /// How often sleepers were woken; read and written in one order, as under the lock of the kernel's bucket.
    wakes: AtomicU32,
}

#[cfg(loom)]
impl Futex {
    pub(crate) fn wait(&self, expected: u32, _timeout: Option<std::time::Duration>) {
        // AcqRel: pairs with the one in `wake_all`: a wake-up that is not waited for below had its word changed before.
        let wakes = self.wakes.fetch_add(0, Ordering::AcqRel);
        // Relaxed: ordered by the above.
        if self.word.load(Ordering::Relaxed) != expected {
            return;
        }
        // Acquire: as above.
        while self.wakes.load(Ordering::Acquire) == wakes {
            loom::thread::yield_now();
        }
    }

    pub(crate) fn wake_all(&self) {
        // AcqRel: pairs with the one in `wait`.
        self.wakes.fetch_add(1, Ordering::AcqRel);
    }
}

/// A descriptor that a thread sleeps on together with others (interrupts), and that stays signalled until it is cleared.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct WakeEvent(std::os::fd::OwnedFd);

#[cfg(not(loom))]
impl WakeEvent {
    pub(crate) fn new() -> std::io::Result<Self> {
        use rustix::event::{EventfdFlags, eventfd};
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    pub(crate) fn signal(&self) {
        // Fails only when it is signalled 2^64 times over, and so signalled.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn clear(&self) {
        // Fails when it was not signalled.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

#[cfg(not(loom))]
impl std::os::fd::AsFd for WakeEvent {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An eventfd as loom understands it: reads and writes of it come in one order, as in the kernel.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct WakeEvent(AtomicU32);

#[cfg(loom)]
impl WakeEvent {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self(AtomicU32::new(0)))
    }

    pub(crate) fn signal(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn clear(&self) {
        self.0.swap(0, Ordering::AcqRel);
    }

    /// Sleeps until it is signalled.
    pub(crate) fn wait(&self) {
        while self.0.load(Ordering::Acquire) == 0 {
            loom::thread::yield_now();
        }
    }
}

/// The parts of a protocol that a negative control can take out, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The SeqCst fence between a poller's "asleep" and its last look.
    AsleepFence,
    /// The SeqCst fence between a message, or raised attention, and the look whether the poller sleeps.
    WakeFence,
    /// The SeqCst fence between the poller's repin and its look at the published pointer.
    ReaderFence,
    /// Lowering PUBLISHED before the look at the pointer, not after it.
    LowerFirst,
    /// The CLOSED bit that a push meets.
    ClosedBit,
    /// Waiting for the grace period before the ring is drained.
    GracePeriod,
    /// The ringer's fence, between the outcome and the look at the sleepers.
    BellFence,
    /// The sleeper's fence, between counting itself and the look for its outcome.
    SleeperFence,
    /// The count of rings that a sleeper's futex compares.
    BellCount,
    /// The Release that publishes an outcome with its value.
    OutcomeRelease,
    /// The Release of a slot's sequence, which publishes its message.
    SlotRelease,
    /// The Release that gives a slot back to the producers.
    SlotReturn,
    /// The order of the claims, by which a mailbox's deliverer sees all slots that earlier deliverers saw free.
    ClaimOrder,
    /// The barrier between an owner's "inside" and its look whether the door is open.
    DoorwayEntry,
    /// The barrier between shutting the door and the look who is inside.
    DoorwayBarrier,
    /// Counting a ring as on its way out while a thread has it in its hands to drain it.
    HeldRing,
    /// The Release and Acquire of a queue pair's state word, by which memory goes from one side to the other.
    SlotHandOver,
    /// Leaving the memory behind before the word says so.
    MemoryFirst,
    /// The second look at the word, under the lock of what was left behind.
    SweepAgain,
    /// Waiting, when a mailbox is dropped, for the outcome whose slot is claimed and not yet written.
    MailboxWait,
    /// In the story of SPDK's bug: the lock that its fix has registrations take.
    #[cfg(all(test, loom))]
    SpdkFix,
    /// There: answering what lies in a ring before it is freed, which the fix does not.
    #[cfg(all(test, loom))]
    SpdkDrain,
    /// There: the senders' lock around the freeing, which the fix does not take.
    #[cfg(all(test, loom))]
    SpdkSenders,
    /// There: polls that take no lock.
    #[cfg(all(test, loom))]
    NoLockInPolls,
}

/// Whether `protection` is in place: always, except in a loom model that took it out.
#[cfg(not(all(test, loom)))]
#[inline]
pub(crate) const fn protected(_protection: Protection) -> bool {
    true
}

/// The `strong` ordering; `Relaxed` in a loom model that took `protection` out.
#[inline]
pub(crate) fn ordering(strong: Ordering, protection: Protection) -> Ordering {
    if protected(protection) { strong } else { Ordering::Relaxed }
}

#[cfg(all(test, loom))]
pub(crate) use sabotage::{protected, without};

/// Taking protections out, for negative controls.
#[cfg(all(test, loom))]
mod sabotage {
    use super::Protection;
    use std::cell::Cell;
    use std::panic::{UnwindSafe, catch_unwind, panic_any, set_hook, take_hook};
    use std::sync::Once;

    thread_local! {
        // loom runs all threads of a model on the thread that called it, so this reaches them all.
        static MISSING: Cell<Option<Protection>> = const { Cell::new(None) };
    }

    pub(crate) fn protected(protection: Protection) -> bool {
        MISSING.with(|missing| missing.get() != Some(protection))
    }

    /// Runs `model` without `protection` and returns the failure that loom found, if any.
    pub(crate) fn without(protection: Protection, model: impl FnOnce() + UnwindSafe) -> Option<String> {
        static QUIET: Once = Once::new();
        QUIET.call_once(|| {
            let usual = take_hook();
            set_hook(Box::new(move |panic| {
                if MISSING.with(Cell::get).is_none() {
                    usual(panic);
                }
            }));
        });
        MISSING.with(|missing| missing.set(Some(protection)));
        let failure = catch_unwind(model).err();
        MISSING.with(|missing| missing.set(None));
        failure.map(|payload| match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => match payload.downcast::<&'static str>() {
                Ok(message) => (*message).to_owned(),
                Err(payload) => panic_any(payload),
            },
        })
    }
}
