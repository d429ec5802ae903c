//! Foreign code on a thread that polls: whether we are inside it, so that what would deadlock there is refused with an error; and its panics.

use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many calls of foreign code this thread is inside of.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Marks the thread as inside a poll until dropped. Made around foreign code (messages, callbacks), not around an idle poll.
#[derive(Debug)]
pub(crate) struct InsidePoll {
    /// The mark is the thread's: it does not move to another.
    _not_send: PhantomData<*const ()>,
}

impl InsidePoll {
    pub(crate) fn enter() -> Self {
        DEPTH.with(|depth| depth.set(depth.get() + 1));
        Self { _not_send: PhantomData }
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

/// Runs foreign code; `None` when it panicked, which goes no further.
pub(crate) fn contain_panic<T>(foreign: impl FnOnce() -> T) -> Option<T> {
    let panic = match catch_unwind(AssertUnwindSafe(foreign)) {
        Ok(value) => return Some(value),
        Err(panic) => panic,
    };
    // What it panicked with is foreign too, and so is its destructor.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
    None
}
