//! `queue`: submission and completion queues and the trackers of what is in flight, as admin and I/O queues both use
//! them.
//!
//! A queue pair is told its identifier and its doorbells and knows nothing of controllers, namespaces or statuses.

mod error;
mod pair;
mod reap;
mod tracker;

#[cfg(test)]
mod tests;

pub use error::{QueueError, RejectReason, Rejected, SetupError};
pub use pair::{Pair, PairConfig};
pub use tracker::{Outstanding, TIME_MASK};
