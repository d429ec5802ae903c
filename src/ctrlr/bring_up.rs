//! Bring-up, in steps that never wait: from any state of the device to a controller that is ready for commands. Attach and reset both use it.
//!
//! NVMe Base 2.0, 3.5.1: disable, configure the admin queues, enable, identify, set the number of queues, create the external queue pair, read the
//! namespaces. Each wait has a deadline; each value that the device gives is checked.
#![forbid(unsafe_code)]

use super::connect::QpairSlot;
use super::core::{Core, Purpose};
use super::hub::{Hub, Limits};
use super::registers::{check_cap, check_csts, check_running, read_cc, write_cc};
use super::state::Failure;
use super::wait::Wait;
use crate::dma::{DmaBuffer, DmaSlice};
use crate::queue::{Pair, PairConfig};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::feature::{FeatureId, HostBehaviorSupport};
use crate::spec::identify::{Cns, IdentifyCtrlr};
use crate::spec::registers::{self, ACQ, AQA, ASQ, Aqa, CRTO, Cap, Cc, Crto};
use crate::spec::status::Status;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// The page size that the driver prefers (CC.MPS of 0).
const PREFERRED_PAGE_BYTES: usize = 4096;
/// CAP.TO and CRTO count in these.
const READY_UNIT: Duration = Duration::from_millis(500);
/// CC.CSS: NVM command set; all supported I/O command sets; admin commands only (NVMe Base 2.0, figure 46).
const CSS_NVM: u8 = 0b000;
pub(super) const CSS_ALL: u8 = 0b110;
const CSS_ADMIN_ONLY: u8 = 0b111;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Enabled but not ready yet: CC.EN must not be cleared before it is.
    ReadyBeforeDisable,
    Disabled,
    Ready,
    Identify,
    HostBehavior,
    NumberOfQueues,
    ExternalCq,
    ExternalSq,
    Namespaces,
}

/// One bring-up on its way.
#[derive(Debug)]
pub(super) struct BringUp {
    stage: Stage,
    wait: Wait,
    /// How many commands of the reading of the namespaces were seen to begin.
    commands: u32,
    answer: Option<(Completion, Vec<u8>)>,
}

impl BringUp {
    /// A bring-up that has done nothing yet.
    pub(super) fn start(hub: &Hub, now: Instant) -> Self {
        let wait = Wait::new(now, ready_timeout(hub));
        Self { stage: Stage::ReadyBeforeDisable, wait, commands: 0, answer: None }
    }

    /// The answer to the command in flight.
    pub(super) fn answered(&mut self, completion: Completion, data: Option<&DmaBuffer>) {
        self.answer = Some((completion, data.map(DmaBuffer::to_vec).unwrap_or_default()));
    }

    /// One step on; true at the end.
    pub(super) fn step(&mut self, core: &mut Core, now: Instant) -> Result<bool, Failure> {
        match self.stage {
            Stage::ReadyBeforeDisable | Stage::Disabled | Stage::Ready => self.step_registers(core, now)?,
            Stage::Namespaces => return self.step_namespaces(core, now),
            _ => {
                check_running(&*core.hub.transport)?;
                if let Some((completion, data)) = self.answer.take() {
                    self.step_answer(core, &completion, &data, now)?;
                } else if self.wait.is_over(now) {
                    return Err(self.timeout(core, now));
                }
            }
        }
        Ok(false)
    }

    fn timeout(&self, core: &Core, now: Instant) -> Failure {
        let what = match self.stage {
            Stage::ReadyBeforeDisable => "CSTS.RDY = 1 (before it is disabled)",
            Stage::Disabled => "CSTS.RDY = 0",
            Stage::Ready => "CSTS.RDY = 1",
            Stage::Identify => "the answer to Identify Controller",
            Stage::HostBehavior => "the answer to Set Features (Host Behavior Support)",
            Stage::NumberOfQueues => "the answer to Set Features (Number of Queues)",
            Stage::ExternalCq => "the answer to Create I/O Completion Queue",
            Stage::ExternalSq => "the answer to Create I/O Submission Queue",
            Stage::Namespaces => "the list of namespaces",
        };
        let csts = core.hub.transport.read_u32(registers::CSTS);
        Failure::Timeout { what, waited_ms: self.wait.lasted_ms(now), csts }
    }

    fn enter(&mut self, stage: Stage, now: Instant, timeout: Duration) {
        self.stage = stage;
        self.wait = Wait::new(now, timeout);
    }

    fn step_registers(&mut self, core: &mut Core, now: Instant) -> Result<(), Failure> {
        let transport = Arc::clone(&core.hub.transport);
        check_cap(&*transport)?;
        let cc = read_cc(&*transport);
        // A fatal status from before is what the disable below is for.
        let csts = match check_csts(&*transport) {
            Err(Failure::Fatal { csts }) if self.stage != Stage::Ready => registers::Csts::from_bits(csts),
            other => other?,
        };
        match self.stage {
            Stage::ReadyBeforeDisable if cc.en() && !csts.rdy() && !csts.cfs() => {}
            Stage::ReadyBeforeDisable => {
                if cc.en() {
                    write_cc(&*transport, cc.with_en(false).with_shn(0));
                }
                self.enter(Stage::Disabled, now, ready_timeout(&core.hub));
                return Ok(());
            }
            // One that was never ready says by CFS alone that its reset is not over yet; if it stays, the controller is given its chance all the same.
            Stage::Disabled if !csts.rdy() && (!csts.cfs() || self.wait.is_over(now)) => {
                enable(core)?;
                self.enter(Stage::Ready, now, ready_timeout(&core.hub));
                return Ok(());
            }
            Stage::Ready if csts.rdy() => {
                let timeout = core.hub.options.admin_timeout;
                self.enter(Stage::Identify, now, timeout);
                return ask(core, Command::identify(Cns::CTRLR, 0, 0), true);
            }
            _ => {}
        }
        if self.wait.is_over(now) { Err(self.timeout(core, now)) } else { Ok(()) }
    }

    fn step_answer(
        &mut self,
        core: &mut Core,
        completion: &Completion,
        data: &[u8],
        now: Instant,
    ) -> Result<(), Failure> {
        let status = completion.status();
        let timeout = core.hub.options.admin_timeout;
        match self.stage {
            Stage::Identify => {
                refused("Identify Controller", status)?;
                identified(core, data)?;
                if has_retry_delays(core) {
                    self.enter(Stage::HostBehavior, now, timeout);
                    return ask_for_retry_delays(core);
                }
                self.enter_queues(core, now)
            }
            Stage::HostBehavior => {
                if !status.is_success() {
                    tracing::warn!(%status, "the controller will not say when to send a command again: at once, then");
                }
                self.enter_queues(core, now)
            }
            Stage::NumberOfQueues => {
                refused("Set Features (Number of Queues)", status)?;
                granted(core, completion.dw0)?;
                if core.external.is_none() {
                    self.enter_namespaces(core, now);
                    return Ok(());
                }
                self.enter(Stage::ExternalCq, now, timeout);
                let entries = external_pair(core)?.cq_entries();
                ask_cq(core, entries)
            }
            Stage::ExternalCq => {
                refused("Create I/O Completion Queue", status)?;
                self.enter(Stage::ExternalSq, now, timeout);
                let entries = external_pair(core)?.sq_entries();
                ask_sq(core, entries)
            }
            Stage::ExternalSq => {
                refused("Create I/O Submission Queue", status)?;
                self.enter_namespaces(core, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn enter_queues(&mut self, core: &mut Core, now: Instant) -> Result<(), Failure> {
        if is_admin_only(core) {
            self.enter_namespaces(core, now);
            return Ok(());
        }
        let timeout = core.hub.options.admin_timeout;
        self.enter(Stage::NumberOfQueues, now, timeout);
        // 0-based counts, submission queues low and completion queues high; asked once, before any is created.
        let wanted_z = u32::from(core.hub.options.io_queues - 1);
        let cdw11 = wanted_z | wanted_z << 16;
        ask(core, Command::set_features(FeatureId::NUMBER_OF_QUEUES, false, 0, cdw11), false)
    }

    fn enter_namespaces(&mut self, core: &mut Core, now: Instant) {
        let timeout = core.hub.options.admin_timeout;
        self.enter(Stage::Namespaces, now, timeout);
        core.begin_rescan();
    }

    fn step_namespaces(&mut self, core: &mut Core, now: Instant) -> Result<bool, Failure> {
        check_running(&*core.hub.transport)?;
        let Some(rescan) = &core.rescan else { return Ok(true) };
        // Each command has its own time, however many there are.
        if rescan.commands != self.commands {
            self.commands = rescan.commands;
            self.enter(Stage::Namespaces, now, core.hub.options.admin_timeout);
        }
        if self.wait.is_over(now) { Err(self.timeout(core, now)) } else { Ok(false) }
    }
}

/// How long the controller may take to become ready or stop being it: CAP.TO, or CRTO where the controller says that it counts.
pub(super) fn ready_timeout(hub: &Hub) -> Duration {
    let cap = Cap::from_bits(hub.transport.read_u64(registers::CAP));
    let mut units = u32::from(cap.to());
    if cap.crms() != 0 {
        units = units.max(u32::from(Crto::from_bits(hub.transport.read_u32(CRTO)).crwmt()));
    }
    READY_UNIT * units.max(1)
}

fn refused(what: &'static str, status: Status) -> Result<(), Failure> {
    if status.is_success() { Ok(()) } else { Err(Failure::Refused { what, status }) }
}

/// Submits a command of the bring-up, with the scratch buffer where it has data.
fn ask(core: &mut Core, command: Command, has_data: bool) -> Result<(), Failure> {
    let data = if has_data { core.scratch.take().map(DmaSlice::from) } else { None };
    if core.start_driver(Purpose::BringUp, command, data) {
        Ok(())
    } else {
        Err(Failure::Host("the admin queue has no room for the driver's own commands".into()))
    }
}

/// Whether commands are sent again, and the controller has times to say when (CRDT1 to CRDT3).
fn has_retry_delays(core: &Core) -> bool {
    let has_any = |identity: &IdentifyCtrlr| identity.crdt1 | identity.crdt2 | identity.crdt3 != 0;
    core.hub.options.retries != 0 && core.hub.identity.load().as_deref().is_some_and(has_any)
}

/// Tells the controller that its Command Retry Delays are heeded (ACRE): before that it may not give any (NVMe Base 2.0, 5.27.1.18).
fn ask_for_retry_delays(core: &mut Core) -> Result<(), Failure> {
    let behavior = HostBehaviorSupport { acre: 1, ..HostBehaviorSupport::default() };
    if let Some(scratch) = &core.scratch {
        scratch.write_at(0, behavior.as_bytes());
    }
    ask(core, Command::set_features(FeatureId::HOST_BEHAVIOR_SUPPORT, false, 0, 0), true)
}

fn ask_cq(core: &mut Core, entries: u32) -> Result<(), Failure> {
    let iova = external_pair(core)?.cq_iova();
    let mut command = Command::create_io_cq(EXTERNAL_QID, entries, core.hub.vector(EXTERNAL_QID));
    command.prp1 = iova;
    ask(core, command, false)
}

fn ask_sq(core: &mut Core, entries: u32) -> Result<(), Failure> {
    let iova = external_pair(core)?.sq_iova();
    let mut command = Command::create_io_sq(EXTERNAL_QID, EXTERNAL_QID, entries, 0);
    command.prp1 = iova;
    ask(core, command, false)
}

/// The identifier of the queue pair that messages use, if there is one.
pub(super) const EXTERNAL_QID: u16 = 1;

fn external_pair(core: &mut Core) -> Result<&mut Pair<super::message::Responder>, Failure> {
    core.external.as_mut().ok_or_else(|| Failure::Host("the external queue pair is missing".into()))
}

fn host(error: impl std::fmt::Display) -> Failure {
    Failure::Host(error.to_string())
}

/// The page size: the driver's own, within what the controller takes.
pub(super) fn page_bytes(cap: Cap) -> Result<usize, Failure> {
    let smallest = PREFERRED_PAGE_BYTES << cap.mpsmin();
    let largest = PREFERRED_PAGE_BYTES << cap.mpsmax();
    if smallest > largest || smallest > 1 << 20 {
        let text = format!(
            "it takes memory pages of {smallest} to {largest} bytes only; the driver needs one of 4096 to 1048576"
        );
        return Err(Failure::Unusable(text));
    }
    Ok(smallest)
}

/// CC.CSS: the most that the controller has. QEMU shows 0xC1; one that shows nothing is an old one with the NVM command set (NVMe 1.0).
pub(super) fn command_sets(cap: Cap) -> u8 {
    if cap.css() & 1 << 6 != 0 {
        CSS_ALL
    } else if cap.css() & 1 << 7 != 0 && cap.css() & 1 == 0 {
        CSS_ADMIN_ONLY
    } else {
        CSS_NVM
    }
}

/// Configures the admin queues and sets CC.EN.
fn enable(core: &mut Core) -> Result<(), Failure> {
    let transport = &*core.hub.transport;
    let cap = check_cap(transport)?;
    let page_bytes = page_bytes(cap)?;
    let css = command_sets(cap);
    let entries_z = core.hub.options.admin_queue_entries - 1;
    transport.write_u32(AQA, Aqa::new().with_asqs_z(entries_z).with_acqs_z(entries_z).into_bits());
    transport.write_u64(ASQ, core.admin.sq_iova());
    transport.write_u64(ACQ, core.admin.cq_iova());
    let mps = (page_bytes / PREFERRED_PAGE_BYTES).trailing_zeros() as u8;
    let cc = Cc::new().with_css(css).with_mps(mps).with_iosqes(6).with_iocqes(4).with_en(true);
    write_cc(transport, cc);
    Ok(())
}

fn is_admin_only(core: &Core) -> bool {
    read_cc(&*core.hub.transport).css() == CSS_ADMIN_ONLY
}

/// Whether SQES or CQES takes queue entries of 2^`size` bytes. Low nibble: required size, high nibble: largest (NVMe Base 2.0, 5.17.2.1).
pub(super) fn takes_entries(field: u8, size: u8) -> bool {
    (field & 0xf) <= size && size <= (field >> 4)
}

/// Reads what matters out of Identify Controller.
fn identified(core: &mut Core, data: &[u8]) -> Result<(), Failure> {
    let (identity, _) = IdentifyCtrlr::read_from_prefix(data)
        .map_err(|_| Failure::Host("the buffer for Identify is too short".into()))?;
    let cap = check_cap(&*core.hub.transport)?;
    if !is_admin_only(core) && (!takes_entries(identity.sqes, 6) || !takes_entries(identity.cqes, 4)) {
        let text = format!(
            "its queue entry sizes (SQES {:#04x}, CQES {:#04x}) exclude 64 and 16 bytes",
            identity.sqes, identity.cqes
        );
        return Err(Failure::Unusable(text));
    }
    if core.hub.options.keep_alive_timeout.is_some() && identity.kas == 0 {
        let text = "it has no keep-alive (KAS is 0); attach it without CtrlrOptions::keep_alive_timeout";
        return Err(Failure::Unusable(text.into()));
    }
    let smallest_page = PREFERRED_PAGE_BYTES << cap.mpsmin();
    let wanted_bytes = core.hub.options.max_transfer_bytes;
    let max_transfer_bytes = match identity.mdts {
        mdts @ 1..20 => (smallest_page << mdts).min(wanted_bytes),
        // None, or one that is out of reach.
        _ => wanted_bytes,
    };
    core.admin.limit_transfer_bytes(max_transfer_bytes);
    core.events.set_limit(identity.aerl);
    core.recovery.set_limit(identity.acl);
    core.hub.publish_limits(Limits {
        page_bytes: page_bytes(cap)?,
        max_transfer_bytes,
        max_queue_entries: u32::from(cap.mqes_z()) + 1,
        io_queues: 0,
        dstrd: cap.dstrd(),
        nssrs: cap.nssrs(),
    });
    core.hub.publish_identity(Arc::new(identity));
    Ok(())
}

/// How many queue pairs there may be of the `wanted`: submission queues (low) and completion queues (high) are granted apart, in 0-based counts, less or more
/// than was asked for.
pub(super) fn pairs_granted(dw0: u32, wanted: u16) -> u16 {
    let granted = (dw0 & 0xffff).min(dw0 >> 16) + 1;
    u16::try_from(granted).map_or(wanted, |granted| granted.min(wanted))
}

/// Takes the number of queues that the controller grants.
fn granted(core: &mut Core, dw0: u32) -> Result<(), Failure> {
    let io_queues = pairs_granted(dw0, core.hub.options.io_queues);
    let limits = core.hub.limits.load_full();
    let limits =
        limits.as_deref().ok_or_else(|| Failure::Host("the controller was not identified".into()))?;
    let limits = Limits { io_queues, ..*limits };
    core.hub.publish_limits(limits);
    let hub = Arc::clone(&core.hub);
    let slot = |qid| Arc::new(QpairSlot::new(qid, hub.barrier));
    hub.slots.get_or_init(|| (1..=hub.options.io_queues).map(slot).collect());
    if let Some(external) = &mut core.external {
        external.limit_transfer_bytes(limits.max_transfer_bytes);
    } else if hub.options.has_external_queue() {
        let wanted = u32::from(hub.options.external_queue_entries);
        let entries = wanted.min(limits.max_queue_entries);
        core.external = Some(io_pair(&hub, &limits, EXTERNAL_QID, entries)?);
    }
    Ok(())
}

/// Makes the memory of an I/O queue pair; the queues on the device come later.
pub(crate) fn io_pair<R>(hub: &Hub, limits: &Limits, qid: u16, entries: u32) -> Result<Pair<R>, Failure> {
    let config = PairConfig {
        qid,
        sq_entries: entries,
        cq_entries: entries,
        page_size: limits.page_bytes,
        max_transfer_bytes: limits.max_transfer_bytes,
    };
    let sq = hub.transport.doorbell(registers::sq_tail_doorbell(qid, limits.dstrd)).map_err(host)?;
    let cq = hub.transport.doorbell(registers::cq_head_doorbell(qid, limits.dstrd)).map_err(host)?;
    Pair::new(&hub.dma, config, sq, cq).map_err(host)
}
