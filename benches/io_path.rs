//! What does an I/O cost on the driver's side? Submission, doorbell and completion of 512-byte reads, with the device stepped on the same thread; the
//! device's own share is measured beside it, by steps that find nothing to do, and by what it does for the same reads.

mod rig;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rig::Rig;
use slipring::dma::DmaSlice;
use slipring::poller::QueuePair;
use slipring::ring::LockFree;
use std::hint::black_box;
use std::time::{Duration, Instant};

const IO_BYTES: usize = 512;

/// One round of `depth` reads; the times of the driver's calls and of the device's steps.
fn round(
    rig: &mut Rig<LockFree>,
    qpair: &mut QueuePair,
    idle: &mut Vec<DmaSlice>,
    depth: usize,
) -> (Duration, Duration) {
    let namespace = rig.ctrlr.namespaces()[0];
    let started = Instant::now();
    for token in 0..depth {
        let data = idle.pop().expect("a buffer for each");
        qpair.read(&namespace, token as u64, data, token as u64).expect("room in the queue");
    }
    qpair.commit();
    let submitted = Instant::now();
    while rig.device.step() > 0 {}
    let stepped = Instant::now();
    let mut completed = 0;
    while completed < depth {
        completed += qpair
            .poll(depth, |completion| {
                assert!(completion.is_success());
                idle.extend(completion.data);
            })
            .expect("alive");
        if completed < depth {
            rig.device.step();
        }
    }
    (submitted - started + stepped.elapsed(), stepped - submitted)
}

fn all(c: &mut Criterion) {
    let mut rig = Rig::<LockFree>::attach();
    let mut qpair = rig.queue_pair(256);
    for depth in [1, 32, 128] {
        let mut idle: Vec<DmaSlice> =
            (0..depth).map(|_| rig.ctrlr.allocate(IO_BYTES).expect("memory").into()).collect();
        let mut group = c.benchmark_group(format!("io_path/depth {depth}"));
        group.throughput(Throughput::Elements(1));
        for (name, is_driver) in [("driver", true), ("emulated device", false)] {
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter_custom(|iterations| {
                    let rounds = iterations.div_ceil(depth as u64).max(1);
                    let mut elapsed = Duration::ZERO;
                    for _ in 0..rounds {
                        let (driver, device) = round(&mut rig, &mut qpair, &mut idle, depth);
                        elapsed += if is_driver { driver } else { device };
                    }
                    elapsed.mul_f64(iterations as f64 / (rounds * depth as u64) as f64)
                });
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("io_path/idle");
    group.bench_function("queue pair poll", |bencher| {
        bencher.iter(|| black_box(&mut qpair).poll(32, |_| {}).expect("alive"));
    });
    group.bench_function("device step", |bencher| bencher.iter(|| black_box(&mut rig.device).step()));
    group.finish();
}

criterion_group!(benches, all);
criterion_main!(benches);
