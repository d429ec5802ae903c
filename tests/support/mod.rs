//! What the integration tests share: an attached emulated controller on a device thread, and a thread that polls it.
#![allow(dead_code, unreachable_pub, reason = "each test target uses its own part, and none exports any")]

use slipring::ctrlr::{Ctrlr, CtrlrOptions};
use slipring::emulated::{self, Config, Device, DeviceThread, EmulatedTransport};
use slipring::poller::{PollError, Poller};
use slipring::ring::{LockFree, Scheme};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No test waits longer for anything: far more than anything takes, on a machine that is busy with others' work too.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// An attached controller and its device.
pub struct Rig<S: Scheme = LockFree> {
    pub ctrlr: Ctrlr<S>,
    pub transport: Arc<EmulatedTransport>,
    pub device: DeviceThread,
}

impl<S: Scheme> Rig<S> {
    pub fn attach(config: Config) -> Self {
        Self::attach_with(config, CtrlrOptions::default())
    }

    pub fn attach_with(config: Config, options: CtrlrOptions) -> Self {
        let (transport, device) = emulated::new(config).expect("a valid configuration");
        let device = device.spawn(None).expect("a device thread");
        let ctrlr = Ctrlr::attach(transport.clone(), options).expect("attach");
        Self { ctrlr, transport, device }
    }

    pub fn poller(&self) -> Poller<S> {
        Poller::new(&self.ctrlr, "test").expect("the seat is free")
    }

    /// Detaches, and checks that the driver broke no rule on the way.
    pub fn finish(self) {
        self.ctrlr.detach(DEADLINE).expect("detach");
        assert_eq!(
            self.transport.violations(),
            Vec::<String>::new(),
            "rules of the specification that the driver broke"
        );
    }
}

/// A thread that polls until it is told to stop, or the controller is detached.
pub struct PollThread<S: Scheme = LockFree> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Option<Poller<S>>>,
}

impl<S: Scheme> PollThread<S> {
    pub fn spawn(mut poller: Poller<S>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // Relaxed: nothing but the flag is told.
            while !told.load(Ordering::Relaxed) {
                match poller.poll(Instant::now()) {
                    Ok(0) => std::thread::yield_now(),
                    Ok(_) | Err(PollError::Failed(_)) => {}
                    Err(_) => return None,
                }
            }
            Some(poller)
        });
        Self { stop, thread }
    }

    /// Stops polling; the poller comes back unless the controller was detached.
    pub fn stop(self) -> Option<Poller<S>> {
        // Relaxed: as above.
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the polling thread did not panic")
    }
}

/// Waits until `ready`, at most until the deadline.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let started = Instant::now();
    while !ready() {
        assert!(started.elapsed() < DEADLINE, "waited too long until {what}");
        std::thread::yield_now();
    }
}

/// An attached controller whose device this thread steps.
pub struct Stepped<S: Scheme = LockFree> {
    pub ctrlr: Ctrlr<S>,
    pub transport: Arc<EmulatedTransport>,
    pub device: Device,
}

impl<S: Scheme> Stepped<S> {
    /// The most steps that a test takes to get anywhere.
    pub const STEPS: usize = 100_000;

    pub fn attach(config: Config, options: CtrlrOptions) -> Self {
        let (transport, mut device) = emulated::new(config).expect("a valid configuration");
        let mut attach = Ctrlr::begin_attach(transport.clone(), options).expect("attach begins");
        for _ in 0..Self::STEPS {
            if let Some(ctrlr) = attach.step(Instant::now()).expect("attach") {
                return Self { ctrlr, transport, device };
            }
            device.step();
        }
        panic!("not attached after {} steps", Self::STEPS);
    }

    pub fn poller(&self) -> Poller<S> {
        Poller::new(&self.ctrlr, "stepped").expect("the seat is free")
    }

    /// Polls and steps until `ready`.
    pub fn run(&mut self, poller: &mut Poller<S>, what: &str, mut ready: impl FnMut() -> bool) {
        for _ in 0..Self::STEPS {
            if ready() {
                return;
            }
            poller.poll(Instant::now()).expect("the controller is well");
            self.device.step();
        }
        panic!("not after {} steps: {what}", Self::STEPS);
    }

    /// Detaches, and checks that the driver broke no rule on the way.
    pub fn finish(mut self) {
        let mut detach = self.ctrlr.begin_detach(DEADLINE).expect("detach begins");
        for _ in 0..Self::STEPS {
            if detach.step(Instant::now()) {
                assert_eq!(self.transport.violations(), Vec::<String>::new(), "rules that the driver broke");
                return;
            }
            self.device.step();
        }
        panic!("not detached after {} steps", Self::STEPS);
    }
}
