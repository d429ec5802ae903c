//! Measure 5: how long it takes to end. The message path (the last unregister, with a live poller on the other core), and the whole controller.
#![forbid(unsafe_code)]

use super::ledger::{Counts, Ledger};
use super::machine::{Cores, nanoseconds, pin};
use super::rig::Rig;
use crate::error::Error;
use crate::latency::Histogram;
use slipring::ctrlr::{Message, Reply};
use slipring::poller::PollError;
use slipring::ring::{Mailbox, Scheme};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages that are left in the ring.
pub(super) const LEFT: usize = 512;
const NAME: &str = "detach";
const TIMEOUT: Duration = Duration::from_secs(10);

/// The message path's detach latencies.
pub(super) struct Detach {
    /// From the call of the last unregister to its return, by which every outcome is delivered.
    pub(super) latency: Histogram,
    pub(super) counts: Counts,
}

/// Registers, leaves `left` messages in the ring, and unregisters, again and again for `duration`.
pub(super) fn message_path<S: Scheme>(
    rig: &mut Rig<S>,
    cores: &Cores,
    left: usize,
    duration: Duration,
) -> Result<Detach, Error> {
    rig.quiesce()?;
    let ctrlr = rig.ctrlr.clone();
    // While it is held, the polling thread does not poll: only so can messages be left. It is let go right before the unregister.
    let (held, is_held, stop) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| -> Result<(), Error> {
            pin(cores.poller)?;
            // Relaxed but for the pair below: these flags only start and end loops.
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = rig.turn() {
                    gone.store(true, Ordering::Relaxed);
                    return Err(Error::failed(error));
                }
                if held.load(Ordering::Relaxed) {
                    // Release: pairs with the Acquire of who waits to fill the ring.
                    is_held.store(true, Ordering::Release);
                    while held.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    is_held.store(false, Ordering::Release);
                }
            }
            Ok(())
        });
        let ending = scope.spawn(|| -> Result<Detach, Error> {
            pin(cores.sender(0))?;
            let mut latency = Histogram::new();
            let mut ledger = Ledger::new();
            let mut mailbox: Mailbox<Reply> = Mailbox::new(LEFT);
            let mut messages = Vec::with_capacity(LEFT);
            let started = Instant::now();
            while started.elapsed() < duration && !gone.load(Ordering::Relaxed) {
                let producer = ctrlr.register(NAME).map_err(Error::failed)?;
                settle_in();
                if left > 0 {
                    held.store(true, Ordering::Relaxed);
                    while !is_held.load(Ordering::Acquire) && !gone.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    let first = ledger.next();
                    messages.extend((first..).take(left).map(|id| (id, Message::call(|_| 0))));
                    let sent = producer.send_batch_to(&mut mailbox, &mut messages);
                    let sent =
                        sent.map_err(|reason| Error::failed(format!("a batch was refused: {reason}")))?;
                    ledger.accepted(sent);
                    messages.drain(..).for_each(|_| ledger.rejected());
                }
                let before = Instant::now();
                held.store(false, Ordering::Relaxed);
                ctrlr.unregister(NAME, TIMEOUT).map_err(Error::failed)?;
                latency.record(nanoseconds(before.elapsed()));
                // All are there with lockfree. A rival's poller may still be at work on what it took out before: it took it under the
                // lock, and runs it outside.
                let returned = Instant::now();
                while mailbox.in_flight() != 0 {
                    ledger.receive(&mut mailbox);
                    if returned.elapsed() > TIMEOUT {
                        return Err(Error::failed("after an unregister, outcomes were missing for 10 s"));
                    }
                }
            }
            Ok(Detach { latency, counts: ledger.close(&mut mailbox) })
        });
        let ended = ending.join().map_err(|_| Error::failed("the detaching thread panicked"))?;
        stop.store(true, Ordering::Relaxed);
        polling.join().map_err(|_| Error::failed("the polling thread panicked"))??;
        ended
    })
}

/// Lets the poller find the new ring, as one that is used would have been found long ago.
fn settle_in() {
    let before = Instant::now();
    while before.elapsed() < Duration::from_micros(5) {
        std::hint::spin_loop();
    }
}

/// Detaches the whole controller from another thread while it is polled, with messages in flight; how long that took, and what became of them.
pub(super) fn controller<S: Scheme>(rig: Rig<S>, cores: &Cores) -> Result<(Duration, Counts), Error> {
    let ctrlr = rig.ctrlr.clone();
    let stop = AtomicBool::new(false);
    let stop = &stop;
    std::thread::scope(|scope| {
        let polling = scope.spawn(move || -> Result<(), Error> {
            pin(cores.poller)?;
            let mut rig = rig;
            while !stop.load(Ordering::Relaxed) {
                match rig.turn() {
                    Ok(_) | Err(PollError::Detached) => {}
                    Err(error) => return Err(Error::failed(error)),
                }
                // The device's part of the detach is on this thread, whoever drives the rest.
                rig.device.step();
            }
            match rig.device.violations().first() {
                None => Ok(()),
                Some(violation) => {
                    Err(Error::failed(format!("the driver broke a rule of NVMe: {violation}")))
                }
            }
        });
        let ending = scope.spawn(|| -> Result<(Duration, Counts), Error> {
            pin(cores.sender(0))?;
            let producer = ctrlr.register(NAME).map_err(Error::failed)?;
            let mut ledger = Ledger::new();
            let mut mailbox: Mailbox<Reply> = Mailbox::new(64);
            for _ in 0..64 {
                // Counted as refused if it is.
                let _ = ledger.send(&producer, &mut mailbox);
            }
            let before = Instant::now();
            ctrlr.detach(TIMEOUT).map_err(Error::failed)?;
            let took = before.elapsed();
            Ok((took, ledger.close(&mut mailbox)))
        });
        let ended = ending.join().map_err(|_| Error::failed("the detaching thread panicked"))?;
        stop.store(true, Ordering::Relaxed);
        polling.join().map_err(|_| Error::failed("the polling thread panicked"))??;
        ended
    })
}
