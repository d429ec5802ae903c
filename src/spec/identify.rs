//! Identify data structures. NVMe Base 2.0, 5.17.2; NVM Command Set 1.0, 4.1.5. Field names are those of nvme-cli.
#![forbid(unsafe_code)]

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Controller or Namespace Structure: which data Identify returns (NVMe Base 2.0, figure 273).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cns(pub u8);

#[expect(missing_docs, reason = "the names are the specification's, and all there is to say")]
impl Cns {
    pub const NS: Self = Self(0x00);
    pub const CTRLR: Self = Self(0x01);
    pub const ACTIVE_NS_LIST: Self = Self(0x02);
    pub const NS_DESCRIPTORS: Self = Self(0x03);
    pub const NVM_SETS: Self = Self(0x04);
    pub const CSI_NS: Self = Self(0x05);
    pub const CSI_CTRLR: Self = Self(0x06);
    pub const CSI_ACTIVE_NS_LIST: Self = Self(0x07);
    pub const CSI_INDEPENDENT_NS: Self = Self(0x08);
    pub const ALLOCATED_NS_LIST: Self = Self(0x10);
    pub const NS_ALLOCATED: Self = Self(0x11);
    pub const NS_CTRLR_LIST: Self = Self(0x12);
    pub const CTRLR_LIST: Self = Self(0x13);
    pub const PRIMARY_CTRLR: Self = Self(0x14);
    pub const SECONDARY_CTRLRS: Self = Self(0x15);
    pub const NS_GRANULARITY: Self = Self(0x16);
    pub const UUID_LIST: Self = Self(0x17);
    pub const DOMAIN_LIST: Self = Self(0x18);
    pub const ENDURANCE_GROUPS: Self = Self(0x19);
    pub const CSI_ALLOCATED_NS_LIST: Self = Self(0x1a);
    pub const CSI_NS_ALLOCATED: Self = Self(0x1b);
    pub const COMMAND_SETS: Self = Self(0x1c);
}

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
    /// Reserved.
    pub rsvd1806: [u8; 242],
    /// Power state descriptors.
    pub psd: [[u8; 32]; 32],
    /// Vendor specific.
    pub vs: [u8; 1024],
}

const _: () = assert!(size_of::<IdentifyCtrlr>() == 4096);

impl IdentifyCtrlr {
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

/// One LBA format (NVM Command Set 1.0, figure 98).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LbaFormat {
    /// Metadata bytes per block.
    pub ms: u16,
    /// Data bytes per block, a power of two.
    pub lbads: u8,
    /// Relative performance, 0 is best.
    #[bits(2)]
    pub rp: u8,
    #[bits(6)]
    __: u8,
}

/// Identify Namespace, 4,096 bytes (NVM Command Set 1.0, 4.1.5.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentifyNs {
    /// Namespace size in blocks.
    pub nsze: u64,
    /// Namespace capacity in blocks.
    pub ncap: u64,
    /// Namespace utilization in blocks.
    pub nuse: u64,
    /// Namespace features.
    pub nsfeat: u8,
    /// Number of LBA formats, 0-based.
    pub nlbaf: u8,
    /// Formatted LBA size: see [`IdentifyNs::lba_format_index`].
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// End-to-end data protection capabilities.
    pub dpc: u8,
    /// End-to-end data protection settings.
    pub dps: u8,
    /// Multi-path and sharing capabilities.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// Deallocate logical block features.
    pub dlfeat: u8,
    /// Namespace atomic write unit normal, 0-based.
    pub nawun: u16,
    /// Namespace atomic write unit power fail, 0-based.
    pub nawupf: u16,
    /// Namespace atomic compare and write unit, 0-based.
    pub nacwu: u16,
    /// Namespace atomic boundary size normal, 0-based.
    pub nabsn: u16,
    /// Namespace atomic boundary offset.
    pub nabo: u16,
    /// Namespace atomic boundary size power fail, 0-based.
    pub nabspf: u16,
    /// Namespace optimal I/O boundary in blocks.
    pub noiob: u16,
    /// NVM capacity in bytes, little-endian.
    pub nvmcap: [u8; 16],
    /// Namespace preferred write granularity, 0-based.
    pub npwg: u16,
    /// Namespace preferred write alignment, 0-based.
    pub npwa: u16,
    /// Namespace preferred deallocate granularity, 0-based.
    pub npdg: u16,
    /// Namespace preferred deallocate alignment, 0-based.
    pub npda: u16,
    /// Namespace optimal write size, 0-based.
    pub nows: u16,
    /// Maximum single source range length of Copy in blocks.
    pub mssrl: u16,
    /// Maximum copy length in blocks.
    pub mcl: u32,
    /// Maximum source range count of Copy, 0-based.
    pub msrc: u8,
    /// Reserved.
    pub rsvd81: [u8; 11],
    /// ANA group identifier.
    pub anagrpid: u32,
    /// Reserved.
    pub rsvd96: [u8; 3],
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    /// NVM set identifier.
    pub nvmsetid: u16,
    /// Endurance group identifier.
    pub endgid: u16,
    /// Namespace globally unique identifier.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier.
    pub eui64: [u8; 8],
    /// LBA formats.
    pub lbaf: [LbaFormat; 64],
    /// Vendor specific.
    pub vs: [u8; 3712],
}

const _: () = assert!(size_of::<IdentifyNs>() == 4096);

impl IdentifyNs {
    /// Which LBA format is in use: bits 3:0 of FLBAS, and bits 6:5 above them where there are more than 16 formats.
    pub fn lba_format_index(&self) -> u8 {
        let high = if self.nlbaf > 15 { self.flbas >> 5 & 3 } else { 0 };
        self.flbas & 0xf | high << 4
    }
}

impl Default for IdentifyNs {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// One entry of the Namespace Identification Descriptor list (NVMe Base 2.0, 5.17.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsDescriptor<'a> {
    /// Type: 1 EUI64, 2 NGUID, 3 UUID, 4 command set.
    pub nidt: u8,
    /// The identifier.
    pub nid: &'a [u8],
}

/// The descriptors in the 4,096 bytes of such a list. Ends at the first that does not fit.
pub fn ns_descriptors(mut data: &[u8]) -> impl Iterator<Item = NsDescriptor<'_>> {
    const HEADER_BYTES: usize = 4;
    std::iter::from_fn(move || {
        let (header, rest) = data.split_at_checked(HEADER_BYTES)?;
        let (nidt, len) = (header[0], usize::from(header[1]));
        if len == 0 {
            return None;
        }
        let (nid, rest) = rest.split_at_checked(len)?;
        data = rest;
        Some(NsDescriptor { nidt, nid })
    })
}

/// A device's text: up to the first NUL, without padding, and nothing that a terminal would act on.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let visible = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    bytes[..end].iter().map(visible).collect::<String>().trim().to_owned()
}
