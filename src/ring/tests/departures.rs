//! Rings on their way out: each by its own number, until its last message is answered. Who meets whom there is in `models`.

use super::{Census, Counted};
use crate::ring::departures::{self, Departures};
use crate::ring::scheme::{Channel, Receiver, Scheme};
use crate::ring::{Attention, LockFree};
use std::sync::Arc;

type Rings = <LockFree as Scheme>::Channel<Counted>;

/// One step of who waits for ring `awaited`, or for all; what it answered goes to `answered`.
fn settle(
    channel: &mut Rings,
    departures: &mut Departures<Rings, Counted, &'static str>,
    answered: &mut Vec<(&'static str, u64)>,
    awaited: Option<u64>,
) -> bool {
    departures::settle(
        awaited,
        |run| run(channel, departures),
        |reason, run| run.for_each(|message| answered.push((reason, message.get().id))),
        || (),
    )
}

#[test]
fn each_ring_is_waited_for_by_its_own_number() {
    let census = Census::default();
    let attention = Arc::new(Attention::new());
    let (mut channel, mut receiver) = Rings::new(&attention);
    let mut departures = Departures::new();
    let mut answered = Vec::new();
    assert!(settle(&mut channel, &mut departures, &mut answered, None), "nothing is on its way out");

    channel.publish(2).push(census.value(1)).unwrap();
    receiver.refresh();
    let first = departures.add(channel.retire().unwrap(), "first");
    assert!(!settle(&mut channel, &mut departures, &mut answered, None), "its poller is still inside");
    assert!(!departures.is_over(Some(first)));
    receiver.offline();
    while !settle(&mut channel, &mut departures, &mut answered, None) {}
    assert!(departures.is_over(Some(first)));

    // The next one, which its poller does not leave, has nothing to do with the first.
    channel.publish(2).push(census.value(2)).unwrap();
    receiver.refresh();
    let second = departures.add(channel.retire().unwrap(), "second");
    assert!(!settle(&mut channel, &mut departures, &mut answered, None));
    assert!(
        settle(&mut channel, &mut departures, &mut answered, Some(first)),
        "what came later is not awaited"
    );
    assert!(departures.is_over(Some(first)) && !departures.is_over(Some(second)));
    receiver.offline();
    while !settle(&mut channel, &mut departures, &mut answered, Some(second)) {}
    assert!(departures.is_over(Some(second)) && departures.is_over(None));
    assert_eq!(answered, [("first", 1), ("second", 2)]);
    assert_eq!(census.count(), 0);
}
