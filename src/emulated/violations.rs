//! The list of rules that the driver broke, in words. What counts as a breach is decided where it is noticed, not here.
#![forbid(unsafe_code)]

use std::sync::{Mutex, PoisonError};

/// How many breaches are kept word for word; later ones are only counted.
const KEPT_MAX: usize = 256;

#[derive(Debug, Default)]
struct List {
    kept: Vec<String>,
    more: u64,
}

/// What the driver did wrong so far.
#[derive(Debug, Default)]
pub(super) struct Violations(Mutex<List>);

impl Violations {
    /// Records a breach and traces it as a warning.
    #[cold]
    pub(super) fn record(&self, what: String) {
        tracing::warn!("the driver broke a rule: {what}");
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.kept.len() < KEPT_MAX {
            list.kept.push(what);
        } else {
            list.more += 1;
        }
    }

    /// All breaches so far, oldest first; the last line counts those that were not kept.
    pub(super) fn all(&self) -> Vec<String> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = list.kept.clone();
        if list.more > 0 {
            all.push(format!("and {} more", list.more));
        }
        all
    }
}
