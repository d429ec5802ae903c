//! Verify, Copy and Get LBA Status: commands about blocks that never leave the device (NVM Command Set 1.0, 3.2.2, 3.2.5 and 4.1.2).
#![forbid(unsafe_code)]

use super::device::{Device, Reply};
use super::prp::Cursor;
use crate::spec::command::{Command, CopyRange};
use crate::spec::status::Status;
use zerocopy::FromBytes;

/// Identify Namespace's MSSRL: blocks of one source range at most. QEMU's limits.
pub(super) const MAX_SOURCE_BLOCKS: u16 = 128;
/// Identify Namespace's MCL: blocks of one Copy at most.
pub(super) const MAX_COPY_BLOCKS: u32 = 128;
/// Identify Namespace's MSRC, 0-based: source ranges of one Copy at most.
pub(super) const MAX_SOURCES_Z: u8 = 127;
/// Get LBA Status: the actions that there are, which both look for blocks that cannot be read.
const SCAN: u32 = 0x10;
const TRACKED: u32 = 0x11;
/// Bytes of an LBA status descriptor list without descriptors.
const LIST_HEADER: usize = 8;
/// The list is complete, as nothing more was asked for.
const COMPLETE: u8 = 1;

impl Device {
    /// Verify: reads, and throws away what it read.
    pub(super) fn verify(&mut self, command: &Command) -> Reply {
        let extent = self.extent(command)?;
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = self.namespaces[extent.index].verify(extent.offset, extent.len, &mut scratch);
        self.scratch = scratch;
        read.map(|()| 0)
    }

    /// Copy, with source ranges of format 0. All of them are read before anything is written.
    pub(super) fn copy(&mut self, command: &Command) -> Reply {
        let index = self.active_namespace(command.nsid)?;
        let (count_z, format) = (command.cdw12 & 0xff, command.cdw12 >> 8 & 0xf);
        // Neither protection information nor directives.
        if format != 0 || command.cdw12 & 0xfff0_f000 & !(1 << 30) != 0 {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        let too_much = Err(Status::COMMAND_SIZE_LIMIT_EXCEEDED.with_dnr());
        if count_z > MAX_SOURCES_Z.into() {
            return too_much;
        }
        let bytes = (count_z as usize + 1) * size_of::<CopyRange>();
        self.memory.describe(command, bytes)?;
        self.memory.fill_from_host(&mut Cursor::default(), &mut self.scratch[..bytes]);
        let namespace = &self.namespaces[index];
        let outside =
            |slba: u64, blocks: u64| slba.checked_add(blocks).is_none_or(|end| end > namespace.blocks);
        let mut sources = Vec::new();
        for range in self.scratch[..bytes].chunks_exact(size_of::<CopyRange>()) {
            let Ok(range) = CopyRange::read_from_bytes(range) else { continue };
            sources.push((range.slba, u64::from(range.nlb_z) + 1));
        }
        let blocks: u64 = sources.iter().map(|(_, blocks)| blocks).sum();
        if blocks > MAX_COPY_BLOCKS.into()
            || sources.iter().any(|(_, blocks)| *blocks > MAX_SOURCE_BLOCKS.into())
        {
            return too_much;
        }
        let target = u64::from(command.cdw11) << 32 | u64::from(command.cdw10);
        if outside(target, blocks) || sources.iter().any(|(slba, blocks)| outside(*slba, *blocks)) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        if namespace.read_only {
            return Err(Status::NAMESPACE_WRITE_PROTECTED.with_dnr());
        }
        let shift = namespace.lba_shift;
        let mut data = vec![0; (blocks << shift) as usize];
        let mut at = 0;
        for (slba, blocks) in sources {
            let len = (blocks << shift) as usize;
            namespace.load(slba << shift, &mut data[at..at + len])?;
            at += len;
        }
        self.namespaces[index].store(target << shift, &data)?;
        self.settle(index, command.cdw12 & 1 << 30 != 0)
    }

    /// Get LBA Status: all blocks can be read.
    pub(super) fn get_lba_status(&mut self, command: &Command) -> Reply {
        let index = self.active_namespace(command.nsid)?;
        let bytes = (u64::from(command.cdw12) + 1) * 4;
        let action = command.cdw13 >> 24;
        let slba = u64::from(command.cdw11) << 32 | u64::from(command.cdw10);
        if !matches!(action, SCAN | TRACKED) || bytes > self.max_transfer_bytes() {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        // A range of 0 goes to the end.
        let range = u64::from(command.cdw13 & 0xffff);
        let size = self.namespaces[index].blocks;
        if slba >= size || slba.checked_add(range).is_none_or(|end| end > size) {
            return Err(Status::LBA_OUT_OF_RANGE.with_dnr());
        }
        let mut list = [0; LIST_HEADER];
        list[4] = COMPLETE;
        let len = (bytes as usize).min(list.len());
        self.memory.describe(command, len)?;
        self.memory.to_host(&mut Cursor::default(), &list[..len]);
        Ok(0)
    }
}
