//! One ring from publication to its end: Published, Closed, Quiet, Drained. Several may coexist; none is ever published again.
//!
//! The states are types where a mistake would be unsound: only a [`QuietRing`] can be drained, and it can only be made from a ring
//! whose reader has left. *Published* is a ring in the hands of a [`Publisher`](super::published::Publisher), *Drained* is a
//! quiet ring whose `drain` said so.

use super::mpsc::Ring;
use super::published::Retired;
use super::scheme::Quiet;
use super::slot::Run;
use crate::sync::Arc;
use std::fmt;

/// *Closed*: takes no more messages; the reader may still be in it.
pub struct ClosedRing<T>(Retired<Ring<T>>);

impl<T> ClosedRing<T> {
    /// Takes over a ring that was closed and then unpublished.
    pub(super) fn new(retired: Retired<Ring<T>>) -> Self {
        debug_assert!(retired.value().is_closed() || cfg!(loom), "a ring is closed before it is unpublished");
        Self(retired)
    }

    /// *Quiet*, if the reader has left.
    pub(super) fn into_quiet(self) -> Result<QuietRing<T>, Self> {
        if self.0.has_left() { Ok(QuietRing { ring: Arc::clone(self.0.value()) }) } else { Err(self) }
    }
}

/// *Quiet*: the reader has left; whoever owns this is the only consumer.
pub struct QuietRing<T> {
    ring: Arc<Ring<T>>,
}

impl<T> QuietRing<T> {
    /// Takes over a ring that nobody consumes any more.
    ///
    /// # Safety
    /// Every call of `consume` on the ring happened before this call, and there will be no other but through this value.
    pub(super) unsafe fn new(ring: Arc<Ring<T>>) -> Self {
        Self { ring }
    }
}

impl<T: Send + 'static> Quiet<T> for QuietRing<T> {
    fn drain(&mut self, each: impl FnMut(&mut Run<'_, T>)) -> bool {
        // SAFETY: `self` was made after the last other consumer had left (`has_left`, or the caller of `new` vouches), is not
        // cloned, and `&mut` keeps its own calls apart.
        unsafe { self.ring.consume_runs(each) };
        self.ring.is_empty()
    }
}

impl<T> fmt::Debug for ClosedRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClosedRing").field(self.0.value()).finish()
    }
}

impl<T> fmt::Debug for QuietRing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuietRing").field(&self.ring).finish()
    }
}
