//! `poller`: what a polling thread calls. The controller's poller, queue pairs, groups of them, and pinning.
//!
//! Thread rules are types: a [`Poller`] and a [`QueuePair`] have one owner each (`&mut`) and may move between threads.
#![forbid(unsafe_code)]

mod batch;
mod commands;
mod ctrlr_poller;
mod group;
mod io;
mod pin;
mod qpair;
mod retrying;
#[cfg(test)]
mod tests;

pub use ctrlr_poller::{PollError, Poller, PollerError};
pub use group::PollGroup;
pub use io::{IoCompletion, QpairError, QpairOptions, QpairStatistics, SubmitError, SubmitReason};
pub use pin::{PinError, core_ids, pin_to_core};
pub use qpair::QueuePair;
