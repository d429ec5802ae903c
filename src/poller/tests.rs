//! Unit tests of the polling side: what only shows inside.
#![forbid(unsafe_code)]

use super::Poller;
use crate::ctrlr::{Ctrlr, CtrlrOptions};
use crate::emulated::{self, Config};
use crate::ring::{LockFree, Scheme, rivals};
use std::time::{Duration, Instant};

/// With nothing in progress a poll takes the short way, whatever the scheme: otherwise comparing them compares the cold path with the hot one.
#[test]
fn a_calm_controller_asks_for_no_attention() {
    fn scenario<S: Scheme>() {
        let (transport, device) = emulated::new(Config::default()).expect("a valid configuration");
        let _device = device.spawn(None).expect("a device thread");
        let ctrlr = Ctrlr::<S>::attach(transport, CtrlrOptions::default()).expect("attach");
        let mut poller = Poller::new(&ctrlr, "first").expect("the seat is free");
        let calm = |poller: &mut Poller<S>, what: &str| {
            poller.poll(Instant::now()).expect("alive");
            assert_eq!(poller.ctrlr().0.hub.attention.bits(), 0, "{}: {what}", S::NAME);
        };
        calm(&mut poller, "after the first poll");
        let _producer = ctrlr.register("somebody").expect("registered");
        calm(&mut poller, "after the first poll with a ring");
        poller.pause();
        calm(&mut poller, "after a pause");
        drop(poller);
        let mut poller = Poller::new(&ctrlr, "second").expect("the seat is free");
        calm(&mut poller, "after the first poll of another poller");
        assert!(ctrlr.reset().is_ok());
        let started = Instant::now();
        while ctrlr.statistics().resets == 0 && started.elapsed() < Duration::from_secs(120) {
            poller.poll(Instant::now()).expect("alive");
        }
        calm(&mut poller, "after a reset");
        poller.detach(Duration::from_secs(120)).expect("detached");
    }
    scenario::<LockFree>();
    scenario::<rivals::Spinlock>();
    scenario::<rivals::SpinlockFlag>();
    scenario::<rivals::RobustMutex>();
}
