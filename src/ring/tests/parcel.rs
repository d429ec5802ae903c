//! Parcels: words share a slot, and arrive as what they were, in order, whatever lies between them and whoever panics or goes first.

use super::{Census, Counted};
use crate::ring::parcel::{Parcel, Reply};
use crate::ring::{AbortReason, Aborted, Answer, Mailbox, Outbox, Outcome, Word};

/// An answer of either kind.
#[derive(Debug)]
enum Mixed {
    Small(u64),
    Large(Counted),
}

impl Answer for Mixed {
    fn to_word(&self) -> Option<Word> {
        match self {
            Self::Small(value) => Some(Word { code: 7, value: *value }),
            Self::Large(_) => None,
        }
    }

    fn of_word(word: Word) -> Self {
        assert_eq!(word.code, 7);
        Self::Small(word.value)
    }
}

const ABORTED: Aborted = Aborted::unexecuted(AbortReason::Reset);

/// The outcome of the message `token`, of one of three kinds.
fn outcome(kind: usize, token: u64, census: &Census) -> Outcome<Mixed> {
    match kind {
        0 => Outcome::Completed(Mixed::Small(10 * token)),
        1 => Outcome::Completed(Mixed::Large(census.value(10 * token))),
        _ => Outcome::Aborted(ABORTED),
    }
}

fn is(outcome: &Outcome<Mixed>, kind: usize, token: u64) -> bool {
    match outcome {
        Outcome::Completed(Mixed::Small(value)) => kind == 0 && *value == 10 * token,
        Outcome::Completed(Mixed::Large(value)) => kind == 1 && value.id == 10 * token,
        Outcome::Aborted(aborted) => kind == 2 && *aborted == ABORTED,
    }
}

/// Every order of the kinds, as many as an outbox delivers together.
#[test]
fn whatever_lies_between_words_all_arrive_in_order() {
    let census = Census::default();
    let mut mailbox = Mailbox::new(8);
    let mut outbox = Outbox::new();
    for pattern in 0..3_usize.pow(8) {
        let kind = |token: u64| pattern / 3_usize.pow(token as u32) % 3;
        for token in 0..8 {
            outbox.deliver(mailbox.responder(token).unwrap(), outcome(kind(token), token, &census));
        }
        outbox.flush();
        let mut next = 0;
        let received = mailbox.receive(|token, outcome| {
            assert!(token == next && is(&outcome, kind(token), token), "{pattern}: {token} {outcome:?}");
            next += 1;
        });
        assert_eq!((received, mailbox.in_flight(), census.count()), (8, 0, 0), "{pattern}");
    }
}

#[test]
fn three_words_share_a_slot() {
    let replies = |count: u64| -> Vec<Reply<u64>> {
        (0..count).map(|token| Reply { token, outcome: Outcome::Completed(token) }).collect()
    };
    for (count, room) in [(1, 1), (2, 2), (3, 3), (4, 3), (8, 3)] {
        assert_eq!(Parcel::room_for(&replies(count)), room);
    }
    let mut replies = replies(3);
    replies[1].outcome = Outcome::Aborted(ABORTED);
    assert_eq!(Parcel::room_for(&replies), 1);
    assert_eq!(Parcel::room_for(&replies[1..]), 1, "what is no word has a slot of its own");
}

#[test]
fn a_panic_amid_words_loses_only_what_was_given() {
    for panics_at in 0..6 {
        let mut mailbox = Mailbox::new(6);
        let mut outbox = Outbox::new();
        for token in 0..6 {
            outbox.deliver(mailbox.responder(token).unwrap(), Outcome::Completed(token));
        }
        outbox.flush();
        let mut received = Vec::new();
        let panicking = || {
            mailbox.receive(|token, _| {
                received.push(token);
                assert_ne!(token, panics_at, "on purpose");
            })
        };
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        assert_eq!(mailbox.in_flight(), 5 - panics_at as usize, "those that were not given");
        assert_eq!(mailbox.receive(|token, _| received.push(token)), 5 - panics_at as usize);
        assert_eq!((received, mailbox.in_flight()), ((0..6).collect(), 0));
        // And it goes on.
        mailbox.responder(9).unwrap().deliver(Outcome::Completed(9));
        assert_eq!(mailbox.receive(|token, outcome| assert_eq!(outcome, Outcome::Completed(token))), 1);
    }
}

/// What leaks here, LeakSanitizer finds.
#[test]
fn words_are_freed_with_their_credits_whether_the_mailbox_goes_before_or_after() {
    for arrives in [true, false] {
        let mut mailbox = Mailbox::new(5);
        let mut outbox = Outbox::new();
        for token in 0..5_u64 {
            outbox.deliver(mailbox.responder(token).unwrap(), Outcome::Completed(token));
        }
        if arrives {
            outbox.flush();
            let panicking = || mailbox.receive(|_, _| panic!("on purpose"));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
        }
        drop(mailbox);
        drop(outbox);
    }
}
