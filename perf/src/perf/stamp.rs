//! Stamps: blocks whose every word follows from where they are, who wrote them and how often, so that a lost, misplaced, torn or old
//! write is found by reading it.
#![forbid(unsafe_code)]

use crate::numbers::mix;
use std::fmt;

/// The first word of every stamped block.
const MAGIC: u64 = u64::from_le_bytes(*b"slipring");
const WORD_BYTES: usize = 8;
const HEADER_BYTES: usize = 4 * WORD_BYTES;

/// What a block is stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) nsid: u32,
    pub(super) lba: u64,
    pub(super) seed: u64,
    /// How often the block was written in its run.
    pub(super) generation: u32,
}

impl Stamp {
    /// Fills `block`, a multiple of 8 and at least 512 bytes.
    pub(super) fn fill(&self, block: &mut [u8]) {
        let header = [MAGIC, self.lba, self.seed, u64::from(self.generation) << 32 | u64::from(self.nsid)];
        let base = header.iter().fold(0, |base, word| mix(base ^ word));
        let (words, _) = block.as_chunks_mut::<WORD_BYTES>();
        for (word, value) in words.iter_mut().zip(header) {
            *word = value.to_le_bytes();
        }
        for (word, index) in words.iter_mut().skip(header.len()).zip(1_u64..) {
            *word = base.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes();
        }
    }

    /// The stamp that `block` claims to have.
    fn read(block: &[u8]) -> Option<Self> {
        let (words, _) = block.get(..HEADER_BYTES)?.as_chunks::<WORD_BYTES>();
        let [magic, lba, seed, last] = *words else { return None };
        if u64::from_le_bytes(magic) != MAGIC {
            return None;
        }
        let last = u64::from_le_bytes(last);
        let (lba, seed) = (u64::from_le_bytes(lba), u64::from_le_bytes(seed));
        Some(Self { nsid: last as u32, lba, seed, generation: (last >> 32) as u32 })
    }

    /// Checks `block` against this stamp, or, when `any_generation`, against this stamp in any generation. `scratch` has the block's size.
    pub(super) fn check(&self, block: &[u8], any_generation: bool, scratch: &mut [u8]) -> Result<(), Wrong> {
        let mut expected = *self;
        if any_generation && let Some(found) = Self::read(block) {
            expected.generation = found.generation;
        }
        expected.fill(scratch);
        if block == scratch {
            return Ok(());
        }
        let shown = if any_generation { None } else { Some(self.generation) };
        Err(Wrong { expected: *self, generation: shown, got: Self::classify(block, scratch, expected) })
    }

    fn classify(block: &[u8], right: &[u8], expected: Self) -> Got {
        if let Some(found) = Self::read(block) {
            if found != expected {
                return Got::Other(found);
            }
            let differs = |offset: &usize| block[*offset] != right[*offset];
            let offset = (0..block.len()).find(differs).unwrap_or_default();
            return Got::Damaged { offset, found: block[offset], expected: right[offset] };
        }
        if block.iter().all(|byte| *byte == 0) {
            return Got::Zeroes;
        }
        let mut first = [0; 16];
        first.copy_from_slice(&block[..16]);
        Got::Unstamped(first)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nsid, lba, seed, generation } = self;
        write!(f, "the stamp of namespace {nsid}, LBA {lba}, seed {seed}, generation {generation}")
    }
}

/// A block that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    expected: Stamp,
    /// The expected generation, unless any would have done.
    generation: Option<u32>,
    got: Got,
}

/// What was there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Got {
    Zeroes,
    Other(Stamp),
    Damaged { offset: usize, found: u8, expected: u8 },
    Unstamped([u8; 16]),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp { nsid, lba, seed, .. } = self.expected;
        write!(f, "wrong data in namespace {nsid} at LBA {lba}: expected its stamp of seed {seed}")?;
        match self.generation {
            Some(generation) => write!(f, ", generation {generation}, got ")?,
            None => f.write_str(" in any generation, got ")?,
        }
        match &self.got {
            Got::Zeroes => f.write_str("zeroes"),
            Got::Other(stamp) => stamp.fmt(f),
            Got::Damaged { offset, found, expected } => {
                write!(f, "it with byte {offset} being {found:#04x} instead of {expected:#04x}")
            }
            Got::Unstamped(first) => write!(f, "no stamp but {first:02x?}..."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;

    const STAMP: Stamp = Stamp { nsid: 1, lba: 77, seed: 5, generation: 3 };

    fn check(block: &[u8], any_generation: bool) -> Result<(), String> {
        let mut scratch = vec![0; block.len()];
        STAMP.check(block, any_generation, &mut scratch).map_err(|wrong| wrong.to_string())
    }

    fn block_of(stamp: Stamp) -> Vec<u8> {
        let mut block = vec![0; 512];
        stamp.fill(&mut block);
        block
    }

    #[test]
    fn accepts_its_own_block() {
        assert_eq!(check(&block_of(STAMP), false), Ok(()));
    }

    #[test]
    fn tells_an_old_block_unless_any_will_do() {
        let old = block_of(Stamp { generation: 2, ..STAMP });
        let wrong = check(&old, false).unwrap_err();
        assert!(wrong.contains("LBA 77: expected its stamp of seed 5, generation 3, got"), "{wrong}");
        assert!(wrong.ends_with("LBA 77, seed 5, generation 2"), "{wrong}");
        assert_eq!(check(&old, true), Ok(()));
    }

    #[test]
    fn tells_misplaced_and_foreign_blocks() {
        for other in [Stamp { lba: 78, ..STAMP }, Stamp { seed: 6, ..STAMP }, Stamp { nsid: 2, ..STAMP }] {
            assert!(check(&block_of(other), true).is_err(), "{other}");
        }
        assert!(check(&[0; 512], true).unwrap_err().ends_with("got zeroes"));
        assert!(check(&[7; 512], false).unwrap_err().contains("got no stamp but [07,"));
    }

    #[test]
    fn finds_each_damaged_byte() {
        for place in [0, 8, 31, 32, 300, 511] {
            let mut block = block_of(STAMP);
            block[place] ^= 0x10;
            assert!(check(&block, true).is_err(), "byte {place}");
        }
        let mut block = block_of(STAMP);
        block[300] ^= 0x10;
        assert!(check(&block, false).unwrap_err().contains("byte 300 being"));
    }
}
