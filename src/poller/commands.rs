//! The NVM command set as methods of a queue pair: what the raw command would have to be checked for is checked here.
#![forbid(unsafe_code)]

use super::io::{SubmitError, SubmitReason};
use super::qpair::QueuePair;
use crate::ctrlr::Namespace;
use crate::dma::DmaSlice;
use crate::spec::command::{Command, CopyRange, DsmRange};
use zerocopy::IntoBytes;

impl QueuePair {
    /// Reads `data.len()` bytes from block `lba` of `namespace` on.
    #[inline]
    pub fn read(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::read, namespace, lba, data, token)
    }

    /// Writes `data` to block `lba` of `namespace` on.
    #[inline]
    pub fn write(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::write, namespace, lba, data, token)
    }

    /// Compares `data` with block `lba` of `namespace` on; a difference is status [`crate::spec::status::Status::COMPARE_FAILURE`].
    #[inline]
    pub fn compare(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        self.transfer(Command::compare, namespace, lba, data, token)
    }

    #[inline(always)]
    fn transfer(
        &mut self,
        command: fn(u32, u64, u32) -> Command,
        namespace: &Namespace,
        lba: u64,
        data: DmaSlice,
        token: u64,
    ) -> Result<(), SubmitError> {
        let block_bytes = namespace.block_bytes as usize;
        let blocks = data.len() >> block_bytes.trailing_zeros();
        if namespace.unsupported.is_some() || data.len() & (block_bytes - 1) != 0 {
            let why = "its length is no multiple of the block size, or the namespace is not supported";
            return Err(SubmitError { reason: SubmitReason::BadData { why }, data: Some(data) });
        }
        if !in_range(namespace, lba, blocks as u64) {
            return Err(SubmitError { reason: SubmitReason::Range, data: Some(data) });
        }
        self.submit(command(namespace.nsid, lba, blocks as u32), Some(data), token)
    }

    /// Makes what was written durable.
    pub fn flush(&mut self, namespace: &Namespace, token: u64) -> Result<(), SubmitError> {
        self.submit(Command::flush(namespace.nsid), None, token)
    }

    /// Writes zeroes to `blocks` (1 to 65,536) blocks, deallocating them if asked to.
    pub fn write_zeroes(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        blocks: u32,
        deallocate: bool,
        token: u64,
    ) -> Result<(), SubmitError> {
        if !in_range(namespace, lba, blocks.into()) {
            return Err(SubmitError { reason: SubmitReason::Range, data: None });
        }
        self.submit(Command::write_zeroes(namespace.nsid, lba, blocks, deallocate), None, token)
    }

    /// Has the device read `blocks` (1 to 65,536) blocks for nothing but the errors.
    pub fn verify(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        blocks: u32,
        token: u64,
    ) -> Result<(), SubmitError> {
        if !in_range(namespace, lba, blocks.into()) {
            return Err(SubmitError { reason: SubmitReason::Range, data: None });
        }
        self.submit(Command::verify(namespace.nsid, lba, blocks), None, token)
    }

    /// Has the device copy `sources` (1 to 256; first block and number of blocks, 1 to 65,536) one after the other to block `lba` on. Identify Namespace's MSSRL, MCL and MSRC say how
    /// much of that it takes at once.
    pub fn copy(
        &mut self,
        namespace: &Namespace,
        lba: u64,
        sources: &[(u64, u32)],
        token: u64,
    ) -> Result<(), SubmitError> {
        if sources.is_empty() || sources.len() > 256 {
            let why = "1 to 256 ranges fit one command";
            return Err(SubmitError { reason: SubmitReason::BadData { why }, data: None });
        }
        let is_inside = |(slba, blocks): &(u64, u32)| in_range(namespace, *slba, u64::from(*blocks));
        let sum = sources.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let ends_inside = lba.checked_add(sum).is_some_and(|end| end <= namespace.size_blocks);
        if !sources.iter().all(is_inside) || !ends_inside {
            return Err(SubmitError { reason: SubmitReason::Range, data: None });
        }
        let buffer = self.allocate(sources.len() * size_of::<CopyRange>()).map_err(|_| SubmitError {
            reason: SubmitReason::BadData { why: "there is no DMA memory for its list" },
            data: None,
        })?;
        for (index, (slba, blocks)) in sources.iter().enumerate() {
            let range = CopyRange { slba: *slba, nlb_z: (*blocks - 1) as u16, ..CopyRange::default() };
            buffer.write_at(index * size_of::<CopyRange>(), range.as_bytes());
        }
        let command = Command::copy(namespace.nsid, lba, sources.len() as u32);
        self.submit(command, Some(buffer.into()), token)
    }

    /// Says that the data of `ranges` (1 to 256; first block and number of blocks) are no longer needed.
    pub fn deallocate(
        &mut self,
        namespace: &Namespace,
        ranges: &[(u64, u32)],
        token: u64,
    ) -> Result<(), SubmitError> {
        if ranges.is_empty() || ranges.len() > 256 {
            let why = "1 to 256 ranges fit one command";
            return Err(SubmitError { reason: SubmitReason::BadData { why }, data: None });
        }
        let buffer = self.allocate(size_of_val(ranges)).map_err(|_| SubmitError {
            reason: SubmitReason::BadData { why: "there is no DMA memory for its list" },
            data: None,
        })?;
        for (index, (slba, nlb)) in ranges.iter().enumerate() {
            let range = DsmRange { cattr: 0, nlb: *nlb, slba: *slba };
            buffer.write_at(index * size_of::<DsmRange>(), range.as_bytes());
        }
        let command = Command::dataset_management(namespace.nsid, ranges.len() as u32, true);
        self.submit(command, Some(buffer.into()), token)
    }
}

/// Whether `blocks` (1 to 65,536) blocks from `lba` on lie inside.
#[inline(always)]
fn in_range(namespace: &Namespace, lba: u64, blocks: u64) -> bool {
    blocks.wrapping_sub(1) < 65_536 && lba.checked_add(blocks).is_some_and(|end| end <= namespace.size_blocks)
}
