//! The messages between the kernel's CUSE and its server, as they lie in memory (Linux, `uapi/linux/fuse.h`, protocol 7.31 and up). No behaviour lives here.
//!
//! Public, so that a test can stand in for the kernel: the server takes any descriptor that keeps messages apart.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What a message from the kernel asks for.
pub mod opcode {
    /// The node is opened.
    pub const OPEN: u32 = 14;
    /// Reads from it.
    pub const READ: u32 = 15;
    /// Writes to it.
    pub const WRITE: u32 = 16;
    /// The last descriptor of an open file is closed.
    pub const RELEASE: u32 = 18;
    /// Is written through.
    pub const FSYNC: u32 = 20;
    /// A descriptor is closed.
    pub const FLUSH: u32 = 25;
    /// The caller of a request was sent a signal. Not to be answered.
    pub const INTERRUPT: u32 = 36;
    /// The node goes. Not answered.
    pub const DESTROY: u32 = 38;
    /// An ioctl.
    pub const IOCTL: u32 = 39;
    /// Is ready for what?
    pub const POLL: u32 = 40;
    /// The first message: makes the node.
    pub const CUSE_INIT: u32 = 4096;
}

/// The protocol's major version.
pub const MAJOR: u32 = 7;
/// The minor version that the server speaks: the oldest in which everything here is as it is.
pub const MINOR: u32 = 31;
/// The server answers ioctls with what else it needs of the caller's memory.
pub const UNRESTRICTED_IOCTL: u32 = 1;

/// The caller is a program of another word size.
pub const IOCTL_COMPAT: u32 = 1 << 0;
/// Asks for the ioctl to be sent again, with these parts of the caller's memory.
pub const IOCTL_RETRY: u32 = 1 << 2;
/// The caller is a 32-bit program.
pub const IOCTL_32BIT: u32 = 1 << 3;

/// Memory ranges that one answer may ask for, in both directions together.
pub const MAX_IOVECS: usize = 256;
/// Bytes of the caller's memory that one ioctl can carry, in each direction: 32 pages, which nothing can raise.
pub const MAX_CARRIED: usize = 32 * 4096;

/// Starts each message from the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct InHeader {
    /// Of the whole message, in bytes.
    pub len: u32,
    /// One of [`opcode`].
    pub opcode: u32,
    /// What the answer names.
    pub unique: u64,
    /// Always 0 with CUSE.
    pub nodeid: u64,
    /// The caller's user.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// The calling thread; 0 if it is in a process that the server cannot see.
    pub pid: u32,
    /// Of extensions, in units of 8 bytes.
    pub total_extlen: u16,
    /// Nothing.
    pub padding: u16,
}

const _: () = assert!(size_of::<InHeader>() == 40);

/// Starts each answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct OutHeader {
    /// Of the whole answer, in bytes.
    pub len: u32,
    /// 0 or a negative error number, with which nothing else follows.
    pub error: i32,
    /// The message's.
    pub unique: u64,
}

const _: () = assert!(size_of::<OutHeader>() == 16);

/// The kernel's part of the first message.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct CuseInitIn {
    /// Protocol version.
    pub major: u32,
    /// Protocol version.
    pub minor: u32,
    /// Nothing.
    pub unused: u32,
    /// What the kernel can do: [`UNRESTRICTED_IOCTL`].
    pub flags: u32,
}

const _: () = assert!(size_of::<CuseInitIn>() == 16);

/// The answer to the first message, followed by `DEVNAME=name` and a zero byte.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct CuseInitOut {
    /// Protocol version.
    pub major: u32,
    /// Protocol version.
    pub minor: u32,
    /// Nothing.
    pub unused: u32,
    /// [`UNRESTRICTED_IOCTL`].
    pub flags: u32,
    /// Bytes of one read.
    pub max_read: u32,
    /// Bytes of one write.
    pub max_write: u32,
    /// Device number; 0 lets the kernel choose.
    pub dev_major: u32,
    /// Device number.
    pub dev_minor: u32,
    /// Nothing.
    pub spare: [u32; 10],
}

const _: () = assert!(size_of::<CuseInitOut>() == 72);

/// An open.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct OpenIn {
    /// As given to open(2).
    pub flags: u32,
    /// Of the protocol.
    pub open_flags: u32,
}

const _: () = assert!(size_of::<OpenIn>() == 8);

/// An open's answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct OpenOut {
    /// What the open file is called from now on.
    pub fh: u64,
    /// Of the protocol.
    pub open_flags: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<OpenOut>() == 16);

/// The end of an open file.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct ReleaseIn {
    /// The open file.
    pub fh: u64,
    /// As given to open(2).
    pub flags: u32,
    /// Of the protocol.
    pub release_flags: u32,
    /// Who held a lock.
    pub lock_owner: u64,
}

const _: () = assert!(size_of::<ReleaseIn>() == 24);

/// A signal for the caller of a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct InterruptIn {
    /// The request.
    pub unique: u64,
}

const _: () = assert!(size_of::<InterruptIn>() == 8);

/// An ioctl, followed by the bytes that were asked for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct IoctlIn {
    /// The open file.
    pub fh: u64,
    /// `IOCTL_COMPAT` and others.
    pub flags: u32,
    /// The ioctl's number.
    pub cmd: u32,
    /// Its argument.
    pub arg: u64,
    /// Bytes that follow.
    pub in_size: u32,
    /// Bytes that the answer may have.
    pub out_size: u32,
}

const _: () = assert!(size_of::<IoctlIn>() == 32);

/// A part of the caller's memory.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct IoVec {
    /// Its first byte.
    pub base: u64,
    /// Its length in bytes.
    pub len: u64,
}

const _: () = assert!(size_of::<IoVec>() == 16);

/// An ioctl's answer, followed by bytes for the caller, or, with [`IOCTL_RETRY`], by [`IoVec`]s.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct IoctlOut {
    /// What ioctl(2) returns.
    pub result: i32,
    /// [`IOCTL_RETRY`].
    pub flags: u32,
    /// Parts of memory to be sent.
    pub in_iovs: u32,
    /// Parts of memory that the next answer fills.
    pub out_iovs: u32,
}

const _: () = assert!(size_of::<IoctlOut>() == 16);

/// A poll.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct PollIn {
    /// The open file.
    pub fh: u64,
    /// For notifications.
    pub kh: u64,
    /// Of the protocol.
    pub flags: u32,
    /// What is waited for.
    pub events: u32,
}

const _: () = assert!(size_of::<PollIn>() == 24);

/// A poll's answer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
pub struct PollOut {
    /// What there is.
    pub revents: u32,
    /// Nothing.
    pub padding: u32,
}

const _: () = assert!(size_of::<PollOut>() == 8);
