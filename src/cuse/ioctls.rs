//! The ioctls of Linux's NVMe nodes, and of block devices: numbers and structures (Linux, `uapi/linux/nvme_ioctl.h` and `uapi/linux/fs.h`). What they do is not
//! known here.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

const fn ioctl(direction: u32, kind: u8, number: u8, bytes: u32) -> u32 {
    direction << 30 | bytes << 16 | (kind as u32) << 8 | number as u32
}

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

/// The identifier of the node's namespace.
pub const ID: u32 = ioctl(NONE, b'N', 0x40, 0);
/// An admin command.
pub const ADMIN_CMD: u32 = ioctl(READ | WRITE, b'N', 0x41, 72);
/// A read, write or compare.
pub const SUBMIT_IO: u32 = ioctl(WRITE, b'N', 0x42, 48);
/// The same from a 32-bit program, whose structure has no padding at its end.
pub const SUBMIT_IO_32: u32 = ioctl(WRITE, b'N', 0x42, 44);
/// An I/O command.
pub const IO_CMD: u32 = ioctl(READ | WRITE, b'N', 0x43, 72);
/// A controller reset.
pub const RESET: u32 = ioctl(NONE, b'N', 0x44, 0);
/// A subsystem reset.
pub const SUBSYS_RESET: u32 = ioctl(NONE, b'N', 0x45, 0);
/// Reads the namespaces anew.
pub const RESCAN: u32 = ioctl(NONE, b'N', 0x46, 0);
/// An admin command with a result of 64 bits.
pub const ADMIN64_CMD: u32 = ioctl(READ | WRITE, b'N', 0x47, 80);
/// An I/O command with a result of 64 bits.
pub const IO64_CMD: u32 = ioctl(READ | WRITE, b'N', 0x48, 80);
/// The same with a vector of buffers.
pub const IO64_CMD_VEC: u32 = ioctl(READ | WRITE, b'N', 0x49, 80);

/// Whether the device is read-only.
pub const BLKROGET: u32 = ioctl(NONE, 0x12, 94, 0);
/// Reads the partition table anew.
pub const BLKRRPART: u32 = ioctl(NONE, 0x12, 95, 0);
/// The size in units of 512 bytes, as a long.
pub const BLKGETSIZE: u32 = ioctl(NONE, 0x12, 96, 0);
/// Flushes the kernel's buffers.
pub const BLKFLSBUF: u32 = ioctl(NONE, 0x12, 97, 0);
/// The logical block size.
pub const BLKSSZGET: u32 = ioctl(NONE, 0x12, 104, 0);
/// The kernel's block size is set.
pub const BLKBSZSET: u32 = ioctl(WRITE, 0x12, 113, 8);
/// The same from a 32-bit program.
pub const BLKBSZSET_32: u32 = ioctl(WRITE, 0x12, 113, 4);
/// The size in bytes.
pub const BLKGETSIZE64: u32 = ioctl(READ, 0x12, 114, 8);
/// The same from a 32-bit program.
pub const BLKGETSIZE64_32: u32 = ioctl(READ, 0x12, 114, 4);
/// The physical block size.
pub const BLKPBSZGET: u32 = ioctl(NONE, 0x12, 123, 0);

/// `struct nvme_user_io`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct UserIo {
    /// Read, Write or Compare.
    pub opcode: u8,
    /// Must be 0.
    pub flags: u8,
    /// Bits 31:16 of dword 12.
    pub control: u16,
    /// Blocks, 0-based.
    pub nblocks_z: u16,
    /// Nothing.
    pub rsvd: u16,
    /// The caller's metadata.
    pub metadata: u64,
    /// The caller's data.
    pub addr: u64,
    /// The first block.
    pub slba: u64,
    /// Dword 13.
    pub dsmgmt: u32,
    /// Dword 14.
    pub reftag: u32,
    /// Dword 15, low.
    pub apptag: u16,
    /// Dword 15, high.
    pub appmask: u16,
    /// Padding, which 32-bit programs do not have.
    pub padding: u32,
}

const _: () = assert!(size_of::<UserIo>() == 48);
/// Bytes of a [`UserIo`] without its padding.
pub const USER_IO_32_BYTES: usize = 44;

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct PassthruCmd {
    /// The command's.
    pub opcode: u8,
    /// Must be 0.
    pub flags: u8,
    /// Nothing.
    pub rsvd1: u16,
    /// The command's.
    pub nsid: u32,
    /// The command's.
    pub cdw2: u32,
    /// The command's.
    pub cdw3: u32,
    /// The caller's metadata.
    pub metadata: u64,
    /// The caller's data.
    pub addr: u64,
    /// Bytes of metadata.
    pub metadata_len: u32,
    /// Bytes of data.
    pub data_len: u32,
    /// Dwords 10 to 15.
    pub cdw10_15: [u32; 6],
    /// How long it may take; 0 for the usual.
    pub timeout_ms: u32,
    /// Dword 0 of the completion.
    pub result: u32,
}

const _: () = assert!(size_of::<PassthruCmd>() == 72);
const _: () = assert!(std::mem::offset_of!(PassthruCmd, result) == 68);

/// `struct nvme_passthru_cmd64`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct PassthruCmd64 {
    /// The command's.
    pub opcode: u8,
    /// Must be 0.
    pub flags: u8,
    /// Nothing.
    pub rsvd1: u16,
    /// The command's.
    pub nsid: u32,
    /// The command's.
    pub cdw2: u32,
    /// The command's.
    pub cdw3: u32,
    /// The caller's metadata.
    pub metadata: u64,
    /// The caller's data, or its vector of buffers.
    pub addr: u64,
    /// Bytes of metadata.
    pub metadata_len: u32,
    /// Bytes of data, or entries of the vector.
    pub data_len: u32,
    /// Dwords 10 to 15.
    pub cdw10_15: [u32; 6],
    /// How long it may take; 0 for the usual.
    pub timeout_ms: u32,
    /// Nothing.
    pub rsvd2: u32,
    /// Dwords 0 and 1 of the completion.
    pub result: u64,
}

const _: () = assert!(size_of::<PassthruCmd64>() == 80);
const _: () = assert!(std::mem::offset_of!(PassthruCmd64, result) == 72);

const _: () = assert!(ADMIN_CMD == 0xc048_4e41 && IO64_CMD_VEC == 0xc050_4e49 && SUBMIT_IO == 0x4030_4e42);
const _: () = assert!(BLKGETSIZE64 == 0x8008_1272 && BLKBSZSET == 0x4008_1271 && BLKSSZGET == 0x1268);
