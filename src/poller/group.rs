//! Poll groups: many queue pairs, of one controller or several, polled by one thread.
#![forbid(unsafe_code)]

use super::io::{IoCompletion, QpairError};
use super::qpair::QueuePair;

/// Queue pairs that one thread polls in turn.
#[derive(Debug, Default)]
pub struct PollGroup {
    qpairs: Vec<QueuePair>,
}

impl PollGroup {
    /// A group of none.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a queue pair; returns its index, by which completions name it.
    pub fn add(&mut self, qpair: QueuePair) -> usize {
        self.qpairs.push(qpair);
        self.qpairs.len() - 1
    }

    /// Takes a queue pair out. The last one of the group takes its index.
    ///
    /// # Panics
    /// If there is no such index.
    pub fn remove(&mut self, index: usize) -> QueuePair {
        self.qpairs.swap_remove(index)
    }

    /// How many queue pairs there are.
    pub fn len(&self) -> usize {
        self.qpairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.qpairs.is_empty()
    }

    /// The queue pair at `index`.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut QueuePair> {
        self.qpairs.get_mut(index)
    }

    /// All queue pairs.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut QueuePair> {
        self.qpairs.iter_mut()
    }

    /// Polls each queue pair once, for `max_each` completions at most, and gives them to `each` with the queue pair's index. Returns how many, or the first
    /// error with the index of its queue pair; the others were polled all the same.
    #[inline]
    pub fn poll(
        &mut self,
        max_each: usize,
        mut each: impl FnMut(usize, IoCompletion),
    ) -> Result<usize, (usize, QpairError)> {
        let mut count = 0;
        let mut failed = None;
        for (index, qpair) in self.qpairs.iter_mut().enumerate() {
            match qpair.poll(max_each, |completion| each(index, completion)) {
                Ok(completed) => count += completed,
                Err(error) => failed = failed.or(Some((index, error))),
            }
        }
        failed.map_or(Ok(count), Err)
    }
}
