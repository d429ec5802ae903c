//! Pinning a polling thread to a core, with what `core_affinity` leaves out: an error that says which cores there are.
#![forbid(unsafe_code)]

use core_affinity::CoreId;

/// Why a thread was not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// There is no such core, or this process may not use it.
    #[error("there is no core {core} for this process; it may use {usable:?}")]
    NoSuchCore {
        /// The core that was asked for.
        core: usize,
        /// The cores that may be used.
        usable: Vec<usize>,
    },
    /// The system refused.
    #[error("the system refused to pin the thread to core {core}")]
    Refused {
        /// The core that was asked for.
        core: usize,
    },
}

/// The cores that this process may use, ascending. Empty when the system does not say.
pub fn core_ids() -> Vec<usize> {
    let mut ids: Vec<_> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    ids.sort_unstable();
    ids
}

/// Pins the calling thread to `core`.
pub fn pin_to_core(core: usize) -> Result<(), PinError> {
    let usable = core_ids();
    if !usable.contains(&core) {
        return Err(PinError::NoSuchCore { core, usable });
    }
    if core_affinity::set_for_current(CoreId { id: core }) { Ok(()) } else { Err(PinError::Refused { core }) }
}
