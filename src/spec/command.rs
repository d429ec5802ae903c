//! The submission queue entry, the opcodes, and constructors of the commands that the driver and its users send.
//! NVMe Base 2.0, 3.3.3.1 and 5; NVM Command Set 1.0, 3.
//!
//! Constructors leave the CID and the data pointers to the queue. Counts are 1-based here; the fields on the wire are 0-based.
#![forbid(unsafe_code)]

use super::feature::FeatureId;
use super::identify::Cns;
use super::log::LogId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A submission queue entry, 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Command {
    /// What to do; its two low bits say which way data go.
    pub opcode: u8,
    /// Fused operation in bits 1:0, PRP or SGL in bits 7:6.
    pub flags: u8,
    /// Command identifier.
    pub cid: u16,
    /// Namespace identifier.
    pub nsid: u32,
    /// Command dword 2.
    pub cdw2: u32,
    /// Command dword 3.
    pub cdw3: u32,
    /// Metadata pointer.
    pub mptr: u64,
    /// The first page of the data.
    pub prp1: u64,
    /// The second page of the data, or a list of the others.
    pub prp2: u64,
    /// Command dword 10.
    pub cdw10: u32,
    /// Command dword 11.
    pub cdw11: u32,
    /// Command dword 12.
    pub cdw12: u32,
    /// Command dword 13.
    pub cdw13: u32,
    /// Command dword 14.
    pub cdw14: u32,
    /// Command dword 15.
    pub cdw15: u32,
}

const _: () = assert!(size_of::<Command>() == 64);

/// An admin opcode (NVMe Base 2.0, figure 138).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AdminOpcode(pub u8);

#[expect(missing_docs, reason = "the names are the specification's, and all there is to say")]
impl AdminOpcode {
    pub const DELETE_IO_SQ: Self = Self(0x00);
    pub const CREATE_IO_SQ: Self = Self(0x01);
    pub const GET_LOG_PAGE: Self = Self(0x02);
    pub const DELETE_IO_CQ: Self = Self(0x04);
    pub const CREATE_IO_CQ: Self = Self(0x05);
    pub const IDENTIFY: Self = Self(0x06);
    pub const ABORT: Self = Self(0x08);
    pub const SET_FEATURES: Self = Self(0x09);
    pub const GET_FEATURES: Self = Self(0x0a);
    pub const ASYNC_EVENT_REQUEST: Self = Self(0x0c);
    pub const NAMESPACE_MANAGEMENT: Self = Self(0x0d);
    pub const FIRMWARE_COMMIT: Self = Self(0x10);
    pub const FIRMWARE_IMAGE_DOWNLOAD: Self = Self(0x11);
    pub const DEVICE_SELF_TEST: Self = Self(0x14);
    pub const NAMESPACE_ATTACHMENT: Self = Self(0x15);
    pub const KEEP_ALIVE: Self = Self(0x18);
    pub const DIRECTIVE_SEND: Self = Self(0x19);
    pub const DIRECTIVE_RECEIVE: Self = Self(0x1a);
    pub const VIRTUALIZATION_MANAGEMENT: Self = Self(0x1c);
    pub const NVME_MI_SEND: Self = Self(0x1d);
    pub const NVME_MI_RECEIVE: Self = Self(0x1e);
    pub const CAPACITY_MANAGEMENT: Self = Self(0x20);
    pub const LOCKDOWN: Self = Self(0x24);
    pub const DOORBELL_BUFFER_CONFIG: Self = Self(0x7c);
    pub const FORMAT_NVM: Self = Self(0x80);
    pub const SECURITY_SEND: Self = Self(0x81);
    pub const SECURITY_RECEIVE: Self = Self(0x82);
    pub const SANITIZE: Self = Self(0x84);
    pub const GET_LBA_STATUS: Self = Self(0x86);
}

/// An I/O opcode of the NVM command set (NVM Command Set 1.0, figure 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NvmOpcode(pub u8);

#[expect(missing_docs, reason = "the names are the specification's, and all there is to say")]
impl NvmOpcode {
    pub const FLUSH: Self = Self(0x00);
    pub const WRITE: Self = Self(0x01);
    pub const READ: Self = Self(0x02);
    pub const WRITE_UNCORRECTABLE: Self = Self(0x04);
    pub const COMPARE: Self = Self(0x05);
    pub const WRITE_ZEROES: Self = Self(0x08);
    pub const DATASET_MANAGEMENT: Self = Self(0x09);
    pub const VERIFY: Self = Self(0x0c);
    pub const RESERVATION_REGISTER: Self = Self(0x0d);
    pub const RESERVATION_REPORT: Self = Self(0x0e);
    pub const RESERVATION_ACQUIRE: Self = Self(0x11);
    pub const RESERVATION_RELEASE: Self = Self(0x15);
    pub const COPY: Self = Self(0x19);
}

/// One range of Dataset Management (NVM Command Set 1.0, figure 45).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DsmRange {
    /// Context attributes.
    pub cattr: u32,
    /// Length in logical blocks (1-based, unlike most counts).
    pub nlb: u32,
    /// The first logical block.
    pub slba: u64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);

/// The low half of a 64-bit value that is spread over two dwords.
const fn low(value: u64) -> u32 {
    value as u32
}

/// The high half.
const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

impl Command {
    fn admin(opcode: AdminOpcode, nsid: u32) -> Self {
        Self { opcode: opcode.0, nsid, ..Self::default() }
    }

    fn nvm(opcode: NvmOpcode, nsid: u32) -> Self {
        Self { opcode: opcode.0, nsid, ..Self::default() }
    }

    /// A command on `blocks` (1 to 65,536) logical blocks from `slba` on.
    fn blocks(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32) -> Self {
        debug_assert!((1..=65_536).contains(&blocks), "{blocks} blocks: 1 to 65536 fit the field");
        Self {
            cdw10: low(slba),
            cdw11: high(slba),
            cdw12: blocks.wrapping_sub(1) & 0xffff,
            ..Self::nvm(opcode, nsid)
        }
    }

    /// Identify (NVMe Base 2.0, 5.17).
    pub fn identify(cns: Cns, nsid: u32, cntid: u16) -> Self {
        Self { cdw10: u32::from(cns.0) | u32::from(cntid) << 16, ..Self::admin(AdminOpcode::IDENTIFY, nsid) }
    }

    /// Get Log Page (5.16): `bytes` bytes from `offset` on, both multiples of 4. With `rae` the event that the page belongs to stays reported.
    pub fn get_log_page(lid: LogId, nsid: u32, bytes: usize, offset: u64, rae: bool) -> Self {
        debug_assert!(bytes >= 4 && bytes.is_multiple_of(4), "{bytes} bytes of a log: a multiple of 4");
        let numd_z = ((bytes / 4) as u32).wrapping_sub(1);
        Self {
            cdw10: u32::from(lid.0) | u32::from(rae) << 15 | (numd_z & 0xffff) << 16,
            cdw11: numd_z >> 16,
            cdw12: low(offset),
            cdw13: high(offset),
            ..Self::admin(AdminOpcode::GET_LOG_PAGE, nsid)
        }
    }

    /// Get Features (5.15). `sel`: 0 current, 1 default, 2 saved, 3 supported capabilities.
    pub fn get_features(fid: FeatureId, sel: u8, nsid: u32) -> Self {
        Self {
            cdw10: u32::from(fid.0) | u32::from(sel & 7) << 8,
            ..Self::admin(AdminOpcode::GET_FEATURES, nsid)
        }
    }

    /// Set Features (5.27) with its value in dword 11.
    pub fn set_features(fid: FeatureId, save: bool, nsid: u32, cdw11: u32) -> Self {
        let cdw10 = u32::from(fid.0) | u32::from(save) << 31;
        Self { cdw10, cdw11, ..Self::admin(AdminOpcode::SET_FEATURES, nsid) }
    }

    /// Create I/O Completion Queue (5.5), physically contiguous, of `entries` (2 to 65,536); interrupts by vector `iv`, or none. The caller sets `prp1`.
    pub fn create_io_cq(qid: u16, entries: u32, iv: Option<u16>) -> Self {
        const CONTIGUOUS: u32 = 1;
        const INTERRUPTS: u32 = 1 << 1;
        let interrupts = iv.map_or(0, |iv| INTERRUPTS | u32::from(iv) << 16);
        Self {
            cdw10: u32::from(qid) | entries.wrapping_sub(1) << 16,
            cdw11: CONTIGUOUS | interrupts,
            ..Self::admin(AdminOpcode::CREATE_IO_CQ, 0)
        }
    }

    /// Create I/O Submission Queue (5.6), physically contiguous, of `entries` (2 to 65,536), with priority `qprio` (0 to 3). The caller sets `prp1`.
    pub fn create_io_sq(qid: u16, cqid: u16, entries: u32, qprio: u8) -> Self {
        const CONTIGUOUS: u32 = 1;
        Self {
            cdw10: u32::from(qid) | entries.wrapping_sub(1) << 16,
            cdw11: CONTIGUOUS | u32::from(qprio & 3) << 1 | u32::from(cqid) << 16,
            ..Self::admin(AdminOpcode::CREATE_IO_SQ, 0)
        }
    }

    /// Delete I/O Submission Queue (5.8).
    pub fn delete_io_sq(qid: u16) -> Self {
        Self { cdw10: qid.into(), ..Self::admin(AdminOpcode::DELETE_IO_SQ, 0) }
    }

    /// Delete I/O Completion Queue (5.7).
    pub fn delete_io_cq(qid: u16) -> Self {
        Self { cdw10: qid.into(), ..Self::admin(AdminOpcode::DELETE_IO_CQ, 0) }
    }

    /// Abort (5.1) of command `cid` on submission queue `sqid`.
    pub fn abort(sqid: u16, cid: u16) -> Self {
        Self { cdw10: u32::from(sqid) | u32::from(cid) << 16, ..Self::admin(AdminOpcode::ABORT, 0) }
    }

    /// Asynchronous Event Request (5.2).
    pub fn async_event_request() -> Self {
        Self::admin(AdminOpcode::ASYNC_EVENT_REQUEST, 0)
    }

    /// Format NVM (5.14) with LBA format `lbaf` (0 to 63) and secure erase setting `ses` (0 to 2); no metadata, no protection.
    pub fn format_nvm(nsid: u32, lbaf: u8, ses: u8) -> Self {
        let lbaf = u32::from(lbaf);
        Self {
            cdw10: lbaf & 0xf | (lbaf >> 4 & 3) << 12 | u32::from(ses & 7) << 9,
            ..Self::admin(AdminOpcode::FORMAT_NVM, nsid)
        }
    }

    /// Namespace Attachment (5.20); its data is a controller list.
    pub fn namespace_attachment(nsid: u32, attach: bool) -> Self {
        Self { cdw10: u32::from(!attach), ..Self::admin(AdminOpcode::NAMESPACE_ATTACHMENT, nsid) }
    }

    /// Read (NVM Command Set 1.0, 3.2.4) of `blocks` (1 to 65,536).
    pub fn read(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::READ, nsid, slba, blocks)
    }

    /// Write (3.2.6) of `blocks` (1 to 65,536).
    pub fn write(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::WRITE, nsid, slba, blocks)
    }

    /// Compare (3.2.1) of `blocks` (1 to 65,536).
    pub fn compare(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::COMPARE, nsid, slba, blocks)
    }

    /// Verify (3.2.5) of `blocks` (1 to 65,536).
    pub fn verify(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::VERIFY, nsid, slba, blocks)
    }

    /// Write Zeroes (3.2.8) of `blocks` (1 to 65,536), deallocating them if asked to.
    pub fn write_zeroes(nsid: u32, slba: u64, blocks: u32, deallocate: bool) -> Self {
        let mut command = Self::blocks(NvmOpcode::WRITE_ZEROES, nsid, slba, blocks);
        command.cdw12 |= u32::from(deallocate) << 25;
        command
    }

    /// Flush (NVMe Base 2.0, 7.1).
    pub fn flush(nsid: u32) -> Self {
        Self::nvm(NvmOpcode::FLUSH, nsid)
    }

    /// Dataset Management (NVM Command Set 1.0, 3.2.3) with `ranges` (1 to 256) of [`DsmRange`] as its data.
    pub fn dataset_management(nsid: u32, ranges: u32, deallocate: bool) -> Self {
        Self {
            cdw10: ranges.wrapping_sub(1) & 0xff,
            cdw11: u32::from(deallocate) << 2,
            ..Self::nvm(NvmOpcode::DATASET_MANAGEMENT, nsid)
        }
    }
}
