//! Ctrl-C, and other polite requests to end (SIGTERM, SIGHUP): a run ends early and reports as ever; the second one ends the process.
#![forbid(unsafe_code)]

use crate::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// What a shell gives to a process that SIGINT has ended.
const STATUS: i32 = 130;

/// Catches them from now on.
pub(crate) fn catch() -> Result<(), Error> {
    let caught = ctrlc::set_handler(|| {
        // Relaxed: nothing but the flag is told.
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(STATUS);
        }
    });
    caught.map_err(|error| Error::failed(format!("cannot catch Ctrl-C: {error}")))
}

/// Whether one came.
pub(crate) fn came() -> bool {
    // Relaxed: see `catch`.
    INTERRUPTED.load(Ordering::Relaxed)
}
