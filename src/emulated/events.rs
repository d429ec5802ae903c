//! Async events: requests that are outstanding, events that wait for one, and masking until the log was read (NVMe Base 2.0,
//! 5.2). Who raises which event is not known here.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::faults::Mischief;
use crate::spec::log::LogId;

/// One async event, as dword 0 of the completion tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Event {
    kind: u8,
    info: u8,
    log: LogId,
}

impl Event {
    pub(super) const INVALID_DOORBELL_REGISTER: Self = Self { kind: 0, info: 0, log: LogId::ERROR };
    pub(super) const INVALID_DOORBELL_VALUE: Self = Self { kind: 0, info: 1, log: LogId::ERROR };
    pub(super) const RELIABILITY: Self = Self { kind: 1, info: 0, log: LogId::SMART };
    pub(super) const TEMPERATURE: Self = Self { kind: 1, info: 1, log: LogId::SMART };
    pub(super) const SPARE: Self = Self { kind: 1, info: 2, log: LogId::SMART };
    pub(super) const FIRMWARE_ACTIVATION: Self = Self { kind: 2, info: 1, log: LogId::FIRMWARE_SLOT };
    pub(super) const NAMESPACE_CHANGED: Self = Self { kind: 2, info: 0, log: LogId::CHANGED_NS_LIST };

    fn dw0(self) -> u32 {
        u32::from(self.kind) | u32::from(self.info) << 8 | u32::from(self.log.0) << 16
    }
}

/// Events and the requests for them.
#[derive(Debug)]
pub(super) struct Events {
    limit: usize,
    /// CIDs of the outstanding requests, oldest first, with what is to go wrong with them.
    requests: VecDeque<(u16, Option<Mischief>)>,
    /// Events not yet reported. No event is in it twice, so that it cannot grow.
    waiting: Vec<Event>,
    /// Reported and not yet cleared by reading the log.
    masked: Vec<Event>,
}

impl Events {
    pub(super) fn new(limit: u16) -> Self {
        let limit = limit.into();
        Self { limit, requests: VecDeque::with_capacity(limit), waiting: Vec::new(), masked: Vec::new() }
    }

    /// Forgets everything, as a controller reset does.
    pub(super) fn reset(&mut self) {
        self.requests.clear();
        self.waiting.clear();
        self.masked.clear();
    }

    /// Keeps a request; false when there are as many as are allowed.
    pub(super) fn request(&mut self, cid: u16, mischief: Option<Mischief>) -> bool {
        let accepted = self.requests.len() < self.limit;
        if accepted {
            self.requests.push_back((cid, mischief));
        }
        accepted
    }

    pub(super) fn is_requested_by(&self, cid: u16) -> bool {
        self.requests.iter().any(|request| request.0 == cid)
    }

    /// Takes a request back; whether there was one.
    pub(super) fn withdraw(&mut self, cid: u16) -> bool {
        let found = self.requests.iter().position(|request| request.0 == cid);
        found.and_then(|index| self.requests.remove(index)).is_some()
    }

    pub(super) fn raise(&mut self, event: Event) {
        if !self.waiting.contains(&event) {
            self.waiting.push(event);
        }
    }

    fn deliverable(&self) -> Option<usize> {
        self.waiting.iter().position(|event| self.masked.iter().all(|masked| masked.kind != event.kind))
    }

    #[inline]
    pub(super) fn is_deliverable(&self) -> bool {
        !self.waiting.is_empty() && !self.requests.is_empty() && self.deliverable().is_some()
    }

    /// The next request to complete, and dword 0 for it. Further events of that type wait until the log is read.
    pub(super) fn deliver(&mut self) -> Option<(u16, u32, Option<Mischief>)> {
        let index = self.deliverable()?;
        let (cid, mischief) = self.requests.pop_front()?;
        let event = self.waiting.remove(index);
        self.masked.push(event);
        Some((cid, event.dw0(), mischief))
    }

    /// The log page was read without Retain Asynchronous Event: whoever read it knows what waited as well.
    pub(super) fn log_read(&mut self, log: LogId) {
        self.waiting.retain(|event| event.log != log);
        self.masked.retain(|event| event.log != log);
    }
}
