//! The oracle: what each block may hold and what may become of each request, known without looking at the driver or the device.
//!
//! A block's *candidates* are the writes that it may hold. A write is one from its submission on, since the device may execute it at any moment from then; it
//! can no longer be executed once it is answered, or aborted by a driver that says that the device has stopped. A write that succeeded replaces all that
//! could not have been executed after it. A read may see what was a candidate at any moment between its submission and its answer.
#![forbid(unsafe_code)]

use slipring::dma::DmaSlice;
use slipring::spec::status::Status;
use std::collections::BTreeMap;

/// Logical block size of the simulated namespace.
pub(super) const BLOCK_BYTES: usize = 512;

/// Counts events; later ones have higher ticks.
type Tick = u64;

/// What a request does to its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Zero,
    Flush,
}

/// Who asked for a request, and so must be given its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Qpair(u64),
    Message,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    /// The device answered with another status. What that means for the data is the device's own business.
    Refused(Status),
    Aborted {
        may_have_executed: bool,
    },
}

/// A request that is on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) lba: u64,
    pub(super) blocks: u64,
    pub(super) owner: Owner,
    since: Tick,
}

/// A write that a block may hold.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u64,
    /// What a block reads as that holds it.
    word: u64,
    /// When it could be executed last; `None` while it still can.
    ended: Option<Tick>,
    /// When a write was answered that came after it for sure.
    replaced: Option<Tick>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Oracle {
    now: Tick,
    last_id: u64,
    requests: BTreeMap<u64, Request>,
    blocks: Vec<Vec<Candidate>>,
}

impl Oracle {
    /// Of a namespace of `blocks` blocks, all zero.
    pub(super) fn new(blocks: u64) -> Self {
        let zero = Candidate { id: 0, word: 0, ended: Some(0), replaced: None };
        Self {
            now: 0,
            last_id: 0,
            requests: BTreeMap::new(),
            blocks: (0..blocks).map(|_| vec![zero]).collect(),
        }
    }

    /// A number that nothing else has.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn tick(&mut self) -> Tick {
        self.now += 1;
        self.now
    }

    /// A request that is about to be submitted.
    pub(super) fn begin(&mut self, id: u64, kind: Kind, lba: u64, blocks: u64, owner: Owner) {
        let since = self.tick();
        self.requests.insert(id, Request { kind, lba, blocks, owner, since });
        if matches!(kind, Kind::Write | Kind::Zero) {
            for lba in lba..lba + blocks {
                let word = if kind == Kind::Write { word(id, lba) } else { 0 };
                self.blocks[lba as usize].push(Candidate { id, word, ended: None, replaced: None });
            }
        }
    }

    /// What the request does whose submission was refused: nothing, and never.
    pub(super) fn withdraw(&mut self, id: u64) {
        if let Some(request) = self.requests.remove(&id) {
            self.never_executed(id, request);
        }
    }

    fn never_executed(&mut self, id: u64, request: Request) {
        for lba in request.lba..request.lba + request.blocks {
            self.blocks[lba as usize].retain(|candidate| candidate.id != id);
        }
    }

    /// The requests of an owner that gave up its right to their outcomes. They may still be executed.
    pub(super) fn abandon(&mut self, owner: Owner) {
        self.requests.retain(|_, request| request.owner != owner);
    }

    /// As [`Oracle::abandon`], of one request.
    pub(super) fn abandon_one(&mut self, id: u64) {
        self.requests.remove(&id);
    }

    /// How many requests of `owner` are on their way.
    pub(super) fn outstanding(&self, owner: Owner) -> usize {
        self.requests.values().filter(|request| request.owner == owner).count()
    }

    /// The requests that have no outcome yet.
    pub(super) fn unanswered(&self) -> Vec<(u64, Request)> {
        self.requests.iter().map(|(id, request)| (*id, *request)).collect()
    }

    /// Whether a request has no outcome yet.
    pub(super) fn is_known(&self, id: u64) -> bool {
        self.requests.contains_key(&id)
    }

    /// The outcome of a request, with the data that it moved. The error says why that cannot be.
    pub(super) fn finish(
        &mut self,
        id: u64,
        owner: Owner,
        verdict: Verdict,
        data: Option<&DmaSlice>,
    ) -> Result<Kind, String> {
        let now = self.tick();
        let request = self.requests.remove(&id).ok_or_else(|| {
            format!("request {id} has an outcome ({verdict:?}) that is not its first, or was never made")
        })?;
        if request.owner != owner {
            return Err(format!("request {id} of {:?} was answered to {owner:?}", request.owner));
        }
        match (request.kind, verdict) {
            (Kind::Read, Verdict::Success) => {
                let data = data.ok_or_else(|| format!("read {id} came back without its data"))?;
                let mut bytes = vec![0; data.len()];
                data.buffer().read_at(data.offset(), &mut bytes);
                for (lba, block) in (request.lba..).zip(bytes.chunks_exact(BLOCK_BYTES)) {
                    self.check_block(id, request.since, lba, block)?;
                }
            }
            (Kind::Write | Kind::Zero, Verdict::Success) => self.written(id, request, now),
            (Kind::Write | Kind::Zero, Verdict::Aborted { may_have_executed: false }) => {
                self.never_executed(id, request);
            }
            (Kind::Write | Kind::Zero, _) => self.ended(id, request, now),
            (Kind::Read | Kind::Flush, _) => {}
        }
        Ok(request.kind)
    }

    /// Whether the answered or aborted write can be what is there; it cannot be executed any more.
    fn ended(&mut self, id: u64, request: Request, now: Tick) {
        for lba in request.lba..request.lba + request.blocks {
            for candidate in self.blocks[lba as usize].iter_mut().filter(|candidate| candidate.id == id) {
                candidate.ended = Some(now);
            }
        }
    }

    fn written(&mut self, id: u64, request: Request, now: Tick) {
        self.ended(id, request, now);
        // What was replaced before the oldest request on its way is of no interest to anybody.
        let oldest = self.requests.values().next().map_or(now, |request| request.since);
        for lba in request.lba..request.lba + request.blocks {
            let candidates = &mut self.blocks[lba as usize];
            for candidate in candidates.iter_mut() {
                if candidate.ended.is_some_and(|ended| ended < request.since) {
                    candidate.replaced = candidate.replaced.or(Some(now));
                }
            }
            candidates.retain(|candidate| candidate.replaced.is_none_or(|replaced| replaced >= oldest));
        }
    }

    /// Whether a read that was submitted at `since` may have found `bytes` in a block.
    fn check_block(&self, id: u64, since: Tick, lba: u64, bytes: &[u8]) -> Result<(), String> {
        let (words, _) = bytes.as_chunks::<8>();
        let found = u64::from_le_bytes(words[0]);
        if let Some(place) = words.iter().position(|word| *word != words[0]) {
            let other = u64::from_le_bytes(words[place]);
            return Err(format!(
                "read {id} found block {lba} torn: {} at byte 0, {} at byte {}",
                name(found),
                name(other),
                place * 8
            ));
        }
        let candidates = &self.blocks[lba as usize];
        let may_be = |candidate: &Candidate| candidate.replaced.is_none_or(|replaced| replaced > since);
        if candidates.iter().any(|candidate| candidate.word == found && may_be(candidate)) {
            return Ok(());
        }
        let expected: Vec<_> =
            candidates.iter().filter(|candidate| may_be(candidate)).map(|it| name(it.word)).collect();
        Err(format!("read {id} found {} in block {lba}, where there can be {expected:?} only", name(found)))
    }
}

/// What a block is full of that holds write `id`. Never 0.
fn word(id: u64, lba: u64) -> u64 {
    id << 16 | lba
}

fn name(word: u64) -> String {
    if word == 0 { "zeroes".to_owned() } else { format!("write {} of block {}", word >> 16, word & 0xffff) }
}

/// The data of write `id` of `blocks` blocks from `lba` on.
pub(super) fn data_of(id: u64, lba: u64, blocks: u64) -> Vec<u8> {
    (lba..lba + blocks).flat_map(|lba| word(id, lba).to_le_bytes().repeat(BLOCK_BYTES / 8)).collect()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Oracle, Owner, Verdict, data_of};

    const ME: Owner = Owner::Qpair(1);
    const UNKNOWN: Verdict = Verdict::Aborted { may_have_executed: true };

    fn write(oracle: &mut Oracle) -> u64 {
        let id = oracle.fresh_id();
        oracle.begin(id, Kind::Write, 0, 1, ME);
        id
    }

    /// Whether a read that begins and ends now may find write `id`.
    fn may_find(oracle: &mut Oracle, id: u64) -> bool {
        let since = oracle.tick();
        oracle.check_block(0, since, 0, &data_of(id, 0, 1)).is_ok()
    }

    #[test]
    fn a_write_that_succeeded_replaces_what_was_there() {
        let mut oracle = Oracle::new(1);
        let first = write(&mut oracle);
        assert!(may_find(&mut oracle, first), "executed, and not answered yet");
        oracle.finish(first, ME, Verdict::Success, None).expect("possible");
        let early = oracle.tick();
        let second = write(&mut oracle);
        assert!(may_find(&mut oracle, first));
        // Keeps what was replaced meanwhile.
        oracle.begin(99, Kind::Read, 0, 1, ME);
        oracle.finish(second, ME, Verdict::Success, None).expect("possible");
        assert!(!may_find(&mut oracle, first));
        assert!(may_find(&mut oracle, second));
        assert!(oracle.check_block(0, early, 0, &data_of(first, 0, 1)).is_ok(), "a read that began before");
    }

    #[test]
    fn writes_at_the_same_time_come_in_either_order() {
        let mut oracle = Oracle::new(1);
        let (one, other) = (write(&mut oracle), write(&mut oracle));
        oracle.finish(one, ME, Verdict::Success, None).expect("possible");
        oracle.finish(other, ME, Verdict::Success, None).expect("possible");
        assert!(may_find(&mut oracle, one) && may_find(&mut oracle, other));
    }

    #[test]
    fn a_write_of_unknown_fate_is_there_or_not_but_does_not_come_later() {
        let mut oracle = Oracle::new(1);
        let (known, unknown) = (write(&mut oracle), write(&mut oracle));
        oracle.finish(known, ME, Verdict::Success, None).expect("possible");
        oracle.finish(unknown, ME, UNKNOWN, None).expect("possible");
        assert!(may_find(&mut oracle, known) && may_find(&mut oracle, unknown));
        let last = write(&mut oracle);
        oracle.finish(last, ME, Verdict::Success, None).expect("possible");
        assert!(!may_find(&mut oracle, unknown), "it was aborted before the last one was submitted");
    }

    #[test]
    fn what_was_not_executed_is_never_there() {
        let mut oracle = Oracle::new(1);
        let (refused, aborted) = (write(&mut oracle), write(&mut oracle));
        oracle.withdraw(refused);
        oracle.finish(aborted, ME, Verdict::Aborted { may_have_executed: false }, None).expect("possible");
        assert!(!may_find(&mut oracle, refused) && !may_find(&mut oracle, aborted));
    }

    #[test]
    fn second_outcomes_and_wrong_owners_are_noticed() {
        let mut oracle = Oracle::new(1);
        let id = write(&mut oracle);
        oracle.finish(id, ME, UNKNOWN, None).expect("possible");
        let again = oracle.finish(id, ME, Verdict::Success, None).expect_err("completed after aborted");
        assert!(again.contains("not its first"), "{again}");
        let id = write(&mut oracle);
        let other = oracle.finish(id, Owner::Message, Verdict::Success, None).expect_err("not its owner");
        assert!(other.contains("was answered to Message"), "{other}");
    }

    #[test]
    fn torn_blocks_are_noticed() {
        let mut oracle = Oracle::new(1);
        let id = write(&mut oracle);
        let mut bytes = data_of(id, 0, 1);
        bytes[300] ^= 1;
        let torn = oracle.check_block(0, 0, 0, &bytes).expect_err("torn");
        assert!(torn.contains("torn") && torn.contains("byte 296"), "{torn}");
    }
}
