//! A namespace and where its blocks live: RAM or a raw image file. Ranges are checked by the callers; which commands there
//! are is not known here.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use super::config::{Backing, ConfigError, NamespaceConfig};
use super::prp::{Cursor, HostMemory};
use crate::spec::status::Status;

/// Granularity in which RAM is looked at before it is zeroed, so that zeroing memory never touched takes none.
const ZERO_CHUNK: usize = 4096;

#[derive(Debug)]
enum Store {
    /// Zeroed by the allocator, which takes large ones from the kernel page by page as they are written.
    Ram(Vec<u8>),
    Image(File),
}

/// What the SMART log counts.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counters {
    pub(super) reads: u64,
    pub(super) writes: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

/// One allocated namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) nsid: u32,
    /// Logarithm of the block size.
    pub(super) lba_shift: u8,
    /// Size in blocks.
    pub(super) blocks: u64,
    /// Attached to this controller, so active.
    pub(super) attached: bool,
    pub(super) read_only: bool,
    pub(super) counters: Counters,
    store: Store,
}

fn open_image(path: &std::path::Path, read_only: bool, lba_bytes: u32) -> Result<(File, u64), ConfigError> {
    let access = if read_only { "reading" } else { "reading and writing" };
    let wrong = |source| ConfigError::Image { path: path.to_owned(), access, source };
    // Asked before it is opened: opening a FIFO would block.
    let meta = std::fs::metadata(path).map_err(wrong)?;
    if !meta.is_file() {
        return Err(ConfigError::ImageKind { path: path.to_owned() });
    }
    let file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(wrong)?;
    let bytes = file.metadata().map_err(wrong)?.len();
    if bytes == 0 || !bytes.is_multiple_of(lba_bytes.into()) {
        return Err(ConfigError::ImageSize { path: path.to_owned(), bytes, lba_bytes });
    }
    Ok((file, bytes))
}

fn zero_file(file: &File, offset: u64, len: u64) -> std::io::Result<()> {
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if fallocate(file, hole, offset, len).is_ok() {
        return Ok(());
    }
    // Not every file system can.
    let zeroes = [0; 16 * 1024];
    let mut done = 0;
    while done < len {
        let n = zeroes.len().min((len - done) as usize);
        file.write_all_at(&zeroes[..n], offset + done)?;
        done += n as u64;
    }
    Ok(())
}

fn write_fault(error: &std::io::Error) -> Status {
    tracing::warn!(%error, "an image could not be written");
    Status::WRITE_FAULT
}

fn read_error(error: &std::io::Error) -> Status {
    tracing::warn!(%error, "an image could not be read");
    Status::UNRECOVERED_READ_ERROR
}

impl Namespace {
    pub(super) fn new(nsid: u32, config: &NamespaceConfig) -> Result<Self, ConfigError> {
        let (store, bytes, read_only) = match &config.backing {
            Backing::Ram => (Store::Ram(vec![0; config.size_bytes as usize]), config.size_bytes, false),
            Backing::Image { path, read_only } => {
                let (file, bytes) = open_image(path, *read_only, config.lba_bytes)?;
                (Store::Image(file), bytes, *read_only)
            }
        };
        let lba_shift = config.lba_bytes.trailing_zeros() as u8;
        let counters = Counters::default();
        let blocks = bytes >> lba_shift;
        Ok(Self { nsid, lba_shift, blocks, attached: true, read_only, counters, store })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blocks << self.lba_shift
    }

    /// Copies a range to the host.
    #[inline]
    pub(super) fn read(
        &self,
        offset: u64,
        len: usize,
        memory: &HostMemory,
        scratch: &mut [u8],
    ) -> Result<(), Status> {
        let mut cursor = Cursor::default();
        match &self.store {
            Store::Ram(ram) => {
                memory.to_host(&mut cursor, &ram[offset as usize..][..len]);
                Ok(())
            }
            Store::Image(file) => {
                let mut done = 0;
                while done < len {
                    let chunk = scratch.len().min(len - done);
                    let chunk = &mut scratch[..chunk];
                    file.read_exact_at(chunk, offset + done as u64).map_err(|e| read_error(&e))?;
                    memory.to_host(&mut cursor, chunk);
                    done += chunk.len();
                }
                Ok(())
            }
        }
    }

    /// Copies a range from the host.
    #[inline]
    pub(super) fn write(
        &mut self,
        offset: u64,
        len: usize,
        memory: &HostMemory,
        scratch: &mut [u8],
    ) -> Result<(), Status> {
        let mut cursor = Cursor::default();
        match &mut self.store {
            Store::Ram(ram) => {
                memory.fill_from_host(&mut cursor, &mut ram[offset as usize..][..len]);
                Ok(())
            }
            Store::Image(file) => {
                let mut done = 0;
                while done < len {
                    let chunk = scratch.len().min(len - done);
                    let chunk = &mut scratch[..chunk];
                    memory.fill_from_host(&mut cursor, chunk);
                    file.write_all_at(chunk, offset + done as u64).map_err(|e| write_fault(&e))?;
                    done += chunk.len();
                }
                Ok(())
            }
        }
    }

    /// Whether a range has the host's bytes.
    pub(super) fn compare(
        &self,
        offset: u64,
        len: usize,
        memory: &HostMemory,
        scratch: &mut [u8],
    ) -> Result<bool, Status> {
        let (theirs, ours) = scratch.split_at_mut(scratch.len() / 2);
        let mut cursor = Cursor::default();
        let mut done = 0;
        while done < len {
            let chunk = theirs.len().min(len - done);
            let at = offset + done as u64;
            let theirs = &mut theirs[..chunk];
            memory.fill_from_host(&mut cursor, theirs);
            let same = match &self.store {
                Store::Ram(ram) => theirs == &ram[at as usize..][..chunk],
                Store::Image(file) => {
                    let ours = &mut ours[..chunk];
                    file.read_exact_at(ours, at).map_err(|e| read_error(&e))?;
                    theirs == ours
                }
            };
            if !same {
                return Ok(false);
            }
            done += chunk;
        }
        Ok(true)
    }

    /// Reads a range into `bytes`.
    pub(super) fn load(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Status> {
        match &self.store {
            Store::Ram(ram) => {
                bytes.copy_from_slice(&ram[offset as usize..][..bytes.len()]);
                Ok(())
            }
            Store::Image(file) => file.read_exact_at(bytes, offset).map_err(|e| read_error(&e)),
        }
    }

    /// Writes `bytes` to a range.
    pub(super) fn store(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Status> {
        match &mut self.store {
            Store::Ram(ram) => {
                ram[offset as usize..][..bytes.len()].copy_from_slice(bytes);
                Ok(())
            }
            Store::Image(file) => file.write_all_at(bytes, offset).map_err(|e| write_fault(&e)),
        }
    }

    /// Reads a range for nothing but the errors.
    pub(super) fn verify(&self, offset: u64, len: u64, scratch: &mut [u8]) -> Result<(), Status> {
        if matches!(self.store, Store::Ram(_)) {
            return Ok(());
        }
        let mut done = 0;
        while done < len {
            let chunk = (scratch.len() as u64).min(len - done);
            self.load(offset + done, &mut scratch[..chunk as usize])?;
            done += chunk;
        }
        Ok(())
    }

    /// Makes a range read as zeroes.
    pub(super) fn zero(&mut self, offset: u64, len: u64) -> Result<(), Status> {
        match &mut self.store {
            Store::Ram(ram) if len == ram.len() as u64 => *ram = vec![0; ram.len()],
            Store::Ram(ram) => {
                for chunk in ram[offset as usize..][..len as usize].chunks_mut(ZERO_CHUNK) {
                    if chunk.iter().any(|&byte| byte != 0) {
                        chunk.fill(0);
                    }
                }
            }
            Store::Image(file) => zero_file(file, offset, len).map_err(|e| write_fault(&e))?,
        }
        Ok(())
    }

    /// Inverts a byte, counted from the start of a block, if there is one.
    #[cold]
    pub(super) fn invert(&mut self, lba: u64, offset: u64) {
        let at = (lba << self.lba_shift) + offset;
        match &mut self.store {
            Store::Ram(ram) => {
                if let Some(byte) = ram.get_mut(at as usize) {
                    *byte = !*byte;
                }
            }
            Store::Image(file) => {
                let mut byte = [0];
                let inverted =
                    file.read_exact_at(&mut byte, at).and_then(|()| file.write_all_at(&[!byte[0]], at));
                if let Err(error) = inverted {
                    tracing::warn!(%error, "a byte that was to be corrupted is as it was");
                }
            }
        }
    }

    /// What is written may be lost until it is flushed.
    #[inline]
    pub(super) fn is_volatile(&self) -> bool {
        matches!(self.store, Store::Image(_))
    }

    /// Makes what was written before survive the host.
    pub(super) fn flush(&self) -> Result<(), Status> {
        match &self.store {
            Store::Image(file) if !self.read_only => file.sync_data().map_err(|e| write_fault(&e)),
            _ => Ok(()),
        }
    }

    /// Zeroes everything and changes the block size, of which the size must be a multiple.
    pub(super) fn format(&mut self, lba_shift: u8) -> Result<(), Status> {
        let bytes = self.bytes();
        self.zero(0, bytes)?;
        self.lba_shift = lba_shift;
        self.blocks = bytes >> lba_shift;
        Ok(())
    }
}
