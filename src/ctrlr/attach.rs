//! Attach: from a transport to a controller that is ready for commands; blocking, or in steps.
#![forbid(unsafe_code)]

use super::Ctrlr;
use super::bring_up::{BringUp, page_bytes};
use super::control::{Pause, Shared};
use super::core::{Core, Phase};
use super::events::Events;
use super::hub::{Hub, attention};
use super::interrupts::Interrupts;
use super::message::Envelope;
use super::options::CtrlrOptions;
use super::registers::check_cap;
use super::seat::{Seat, Seated};
use super::state::{CtrlrState, Failure};
use super::takedown::Why;
use crate::dma::{DmaMap, DmaSpace};
use crate::queue::{Pair, PairConfig};
use crate::ring::Scheme;
use crate::ring::scheme::Channel;
use crate::spec::registers::{cq_head_doorbell, sq_tail_doorbell};
use crate::transport::Transport;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of the buffer for Identify data.
const SCRATCH_BYTES: usize = 4096;
/// Every wait inside has its own deadline, so the whole needs none.
const UNLIMITED: Duration = Duration::from_secs(u32::MAX as u64);

/// Why a controller could not be attached. The device is stopped and its memory unmapped when this is returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// An option is outside its range.
    #[error("bad option: {0}")]
    Options(String),
    /// The controller failed on the way.
    #[error("{address} could not be attached: {failure}")]
    Failed {
        /// The address that the user gave.
        address: String,
        /// Why.
        failure: Failure,
    },
}

/// An attach on its way, for those who must not wait. Dropping it stops the device.
#[must_use = "an attach goes on with each step"]
pub struct Attach<S: Scheme> {
    core: Option<Core>,
    /// Whether the first step was taken.
    has_begun: bool,
    scheme: PhantomData<S>,
}

impl<S: Scheme> Attach<S> {
    pub(super) fn begin(transport: Arc<dyn Transport>, options: CtrlrOptions) -> Result<Self, AttachError> {
        options.check().map_err(AttachError::Options)?;
        let address = transport.address();
        let core =
            first_core(transport, options).map_err(|failure| AttachError::Failed { address, failure })?;
        Ok(Self { core: Some(core), has_begun: false, scheme: PhantomData })
    }

    /// One step on; the controller at the end. Never waits. All times are counted from the first step's `now` on. After the end, or an error, there is nothing left to step.
    pub fn step(&mut self, now: Instant) -> Result<Option<Ctrlr<S>>, AttachError> {
        let Some(core) = &mut self.core else {
            return Err(AttachError::Options("this attach has ended; begin a new one".into()));
        };
        if !std::mem::replace(&mut self.has_begun, true) {
            core.begin(now);
        }
        core.poll_queues();
        core.after_work();
        core.send_again(now);
        let hub = Arc::clone(core.hub());
        if hub.attention.look() & attention::FAIL != 0 {
            hub.attention.lower(attention::FAIL);
            core.take_down(Why::Failure, now);
        }
        if !core.advance(now) || hub.attention.look() & attention::FAIL != 0 {
            return Ok(None);
        }
        let Some(mut core) = self.core.take() else { return Ok(None) };
        if matches!(core.phase, Phase::Stopped) {
            let address = hub.transport.address();
            let failure = hub.state.failure().cloned();
            let failure = failure.unwrap_or_else(|| Failure::Host("it was stopped during attach".into()));
            core.release();
            return Err(AttachError::Failed { address, failure });
        }
        hub.state.advance(CtrlrState::Live);
        core.is_attached = true;
        let (channel, receiver) = <S::Channel<Envelope> as Channel<Envelope>>::new(&hub.attention);
        let seat = Seat::deposited(Seated { receiver, core });
        Ok(Some(Ctrlr(Arc::new(Shared::new(hub, channel, seat)))))
    }

    pub(super) fn wait(mut self) -> Result<Ctrlr<S>, AttachError> {
        let mut pause = Pause::new(UNLIMITED);
        loop {
            if let Some(ctrlr) = self.step(Instant::now())? {
                return Ok(ctrlr);
            }
            pause.take();
        }
    }
}

impl<S: Scheme> Drop for Attach<S> {
    fn drop(&mut self) {
        if let Some(core) = self.core.take() {
            core.abandon();
        }
    }
}

impl<S: Scheme> std::fmt::Debug for Attach<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attach").field("core", &self.core).finish_non_exhaustive()
    }
}

/// Connects the interrupts, if they were asked for.
fn connect_interrupts(hub: &Hub) -> Result<Option<Interrupts>, Failure> {
    if !hub.options.interrupts {
        return Ok(None);
    }
    let interrupts = Interrupts::connect(&*hub.transport, &hub.options);
    let interrupts = interrupts.map_err(|error| Failure::Host(error.to_string()))?;
    let interrupts = interrupts.ok_or_else(|| {
        Failure::Unusable("it has no interrupt vectors; attach it without interrupts, and poll".into())
    })?;
    hub.attention.wakes(Arc::clone(&interrupts.sleeper));
    Ok(Some(interrupts))
}

/// The core with its admin queues' memory, before the device was touched but for bus mastering.
fn first_core(transport: Arc<dyn Transport>, options: CtrlrOptions) -> Result<Core, Failure> {
    let host = |error: &dyn std::fmt::Display| Failure::Host(error.to_string());
    let cap = check_cap(&*transport)?;
    let page_size = page_bytes(cap)?;
    transport.set_bus_master(true).map_err(|error| host(&error))?;
    let mapper: Arc<dyn DmaMap> = Arc::clone(&transport) as _;
    let dma = DmaSpace::new(mapper, options.dma);
    let hub = Arc::new(Hub::new(transport, dma, options));
    let interrupts = connect_interrupts(&hub)?;
    let _ = hub.interrupts.set(interrupts);
    let entries = u32::from(hub.options.admin_queue_entries);
    let config = PairConfig {
        qid: 0,
        sq_entries: entries,
        cq_entries: entries,
        page_size,
        max_transfer_bytes: hub.options.max_transfer_bytes,
    };
    let sq = hub.transport.doorbell(sq_tail_doorbell(0, cap.dstrd())).map_err(|error| host(&error))?;
    let cq = hub.transport.doorbell(cq_head_doorbell(0, cap.dstrd())).map_err(|error| host(&error))?;
    let admin = Pair::new(&hub.dma, config, sq, cq).map_err(|error| host(&error))?;
    let scratch = hub.dma.allocate(SCRATCH_BYTES).map_err(|error| host(&error))?;
    let events = Events::new(hub.dma.allocate(Events::BUFFER_BYTES).map_err(|error| host(&error))?);
    let bring_up = BringUp::start(&hub, Instant::now());
    hub.attention.raise(attention::BUSY);
    Ok(Core::new(hub, admin, scratch, events, bring_up))
}
