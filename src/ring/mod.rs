//! The message ring, its publication and retirement, and outcomes. Generic: knows nothing of NVMe.
//!
//! | file | what |
//! |---|---|
//! | `mpsc`, `slot`, `place` | the bounded ring and its CLOSED bit; messages written and read where they lie |
//! | `distance` | how far behind a stream's senders the poller stays |
//! | `attention` | the one word that an idle poll reads |
//! | `published` | arc-swap and the epoch: which ring, and when the reader has left it |
//! | `generation` | one ring's states, from published to drained |
//! | `scheme` | the seam; `lockfree` is the default, `rivals` are what it is compared with |
//! | `outcome`, `abort` | exactly one answer to each accepted message, and to those that are left in a ring |
//! | `ticket`, `mailbox`, `parcel` | how a sender gets it: one at a time, or a window of many, some to a cache line |
//! | `sleeper` | a poller that sleeps until a message comes |
//! | `bell`, `waiters` | how those who sleep are woken |
//! | `doorway` | how a controller that is taken down knows that no queue pair's thread is about to ring a doorbell |
//!
//! Whose turn it is to consume, in one picture:
//!
//! ```text
//!  publish ─▶ Published ── close, unpublish ─▶ Closed ── the reader has left ─▶ Quiet ── drained ─▶ Drained
//!             the reader consumes              the reader may still consume     the retirer consumes   nobody
//! ```

mod abort;
mod attention;
mod bell;
pub(crate) mod departures;
mod distance;
pub(crate) mod doorway;
mod generation;
pub(crate) mod inside;
mod lockfree;
mod mailbox;
pub mod mpsc;
mod outcome;
pub(crate) mod parcel;
pub(crate) mod place;
#[cfg(not(loom))]
#[doc(hidden)]
pub mod probe;
mod published;
#[cfg(not(loom))]
pub mod rivals;
pub(crate) mod scheme;
pub(crate) mod sleeper;
pub(crate) mod slot;
mod snapshot;
mod ticket;
mod waiters;

#[cfg(all(test, loom))]
mod models;
#[cfg(all(test, not(loom)))]
mod tests;

pub(crate) use attention::Attention;
pub use lockfree::LockFree;
#[cfg(not(loom))]
pub(crate) use mailbox::Outbox;
pub use mailbox::{Mailbox, MailboxId};
pub use outcome::{AbortReason, Aborted, Outcome};
#[doc(hidden)]
pub use parcel::{Answer, Word};
pub use scheme::Scheme;
pub use ticket::{Pending, Ticket};

pub(crate) use outcome::{Envelope, Responder};
pub(crate) use waiters::Waiters;

/// Keeps [`Scheme`] to the schemes of this crate: one that hands a ring to two consumers would break every promise.
mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// Asks for the cache line at `address`, which may be any address at all, to be written soon.
#[inline]
fn prefetch_to_write(address: *const u8) {
    // Written out, since the intrinsic becomes a prefetch for reading unless the whole crate is compiled for processors that have this one.
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    // SAFETY: a prefetch is a hint that never faults; 64-bit processors without this one take it for a no-op.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    let _ = address;
}
