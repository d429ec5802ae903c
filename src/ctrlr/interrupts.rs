//! Interrupts: which vector a queue signals, and the sleep of a poller or queue pair that waits for one instead of spinning.
//!
//! Vector 0 belongs to the poller (admin and external queue pair), the others to one queue pair each: two threads that share an eventfd would take each
//! other's signals. A queue pair without a vector of its own sleeps in short naps.
#![forbid(unsafe_code)]

use super::options::CtrlrOptions;
use crate::ring::sleeper::Sleeper;
use crate::transport::{Transport, TransportError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long a queue pair without a vector of its own sleeps at a time.
const NAP: Duration = Duration::from_micros(100);

/// The interrupts of one controller.
#[derive(Debug)]
pub(crate) struct Interrupts {
    /// One descriptor a vector.
    vectors: Vec<OwnedFd>,
    /// I/O queue pairs without a vector of their own at the beginning: the external one, if there is one, shares the poller's.
    shared: u16,
    pub(crate) sleeper: Arc<Sleeper>,
}

impl Interrupts {
    /// Connects as many vectors as there are uses for. Before the controller is enabled: later, vector 0 never fires on some.
    pub(super) fn connect(
        transport: &dyn Transport,
        options: &CtrlrOptions,
    ) -> Result<Option<Self>, TransportError> {
        let shared = u16::from(options.has_external_queue());
        let count = transport.interrupt_count().min(usize::from(options.io_queues + 1 - shared));
        if count == 0 {
            return Ok(None);
        }
        let vectors = transport.enable_interrupts(count)?;
        let sleeper = Sleeper::new().map_err(|source| TransportError::Io {
            address: transport.address(),
            what: "make a wake-up descriptor",
            source,
        })?;
        Ok(Some(Self { vectors, shared, sleeper: Arc::new(sleeper) }))
    }

    /// The vector of a completion queue, if it has one.
    pub(super) fn vector(&self, qid: u16) -> Option<u16> {
        let vector = qid.saturating_sub(self.shared);
        (usize::from(vector) < self.vectors.len()).then_some(vector)
    }

    /// The descriptor that a queue pair's completions signal, if it has one of its own.
    pub(crate) fn descriptor(&self, qid: u16) -> Option<BorrowedFd<'_>> {
        Some(self.vectors.get(usize::from(self.vector(qid)?))?.as_fd())
    }

    /// Sleeps until the poller's vector or a wake-up comes, at most for `timeout`.
    pub(crate) fn sleep_as_poller(&self, timeout: Duration) -> io::Result<()> {
        let fds = [self.vectors[0].as_fd(), self.sleeper.event().as_fd()];
        sleep(&fds, timeout)?;
        clear(fds[0]);
        Ok(())
    }

    /// Sleeps until the queue's vector comes, at most for `timeout`, or for a nap where it has none.
    pub(crate) fn sleep_as_qpair(&self, qid: u16, timeout: Duration) -> io::Result<()> {
        match self.descriptor(qid) {
            Some(fd) => {
                sleep(&[fd], timeout)?;
                clear(fd);
            }
            None => std::thread::sleep(timeout.min(NAP)),
        }
        Ok(())
    }
}

fn sleep(fds: &[BorrowedFd<'_>], timeout: Duration) -> io::Result<()> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = Timespec {
        tv_sec: timeout.as_secs().min(1 << 40).cast_signed(),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Forgets what was signalled. Completions that come later signal again, and those that came before are found by the poll that follows.
fn clear(fd: BorrowedFd<'_>) {
    // Fails when it was not signalled.
    let _ = rustix::io::read(fd, &mut [0; 8]);
}
