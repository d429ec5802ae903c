//! A lane: one queue pair, its part of a namespace, and a buffer for each I/O that may be in flight. What is to be done next, done, and
//! checked; when, is the worker's business.
#![forbid(unsafe_code)]

use super::stamp::{Stamp, Wrong};
use crate::error::Error;
use crate::numbers::Random;
use slipring::ctrlr::Namespace;
use slipring::dma::{DmaBuffer, DmaSlice};
use slipring::poller::{QpairError, QueuePair, SubmitReason};
use slipring::ring::Outcome;
use slipring::spec::completion::Completion;
use std::time::Duration;

/// Completions taken from one queue pair before the next has its turn.
const BATCH: usize = 32;

/// What a lane is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The pattern, until told to stop.
    Pattern,
    /// Writing every unit once.
    Fill,
    /// Reading back every unit that was written.
    Check,
}

/// The units (of the I/O size) of a namespace that are this lane's alone, and which of them comes next.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) first_lba: u64,
    pub(super) units: u64,
    pub(super) unit_blocks: u32,
    pub(super) is_random: bool,
    /// Of 2^32 I/Os, how many are reads.
    pub(super) reads: u64,
    pub(super) random: Random,
    cursor: u64,
}

impl Source {
    pub(super) fn new(first_lba: u64, units: u64, unit_blocks: u32) -> Self {
        Self { first_lba, units, unit_blocks, is_random: false, reads: 0, random: Random::new(0), cursor: 0 }
    }

    #[inline(always)]
    fn lba(&self, unit: u64) -> u64 {
        self.first_lba + unit * u64::from(self.unit_blocks)
    }
}

/// Set while an I/O of the unit is in flight.
const BUSY: u32 = 1 << 31;

/// With `--verify`: what each unit holds.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Per unit how often it was written, 0 when that is not known, and BUSY.
    generations: Vec<u32>,
    seed: u64,
    /// What is read was stamped by an earlier run, in a generation that is not known.
    from_earlier_run: bool,
    /// Bytes of a unit, and of one block.
    unit: Vec<u8>,
    block: Vec<u8>,
}

impl Ledger {
    pub(super) fn new(
        units: u64,
        seed: u64,
        from_earlier_run: bool,
        unit_bytes: usize,
        block_bytes: usize,
    ) -> Self {
        let generations = vec![0; units as usize];
        Self { generations, seed, from_earlier_run, unit: vec![0; unit_bytes], block: vec![0; block_bytes] }
    }

    /// The first unit from `unit` on, around the end, of which nothing is in flight. There is one: lanes have as many units as slots at least.
    fn idle_from(&self, unit: u64) -> u64 {
        let (before, after) = self.generations.split_at(unit as usize);
        let order = after.iter().chain(before);
        let distance = order.take_while(|generation| *generation & BUSY != 0).count() as u64;
        (unit + distance) % self.generations.len() as u64
    }
}

/// One I/O that may be in flight.
#[derive(Debug)]
struct Slot {
    data: Option<DmaSlice>,
    start_ns: u64,
    unit: u64,
    /// With `--verify`, the generation that is being written.
    generation: u32,
    is_read: bool,
}

/// What the lanes of a worker have counted.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    pub(super) verified_blocks: u64,
    pub(super) wrong_blocks: u64,
    pub(super) first_wrong: Option<Wrong>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    qpair: QueuePair,
    namespace: Namespace,
    slots: Box<[Slot]>,
    idle: Vec<u32>,
    done: Vec<(u32, Outcome<Completion>)>,
    source: Source,
    ledger: Option<Ledger>,
    work: Work,
}

impl Lane {
    /// `buffers` are of one unit each, and as many as may be in flight.
    pub(super) fn new(
        qpair: QueuePair,
        namespace: Namespace,
        buffers: Vec<DmaBuffer>,
        source: Source,
        ledger: Option<Ledger>,
    ) -> Self {
        let slot = |buffer| Slot {
            data: Some(DmaSlice::from(buffer)),
            start_ns: 0,
            unit: 0,
            generation: 0,
            is_read: false,
        };
        let slots: Box<[Slot]> = buffers.into_iter().map(slot).collect();
        let idle = (0..slots.len() as u32).rev().collect();
        let done = Vec::with_capacity(slots.len());
        Self { qpair, namespace, slots, idle, done, source, ledger, work: Work::Pattern }
    }

    /// Turns to other work; nothing is in flight.
    pub(super) fn turn_to(&mut self, work: Work) {
        self.work = work;
        self.source.cursor = 0;
    }

    #[inline(always)]
    pub(super) fn is_idle(&self) -> bool {
        self.idle.len() == self.slots.len()
    }

    #[inline(always)]
    pub(super) fn has_room(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Rings the doorbell for what was started.
    #[inline(always)]
    pub(super) fn commit(&mut self) {
        self.qpair.commit();
    }

    /// Which unit comes next, and whether it is read; `None` when the work is done.
    #[inline(always)]
    fn next(&mut self) -> Option<(u64, bool)> {
        let source = &mut self.source;
        if self.work == Work::Pattern {
            let unit = if source.is_random {
                source.random.below(source.units)
            } else {
                let unit = source.cursor;
                source.cursor = if unit + 1 == source.units { 0 } else { unit + 1 };
                unit
            };
            // All or nothing needs no number.
            let is_read = match source.reads {
                0 => false,
                reads => reads >> 32 != 0 || source.random.next() >> 32 < reads,
            };
            let unit = self.ledger.as_ref().map_or(unit, |ledger| ledger.idle_from(unit));
            return Some((unit, is_read));
        }
        self.next_of_pass()
    }

    /// The next unit of a pass over all of them.
    fn next_of_pass(&mut self) -> Option<(u64, bool)> {
        let source = &mut self.source;
        let is_read = self.work == Work::Check;
        while source.cursor < source.units {
            let unit = source.cursor;
            source.cursor += 1;
            let is_known = self.ledger.as_ref().is_some_and(|ledger| ledger.generations[unit as usize] != 0);
            if !is_read || is_known {
                return Some((unit, is_read));
            }
        }
        None
    }

    /// Starts the next I/O, if there is room and work; its latency counts from `start_ns`. Says whether it did.
    #[inline(always)]
    pub(super) fn start(&mut self, start_ns: u64) -> Result<bool, Error> {
        let Some(&index) = self.idle.last() else { return Ok(false) };
        let Some((unit, is_read)) = self.next() else { return Ok(false) };
        self.idle.pop();
        let slot = &mut self.slots[index as usize];
        (slot.unit, slot.is_read, slot.start_ns) = (unit, is_read, start_ns);
        if let Some(ledger) = &mut self.ledger {
            let lba = self.source.lba(unit);
            stamp(ledger, slot, self.namespace.nsid, lba);
        }
        let Some(data) = slot.data.take() else { return Err(Error::failed("a buffer did not come back")) };
        let lba = self.source.lba(unit);
        let submitted = if is_read {
            self.qpair.read(&self.namespace, lba, data, index.into())
        } else {
            self.qpair.write(&self.namespace, lba, data, index.into())
        };
        match submitted {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.reason, SubmitReason::NotConnected | SubmitReason::Gone) => {
                self.take_back(index, error.data);
                Ok(false)
            }
            Err(error) => Err(Error::failed(error)),
        }
    }

    /// Undoes a start: the controller is failing or gone, of which the next poll says more.
    #[cold]
    fn take_back(&mut self, index: u32, data: Option<DmaSlice>) {
        let slot = &mut self.slots[index as usize];
        slot.data = data;
        if let Some(ledger) = &mut self.ledger {
            ledger.generations[slot.unit as usize] &= !BUSY;
        }
        self.idle.push(index);
    }

    /// Sleeps until something completes, at most for `timeout`.
    pub(super) fn wait(&mut self, timeout: Duration) {
        self.qpair.wait(timeout);
    }

    /// Takes what has completed, and says how much; [`Lane::settle`] goes through it.
    #[inline(always)]
    pub(super) fn poll(&mut self) -> Result<usize, QpairError> {
        let Self { qpair, slots, done, .. } = self;
        qpair.poll(BATCH, |completion| {
            slots[completion.token as usize].data = completion.data;
            done.push((completion.token as u32, completion.outcome));
        })
    }

    /// Goes through what has completed: `each` gets how the latency of every I/O began, and whether it was a read.
    #[inline(always)]
    pub(super) fn settle(&mut self, found: &mut Found, mut each: impl FnMut(u64, bool)) {
        while let Some((index, outcome)) = self.done.pop() {
            self.idle.push(index);
            let slot = &self.slots[index as usize];
            let is_success = matches!(&outcome, Outcome::Completed(done) if done.status().is_success());
            if is_success {
                each(slot.start_ns, slot.is_read);
            } else {
                self.note_error(index, &outcome, found);
            }
            if self.ledger.is_some() {
                self.verify(index, is_success, found);
            }
        }
    }

    #[cold]
    fn note_error(&self, index: u32, outcome: &Outcome<Completion>, found: &mut Found) {
        found.errors += 1;
        let slot = &self.slots[index as usize];
        found.first_error.get_or_insert_with(|| {
            let what = if slot.is_read { "a read" } else { "a write" };
            let why = match outcome {
                Outcome::Completed(completion) => completion.status().to_string(),
                Outcome::Aborted(aborted) => aborted.to_string(),
            };
            let (lba, nsid) = (self.source.lba(slot.unit), self.namespace.nsid);
            format!("{what} of namespace {nsid} at LBA {lba}: {why}")
        });
    }

    /// Takes an I/O that is over into the ledger, and checks what it read.
    fn verify(&mut self, index: u32, is_success: bool, found: &mut Found) {
        let Some(ledger) = &mut self.ledger else { return };
        let slot = &self.slots[index as usize];
        let generation = &mut ledger.generations[slot.unit as usize];
        *generation &= !BUSY;
        if !slot.is_read {
            // What failed may have been written, or not, or in part.
            *generation = if is_success { slot.generation } else { 0 };
            return;
        }
        let is_known = *generation != 0 || ledger.from_earlier_run;
        if !is_success || !is_known {
            return;
        }
        let Some(data) = &slot.data else { return };
        data.buffer().read_at(data.offset(), &mut ledger.unit);
        let lba = self.source.lba(slot.unit);
        let (nsid, seed, generation) = (self.namespace.nsid, ledger.seed, *generation);
        let any_generation = generation == 0;
        for (block, lba) in ledger.unit.chunks_exact(ledger.block.len()).zip(lba..) {
            let stamp = Stamp { nsid, lba, seed, generation };
            match stamp.check(block, any_generation, &mut ledger.block) {
                Ok(()) => found.verified_blocks += 1,
                Err(wrong) => {
                    found.wrong_blocks += 1;
                    found.first_wrong.get_or_insert(wrong);
                }
            }
        }
    }
}

/// Marks the unit busy; fills the data of a write.
fn stamp(ledger: &mut Ledger, slot: &mut Slot, nsid: u32, lba: u64) {
    let generation = &mut ledger.generations[slot.unit as usize];
    if !slot.is_read {
        // From 1 to the largest that leaves BUSY alone, and around.
        slot.generation = *generation % (BUSY - 1) + 1;
        for (block, lba) in ledger.unit.chunks_exact_mut(ledger.block.len()).zip(lba..) {
            Stamp { nsid, lba, seed: ledger.seed, generation: slot.generation }.fill(block);
        }
        if let Some(data) = &slot.data {
            data.buffer().write_at(data.offset(), &ledger.unit);
        }
    }
    *generation |= BUSY;
}
