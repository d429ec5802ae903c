//! What the controller does when CC changes: enable, reset, shutdown, and the fatal state (NVMe Base 2.0, 3.5 to 3.7).
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::device::Device;
use super::events::Event;
use super::faults::Effect;
use super::queues::{Bell, CQE_BYTES, Cq, Entries, SQE_BYTES, Sq, reset_cell};
use super::registers::Control;
use crate::spec::feature::AsyncEventConfig;
use crate::spec::registers::{Aqa, Cap, Cc, Csts, DOORBELLS, cq_head_doorbell, sq_tail_doorbell};

/// CSTS.SHST: shutdown processing is under way.
const SHST_OCCURRING: u8 = 1;
/// CSTS.SHST: shutdown processing is complete.
const SHST_COMPLETE: u8 = 2;

/// Where the controller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// CC.EN is 0 and CSTS.RDY is 0.
    Disabled,
    /// CC.EN was set; CSTS.RDY follows then.
    Enabling(Instant),
    /// CSTS.RDY is 1 and commands are served.
    Ready,
    /// CSTS.PP is 1 until then: no command is served, and none is lost.
    Paused(Instant),
    /// CC.SHN was set; CSTS.SHST follows then. No command is served any more.
    ShuttingDown(Instant),
    /// CSTS.SHST is 10b.
    ShutDown,
    /// CSTS.CFS is 1. Only a reset helps.
    Fatal,
    /// CC.EN was cleared, or the subsystem reset; CSTS.RDY follows then.
    Disabling(Instant),
    /// The transport was closed.
    Closed,
}

impl Device {
    /// Whether a time has come or CC has changed.
    #[cold]
    pub(super) fn follow_control(&mut self, control: Control) -> usize {
        if control.is_closed() {
            if self.state == State::Closed {
                return 0;
            }
            self.stop();
            self.state = State::Closed;
            return 1;
        }
        let reset = control.resets() != self.control.resets();
        self.control = control;
        if reset {
            self.stop();
            let is_subsystem = self.transport.registers.take_subsystem_reset();
            tracing::debug!(is_subsystem, "reset");
            let absence = self.config.nssr.filter(|_| is_subsystem);
            let delay =
                absence.unwrap_or(self.config.ready_delay) + self.transition_delay(Effect::NeverStops);
            self.state = State::Disabling(self.now() + delay);
        }
        let mut done = usize::from(reset);
        while self.advance(control.cc()) {
            done += 1;
        }
        done
    }

    /// One transition, if any is due.
    fn advance(&mut self, cc: Cc) -> bool {
        let next = match self.state {
            State::Disabling(due) if self.now() >= due => {
                self.stopped(cc);
                self.transport.registers.come_back();
                State::Disabled
            }
            State::Disabled if cc.en() => match self.start(cc) {
                Ok(()) => {
                    self.set_csts(false, false, 0);
                    let delay = self.config.ready_delay + self.transition_delay(Effect::NeverReady);
                    State::Enabling(self.now() + delay)
                }
                Err(why) => {
                    self.fail(&why);
                    return true;
                }
            },
            State::Disabled => {
                // A shutdown of a controller that is not enabled has nothing to do; withdrawing it clears SHST.
                let shst = if cc.shn() == 0 { 0 } else { SHST_COMPLETE };
                if self.transport.registers.csts().shst() == shst {
                    return false;
                }
                self.stopped(cc);
                State::Disabled
            }
            State::Enabling(due) if self.now() >= due => {
                self.transport.registers.set_shutdown_due(false);
                self.set_csts(true, false, 0);
                State::Ready
            }
            State::Ready | State::Paused(_) if cc.shn() != 0 => {
                // What was rung before the notification is no fault, though it is not looked at any more.
                for sq in &mut self.sqs {
                    sq.bell.take(&self.transport.doorbells);
                }
                self.set_csts(true, false, SHST_OCCURRING);
                let delay = self.config.shutdown_delay + self.transition_delay(Effect::NeverShutsDown);
                State::ShuttingDown(self.now() + delay)
            }
            State::Paused(due) if self.now() >= due => {
                self.set_csts(true, false, 0);
                State::Ready
            }
            State::ShuttingDown(due) if self.now() >= due => {
                self.power_down(cc.shn());
                self.transport.registers.set_shutdown_due(false);
                self.set_csts(true, false, SHST_COMPLETE);
                State::ShutDown
            }
            _ => return false,
        };
        tracing::debug!(from = ?self.state, to = ?next, "controller state");
        self.state = next;
        true
    }

    /// Not enabled, and not ready; shut down, if that was asked for, before or now.
    fn stopped(&self, cc: Cc) {
        if cc.shn() == 0 {
            self.set_csts(false, false, 0);
        } else {
            self.transport.registers.set_shutdown_due(false);
            self.set_csts(false, false, SHST_COMPLETE);
        }
    }

    /// Tells the driver that firmware is activated, if it asked for that, and processes no command until it is.
    pub(super) fn activate_firmware(&mut self) {
        if AsyncEventConfig::from_bits(self.features.async_event_config()).firmware_activation() {
            self.events.raise(Event::FIRMWARE_ACTIVATION);
        }
        if self.events.is_deliverable() {
            self.deliver_events();
        }
        self.transport.registers.set_csts(Csts::new().with_rdy(true).with_pp(true));
        // Relaxed: ordered by the Acquire in `watch_health`.
        let time_ms = self.transport.activation_ms.load(Ordering::Relaxed);
        self.state = State::Paused(self.now() + Duration::from_millis(time_ms.into()));
    }

    /// Writes out what is cached. An abrupt shutdown does not.
    fn power_down(&mut self, shn: u8) {
        if shn == 1 {
            for namespace in &self.namespaces {
                // The shutdown completes in any case; the failure was traced.
                let _ = namespace.flush();
            }
        }
    }

    fn set_csts(&self, rdy: bool, cfs: bool, shst: u8) {
        self.transport.registers.set_csts(Csts::new().with_rdy(rdy).with_cfs(cfs).with_shst(shst));
    }

    /// The controller is lost until it is reset, and the driver is to blame.
    #[cold]
    pub(super) fn fail(&mut self, why: &str) {
        self.transport.violations.record(format!("fatal: {why}; CSTS.CFS is set"));
        // Nobody can ask for a shutdown any more.
        self.transport.registers.set_shutdown_due(false);
        let csts = self.transport.registers.csts();
        self.set_csts(csts.rdy(), true, csts.shst());
        self.state = State::Fatal;
    }

    /// Forgets queues, outstanding commands and everything else that a controller reset clears.
    fn stop(&mut self) {
        self.sqs.clear();
        self.sq_exists.fill(false);
        self.cqs.iter_mut().for_each(|cq| *cq = None);
        self.events.reset();
        self.features.reset();
        self.keep_alive.reset();
        self.reset_doorbells();
        self.stalled_bus_master = false;
    }

    fn reset_doorbells(&self) {
        for qid in 0..=self.config.io_queues {
            reset_cell(&self.transport.doorbells, self.sq_cell(qid));
            reset_cell(&self.transport.doorbells, self.cq_cell(qid));
        }
    }

    /// Offset of a submission queue's doorbell in the block of doorbells.
    pub(super) fn sq_cell(&self, qid: u16) -> usize {
        sq_tail_doorbell(qid, self.config.dstrd) - DOORBELLS
    }

    /// Offset of a completion queue's doorbell in the block of doorbells.
    pub(super) fn cq_cell(&self, qid: u16) -> usize {
        cq_head_doorbell(qid, self.config.dstrd) - DOORBELLS
    }

    /// Checks the configuration and makes the admin queues.
    fn start(&mut self, cc: Cc) -> Result<(), String> {
        self.check_cc(cc)?;
        self.reset_doorbells();
        self.memory.page_size = 4096 << cc.mps();
        let page = self.memory.page_size as u64;
        let (aqa, asq, acq) = self.transport.registers.admin_queues();
        let (sq_entries, cq_entries) = check_aqa(aqa)?;
        for (name, address) in [("ASQ", asq), ("ACQ", acq)] {
            if address % page != 0 {
                return Err(format!("{name} is {address:#x}: expected a multiple of the page size {page}"));
            }
        }
        if cq_entries < sq_entries {
            self.transport.violations.record(format!(
                "the admin completion queue has {cq_entries} entries and the submission queue {sq_entries}: completions may not find room"
            ));
        }
        // The table is refreshed by `enter`, whether bus mastering is on or not decides about fetching only.
        self.memory.port.refresh();
        let find = |name, iova, bytes| {
            Entries::find(&self.memory.port.table, iova, bytes).ok_or_else(|| {
                format!("the {bytes} bytes of {name} at {iova:#x} are not mapped for the device")
            })
        };
        let sq_memory = find("the admin submission queue", asq, sq_entries as usize * SQE_BYTES)?;
        let cq_memory = find("the admin completion queue", acq, cq_entries as usize * CQE_BYTES)?;
        let interrupt = self.vector(0);
        let cells = &self.transport.doorbells;
        let cq_bell = Bell::new(cells, self.cq_cell(0));
        let sq_bell = Bell::new(cells, self.sq_cell(0));
        let mut cq = Cq::new(0, cq_entries, cq_bell, cq_memory, interrupt);
        cq.submission_entries = sq_entries;
        self.cqs[0] = Some(cq);
        self.sq_exists[0] = true;
        self.queues_generation = self.memory.port.generation;
        self.sqs.push(Sq::new(0, 0, sq_entries, sq_bell, sq_memory));
        Ok(())
    }

    fn check_cc(&self, cc: Cc) -> Result<(), String> {
        let cap = Cap::from(
            self.transport.registers.read_u64(crate::spec::registers::CAP, &self.transport.violations),
        );
        let (mps, least, most) = (cc.mps(), cap.mpsmin(), cap.mpsmax());
        if !(least..=most).contains(&mps) {
            return Err(format!("CC.MPS is {mps}: CAP allows {least} to {most}"));
        }
        // CAP.CSS has a bit for the NVM command set, one for all that are supported, and one for none.
        let bit = [(0b000, 0), (0b110, 6), (0b111, 7)].iter().find(|(css, _)| *css == cc.css());
        if bit.is_none_or(|(_, bit)| cap.css() >> bit & 1 == 0) {
            return Err(format!(
                "CC.CSS is {:#05b}, which CAP.CSS {:#010b} does not allow",
                cc.css(),
                cap.css()
            ));
        }
        if cc.ams() != 0 {
            return Err(format!("CC.AMS is {}: CAP.AMS allows round robin (0) only", cc.ams()));
        }
        if cc.iosqes() != 6 || cc.iocqes() != 4 {
            let (sqes, cqes) = (cc.iosqes(), cc.iocqes());
            return Err(format!("CC.IOSQES is {sqes} and CC.IOCQES {cqes}: expected 6 and 4"));
        }
        Ok(())
    }
}

fn check_aqa(aqa: Aqa) -> Result<(u32, u32), String> {
    let entries = |name, size_z: u16| match size_z {
        0 => Err(format!("AQA.{name} is 0, which is one entry: expected 2 to 4096 entries")),
        _ => Ok(u32::from(size_z) + 1),
    };
    Ok((entries("ASQS", aqa.asqs_z())?, entries("ACQS", aqa.acqs_z())?))
}
