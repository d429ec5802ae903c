//! A poller's sleep, on a real descriptor: what wakes it, and that it can sleep again.

use crate::ring::Attention;
use crate::ring::sleeper::Sleeper;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;

/// Whether who sleeps on it now would wake at once.
fn is_signalled(sleeper: &Sleeper) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(sleeper.event(), PollFlags::IN)], Some(&at_once));
    ready.expect("a descriptor can be asked") == 1
}

#[test]
fn only_who_sleeps_is_signalled_and_only_once() {
    let sleeper = Sleeper::new().expect("a descriptor");
    for _ in 0..2 {
        sleeper.wake();
        assert!(!is_signalled(&sleeper), "nobody sleeps: no system call for it");
        sleeper.falls_asleep();
        assert!(!is_signalled(&sleeper));
        sleeper.wake();
        assert!(is_signalled(&sleeper));
        sleeper.wakes_up();
        assert!(!is_signalled(&sleeper), "or it would never sleep again");
    }
}

#[test]
fn raised_attention_wakes_who_sleeps() {
    let attention = Attention::new();
    let sleeper = Arc::new(Sleeper::new().expect("a descriptor"));
    attention.wakes(Arc::clone(&sleeper));
    sleeper.falls_asleep();
    attention.raise(Attention::PUBLISHED);
    assert!(is_signalled(&sleeper));
}
