//! Unit tests of the polling side: what only shows inside.
#![forbid(unsafe_code)]

use super::{Poller, QpairOptions, QueuePair};
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

/// What the driver itself gives back counts among what a poll may give, beside what the device has answered.
#[test]
fn a_poll_gives_no_more_than_it_may_also_when_requests_are_sent_again() {
    let (transport, device) = emulated::new(Config::default()).expect("a valid configuration");
    let device = device.spawn(None).expect("a device thread");
    let options = CtrlrOptions { retries: 1, ..CtrlrOptions::default() };
    let ctrlr = Ctrlr::<LockFree>::attach(transport, options).expect("attach");
    let mut poller = Poller::new(&ctrlr, "owner").expect("the seat is free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let read = |qpair: &mut QueuePair, token| {
        let data = ctrlr.allocate(512).expect("memory").into();
        qpair.read(&ctrlr.namespaces()[0], 0, data, token).expect("submitted");
    };
    let next = |qpair: &mut QueuePair| {
        let mut seen = None;
        let begun = Instant::now();
        while seen.is_none() {
            assert!(begun.elapsed() < Duration::from_secs(120), "no answer");
            qpair.poll(1, |completion| seen = Some(completion)).expect("alive");
        }
        seen.expect("looked at just now")
    };
    read(&mut qpair, 1);
    let given_up = next(&mut qpair);
    read(&mut qpair, 2);
    qpair.commit();
    // The driver gives the first one back once more while the second one is answered.
    qpair.returned.push_back(given_up);
    let begun = Instant::now();
    while !qpair.retrying.as_ref().expect("connected").pair.has_completion() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no completion");
    }
    let mut tokens = Vec::new();
    assert_eq!(qpair.poll(1, |completion| tokens.push(completion.token)), Ok(1));
    assert_eq!(qpair.poll(1, |completion| tokens.push(completion.token)), Ok(1));
    assert_eq!(tokens, [1, 2]);
    drop(qpair);
    poller.detach(Duration::from_secs(120)).expect("detached");
    drop(device);
}
