//! Mailboxes: the window, credits that return with their outcomes or without, and mailboxes that go first.

use super::{Census, Counted};
use crate::ring::{AbortReason, Aborted, Answer, Mailbox, Outbox, Outcome, Responder};
use crossbeam_queue::SegQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// Everything that has arrived.
fn receive<R: Answer>(mailbox: &mut Mailbox<R>) -> Vec<(u64, Outcome<R>)> {
    let mut received = Vec::new();
    mailbox.receive(|token, outcome| received.push((token, outcome)));
    received
}

#[test]
fn the_window_is_what_may_be_in_flight() {
    for window in [1, 3, 4] {
        let mut mailbox = Mailbox::new(window);
        assert_eq!((mailbox.window(), mailbox.in_flight()), (window, 0));
        let responders: Vec<_> = (0..).map_while(|token| mailbox.responder(token)).collect();
        assert_eq!((responders.len(), mailbox.in_flight()), (window, window));
        for responder in responders {
            responder.deliver(Outcome::Completed(()));
            assert!(mailbox.responder(99).is_none(), "a credit returns when its outcome is received");
        }
        let tokens = receive(&mut mailbox).into_iter().map(|(token, _)| token);
        assert!(tokens.eq(0..window as u64));
        assert_eq!(mailbox.in_flight(), 0);
    }
}

#[test]
#[should_panic(expected = "window of 1 or more")]
fn a_window_of_none_is_refused() {
    drop(Mailbox::<u32>::new(0));
}

#[test]
fn the_credit_of_a_refused_message_is_taken_back() {
    let mut mailbox = Mailbox::<u32>::new(1);
    for token in 0..5 {
        let responder = mailbox.responder(token).unwrap();
        mailbox.take_back(responder);
    }
    assert_eq!(mailbox.in_flight(), 0);
    assert_eq!(receive(&mut mailbox), []);
}

#[test]
fn a_dropped_responder_answers() {
    let mut mailbox = Mailbox::<u32>::new(1);
    drop(mailbox.responder(4));
    let dropped = Outcome::Aborted(Aborted::maybe_executed(AbortReason::Dropped));
    assert_eq!(receive(&mut mailbox), [(4, dropped)]);
    assert!(mailbox.responder(5).map(|responder| mailbox.take_back(responder)).is_some());
}

#[test]
fn a_panic_while_receiving_keeps_the_credit() {
    let mut mailbox = Mailbox::new(2);
    for token in 0..2 {
        mailbox.responder(token).unwrap().deliver(Outcome::Completed(token));
    }
    let panicking = || mailbox.receive(|token, _| assert_ne!(token, 0, "on purpose"));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
    assert_eq!(mailbox.in_flight(), 1);
    assert_eq!(receive(&mut mailbox), [(1, Outcome::Completed(1))]);
    assert_eq!(mailbox.in_flight(), 0);
}

#[test]
fn outcomes_are_freed_whether_they_arrive_before_or_after_the_mailbox_is_dropped() {
    let census = Census::default();
    let mut mailbox = Mailbox::new(4);
    let mut responders: Vec<_> = (0..4).map_while(|token| mailbox.responder(token)).collect();
    for responder in responders.drain(..2) {
        responder.deliver(Outcome::Completed(census.value(0)));
    }
    drop(mailbox);
    assert_eq!(census.count(), 0);
    responders.pop().unwrap().deliver(Outcome::Completed(census.value(1)));
    drop(responders);
    assert_eq!(census.count(), 0);
}

/// Outcomes are delivered together; what a poll that ends early, by a panic too, has not delivered yet must not be lost.
#[test]
fn what_waits_in_an_outbox_arrives_when_that_is_dropped() {
    let mut mailbox = Mailbox::new(2);
    let mut outbox = Outbox::new();
    outbox.deliver(mailbox.responder(6).unwrap(), Outcome::Completed(60_u64));
    outbox.deliver(mailbox.responder(7).unwrap(), Outcome::Completed(70));
    assert_eq!(receive(&mut mailbox), []);
    drop(outbox);
    assert_eq!(receive(&mut mailbox), [(6, Outcome::Completed(60)), (7, Outcome::Completed(70))]);
}

/// As when a full ring is drained.
#[test]
fn an_outbox_takes_more_than_it_holds() {
    let mut mailbox = Mailbox::new(100);
    let mut outbox = Outbox::new();
    for token in 0..100 {
        outbox.deliver(mailbox.responder(token).unwrap(), Outcome::Completed(10 * token));
    }
    outbox.flush();
    let expected: Vec<_> = (0..100).map(|token| (token, Outcome::Completed(10 * token))).collect();
    assert_eq!(receive(&mut mailbox), expected);
}

/// Threads that answer what they find in `requests` until `stop`, out of order and each at its own pace.
fn answerers(
    requests: &Arc<SegQueue<(u64, Responder<Counted>)>>,
    stop: &Arc<AtomicBool>,
    census: &Census,
) -> Vec<thread::JoinHandle<()>> {
    (0..2)
        .map(|_| {
            let (requests, stop, census) = (Arc::clone(requests), Arc::clone(stop), census.clone());
            thread::spawn(move || {
                // Acquire: pairs with the Release of who stops: nothing is requested any more.
                while !stop.load(Ordering::Acquire) || !requests.is_empty() {
                    match requests.pop() {
                        Some((id, responder)) => responder.deliver(Outcome::Completed(census.value(id))),
                        None => thread::yield_now(),
                    }
                }
            })
        })
        .collect()
}

#[test]
fn each_request_is_answered_once_from_whichever_thread() {
    const REQUESTS: u64 = 30_000;
    let census = Census::default();
    let requests = Arc::new(SegQueue::new());
    let stop = Arc::new(AtomicBool::new(false));
    let answering = answerers(&requests, &stop, &census);
    let mut mailbox = Mailbox::new(5);
    let mut answered = vec![false; REQUESTS as usize];
    let mut next = 0;
    while next < REQUESTS || mailbox.in_flight() > 0 {
        while next < REQUESTS
            && let Some(responder) = mailbox.responder(next)
        {
            requests.push((next, responder));
            next += 1;
        }
        let received = mailbox.receive(|token, outcome| {
            assert_eq!(outcome.into_result().unwrap().id, token);
            assert!(!std::mem::replace(&mut answered[token as usize], true), "{token} was answered twice");
        });
        if received == 0 {
            thread::yield_now();
        }
    }
    // Release: pairs with the Acquire in `answerers`.
    stop.store(true, Ordering::Release);
    for thread in answering {
        thread.join().unwrap();
    }
    assert!(answered.iter().all(|&answered| answered));
    assert_eq!(census.count(), 0);
}

#[test]
fn mailboxes_come_and_go_while_they_are_answered() {
    let census = Census::default();
    let requests = Arc::new(SegQueue::new());
    let stop = Arc::new(AtomicBool::new(false));
    let answering = answerers(&requests, &stop, &census);
    for id in 0..3_000 {
        let mut mailbox = Mailbox::new(3);
        while let Some(responder) = mailbox.responder(id) {
            requests.push((id, responder));
        }
        mailbox.receive(|token, _| assert_eq!(token, id));
    }
    // Release: pairs with the Acquire in `answerers`.
    stop.store(true, Ordering::Release);
    for thread in answering {
        thread.join().unwrap();
    }
    assert_eq!(census.count(), 0);
}
