//! `DeviceThread`: a device that steps itself.
#![forbid(unsafe_code)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use super::device::Device;

/// Steps without work before the thread looks at the clock.
const SPINS: u32 = 256;
/// Time without work after which the thread sleeps between two steps. It never yields: on a core with a busy thread each yield costs the rest of a slice, and a
/// device that yields is starved for seconds.
const SPIN_TIME: Duration = Duration::from_micros(100);
/// How long it sleeps then.
const SLEEP: Duration = Duration::from_micros(50);

/// A running device. Dropping it stops the thread, whatever the controller is doing, and waits for it.
///
/// The thread also ends by itself when the transport is closed or nobody else holds it.
#[derive(Debug)]
pub struct DeviceThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DeviceThread {
    pub(super) fn spawn(device: Device, core: Option<usize>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let (ready, pinned) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("emulated-nvme".to_owned()).spawn(move || {
            let pinning = core.map_or(Ok(()), pin);
            let failed = pinning.is_err();
            // Nobody waits for it only if the spawning thread is gone.
            let _ = ready.send(pinning);
            if !failed {
                run(device, &told);
            }
        })?;
        let this = Self { stop, thread: Some(thread) };
        pinned.recv().unwrap_or_else(|_| Err(io::Error::other("the device's thread ended")))?;
        Ok(this)
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for DeviceThread {
    fn drop(&mut self) {
        // Relaxed: nothing but the flag is told.
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            let what =
                panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(what, "the device's thread panicked");
        }
    }
}

fn pin(core: usize) -> io::Result<()> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidInput, format!("no such core: {core}"));
    if core >= CpuSet::MAX_CPU {
        return Err(wrong());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).map_err(|_| wrong())
}

/// Steps until told to stop: without a pause while there is work, and ever more gently when there is none.
fn run(mut device: Device, stop: &AtomicBool) {
    let mut idle_steps = 0_u32;
    let mut idle_since = None;
    // Relaxed: nothing but the flag is told.
    while !stop.load(Ordering::Relaxed) && !device.is_closed() {
        if device.step() > 0 {
            idle_steps = 0;
            idle_since = None;
            continue;
        }
        idle_steps = idle_steps.saturating_add(1);
        if idle_steps < SPINS {
            std::hint::spin_loop();
            continue;
        }
        let since = *idle_since.get_or_insert_with(Instant::now);
        if since.elapsed() < SPIN_TIME {
            std::hint::spin_loop();
        } else if device.is_abandoned() {
            return;
        } else {
            thread::sleep(SLEEP);
        }
    }
}
