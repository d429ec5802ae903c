//! What inputs are drawn with, and the loop that draws them.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// xorshift64*, and no crate's generator: a number that found something is kept in the corpus, and is to mean the same input for ever.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common (splitmix64's finisher), and no state may be 0.
        let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ mixed >> 31) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to `bound - 1`; 0 when there is nothing to choose from.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A number that is more often at an edge than chance would have it.
    pub fn number(&mut self) -> u64 {
        const EDGES: [u64; 14] =
            [0, 1, 2, 7, 8, 255, 511, 4095, 4096, 0xffff, 0x7fff_ffff, u32::MAX as u64, 1 << 63, u64::MAX];
        match self.below(4) {
            0 | 1 => self.choose(&EDGES),
            2 => self.next() & 0xff,
            _ => self.next(),
        }
    }

    /// Changes bytes here and there, as `changes` says, and keeps their number.
    pub fn mutate(&mut self, bytes: &mut [u8], changes: usize) {
        for _ in 0..changes {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.number() as u8,
                2 => {
                    // A field, at its alignment.
                    let size = self.choose(&[2_usize, 4, 8]);
                    let (start, value) = (at / size * size, self.number().to_le_bytes());
                    if let Some(field) = bytes.get_mut(start..start + size) {
                        field.copy_from_slice(&value[..size]);
                    }
                }
                _ => {
                    let end = bytes.len().min(at + self.below(64));
                    let fill = self.number() as u8;
                    bytes[at..end].fill(fill);
                }
            }
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number is expected")))
}

/// Tries `input` with the seeds of the corpus, then with `usual` others. An input that fails is named.
pub fn fuzz(target: &str, usual: u64, mut input: impl FnMut(u64)) {
    if let Some(seed) = variable("SLIPRING_FUZZ_ONLY") {
        return input(seed);
    }
    let runs = usual * variable("SLIPRING_FUZZ_RUNS").unwrap_or(1);
    let first = variable("SLIPRING_FUZZ_SEED").unwrap_or(1) << 40;
    let kept = crate::corpus::seeds(target);
    for seed in kept.into_iter().chain(first..first + runs) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| input(seed))) {
            say(&format!("{target}: input {seed} fails; SLIPRING_FUZZ_ONLY={seed} repeats it\n"));
            resume_unwind(panic);
        }
    }
    if runs > usual {
        say(&format!("{target}: {runs} inputs from {first} on\n"));
    }
}

fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).expect("written");
}
