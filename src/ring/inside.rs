//! Whether this thread is inside a poll right now, so that what would deadlock there is refused with an error.

use std::cell::Cell;

thread_local! {
    /// How many polls this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Marks the thread as inside a poll until dropped. Made around foreign code (messages, callbacks), not around an idle poll.
#[derive(Debug)]
pub(crate) struct InsidePoll(());

impl InsidePoll {
    pub(crate) fn enter() -> Self {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Self(())
    }
}

impl Drop for InsidePoll {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

/// Whether the calling code was called by a poll: blocking, detaching or polling again would wait for itself.
pub(crate) fn is_inside_poll() -> bool {
    DEPTH.with(|depth| depth.get() != 0)
}
