//! The hub: what all parties of one controller share, whatever the publication scheme. Each field says who writes it.
#![forbid(unsafe_code)]

use super::connect::QpairSlot;
use super::interrupts::Interrupts;
use super::namespace::Namespace;
use super::options::CtrlrOptions;
use super::recovery::Plea;
use super::state::{CtrlrState, Failure, StateCell};
use super::statistics::Statistics;
use super::subscription::Inbox;
use crate::dma::DmaSpace;
use crate::ring::doorway::Barrier;
use crate::ring::{Attention, Waiters};
use crate::spec::identify::IdentifyCtrlr;
use crate::transport::Transport;
use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_queue::SegQueue;
use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

/// What `attention` means to the controller, above what publication uses.
pub(crate) mod attention {
    use crate::ring::Attention;

    /// Deposit the core, the controller is being detached. Raised by the detacher, never lowered.
    pub(crate) const DETACH: u32 = Attention::FIRST_FREE;
    /// A reset was asked for. Raised by anyone, lowered by the poller.
    pub(crate) const RESET: u32 = Attention::FIRST_FREE << 1;
    /// With `RESET`: of the whole NVM subsystem. Raised and lowered with it.
    pub(crate) const SUBSYSTEM: u32 = Attention::FIRST_FREE << 6;
    /// Queue pairs wait to be created or deleted. Raised by their owners, lowered by the poller.
    pub(crate) const QPAIR: u32 = Attention::FIRST_FREE << 2;
    /// The controller has failed and is to be stopped. Raised by whoever saw it, lowered by the poller.
    pub(crate) const FAIL: u32 = Attention::FIRST_FREE << 3;
    /// A reset or a stop is in progress. Raised and lowered by the poller.
    pub(crate) const BUSY: u32 = Attention::FIRST_FREE << 4;
    /// A queue pair's owner asks for something. Raised by owners, lowered by the poller.
    pub(crate) const PLEA: u32 = Attention::FIRST_FREE << 5;
}

/// What the controller says of itself; fixed between two bring-ups.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The memory page size in use (CC.MPS), in bytes.
    pub page_bytes: usize,
    /// The longest transfer of one command, in bytes (MDTS, or [`CtrlrOptions::max_transfer_bytes`] where that is less).
    pub max_transfer_bytes: usize,
    /// The most entries of one I/O queue (MQES).
    pub max_queue_entries: u32,
    /// How many I/O queue pairs there are, the external one included.
    pub io_queues: u16,
    /// The doorbell stride exponent (CAP.DSTRD).
    pub dstrd: u8,
    /// Whether the NVM subsystem can be reset (CAP.NSSRS).
    pub nssrs: bool,
}

/// The most snapshots that wait for a control thread to free them.
const MAX_OUTDATED: usize = 8;

/// See the module.
pub(crate) struct Hub {
    /// See [`attention`].
    pub(crate) attention: Arc<Attention>,
    /// Moved by the arrows in [`super::state`].
    pub(crate) state: StateCell,
    pub(crate) options: CtrlrOptions,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) dma: DmaSpace,
    pub(crate) waiters: Arc<Waiters>,
    /// `None` inside when interrupts were not asked for, or there are none. Set at attach.
    pub(crate) interrupts: OnceLock<Option<Interrupts>>,
    /// How a take-down knows that no queue pair's thread is about to ring a doorbell. Chosen at attach.
    pub(crate) barrier: Barrier,
    /// Index is the queue identifier less 1; fixed after attach. Each slot has its own rules.
    pub(crate) slots: OnceLock<Box<[Arc<QpairSlot>]>>,
    /// Replaced by whoever owns the core.
    pub(crate) namespaces: ArcSwap<Vec<Namespace>>,
    /// Replaced by whoever owns the core.
    pub(crate) identity: ArcSwapOption<IdentifyCtrlr>,
    /// Replaced by whoever owns the core.
    pub(crate) limits: ArcSwapOption<Limits>,
    /// Snapshots that were replaced, for control threads to free.
    pub(crate) outdated: SegQueue<Arc<dyn Any + Send + Sync>>,
    /// Who gets asynchronous events. Replaced by who subscribes.
    pub(crate) subscribers: ArcSwap<Vec<Weak<Inbox>>>,
    /// Who polls; see [`super::seat`].
    pub(crate) reader: super::seat::ReaderRecord,
    /// Written by the poller.
    pub(crate) statistics: Statistics,
    /// How many resets are over, successfully or not. Written by whoever owns the core.
    pub(crate) resets: AtomicU32,
    /// How many of these, with success, were of the NVM subsystem. Written by whoever owns the core.
    pub(crate) subsystem_resets: AtomicU32,
    /// What the time of the last poll is counted from.
    pub(crate) epoch: Instant,
    /// Milliseconds since the attach began, as of the poller's last look at the time; wraps. Written by whoever owns the core.
    pub(crate) clock_ms: AtomicU32,
    /// What queue pairs' owners ask of whoever owns the core; announced by [`attention::PLEA`].
    pub(crate) pleas: SegQueue<Plea>,
    /// Whether the reset that was asked for aborts what is queued. Written by who asks, taken by the poller.
    pub(crate) aborts_queued: AtomicBool,
}

impl Hub {
    pub(crate) fn new(transport: Arc<dyn Transport>, dma: DmaSpace, options: CtrlrOptions) -> Self {
        Self {
            attention: Arc::new(Attention::new()),
            state: StateCell::new(),
            options,
            transport,
            dma,
            waiters: Arc::new(Waiters::new()),
            interrupts: OnceLock::new(),
            barrier: Barrier::for_this_process(),
            slots: OnceLock::new(),
            namespaces: ArcSwap::default(),
            identity: ArcSwapOption::empty(),
            limits: ArcSwapOption::empty(),
            outdated: SegQueue::new(),
            subscribers: ArcSwap::default(),
            reader: super::seat::ReaderRecord::default(),
            statistics: Statistics::default(),
            resets: AtomicU32::new(0),
            subsystem_resets: AtomicU32::new(0),
            epoch: Instant::now(),
            clock_ms: AtomicU32::new(0),
            pleas: SegQueue::new(),
            aborts_queued: AtomicBool::new(false),
        }
    }

    pub(crate) fn interrupts(&self) -> Option<&Interrupts> {
        self.interrupts.get()?.as_ref()
    }

    /// The interrupt vector of a completion queue, if it has one.
    pub(crate) fn vector(&self, qid: u16) -> Option<u16> {
        self.interrupts()?.vector(qid)
    }

    pub(crate) fn slots(&self) -> &[Arc<QpairSlot>] {
        self.slots.get().map_or(&[], |slots| slots)
    }

    /// Claims a free queue identifier, or `None` when all are in use.
    pub(crate) fn claim_slot(&self) -> Option<Arc<QpairSlot>> {
        let io_queues = self.limits.load().as_ref().map_or(0, |limits| usize::from(limits.io_queues));
        // The first one is the external queue pair's, if there is one, which is not handed out.
        let mine = self.slots().iter().take(io_queues).skip(usize::from(self.options.has_external_queue()));
        mine.inspect(|slot| slot.sweep()).find(|slot| slot.claim()).cloned()
    }

    /// The controller has failed: the poller will stop it.
    pub(crate) fn fail(&self, failure: Failure) {
        tracing::error!(address = self.transport.address(), %failure, "the controller failed");
        if self.state.fail(failure) {
            self.attention.raise(attention::FAIL);
        }
    }

    /// For owners of queue pairs: has the poller do something.
    pub(crate) fn plead(&self, plea: Plea) {
        self.pleas.push(plea);
        self.attention.raise(attention::PLEA);
    }

    pub(crate) fn publish_namespaces(&self, namespaces: Vec<Namespace>) {
        self.outdate(self.namespaces.swap(Arc::new(namespaces)));
    }

    pub(crate) fn publish_identity(&self, identity: Arc<IdentifyCtrlr>) {
        if let Some(old) = self.identity.swap(Some(identity)) {
            self.outdate(old);
        }
    }

    pub(crate) fn publish_limits(&self, limits: Limits) {
        if let Some(old) = self.limits.swap(Some(Arc::new(limits))) {
            self.outdate(old);
        }
    }

    /// Leaves a snapshot to the control threads. Where none ever comes by, the oldest goes here: who has just made a new one can free one.
    fn outdate(&self, snapshot: Arc<dyn Any + Send + Sync>) {
        self.outdated.push(snapshot);
        if self.outdated.len() > MAX_OUTDATED {
            drop(self.outdated.pop());
        }
    }

    /// Frees what pollers left for control threads to free.
    pub(crate) fn sweep(&self) {
        while self.outdated.pop().is_some() {}
        self.slots().iter().for_each(|slot| slot.sweep());
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state.get(), CtrlrState::Detaching | CtrlrState::Detached)
    }

    pub(crate) fn count_reset(&self) {
        // Release: pairs with the Acquire in `resets_done`; the new state is visible to who sees the count.
        self.resets.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn resets_done(&self) -> u32 {
        // Acquire: pairs with the Release in `count_reset`.
        self.resets.load(Ordering::Acquire)
    }

    pub(crate) fn count_subsystem_reset(&self) {
        // Release: pairs with the Acquire in `subsystem_resets_done`, as above.
        self.subsystem_resets.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn subsystem_resets_done(&self) -> u32 {
        // Acquire: pairs with the Release in `count_subsystem_reset`.
        self.subsystem_resets.load(Ordering::Acquire)
    }

    /// Whether the NVM subsystem can be reset, as the controller said at its last bring-up.
    pub(crate) fn has_subsystem_reset(&self) -> bool {
        self.limits.load().as_ref().is_some_and(|limits| limits.nssrs)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("address", &self.transport.address())
            .field("state", &self.state.get())
            .field("attention", &self.attention)
            .finish_non_exhaustive()
    }
}
