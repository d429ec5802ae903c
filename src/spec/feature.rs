//! Feature identifiers and the values of those that are used: dwords and data. NVMe Base 2.0, 5.27.1.
#![forbid(unsafe_code)]

use super::codes::codes;
use super::log::LogId;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

codes! {
    /// A feature identifier (NVMe Base 2.0, 5.27.1; NVM Command Set 1.0, 4.1.3).
    FeatureId, vendor 0xc0;
    ARBITRATION = 0x01, "Arbitration";
    POWER_MANAGEMENT = 0x02, "Power Management";
    LBA_RANGE_TYPE = 0x03, "LBA Range Type";
    TEMPERATURE_THRESHOLD = 0x04, "Temperature Threshold";
    ERROR_RECOVERY = 0x05, "Error Recovery";
    VOLATILE_WRITE_CACHE = 0x06, "Volatile Write Cache";
    NUMBER_OF_QUEUES = 0x07, "Number of Queues";
    INTERRUPT_COALESCING = 0x08, "Interrupt Coalescing";
    INTERRUPT_VECTOR_CONFIG = 0x09, "Interrupt Vector Configuration";
    WRITE_ATOMICITY = 0x0a, "Write Atomicity Normal";
    ASYNC_EVENT_CONFIG = 0x0b, "Asynchronous Event Configuration";
    AUTONOMOUS_POWER_STATE = 0x0c, "Autonomous Power State Transition";
    HOST_MEMORY_BUFFER = 0x0d, "Host Memory Buffer";
    TIMESTAMP = 0x0e, "Timestamp";
    KEEP_ALIVE_TIMER = 0x0f, "Keep Alive Timer";
    HOST_CONTROLLED_THERMAL = 0x10, "Host Controlled Thermal Management";
    NON_OPERATIONAL_POWER_STATE = 0x11, "Non-Operational Power State Config";
    READ_RECOVERY_LEVEL = 0x12, "Read Recovery Level Config";
    PREDICTABLE_LATENCY_MODE_CONFIG = 0x13, "Predictable Latency Mode Config";
    PREDICTABLE_LATENCY_MODE_WINDOW = 0x14, "Predictable Latency Mode Window";
    LBA_STATUS_INFO_INTERVAL = 0x15, "LBA Status Information Report Interval";
    HOST_BEHAVIOR_SUPPORT = 0x16, "Host Behavior Support";
    SANITIZE_CONFIG = 0x17, "Sanitize Config";
    ENDURANCE_GROUP_EVENT_CONFIG = 0x18, "Endurance Group Event Configuration";
    COMMAND_SET_PROFILE = 0x19, "I/O Command Set Profile";
    SPINUP_CONTROL = 0x1a, "Spinup Control";
    KV_KEY_VALUE_CONFIG = 0x20, "Key Value Configuration";
    ENHANCED_CONTROLLER_METADATA = 0x7d, "Enhanced Controller Metadata";
    CONTROLLER_METADATA = 0x7e, "Controller Metadata";
    NAMESPACE_METADATA = 0x7f, "Namespace Metadata";
    SOFTWARE_PROGRESS_MARKER = 0x80, "Software Progress Marker";
    HOST_IDENTIFIER = 0x81, "Host Identifier";
    RESERVATION_NOTIFICATION_MASK = 0x82, "Reservation Notification Mask";
    RESERVATION_PERSISTENCE = 0x83, "Reservation Persistence";
    NAMESPACE_WRITE_PROTECTION = 0x84, "Namespace Write Protection Config";
}

/// What Get Features answers for SEL = 3 (5.15.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// The value can be saved over power cycles.
    pub saveable: bool,
    /// Each namespace has a value of its own.
    pub namespace_specific: bool,
    /// The value can be set.
    pub changeable: bool,
    #[bits(29)]
    __: u32,
}

/// Arbitration, dword 11 (5.27.1.1). Weights are 0-based and count with weighted round robin only.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Arbitration {
    /// Arbitration Burst: 2^AB commands at once from one queue, 7 for no limit.
    #[bits(3)]
    pub ab: u8,
    #[bits(5)]
    __: u8,
    /// Low Priority Weight, 0-based.
    pub lpw_z: u8,
    /// Medium Priority Weight, 0-based.
    pub mpw_z: u8,
    /// High Priority Weight, 0-based.
    pub hpw_z: u8,
}

/// Power Management, dword 11 (5.27.1.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct PowerManagement {
    /// Power State, 0 to NPSS.
    #[bits(5)]
    pub ps: u8,
    /// Workload Hint.
    #[bits(3)]
    pub wh: u8,
    #[bits(24)]
    __: u32,
}

/// Temperature Threshold, dword 11 (5.27.1.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct TemperatureThreshold {
    /// Temperature in kelvin.
    pub tmpth: u16,
    /// Which temperature: 0 composite, 1 to 8 a sensor, 15 all of them (to be set only).
    #[bits(4)]
    pub tmpsel: u8,
    /// Which side: 0 over, 1 under.
    #[bits(2)]
    pub thsel: u8,
    #[bits(10)]
    __: u16,
}

/// Volatile Write Cache, dword 11 (5.27.1.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct VolatileWriteCache {
    /// Write Cache Enable.
    pub wce: bool,
    #[bits(31)]
    __: u32,
}

/// Error Recovery, dword 11 (NVM Command Set 1.0, 4.1.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ErrorRecovery {
    /// Time Limited Error Recovery in 100 ms, 0 for no limit.
    pub tler: u16,
    /// Deallocated or Unwritten Logical Block Error Enable.
    pub dulbe: bool,
    #[bits(15)]
    __: u16,
}

/// Interrupt Coalescing, dword 11 (5.27.1.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptCoalescing {
    /// Aggregation Threshold in completions, 0-based.
    pub thr_z: u8,
    /// Aggregation Time in 100 us, 0 for none.
    pub time: u8,
    #[bits(16)]
    __: u16,
}

/// Interrupt Vector Configuration, dword 11 (5.27.1.7).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct InterruptVectorConfig {
    /// Interrupt Vector.
    pub iv: u16,
    /// Coalescing Disable.
    pub cd: bool,
    #[bits(15)]
    __: u16,
}

/// Write Atomicity Normal, dword 11 (NVM Command Set 1.0, 4.1.3.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct WriteAtomicity {
    /// Disable Normal: AWUN and NAWUN do not hold, AWUPF and NAWUPF do.
    pub dn: bool,
    #[bits(31)]
    __: u32,
}

/// Number of Queues, as set (dword 11) and as granted (dword 0), both counts 0-based (5.27.1.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NumberOfQueues {
    /// I/O submission queues, 0-based.
    pub nsq_z: u16,
    /// I/O completion queues, 0-based.
    pub ncq_z: u16,
}

/// Asynchronous Event Configuration, dword 11 (5.27.1.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEventConfig {
    /// SMART critical warnings that are reported, by bit.
    pub smart: u8,
    /// Namespace attribute notices.
    pub namespace_attributes: bool,
    /// Firmware activation notices.
    pub firmware_activation: bool,
    /// Telemetry log notices.
    pub telemetry: bool,
    /// Asymmetric namespace access change notices.
    pub ana_change: bool,
    /// Predictable latency event aggregate log change notices.
    pub predictable_latency: bool,
    /// LBA status information notices.
    pub lba_status: bool,
    /// Endurance group event aggregate log change notices.
    pub endurance_group: bool,
    /// Normal NVM subsystem shutdown.
    pub subsystem_shutdown: bool,
    #[bits(16)]
    __: u16,
}

/// Dword 0 of the completion of an Asynchronous Event Request (5.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AsyncEvent {
    /// Asynchronous Event Type: 0 error, 1 SMART, 2 notice, 3 immediate, 6 command set specific, 7 vendor specific.
    #[bits(3)]
    pub aet: u8,
    #[bits(5)]
    __: u8,
    /// Asynchronous Event Information: what of that type happened.
    pub aei: u8,
    /// Log Page Identifier: the page that tells more, and that is read to have this kind of event reported again.
    pub lid: u8,
    __: u8,
}

impl AsyncEvent {
    /// The page that tells more.
    pub const fn log_page(self) -> LogId {
        LogId(self.lid())
    }
}

/// Timestamp, 8 bytes (5.27.1.11).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Timestamp {
    /// Milliseconds, 48 bits, little-endian; since 1970 when the host has set it.
    pub timestamp: [u8; 6],
    /// Attributes: bit 0 it may have stopped, bits 3:1 where it comes from.
    pub attr: u8,
    /// Reserved.
    pub rsvd7: u8,
}

const _: () = assert!(size_of::<Timestamp>() == 8);

impl Timestamp {
    /// The milliseconds.
    pub fn milliseconds(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..6].copy_from_slice(&self.timestamp);
        u64::from_le_bytes(bytes)
    }
}

/// Host Behavior Support, 512 bytes (5.27.1.18): what the host has learned since NVMe 1.0.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HostBehaviorSupport {
    /// Advanced Command Retry Enable: the controller may use CRD.
    pub acre: u8,
    /// Extended Telemetry Data Area 4 Supported.
    pub etdas: u8,
    /// LBA Format Extension Enable: more than 16 LBA formats.
    pub lbafee: u8,
    /// Reserved.
    pub rsvd3: [u8; 509],
}

const _: () = assert!(size_of::<HostBehaviorSupport>() == 512);

impl Default for HostBehaviorSupport {
    fn default() -> Self {
        Self::new_zeroed()
    }
}
