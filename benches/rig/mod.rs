//! What the benches share: a controller attached to an emulated device that the benching thread steps itself.
#![allow(dead_code, unreachable_pub, reason = "each bench uses its own part, and none exports any")]

use slipring::ctrlr::{Ctrlr, CtrlrOptions};
use slipring::emulated::{self, Config, Device};
use slipring::poller::{PollError, Poller, QpairOptions, QueuePair};
use slipring::ring::Scheme;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A controller, who polls it, and its device.
pub struct Rig<S: Scheme> {
    pub ctrlr: Ctrlr<S>,
    pub poller: Poller<S>,
    pub device: Device,
}

impl<S: Scheme> Rig<S> {
    pub fn attach() -> Self {
        let (transport, mut device) = emulated::new(Config::default()).expect("a valid configuration");
        let mut attach = Ctrlr::<S>::begin_attach(transport, CtrlrOptions::default()).expect("begun");
        let ctrlr = loop {
            if let Some(ctrlr) = attach.step(Instant::now()).expect("attached") {
                break ctrlr;
            }
            device.step();
        };
        let poller = Poller::new(&ctrlr, "bench").expect("the seat is free");
        let mut rig = Self { ctrlr, poller, device };
        rig.settle();
        rig
    }

    /// Polls and steps until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..256 {
            self.poller.poll(Instant::now()).expect("live");
            self.device.step();
        }
    }

    pub fn queue_pair(&mut self, entries: u32) -> QueuePair {
        let mut qpair = QueuePair::request(&self.ctrlr, &QpairOptions { entries }).expect("requested");
        while !qpair.connected().expect("not refused") {
            self.poller.poll(Instant::now()).expect("live");
            self.device.step();
        }
        qpair
    }

    /// Polls on this thread while `work` runs on another; returns what it returns.
    pub fn poll_while<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> T {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let working = scope.spawn(|| {
                let result = work();
                // Relaxed: only ends the loop below.
                is_over.store(true, Ordering::Relaxed);
                result
            });
            let now = Instant::now();
            while !is_over.load(Ordering::Relaxed) {
                match self.poller.poll(now) {
                    Ok(_) | Err(PollError::Detached) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            working.join().expect("no panic")
        })
    }
}
