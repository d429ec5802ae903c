//! Producers that send many messages at once.
#![forbid(unsafe_code)]

use super::{World, config};
use crate::ctrlr::{CtrlrOptions, Message, Reply, SendErrorReason};
use crate::ring::{Mailbox, Outcome};
use crate::spec::command::Command;
use std::time::Duration;

/// Closures and a command among them, each under its token; a closure returns ten times that.
fn batch(tokens: std::ops::Range<u64>) -> Vec<(u64, Message)> {
    let message = |token| match token % 4 {
        2 => Message::Io { command: Command::flush(1), data: None },
        _ => Message::call(move |_| token * 10),
    };
    tokens.map(|token| (token, message(token))).collect()
}

fn tokens(messages: &[(u64, Message)]) -> Vec<u64> {
    messages.iter().map(|(token, _)| *token).collect()
}

/// Runs until so many outcomes are there; their tokens, and whether each is its message's.
fn receive(world: &mut World, mailbox: &mut Mailbox<Reply>, count: usize) -> Vec<(u64, bool)> {
    let mut seen = Vec::new();
    world.run("answered", |_| {
        mailbox.receive(|token, outcome| {
            let is_its_own = match outcome {
                Outcome::Completed(Reply::Command { status, .. }) => token % 4 == 2 && status.is_success(),
                Outcome::Completed(Reply::Called(value)) => token % 4 != 2 && value == token * 10,
                _ => false,
            };
            seen.push((token, is_its_own));
        });
        seen.len() >= count
    });
    seen.sort_unstable();
    seen
}

#[test]
fn a_producer_and_its_clones_know_their_name() {
    let world = World::new();
    let producer = world.ctrlr.register("monitor").expect("registered");
    assert_eq!((producer.name(), producer.clone().name()), ("monitor", "monitor"));
    world.detach();
}

#[test]
fn of_a_batch_as_many_are_accepted_as_there_is_room_for_and_the_rest_stay() {
    let mut world = World::with(config(""), CtrlrOptions { ring_slots: 8, ..CtrlrOptions::default() });
    let producer = world.ctrlr.register("eager").expect("registered");
    let mut mailbox = Mailbox::new(6);
    assert_eq!(producer.send_batch_to(&mut mailbox, &mut Vec::new()), Ok(0));
    producer.send_to(&mut mailbox, 0, Message::call(|_| 0)).expect("room");
    let mut messages = batch(1..10);
    assert_eq!(producer.send_batch_to(&mut mailbox, &mut messages), Ok(5), "its window is six");
    assert_eq!(tokens(&messages), [6, 7, 8, 9], "in their order");
    let used_up = producer.send_batch_to(&mut mailbox, &mut messages);
    assert_eq!((used_up, messages.len()), (Err(SendErrorReason::WindowFull), 4));
    assert_eq!(producer.send_batch_to(&mut mailbox, &mut Vec::new()), Ok(0), "none is always accepted");
    let mut other = Mailbox::new(64);
    let mut more = batch(20..30);
    assert_eq!(producer.send_batch_to(&mut other, &mut more), Ok(2), "the ring has eight slots");
    assert_eq!(tokens(&more), [22, 23, 24, 25, 26, 27, 28, 29]);
    let full = producer.send_batch_to(&mut other, &mut more);
    assert_eq!((full, more.len(), other.in_flight()), (Err(SendErrorReason::Full), 8, 2));
    let seen = receive(&mut world, &mut mailbox, 6);
    assert_eq!(seen, (0..6).map(|token| (token, true)).collect::<Vec<_>>());
    assert_eq!(producer.send_batch_to(&mut mailbox, &mut messages), Ok(4), "and now there is room");
    assert!(messages.is_empty());
    let seen = receive(&mut world, &mut mailbox, 4);
    assert_eq!(seen, (6..10).map(|token| (token, true)).collect::<Vec<_>>());
    let seen = receive(&mut world, &mut other, 2);
    assert_eq!(seen, [(20, true), (21, true)]);
    assert_eq!(world.detach(), Vec::<String>::new());
}

#[test]
fn a_batch_that_comes_too_late_stays_whole() {
    let world = World::new();
    let ctrlr = world.ctrlr.clone();
    let [first, second] = ["first", "second"].map(|name| ctrlr.register(name).expect("registered"));
    let mut mailbox = Mailbox::new(6);
    let mut messages = batch(0..3);
    // The ring stays, for the other one's sake.
    ctrlr.unregister("first", Duration::ZERO).expect("unregistered");
    let late = first.send_batch_to(&mut mailbox, &mut messages);
    assert_eq!((late, messages.len()), (Err(SendErrorReason::Unregistered), 3));
    world.detach();
    let late = second.send_batch_to(&mut mailbox, &mut messages);
    assert_eq!((late, tokens(&messages)), (Err(SendErrorReason::Detached), vec![0, 1, 2]));
    assert_eq!(mailbox.in_flight(), 0);
}
