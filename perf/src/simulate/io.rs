//! Queue pairs in a simulation: their owners submit, poll, drop them and make new ones, and everything that comes back is shown to the oracle.
#![forbid(unsafe_code)]

use super::oracle::{BLOCK_BYTES, Kind, Owner, Verdict, data_of};
use super::setup::BLOCKS;
use super::world::{Sabotage, World};
use slipring::ctrlr::Namespace;
use slipring::dma::{DmaError, DmaSlice};
use slipring::poller::{IoCompletion, QpairError, QpairOptions, QueuePair, SubmitError, SubmitReason};
use slipring::ring::{AbortReason, Aborted, Outcome};
use slipring::spec::completion::Completion;
use std::collections::BTreeMap;

/// Queue pairs at a time.
const LANES: usize = 3;
/// The longest transfer that is tried, in blocks.
const LONGEST: u64 = 40;

/// A queue pair, and what its owner knows of it.
pub(super) struct Lane {
    id: u64,
    qpair: QueuePair,
    /// Address and length of the data of each request on its way.
    data: BTreeMap<u64, Option<(u64, usize)>>,
    /// It said that it never will be of use again.
    is_over: bool,
}

impl Lane {
    fn owner(&self) -> Owner {
        Owner::Qpair(self.id)
    }
}

/// The namespace, as far as it is what the oracle thinks it is.
pub(super) fn namespace_of(world: &World) -> Option<Namespace> {
    let namespace = world.ctrlr().namespace(1)?;
    let is_as_made = namespace.block_bytes as usize == BLOCK_BYTES && namespace.size_blocks == BLOCKS;
    (namespace.unsupported.is_none() && is_as_made).then_some(namespace)
}

/// A request: what it is, and the blocks from where on.
pub(super) fn draw_request(world: &mut World) -> (Kind, u64, u64) {
    let kind = match world.random.below(16) {
        0..7 => Kind::Read,
        7..14 => Kind::Write,
        14 => Kind::Zero,
        _ => Kind::Flush,
    };
    let most = if world.random.below(8) == 0 { LONGEST } else { 4 };
    let blocks = if kind == Kind::Flush { 0 } else { 1 + world.random.below(most) };
    let lba = world.random.below(BLOCKS - blocks + 1);
    (kind, lba, blocks)
}

/// Memory for `blocks` blocks, anywhere in a buffer where it may be.
pub(super) fn data_for(world: &mut World, blocks: u64) -> Result<Option<DmaSlice>, String> {
    let len = blocks as usize * BLOCK_BYTES;
    let offset = world.random.below(4) as usize * 1028;
    match world.ctrlr().allocate(offset + len) {
        Ok(buffer) => {
            let slice = DmaSlice::new(buffer, offset, len);
            slice.map(Some).map_err(|(error, _)| format!("a slice was refused: {error}"))
        }
        Err(DmaError::Detached) if world.is_detaching() || world.may_fail() => Ok(None),
        Err(error) => Err(format!("no memory: {error}")),
    }
}

/// Fills the data of a write, or something else into those of a read.
pub(super) fn fill(data: &DmaSlice, kind: Kind, id: u64, lba: u64, blocks: u64) {
    match kind {
        Kind::Write => data.buffer().write_at(data.offset(), &data_of(id, lba, blocks)),
        _ => data.buffer().fill(0xa5),
    }
}

impl World {
    /// Makes a queue pair, or drops one.
    pub(super) fn change_owners(&mut self) -> Result<(), String> {
        match self.random.below(8) {
            // The seat is left: by a thread that ends, or one that does something else for a while.
            0 => self.poller = None,
            1 => self.poller.iter_mut().for_each(slipring::poller::Poller::pause),
            2 if !self.lanes.is_empty() => {
                let place = self.random.below(self.lanes.len() as u64) as usize;
                let lane = self.lanes.swap_remove(place);
                self.oracle.abandon(lane.owner());
            }
            _ if self.lanes.len() < LANES => return self.make_lane(),
            _ => {}
        }
        Ok(())
    }

    fn make_lane(&mut self) -> Result<(), String> {
        let most = self.ctrlr().limits().map_or(2, |limits| u64::from(limits.max_queue_entries).min(16));
        let entries = 2 + self.random.below(most - 1) as u32;
        match QueuePair::request(self.ctrlr(), &QpairOptions { entries }) {
            Ok(qpair) => {
                let id = self.oracle.fresh_id();
                self.lanes.push(Lane { id, qpair, data: BTreeMap::new(), is_over: false });
                Ok(())
            }
            Err(QpairError::NoneFree { .. }) => Ok(()),
            Err(_) if self.is_detaching() || self.may_fail() => Ok(()),
            Err(error) => Err(format!("a queue pair was refused for no reason: {error}")),
        }
    }

    /// Submits a few requests to one queue pair, or only rings its doorbell.
    pub(super) fn do_io(&mut self) -> Result<(), String> {
        if self.lanes.is_empty() {
            return self.make_lane();
        }
        let place = self.random.below(self.lanes.len() as u64) as usize;
        for _ in 0..=self.random.below(4) {
            self.submit(place)?;
        }
        if self.random.below(2) == 0 {
            self.lanes[place].qpair.commit();
        }
        Ok(())
    }

    fn submit(&mut self, place: usize) -> Result<(), String> {
        let Some(namespace) = namespace_of(self) else { return Ok(()) };
        let (kind, lba, blocks) = draw_request(self);
        let data = match kind {
            Kind::Read | Kind::Write => {
                let Some(data) = data_for(self, blocks)? else { return Ok(()) };
                Some(data)
            }
            Kind::Zero | Kind::Flush => None,
        };
        let id = self.oracle.fresh_id();
        let lane = &mut self.lanes[place];
        self.oracle.begin(id, kind, lba, blocks, lane.owner());
        let address = data.as_ref().map(|data| (data.iova(), data.len()));
        let submitted = match (kind, data) {
            (Kind::Flush, _) => lane.qpair.flush(&namespace, id),
            (Kind::Zero, _) => lane.qpair.write_zeroes(&namespace, lba, blocks as u32, false, id),
            (_, None) => return Err("a request without its data".to_owned()),
            (_, Some(data)) => {
                fill(&data, kind, id, lba, blocks);
                if kind == Kind::Read {
                    lane.qpair.read(&namespace, lba, data, id)
                } else {
                    lane.qpair.write(&namespace, lba, data, id)
                }
            }
        };
        match submitted {
            Ok(()) => {
                lane.data.insert(id, address);
                self.note(|| format!("  request {id}: {kind:?} {blocks} blocks from {lba}"));
                self.counts.requests += 1;
                Ok(())
            }
            Err(error) => self.rejected(place, id, address, error),
        }
    }

    /// A request that was not submitted comes back with its data, and for a reason.
    fn rejected(
        &mut self,
        place: usize,
        id: u64,
        address: Option<(u64, usize)>,
        error: SubmitError,
    ) -> Result<(), String> {
        self.oracle.withdraw(id);
        self.note(|| format!("  request {id} refused: {error}"));
        if error.data.as_ref().map(|data| (data.iova(), data.len())) != address {
            return Err(format!("request {id} was refused and its data kept: {error}"));
        }
        let lane = &self.lanes[place];
        let limit = self.ctrlr().limits().map_or(0, |limits| limits.max_transfer_bytes);
        let is_reasonable = match error.reason {
            SubmitReason::QueueFull => {
                lane.data.len() == lane.qpair.capacity() || lane.qpair.outstanding() > 0
            }
            SubmitReason::TooLarge { limit_bytes } => {
                limit_bytes <= limit && address.is_some_and(|(_, len)| len > limit_bytes)
            }
            SubmitReason::NotConnected => !lane.qpair.is_connected(),
            SubmitReason::Gone => self.is_detaching() || self.may_fail(),
            _ => false,
        };
        if !is_reasonable {
            return Err(format!("request {id} was refused for no reason: {error}"));
        }
        match error.data {
            Some(data) => self.watch(data.into_buffer()),
            None => Ok(()),
        }
    }

    /// Polls every queue pair.
    pub(super) fn poll_lanes(&mut self) -> Result<(), String> {
        for place in 0..self.lanes.len() {
            let max = 1 + self.random.below(8) as usize;
            self.poll_lane(place, max)?;
        }
        let (over, lanes) = std::mem::take(&mut self.lanes).into_iter().partition(|lane| lane.is_over);
        self.lanes = lanes;
        let over: Vec<Lane> = over;
        for lane in over {
            let left = self.oracle.outstanding(lane.owner());
            if left > 0 {
                return Err(format!("a queue pair is over with {left} requests not given back"));
            }
        }
        Ok(())
    }

    fn poll_lane(&mut self, place: usize, max: usize) -> Result<(), String> {
        let mut back = Vec::new();
        let polled = self.lanes[place].qpair.poll(max, |completion| back.push(completion));
        let count = back.len();
        if count > max {
            return Err(format!("{count} completions from a poll for {max} at most"));
        }
        if self.sabotage == Some(Sabotage::Swallow) && !back.is_empty() {
            back.pop();
            self.sabotage = None;
        }
        for completion in back {
            self.completed(place, completion)?;
        }
        match polled {
            Ok(polled) if polled == count => Ok(()),
            Ok(polled) => Err(format!("a poll says {polled} and gave {count} completions")),
            Err(QpairError::Protocol(_)) if self.may_fail() => Ok(()),
            Err(QpairError::Gone(_)) if self.is_detaching() || self.may_fail() => {
                self.lanes[place].is_over = true;
                Ok(())
            }
            Err(QpairError::Refused(_)) if self.may_refuse() => {
                self.lanes[place].is_over = true;
                Ok(())
            }
            Err(error) => Err(format!("a queue pair says, for no reason: {error}")),
        }
    }

    fn completed(&mut self, place: usize, completion: IoCompletion) -> Result<(), String> {
        let IoCompletion { token, outcome, data } = completion;
        let owner = self.lanes[place].owner();
        let verdict = self.verdict(token, &outcome)?;
        let address = self.lanes[place].data.remove(&token);
        let found = data.as_ref().map(|data| (data.iova(), data.len()));
        let told = self.oracle.finish(token, owner, verdict, data.as_ref());
        told.map_err(|why| format!("{why} (on a queue pair)"))?;
        if address != Some(found) {
            return Err(format!(
                "request {token} was made with data {address:?} and came back with {found:?}"
            ));
        }
        if self.sabotage == Some(Sabotage::TellTwice) {
            self.oracle.finish(token, owner, verdict, data.as_ref())?;
        }
        match data {
            Some(data) => self.watch(data.into_buffer()),
            None => Ok(()),
        }
    }

    /// What an outcome means, if there is a reason for it.
    fn verdict(&mut self, id: u64, outcome: &Outcome<Completion>) -> Result<Verdict, String> {
        match outcome {
            Outcome::Completed(completion) if completion.status().is_success() => {
                self.counts.completed += 1;
                Ok(Verdict::Success)
            }
            Outcome::Completed(completion) if self.may_refuse() => {
                self.counts.refused += 1;
                Ok(Verdict::Refused(completion.status()))
            }
            Outcome::Completed(completion) => {
                Err(format!("request {id} failed for no reason: {}", completion.status()))
            }
            Outcome::Aborted(aborted) => {
                self.check_reason(id, *aborted)?;
                Ok(Verdict::Aborted { may_have_executed: aborted.may_have_executed })
            }
        }
    }

    /// Whether there is a reason for an abort.
    pub(super) fn check_reason(&mut self, id: u64, aborted: Aborted) -> Result<(), String> {
        self.counts.aborted += 1;
        let is_reasonable = match aborted.reason {
            AbortReason::Reset => self.was_reset() || self.may_refuse(),
            AbortReason::Detached => self.is_detaching() || self.may_refuse(),
            AbortReason::Removed | AbortReason::Failed => self.may_fail(),
            AbortReason::Unregistered => self.correspondence.has_unregistered,
            _ => false,
        };
        if is_reasonable { Ok(()) } else { Err(format!("{id} was, for no reason, {aborted}")) }
    }

    /// After the detach: everything comes back, and then the queue pairs say that it was the end.
    pub(super) fn finish_lanes(&mut self) -> Result<(), String> {
        for _ in 0..1000 {
            if self.lanes.is_empty() {
                return Ok(());
            }
            self.poll_lanes()?;
        }
        Err("a queue pair does not notice that its controller was detached".to_owned())
    }
}
