//! Tests of DMA memory, its allocator and PRP construction; and the mapper that they share.

mod block;
mod buffer;
mod prp;
mod space;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{DmaError, DmaMap, DmaOptions, DmaSpace, MemoryBlock};

/// Stands in for a transport: gives out IOVAs with gaps between them and keeps books.
#[derive(Debug)]
struct Mapper {
    mapped: Mutex<BTreeMap<u64, Arc<MemoryBlock>>>,
    next_iova: Mutex<u64>,
    refuse_map: AtomicBool,
    refuse_unmap: AtomicBool,
}

impl Mapper {
    fn new(first_iova: u64) -> Arc<Self> {
        Arc::new(Self {
            mapped: Mutex::default(),
            next_iova: Mutex::new(first_iova),
            refuse_map: AtomicBool::new(false),
            refuse_unmap: AtomicBool::new(false),
        })
    }

    fn mapped_bytes(&self) -> usize {
        self.mapped.lock().unwrap().values().map(|block| block.len()).sum()
    }

    fn mapped_blocks(&self) -> usize {
        self.mapped.lock().unwrap().len()
    }
}

impl DmaMap for Mapper {
    fn map(&self, block: &Arc<MemoryBlock>) -> Result<u64, DmaError> {
        if self.refuse_map.load(Ordering::Relaxed) {
            return Err(DmaError::Map { len: block.len(), reason: "the test refuses".into() });
        }
        let mut next = self.next_iova.lock().unwrap();
        let iova = *next;
        *next += block.len() as u64 + 0x3000;
        self.mapped.lock().unwrap().insert(iova, Arc::clone(block));
        Ok(iova)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DmaError> {
        if self.refuse_unmap.load(Ordering::Relaxed) {
            return Err(DmaError::NotMapped { iova, len });
        }
        match self.mapped.lock().unwrap().remove(&iova) {
            Some(block) if block.len() == len => Ok(()),
            _ => Err(DmaError::NotMapped { iova, len }),
        }
    }
}

/// A space of blocks of `block_bytes` on ordinary memory.
fn space(block_bytes: usize) -> (DmaSpace, Arc<Mapper>) {
    let mapper = Mapper::new(0x10_0000);
    let options = DmaOptions { block_bytes, huge_pages: false };
    (DmaSpace::new(Arc::clone(&mapper) as Arc<dyn DmaMap>, options), mapper)
}
