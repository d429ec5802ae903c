//! I/O commands of the NVM command set (NVM Command Set 1.0, 3).
#![forbid(unsafe_code)]

use super::config::Config;
use super::device::{Device, Reply};
use super::namespace::Namespace;
use super::prp::Cursor;
use crate::spec::command::{BROADCAST_NSID, Command, NvmOpcode};
use crate::spec::status::Status;

/// Force Unit Access, in dword 12.
const FUA: u32 = 1 << 30;
/// Protection information fields in dword 12, and the storage tag check.
const PROTECTION: u32 = 0b1111 << 26 | 1 << 24;
/// Bytes of one range of Dataset Management.
const RANGE_BYTES: usize = 16;
/// Dataset Management: deallocate.
const DEALLOCATE: u32 = 1 << 2;

/// The part of a namespace that a command is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Of `Device::namespaces`.
    pub(super) index: usize,
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A limit that is a power of two of the smallest memory page, in bytes; 0 is none.
#[inline]
fn size_limit(config: &Config, power: u8) -> u64 {
    if power == 0 { u64::MAX } else { 4096 << config.mpsmin << power }
}

impl Device {
    /// Executes an I/O command.
    #[inline]
    pub(super) fn io(&mut self, command: &Command) -> Reply {
        match NvmOpcode(command.opcode) {
            NvmOpcode::READ => self.read(command),
            NvmOpcode::WRITE => self.write(command),
            NvmOpcode::FLUSH => self.flush(command),
            NvmOpcode::COMPARE => self.compare(command),
            NvmOpcode::WRITE_ZEROES => self.write_zeroes(command),
            NvmOpcode::DATASET_MANAGEMENT => self.dataset_management(command),
            NvmOpcode::VERIFY => self.verify(command),
            NvmOpcode::COPY => self.copy(command),
            _ => Err(Status::INVALID_OPCODE.with_dnr()),
        }
    }

    /// The extent of dwords 10 to 12, inside the namespace.
    #[inline]
    pub(super) fn extent(&self, command: &Command) -> Result<Extent, Status> {
        let index = self.active_namespace(command.nsid)?;
        if command.cdw12 & PROTECTION != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let namespace = &self.namespaces[index];
        let slba = u64::from(command.cdw11) << 32 | u64::from(command.cdw10);
        let blocks = u64::from(command.cdw12 & 0xffff) + 1;
        if slba.checked_add(blocks).is_none_or(|end| end > namespace.blocks) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        let shift = namespace.lba_shift;
        Ok(Extent { index, offset: slba << shift, len: blocks << shift })
    }

    /// The extent of a command that transfers data, whose PRPs are then walked.
    #[inline]
    fn data_extent(&mut self, command: &Command) -> Result<Extent, Status> {
        let extent = self.extent(command)?;
        if extent.len > self.max_transfer_bytes() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        self.memory.describe(command, extent.len as usize)?;
        Ok(extent)
    }

    /// MDTS in bytes.
    #[inline]
    pub(super) fn max_transfer_bytes(&self) -> u64 {
        size_limit(&self.config, self.config.mdts)
    }

    fn check_writable(&self, extent: Extent) -> Result<(), Status> {
        if self.namespaces[extent.index].read_only {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
        }
        Ok(())
    }

    #[inline]
    fn read(&mut self, command: &Command) -> Reply {
        let extent = self.data_extent(command)?;
        let namespace = &mut self.namespaces[extent.index];
        namespace.read(extent.offset, extent.len as usize, &self.memory, &mut self.scratch)?;
        namespace.counters.reads += 1;
        namespace.counters.bytes_read += extent.len;
        Ok(0)
    }

    #[inline]
    fn write(&mut self, command: &Command) -> Reply {
        let extent = self.data_extent(command)?;
        self.check_writable(extent)?;
        let namespace = &mut self.namespaces[extent.index];
        namespace.write(extent.offset, extent.len as usize, &self.memory, &mut self.scratch)?;
        namespace.counters.writes += 1;
        namespace.counters.bytes_written += extent.len;
        self.settle(extent.index, command.cdw12 & FUA != 0)
    }

    /// Makes a write survive at once when it has to: by its flag, or because the write cache is off.
    #[inline]
    pub(super) fn settle(&self, index: usize, force: bool) -> Reply {
        if self.namespaces[index].is_volatile() && (force || !self.features.is_write_cached()) {
            self.namespaces[index].flush()?;
        }
        Ok(0)
    }

    fn flush(&mut self, command: &Command) -> Reply {
        if command.nsid == BROADCAST_NSID {
            let attached = self.namespaces.iter().filter(|namespace| namespace.attached);
            attached.map(Namespace::flush).try_for_each(|flushed| flushed)?;
        } else {
            let index = self.active_namespace(command.nsid)?;
            self.namespaces[index].flush()?;
        }
        Ok(0)
    }

    fn compare(&mut self, command: &Command) -> Reply {
        let extent = self.data_extent(command)?;
        let namespace = &mut self.namespaces[extent.index];
        // Counted as a read, as the SMART log wants it.
        namespace.counters.reads += 1;
        namespace.counters.bytes_read += extent.len;
        let same = namespace.compare(extent.offset, extent.len as usize, &self.memory, &mut self.scratch)?;
        if same { Ok(0) } else { Err(Status::COMPARE_FAILURE.with_dnr()) }
    }

    fn write_zeroes(&mut self, command: &Command) -> Reply {
        let extent = self.extent(command)?;
        let limit = size_limit(&self.config, self.config.wzsl);
        if extent.len > limit {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        self.check_writable(extent)?;
        self.namespaces[extent.index].zero(extent.offset, extent.len)?;
        self.settle(extent.index, command.cdw12 & FUA != 0)
    }

    /// Dataset Management. What is deallocated reads as zeroes; the other attributes are hints.
    fn dataset_management(&mut self, command: &Command) -> Reply {
        let index = self.active_namespace(command.nsid)?;
        let ranges = (command.cdw10 & 0xff) as usize + 1;
        let bytes = ranges * RANGE_BYTES;
        self.memory.describe(command, bytes)?;
        self.memory.fill_from_host(&mut Cursor::default(), &mut self.scratch[..bytes]);
        let shift = self.namespaces[index].lba_shift;
        let range = |list: &[u8], i: usize| {
            let word = |at| u32::from_le_bytes(std::array::from_fn(|k| list[i * RANGE_BYTES + at + k]));
            let (blocks, low, high) = (word(4), word(8), word(12));
            (u64::from(high) << 32 | u64::from(low), u64::from(blocks))
        };
        let (size, limit) = (self.namespaces[index].blocks, u64::from(self.config.dmrsl));
        if limit > 0 && (0..ranges).any(|i| range(&self.scratch, i).1 > limit) {
            return Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        }
        let outside = |(slba, blocks): (u64, u64)| slba.checked_add(blocks).is_none_or(|end| end > size);
        if (0..ranges).any(|i| outside(range(&self.scratch, i))) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        if command.cdw11 & DEALLOCATE == 0 {
            return Ok(0);
        }
        if self.namespaces[index].read_only {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
        }
        for i in 0..ranges {
            let (slba, blocks) = range(&self.scratch, i);
            if blocks > 0 {
                self.namespaces[index].zero(slba << shift, blocks << shift)?;
            }
        }
        self.settle(index, false)
    }
}
