//! Tickets: waited for with a deadline, awaited, dropped, and looked at from inside a poll.

use super::{Census, Counted};
use crate::ring::inside::InsidePoll;
use crate::ring::{AbortReason, Aborted, Outcome, Pending, Responder, Ticket, Waiters};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(120);

/// A ticket, its responder, and where they are waited for.
fn ticket<R>() -> (Ticket<R>, Responder<R>, Arc<Waiters>) {
    let waiters = Arc::new(Waiters::new());
    let (ticket, responder) = Ticket::new(&waiters);
    (ticket, responder, waiters)
}

/// Delivers on another thread, after a while, and rings, as a poller does.
fn deliver_later<R: Send + 'static>(responder: Responder<R>, outcome: Outcome<R>, waiters: &Arc<Waiters>) {
    let waiters = Arc::clone(waiters);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        responder.deliver(outcome);
        waiters.bell().ring();
    });
}

/// A waker that unparks a thread, and counts.
struct Unpark {
    thread: thread::Thread,
    wakes: AtomicUsize,
}

impl Unpark {
    fn new() -> Arc<Self> {
        Arc::new(Self { thread: thread::current(), wakes: AtomicUsize::new(0) })
    }
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        // Relaxed: a count, looked at once the wake-up has come.
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.thread.unpark();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Unpark::new());
    let deadline = Instant::now() + LONG;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park_timeout(LONG);
        assert!(Instant::now() < deadline, "never woken");
    }
}

#[test]
fn a_ticket_waits_for_its_outcome() {
    let (ticket, responder, waiters) = ticket();
    deliver_later(responder, Outcome::Completed(7), &waiters);
    assert_eq!(ticket.wait(LONG).unwrap(), Outcome::Completed(7));
}

#[test]
fn past_its_deadline_the_ticket_comes_back_and_is_still_good() {
    let (ticket, responder, _waiters) = ticket();
    let Err(Pending(ticket)) = ticket.wait(Duration::from_millis(5)) else { panic!("nothing was delivered") };
    let Err(Pending(ticket)) = ticket.wait(Duration::ZERO) else { panic!("nothing was delivered") };
    let Err(Pending(ticket)) = ticket.try_take() else { panic!("nothing was delivered") };
    assert!(!ticket.is_ready());
    responder.deliver(Outcome::Completed(7));
    assert!(ticket.is_ready());
    assert_eq!(ticket.wait(Duration::ZERO).unwrap(), Outcome::Completed(7));
}

#[test]
fn a_timeout_beyond_the_end_of_time_is_no_deadline() {
    let (ticket, responder, waiters) = ticket();
    deliver_later(responder, Outcome::Completed(7), &waiters);
    assert_eq!(ticket.wait(Duration::MAX).unwrap(), Outcome::Completed(7));
}

#[test]
fn inside_a_poll_nothing_waits() {
    let (ticket, responder, _waiters) = ticket();
    let _inside = InsidePoll::enter();
    let start = Instant::now();
    let Err(Pending(ticket)) = ticket.wait(LONG) else { panic!("nothing was delivered") };
    assert!(start.elapsed() < LONG / 2);
    let Err(Pending(ticket)) = ticket.try_take() else { panic!("nothing was delivered") };
    responder.deliver(Outcome::Completed(7));
    assert_eq!(ticket.try_take().unwrap(), Outcome::Completed(7));
}

#[test]
fn a_ticket_is_a_future() {
    let (ticket, responder, waiters) = ticket();
    deliver_later(responder, Outcome::Completed(7), &waiters);
    assert_eq!(block_on(ticket), Outcome::Completed(7));

    let (delivered, responder) = Ticket::new(&waiters);
    responder.deliver(Outcome::Completed(8));
    assert_eq!(block_on(delivered), Outcome::Completed(8));
}

#[test]
fn many_tickets_are_awaited_with_one_helper() {
    let waiters = Arc::new(Waiters::new());
    let (tickets, responders): (Vec<_>, Vec<_>) = (0..8).map(|_| Ticket::<usize>::new(&waiters)).unzip();
    let awaiting: Vec<_> =
        tickets.into_iter().map(|ticket| thread::spawn(move || block_on(ticket))).collect();
    for (answer, responder) in responders.into_iter().enumerate() {
        deliver_later(responder, Outcome::Completed(answer), &waiters);
    }
    for (answer, awaiting) in awaiting.into_iter().enumerate() {
        assert_eq!(awaiting.join().unwrap(), Outcome::Completed(answer));
    }
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let (ticket, responder, waiters) = ticket();
    let mut ticket = pin!(ticket);
    let (first, second) = (Unpark::new(), Unpark::new());
    for unpark in [&first, &second] {
        let waker = Waker::from(Arc::clone(unpark));
        assert!(ticket.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&first), 1, "the waker that was replaced is let go");
    deliver_later(responder, Outcome::Completed(7), &waiters);
    let deadline = Instant::now() + LONG;
    // Relaxed: a count.
    while second.wakes.load(Ordering::Relaxed) == 0 {
        thread::park_timeout(LONG);
        assert!(Instant::now() < deadline, "never woken");
    }
    // Relaxed: as above.
    assert_eq!(first.wakes.load(Ordering::Relaxed), 0);
    let poll = ticket.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(poll, Poll::Ready(Outcome::Completed(7))));
}

/// A waker whose foreign code panics.
struct Panicking;

impl Wake for Panicking {
    fn wake(self: Arc<Self>) {
        panic!("on purpose");
    }
}

#[test]
fn a_waker_that_panics_does_not_keep_the_others_asleep() {
    let waiters = Arc::new(Waiters::new());
    let (panicking, first) = Ticket::new(&waiters);
    let mut panicking = pin!(panicking);
    let waker = Waker::from(Arc::new(Panicking));
    assert!(panicking.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    first.deliver(Outcome::Completed(1));
    let (other, second) = Ticket::new(&waiters);
    deliver_later(second, Outcome::Completed(2), &waiters);
    assert_eq!(block_on(other), Outcome::Completed(2));
}

#[test]
fn the_outcome_of_a_dropped_ticket_is_freed() {
    let census = Census::default();
    let (early, responder, waiters) = ticket::<Counted>();
    drop(early);
    responder.deliver(Outcome::Completed(census.value(1)));

    let (late, responder) = Ticket::new(&waiters);
    responder.deliver(Outcome::Completed(census.value(2)));
    assert_eq!(census.count(), 1);
    drop(late);
    assert_eq!(census.count(), 0);
}

#[test]
fn an_awaited_ticket_that_is_dropped_holds_nobody_up() {
    let (dropped, responder, waiters) = ticket::<u32>();
    let mut dropped = Box::pin(dropped);
    assert!(dropped.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(dropped);
    let (other, second) = Ticket::new(&waiters);
    deliver_later(second, Outcome::Completed(2), &waiters);
    assert_eq!(block_on(other), Outcome::Completed(2));
    responder.deliver(Outcome::Completed(1));
}

#[test]
fn a_dropped_responder_answers_its_ticket() {
    let (ticket, responder, waiters) = ticket::<u32>();
    thread::spawn(move || {
        drop(responder);
        waiters.bell().ring();
    });
    let dropped = Outcome::Aborted(Aborted::maybe_executed(AbortReason::Dropped));
    assert_eq!(ticket.wait(LONG).unwrap(), dropped);
}
