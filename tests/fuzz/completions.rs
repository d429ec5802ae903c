//! Completions of a hostile device: any 16 bytes, in any slot, at any time. A queue pair hands each command's request and data back once, to a completion that
//! names it and nothing else, and never one that was not submitted; what is wrong is an error that stays; and everything comes back at the end.

use crate::dice::{Dice, fuzz};
use slipring::dma::{DmaError, DmaMap, DmaOptions, DmaSpace, MemoryBlock};
use slipring::queue::{Pair, PairConfig, RejectReason};
use slipring::spec::command::Command;
use slipring::spec::completion::Completion;
use slipring::transport::Doorbell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

const QID: u16 = 3;

/// The memory that the device reaches.
#[derive(Default)]
pub struct Memory(Mutex<BTreeMap<u64, Arc<MemoryBlock>>>);

impl DmaMap for Memory {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        let mut blocks = self.0.lock().expect("whole");
        let iova = blocks.last_key_value().map_or(1 << 32, |(iova, block)| iova + block.len() as u64);
        blocks.insert(iova, Arc::clone(block));
        Ok(iova)
    }

    fn unmap(&self, iova: u64, _len: usize) -> Result<(), DmaError> {
        self.0.lock().expect("whole").remove(&iova);
        Ok(())
    }
}

impl Memory {
    /// The block that holds `len` bytes at `iova`, and where.
    pub fn find(&self, iova: u64, len: usize) -> Option<(Arc<MemoryBlock>, usize)> {
        let blocks = self.0.lock().expect("whole");
        let (start, block) = blocks.range(..=iova).next_back()?;
        let offset = (iova - start) as usize;
        (offset.checked_add(len)? <= block.len()).then(|| (Arc::clone(block), offset))
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().expect("whole").is_empty()
    }
}

/// The driver's side of a queue pair, as the tests use it; the token is the request.
trait Queue {
    /// The command's identifier; `None` when there is no room.
    fn submit(&mut self, token: u64) -> Option<u16>;
    /// What came back, by token.
    fn process(&mut self, max: usize, back: &mut Vec<(u64, Completion)>) -> Result<usize, String>;
    fn abort_all(&mut self, back: &mut Vec<u64>);
}

struct Real {
    pair: Pair<u64>,
    dma: DmaSpace,
}

impl Queue for Real {
    fn submit(&mut self, token: u64) -> Option<u16> {
        // Every other one with data of its own, which is to come back with it.
        let data = (token % 2 == 1).then(|| {
            let buffer = self.dma.allocate(512).expect("memory");
            buffer.write_at(0, &token.to_le_bytes());
            buffer.into()
        });
        match self.pair.submit(Command { opcode: 0x7f, ..Command::default() }, data, token) {
            Ok(cid) => Some(cid),
            Err(rejected) => {
                assert_eq!(rejected.reason, RejectReason::QueueFull);
                assert_eq!((rejected.request, rejected.data.is_some()), (token, token % 2 == 1));
                None
            }
        }
    }

    fn process(&mut self, max: usize, back: &mut Vec<(u64, Completion)>) -> Result<usize, String> {
        self.pair.commit();
        let processed = self.pair.process(max, |token, data, completion| {
            let data = data.map(|data| {
                let mut bytes = [0; 8];
                data.buffer().read_at(0, &mut bytes);
                u64::from_le_bytes(bytes)
            });
            assert_eq!(data, (token % 2 == 1).then_some(token), "each command's own data");
            back.push((token, completion));
        });
        processed.map_err(|error| error.to_string())
    }

    fn abort_all(&mut self, back: &mut Vec<u64>) {
        self.pair.abort_all(|token, _| back.push(token));
    }
}

/// What a driver that trusts its device does: the identifier is a place in a table, and whatever it says there comes back.
struct Trusting {
    pair: Pair<u64>,
    memory: Arc<Memory>,
    slots: Vec<u64>,
    in_flight: usize,
    head: u32,
    phase: bool,
}

impl Queue for Trusting {
    fn submit(&mut self, token: u64) -> Option<u16> {
        if self.in_flight == self.slots.len() {
            return None;
        }
        let cid = self.slots.iter().position(|slot| *slot == u64::MAX)?;
        self.slots[cid] = token;
        self.in_flight += 1;
        Some(cid as u16)
    }

    fn process(&mut self, max: usize, back: &mut Vec<(u64, Completion)>) -> Result<usize, String> {
        let mut count = 0;
        while count < max {
            let at = self.pair.cq_iova() + u64::from(self.head) * 16;
            let (block, offset) = self.memory.find(at, 16).expect("the queue is mapped");
            let mut bytes = [0; 16];
            block.read(offset, &mut bytes);
            let completion: Completion = zerocopy::transmute!(bytes);
            if completion.phase() != self.phase {
                break;
            }
            let slot = usize::from(completion.cid) % self.slots.len();
            back.push((std::mem::replace(&mut self.slots[slot], u64::MAX), completion));
            self.in_flight = self.in_flight.saturating_sub(1);
            self.head += 1;
            if self.head == self.pair.cq_entries() {
                (self.head, self.phase) = (0, !self.phase);
            }
            count += 1;
        }
        Ok(count)
    }

    fn abort_all(&mut self, _back: &mut Vec<u64>) {}
}

/// The device, and what it and the oracle know of the queues.
struct World<Q> {
    queue: Q,
    memory: Arc<Memory>,
    cq_iova: u64,
    cq_entries: u32,
    sq_entries: u32,
    /// Where a well-behaved device posts next, and with which phase.
    tail: u32,
    phase: bool,
    /// By token: the identifier that it was given. Of what is with the driver's queue.
    in_flight: BTreeMap<u64, u16>,
    next_token: u64,
    failed: Option<String>,
}

/// What became of one input, to see that inputs reach something.
#[derive(Default)]
struct Tally {
    submitted: u64,
    completed: u64,
    errors: u64,
}

impl<Q: Queue> World<Q> {
    fn post(&self, slot: u32, bytes: [u8; 16]) {
        let (block, offset) =
            self.memory.find(self.cq_iova + u64::from(slot) * 16, 16).expect("the queue is mapped");
        let [first, second]: [u64; 2] = zerocopy::transmute!(bytes);
        block.store_u64(offset, first, Ordering::Relaxed);
        // Release: pairs with the Acquire of the phase tag in `Pair::process`.
        block.store_u64(offset + 8, second, Ordering::Release);
    }

    /// A completion as it should be, for a command that is in flight.
    fn right(&self, dice: &mut Dice) -> Option<Completion> {
        let place = dice.below(self.in_flight.len());
        let (_, &cid) = self.in_flight.iter().nth(place)?;
        let sqhd = dice.below(self.sq_entries as usize) as u16;
        Some(Completion { cid, sqid: QID, sqhd, status: u16::from(self.phase), ..Completion::default() })
    }

    fn device_acts(&mut self, dice: &mut Dice, wildness: usize) {
        let right = self.right(dice);
        let mut bytes: [u8; 16] = zerocopy::transmute!(right.unwrap_or_default());
        let mut slot = self.tail;
        match dice.below(wildness) {
            // Any bytes anywhere.
            0 => {
                bytes = [(); 16].map(|()| dice.number() as u8);
                slot = dice.below(self.cq_entries as usize) as u32;
            }
            // Nearly right.
            1 => dice.mutate(&mut bytes, 1),
            2 => slot = dice.below(self.cq_entries as usize) as u32,
            _ if right.is_none() => return,
            _ => {}
        }
        self.post(slot, bytes);
        if slot == self.tail {
            self.tail += 1;
            if self.tail == self.cq_entries {
                (self.tail, self.phase) = (0, !self.phase);
            }
        }
    }

    fn driver_acts(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<(), String> {
        for _ in 0..dice.below(4) {
            let Some(cid) = self.queue.submit(self.next_token) else { break };
            if self.in_flight.values().any(|other| *other == cid) {
                return Err(format!("CID {cid:#06x} was given to two commands"));
            }
            self.in_flight.insert(self.next_token, cid);
            self.next_token += 1;
            tally.submitted += 1;
        }
        if self.in_flight.len() as u32 >= self.sq_entries {
            return Err(format!("{} commands in a queue of {}", self.in_flight.len(), self.sq_entries));
        }
        let mut back = Vec::new();
        let processed = self.queue.process(1 + dice.below(8), &mut back);
        for &(token, completion) in &back {
            let Some(cid) = self.in_flight.remove(&token) else {
                return Err(format!("command {token} came back, and was not in flight: {completion:?}"));
            };
            if (completion.cid, completion.sqid) != (cid, QID) {
                return Err(format!("command {token}, CID {cid:#06x}, came back by {completion:?}"));
            }
            tally.completed += 1;
        }
        match processed {
            Ok(count) if count != back.len() => Err(format!("{count} of {} came back", back.len())),
            Ok(_) => Ok(()),
            Err(error) => {
                // It stays: what is behind it cannot be trusted either.
                let mut more = Vec::new();
                let again = self.queue.process(8, &mut more);
                if again.as_ref() != Err(&error) || !more.is_empty() {
                    return Err(format!("after {error:?} came {again:?} with {} more", more.len()));
                }
                self.failed = Some(error);
                tally.errors += 1;
                Ok(())
            }
        }
    }

    fn ends(&mut self) -> Result<(), String> {
        let mut back = Vec::new();
        self.queue.abort_all(&mut back);
        back.sort_unstable();
        let expected: Vec<u64> = self.in_flight.keys().copied().collect();
        if back == expected { Ok(()) } else { Err(format!("{back:?} came back of {expected:?}")) }
    }
}

/// One life of a queue pair, of at most a few hundred steps.
fn live<Q: Queue>(
    seed: u64,
    make: impl FnOnce(Pair<u64>, DmaSpace, Arc<Memory>) -> Q,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut dice = Dice::new(seed);
    let memory = Arc::new(Memory::default());
    let options = DmaOptions { huge_pages: false, block_bytes: 64 << 10 };
    let dma = DmaSpace::new(Arc::clone(&memory) as Arc<dyn DmaMap>, options);
    let doorbells = MemoryBlock::new(4096, false).expect("memory");
    let doorbell = |offset| Doorbell::in_block(Arc::clone(&doorbells), offset).expect("inside");
    let sq_entries = dice.choose(&[2, 3, 4, 5, 8, 17, 64]);
    let cq_entries = sq_entries + dice.choose(&[0, 0, 1, 7]);
    let config = PairConfig { qid: QID, sq_entries, cq_entries, page_size: 4096, max_transfer_bytes: 8192 };
    let pair = Pair::new(&dma, config, doorbell(0), doorbell(4)).expect("a pair");
    let cq_iova = pair.cq_iova();
    let mut world = World {
        queue: make(pair, dma, Arc::clone(&memory)),
        memory,
        cq_iova,
        cq_entries,
        sq_entries,
        tail: 0,
        phase: true,
        in_flight: BTreeMap::new(),
        next_token: 0,
        failed: None,
    };
    // From a device that is wrong all the time to one that is wrong now and then, when the queues have wrapped often.
    let wildness = dice.choose(&[4, 16, 100, 1000]);
    for _ in 0..dice.below(400) {
        for _ in 0..dice.below(4) {
            world.device_acts(&mut dice, wildness);
        }
        world.driver_acts(&mut dice, tally)?;
        if world.failed.is_some() {
            break;
        }
    }
    world.ends()
}

#[test]
fn completions_of_a_hostile_device_give_each_command_back_once() {
    let mut tally = Tally::default();
    fuzz("completions", 2_500, |seed| {
        let real = |pair, dma, _| Real { pair, dma };
        if let Err(what) = live(seed, real, &mut tally) {
            panic!("{what}");
        }
    });
    let Tally { submitted, completed, errors } = tally;
    let told = format!("{submitted} submitted, {completed} completed, {errors} errors");
    assert!(std::env::var_os("SLIPRING_FUZZ_ONLY").is_some() || completed > errors && errors > 400, "{told}");
}

#[test]
fn a_driver_that_trusts_its_device_is_found_out() {
    let trusting = |pair: Pair<u64>, _, memory| Trusting {
        slots: vec![u64::MAX; pair.capacity()],
        memory,
        in_flight: 0,
        head: 0,
        phase: true,
        pair,
    };
    let found = (0..1000).find_map(|seed| live(seed, trusting, &mut Tally::default()).err());
    let what = found.expect("the oracle finds it");
    assert!(what.contains("came back"), "{what}");
}
