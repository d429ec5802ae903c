//! Feature identifiers and the dwords of those that are used. NVMe Base 2.0, 5.27.1.
#![forbid(unsafe_code)]

use bitfield_struct::bitfield;

/// A feature identifier (NVMe Base 2.0, figure 317).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FeatureId(pub u8);

#[expect(missing_docs, reason = "the names are the specification's, and all there is to say")]
impl FeatureId {
    pub const ARBITRATION: Self = Self(0x01);
    pub const POWER_MANAGEMENT: Self = Self(0x02);
    pub const LBA_RANGE_TYPE: Self = Self(0x03);
    pub const TEMPERATURE_THRESHOLD: Self = Self(0x04);
    pub const ERROR_RECOVERY: Self = Self(0x05);
    pub const VOLATILE_WRITE_CACHE: Self = Self(0x06);
    pub const NUMBER_OF_QUEUES: Self = Self(0x07);
    pub const INTERRUPT_COALESCING: Self = Self(0x08);
    pub const INTERRUPT_VECTOR_CONFIG: Self = Self(0x09);
    pub const WRITE_ATOMICITY: Self = Self(0x0a);
    pub const ASYNC_EVENT_CONFIG: Self = Self(0x0b);
    pub const AUTONOMOUS_POWER_STATE: Self = Self(0x0c);
    pub const HOST_MEMORY_BUFFER: Self = Self(0x0d);
    pub const TIMESTAMP: Self = Self(0x0e);
    pub const KEEP_ALIVE_TIMER: Self = Self(0x0f);
    pub const HOST_CONTROLLED_THERMAL: Self = Self(0x10);
    pub const NON_OPERATIONAL_POWER_STATE: Self = Self(0x11);
    pub const READ_RECOVERY_LEVEL: Self = Self(0x12);
    pub const HOST_BEHAVIOR_SUPPORT: Self = Self(0x16);
    pub const SANITIZE_CONFIG: Self = Self(0x17);
    pub const COMMAND_SET_PROFILE: Self = Self(0x19);
    pub const SOFTWARE_PROGRESS_MARKER: Self = Self(0x80);
    pub const HOST_IDENTIFIER: Self = Self(0x81);
    pub const NAMESPACE_WRITE_PROTECTION: Self = Self(0x84);
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
