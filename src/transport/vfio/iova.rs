//! I/O virtual addresses: which ones the IOMMU can use, and which of them are free.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `VFIO_IOMMU_GET_INFO`: `_IO(';', 100 + 12)`.
const GET_INFO: libc::c_ulong = 0x3b70;
/// Bytes for the answer; the kernel's is a few hundred.
const INFO_BYTES: usize = 4096;
const FLAG_CAPS: u32 = vfio_bindings::bindings::vfio::VFIO_IOMMU_INFO_CAPS;
const CAP_IOVA_RANGE: u16 = vfio_bindings::bindings::vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE as u16;
/// Addresses below are not given out, so that a zero in a command is never a valid address.
const LOWEST: u64 = 1 << 20;
/// What is assumed where the kernel does not say: the 32 bits that every device and IOMMU has, below the interrupt window.
const FALLBACK: (u64, u64) = (LOWEST, 0xfedf_ffff);
const PAGE_BYTES: u64 = 4096;

/// Free address ranges: start to end (exclusive).
#[derive(Debug)]
pub(super) struct IovaSpace {
    free: BTreeMap<u64, u64>,
}

impl IovaSpace {
    /// The space that the container's IOMMU offers.
    pub(super) fn of(container: BorrowedFd<'_>) -> Self {
        let mut info = vec![0_u64; INFO_BYTES / 8];
        info[0] = INFO_BYTES as u64;
        // SAFETY: the buffer has as many bytes as its first word (`argsz`) says, and the ioctl writes no more.
        let result = unsafe { libc::ioctl(container.as_raw_fd(), GET_INFO, info.as_mut_ptr()) };
        let bytes: Vec<u8> = info.iter().flat_map(|word| word.to_le_bytes()).collect();
        let ranges = if result == 0 { usable_ranges(&bytes) } else { Vec::new() };
        Self::from_ranges(if ranges.is_empty() { vec![FALLBACK] } else { ranges })
    }

    /// A space of these ranges, ends inclusive.
    fn from_ranges(ranges: Vec<(u64, u64)>) -> Self {
        let clip = |(start, end): (u64, u64)| {
            let start = start.max(LOWEST).next_multiple_of(PAGE_BYTES);
            let end = (end.saturating_add(1)) / PAGE_BYTES * PAGE_BYTES;
            (start < end).then_some((start, end))
        };
        Self { free: ranges.into_iter().filter_map(clip).collect() }
    }

    /// Takes `len` bytes (whole pages) at a multiple of `align`, a power of two.
    pub(super) fn take(&mut self, len: u64, align: u64) -> Option<u64> {
        let (start, end, at) = self.free.iter().find_map(|(&start, &end)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= end).then_some((start, end, at))
        })?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + len < end {
            self.free.insert(at + len, end);
        }
        Some(at)
    }

    /// Gives a range back.
    pub(super) fn give_back(&mut self, iova: u64, len: u64) {
        let (mut start, mut end) = (iova, iova + len);
        if let Some((&before, &before_end)) = self.free.range(..iova).next_back()
            && before_end == iova
        {
            start = before;
        }
        if let Some(after_end) = self.free.remove(&end) {
            end = after_end;
        }
        self.free.insert(start, end);
    }
}

/// The usable ranges, ends inclusive, in the answer to `VFIO_IOMMU_GET_INFO`. Empty where the kernel does not say.
fn usable_ranges(info: &[u8]) -> Vec<(u64, u64)> {
    let u16_at = |at: usize| info.get(at..at + 2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    let u32_at = |at: usize| Some(u32::from(u16_at(at)?) | u32::from(u16_at(at + 2)?) << 16);
    let u64_at = |at: usize| Some(u64::from(u32_at(at)?) | u64::from(u32_at(at + 4)?) << 32);
    // argsz, flags, iova_pgsizes (8 bytes), cap_offset.
    if u32_at(4).unwrap_or(0) & FLAG_CAPS == 0 {
        return Vec::new();
    }
    let mut at = u32_at(16).unwrap_or(0) as usize;
    // Each capability: id, version, offset of the next. A chain that goes backwards ends.
    while at != 0 {
        if u16_at(at) == Some(CAP_IOVA_RANGE) {
            let count = u32_at(at + 8).unwrap_or(0) as usize;
            let range = |index: usize| Some((u64_at(at + 16 + 16 * index)?, u64_at(at + 24 + 16 * index)?));
            return (0..count).map_while(range).collect();
        }
        let next = u32_at(at + 4).unwrap_or(0) as usize;
        if next <= at {
            break;
        }
        at = next;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_from_the_capability_chain() {
        let mut info = vec![0_u8; 256];
        info[4..8].copy_from_slice(&FLAG_CAPS.to_le_bytes());
        info[16..20].copy_from_slice(&24_u32.to_le_bytes());
        // A capability of another kind first.
        info[24..26].copy_from_slice(&3_u16.to_le_bytes());
        info[28..32].copy_from_slice(&40_u32.to_le_bytes());
        info[40..42].copy_from_slice(&CAP_IOVA_RANGE.to_le_bytes());
        info[48..52].copy_from_slice(&2_u32.to_le_bytes());
        for (index, value) in [0_u64, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff].iter().enumerate() {
            info[56 + 8 * index..64 + 8 * index].copy_from_slice(&value.to_le_bytes());
        }
        assert_eq!(usable_ranges(&info), [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)]);
        assert_eq!(usable_ranges(&info[..60]), [], "a cut answer gives what is whole");
        info[28..32].copy_from_slice(&8_u32.to_le_bytes());
        assert_eq!(usable_ranges(&info), [], "a chain that goes backwards ends");
    }

    #[test]
    fn addresses_are_aligned_disjoint_and_reused() {
        let mut space = IovaSpace::from_ranges(vec![(0, 0xff_ffff), (0x200_0000, 0x3ff_ffff)]);
        let first = space.take(0x20_0000, 0x20_0000).expect("room");
        let second = space.take(0x1000, 0x1000).expect("room");
        assert_eq!((first, second), (0x20_0000, LOWEST), "never below the lowest, aligned, first fit");
        assert_eq!(
            space.take(0x180_0000, 0x20_0000),
            Some(0x200_0000),
            "in the second range, as the first is too small"
        );
        assert_eq!(space.take(0x180_0000, 0x1000), None);
        space.give_back(first, 0x20_0000);
        space.give_back(second, 0x1000);
        assert_eq!(space.take(0xf0_0000, 0x1000), Some(LOWEST), "neighbours were merged");
    }
}
