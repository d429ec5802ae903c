//! Log pages. NVMe Base 2.0, 5.16.1.
#![forbid(unsafe_code)]

use super::codes::codes;
use super::command::{AdminOpcode, NvmOpcode};
use super::identify::text;
use super::status::Status;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

codes! {
    /// A log page identifier (NVMe Base 2.0, 5.16.1; NVM Command Set 1.0, 4.1.4).
    LogId, vendor 0xc0;
    SUPPORTED_LOGS = 0x00, "Supported Log Pages";
    ERROR = 0x01, "Error Information";
    SMART = 0x02, "SMART / Health Information";
    FIRMWARE_SLOT = 0x03, "Firmware Slot Information";
    CHANGED_NS_LIST = 0x04, "Changed Namespace List";
    COMMAND_EFFECTS = 0x05, "Commands Supported and Effects";
    SELF_TEST = 0x06, "Device Self-test";
    TELEMETRY_HOST = 0x07, "Telemetry Host-Initiated";
    TELEMETRY_CTRLR = 0x08, "Telemetry Controller-Initiated";
    ENDURANCE_GROUP = 0x09, "Endurance Group Information";
    PREDICTABLE_LATENCY_PER_NVM_SET = 0x0a, "Predictable Latency Per NVM Set";
    PREDICTABLE_LATENCY_EVENT_AGGREGATE = 0x0b, "Predictable Latency Event Aggregate";
    ANA = 0x0c, "Asymmetric Namespace Access";
    PERSISTENT_EVENT = 0x0d, "Persistent Event";
    LBA_STATUS = 0x0e, "LBA Status Information";
    ENDURANCE_GROUP_EVENT_AGGREGATE = 0x0f, "Endurance Group Event Aggregate";
    MEDIA_UNIT_STATUS = 0x10, "Media Unit Status";
    SUPPORTED_CAPACITY_CONFIG_LIST = 0x11, "Supported Capacity Configuration List";
    FEATURE_EFFECTS = 0x12, "Feature Identifiers Supported and Effects";
    MI_COMMAND_EFFECTS = 0x13, "NVMe-MI Commands Supported and Effects";
    COMMAND_AND_FEATURE_LOCKDOWN = 0x14, "Command and Feature Lockdown";
    BOOT_PARTITION = 0x15, "Boot Partition";
    ROTATIONAL_MEDIA = 0x16, "Rotational Media Information";
    DISCOVERY = 0x70, "Discovery";
    RESERVATION = 0x80, "Reservation Notification";
    SANITIZE = 0x81, "Sanitize Status";
}

/// One entry of the Error Information log, 64 bytes (5.16.1.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ErrorLogEntry {
    /// Which error this was, counted from 1; 0 marks an unused entry.
    pub error_count: u64,
    /// The submission queue of the command.
    pub sqid: u16,
    /// The command's identifier.
    pub cmdid: u16,
    /// The status field with the phase tag in bit 0.
    pub status_field: u16,
    /// The byte (bits 7:0) and bit (10:8) of the command that was wrong.
    pub parm_error_location: u16,
    /// The first logical block that failed.
    pub lba: u64,
    /// The namespace.
    pub nsid: u32,
    /// Vendor specific log page with more, or 0.
    pub vs: u8,
    /// Transport type.
    pub trtype: u8,
    /// Reserved.
    pub rsvd30: [u8; 2],
    /// Command specific information.
    pub cs: u64,
    /// Transport specific information.
    pub trtype_spec_info: u16,
    /// Reserved.
    pub rsvd42: [u8; 22],
}

const _: () = assert!(size_of::<ErrorLogEntry>() == 64);

impl ErrorLogEntry {
    /// Whether this entry is one: unused ones have a count of 0.
    pub const fn is_used(&self) -> bool {
        self.error_count != 0
    }

    /// The command's status.
    pub const fn status(&self) -> Status {
        Status(self.status_field >> 1)
    }
}

/// Critical warnings of the SMART log (5.16.1.3, byte 0), and which of them are reported as events (5.27.1.8).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct CriticalWarning {
    /// The available spare fell below its threshold.
    pub spare: bool,
    /// A temperature is over an over-temperature threshold, or under an under-temperature threshold.
    pub temperature: bool,
    /// The reliability is degraded by media or internal errors.
    pub reliability: bool,
    /// All of the media are read-only.
    pub read_only: bool,
    /// The backup of the volatile memory failed.
    pub backup_failed: bool,
    /// The persistent memory region is read-only or unreliable.
    pub pmr: bool,
    #[bits(2)]
    __: u8,
}

/// The SMART / Health Information log, 512 bytes (5.16.1.3). 128-bit counters are little-endian bytes: see [`SmartLog::count`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SmartLog {
    /// Critical warnings, by bit.
    pub critical_warning: u8,
    /// Composite temperature in kelvin, little-endian.
    pub temperature: [u8; 2],
    /// Available spare, percent.
    pub avail_spare: u8,
    /// Available spare threshold, percent.
    pub spare_thresh: u8,
    /// Percentage of the life used; may exceed 100.
    pub percent_used: u8,
    /// Endurance group critical warning summary.
    pub endu_grp_crit_warn_sumry: u8,
    /// Reserved.
    pub rsvd7: [u8; 25],
    /// Data read, in units of 1,000 blocks of 512 bytes.
    pub data_units_read: [u8; 16],
    /// Data written, in the same units.
    pub data_units_written: [u8; 16],
    /// Read commands of the host.
    pub host_reads: [u8; 16],
    /// Write commands of the host.
    pub host_writes: [u8; 16],
    /// Minutes that the controller was busy with I/O.
    pub ctrl_busy_time: [u8; 16],
    /// Power cycles.
    pub power_cycles: [u8; 16],
    /// Hours of power.
    pub power_on_hours: [u8; 16],
    /// Unsafe shutdowns.
    pub unsafe_shutdowns: [u8; 16],
    /// Media and data integrity errors.
    pub media_errors: [u8; 16],
    /// Entries ever made in the error log.
    pub num_err_log_entries: [u8; 16],
    /// Minutes above the warning temperature.
    pub warning_temp_time: u32,
    /// Minutes above the critical temperature.
    pub critical_comp_time: u32,
    /// Temperature sensors in kelvin, 0 where there is none.
    pub temp_sensor: [u16; 8],
    /// Transitions to thermal management temperature 1.
    pub thm_temp1_trans_count: u32,
    /// Transitions to thermal management temperature 2.
    pub thm_temp2_trans_count: u32,
    /// Seconds above thermal management temperature 1.
    pub thm_temp1_total_time: u32,
    /// Seconds above thermal management temperature 2.
    pub thm_temp2_total_time: u32,
    /// Reserved.
    pub rsvd232: [u8; 280],
}

const _: () = assert!(size_of::<SmartLog>() == 512);

impl SmartLog {
    /// The critical warnings.
    pub const fn warnings(&self) -> CriticalWarning {
        CriticalWarning::from_bits(self.critical_warning)
    }

    /// The composite temperature in kelvin.
    pub fn temperature_k(&self) -> u16 {
        u16::from_le_bytes(self.temperature)
    }

    /// The composite temperature in degrees Celsius, as drives are read by people.
    pub fn temperature_celsius(&self) -> i32 {
        i32::from(self.temperature_k()) - 273
    }

    /// The value of one of the 128-bit counters: `SmartLog::count(log.power_cycles)`.
    pub fn count(counter: [u8; 16]) -> u128 {
        u128::from_le_bytes(counter)
    }
}

impl Default for SmartLog {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// The Firmware Slot Information log, 512 bytes (5.16.1.4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FirmwareSlotLog {
    /// The active slot in bits 2:0, the next one in bits 6:4.
    pub afi: u8,
    /// Reserved.
    pub rsvd1: [u8; 7],
    /// The revision in each slot, ASCII.
    pub frs: [[u8; 8]; 7],
    /// Reserved.
    pub rsvd64: [u8; 448],
}

const _: () = assert!(size_of::<FirmwareSlotLog>() == 512);

impl Default for FirmwareSlotLog {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl FirmwareSlotLog {
    /// The slot that the running firmware was loaded from, 1 to 7.
    pub const fn active_slot(&self) -> u8 {
        self.afi & 0b111
    }

    /// The slot that will be active after the next reset, if one was committed.
    pub const fn next_slot(&self) -> Option<u8> {
        match self.afi >> 4 & 0b111 {
            0 => None,
            slot => Some(slot),
        }
    }

    /// The revision in `slot` (1 to 7), without padding; empty for an empty slot or another number.
    pub fn revision(&self, slot: u8) -> String {
        let index = usize::from(slot).wrapping_sub(1);
        self.frs.get(index).map(|revision| text(revision)).unwrap_or_default()
    }
}

/// The Changed Namespace List log, 4,096 bytes (5.16.1.5): ascending identifiers, ended by 0; the first is 0xFFFFFFFF when there were too many.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ChangedNsList {
    /// The identifiers.
    pub nsids: [u32; 1024],
}

const _: () = assert!(size_of::<ChangedNsList>() == 4096);

impl Default for ChangedNsList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl ChangedNsList {
    /// Whether more than 1,024 namespaces have changed, so that none of them is named.
    pub const fn is_overflown(&self) -> bool {
        self.nsids[0] == u32::MAX
    }

    /// The namespaces that have changed, up to the first 0; none when there were too many.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.nsids.iter().copied().take_while(|nsid| !matches!(*nsid, 0 | u32::MAX))
    }
}

/// What a command does to the rest of the controller (5.16.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct CommandEffects {
    /// Command Supported.
    pub csupp: bool,
    /// Logical Block Content Change.
    pub lbcc: bool,
    /// Namespace Capability Change.
    pub ncc: bool,
    /// Namespace Inventory Change.
    pub nic: bool,
    /// Controller Capability Change.
    pub ccc: bool,
    #[bits(11)]
    __: u16,
    /// Command Submission and Execution: 0 no restriction, 1 alone in its namespace, 2 alone in the subsystem.
    #[bits(3)]
    pub cse: u8,
    /// UUID Selection Supported.
    pub uuid_sel_supported: bool,
    /// Command Scope: bit 0 namespace, 1 controller, 2 NVM set, 3 endurance group, 4 domain, 5 NVM subsystem.
    #[bits(12)]
    pub csp: u16,
}

/// The Commands Supported and Effects log, 4,096 bytes (5.16.1.6). Bit 0 of each dword: supported.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommandEffectsLog {
    /// Admin commands by opcode.
    pub acs: [u32; 256],
    /// I/O commands by opcode.
    pub iocs: [u32; 256],
    /// Reserved.
    pub rsvd2048: [u8; 2048],
}

const _: () = assert!(size_of::<CommandEffectsLog>() == 4096);

impl Default for CommandEffectsLog {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl CommandEffectsLog {
    /// The effects of an admin command.
    pub const fn admin(&self, opcode: AdminOpcode) -> CommandEffects {
        CommandEffects::from_bits(self.acs[opcode.0 as usize])
    }

    /// The effects of an I/O command.
    pub const fn io(&self, opcode: NvmOpcode) -> CommandEffects {
        CommandEffects::from_bits(self.iocs[opcode.0 as usize])
    }
}
