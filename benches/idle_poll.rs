//! What does a poll cost in which nothing happens? The whole poll of an attached controller with a registered producer, and its external part (the
//! attention word and the ring) alone; the schemes side by side.
//!
//! The clock is read once for all polls, as who polls many controllers reads it.

mod rig;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rig::Rig;
use slipring::ring::probe::Probe;
use slipring::ring::{LockFree, Scheme, rivals};
use std::hint::black_box;
use std::time::Instant;

fn external<S: Scheme>(c: &mut Criterion) {
    let mut probe = Probe::<S>::new(1024);
    c.benchmark_group("idle_poll/external part").bench_function(
        BenchmarkId::from_parameter(S::NAME),
        |bencher| {
            bencher.iter(|| black_box(&mut probe).poll(|_| {}));
        },
    );
}

fn whole<S: Scheme>(c: &mut Criterion) {
    let mut rig = Rig::<S>::attach();
    let _producer = rig.ctrlr.register("bench").expect("registered");
    rig.settle();
    let now = Instant::now();
    c.benchmark_group("idle_poll/whole poll").bench_function(
        BenchmarkId::from_parameter(S::NAME),
        |bencher| {
            bencher.iter(|| black_box(&mut rig.poller).poll(now).expect("live"));
        },
    );
}

fn all(c: &mut Criterion) {
    external::<LockFree>(c);
    external::<rivals::Spinlock>(c);
    external::<rivals::SpinlockFlag>(c);
    external::<rivals::RobustMutex>(c);
    whole::<LockFree>(c);
    whole::<rivals::Spinlock>(c);
    whole::<rivals::SpinlockFlag>(c);
    whole::<rivals::RobustMutex>(c);
}

criterion_group!(benches, all);
criterion_main!(benches);
