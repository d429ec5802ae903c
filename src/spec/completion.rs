//! The completion queue entry. NVMe Base 2.0, 3.3.3.2.
#![forbid(unsafe_code)]

use super::status::Status;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A completion queue entry, 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Completion {
    /// Command specific.
    pub dw0: u32,
    /// Command specific.
    pub dw1: u32,
    /// Submission queue head: how far the controller has fetched.
    pub sqhd: u16,
    /// The submission queue's identifier.
    pub sqid: u16,
    /// The command's identifier.
    pub cid: u16,
    /// The status field, with the phase tag in bit 0.
    pub status: u16,
}

const _: () = assert!(size_of::<Completion>() == 16);

impl Completion {
    /// The status, without the phase tag.
    #[inline]
    pub const fn status(&self) -> Status {
        Status(self.status >> 1)
    }

    /// The phase tag.
    #[inline]
    pub const fn phase(&self) -> bool {
        self.status & 1 != 0
    }
}
