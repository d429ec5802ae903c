//! A pair against a model under any order of events, and against a device on a thread of its own.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{setup, tagged};
use crate::dma::DmaSlice;

#[derive(Debug, Clone)]
enum Step {
    Submit(u32),
    Commit,
    Fetch(usize),
    /// Completes the commands that the device has, starting anywhere.
    Complete(usize, usize),
    Process(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1u32..9).prop_map(Step::Submit),
        Just(Step::Commit),
        (1usize..9).prop_map(Step::Fetch),
        (any::<usize>(), 1usize..9).prop_map(|(from, count)| Step::Complete(from, count)),
        (0usize..9).prop_map(Step::Process),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    /// Whatever the order of events, each accepted command reaches the device once and in order, and comes back once,
    /// in the order of its completion; a command is refused only when the queue is full by the rules.
    #[test]
    fn every_command_comes_back_once(
        sq in 2u32..10,
        more in 0u32..5,
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let (mut pair, mut device, _dma) = setup(sq, sq + more);
        let (mut next_tag, mut next_fetched, mut accepted) = (0, 0, 0);
        let mut has: Vec<(u32, u16)> = Vec::new();
        let mut posted = std::collections::VecDeque::new();
        let mut known_head = 0;
        let mut out = BTreeSet::new();
        for step in steps {
            match step {
                Step::Submit(count) => for _ in 0..count {
                    let full = out.len() as u32 == sq - 1 || accepted - known_head == sq - 1;
                    prop_assert_eq!(pair.is_full(), full);
                    let result = pair.submit(tagged(next_tag), None, next_tag);
                    prop_assert_eq!(result.is_err(), full);
                    if result.is_ok() {
                        out.insert(next_tag);
                        next_tag += 1;
                        accepted += 1;
                    }
                },
                Step::Commit => pair.commit(),
                Step::Fetch(count) => for command in std::iter::from_fn(|| device.fetch()).take(count) {
                    prop_assert_eq!(command.cdw10, next_fetched);
                    prop_assert_eq!(command, crate::spec::command::Command { cid: command.cid, ..tagged(next_fetched) });
                    next_fetched += 1;
                    has.push((command.cdw10, command.cid));
                },
                Step::Complete(from, count) => for _ in 0..count.min(has.len()) {
                    let (tag, cid) = has.swap_remove(from % has.len());
                    device.complete(cid);
                    posted.push_back((tag, next_fetched));
                },
                Step::Process(max) => {
                    let expected: Vec<_> = posted.drain(..max.min(posted.len())).collect();
                    let mut seen = Vec::new();
                    prop_assert_eq!(pair.process(max, |tag, _, _| seen.push(tag)), Ok(expected.len()));
                    for (tag, head) in &expected {
                        known_head = *head;
                        prop_assert!(out.remove(tag));
                    }
                    prop_assert_eq!(seen, expected.into_iter().map(|(tag, _)| tag).collect::<Vec<_>>());
                }
            }
            prop_assert_eq!(pair.outstanding(), out.len());
        }
        let mut back = BTreeSet::new();
        pair.abort_all(|tag, _| assert!(back.insert(tag)));
        prop_assert_eq!(back, out);
    }
}

/// The memory order for real: the device, on another thread, sees whole commands behind the doorbell, and the driver
/// sees the device's data behind the phase tag.
#[test]
fn a_device_on_another_thread_sees_and_is_seen() {
    const COMMANDS: u32 = 20_000;
    let (mut pair, mut device, dma) = setup(32, 37);
    let other = thread::spawn(move || {
        let mut done = 0;
        while done < COMMANDS {
            let Some(command) = device.fetch() else {
                thread::yield_now();
                continue;
            };
            let tag = command.cdw10;
            assert_eq!((command.nsid, command.cdw15), (!tag, tag.rotate_left(7)), "a torn command");
            let (block, offset) = device.memory.at(command.prp1);
            let asked = block.load_u64(offset, Ordering::Relaxed);
            block.store_u64(offset, asked * 3, Ordering::Relaxed);
            device.complete(command.cid);
            done += 1;
        }
    });
    let mut buffers: Vec<_> = (0..31).map(|_| dma.allocate(4096).expect("memory")).collect();
    let (mut sent, mut received) = (0, 0);
    let started = Instant::now();
    while received < COMMANDS {
        while sent < COMMANDS
            && !pair.is_full()
            && let Some(buffer) = buffers.pop()
        {
            buffer.store_u64(0, u64::from(sent) + 1, Ordering::Relaxed);
            pair.submit(tagged(sent), Some(DmaSlice::from(buffer)), sent).expect("room");
            sent += 1;
        }
        pair.commit();
        let count = pair
            .process(16, |tag, data, _| {
                let buffer = data.expect("its data").into_buffer();
                let answer = buffer.load_u64(0, Ordering::Relaxed);
                assert_eq!(answer, (u64::from(tag) + 1) * 3, "the data came after its completion");
                buffers.push(buffer);
                received += 1;
            })
            .expect("a correct device");
        if count == 0 {
            assert!(started.elapsed() < Duration::from_secs(120), "the device gave up after {received}");
            thread::yield_now();
        }
    }
    other.join().expect("no panic");
    assert_eq!((pair.outstanding(), buffers.len()), (0, 31));
}
