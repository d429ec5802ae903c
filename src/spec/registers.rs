//! Controller registers: offsets, fields, and where the doorbells are. NVMe Base 2.0, 3.1.3.
#![forbid(unsafe_code)]

use bitfield_struct::bitfield;

/// Controller Capabilities, 64 bits (3.1.3.1).
pub const CAP: usize = 0x00;
/// Version, 32 bits (3.1.3.2).
pub const VS: usize = 0x08;
/// Interrupt Mask Set, 32 bits; untouched under MSI-X (3.1.3.3).
pub const INTMS: usize = 0x0c;
/// Interrupt Mask Clear, 32 bits; untouched under MSI-X (3.1.3.4).
pub const INTMC: usize = 0x10;
/// Controller Configuration, 32 bits (3.1.3.5).
pub const CC: usize = 0x14;
/// Controller Status, 32 bits (3.1.3.6).
pub const CSTS: usize = 0x1c;
/// NVM Subsystem Reset, 32 bits (3.1.3.7).
pub const NSSR: usize = 0x20;
/// Admin Queue Attributes, 32 bits (3.1.3.8).
pub const AQA: usize = 0x24;
/// Admin Submission Queue Base Address, 64 bits (3.1.3.9).
pub const ASQ: usize = 0x28;
/// Admin Completion Queue Base Address, 64 bits (3.1.3.10).
pub const ACQ: usize = 0x30;
/// Controller Ready Timeouts, 32 bits (3.1.3.21).
pub const CRTO: usize = 0x68;
/// The first doorbell (NVMe over PCIe Transport 1.0, 3.1.2).
pub const DOORBELLS: usize = 0x1000;
/// What is written to [`NSSR`] to reset the subsystem: "NVMe" in ASCII.
pub const NSSR_MAGIC: u32 = 0x4e56_4d65;

/// Where the tail of submission queue `qid` is written, for a doorbell stride of 4 << `dstrd` bytes (NVMe over PCIe 1.0, 3.1.2.1).
pub const fn sq_tail_doorbell(qid: u16, dstrd: u8) -> usize {
    DOORBELLS + 2 * qid as usize * (4 << dstrd)
}

/// Where the head of completion queue `qid` is written (NVMe over PCIe 1.0, 3.1.2.2).
pub const fn cq_head_doorbell(qid: u16, dstrd: u8) -> usize {
    DOORBELLS + (2 * qid as usize + 1) * (4 << dstrd)
}

/// Controller Capabilities (3.1.3.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Cap {
    /// Maximum Queue Entries Supported, 0-based.
    pub mqes_z: u16,
    /// Contiguous Queues Required.
    pub cqr: bool,
    /// Arbitration Mechanism Supported.
    #[bits(2)]
    pub ams: u8,
    #[bits(5)]
    __: u8,
    /// Timeout for CSTS.RDY to change, in 500 ms units.
    pub to: u8,
    /// Doorbell Stride: 4 << DSTRD bytes.
    #[bits(4)]
    pub dstrd: u8,
    /// NVM Subsystem Reset Supported.
    pub nssrs: bool,
    /// Command Sets Supported: bit 0 NVM, bit 6 others, bit 7 none.
    pub css: u8,
    /// Boot Partition Support.
    pub bps: bool,
    /// Controller Power Scope.
    #[bits(2)]
    pub cps: u8,
    /// Memory Page Size Minimum: 4096 << MPSMIN bytes.
    #[bits(4)]
    pub mpsmin: u8,
    /// Memory Page Size Maximum: 4096 << MPSMAX bytes.
    #[bits(4)]
    pub mpsmax: u8,
    /// Persistent Memory Region Supported.
    pub pmrs: bool,
    /// Controller Memory Buffer Supported.
    pub cmbs: bool,
    /// NVM Subsystem Shutdown Supported.
    pub nsss: bool,
    /// Controller Ready Modes Supported: bit 0 with media, bit 1 independent of media.
    #[bits(2)]
    pub crms: u8,
    #[bits(3)]
    __: u8,
}

/// Version (3.1.3.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Vs {
    /// Tertiary version number.
    pub ter: u8,
    /// Minor version number.
    pub mnr: u8,
    /// Major version number.
    pub mjr: u16,
}

/// Controller Configuration (3.1.3.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cc {
    /// Enable.
    pub en: bool,
    #[bits(3)]
    __: u8,
    /// I/O Command Set Selected.
    #[bits(3)]
    pub css: u8,
    /// Memory Page Size: 4096 << MPS bytes.
    #[bits(4)]
    pub mps: u8,
    /// Arbitration Mechanism Selected.
    #[bits(3)]
    pub ams: u8,
    /// Shutdown Notification: 1 normal, 2 abrupt.
    #[bits(2)]
    pub shn: u8,
    /// I/O Submission Queue Entry Size, a power of two: 6.
    #[bits(4)]
    pub iosqes: u8,
    /// I/O Completion Queue Entry Size, a power of two: 4.
    #[bits(4)]
    pub iocqes: u8,
    /// Controller Ready Independent of Media Enable.
    pub crime: bool,
    #[bits(7)]
    __: u8,
}

/// Controller Status (3.1.3.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Csts {
    /// Ready.
    pub rdy: bool,
    /// Controller Fatal Status.
    pub cfs: bool,
    /// Shutdown Status: 0 none, 1 in progress, 2 complete.
    #[bits(2)]
    pub shst: u8,
    /// NVM Subsystem Reset Occurred.
    pub nssro: bool,
    /// Processing Paused.
    pub pp: bool,
    /// Shutdown Type.
    pub st: bool,
    #[bits(25)]
    __: u32,
}

/// Admin Queue Attributes (3.1.3.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Aqa {
    /// Admin Submission Queue Size, 0-based.
    #[bits(12)]
    pub asqs_z: u16,
    #[bits(4)]
    __: u8,
    /// Admin Completion Queue Size, 0-based.
    #[bits(12)]
    pub acqs_z: u16,
    #[bits(4)]
    __: u8,
}

/// Controller Ready Timeouts (3.1.3.21), in 500 ms units.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Crto {
    /// Controller Ready With Media Timeout.
    pub crwmt: u16,
    /// Controller Ready Independent of Media Timeout.
    pub crimt: u16,
}
