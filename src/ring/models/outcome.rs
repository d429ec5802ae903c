//! Outcomes: a ticket's outcome is seen whole; a responder that is dropped answers; what nobody waits for is freed.

use super::{RACE, explore, must_fail};
use crate::ring::outcome::{AbortReason, Aborted, Outcome, Responder};
use crate::ring::{Ticket, Waiters};
use crate::sync::{Arc, Protection};
use loom::thread;
use std::time::Duration;

/// A ticket whose answers are counted references, so that loom sees one that is lost.
fn ticket() -> (Ticket<Arc<u32>>, Responder<Arc<u32>>) {
    Ticket::new(&std::sync::Arc::new(Waiters::new()))
}

fn delivered_while_it_is_looked_for() {
    let (mut ticket, responder) = ticket();
    let delivering = thread::spawn(move || responder.deliver(Outcome::Completed(Arc::new(7))));
    let outcome = loop {
        match ticket.try_take() {
            Ok(outcome) => break outcome,
            Err(pending) => ticket = pending.0,
        }
        thread::yield_now();
    };
    assert_eq!(*outcome.into_result().unwrap(), 7);
    delivering.join().unwrap();
}

#[test]
fn an_outcome_is_seen_whole() {
    explore(3, delivered_while_it_is_looked_for);
}

#[test]
fn without_outcome_release_it_is_read_while_it_is_written() {
    must_fail(Protection::OutcomeRelease, RACE, delivered_while_it_is_looked_for);
}

#[test]
fn a_dropped_responder_answers() {
    explore(3, || {
        let waiters = std::sync::Arc::new(Waiters::new());
        let (ticket, responder) = Ticket::<u32>::new(&waiters);
        let dropping = thread::spawn(move || {
            drop(responder);
            waiters.bell().ring();
        });
        let outcome = ticket.wait(Duration::MAX).expect("an outcome");
        assert_eq!(outcome, Outcome::Aborted(Aborted::maybe_executed(AbortReason::Dropped)));
        dropping.join().unwrap();
    });
}

#[test]
fn the_outcome_of_a_dropped_ticket_is_freed() {
    explore(3, || {
        let (ticket, responder) = ticket();
        let delivering = thread::spawn(move || responder.deliver(Outcome::Completed(Arc::new(7))));
        drop(ticket);
        delivering.join().unwrap();
    });
}
