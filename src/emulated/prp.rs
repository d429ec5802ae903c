//! The data of a command in host memory: the PRP entries are walked once into a list of places, and then copied from or to.
//! (NVMe Base 2.0, 4.1.1.) Where the other side of the copy comes from is not known here.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::iommu::{Place, Port, Table};
use super::transport::EmulatedTransport;
use crate::dma::MemoryBlock;
use crate::spec::command::Command;
use crate::spec::status::Status;

/// What is wrong with the PRP entries of a command.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// An offset that is not allowed where it stands.
    Offset { what: &'static str, entry: u64 },
    /// An address that the device cannot reach.
    Unmapped { what: &'static str, iova: u64, len: usize },
}

/// How far a copy has come.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Cursor {
    place: usize,
    offset: usize,
}

/// The device's view of host memory: the gate, and the places of the command in hand.
#[derive(Debug)]
pub(super) struct HostMemory {
    pub(super) port: Port,
    pub(super) page_size: usize,
    /// Where the data of the command lies. Kept between commands, so that the list is not allocated for each.
    places: Vec<Place>,
    transport: Arc<EmulatedTransport>,
}

/// Collects places; neighbours in the address space become one.
struct Collector<'a> {
    table: &'a Table,
    places: &'a mut Vec<Place>,
    iova: u64,
    len: usize,
}

impl Collector<'_> {
    #[inline]
    fn push(&mut self, iova: u64, len: usize) -> Result<(), Fault> {
        if self.len > 0 && self.iova.wrapping_add(self.len as u64) == iova {
            self.len += len;
            return Ok(());
        }
        self.flush()?;
        (self.iova, self.len) = (iova, len);
        Ok(())
    }

    #[inline]
    fn flush(&mut self) -> Result<(), Fault> {
        while self.len > 0 {
            let unmapped = Fault::Unmapped { what: "data", iova: self.iova, len: self.len };
            let place = self.table.find(self.iova, self.len).ok_or(unmapped)?;
            self.iova = self.iova.wrapping_add(place.len as u64);
            self.len -= place.len;
            self.places.push(place);
        }
        Ok(())
    }
}

fn check_offset(what: &'static str, entry: u64, align: usize) -> Result<(), Fault> {
    if entry.is_multiple_of(align as u64) { Ok(()) } else { Err(Fault::Offset { what, entry }) }
}

impl HostMemory {
    pub(super) fn new(transport: Arc<EmulatedTransport>) -> Self {
        let port = Port::new(transport.iommu.clone());
        Self { port, page_size: 4096, places: Vec::new(), transport }
    }

    /// There are no data until `describe`.
    pub(super) fn forget(&mut self) {
        self.places.clear();
    }

    /// Inverts the byte at an offset of the data, if they reach so far.
    #[cold]
    pub(super) fn invert(&self, mut offset: usize) {
        for &place in &self.places {
            if offset < place.len {
                let mut byte = [0];
                let (block, at) = (self.port.table.block(place), place.offset + offset);
                block.read(at, &mut byte);
                block.write(at, &[!byte[0]]);
                return;
            }
            offset -= place.len;
        }
    }

    /// Walks the PRP entries for `len` bytes. What is copied after this is the data of `command`.
    ///
    /// # Errors
    /// PRP Offset Invalid or Data Transfer Error; either is a breach of the driver's, and recorded.
    #[inline]
    pub(super) fn describe(&mut self, command: &Command, len: usize) -> Result<(), Status> {
        self.places.clear();
        self.walk(command.prp1, command.prp2, len).map_err(|fault| self.refuse(command, &fault))
    }

    #[inline]
    fn walk(&mut self, prp1: u64, prp2: u64, len: usize) -> Result<(), Fault> {
        let page = self.page_size;
        let table = &*self.port.table;
        let mut data = Collector { table, places: &mut self.places, iova: 0, len: 0 };
        check_offset("PRP1, which must be dword aligned", prp1, 4)?;
        let first = len.min(page - (prp1 % page as u64) as usize);
        data.push(prp1, first)?;
        let left = len - first;
        if left > page {
            walk_list(table, page, prp2, left, &mut data)?;
        } else if left > 0 {
            check_offset("PRP2, whose page offset must be 0", prp2, page)?;
            data.push(prp2, left)?;
        }
        data.flush()
    }

    #[cold]
    fn refuse(&self, command: &Command, fault: &Fault) -> Status {
        let Command { opcode, cid, .. } = command;
        let (why, status) = match fault {
            Fault::Offset { what, entry } => {
                (format!("{entry:#x} was found as {what}"), Status::INVALID_PRP_OFFSET.with_dnr())
            }
            Fault::Unmapped { what, iova, len } => (
                format!("{len} bytes of {what} at {iova:#x} are not mapped for the device"),
                Status::DATA_TRANSFER_ERROR,
            ),
        };
        self.transport.violations.record(format!("PRPs of opcode {opcode:#04x}, CID {cid:#06x}: {why}"));
        status
    }

    /// The next stretch of memory for a copy of at most `len` bytes; the cursor moves over it.
    #[inline]
    fn next(&self, cursor: &mut Cursor, len: usize) -> Option<(&MemoryBlock, usize, usize)> {
        let place = *self.places.get(cursor.place)?;
        let offset = place.offset + cursor.offset;
        let n = len.min(place.len - cursor.offset);
        cursor.offset += n;
        if cursor.offset == place.len {
            *cursor = Cursor { place: cursor.place + 1, offset: 0 };
        }
        Some((self.port.table.block(place), offset, n))
    }

    /// Writes `bytes` to the host. What goes beyond the data described is left out.
    #[inline]
    pub(super) fn to_host(&self, cursor: &mut Cursor, mut bytes: &[u8]) {
        while let Some((block, offset, n)) = self.next(cursor, bytes.len()).filter(|_| !bytes.is_empty()) {
            let (now, later) = bytes.split_at(n);
            block.write(offset, now);
            bytes = later;
        }
    }

    /// Fills `bytes` from the host. What goes beyond the data described stays as it was.
    #[inline]
    pub(super) fn fill_from_host(&self, cursor: &mut Cursor, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let Some((block, offset, n)) = self.next(cursor, bytes.len()) else { return };
            let (now, later) = bytes.split_at_mut(n);
            block.read(offset, now);
            bytes = later;
        }
    }
}

/// Follows a PRP list: it never runs past a page, and the last entry of a page leads on when there is more.
fn walk_list(
    table: &Table,
    page: usize,
    list: u64,
    mut left: usize,
    data: &mut Collector<'_>,
) -> Result<(), Fault> {
    check_offset("a PRP list pointer, which must be qword aligned", list, 8)?;
    let mut at = list;
    loop {
        let slots = (page - (at % page as u64) as usize) / 8;
        let used = slots.min(left.div_ceil(page));
        let unmapped = Fault::Unmapped { what: "PRP list", iova: at, len: used * 8 };
        let (block, offset) = table.whole(at, used * 8).ok_or(unmapped)?;
        let mut next = None;
        for i in 0..used {
            // Relaxed: ordered by the Acquire load of the doorbell.
            let entry = block.load_u64(offset + i * 8, Ordering::Relaxed);
            check_offset("an entry of a PRP list, whose page offset must be 0", entry, page)?;
            if i + 1 == slots && left > page {
                next = Some(entry);
                break;
            }
            let n = left.min(page);
            data.push(entry, n)?;
            left -= n;
        }
        match next {
            Some(entry) => at = entry,
            None => return Ok(()),
        }
    }
}
