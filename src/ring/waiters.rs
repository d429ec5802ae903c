//! Everybody who waits for outcomes of one controller: the bell, and the helper thread that calls the wakers of awaited tickets.
//!
//! Foreign code never runs on the polling thread, so the poller only rings the bell. The helper is started with the first `.await` that has to wait;
//! it sleeps on the bell like any blocking waiter, and ends with the controller. Who only blocks or polls never pays for it.

use super::bell::Bell;
use super::inside::contain_panic;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// Where the outcomes of one controller are waited for.
pub(crate) struct Waiters {
    bell: Arc<Bell>,
    helper: Arc<Helper>,
}

/// A ticket that is being awaited.
struct Awaited {
    /// Tells tickets apart, so that one that is polled again replaces its waker.
    key: usize,
    is_ready: Box<dyn Fn() -> bool + Send>,
    waker: Waker,
}

struct Helper {
    state: Mutex<State>,
    /// Notified when the list stops being empty, and at the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    awaited: Vec<Awaited>,
    is_running: bool,
    is_over: bool,
}

impl Waiters {
    pub(crate) fn new() -> Self {
        let helper = Helper { state: Mutex::default(), changed: Condvar::new() };
        Self { bell: Arc::new(Bell::new()), helper: Arc::new(helper) }
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Has `waker` called once `is_ready` says so. The caller looks once more afterwards: an outcome that came before this call is not noticed.
    pub(super) fn wake_when(&self, key: usize, is_ready: Box<dyn Fn() -> bool + Send>, waker: Waker) {
        let mut state = self.helper.lock();
        let known = state.awaited.iter().position(|awaited| awaited.key == key);
        let replaced = known.map(|index| state.awaited.swap_remove(index));
        state.awaited.push(Awaited { key, is_ready, waker });
        if !state.is_running {
            let (helper, bell) = (Arc::clone(&self.helper), Arc::clone(&self.bell));
            let thread = std::thread::Builder::new().name("slipring-wakers".into());
            state.is_running = thread.spawn(move || helper.run(&bell)).is_ok();
        }
        // No thread to be had: wake at once, so that the executor polls again instead of sleeping for ever.
        let unhelped = if state.is_running { Vec::new() } else { std::mem::take(&mut state.awaited) };
        drop(state);
        // Foreign code, and so outside the lock.
        drop(replaced);
        if !unhelped.is_empty() {
            tracing::warn!("no helper thread for wakers: awaited tickets are polled");
            for awaited in unhelped {
                awaited.waker.wake();
            }
        }
        self.helper.changed.notify_one();
    }
}

impl Helper {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A waker that panicked leaves the list whole: each entry is taken out before it is called.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, bell: &Bell) {
        loop {
            let mut state = self.lock();
            while state.awaited.is_empty() && !state.is_over {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            drop(state);
            bell.sleep_until(None, || {
                let state = self.lock();
                state.is_over || state.awaited.iter().any(|awaited| (awaited.is_ready)())
            });
            let ready: Vec<_> = self.lock().awaited.extract_if(.., |awaited| (awaited.is_ready)()).collect();
            for awaited in ready {
                // A waker that panics must not end the helper for all the others.
                if contain_panic(|| awaited.waker.wake()).is_none() {
                    tracing::error!("the waker of an awaited ticket panicked");
                }
            }
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.helper.lock().is_over = true;
        self.helper.changed.notify_one();
        self.bell.ring();
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").field("bell", &self.bell).finish_non_exhaustive()
    }
}
