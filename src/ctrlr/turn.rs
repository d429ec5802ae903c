//! The polling thread's turn: what a message's closure gets to work with.
#![forbid(unsafe_code)]

use super::core::Core;
use super::message::{Envelope, Message, Reply, Responder};
use super::namespace::Namespace;
use super::state::CtrlrState;
use super::statistics::CtrlrStatistics;
use crate::ring::Outcome;
use std::fmt;
use std::sync::Arc;

/// The polling thread's turn: what a [`Message::Call`] gets to work with. It must not wait for anything.
pub struct Turn<'a> {
    pub(super) core: &'a mut Core,
}

impl Turn<'_> {
    /// What the controller is doing.
    pub fn state(&self) -> CtrlrState {
        self.core.hub.state.get()
    }

    /// The namespaces as last read.
    pub fn namespaces(&self) -> Arc<Vec<Namespace>> {
        self.core.hub.namespaces.load_full()
    }

    /// The controller's counters.
    pub fn statistics(&self) -> CtrlrStatistics {
        self.core.hub.read_statistics()
    }

    /// Executes another message; `callback` gets its outcome on this thread, now or in a later poll.
    pub fn send(&mut self, message: Message, callback: impl FnOnce(Outcome<Reply>) + Send + 'static) {
        let responder = Responder::to_callback(Box::new(callback));
        self.core.execute(Envelope { message, responder });
    }
}

impl fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("state", &self.state()).finish_non_exhaustive()
    }
}
