//! The submission queue entry, the opcodes, and a constructor for each command. NVMe Base 2.0, 3.3.3.1 and 5; NVM Command Set 1.0, 3.
//!
//! A constructor fills everything but the command identifier and the data pointer: those belong to the queue.
#![forbid(unsafe_code)]

use super::codes::codes;
use super::feature::FeatureId;
use super::identify::{Cns, Csi};
use super::log::LogId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

codes! {
    /// An opcode of the admin command set (NVMe Base 2.0, 5).
    AdminOpcode, vendor 0xc0;
    DELETE_IO_SQ = 0x00, "Delete I/O Submission Queue";
    CREATE_IO_SQ = 0x01, "Create I/O Submission Queue";
    GET_LOG_PAGE = 0x02, "Get Log Page";
    DELETE_IO_CQ = 0x04, "Delete I/O Completion Queue";
    CREATE_IO_CQ = 0x05, "Create I/O Completion Queue";
    IDENTIFY = 0x06, "Identify";
    ABORT = 0x08, "Abort";
    SET_FEATURES = 0x09, "Set Features";
    GET_FEATURES = 0x0a, "Get Features";
    ASYNC_EVENT_REQUEST = 0x0c, "Asynchronous Event Request";
    NAMESPACE_MANAGEMENT = 0x0d, "Namespace Management";
    FIRMWARE_COMMIT = 0x10, "Firmware Commit";
    FIRMWARE_IMAGE_DOWNLOAD = 0x11, "Firmware Image Download";
    DEVICE_SELF_TEST = 0x14, "Device Self-test";
    NAMESPACE_ATTACHMENT = 0x15, "Namespace Attachment";
    KEEP_ALIVE = 0x18, "Keep Alive";
    DIRECTIVE_SEND = 0x19, "Directive Send";
    DIRECTIVE_RECEIVE = 0x1a, "Directive Receive";
    VIRTUALIZATION_MANAGEMENT = 0x1c, "Virtualization Management";
    NVME_MI_SEND = 0x1d, "NVMe-MI Send";
    NVME_MI_RECEIVE = 0x1e, "NVMe-MI Receive";
    CAPACITY_MANAGEMENT = 0x20, "Capacity Management";
    LOCKDOWN = 0x24, "Lockdown";
    DOORBELL_BUFFER_CONFIG = 0x7c, "Doorbell Buffer Config";
    FABRICS = 0x7f, "Fabrics";
    FORMAT_NVM = 0x80, "Format NVM";
    SECURITY_SEND = 0x81, "Security Send";
    SECURITY_RECEIVE = 0x82, "Security Receive";
    SANITIZE = 0x84, "Sanitize";
    GET_LBA_STATUS = 0x86, "Get LBA Status";
}

codes! {
    /// An opcode of the NVM command set, and of the I/O commands that all command sets share (NVM Command Set 1.0, 3).
    NvmOpcode, vendor 0x80;
    FLUSH = 0x00, "Flush";
    WRITE = 0x01, "Write";
    READ = 0x02, "Read";
    WRITE_UNCORRECTABLE = 0x04, "Write Uncorrectable";
    COMPARE = 0x05, "Compare";
    WRITE_ZEROES = 0x08, "Write Zeroes";
    DATASET_MANAGEMENT = 0x09, "Dataset Management";
    VERIFY = 0x0c, "Verify";
    RESERVATION_REGISTER = 0x0d, "Reservation Register";
    RESERVATION_REPORT = 0x0e, "Reservation Report";
    RESERVATION_ACQUIRE = 0x11, "Reservation Acquire";
    RESERVATION_RELEASE = 0x15, "Reservation Release";
    COPY = 0x19, "Copy";
}

/// Which way a command's data goes: bits 1:0 of every opcode (NVMe Base 2.0, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataTransfer {
    /// No data.
    None,
    /// From host to controller.
    HostToController,
    /// From controller to host.
    ControllerToHost,
    /// In both directions.
    Bidirectional,
}

impl DataTransfer {
    /// What bits 1:0 of `opcode` say. A device may have its own mind about vendor specific opcodes.
    pub const fn of(opcode: u8) -> Self {
        match opcode & 0b11 {
            0 => Self::None,
            1 => Self::HostToController,
            2 => Self::ControllerToHost,
            _ => Self::Bidirectional,
        }
    }
}

/// A submission queue entry, 64 bytes (NVMe Base 2.0, 3.3.3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Command {
    /// Opcode: an [`AdminOpcode`] or a [`NvmOpcode`].
    pub opcode: u8,
    /// FUSE in bits 1:0, PSDT in bits 7:6 (0: PRPs).
    pub flags: u8,
    /// Command identifier; the queue's.
    pub cid: u16,
    /// Namespace identifier.
    pub nsid: u32,
    /// Command specific.
    pub cdw2: u32,
    /// Command specific.
    pub cdw3: u32,
    /// Metadata pointer.
    pub mptr: u64,
    /// The first PRP entry; the queue's.
    pub prp1: u64,
    /// The second PRP entry or the PRP list; the queue's.
    pub prp2: u64,
    /// Command specific.
    pub cdw10: u32,
    /// Command specific.
    pub cdw11: u32,
    /// Command specific.
    pub cdw12: u32,
    /// Command specific.
    pub cdw13: u32,
    /// Command specific.
    pub cdw14: u32,
    /// Command specific.
    pub cdw15: u32,
}

const _: () = assert!(size_of::<Command>() == 64);

/// FUA, bit 30 of dword 12 of reads and writes.
const FORCE_UNIT_ACCESS: u32 = 1 << 30;
/// LR, bit 31 of dword 12 of reads and writes.
const LIMITED_RETRY: u32 = 1 << 31;

/// A count of 1 to 65,536 as a zero-based field of 16 bits. Zero is a caller's bug.
const fn zero_based(count: u32) -> u32 {
    debug_assert!(count >= 1 && count <= 0x1_0000, "a count must be 1 to 65536");
    count.wrapping_sub(1) & 0xffff
}

/// All of the namespaces (NVMe Base 2.0, 3.2.1.2).
pub const BROADCAST_NSID: u32 = u32::MAX;

impl Command {
    /// An admin command of which nothing but opcode and namespace is filled.
    pub const fn admin(opcode: AdminOpcode, nsid: u32) -> Self {
        Self::with_opcode(opcode.0, nsid)
    }

    /// An I/O command of which nothing but opcode and namespace is filled.
    pub const fn nvm(opcode: NvmOpcode, nsid: u32) -> Self {
        Self::with_opcode(opcode.0, nsid)
    }

    const fn with_opcode(opcode: u8, nsid: u32) -> Self {
        Self {
            opcode,
            flags: 0,
            cid: 0,
            nsid,
            cdw2: 0,
            cdw3: 0,
            mptr: 0,
            prp1: 0,
            prp2: 0,
            cdw10: 0,
            cdw11: 0,
            cdw12: 0,
            cdw13: 0,
            cdw14: 0,
            cdw15: 0,
        }
    }

    /// Identify (NVMe Base 2.0, 5.17): 4,096 bytes to the host. `cntid` is 0 where `cns` does not use it.
    pub const fn identify(cns: Cns, nsid: u32, cntid: u16) -> Self {
        Self { cdw10: cns.0 as u32 | (cntid as u32) << 16, ..Self::admin(AdminOpcode::IDENTIFY, nsid) }
    }

    /// Identify of what belongs to one I/O command set (NVMe Base 2.0, 5.17).
    pub const fn identify_csi(cns: Cns, csi: Csi, nsid: u32) -> Self {
        Self { cdw11: (csi.0 as u32) << 24, ..Self::identify(cns, nsid, 0) }
    }

    /// Get Log Page (NVMe Base 2.0, 5.16): `bytes` bytes of `lid` from byte `offset` on, both multiples of 4. With `rae` the page is only looked at:
    /// the event that it belongs to is not cleared.
    pub const fn get_log_page(lid: LogId, nsid: u32, bytes: usize, offset: u64, rae: bool) -> Self {
        debug_assert!(
            bytes >= 4 && bytes.is_multiple_of(4) && offset.is_multiple_of(4),
            "log pages are read in dwords"
        );
        let numd_z = (bytes / 4).wrapping_sub(1) as u32;
        Self {
            cdw10: lid.0 as u32 | (rae as u32) << 15 | numd_z << 16,
            cdw11: numd_z >> 16,
            cdw12: offset as u32,
            cdw13: (offset >> 32) as u32,
            ..Self::admin(AdminOpcode::GET_LOG_PAGE, nsid)
        }
    }

    /// Get Features (NVMe Base 2.0, 5.15). `sel`: 0 current, 1 default, 2 saved, 3 capabilities.
    pub const fn get_features(fid: FeatureId, sel: u8, nsid: u32) -> Self {
        Self {
            cdw10: fid.0 as u32 | (sel as u32 & 0b111) << 8,
            ..Self::admin(AdminOpcode::GET_FEATURES, nsid)
        }
    }

    /// Set Features (NVMe Base 2.0, 5.27). With `save` the value survives power cycles and resets.
    pub const fn set_features(fid: FeatureId, save: bool, nsid: u32, cdw11: u32) -> Self {
        Self {
            cdw10: fid.0 as u32 | (save as u32) << 31,
            cdw11,
            ..Self::admin(AdminOpcode::SET_FEATURES, nsid)
        }
    }

    /// Create I/O Completion Queue (NVMe Base 2.0, 5.4) of 2 to 65,536 entries, physically contiguous. Interrupts are enabled with a vector.
    pub const fn create_io_cq(qid: u16, entries: u32, iv: Option<u16>) -> Self {
        let interrupt = match iv {
            Some(vector) => (vector as u32) << 16 | 1 << 1,
            None => 0,
        };
        Self {
            cdw10: qid as u32 | zero_based(entries) << 16,
            cdw11: interrupt | 1,
            ..Self::admin(AdminOpcode::CREATE_IO_CQ, 0)
        }
    }

    /// Create I/O Submission Queue (NVMe Base 2.0, 5.5) of 2 to 65,536 entries, physically contiguous. `qprio`: 0 urgent to 3 low, used with weighted
    /// round robin only.
    pub const fn create_io_sq(qid: u16, cqid: u16, entries: u32, qprio: u8) -> Self {
        Self {
            cdw10: qid as u32 | zero_based(entries) << 16,
            cdw11: (cqid as u32) << 16 | (qprio as u32 & 0b11) << 1 | 1,
            ..Self::admin(AdminOpcode::CREATE_IO_SQ, 0)
        }
    }

    /// Delete I/O Submission Queue (NVMe Base 2.0, 5.7).
    pub const fn delete_io_sq(qid: u16) -> Self {
        Self { cdw10: qid as u32, ..Self::admin(AdminOpcode::DELETE_IO_SQ, 0) }
    }

    /// Delete I/O Completion Queue (NVMe Base 2.0, 5.6).
    pub const fn delete_io_cq(qid: u16) -> Self {
        Self { cdw10: qid as u32, ..Self::admin(AdminOpcode::DELETE_IO_CQ, 0) }
    }

    /// Abort (NVMe Base 2.0, 5.1) of command `cid` of submission queue `sqid`. Bit 0 of the answer's dword 0 is 0 when it was aborted.
    pub const fn abort(sqid: u16, cid: u16) -> Self {
        Self { cdw10: sqid as u32 | (cid as u32) << 16, ..Self::admin(AdminOpcode::ABORT, 0) }
    }

    /// Asynchronous Event Request (NVMe Base 2.0, 5.2).
    pub const fn async_event_request() -> Self {
        Self::admin(AdminOpcode::ASYNC_EVENT_REQUEST, 0)
    }

    /// Keep Alive (NVMe Base 2.0, 5.18).
    pub const fn keep_alive() -> Self {
        Self::admin(AdminOpcode::KEEP_ALIVE, 0)
    }

    /// Format NVM (NVMe Base 2.0, 5.14) with LBA format `lbaf` (0 to 63), no metadata settings and no protection information. `ses`: 0 no secure erase,
    /// 1 user data erase, 2 cryptographic erase.
    pub const fn format_nvm(nsid: u32, lbaf: u8, ses: u8) -> Self {
        let (low, high) = (lbaf as u32 & 0xf, (lbaf as u32 >> 4) & 0b11);
        Self {
            cdw10: low | (ses as u32 & 0b111) << 9 | high << 12,
            ..Self::admin(AdminOpcode::FORMAT_NVM, nsid)
        }
    }

    /// Namespace Attachment (NVMe Base 2.0, 5.20): attaches to, or detaches from, the controllers of the list of 4,096 bytes that it transfers.
    pub const fn namespace_attachment(nsid: u32, attach: bool) -> Self {
        Self { cdw10: !attach as u32, ..Self::admin(AdminOpcode::NAMESPACE_ATTACHMENT, nsid) }
    }

    /// Firmware Image Download (NVMe Base 2.0, 5.13): `bytes` bytes of the image from byte `offset` on, both multiples of 4.
    pub const fn firmware_image_download(bytes: u32, offset: u32) -> Self {
        debug_assert!(
            bytes >= 4 && bytes.is_multiple_of(4) && offset.is_multiple_of(4),
            "firmware is sent in dwords"
        );
        Self {
            cdw10: (bytes / 4).wrapping_sub(1),
            cdw11: offset / 4,
            ..Self::admin(AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD, 0)
        }
    }

    /// Firmware Commit (NVMe Base 2.0, 5.12). `slot`: 0 lets the controller choose; `action` as the specification numbers it.
    pub const fn firmware_commit(slot: u8, action: u8) -> Self {
        let (slot, action) = (slot as u32 & 0b111, action as u32 & 0b111);
        Self { cdw10: slot | action << 3, ..Self::admin(AdminOpcode::FIRMWARE_COMMIT, 0) }
    }

    /// Device Self-test (NVMe Base 2.0, 5.8). `stc`: 1 short, 2 extended, 0xf aborts one.
    pub const fn device_self_test(nsid: u32, stc: u8) -> Self {
        Self { cdw10: stc as u32 & 0xf, ..Self::admin(AdminOpcode::DEVICE_SELF_TEST, nsid) }
    }

    /// Read (NVM Command Set 1.0, 3.2.4): 1 to 65,536 blocks.
    #[inline]
    pub const fn read(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::READ, nsid, slba, blocks)
    }

    /// Write (NVM Command Set 1.0, 3.2.6): 1 to 65,536 blocks.
    #[inline]
    pub const fn write(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::WRITE, nsid, slba, blocks)
    }

    /// Compare (NVM Command Set 1.0, 3.2.1): 1 to 65,536 blocks.
    #[inline]
    pub const fn compare(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::COMPARE, nsid, slba, blocks)
    }

    /// Verify (NVM Command Set 1.0, 3.2.5): 1 to 65,536 blocks, no data.
    pub const fn verify(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::VERIFY, nsid, slba, blocks)
    }

    /// Write Uncorrectable (NVM Command Set 1.0, 3.2.7): 1 to 65,536 blocks, no data.
    pub const fn write_uncorrectable(nsid: u32, slba: u64, blocks: u32) -> Self {
        Self::blocks(NvmOpcode::WRITE_UNCORRECTABLE, nsid, slba, blocks)
    }

    /// Write Zeroes (NVM Command Set 1.0, 3.2.8): 1 to 65,536 blocks, no data. With `deallocate` the controller should deallocate them.
    pub const fn write_zeroes(nsid: u32, slba: u64, blocks: u32, deallocate: bool) -> Self {
        let command = Self::blocks(NvmOpcode::WRITE_ZEROES, nsid, slba, blocks);
        Self { cdw12: command.cdw12 | (deallocate as u32) << 25, ..command }
    }

    #[inline]
    const fn blocks(opcode: NvmOpcode, nsid: u32, slba: u64, blocks: u32) -> Self {
        Self {
            cdw10: slba as u32,
            cdw11: (slba >> 32) as u32,
            cdw12: zero_based(blocks),
            ..Self::nvm(opcode, nsid)
        }
    }

    /// The same with Force Unit Access: the data is on the medium when it completes. For reads, writes, compares and write zeroes.
    #[must_use]
    pub const fn with_fua(self) -> Self {
        Self { cdw12: self.cdw12 | FORCE_UNIT_ACCESS, ..self }
    }

    /// The same with Limited Retry: the controller should try less hard. For reads, writes, compares and write zeroes.
    #[must_use]
    pub const fn with_limited_retry(self) -> Self {
        Self { cdw12: self.cdw12 | LIMITED_RETRY, ..self }
    }

    /// The starting LBA of a command that has one in dwords 10 and 11.
    pub const fn slba(&self) -> u64 {
        (self.cdw11 as u64) << 32 | self.cdw10 as u64
    }

    /// The number of blocks, 0-based, of a command that has one in dword 12.
    pub const fn nlb_z(&self) -> u16 {
        self.cdw12 as u16
    }

    /// Flush (NVMe Base 2.0, 7.1).
    pub const fn flush(nsid: u32) -> Self {
        Self::nvm(NvmOpcode::FLUSH, nsid)
    }

    /// Dataset Management (NVM Command Set 1.0, 3.2.3) of 1 to 256 [`DsmRange`]s, which it transfers. With `deallocate` their blocks are
    /// deallocated.
    pub const fn dataset_management(nsid: u32, ranges: u32, deallocate: bool) -> Self {
        debug_assert!(ranges >= 1 && ranges <= 256, "Dataset Management takes 1 to 256 ranges");
        Self {
            cdw10: ranges.wrapping_sub(1) & 0xff,
            cdw11: (deallocate as u32) << 2,
            ..Self::nvm(NvmOpcode::DATASET_MANAGEMENT, nsid)
        }
    }
}

impl Command {
    /// Copy (NVM Command Set 1.0, 3.2.2) of 1 to 256 [`CopyRange`]s, which it transfers, to block `target` on.
    pub const fn copy(nsid: u32, target: u64, ranges: u32) -> Self {
        debug_assert!(ranges >= 1 && ranges <= 256, "Copy takes 1 to 256 ranges");
        Self {
            cdw10: target as u32,
            cdw11: (target >> 32) as u32,
            cdw12: ranges.wrapping_sub(1) & 0xff,
            ..Self::nvm(NvmOpcode::COPY, nsid)
        }
    }

    /// Get LBA Status (NVM Command Set 1.0, 4.1.2): `bytes` bytes, a multiple of 4, about `blocks` blocks from `slba` on (0: all that follow). With `scan` the
    /// controller looks; otherwise it says what it knows.
    pub const fn get_lba_status(nsid: u32, slba: u64, blocks: u16, bytes: usize, scan: bool) -> Self {
        debug_assert!(bytes >= 4 && bytes.is_multiple_of(4), "LBA status is read in dwords");
        let action = if scan { 0x10 } else { 0x11 };
        Self {
            cdw10: slba as u32,
            cdw11: (slba >> 32) as u32,
            cdw12: (bytes / 4).wrapping_sub(1) as u32,
            cdw13: blocks as u32 | action << 24,
            ..Self::admin(AdminOpcode::GET_LBA_STATUS, nsid)
        }
    }
}

/// A source range of Copy in format 0, 32 bytes (NVM Command Set 1.0, 3.2.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CopyRange {
    /// Reserved.
    pub rsvd0: [u8; 8],
    /// Starting LBA.
    pub slba: u64,
    /// Length in logical blocks, 0-based.
    pub nlb_z: u16,
    /// Reserved.
    pub rsvd18: [u8; 6],
    /// Expected initial reference tag.
    pub eilbrt: u32,
    /// Expected application tag.
    pub elbat: u16,
    /// Expected application tag mask.
    pub elbatm: u16,
}

const _: () = assert!(size_of::<CopyRange>() == 32);

/// A range of Dataset Management, 16 bytes (NVM Command Set 1.0, 3.2.3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct DsmRange {
    /// Context attributes: hints, 0 for none.
    pub cattr: u32,
    /// Length in logical blocks; this one is not 0-based.
    pub nlb: u32,
    /// Starting LBA.
    pub slba: u64,
}

const _: () = assert!(size_of::<DsmRange>() == 16);
