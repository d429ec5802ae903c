//! Log pages. NVMe Base 2.0, 5.16.1.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// A log page identifier (NVMe Base 2.0, figure 202).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub u8);

#[expect(missing_docs, reason = "the names are the specification's, and all there is to say")]
impl LogId {
    pub const SUPPORTED_LOGS: Self = Self(0x00);
    pub const ERROR: Self = Self(0x01);
    pub const SMART: Self = Self(0x02);
    pub const FIRMWARE_SLOT: Self = Self(0x03);
    pub const CHANGED_NS_LIST: Self = Self(0x04);
    pub const COMMAND_EFFECTS: Self = Self(0x05);
    pub const SELF_TEST: Self = Self(0x06);
    pub const TELEMETRY_HOST: Self = Self(0x07);
    pub const TELEMETRY_CTRLR: Self = Self(0x08);
    pub const ENDURANCE_GROUP: Self = Self(0x09);
    pub const ANA: Self = Self(0x0c);
    pub const PERSISTENT_EVENT: Self = Self(0x0d);
    pub const LBA_STATUS: Self = Self(0x0e);
    pub const RESERVATION: Self = Self(0x80);
    pub const SANITIZE: Self = Self(0x81);
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
    /// The composite temperature in kelvin.
    pub fn temperature_k(&self) -> u16 {
        u16::from_le_bytes(self.temperature)
    }

    /// The value of one of the 128-bit counters.
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
