//! The threads of a storm that poll, send, register and reset.

use crate::round::{Random, Round, count};
use crate::support::DEADLINE;
use slipring::ctrlr::{Producer, Reply, ResetError, SendErrorReason, UnregisterError};
use slipring::poller::{PollError, Poller};
use slipring::ring::{Mailbox, Scheme};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Polls; now and then the poller is dropped, or goes offline, and sits down again.
pub fn poller_thread<S: Scheme>(round: &Round<S>, mut random: Random) {
    while !round.stop_polling.load(Ordering::Relaxed) {
        let mut poller = match Poller::new(&round.ctrlr, "storm") {
            Ok(poller) => poller,
            Err(error) => {
                assert!(round.is_over(), "{error}");
                return;
            }
        };
        count(&round.counts.pollers, 1);
        let mut left = random.below(20_000);
        while left > 0 && !round.stop_polling.load(Ordering::Relaxed) {
            left -= 1;
            match poller.poll(Instant::now()) {
                Ok(0) => std::thread::yield_now(),
                Ok(_) => {}
                Err(PollError::Detached) => return,
                Err(PollError::Failed(_)) if round.is_over() => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
            if random.one_in(5000) {
                poller.pause();
                std::thread::sleep(Duration::from_micros(random.below(300)));
            }
        }
        drop(poller);
        std::thread::sleep(Duration::from_micros(random.below(500)));
    }
}

/// Registers, sends through its own producer and others', and unregisters what others may be sending through.
pub fn sender_thread<S: Scheme>(round: &Round<S>, index: usize, mut random: Random) {
    let name = format!("sender {index}");
    let mut mailbox = Mailbox::new(32);
    while round.goes_on() {
        let Ok(own) = round.ctrlr.register(&name) else {
            assert!(round.is_over(), "nobody else registers this name");
            break;
        };
        count(&round.counts.registrations, 1);
        round.set_slot(index, Some(own.clone()));
        for _ in 0..random.below(20) {
            let other = round.slot(random.below(3) as usize);
            let producer = other.as_ref().unwrap_or(&own);
            match random.below(3) {
                0 => send_tickets(round, producer, &mut random),
                1 => send_callbacks(round, producer, &mut random),
                _ => send_window(round, producer, &mut mailbox, &mut random),
            }
        }
        round.set_slot(index, None);
        match round.ctrlr.unregister(&name, DEADLINE) {
            Ok(()) => {}
            Err(UnregisterError::NotRegistered { .. }) => assert!(round.is_over(), "registered above"),
            Err(error) => panic!("{error}"),
        }
    }
    empty(round, &mut mailbox, 0);
    assert_eq!(mailbox.in_flight(), 0);
}

fn send_tickets<S: Scheme>(round: &Round<S>, producer: &Producer<S>, random: &mut Random) {
    let mut tickets = Vec::new();
    for _ in 0..random.below(8) {
        let Some(id) = round.ledger.id() else { break };
        match producer.send(round.message(id, random)) {
            Ok(ticket) => {
                round.sent(id, Ok(()));
                tickets.push((id, ticket));
            }
            Err(error) => {
                round.sent(id, Err(error.reason));
            }
        }
    }
    for (id, ticket) in tickets {
        let outcome = ticket.wait(DEADLINE).unwrap_or_else(|_| panic!("message {id} has no outcome"));
        round.ledger.outcome(id, &outcome);
    }
}

fn send_callbacks<S: Scheme>(round: &Round<S>, producer: &Producer<S>, random: &mut Random) {
    for _ in 0..random.below(32) {
        let Some(id) = round.ledger.id() else { return };
        let ledger = Arc::clone(&round.ledger);
        let sent = producer.send_with(round.message(id, random), move |outcome| ledger.outcome(id, &outcome));
        round.sent(id, sent.map_err(|error| error.reason));
    }
}

fn send_window<S: Scheme>(
    round: &Round<S>,
    producer: &Producer<S>,
    mailbox: &mut Mailbox<Reply>,
    random: &mut Random,
) {
    let room = mailbox.window() - mailbox.in_flight();
    let mut batch = Vec::new();
    for _ in 0..random.below(room as u64 + 1) {
        let Some(id) = round.ledger.id() else { break };
        let message = round.message(id, random);
        if random.one_in(2) {
            batch.push((id, message));
        } else {
            round.sent(id, producer.send_to(mailbox, id, message).map_err(|error| error.reason));
        }
    }
    let ids: Vec<u64> = batch.iter().map(|(id, _)| *id).collect();
    let accepted = match producer.send_batch_to(mailbox, &mut batch) {
        Ok(accepted) => accepted,
        Err(SendErrorReason::WindowFull) => panic!("there was room for {}", ids.len()),
        Err(_) => 0,
    };
    assert_eq!(batch.len(), ids.len() - accepted, "what was not accepted is still there");
    for (place, id) in ids.into_iter().enumerate() {
        round.sent(id, if place < accepted { Ok(()) } else { Err(SendErrorReason::Full) });
    }
    empty(round, mailbox, random.below(32) as usize);
}

/// Receives until at most `left` messages are in flight.
fn empty<S: Scheme>(round: &Round<S>, mailbox: &mut Mailbox<Reply>, left: usize) {
    let started = Instant::now();
    while mailbox.in_flight() > left {
        if mailbox.receive(|id, outcome| round.ledger.outcome(id, &outcome)) == 0 {
            assert!(started.elapsed() < DEADLINE, "{} messages have no outcome", mailbox.in_flight());
            std::thread::yield_now();
        }
    }
}

/// Registers and unregisters a name that nobody uses, without pause.
pub fn registrar_thread<S: Scheme>(round: &Round<S>) {
    while round.goes_on() && round.ctrlr.register("registrar").is_ok() {
        count(&round.counts.registrations, 1);
        if let Err(error) = round.ctrlr.unregister("registrar", DEADLINE) {
            assert!(round.is_over(), "{error}");
            return;
        }
        std::thread::yield_now();
    }
    assert!(!round.goes_on() || round.is_over());
}

/// Resets, time and again.
pub fn resetter_thread<S: Scheme>(round: &Round<S>, mut random: Random) {
    while round.goes_on() {
        std::thread::sleep(Duration::from_millis(random.below(40)));
        match round.ctrlr.reset().and_then(|reset| reset.wait(DEADLINE)) {
            Ok(()) => count(&round.counts.resets, 1),
            Err(ResetError::Detached | ResetError::Failed(_)) if round.is_over() => return,
            Err(error) => panic!("{error}"),
        }
    }
}
