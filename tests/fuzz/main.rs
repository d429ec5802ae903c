//! Arbitrary input, where the driver takes any: completions and registers of a hostile device, its Identify data and log pages, transfers to be described by PRPs,
//! addresses and fault descriptions of the command line. Nothing panics, and what is accepted stands up to a model that shares no code with the driver.
//!
//! Seeded, in the process, on stable Rust. What was found, and what reaches far, is in `corpus/`, and tried first. `dice` draws, `corpus` reads, `hostile` is
//! the device, the other files are the targets. Messages of CUSE have a target of their own (`tests/cuse/fuzz.rs`).
//!
//! A run ends by a count, so it is the same on every machine: `SLIPRING_FUZZ_RUNS` runs each target that much longer (the usual count times that number), and
//! `SLIPRING_FUZZ_SEED` draws other inputs. A failure says the target and the seed of the input, which `SLIPRING_FUZZ_ONLY=SEED` repeats.
#![allow(unreachable_pub, reason = "a test target exports nothing")]

mod addresses;
mod attach;
mod completions;
mod corpus;
mod dice;
mod hostile;
mod pages;
mod prp;
