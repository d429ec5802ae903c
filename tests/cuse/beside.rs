//! What a poller notices of the nodes' clients: I/O of its own, one at a time, on one core that also steps the device, while twelve clients and the server share the
//! other cores. What the emulated device takes for its work, of which the clients give it more, is counted apart: a real one would do it by itself.
//!
//! With `SLIPRING_MEASURE_SECONDS` it says what it measured, for devices that answer at once and for those that take their time. A test on a busy machine cannot judge
//! latencies, so here only the work counts.

use crate::kernel::Kernel;
use crate::rig::{admin, small};
use crate::support::{DEADLINE, Stepped};
use slipring::ctrlr::CtrlrOptions;
use slipring::cuse::{ServeOptions, Server};
use slipring::dma::DmaSlice;
use slipring::emulated::{Latency, QueueKind};
use slipring::poller::{Poller, QpairOptions, QueuePair, core_ids, pin_to_core};
use slipring::ring::LockFree;
use slipring::spec::command::Command;
use slipring::spec::identify::Cns;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than any read takes, beyond what the device takes for it, whose thread is left alone.
const STALL: Duration = Duration::from_micros(25);
/// How long a device may take for a read: none of it, a fast drive's time, and a usual one's.
const LATENCIES: [Duration; 3] = [Duration::ZERO, Duration::from_micros(10), Duration::from_micros(80)];

/// How long this thread was ready to run and had no core so far, as the kernel counts it: that wait is nobody's lock.
fn waited_ns() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a /proc file system");
    let waited = counts.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    waited.expect("the kernel counts it")
}

/// How long reads took, in nanoseconds, sorted: all together, and without what the device took meanwhile.
struct Reads {
    all: Vec<u64>,
    without_device: Vec<u64>,
}

/// Reads one block after the other.
fn reads(rig: &mut Stepped<LockFree>, poller: &mut Poller, qpair: &mut QueuePair, run: Duration) -> Reads {
    let namespace = rig.ctrlr.namespaces()[0];
    let mut buffer = Some(rig.ctrlr.allocate(4096).expect("memory"));
    let mut took = Reads { all: Vec::with_capacity(1 << 24), without_device: Vec::with_capacity(1 << 24) };
    let begun = Instant::now();
    // One at least, also on a machine that is so busy that the time is over at once.
    while took.all.is_empty() || begun.elapsed() < run {
        let started = Instant::now();
        let data = buffer.take().expect("one at a time").into();
        qpair.read(&namespace, took.all.len() as u64 % 1000 * 8, data, 7).expect("submitted");
        let mut device = Duration::ZERO;
        while buffer.is_none() {
            let polled = qpair.poll(32, |io| {
                assert!(io.is_success());
                buffer = io.data.map(DmaSlice::into_buffer);
            });
            polled.expect("alive");
            poller.poll(started).expect("alive");
            let begins = Instant::now();
            rig.device.step();
            device += begins.elapsed();
        }
        let all = started.elapsed();
        took.all.push(all.as_nanos() as u64);
        took.without_device.push(all.saturating_sub(device).as_nanos() as u64);
    }
    took.all.sort_unstable();
    took.without_device.sort_unstable();
    took
}

#[test]
fn a_poller_does_its_io_beside_twelve_clients() {
    let seconds = std::env::var("SLIPRING_MEASURE_SECONDS").ok().and_then(|text| text.parse::<f64>().ok());
    for latency in &LATENCIES[..if seconds.is_some() { LATENCIES.len() } else { 1 }] {
        // On a thread of its own, as it is pinned, and those that it starts with it.
        let run = std::thread::scope(|scope| scope.spawn(|| beside_twelve_clients(*latency, seconds)).join());
        run.expect("no panic");
    }
}

fn beside_twelve_clients(latency: Duration, seconds: Option<f64>) {
    let run = Duration::from_secs_f64(seconds.unwrap_or(0.3));
    let cores = core_ids();
    let pin = |core: Option<&usize>| {
        if let (Some(_), Some(core)) = (seconds, core) {
            pin_to_core(*core).expect("pinned");
        }
    };
    let mut config = small();
    config.latencies.push(Latency { queue: QueueKind::Io, opcode: None, delay: latency });
    let mut rig = Stepped::<LockFree>::attach(config, CtrlrOptions::default());
    let mut poller = rig.poller();
    let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions::default()).expect("a queue pair");
    rig.run(&mut poller, "connected", || qpair.connected().expect("well"));
    let kernel = Kernel::default();
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let ctrlr = rig.ctrlr.clone();
    std::thread::scope(|scope| {
        let (may_begin, begin) = std::sync::mpsc::channel::<()>();
        let (kernel, stop, answered, cores, pin) = (&kernel, &stop, &answered, &cores, &pin);
        let clients = scope.spawn(move || {
            // Threads start on the cores of whoever starts them.
            pin(cores.first());
            let server = Server::start(kernel.clone()).expect("a server");
            begin.recv().expect("told");
            let served = server.serve(&ctrlr, &ServeOptions::default()).expect("served");
            std::thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        let file = kernel.open_node("nvme0");
                        while !stop.load(Ordering::Relaxed) {
                            let identify = Command::identify(Cns::CTRLR, 0, 0);
                            assert_eq!(admin(&file, identify, &[0; 4096]).expect("answered").0, 0);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            drop(served);
            drop(server);
        });
        pin(cores.last());
        let mut measure = |what: &str| {
            let before = answered.load(Ordering::Relaxed);
            let waited = waited_ns();
            let took = reads(&mut rig, &mut poller, &mut qpair, run);
            let usual = latency.as_nanos() as u64;
            let late = took.all.iter().map(|took| took.saturating_sub(usual));
            let stall = late.filter(|late| u128::from(*late) > STALL.as_nanos()).sum::<u64>();
            let unexplained = stall.saturating_sub(waited_ns() - waited) as f64 / 1e6 / run.as_secs_f64();
            let ioctls = answered.load(Ordering::Relaxed) - before;
            let percentiles = |took: &[u64]| {
                [0.5, 0.99, 0.999, 0.9999, 1.0].map(|share| took[((took.len() - 1) as f64 * share) as usize])
            };
            let report = format!(
                "a device of {latency:?}, {what}: {} reads, p50, p99, p99.9, p99.99 and max {:?} ns, without the device {:?} ns, \
                 unexplained stall {unexplained:.2} ms per second; {ioctls} ioctls\n",
                took.all.len(),
                percentiles(&took.all),
                percentiles(&took.without_device),
            );
            if seconds.is_some() {
                std::io::stderr().write_all(report.as_bytes()).expect("written");
            }
            assert!(!took.all.is_empty());
        };
        for what in ["alone", "alone again", "alone again"] {
            measure(what);
        }
        may_begin.send(()).expect("it waits");
        measure("clients begin");
        for _ in 0..if seconds.is_some() { 3 } else { 1 } {
            measure("beside twelve clients");
        }
        let started = Instant::now();
        while answered.load(Ordering::Relaxed) == 0 {
            poller.poll(Instant::now()).expect("alive");
            rig.device.step();
            assert!(started.elapsed() < DEADLINE, "no client is answered");
        }
        stop.store(true, Ordering::Relaxed);
        while !clients.is_finished() {
            poller.poll(Instant::now()).expect("alive");
            rig.device.step();
        }
        clients.join().expect("no panic");
    });
    drop(qpair);
    drop(poller);
    rig.finish();
}
