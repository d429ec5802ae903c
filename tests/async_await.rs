//! Outcomes as futures: `.await` on tickets and admin calls, with no executor but a thread that parks.

mod support;

use slipring::ctrlr::{CallError, Message, Producer, Reply, SendErrorReason, admin};
use slipring::emulated::{Config, Latency, QueueKind};
use slipring::ring::{AbortReason, LockFree, Outcome, Scheme, Ticket, rivals};
use slipring::spec::command::{AdminOpcode, Command};
use slipring::spec::feature::FeatureId;
use slipring::spec::status::Status;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};
use support::{DEADLINE, PollThread, Rig};

/// Unparks the thread that waits, and counts how often.
struct Unparks {
    thread: Thread,
    /// Relaxed: a count of its own.
    wakes: AtomicU64,
}

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// The smallest executor: polls, and parks until it is woken. A future that is not woken in time fails the test instead of being polled again.
fn block_on<F: Future>(future: F) -> F::Output {
    let unparks = Arc::new(Unparks { thread: std::thread::current(), wakes: AtomicU64::new(0) });
    let waker = Waker::from(Arc::clone(&unparks));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        let seen = unparks.wakes.load(Ordering::Relaxed);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        let started = Instant::now();
        while unparks.wakes.load(Ordering::Relaxed) == seen {
            assert!(started.elapsed() < DEADLINE, "a future was never woken");
            std::thread::park_timeout(DEADLINE);
        }
    }
}

/// Two futures at once, each polled until it is ready.
struct Both<A: Future, B: Future> {
    futures: (Pin<Box<A>>, Pin<Box<B>>),
    outputs: (Option<A::Output>, Option<B::Output>),
}

impl<A: Future, B: Future> Both<A, B> {
    fn new(first: A, second: B) -> Self {
        Self { futures: (Box::pin(first), Box::pin(second)), outputs: (None, None) }
    }
}

impl<A: Future, B: Future> Future for Both<A, B>
where
    A::Output: Unpin,
    B::Output: Unpin,
{
    type Output = (A::Output, B::Output);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if this.outputs.0.is_none()
            && let Poll::Ready(output) = this.futures.0.as_mut().poll(context)
        {
            this.outputs.0 = Some(output);
        }
        if this.outputs.1.is_none()
            && let Poll::Ready(output) = this.futures.1.as_mut().poll(context)
        {
            this.outputs.1 = Some(output);
        }
        match (this.outputs.0.take(), this.outputs.1.take()) {
            (Some(first), Some(second)) => Poll::Ready((first, second)),
            outputs => {
                this.outputs = outputs;
                Poll::Pending
            }
        }
    }
}

/// Gets out of the others' way once.
fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    std::future::poll_fn(move |context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
}

/// Longer than any test takes.
const HOUR: Duration = Duration::from_secs(3600);

fn is_aborted_by_reset(outcome: &Outcome<Reply>) -> bool {
    matches!(outcome, Outcome::Aborted(why) if why.reason == AbortReason::Reset)
}

fn slow_features(delay: Duration) -> Config {
    let latency = Latency { queue: QueueKind::Admin, opcode: Some(AdminOpcode::GET_FEATURES.0), delay };
    Config { latencies: vec![latency], ..Config::default() }
}

fn get_features() -> Message {
    let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
    Message::Admin { command, data: None }
}

/// Sends, and again while the ring is full.
async fn send<S: Scheme>(producer: &Producer<S>, mut message: Message) -> Ticket<Reply> {
    loop {
        match producer.send(message) {
            Ok(ticket) => return ticket,
            Err(error) if error.reason == SendErrorReason::Full => message = error.message,
            Err(error) => panic!("{error}"),
        }
        yield_once().await;
    }
}

#[test]
fn tickets_and_calls_are_awaited_under_every_scheme() {
    fn scenario<S: Scheme>() {
        let rig: Rig<S> = Rig::attach(slow_features(Duration::from_millis(5)));
        let polling = PollThread::spawn(rig.poller());
        let producer = rig.ctrlr.register("async").expect("registered");
        block_on(async {
            // Slow enough that it has to be waited for, with a wake-up.
            let outcome = send(&producer, get_features()).await.await;
            assert!(matches!(outcome, Outcome::Completed(Reply::Command { status: Status::SUCCESS, .. })));
            let smart = producer.start_call(admin::smart_log()).expect("sent").await.expect("SMART");
            assert!(smart.temperature_k() > 200);
            let refused = producer.start_call(admin::get_feature(FeatureId(0xfe), 0)).expect("sent").await;
            assert!(
                matches!(refused, Err(CallError::Status(status)) if status.without_dnr() == Status::INVALID_FIELD)
            );
            let outcome = send(&producer, Message::call(|turn| turn.namespaces().len() as u64)).await.await;
            assert!(matches!(outcome, Outcome::Completed(Reply::Called(1))));
        });
        rig.ctrlr.unregister("async", DEADLINE).expect("unregistered");
        drop(polling.stop());
        rig.finish();
    }
    scenario::<LockFree>();
    scenario::<rivals::Spinlock>();
    scenario::<rivals::SpinlockFlag>();
    scenario::<rivals::RobustMutex>();
}

/// The first one is answered by no device: only the second one's answer ends it, with a reset.
#[test]
fn two_tickets_are_awaited_at_once_and_the_later_one_holds_up_no_one() {
    let rig: Rig = Rig::attach(slow_features(HOUR));
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("async").expect("registered");
    let (slow, quick) = block_on(async {
        let slow = send(&producer, get_features()).await;
        let quick = send(&producer, Message::call(|_| 7)).await;
        let ends_it = async {
            let outcome = quick.await;
            drop(rig.ctrlr.reset().expect("asked"));
            outcome
        };
        Both::new(slow, ends_it).await
    });
    assert!(is_aborted_by_reset(&slow), "{slow:?}");
    assert!(matches!(quick, Outcome::Completed(Reply::Called(7))));
    drop(polling.stop());
    rig.finish();
}

/// Many tasks on threads of their own, sending more than the ring holds.
#[test]
fn many_tasks_share_a_producer() {
    const TASKS: u64 = 4;
    const EACH: u64 = 500;
    let options = slipring::ctrlr::CtrlrOptions { ring_slots: 8, ..slipring::ctrlr::CtrlrOptions::default() };
    let rig: Rig = Rig::attach_with(Config::default(), options);
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("async").expect("registered");
    let tasks = (0..TASKS).map(|task| {
        let producer = producer.clone();
        std::thread::spawn(move || {
            block_on(async {
                let mut sum = 0;
                for index in 0..EACH {
                    let value = task * EACH + index;
                    match send(&producer, Message::call(move |_| value)).await.await {
                        Outcome::Completed(Reply::Called(answer)) => {
                            assert_eq!(answer, value, "each task gets its own answer");
                            sum += answer;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                sum
            })
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let sum: u64 = tasks.into_iter().map(|task| task.join().expect("no panic")).sum();
    assert_eq!(sum, (0..TASKS * EACH).sum::<u64>());
    drop(polling.stop());
    rig.finish();
}

/// A future that is dropped gives up its outcome, no more; one that is moved to another task wakes that one.
#[test]
fn a_future_may_be_dropped_or_handed_on_half_way() {
    let rig: Rig = Rig::attach(slow_features(HOUR));
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("async").expect("registered");
    let mut context = Context::from_waker(Waker::noop());
    let mut dropped = block_on(send(&producer, get_features()));
    assert!(Pin::new(&mut dropped).poll(&mut context).is_pending());
    drop(dropped);
    let mut moved = block_on(send(&producer, get_features()));
    assert!(
        Pin::new(&mut moved).poll(&mut context).is_pending(),
        "first polled with a waker that does nothing"
    );
    let (polled, has_polled) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        block_on(std::future::poll_fn(move |context| {
            let poll = Pin::new(&mut moved).poll(context);
            let _ = polled.send(());
            poll
        }))
    });
    has_polled.recv().expect("it was polled by the other task");
    // What is still in the ring would wait for the end of the reset.
    support::wait_until("both are at the device", || rig.ctrlr.statistics().messages == 2);
    drop(rig.ctrlr.reset().expect("asked"));
    let outcome = waiting.join().expect("woken by the later waker");
    assert!(is_aborted_by_reset(&outcome), "{outcome:?}");
    drop(polling.stop());
    rig.finish();
}

/// What is awaited when the ring is retired, or the controller detached, is answered with the reason.
#[test]
fn what_is_awaited_at_the_end_is_answered() {
    let rig: Rig = Rig::attach(slow_features(HOUR));
    // Nobody polls: the message stays in the ring.
    let producer = rig.ctrlr.register("async").expect("registered");
    let waiting = block_on(send(&producer, Message::call(|_| 0)));
    let waiting = std::thread::spawn(move || block_on(waiting));
    rig.ctrlr.unregister("async", DEADLINE).expect("unregistered");
    let outcome = waiting.join().expect("woken");
    assert!(
        matches!(outcome, Outcome::Aborted(why) if why.reason == AbortReason::Unregistered && !why.may_have_executed)
    );
    // And this one reaches the device, which does not answer within this life.
    let polling = PollThread::spawn(rig.poller());
    let producer = rig.ctrlr.register("async").expect("registered");
    let call = producer.start_call(admin::get_feature(FeatureId::TEMPERATURE_THRESHOLD, 0)).expect("sent");
    let in_flight = std::thread::spawn(move || block_on(call));
    let before = rig.ctrlr.statistics().messages;
    support::wait_until("the message was taken", || rig.ctrlr.statistics().messages > 0 || before > 0);
    rig.ctrlr.detach(DEADLINE).expect("detached");
    let answer = in_flight.join().expect("woken");
    assert!(
        matches!(answer, Err(CallError::Aborted(why)) if why.reason == AbortReason::Detached),
        "{answer:?}"
    );
    drop(polling.stop());
    rig.finish();
}
