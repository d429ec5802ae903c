//! Unit tests of the controller: what only shows inside, on a device that the test steps.
#![forbid(unsafe_code)]

mod admin_queue;
mod bring_up;
mod detaching;
mod doorbells;
mod failures;
mod pieces;
mod producers;
mod recovery;
mod registers;
mod rescan;
mod retry;
mod watchdog;

use super::{Ctrlr, CtrlrOptions};
use crate::emulated::{self, Config, Device, EmulatedTransport, NamespaceConfig};
use crate::poller::{PollError, Poller, QpairOptions, QueuePair};
use crate::ring::LockFree;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most steps that anything takes.
const STEPS: usize = 10_000;

/// A small controller that meets these faults.
fn config(faults: &str) -> Config {
    let namespace = NamespaceConfig { size_bytes: 1 << 20, ..NamespaceConfig::default() };
    let faults = faults.parse().expect("faults");
    Config { namespaces: vec![namespace], io_queues: 4, faults, ..Config::default() }
}

/// An attached controller, its poller and its device, all on one thread and a clock of its own.
struct World {
    ctrlr: Ctrlr<LockFree>,
    poller: Poller,
    device: Device,
    transport: Arc<EmulatedTransport>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(config(""), CtrlrOptions::default())
    }

    fn with(config: Config, options: CtrlrOptions) -> Self {
        let (transport, mut device) = emulated::new(config).expect("a valid configuration");
        let mut now = Instant::now();
        let mut attach = Ctrlr::begin_attach(transport.clone(), options).expect("begins");
        let ctrlr = loop {
            now += Duration::from_micros(1);
            if let Some(ctrlr) = attach.step(now).expect("attach") {
                break ctrlr;
            }
            device.step_at(now);
        };
        let poller = Poller::new(&ctrlr, "world").expect("the seat is free");
        Self { ctrlr, poller, device, transport, now }
    }

    /// Polls, a microsecond later.
    fn poll(&mut self) -> Result<usize, PollError> {
        self.now += Duration::from_micros(1);
        self.poller.poll(self.now)
    }

    /// Polls, and steps the device.
    fn step(&mut self) -> Result<usize, PollError> {
        let polled = self.poll();
        self.device.step_at(self.now);
        polled
    }

    /// Steps until `ready`.
    fn run(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> bool) {
        for _ in 0..STEPS {
            if ready(self) {
                return;
            }
            let _ = self.step();
        }
        panic!("not after {STEPS} steps: {what}; {:?}", self.ctrlr);
    }

    /// Steps so often.
    fn pass(&mut self, steps: usize) {
        for _ in 0..steps {
            self.step().expect("well");
        }
    }

    fn queue_pair(&mut self) -> QueuePair {
        let mut qpair = QueuePair::request(&self.ctrlr, &QpairOptions { entries: 8 }).expect("a queue pair");
        self.run("connected", |_| qpair.connected().expect("well"));
        qpair
    }

    /// Detaches; returns the rules that the driver broke in its life.
    fn detach(mut self) -> Vec<String> {
        drop(self.poller);
        let mut detach = self.ctrlr.begin_detach(Duration::from_secs(20)).expect("begins");
        for _ in 0..STEPS {
            self.now += Duration::from_micros(1);
            if detach.step(self.now) {
                return self.transport.violations();
            }
            self.device.step_at(self.now);
        }
        panic!("not detached after {STEPS} steps: {:?}", self.ctrlr);
    }
}
