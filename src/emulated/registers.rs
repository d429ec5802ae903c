//! The register file that driver and device share, and the rules for touching it that can be checked at the access itself.
//! What follows from a written value is the device's business (`control`).
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::config::{Config, VERSION_2_0};
use super::violations::Violations;
use crate::spec::registers::{self, Cap, Cc, Crto, Csts};

/// Bit of `Registers::control` that is set once the transport is closed, or the device removed.
const CLOSED: u64 = 1 << 63;

/// No value that registers are made to read as: they are honest.
const HONEST: u64 = 1;

/// What the device watches: CC, how often it was reset, and whether the transport is closed, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Control(pub(super) u64);

impl Control {
    /// The value of CC.
    pub(super) fn cc(self) -> Cc {
        Cc::from(self.0 as u32)
    }

    /// How often the controller was reset: CC.EN fell, or the subsystem was reset; wraps. Two writes in quick succession would hide a reset otherwise.
    pub(super) fn resets(self) -> u32 {
        (self.0 >> 32) as u32 & (u32::MAX >> 1)
    }

    pub(super) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    fn with_cc(self, cc: Cc, reset: bool) -> Self {
        let resets = self.resets().wrapping_add(reset.into()) & (u32::MAX >> 1);
        Self(self.0 & CLOSED | u64::from(resets) << 32 | u64::from(u32::from(cc)))
    }
}

/// The registers (NVMe Base 2.0, 3.1.3).
#[derive(Debug)]
pub(super) struct Registers {
    cap: u64,
    vs: u32,
    crto: u32,
    timeout: Duration,
    control: AtomicU64,
    csts: AtomicU32,
    aqa: AtomicU32,
    asq: AtomicU64,
    acq: AtomicU64,
    interrupts_enabled: AtomicBool,
    /// The device did I/O and was not told to shut down since.
    shutdown_due: AtomicBool,
    /// CSTS.NSSRO, which the driver clears and the device does not touch.
    nssro: AtomicBool,
    /// The last reset was one of the subsystem, and the device has not seen it yet.
    subsystem_reset: AtomicBool,
    /// The device cannot be reached, as it comes back from a reset of the subsystem.
    is_away: AtomicBool,
    /// For how long it cannot then; `None` when there is no such reset.
    nssr: Option<Duration>,
    /// When EN was last set. Held while CC is written, so that writes follow each other.
    enabled_at: Mutex<Option<Instant>>,
    /// The time that the device was given last, where it is given any.
    given_now: Mutex<Option<Instant>>,
    /// What every register is read as, and then for ever; [`HONEST`] when they are read as they are.
    pretence: AtomicU64,
    /// How long each access takes.
    delay: Option<Duration>,
}

impl Registers {
    pub(super) fn new(config: &Config) -> Self {
        let timeout_500ms = config.timeout.as_millis().div_ceil(500).min(u16::MAX.into()) as u16;
        let is_2_0 = config.version >= VERSION_2_0;
        // NVM command set; from 2.0 on also all supported I/O command sets, and admin only.
        let css = match (config.admin_only, is_2_0) {
            (true, _) => 0b1000_0000,
            (false, true) => 0b1100_0001,
            (false, false) => 0b0000_0001,
        };
        let cap = Cap::new()
            .with_mqes_z((config.mqes - 1) as u16)
            .with_cqr(true)
            .with_to(timeout_500ms.min(u8::MAX.into()) as u8)
            .with_dstrd(config.dstrd)
            .with_css(css)
            .with_mpsmin(config.mpsmin)
            .with_mpsmax(config.mpsmax)
            .with_nssrs(config.nssr.is_some())
            .with_crms(is_2_0.into());
        Self {
            cap: cap.into(),
            vs: config.version,
            crto: if is_2_0 { Crto::new().with_crwmt(timeout_500ms).into() } else { 0 },
            timeout: config.timeout,
            control: AtomicU64::new(0),
            csts: AtomicU32::new(0),
            aqa: AtomicU32::new(0),
            asq: AtomicU64::new(0),
            acq: AtomicU64::new(0),
            interrupts_enabled: AtomicBool::new(false),
            shutdown_due: AtomicBool::new(false),
            nssro: AtomicBool::new(false),
            subsystem_reset: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            nssr: config.nssr,
            enabled_at: Mutex::new(None),
            given_now: Mutex::new(None),
            pretence: AtomicU64::new(HONEST),
            delay: config.faults.register_delay(),
        }
    }

    /// For the device alone: the time by which the driver's waits are judged from now on.
    pub(super) fn set_now(&self, now: Instant) {
        *self.given_now.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    fn now(&self) -> Instant {
        self.given_now.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(Instant::now)
    }

    /// Every register reads as `value` from now on.
    pub(super) fn pretend(&self, value: u64) {
        // Relaxed: a value of its own, ordered with nothing.
        self.pretence.store(value, Ordering::Relaxed);
    }

    /// What a read gives whatever the register, if it gives that; and the time that an access takes.
    fn read_anything(&self) -> Option<u64> {
        self.take_time();
        if self.is_out_of_reach() {
            return Some(u64::MAX);
        }
        // Relaxed: see `pretend`.
        Some(self.pretence.load(Ordering::Relaxed)).filter(|&value| value != HONEST)
    }

    /// The transport is closed, or the device away for a moment.
    pub(super) fn is_out_of_reach(&self) -> bool {
        // Acquire: pairs with the Release in `come_back`.
        self.control().is_closed() || self.is_away.load(Ordering::Acquire)
    }

    fn take_time(&self) {
        if let Some(delay) = self.delay {
            std::thread::sleep(delay);
        }
    }

    /// What the device watches.
    #[inline]
    pub(super) fn control(&self) -> Control {
        // Acquire: pairs with the Release in `set_control`; AQA, ASQ and ACQ were written before.
        Control(self.control.load(Ordering::Acquire))
    }

    pub(super) fn csts(&self) -> Csts {
        // Acquire: pairs with the Release in `set_csts`: a driver that sees RDY=0 comes after the device's last access
        // to memory.
        Csts::from(self.csts.load(Ordering::Acquire))
    }

    /// For the device alone.
    pub(super) fn set_csts(&self, csts: Csts) {
        // Release: pairs with the Acquire in `csts`.
        self.csts.store(csts.into(), Ordering::Release);
    }

    /// AQA, ASQ and ACQ.
    pub(super) fn admin_queues(&self) -> (registers::Aqa, u64, u64) {
        // Relaxed: ordered by the Acquire load of `control` that saw EN set.
        let aqa = self.aqa.load(Ordering::Relaxed).into();
        (aqa, self.asq.load(Ordering::Relaxed), self.acq.load(Ordering::Relaxed))
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.control().cc().en()
    }

    pub(super) fn set_interrupts_enabled(&self, enabled: bool) {
        // Release: pairs with the Acquire below; the device finds the vectors.
        self.interrupts_enabled.store(enabled, Ordering::Release);
    }

    pub(super) fn are_interrupts_enabled(&self) -> bool {
        // Acquire: pairs with the Release above.
        self.interrupts_enabled.load(Ordering::Acquire)
    }

    /// For the device alone.
    pub(super) fn set_shutdown_due(&self, due: bool) {
        // Relaxed: it only decides about a complaint.
        self.shutdown_due.store(due, Ordering::Relaxed);
    }

    pub(super) fn is_shutdown_due(&self) -> bool {
        // Who reads nothing but a pretence cannot be told to shut the device down. Relaxed: as above.
        self.shutdown_due.load(Ordering::Relaxed) && self.pretence.load(Ordering::Relaxed) == HONEST
    }

    /// Every later access finds the device gone.
    pub(super) fn close(&self) {
        // Release: pairs with the Acquire in `control`.
        self.control.fetch_or(CLOSED, Ordering::Release);
    }

    /// Whether `value`, written to NSSR, resets the subsystem.
    pub(super) fn resets_subsystem(&self, value: u32) -> bool {
        self.nssr.is_some() && value == registers::NSSR_MAGIC && !self.is_out_of_reach()
    }

    /// NVM Subsystem Reset (3.7.1): every register has its reset value at once, but for CSTS.RDY, which the device clears when it has seen it.
    pub(super) fn reset_subsystem(&self) {
        let mut enabled_at = self.enabled_at.lock().unwrap_or_else(PoisonError::into_inner);
        *enabled_at = None;
        // Relaxed: all published by the Release of `set_control`.
        self.aqa.store(0, Ordering::Relaxed);
        self.asq.store(0, Ordering::Relaxed);
        self.acq.store(0, Ordering::Relaxed);
        self.nssro.store(true, Ordering::Relaxed);
        self.is_away.store(self.nssr.is_some_and(|away| !away.is_zero()), Ordering::Relaxed);
        self.subsystem_reset.store(true, Ordering::Relaxed);
        self.set_control(Cc::new(), true);
    }

    /// For the device alone: whether the reset that it has just seen is one of the subsystem.
    pub(super) fn take_subsystem_reset(&self) -> bool {
        // Relaxed: ordered by the Acquire load of `control` that saw the reset.
        self.subsystem_reset.swap(false, Ordering::Relaxed)
    }

    /// For the device alone: it can be reached again.
    pub(super) fn come_back(&self) {
        // Release: pairs with the Acquire in `is_out_of_reach`; CSTS was written before.
        self.is_away.store(false, Ordering::Release);
    }

    /// Reads 32 bits.
    pub(super) fn read_u32(&self, offset: usize, violations: &Violations) -> u32 {
        if let Some(value) = self.read_anything() {
            return value as u32;
        }
        // Relaxed: the driver reads back what it wrote itself.
        let half = |value: u64, low: usize| if offset == low { value as u32 } else { (value >> 32) as u32 };
        let high = |low: usize| low + 4;
        match offset {
            registers::CAP | 0x04 => half(self.cap, registers::CAP),
            registers::VS => self.vs,
            registers::CC => self.control().cc().into(),
            // Relaxed: set by the driver's own write.
            registers::CSTS => self.csts().with_nssro(self.nssro.load(Ordering::Relaxed)).into(),
            registers::AQA => self.aqa.load(Ordering::Relaxed),
            registers::CRTO => self.crto,
            _ if offset == registers::ASQ || offset == high(registers::ASQ) => {
                half(self.asq.load(Ordering::Relaxed), registers::ASQ)
            }
            _ if offset == registers::ACQ || offset == high(registers::ACQ) => {
                half(self.acq.load(Ordering::Relaxed), registers::ACQ)
            }
            registers::INTMS | registers::INTMC | registers::NSSR => 0,
            _ => {
                if !offset.is_multiple_of(4) || offset >= registers::DOORBELLS {
                    violations.record(format!(
                        "read of 32 bits at register offset {offset:#x}: no register is there"
                    ));
                    return u32::MAX;
                }
                // Reserved and optional registers (boot partitions, controller memory) read as zero.
                0
            }
        }
    }

    /// Reads 64 bits.
    pub(super) fn read_u64(&self, offset: usize, violations: &Violations) -> u64 {
        if let Some(value) = self.read_anything() {
            return value;
        }
        match offset {
            registers::CAP => self.cap,
            // Relaxed: the driver reads back what it wrote itself.
            registers::ASQ => self.asq.load(Ordering::Relaxed),
            registers::ACQ => self.acq.load(Ordering::Relaxed),
            _ => {
                violations.record(format!(
                    "read of 64 bits at register offset {offset:#x}: no 64-bit register is there"
                ));
                u64::MAX
            }
        }
    }

    /// Writes 32 bits.
    pub(super) fn write_u32(&self, offset: usize, value: u32, violations: &Violations) {
        self.take_time();
        if self.is_out_of_reach() {
            return;
        }
        let low = |old: u64| old & !u64::from(u32::MAX) | u64::from(value);
        let high = |old: u64| old & u64::from(u32::MAX) | u64::from(value) << 32;
        // Relaxed loads: only the driver writes these registers.
        match offset {
            registers::CC => self.write_cc(Cc::from(value), violations),
            registers::AQA => {
                if self.may_set("AQA", violations) {
                    // Relaxed: published by the Release of EN in `set_control`.
                    self.aqa.store(value, Ordering::Relaxed);
                }
            }
            registers::ASQ | 0x2c => {
                let old = self.asq.load(Ordering::Relaxed);
                let new = if offset == registers::ASQ { low(old) } else { high(old) };
                self.write_u64(registers::ASQ, new, violations);
            }
            registers::ACQ | 0x34 => {
                let old = self.acq.load(Ordering::Relaxed);
                let new = if offset == registers::ACQ { low(old) } else { high(old) };
                self.write_u64(registers::ACQ, new, violations);
            }
            // Cleared by writing 1; the other fields are not the driver's to write.
            registers::CSTS if self.nssr.is_some() => {
                if Csts::from(value).nssro() {
                    // Relaxed: the driver reads back what it wrote itself.
                    self.nssro.store(false, Ordering::Relaxed);
                }
            }
            // The value that resets never gets here; others do nothing.
            registers::NSSR if self.nssr.is_some() => {}
            registers::INTMS | registers::INTMC => {
                if self.are_interrupts_enabled() {
                    violations.record(
                        "INTMS or INTMC was written while MSI-X is enabled: they must stay untouched".into(),
                    );
                }
            }
            _ => violations.record(format!(
                "write of {value:#x} to 32 bits at register offset {offset:#x}: it cannot be written"
            )),
        }
    }

    /// Writes 64 bits.
    pub(super) fn write_u64(&self, offset: usize, value: u64, violations: &Violations) {
        if self.is_out_of_reach() {
            return;
        }
        match offset {
            // Relaxed: published by the Release of EN in `set_control`.
            registers::ASQ => {
                if self.may_set("ASQ", violations) {
                    self.asq.store(value, Ordering::Relaxed);
                }
            }
            registers::ACQ => {
                if self.may_set("ACQ", violations) {
                    self.acq.store(value, Ordering::Relaxed);
                }
            }
            _ => violations.record(format!(
                "write of {value:#x} to 64 bits at register offset {offset:#x}: no 64-bit register is there that can be written"
            )),
        }
    }

    fn may_set(&self, name: &str, violations: &Violations) -> bool {
        let enabled = self.is_enabled();
        if enabled {
            violations
                .record(format!("{name} was written while CC.EN is 1: it may only change while EN is 0"));
        }
        !enabled
    }

    fn write_cc(&self, new: Cc, violations: &Violations) {
        let mut enabled_at = self.enabled_at.lock().unwrap_or_else(PoisonError::into_inner);
        let control = self.control();
        let old = control.cc();
        let csts = self.csts();
        let reset = old.en() && !new.en();
        if reset
            && !csts.rdy()
            && !csts.cfs()
            && enabled_at.is_some_and(|at| self.now().saturating_duration_since(at) < self.timeout)
        {
            violations.record(
                "CC.EN was cleared before CSTS.RDY had risen: wait for RDY, or for CAP.TO, before".into(),
            );
        }
        if !old.en() && new.en() {
            if csts.rdy() {
                violations
                    .record("CC.EN was set before CSTS.RDY had fallen: wait for RDY to be 0 before".into());
            }
            *enabled_at = Some(self.now());
        }
        if old.en() && new.en() {
            let settings = |cc: Cc| (cc.css(), cc.mps(), cc.ams(), cc.iosqes(), cc.iocqes());
            if settings(old) != settings(new) {
                violations.record(format!(
                    "CC was changed from {:#010x} to {:#010x} while enabled: only EN and SHN may change then",
                    u32::from(old),
                    u32::from(new)
                ));
            }
        }
        self.set_control(new, reset);
    }

    fn set_control(&self, cc: Cc, reset: bool) {
        // Release: pairs with the Acquire in `control`. An update, because `close` may set its bit at any time.
        let next = |word| Some(Control(word).with_cc(cc, reset).0);
        let _ = self.control.fetch_update(Ordering::Release, Ordering::Relaxed, next);
    }
}
