//! What does a message cost, from its sender to the poller on another core and its outcome back? One producer and four, one by one and in batches.
//!
//! The time is per message, as the sender sees it, with a window of 256 in flight.

mod rig;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rig::Rig;
use slipring::ctrlr::{Message, Producer, SendErrorReason};
use slipring::ring::{LockFree, Mailbox, Outcome, Scheme, rivals};
use std::time::{Duration, Instant};

const WINDOW: usize = 256;

/// Sends `count` messages in batches of `batch` and receives their outcomes.
fn send<S: Scheme>(producer: &Producer<S>, count: u64, batch: usize) {
    let mut mailbox = Mailbox::new(WINDOW);
    let mut messages = Vec::with_capacity(batch);
    let (mut sent, mut received) = (0, 0);
    while received < count {
        if sent < count && batch == 1 {
            sent += u64::from(producer.send_to(&mut mailbox, sent, Message::call(|_| 0)).is_ok());
        } else if sent < count {
            while messages.len() < batch && sent + (messages.len() as u64) < count {
                messages.push((sent, Message::call(|_| 0)));
            }
            match producer.send_batch_to(&mut mailbox, &mut messages) {
                Ok(accepted) => sent += accepted as u64,
                Err(SendErrorReason::Full | SendErrorReason::WindowFull) => {}
                Err(reason) => panic!("{reason}"),
            }
        }
        received += mailbox.receive(|_, outcome| assert!(matches!(outcome, Outcome::Completed(_)))) as u64;
    }
}

fn scheme<S: Scheme>(c: &mut Criterion, senders: u64, batch: usize) {
    let mut group = c.benchmark_group(format!("send/{senders} producers, batches of {batch}"));
    group.throughput(Throughput::Elements(1)).measurement_time(Duration::from_secs(2)).sample_size(20);
    let mut rig = Rig::<S>::attach();
    let producer = rig.ctrlr.register("bench").expect("registered");
    rig.settle();
    group.bench_function(BenchmarkId::from_parameter(S::NAME), |bencher| {
        bencher.iter_custom(|iterations| {
            let each = iterations.div_ceil(senders).max(1);
            let elapsed = rig.poll_while(|| {
                let started = Instant::now();
                std::thread::scope(|scope| {
                    for _ in 1..senders {
                        scope.spawn(|| send(&producer, each, batch));
                    }
                    send(&producer, each, batch);
                });
                started.elapsed()
            });
            // Per message, as many as were asked for.
            elapsed.mul_f64(iterations as f64 / (each * senders) as f64)
        });
    });
    group.finish();
}

fn all(c: &mut Criterion) {
    for (senders, batch) in [(1, 1), (1, 8), (4, 1)] {
        scheme::<LockFree>(c, senders, batch);
        scheme::<rivals::Spinlock>(c, senders, batch);
        scheme::<rivals::SpinlockFlag>(c, senders, batch);
        scheme::<rivals::RobustMutex>(c, senders, batch);
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
