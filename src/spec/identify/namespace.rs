//! Identify Namespace in its several forms. Field names are those of nvme-cli.
#![forbid(unsafe_code)]

use bitfield_struct::bitfield;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// One LBA format (NVM Command Set 1.0).
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

const _: () = assert!(size_of::<LbaFormat>() == 4);

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
    pub rsvd81: u8,
    /// Number of LBA formats with unique attributes.
    pub nulbaf: u8,
    /// Reserved.
    pub rsvd83: [u8; 9],
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
    /// The LBA format in use, if its index is one that the structure has.
    pub fn lba_format(&self) -> Option<LbaFormat> {
        self.lbaf.get(usize::from(self.lba_format_index())).copied()
    }

    /// The LBA formats that the namespace can be formatted with, those with unique attributes behind the others.
    pub fn lba_formats(&self) -> &[LbaFormat] {
        let count = (usize::from(self.nlbaf) + 1 + usize::from(self.nulbaf)).min(self.lbaf.len());
        &self.lbaf[..count]
    }

    /// Bytes allocated for the namespace (NVMCAP), 0 where it is not reported.
    pub fn capacity_bytes(&self) -> u128 {
        u128::from_le_bytes(self.nvmcap)
    }

    /// Which LBA format is in use: bits 3:0 of FLBAS, and bits 6:5 above them where there are more than 16 formats.
    pub fn lba_format_index(&self) -> u8 {
        let formats = u16::from(self.nlbaf) + 1 + u16::from(self.nulbaf);
        let high = if formats > 16 { self.flbas >> 5 & 3 } else { 0 };
        self.flbas & 0xf | high << 4
    }
}

impl Default for IdentifyNs {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Identify Namespace, the part that all command sets share, 4,096 bytes (NVMe Base 2.0, 5.17.2, CNS 08h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentifyNsIndependent {
    /// Namespace features.
    pub nsfeat: u8,
    /// Multi-path and sharing capabilities.
    pub nmic: u8,
    /// Reservation capabilities.
    pub rescap: u8,
    /// Format progress indicator.
    pub fpi: u8,
    /// ANA group identifier.
    pub anagrpid: u32,
    /// Namespace attributes: bit 0 write protected.
    pub nsattr: u8,
    /// Reserved.
    pub rsvd9: u8,
    /// NVM set identifier.
    pub nvmsetid: u16,
    /// Endurance group identifier.
    pub endgid: u16,
    /// Namespace status: bit 0 ready.
    pub nstat: u8,
    /// Reserved.
    pub rsvd15: [u8; 4081],
}

const _: () = assert!(size_of::<IdentifyNsIndependent>() == 4096);

impl Default for IdentifyNsIndependent {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// What extends an LBA format for protection information (NVM Command Set 1.0, 4.1.5, CNS 05h).
#[bitfield(u32)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExtendedLbaFormat {
    /// Storage tag size in bits.
    #[bits(7)]
    pub sts: u8,
    /// Protection information format: 0 16-bit guard, 1 32-bit guard, 2 64-bit guard.
    #[bits(2)]
    pub pif: u8,
    #[bits(23)]
    __: u32,
}

/// Identify Namespace of the NVM command set, 4,096 bytes (NVM Command Set 1.0, 4.1.5, CNS 05h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IdentifyNsNvm {
    /// Logical block storage tag mask.
    pub lbstm: u64,
    /// Protection information capabilities.
    pub pic: u8,
    /// Reserved.
    pub rsvd9: [u8; 3],
    /// Extended LBA formats, one for each LBA format.
    pub elbaf: [ExtendedLbaFormat; 64],
    /// Reserved.
    pub rsvd268: [u8; 3828],
}

const _: () = assert!(size_of::<IdentifyNsNvm>() == 4096);

impl Default for IdentifyNsNvm {
    fn default() -> Self {
        Self::new_zeroed()
    }
}
