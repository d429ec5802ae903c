//! The threads of a storm that do I/O, each command stamped and accounted for.

use crate::round::{Random, Round, count};
use crate::support::DEADLINE;
use crate::{BLOCK_BYTES, NAMESPACE_BLOCKS, Weather};
use slipring::ctrlr::SendErrorReason;
use slipring::dma::DmaBuffer;
use slipring::poller::{IoCompletion, QpairError, QpairOptions, QueuePair, SubmitReason};
use slipring::ring::{Outcome, Scheme};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Blocks that one life of a queue pair uses; no other life does.
const LIFE_BLOCKS: u64 = 32;

/// What a block holds, as far as its owner knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// It was never written, or a write was given back: either content is right.
    Unknown,
    /// The write with this stamp was answered.
    Written(u64),
    /// A command is on its way there.
    Busy,
}

/// One queue pair from its creation to its drop.
struct Life<'a, S: Scheme> {
    round: &'a Round<S>,
    qpair: QueuePair,
    first_block: u64,
    blocks: Vec<Block>,
    /// By token: the block, what it held, and whether this is a write.
    in_flight: HashMap<u64, (usize, Block, bool)>,
    spare: Vec<DmaBuffer>,
    next_token: u64,
}

impl<S: Scheme> Life<'_, S> {
    fn submit(&mut self, random: &mut Random) {
        let block = random.below(LIFE_BLOCKS) as usize;
        let held = self.blocks[block];
        if held == Block::Busy {
            return;
        }
        let buffer = match self.spare.pop() {
            Some(buffer) => buffer,
            None => match self.round.ctrlr.allocate(BLOCK_BYTES) {
                Ok(buffer) => buffer,
                Err(error) => {
                    self.round.comes_to_its_end(&error);
                    return;
                }
            },
        };
        let token = self.next_token;
        let is_write = held == Block::Unknown || random.one_in(2);
        // A stamp that no other life writes, all over the block.
        let stamp = if is_write { self.first_block << 32 | token } else { u64::MAX };
        let bytes: Vec<u8> = std::iter::repeat_n(stamp.to_le_bytes(), BLOCK_BYTES / 8).flatten().collect();
        buffer.write_at(0, &bytes);
        let namespace = self.round.ctrlr.namespaces().iter().find(|namespace| namespace.nsid == 1).copied();
        let namespace = namespace.expect("the namespace is there, whatever happens");
        let lba = self.first_block + block as u64;
        let submit = if is_write { QueuePair::write } else { QueuePair::read };
        match submit(&mut self.qpair, &namespace, lba, buffer.into(), token) {
            Ok(()) => {
                self.next_token += 1;
                self.blocks[block] = Block::Busy;
                self.in_flight.insert(token, (block, held, is_write));
            }
            Err(error) => {
                let expected = matches!(
                    error.reason,
                    SubmitReason::QueueFull | SubmitReason::NotConnected | SubmitReason::Gone
                );
                assert!(expected, "{error}");
                self.spare.push(error.data.expect("the data come back").into_buffer());
            }
        }
    }

    /// False when the controller is detached.
    fn poll(&mut self) -> bool {
        let Self { round, qpair, first_block, blocks, in_flight, spare, .. } = self;
        let polled = qpair.poll(8, |completion: IoCompletion| {
            let token = completion.token;
            let (block, held, is_write) = in_flight.remove(&token).expect("in flight, and back once");
            let buffer = completion.data.expect("the data come back").into_buffer();
            blocks[block] = match completion.outcome {
                Outcome::Completed(answer) if !answer.status().is_success() => {
                    assert!(round.weather.has_faults(), "{}", answer.status());
                    count(&round.counts.errors, 1);
                    if is_write { Block::Unknown } else { held }
                }
                Outcome::Completed(_) => {
                    count(&round.counts.ios, 1);
                    if is_write {
                        Block::Written(*first_block << 32 | token)
                    } else {
                        if let Block::Written(stamp) = held {
                            let right =
                                buffer.to_vec().chunks_exact(8).all(|word| word == stamp.to_le_bytes());
                            assert!(right, "block {block} holds what was last written");
                            count(&round.counts.verified, 1);
                        }
                        held
                    }
                }
                Outcome::Aborted(_) => {
                    count(&round.counts.given_back, 1);
                    if is_write { Block::Unknown } else { held }
                }
            };
            spare.push(buffer);
        });
        match polled {
            Ok(0) => {
                std::thread::yield_now();
                true
            }
            Ok(_) => true,
            // They come back when the device has stopped.
            Err(QpairError::Protocol(_)) if self.round.weather == Weather::Failure => {
                std::thread::yield_now();
                true
            }
            Err(QpairError::Gone(_)) => {
                assert!(self.round.is_over());
                assert!(self.in_flight.is_empty(), "the error comes after the last request");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Queue pairs that come and go, with I/O in flight or without.
pub fn io_thread<S: Scheme>(round: &Round<S>, index: usize, mut random: Random) {
    let name = format!("io {index}");
    while round.goes_on() {
        let options = QpairOptions { entries: 2 + random.below(30) as u32 };
        let created = if random.one_in(3) {
            let Ok(producer) = round.ctrlr.register(&name) else { break };
            let created = QueuePair::create(&producer, &options, DEADLINE);
            match round.ctrlr.unregister(&name, DEADLINE) {
                Ok(()) => {}
                Err(error) => assert!(round.is_over(), "{error}"),
            }
            created
        } else {
            QueuePair::request(&round.ctrlr, &options)
        };
        let qpair = match created {
            Ok(qpair) => qpair,
            // Those that were dropped are still being deleted; or the ring was full.
            Err(QpairError::NoneFree { .. } | QpairError::NotSent(SendErrorReason::Full)) => {
                std::thread::yield_now();
                continue;
            }
            Err(error) => {
                round.comes_to_its_end(&error);
                break;
            }
        };
        count(&round.counts.lives, 1);
        // Relaxed: a number of its own.
        let first_block = round.next_life.fetch_add(1, Ordering::Relaxed) * LIFE_BLOCKS % NAMESPACE_BLOCKS;
        let blocks = vec![Block::Unknown; LIFE_BLOCKS as usize];
        let mut life = Life {
            round,
            qpair,
            first_block,
            blocks,
            in_flight: HashMap::new(),
            spare: Vec::new(),
            next_token: 0,
        };
        let started = Instant::now();
        let mut left = random.below(400);
        let mut alive = true;
        while alive && (left > 0 || life.next_token == 0) {
            left = left.saturating_sub(1);
            for _ in 0..random.below(6) {
                life.submit(&mut random);
            }
            alive = life.poll();
            if life.next_token == 0 {
                assert!(started.elapsed() < DEADLINE, "a queue pair was never connected: {:?}", life.qpair);
            }
        }
        if random.one_in(2) || !alive {
            let drained_from = Instant::now();
            while alive && life.qpair.outstanding() > 0 {
                alive = life.poll();
                assert!(drained_from.elapsed() < DEADLINE, "I/O does not come back: {:?}", life.qpair);
            }
            assert_eq!(life.in_flight.len(), 0);
        } else {
            for _ in 0..4 {
                life.submit(&mut random);
            }
            life.qpair.commit();
            count(&round.counts.dropped_in_flight, life.in_flight.len() as u64);
        }
        let statistics = life.qpair.statistics();
        count(&round.counts.reconnects, statistics.reconnects);
        assert_eq!(statistics.submitted, life.next_token);
        let back = statistics.completed + statistics.aborted;
        assert_eq!(statistics.submitted, back + life.in_flight.len() as u64, "every I/O is accounted for");
        if !alive {
            break;
        }
    }
}
