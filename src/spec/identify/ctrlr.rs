//! Identify Controller, and what of it belongs to the NVM command set. Field names are those of nvme-cli.
#![forbid(unsafe_code)]

use super::text;
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Identify Controller, 4,096 bytes (NVMe Base 2.0, 5.17.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentifyCtrlr {
    /// PCI vendor identifier.
    pub vid: u16,
    /// PCI subsystem vendor identifier.
    pub ssvid: u16,
    /// Serial number, ASCII.
    pub sn: [u8; 20],
    /// Model number, ASCII.
    pub mn: [u8; 40],
    /// Firmware revision, ASCII.
    pub fr: [u8; 8],
    /// Recommended arbitration burst, a power of two.
    pub rab: u8,
    /// IEEE OUI, little-endian.
    pub ieee: [u8; 3],
    /// Multi-path and sharing capabilities.
    pub cmic: u8,
    /// Maximum data transfer size: a power of two of CAP.MPSMIN pages, 0 for no limit.
    pub mdts: u8,
    /// Controller identifier.
    pub cntlid: u16,
    /// Version, as register VS.
    pub ver: u32,
    /// RTD3 resume latency in microseconds.
    pub rtd3r: u32,
    /// RTD3 entry latency in microseconds.
    pub rtd3e: u32,
    /// Optional asynchronous events supported.
    pub oaes: u32,
    /// Controller attributes.
    pub ctratt: u32,
    /// Read recovery levels supported.
    pub rrls: u16,
    /// Reserved.
    pub rsvd102: [u8; 9],
    /// Controller type: 1 I/O, 2 discovery, 3 administrative.
    pub cntrltype: u8,
    /// FRU globally unique identifier.
    pub fguid: [u8; 16],
    /// Command retry delay time 1 in 100 ms.
    pub crdt1: u16,
    /// Command retry delay time 2 in 100 ms.
    pub crdt2: u16,
    /// Command retry delay time 3 in 100 ms.
    pub crdt3: u16,
    /// Reserved.
    pub rsvd134: [u8; 119],
    /// NVM subsystem report.
    pub nvmsr: u8,
    /// VPD write cycle information.
    pub vwci: u8,
    /// Management endpoint capabilities.
    pub mec: u8,
    /// Optional admin command support.
    pub oacs: u16,
    /// Abort command limit, 0-based.
    pub acl: u8,
    /// Asynchronous event request limit, 0-based.
    pub aerl: u8,
    /// Firmware updates.
    pub frmw: u8,
    /// Log page attributes.
    pub lpa: u8,
    /// Error log page entries, 0-based.
    pub elpe: u8,
    /// Number of power states, 0-based.
    pub npss: u8,
    /// Admin vendor specific command configuration.
    pub avscc: u8,
    /// Autonomous power state transition attributes.
    pub apsta: u8,
    /// Warning composite temperature in kelvin.
    pub wctemp: u16,
    /// Critical composite temperature in kelvin.
    pub cctemp: u16,
    /// Maximum time for firmware activation in 100 ms.
    pub mtfa: u16,
    /// Host memory buffer preferred size in 4 KiB.
    pub hmpre: u32,
    /// Host memory buffer minimum size in 4 KiB.
    pub hmmin: u32,
    /// Total NVM capacity in bytes, little-endian.
    pub tnvmcap: [u8; 16],
    /// Unallocated NVM capacity in bytes, little-endian.
    pub unvmcap: [u8; 16],
    /// Replay protected memory block support.
    pub rpmbs: u32,
    /// Extended device self-test time in minutes.
    pub edstt: u16,
    /// Device self-test options.
    pub dsto: u8,
    /// Firmware update granularity in 4 KiB.
    pub fwug: u8,
    /// Keep alive granularity in 100 ms.
    pub kas: u16,
    /// Host controlled thermal management attributes.
    pub hctma: u16,
    /// Minimum thermal management temperature in kelvin.
    pub mntmt: u16,
    /// Maximum thermal management temperature in kelvin.
    pub mxtmt: u16,
    /// Sanitize capabilities.
    pub sanicap: u32,
    /// Host memory buffer minimum descriptor entry size in 4 KiB.
    pub hmminds: u32,
    /// Host memory maximum descriptor entries.
    pub hmmaxd: u16,
    /// NVM set identifier maximum.
    pub nsetidmax: u16,
    /// Endurance group identifier maximum.
    pub endgidmax: u16,
    /// ANA transition time in seconds.
    pub anatt: u8,
    /// ANA capabilities.
    pub anacap: u8,
    /// ANA group identifier maximum.
    pub anagrpmax: u32,
    /// Number of ANA group identifiers.
    pub nanagrpid: u32,
    /// Persistent event log size in 64 KiB.
    pub pels: u32,
    /// Domain identifier.
    pub domainid: u16,
    /// Reserved.
    pub rsvd358: [u8; 10],
    /// Maximum endurance group capacity in bytes, little-endian.
    pub megcap: [u8; 16],
    /// Reserved.
    pub rsvd384: [u8; 128],
    /// Submission queue entry size: required in bits 3:0, maximum in 7:4, powers of two.
    pub sqes: u8,
    /// Completion queue entry size, likewise.
    pub cqes: u8,
    /// Maximum outstanding commands.
    pub maxcmd: u16,
    /// Number of namespaces: the highest identifier.
    pub nn: u32,
    /// Optional NVM command support.
    pub oncs: u16,
    /// Fused operation support.
    pub fuses: u16,
    /// Format NVM attributes.
    pub fna: u8,
    /// Volatile write cache.
    pub vwc: u8,
    /// Atomic write unit normal in blocks, 0-based.
    pub awun: u16,
    /// Atomic write unit power fail in blocks, 0-based.
    pub awupf: u16,
    /// I/O command set vendor specific command configuration.
    pub icsvscc: u8,
    /// Namespace write protection capabilities.
    pub nwpc: u8,
    /// Atomic compare and write unit in blocks, 0-based.
    pub acwu: u16,
    /// Optional copy formats supported.
    pub ocfs: u16,
    /// SGL support.
    pub sgls: u32,
    /// Maximum number of allowed namespaces.
    pub mnan: u32,
    /// Maximum domain namespace attachments, little-endian.
    pub maxdna: [u8; 16],
    /// Maximum I/O controller namespace attachments.
    pub maxcna: u32,
    /// Reserved.
    pub rsvd564: [u8; 204],
    /// NVM subsystem qualified name, UTF-8, NUL terminated.
    pub subnqn: [u8; 256],
    /// Reserved.
    pub rsvd1024: [u8; 768],
    /// I/O queue command capsule supported size in 16 bytes.
    pub ioccsz: u32,
    /// I/O queue response capsule supported size in 16 bytes.
    pub iorcsz: u32,
    /// In capsule data offset in 16 bytes.
    pub icdoff: u16,
    /// Fabrics controller attributes.
    pub fcatt: u8,
    /// Maximum SGL data block descriptors.
    pub msdbd: u8,
    /// Optional fabric commands support.
    pub ofcs: u16,
    /// Discovery controller type.
    pub dctype: u8,
    /// Reserved.
    pub rsvd1807: [u8; 241],
    /// Power state descriptors, NPSS + 1 of them.
    pub psd: [PowerState; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}

const _: () = assert!(size_of::<IdentifyCtrlr>() == 4096);

impl IdentifyCtrlr {
    /// The identifier of the controller's manufacturer (IEEE OUI).
    pub fn ieee_oui(&self) -> u32 {
        let [low, middle, high] = self.ieee;
        u32::from_le_bytes([low, middle, high, 0])
    }

    /// Total NVM capacity in bytes (TNVMCAP), 0 where it is not reported.
    pub fn total_capacity_bytes(&self) -> u128 {
        u128::from_le_bytes(self.tnvmcap)
    }

    /// Unallocated NVM capacity in bytes (UNVMCAP), 0 where it is not reported.
    pub fn unallocated_capacity_bytes(&self) -> u128 {
        u128::from_le_bytes(self.unvmcap)
    }

    /// The power states that the controller has, the first one with the most power. A wrong NPSS gives all 32.
    pub fn power_states(&self) -> &[PowerState] {
        let count = (usize::from(self.npss) + 1).min(self.psd.len());
        &self.psd[..count]
    }

    /// The serial number, without padding.
    pub fn serial(&self) -> String {
        text(&self.sn)
    }

    /// The model number, without padding.
    pub fn model(&self) -> String {
        text(&self.mn)
    }

    /// The firmware revision, without padding.
    pub fn firmware(&self) -> String {
        text(&self.fr)
    }

    /// The subsystem's qualified name.
    pub fn subsystem_nqn(&self) -> String {
        text(&self.subnqn)
    }
}

impl Default for IdentifyCtrlr {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Power State Descriptor, 32 bytes (NVMe Base 2.0, 5.17.2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PowerState {
    /// Maximum power, in the unit that `flags` tells.
    pub mp: u16,
    /// Reserved.
    pub rsvd2: u8,
    /// Scale of the maximum power, and whether it is an operational state.
    pub flags: PowerStateFlags,
    /// Entry latency in microseconds.
    pub enlat: u32,
    /// Exit latency in microseconds.
    pub exlat: u32,
    /// Relative read throughput, 0 is best.
    pub rrt: u8,
    /// Relative read latency, 0 is best.
    pub rrl: u8,
    /// Relative write throughput, 0 is best.
    pub rwt: u8,
    /// Relative write latency, 0 is best.
    pub rwl: u8,
    /// Idle power, in the unit of `ips`.
    pub idlp: u16,
    /// Idle power scale.
    pub ips: IdlePowerScale,
    /// Reserved.
    pub rsvd19: u8,
    /// Active power, in the unit of `apws`.
    pub actp: u16,
    /// Active power workload and scale.
    pub apws: ActivePower,
    /// Reserved.
    pub rsvd23: [u8; 9],
}

const _: () = assert!(size_of::<PowerState>() == 32);

impl PowerState {
    /// Maximum power in microwatts, 0 where it is not reported.
    pub fn max_power_uw(&self) -> u64 {
        // Units of 0.1 mW or of 10 mW.
        u64::from(self.mp) * if self.flags.mxps() { 100 } else { 10_000 }
    }
}

/// What byte 3 of a power state descriptor says.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PowerStateFlags {
    /// Max Power Scale: the unit is 0.1 mW, not 10 mW.
    pub mxps: bool,
    /// Non-Operational State: no I/O is processed in it.
    pub nops: bool,
    #[bits(6)]
    __: u8,
}

/// The scale of the idle power.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdlePowerScale {
    #[bits(6)]
    __: u8,
    /// 0 not reported, 1 in 0.1 mW, 2 in 10 mW.
    #[bits(2)]
    pub scale: u8,
}

/// Workload and scale of the active power.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ActivePower {
    /// The workload that it was measured with.
    #[bits(3)]
    pub workload: u8,
    #[bits(3)]
    __: u8,
    /// 0 not reported, 1 in 0.1 mW, 2 in 10 mW.
    #[bits(2)]
    pub scale: u8,
}

/// Identify Controller of the NVM command set, 4,096 bytes (NVM Command Set 1.0, 4.1.5, CNS 06h): limits of commands that MDTS does not limit.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentifyCtrlrNvm {
    /// Verify size limit: a power of two of CAP.MPSMIN pages, 0 for no limit.
    pub vsl: u8,
    /// Write Zeroes size limit, likewise.
    pub wzsl: u8,
    /// Write Uncorrectable size limit, likewise.
    pub wusl: u8,
    /// Dataset Management ranges limit, 0 for no limit.
    pub dmrl: u8,
    /// Dataset Management range size limit in blocks, 0 for no limit.
    pub dmrsl: u32,
    /// Dataset Management size limit in blocks, 0 for no limit.
    pub dmsl: u64,
    /// Reserved.
    pub rsvd16: [u8; 4080],
}

const _: () = assert!(size_of::<IdentifyCtrlrNvm>() == 4096);

impl Default for IdentifyCtrlrNvm {
    fn default() -> Self {
        Self::new_zeroed()
    }
}
