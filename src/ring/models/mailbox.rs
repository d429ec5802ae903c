//! The mailbox: a credit always finds a slot, on whatever thread it comes back; nothing is leaked when the mailbox goes first.

use super::{LEAK, explore, must_fail};
use crate::ring::outcome::Outcome;
use crate::ring::{Answer, Mailbox, Word};
use crate::sync::{Arc, Protection};
use loom::thread;

impl Answer for Arc<u64> {
    fn to_word(&self) -> Option<Word> {
        None
    }

    fn of_word(word: Word) -> Self {
        unreachable!("{word:?} was never made")
    }
}

/// Every outcome that has arrived, as (token, answer).
fn receive(mailbox: &mut Mailbox<Arc<u64>>) -> Vec<(u64, u64)> {
    let mut received = Vec::new();
    mailbox.receive(|token, outcome| received.push((token, *outcome.into_result().unwrap())));
    received
}

/// One credit stays away for long, while the other goes round on the mailbox's own thread until the slots are used anew.
fn a_credit_stays_away() {
    let mut mailbox = Mailbox::new(2);
    let late = mailbox.responder(9).unwrap();
    let delivering = thread::spawn(move || late.deliver(Outcome::Completed(Arc::new(90))));
    let mut sent = vec![(9, 90)];
    let mut received = Vec::new();
    for token in 0..2 {
        // None when the late one has claimed the slot before, and not written it yet.
        if let Some(responder) = mailbox.responder(token) {
            responder.deliver(Outcome::Completed(Arc::new(token * 10)));
            sent.push((token, token * 10));
        }
        received.extend(receive(&mut mailbox));
    }
    delivering.join().unwrap();
    received.extend(receive(&mut mailbox));
    sent.sort_unstable();
    received.sort_unstable();
    assert_eq!(received, sent, "each outcome arrives");
    assert_eq!(mailbox.in_flight(), 0);
}

#[test]
fn a_credit_always_finds_a_slot() {
    explore(3, a_credit_stays_away);
}

#[test]
fn without_claim_order_a_credit_finds_the_mailbox_full() {
    must_fail(Protection::ClaimOrder, "each outcome arrives", a_credit_stays_away);
}

/// The mailbox is dropped while two outcomes are on their way.
fn the_mailbox_goes_first() {
    let mut mailbox = Mailbox::new(2);
    let delivering = [1, 2].map(|token| {
        let responder = mailbox.responder(token).unwrap();
        thread::spawn(move || responder.deliver(Outcome::Completed(Arc::new(token))))
    });
    drop(mailbox);
    for thread in delivering {
        thread.join().unwrap();
    }
}

#[test]
fn nothing_is_leaked_when_the_mailbox_goes_first() {
    explore(3, the_mailbox_goes_first);
}

#[test]
fn without_the_closed_bit_an_outcome_is_leaked() {
    must_fail(Protection::ClosedBit, LEAK, the_mailbox_goes_first);
}

#[test]
fn without_the_wait_an_outcome_that_is_being_written_is_leaked() {
    must_fail(Protection::MailboxWait, LEAK, the_mailbox_goes_first);
}

#[test]
fn an_outcome_brings_its_token_and_its_credit() {
    explore(3, || {
        let mut mailbox = Mailbox::new(1);
        let responder = mailbox.responder(3).unwrap();
        let receiving = thread::spawn(move || {
            let received = receive(&mut mailbox);
            let another = mailbox.responder(4);
            assert_eq!(another.is_some(), received.len() == 1, "the credit comes with the outcome");
            another.into_iter().for_each(|responder| mailbox.take_back(responder));
            (mailbox, received)
        });
        responder.deliver(Outcome::Completed(Arc::new(30)));
        let (mut mailbox, mut received) = receiving.join().unwrap();
        received.extend(receive(&mut mailbox));
        assert_eq!(received, [(3, 30)]);
    });
}
