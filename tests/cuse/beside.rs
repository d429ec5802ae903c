//! What a poller notices of the nodes' clients: I/O of its own, as `slipring perf` does it, on one core that also steps the device, while twelve clients and the server
//! share the other cores. What the emulated device takes for its work, of which the clients give it more, is counted apart: a real one would do it by itself.
//!
//! With `SLIPRING_MEASURE_SECONDS` it says what it measured, for devices that answer at once and for those that take their time, with one read at a time and with as
//! many as `slipring perf` has by default; runs alone and runs beside the clients in turns. A test on a busy machine cannot judge latencies, so here only the work counts.

use crate::kernel::Kernel;
use crate::rig::{admin, small};
use crate::support::{Stepped, wait_until};
use slipring::ctrlr::CtrlrOptions;
use slipring::cuse::{ServeOptions, Server};
use slipring::dma::DmaBuffer;
use slipring::emulated::{Latency, QueueKind};
use slipring::poller::{Poller, QpairOptions, QueuePair, core_ids, pin_to_core};
use slipring::ring::LockFree;
use slipring::spec::command::Command;
use slipring::spec::identify::Cns;
use std::io::Write as _;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than any turn of the loop takes, beyond what the device takes of it, whose thread is left alone.
const STALL: Duration = Duration::from_micros(25);
/// How long a device may take for a read: none of it, a fast drive's time, and a usual one's.
const LATENCIES: [Duration; 3] = [Duration::ZERO, Duration::from_micros(10), Duration::from_micros(80)];
/// How many reads may be in flight: the default of `slipring perf`, and one.
const DEPTHS: [usize; 2] = [32, 1];

/// How long this thread was ready to run and had no core so far, as the kernel counts it: that wait is nobody's lock.
fn waited_ns() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a /proc file system");
    let waited = counts.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    waited.expect("the kernel counts it")
}

/// How long reads took, in nanoseconds, sorted: all together, and without what the device took meanwhile; and how long the turns of the loop took that were stalled.
struct Reads {
    all: Vec<u64>,
    without_device: Vec<u64>,
    stalled: Duration,
}

/// Reads blocks, `depth` of them at a time.
fn reads(
    rig: &mut Stepped<LockFree>,
    poller: &mut Poller,
    qpair: &mut QueuePair,
    depth: usize,
    run: Duration,
) -> Reads {
    let namespace = rig.ctrlr.namespaces()[0];
    let (all, without_device) = (Vec::with_capacity(1 << 24), Vec::with_capacity(1 << 24));
    let mut took = Reads { all, without_device, stalled: Duration::ZERO };
    let mut device = Duration::ZERO;
    let begun = Instant::now();
    // Of each read, by its token: when it was submitted, and how long the device had been at work by then.
    let mut submitted = vec![(begun, device); depth];
    let mut idle: Vec<(u64, DmaBuffer)> =
        (0..depth as u64).map(|token| (token, rig.ctrlr.allocate(4096).expect("memory"))).collect();
    let mut lba = 0;
    let mut is_over = false;
    while !is_over || qpair.outstanding() > 0 {
        let turn = Instant::now();
        // One at least, also on a machine that is so busy that the time is over at once.
        is_over = begun.elapsed() >= run && !took.all.is_empty();
        while !is_over && let Some((token, buffer)) = idle.pop() {
            submitted[token as usize] = (Instant::now(), device);
            lba = (lba + 8) % 8000;
            qpair.read(&namespace, lba, buffer.into(), token).expect("submitted");
        }
        let polled = qpair.poll(depth, |io| {
            assert!(io.is_success());
            let (since, device_then) = submitted[io.token as usize];
            let all = since.elapsed();
            took.all.push(all.as_nanos() as u64);
            took.without_device.push((all + device_then).saturating_sub(device).as_nanos() as u64);
            idle.extend(io.data.map(|data| (io.token, data.into_buffer())));
        });
        polled.expect("alive");
        poller.poll(turn).expect("alive");
        let begins = Instant::now();
        if begins - turn > STALL {
            took.stalled += begins - turn;
        }
        rig.device.step();
        device += begins.elapsed();
    }
    took.all.sort_unstable();
    took.without_device.sort_unstable();
    took
}

#[test]
fn a_poller_does_its_io_beside_twelve_clients() {
    let seconds = std::env::var("SLIPRING_MEASURE_SECONDS").ok().and_then(|text| text.parse::<f64>().ok());
    for depth in DEPTHS {
        for latency in &LATENCIES[..if seconds.is_some() { LATENCIES.len() } else { 1 }] {
            // On a thread of its own, as it is pinned, and those that it starts with it.
            let run = std::thread::scope(|scope| {
                scope.spawn(|| beside_twelve_clients(*latency, depth, seconds)).join()
            });
            run.expect("no panic");
        }
    }
}

/// Polls and steps, by the clock and not by a number of steps, as what it waits for has threads of its own.
fn poll_until(rig: &mut Stepped<LockFree>, poller: &mut Poller, what: &str, mut ready: impl FnMut() -> bool) {
    wait_until(what, || {
        poller.poll(Instant::now()).expect("alive");
        rig.device.step();
        ready()
    });
}

fn beside_twelve_clients(latency: Duration, depth: usize, seconds: Option<f64>) {
    let run = Duration::from_secs_f64(seconds.unwrap_or(0.15));
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
    // Held by whoever wants to be alone; the clients pass through it.
    let gate = RwLock::new(());
    let ctrlr = rig.ctrlr.clone();
    std::thread::scope(|scope| {
        let (kernel, stop, answered, gate, cores, pin) = (&kernel, &stop, &answered, &gate, &cores, &pin);
        let clients = scope.spawn(move || {
            // Threads start on the cores of whoever starts them.
            pin(cores.first());
            let server = Server::start(kernel.clone()).expect("a server");
            let served = server.serve(&ctrlr, &ServeOptions::default()).expect("served");
            std::thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| {
                        let file = kernel.open_node("nvme0");
                        while !stop.load(Ordering::Relaxed) {
                            drop(gate.read().expect("nobody panicked"));
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
        poll_until(&mut rig, &mut poller, "a client is answered", || answered.load(Ordering::Relaxed) > 0);
        let mut measure = |what: &str| {
            let before = answered.load(Ordering::Relaxed);
            let waited = waited_ns();
            let took = reads(&mut rig, &mut poller, &mut qpair, depth, run);
            let unexplained = took.stalled.saturating_sub(Duration::from_nanos(waited_ns() - waited));
            let ioctls = answered.load(Ordering::Relaxed) - before;
            let percentiles = |took: &[u64]| {
                [0.5, 0.99, 0.999, 0.9999, 1.0].map(|share| took[((took.len() - 1) as f64 * share) as usize])
            };
            let report = format!(
                "{depth} at a time, a device of {latency:?}, {what}: {} reads, p50, p99, p99.9, p99.99 and max {:?} ns, without the device {:?} ns, \
                 unexplained stall {:.2} ms per second; {ioctls} ioctls\n",
                took.all.len(),
                percentiles(&took.all),
                percentiles(&took.without_device),
                unexplained.as_secs_f64() * 1e3 / run.as_secs_f64(),
            );
            if seconds.is_some() {
                std::io::stderr().write_all(report.as_bytes()).expect("written");
            }
            assert!(!took.all.is_empty());
        };
        for _ in 0..if seconds.is_some() { 4 } else { 1 } {
            let alone = gate.write();
            measure("alone");
            drop(alone);
            measure("beside twelve clients");
        }
        stop.store(true, Ordering::Relaxed);
        poll_until(&mut rig, &mut poller, "the clients are gone", || clients.is_finished());
        clients.join().expect("no panic");
    });
    drop(qpair);
    drop(poller);
    rig.finish();
}
