//! The one switch between std and loom: every atomic of a protocol that loom models comes from here.
//!
//! What lives here: re-exports, an `UnsafeCell` with loom's closure interface, and the switch that takes
//! a protection out for a negative control. No protocol lives here.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use loom::{
    cell::UnsafeCell,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
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

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// The parts of a protocol that a negative control can take out, one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The SeqCst fence between the poller's repin and its look at the published pointer.
    ReaderFence,
    /// The CLOSED bit that a push meets.
    ClosedBit,
    /// Waiting for the grace period before the ring is drained.
    GracePeriod,
    /// The fence between an outcome and the look at the sleepers.
    BellFence,
    /// The Release that publishes an outcome with its value.
    OutcomeRelease,
    /// The Release of a slot's sequence, which publishes its message.
    SlotRelease,
}

/// Whether `protection` is in place: always, except in a loom model that took it out.
#[cfg(not(all(test, loom)))]
#[inline(always)]
pub(crate) const fn protected(_protection: Protection) -> bool {
    true
}

#[cfg(all(test, loom))]
pub(crate) use sabotage::{protected, without};

/// Taking protections out, for negative controls.
#[cfg(all(test, loom))]
mod sabotage {
    use super::Protection;
    use std::cell::Cell;

    thread_local! {
        // loom runs all threads of a model on the thread that called it, so this reaches them all.
        static MISSING: Cell<Option<Protection>> = const { Cell::new(None) };
    }

    pub(crate) fn protected(protection: Protection) -> bool {
        MISSING.with(|missing| missing.get() != Some(protection))
    }

    /// Runs `model` without `protection`, and says whether loom found the failure.
    pub(crate) fn without(protection: Protection, model: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        MISSING.with(|missing| missing.set(Some(protection)));
        let failed = std::panic::catch_unwind(model).is_err();
        MISSING.with(|missing| missing.set(None));
        failed
    }
}
