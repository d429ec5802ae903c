//! Get Log Page, and what is logged: errors, health, changed namespaces (NVMe Base 2.0, 5.16).
#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

use zerocopy::IntoBytes;

use super::device::{Device, Reply};
use super::namespace::Counters;
use super::prp::Cursor;
use crate::spec::command::{AdminOpcode, BROADCAST_NSID, Command, NvmOpcode};
use crate::spec::log::{ChangedNsList, CommandEffectsLog, ErrorLogEntry, FirmwareSlotLog, LogId, SmartLog};
use crate::spec::status::Status;

/// Entries of the error log. Identify's ELPE is one less.
pub(super) const ERROR_ENTRIES: usize = 64;
/// Namespaces that the changed namespace list can name.
const CHANGED_MAX: usize = 1024;

/// What is remembered for the log pages.
#[derive(Debug)]
pub(super) struct Logs {
    errors: VecDeque<ErrorLogEntry>,
    error_count: u64,
    changed: BTreeSet<u32>,
    /// As of the last look at the temperature.
    pub(super) critical_warning: u8,
    since: Instant,
}

impl Logs {
    pub(super) fn new() -> Self {
        let errors = VecDeque::with_capacity(ERROR_ENTRIES);
        Self { errors, error_count: 0, changed: BTreeSet::new(), critical_warning: 0, since: Instant::now() }
    }

    /// Logs a command that failed.
    #[cold]
    pub(super) fn error(&mut self, qid: u16, command: &Command, status: Status) {
        self.error_count += 1;
        self.errors.truncate(ERROR_ENTRIES - 1);
        self.errors.push_front(ErrorLogEntry {
            error_count: self.error_count,
            sqid: qid,
            cmdid: command.cid,
            status_field: status.0 << 1,
            parm_error_location: u16::MAX,
            lba: u64::from(command.cdw11) << 32 | u64::from(command.cdw10),
            nsid: command.nsid,
            ..ErrorLogEntry::default()
        });
    }

    /// Remembers that a namespace came, went, or is not what it was.
    pub(super) fn namespace_changed(&mut self, nsid: u32) {
        self.changed.insert(nsid);
    }
}

impl Device {
    /// Get Log Page.
    pub(super) fn get_log_page(&mut self, command: &Command) -> Reply {
        let invalid = Status::INVALID_FIELD.with_dnr();
        let log = LogId(command.cdw10 as u8);
        let retain = command.cdw10 >> 15 & 1 == 1;
        let dwords_z = u64::from(command.cdw11 & 0xffff) << 16 | u64::from(command.cdw10 >> 16);
        let bytes = (dwords_z + 1) * 4;
        let offset = u64::from(command.cdw13) << 32 | u64::from(command.cdw12);
        // The offset counts bytes (OT is 0) in whole dwords.
        if !offset.is_multiple_of(4) || command.cdw14 & 1 << 23 != 0 || bytes > self.max_transfer_bytes() {
            return Err(invalid);
        }
        let size = self.build_log(log, command.nsid)?;
        let Some(start) = usize::try_from(offset).ok().filter(|&start| start <= size) else {
            return Err(invalid);
        };
        let len = (size - start).min(bytes as usize);
        if len > 0 {
            self.memory.describe(command, len)?;
            self.memory.to_host(&mut Cursor::default(), &self.scratch[start..start + len]);
        }
        if !retain {
            self.events.log_read(log);
            if log == LogId::CHANGED_NS_LIST {
                self.logs.changed.clear();
            }
        }
        Ok(0)
    }

    /// Puts a log page into `scratch`, and returns its size.
    fn build_log(&mut self, log: LogId, nsid: u32) -> Result<usize, Status> {
        match log {
            LogId::ERROR => {
                let entries = &self.logs.errors;
                for (i, page) in self.scratch.chunks_mut(64).take(ERROR_ENTRIES).enumerate() {
                    let entry = entries.get(i).copied().unwrap_or_default();
                    page.copy_from_slice(entry.as_bytes());
                }
                Ok(64 * ERROR_ENTRIES)
            }
            LogId::SMART => {
                let counters = self.counters(nsid)?;
                let page = self.smart_log(counters);
                Ok(self.put_log(page.as_bytes()))
            }
            LogId::FIRMWARE_SLOT => {
                // One slot, which is active and read-only.
                let mut page = FirmwareSlotLog { afi: 1, ..FirmwareSlotLog::default() };
                put_text(&mut page.frs[0], &self.config.firmware);
                Ok(self.put_log(page.as_bytes()))
            }
            LogId::CHANGED_NS_LIST => {
                let mut page = ChangedNsList::default();
                if self.logs.changed.len() > CHANGED_MAX {
                    page.nsids[0] = BROADCAST_NSID;
                } else {
                    for (slot, &nsid) in page.nsids.iter_mut().zip(&self.logs.changed) {
                        *slot = nsid;
                    }
                }
                Ok(self.put_log(page.as_bytes()))
            }
            LogId::COMMAND_EFFECTS => {
                let page = effects_log(self.config.kas != 0);
                Ok(self.put_log(page.as_bytes()))
            }
            _ => Err(Status::INVALID_LOG_PAGE.with_dnr()),
        }
    }

    fn put_log(&mut self, page: &[u8]) -> usize {
        self.scratch[..page.len()].copy_from_slice(page);
        page.len()
    }

    /// The sums over all namespaces, or those of one.
    fn counters(&self, nsid: u32) -> Result<Counters, Status> {
        if !matches!(nsid, 0 | BROADCAST_NSID) {
            let index = self.active_namespace(nsid)?;
            return Ok(self.namespaces[index].counters);
        }
        Ok(self.namespaces.iter().fold(Counters::default(), |sum, ns| Counters {
            reads: sum.reads + ns.counters.reads,
            writes: sum.writes + ns.counters.writes,
            bytes_read: sum.bytes_read + ns.counters.bytes_read,
            bytes_written: sum.bytes_written + ns.counters.bytes_written,
        }))
    }

    /// The critical warnings of this moment.
    pub(super) fn critical_warning(&self) -> u8 {
        // Relaxed: pairs with nothing; a value of its own.
        let health = self.transport.health.load(Ordering::Relaxed);
        let (over_k, under_k) = self.features.temperature_thresholds_k();
        let temperature_k = health as u16;
        let outside = temperature_k >= over_k || temperature_k <= under_k;
        (health >> 16) as u8 & !0b10 | u8::from(outside) << 1
    }

    /// Notices that temperature or warnings were changed, or firmware is activated, from outside.
    pub(super) fn watch_health(&mut self) -> usize {
        // Acquire: pairs with the Release in `activate_firmware`.
        let health = self.transport.health.load(Ordering::Acquire);
        if health == self.health_seen {
            return 0;
        }
        let is_activated = (health ^ self.health_seen) >> 24 != 0;
        self.health_seen = health;
        self.judge_health();
        if is_activated {
            self.activate_firmware();
        }
        1
    }

    fn smart_log(&self, counters: Counters) -> SmartLog {
        // Units of 1,000 blocks of 512 bytes, rounded up.
        let units = |bytes: u64| u128::from(bytes.div_ceil(512_000)).to_le_bytes();
        let count = |count: u64| u128::from(count).to_le_bytes();
        // Relaxed: as above.
        let temperature_k = self.transport.health.load(Ordering::Relaxed) as u16;
        SmartLog {
            critical_warning: self.critical_warning(),
            temperature: temperature_k.to_le_bytes(),
            avail_spare: 100,
            spare_thresh: 10,
            data_units_read: units(counters.bytes_read),
            data_units_written: units(counters.bytes_written),
            host_reads: count(counters.reads),
            host_writes: count(counters.writes),
            power_cycles: count(1),
            power_on_hours: count(self.logs.since.elapsed().as_secs() / 3600),
            num_err_log_entries: count(self.logs.error_count),
            ..SmartLog::default()
        }
    }
}

/// Pads a text with spaces.
pub(super) fn put_text(field: &mut [u8], text: &str) {
    field.fill(b' ');
    for (byte, value) in field.iter_mut().zip(text.bytes()) {
        *byte = value;
    }
}

/// Which commands there are, and what they change (NVMe Base 2.0, 5.16.1.6).
fn effects_log(has_keep_alive: bool) -> CommandEffectsLog {
    const SUPPORTED: u32 = 1;
    const LBA_CONTENT: u32 = 1 << 1;
    const NAMESPACE_CAPABILITIES: u32 = 1 << 2;
    const NAMESPACE_INVENTORY: u32 = 1 << 3;
    let mut log = CommandEffectsLog::default();
    for opcode in [
        AdminOpcode::DELETE_IO_SQ,
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::GET_LOG_PAGE,
        AdminOpcode::DELETE_IO_CQ,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::IDENTIFY,
        AdminOpcode::ABORT,
        AdminOpcode::SET_FEATURES,
        AdminOpcode::GET_FEATURES,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::GET_LBA_STATUS,
    ] {
        log.acs[usize::from(opcode.0)] = SUPPORTED;
    }
    if has_keep_alive {
        log.acs[usize::from(AdminOpcode::KEEP_ALIVE.0)] = SUPPORTED;
    }
    log.acs[usize::from(AdminOpcode::FORMAT_NVM.0)] = SUPPORTED | LBA_CONTENT | NAMESPACE_CAPABILITIES;
    log.acs[usize::from(AdminOpcode::NAMESPACE_ATTACHMENT.0)] = SUPPORTED | NAMESPACE_INVENTORY;
    for opcode in [NvmOpcode::FLUSH, NvmOpcode::READ, NvmOpcode::COMPARE, NvmOpcode::VERIFY] {
        log.iocs[usize::from(opcode.0)] = SUPPORTED;
    }
    for opcode in [NvmOpcode::WRITE, NvmOpcode::WRITE_ZEROES, NvmOpcode::DATASET_MANAGEMENT, NvmOpcode::COPY]
    {
        log.iocs[usize::from(opcode.0)] = SUPPORTED | LBA_CONTENT;
    }
    log
}
