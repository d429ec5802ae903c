//! A whole embedder: one thread polls the controller and does I/O, another asks for SMART data and a reset, and at the end
//! the controller is detached under both.
//!
//! Run it with `cargo run --release --example embed`.
#![allow(clippy::print_stdout, reason = "a program, not the library")]

use slipring::ctrlr::{Ctrlr, CtrlrOptions, admin};
use slipring::poller::{PollError, Poller, QpairError, QpairOptions, SubmitReason};
use slipring::{emulated, ring::LockFree};
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const QUEUE_DEPTH: usize = 32;
const IO_BYTES: usize = 4096;

/// The polling thread: I/O as fast as it goes, until the controller is detached. Returns how many reads completed.
fn poll(mut poller: Poller) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let mut qpair = poller.queue_pair(&QpairOptions::default())?;
    let namespace = *poller.ctrlr().namespaces().first().ok_or("no namespace")?;
    let blocks_per_io = (IO_BYTES as u64) / u64::from(namespace.block_bytes);
    let mut idle = Vec::new();
    for _ in 0..QUEUE_DEPTH {
        idle.push(poller.allocate(IO_BYTES)?.into());
    }
    let (mut lba, mut reads) = (0, 0);
    loop {
        while let Some(data) = idle.pop() {
            lba = (lba + blocks_per_io) % (namespace.size_blocks - blocks_per_io);
            if let Err(refused) = qpair.read(&namespace, lba, data, 0) {
                // Full, or being reset: the data are back; poll first.
                assert!(matches!(
                    refused.reason,
                    SubmitReason::QueueFull | SubmitReason::NotConnected | SubmitReason::Gone
                ));
                idle.extend(refused.data);
                break;
            }
        }
        let completed = qpair.poll(QUEUE_DEPTH, |completion| {
            reads += u64::from(completion.is_success());
            idle.extend(completion.data);
        });
        match (completed, poller.poll(Instant::now())) {
            // Detached: what was in flight has come back with the last polls.
            (Err(QpairError::Gone(None)), Err(PollError::Detached)) => return Ok(reads),
            (_, Ok(_) | Err(PollError::Detached)) => {}
            (_, Err(failed)) => return Err(failed.into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let (transport, device) = emulated::new(emulated::address::parse("emulated:size=64M")?)?;
    let _device = device.spawn(None)?;
    let ctrlr = Ctrlr::<LockFree>::attach(transport, CtrlrOptions::default())?;
    let poller = Poller::new(&ctrlr, "reactor 0")?;
    let polling = thread::spawn(move || poll(poller));

    let monitor = ctrlr.register("monitor")?;
    for _ in 0..3 {
        let smart = monitor.call(admin::smart_log(), SECOND)?;
        println!("{} K, statistics {:?}", smart.temperature_k(), ctrlr.statistics());
        thread::sleep(Duration::from_millis(100));
    }
    ctrlr.reset()?.wait(5 * SECOND)?;
    println!("reset; {}", ctrlr.state());
    thread::sleep(Duration::from_millis(100));
    ctrlr.unregister("monitor", SECOND)?;
    ctrlr.detach(5 * SECOND)?;
    let reads = polling.join().map_err(|_| "the polling thread panicked")??;
    println!("{}; {reads} reads", ctrlr.state());
    Ok(())
}
