//! Descriptors and the caller's memory: the only `unsafe` of `cuse`. What the messages mean is not known here.

use super::wire::IoVec;
use rustix::io::Errno;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Memory ranges of one call (UIO_MAXIOV).
const MAX_RANGES: usize = 1024;

/// A line to the kernel that keeps messages apart: /dev/cuse, or a socket pair of that kind in tests. Never blocks.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// What came of sending a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It was taken, or nobody waits for it any more.
    Done,
    /// There is no room; again later.
    Full,
    /// The other side takes no such message.
    Refused(Errno),
    /// There is no other side.
    Gone,
}

impl Channel {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&fd)?;
        rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// One message, if there is one: its length. An error means that the other side is gone.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        loop {
            return match rustix::io::read(&self.0, &mut *buffer) {
                Ok(0) => Err(Errno::NODEV),
                Ok(len) => Ok(Some(len)),
                Err(Errno::AGAIN) => Ok(None),
                // The kernel took the request back: its caller is dead. And signals are no matter here.
                Err(Errno::INTR | Errno::NOENT) => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Sends one message.
    pub(super) fn send(&self, parts: &[&[u8]]) -> Sent {
        let parts: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        loop {
            return match rustix::io::writev(&self.0, &parts) {
                Err(Errno::INTR) => continue,
                // Or the request was ended by the kernel itself.
                Ok(_) | Err(Errno::NOENT) => Sent::Done,
                Err(Errno::AGAIN | Errno::NOBUFS) => Sent::Full,
                Err(Errno::NODEV | Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::BADF) => {
                    Sent::Gone
                }
                Err(error) => Sent::Refused(error),
            };
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A thread that is blocked in its one ioctl, and stays so until that is answered: so its number is nobody else's meanwhile.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) u32);

impl Caller {
    /// Fills `bytes` from the caller's memory. ENOMEM if that is not permitted, EFAULT if there is no such memory.
    pub(super) fn read(self, ranges: &[IoVec], bytes: &mut [u8]) -> Result<(), Errno> {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.transfer(ranges, bytes.len(), |pid, remote| {
            // SAFETY: the one local range is `bytes`, exclusively borrowed for the call; the remote ones are read by the kernel, which checks them, in
            // the other process; both counts are those of the arrays.
            unsafe {
                libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
            }
        })
    }

    /// Puts `bytes` into the caller's memory. Errors as for [`Caller::read`].
    pub(super) fn write(self, ranges: &[IoVec], bytes: &[u8]) -> Result<(), Errno> {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.transfer(ranges, bytes.len(), |pid, remote| {
            // SAFETY: the kernel only reads the one local range, which is `bytes`, borrowed for the call; the remote ones are written by the kernel,
            // which checks them, in the other process, whose thread has passed them to ioctl(2) for that; both counts are those of the arrays.
            unsafe {
                libc::process_vm_writev(pid, &raw const local, 1, remote.as_ptr(), remote.len() as u64, 0)
            }
        })
    }

    fn transfer(
        self,
        ranges: &[IoVec],
        len: usize,
        call: impl FnOnce(libc::pid_t, &[libc::iovec]) -> isize,
    ) -> Result<(), Errno> {
        let pid = i32::try_from(self.0).ok().filter(|pid| *pid > 0).ok_or(Errno::NOMEM)?;
        if ranges.len() > MAX_RANGES {
            return Err(Errno::INVAL);
        }
        let remote: Vec<_> = ranges
            .iter()
            .map(|range| libc::iovec {
                iov_base: std::ptr::without_provenance_mut(range.base as usize),
                iov_len: range.len as usize,
            })
            .collect();
        match usize::try_from(call(pid, &remote)) {
            Ok(done) if done == len => Ok(()),
            // It ends where the memory does.
            Ok(_) => Err(Errno::FAULT),
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EFAULT) => Err(Errno::FAULT),
                _ => Err(Errno::NOMEM),
            },
        }
    }
}
