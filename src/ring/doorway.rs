//! The doorway: one owner goes through it time and again, at next to no cost; whoever has shut the door can tell, now and then and at some cost, that
//! the owner is out.
//!
//! What is behind the door, and what word says that it is shut, is the user's business: here it is a queue pair's doorbell, and the state of its slot.
//!
//! # Why an owner that is not seen inside does not come in later
//! The owner: (O1) stores `inside`, (O2) light barrier, (O3) looks whether the door is open, and only then goes on. The closer: (C1) shuts the door,
//! (C2) heavy barrier, (C3) looks at `inside`. The two barriers make it impossible that O3 misses C1 *and* C3 misses O1: one of them sees the other.
//!
//! With two fences that is Dekker's argument. The owner's fence would cost it as much as all the rest of a doorbell does, for the sake of something that
//! hardly ever happens; so where the kernel can do it, the owner has a compiler fence only, and the closer has the kernel execute a full
//! fence on every processor that runs a thread of this process (`membarrier`, private expedited), which costs microseconds, when a
//! controller is taken down. loom knows nothing of that: in its models both are fences, and the negative controls take out one or the other.

use crate::sync::{AtomicBool, Ordering, Protection, fence, protected};

/// How the two sides order their stores and looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barrier {
    /// The closer has the kernel fence everybody.
    #[cfg(not(loom))]
    Asymmetric,
    /// Both sides have a fence each.
    Fences,
}

impl Barrier {
    /// The cheaper one for the owner that this kernel offers; asked once per process.
    #[cfg(not(loom))]
    pub(crate) fn for_this_process() -> Self {
        use rustix::thread::{MembarrierCommand, membarrier};
        static CHOSEN: std::sync::OnceLock<Barrier> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| match membarrier(MembarrierCommand::RegisterPrivateExpedited) {
            Ok(()) => Self::Asymmetric,
            Err(error) => {
                tracing::info!(%error, "no membarrier here: each doorbell has a fence instead");
                Self::Fences
            }
        })
    }

    /// The owner's, between O1 and O3.
    #[inline(always)]
    fn light(self) {
        match self {
            #[cfg(not(loom))]
            // The processor may still reorder; the kernel's fence, wherever it comes, does not let it across.
            Self::Asymmetric => std::sync::atomic::compiler_fence(Ordering::SeqCst),
            // SeqCst: O2 of the module's argument; pairs with the one in `heavy`.
            Self::Fences if protected(Protection::DoorwayEntry) => fence(Ordering::SeqCst),
            Self::Fences => {}
        }
    }

    /// The closer's, between C1 and C3. Microseconds, for a system call.
    pub(crate) fn heavy(self) {
        match self {
            #[cfg(not(loom))]
            Self::Asymmetric => {
                use rustix::thread::{MembarrierCommand, membarrier};
                // Registered; it can only fail for who is not.
                if let Err(error) = membarrier(MembarrierCommand::PrivateExpedited) {
                    tracing::error!(%error, "membarrier failed: a late doorbell may reach a queue that is gone");
                }
            }
            // SeqCst: C2 of the module's argument; pairs with the one in `light`.
            Self::Fences if protected(Protection::DoorwayBarrier) => fence(Ordering::SeqCst),
            Self::Fences => {}
        }
    }
}

/// See the module. Written by its one owner.
#[derive(Debug)]
pub(crate) struct Doorway {
    inside: AtomicBool,
    barrier: Barrier,
}

impl Doorway {
    pub(crate) fn new(barrier: Barrier) -> Self {
        Self { inside: AtomicBool::new(false), barrier }
    }

    /// Does `act` if the door `is_open`, which is asked when the closer can see that somebody is inside. For the owner alone; `act` must be short.
    #[inline(always)]
    pub(crate) fn pass(&self, is_open: impl FnOnce() -> bool, act: impl FnOnce()) {
        // Relaxed: O1; ordered before the look by the barrier.
        self.inside.store(true, Ordering::Relaxed);
        self.barrier.light();
        if is_open() {
            act();
        }
        // Release: pairs with the Acquire in `is_empty`: what the owner did inside comes before what the closer does then.
        self.inside.store(false, Ordering::Release);
    }

    /// Whether the owner is out. Once the door was shut, and [`Barrier::heavy`] passed since: out for good.
    pub(crate) fn is_empty(&self) -> bool {
        // Acquire: pairs with the Release in `pass`.
        !self.inside.load(Ordering::Acquire)
    }
}
