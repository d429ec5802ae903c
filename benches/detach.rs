//! How long does it take to be rid of the ring, while it is polled from another core? From the last unregister to its return, by which every outcome is
//! delivered; with an empty ring, and with 512 messages sent right before.

mod rig;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use rig::Rig;
use slipring::ctrlr::Message;
use slipring::ring::{LockFree, Mailbox, Scheme, rivals};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_secs(10);

fn scheme<S: Scheme>(c: &mut Criterion, left: usize) {
    let mut group = c.benchmark_group(format!("detach/{left} messages"));
    group.measurement_time(Duration::from_secs(2)).sample_size(20);
    let mut rig = Rig::<S>::attach();
    let ctrlr = rig.ctrlr.clone();
    group.bench_function(BenchmarkId::from_parameter(S::NAME), |bencher| {
        bencher.iter_custom(|iterations| {
            rig.poll_while(|| {
                let mut mailbox = Mailbox::new(left.max(1));
                let mut elapsed = Duration::ZERO;
                for _ in 0..iterations {
                    let producer = ctrlr.register("bench").expect("registered");
                    let mut messages: Vec<_> =
                        (0..left as u64).map(|id| (id, Message::call(|_| 0))).collect();
                    producer.send_batch_to(&mut mailbox, &mut messages).expect("room for all");
                    let started = Instant::now();
                    ctrlr.unregister("bench", TIMEOUT).expect("unregistered");
                    elapsed += started.elapsed();
                    while mailbox.in_flight() > 0 {
                        mailbox.receive(|_, _| {});
                    }
                }
                elapsed
            })
        });
    });
    group.finish();
}

fn all(c: &mut Criterion) {
    for left in [0, 512] {
        scheme::<LockFree>(c, left);
        scheme::<rivals::Spinlock>(c, left);
        scheme::<rivals::SpinlockFlag>(c, left);
        scheme::<rivals::RobustMutex>(c, left);
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
