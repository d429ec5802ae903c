//! The helper thread that calls wakers: when it does, and that it ends with the controller.

use crate::ring::Waiters;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Wake, Waker};
use std::time::Duration;

/// Only a test that fails waits this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// Says when it is called, and when the thread that called it has ended.
struct Told {
    woken: Sender<()>,
    ended: Sender<()>,
}

/// Dropped with its thread.
struct Ending(Sender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

thread_local! {
    static ENDING: RefCell<Option<Ending>> = const { RefCell::new(None) };
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        ENDING.with_borrow_mut(|ending| _ = ending.get_or_insert_with(|| Ending(self.ended.clone())));
        let _ = self.woken.send(());
    }
}

fn waker() -> (Waker, Receiver<()>, Receiver<()>) {
    let ((woken, is_woken), (ended, has_ended)) = (channel(), channel());
    (Waker::from(Arc::new(Told { woken, ended })), is_woken, has_ended)
}

#[test]
fn a_waker_is_called_when_its_outcome_is_there_and_the_helper_ends_with_the_controller() {
    let waiters = Waiters::new();
    let (waker, is_woken, has_ended) = waker();
    for key in 0..3 {
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = {
            let ready = Arc::clone(&ready);
            // Acquire: pairs with the Release below.
            move || ready.load(Ordering::Acquire)
        };
        waiters.wake_when(key, Box::new(is_ready), waker.clone());
        waiters.bell().ring();
        assert!(is_woken.try_recv().is_err(), "nothing has come: an executor that is woken now spins");
        // Release: pairs with the Acquire above.
        ready.store(true, Ordering::Release);
        waiters.bell().ring();
        is_woken.recv_timeout(DEADLINE).expect("woken by the bell");
    }
    assert!(has_ended.try_recv().is_err());
    drop(waiters);
    has_ended.recv_timeout(DEADLINE).expect("nobody is left to be woken");
}
