//! Asynchronous events: requests that wait at the controller, what they report, and the log page that is read before each is asked for again.
//!
//! NVMe Base 2.0, 5.2. At most AERL + 1 requests; an event's log is read with RAE = 0, which lets the controller report that kind again. Namespace changes
//! start a rescan, and are announced when it is over. After each bring-up, the controller is told which kinds it is to report, and asked for them again.
#![forbid(unsafe_code)]

use super::core::{Core, Phase, Purpose};
use crate::dma::{DmaBuffer, DmaSlice};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::feature::{AsyncEvent, AsyncEventConfig, FeatureId};
use crate::spec::log::LogId;
use std::collections::VecDeque;

/// The most event requests that the driver keeps at the controller.
const MAX_REQUESTS: u32 = 4;
/// The SMART critical warnings that are reported: spare, temperature, reliability, read-only, volatile memory (NVMe Base 2.0, 5.16.1.3).
const CRITICAL_WARNINGS: u8 = 0x1f;
/// What is read of an event's log page, in bytes: all of the pages that events name but for the longest, whose start clears the event as well.
const LOG_BYTES: usize = 4096;

/// The state of event reporting.
#[derive(Debug)]
pub(super) struct Events {
    /// How many requests the controller takes.
    limit: u32,
    /// How many wait at the controller.
    waiting: u32,
    /// Logs to be read.
    logs: VecDeque<LogId>,
    /// `None` while a log is being read into it.
    buffer: Option<DmaBuffer>,
    reading: Option<LogId>,
    /// Changes of namespaces that are announced after the next rescan.
    changes: Vec<AsyncEvent>,
}

impl Events {
    /// Bytes of the buffer that [`Events::new`] needs.
    pub(super) const BUFFER_BYTES: usize = LOG_BYTES;

    pub(super) fn new(buffer: DmaBuffer) -> Self {
        Self {
            limit: 1,
            waiting: 0,
            logs: VecDeque::new(),
            buffer: Some(buffer),
            reading: None,
            changes: Vec::new(),
        }
    }

    /// AERL is 0-based.
    pub(super) fn set_limit(&mut self, aerl_z: u8) {
        self.limit = (u32::from(aerl_z) + 1).min(MAX_REQUESTS);
    }

    /// Admin queue entries that event reporting may still ask for: requests up to the limit, and the reading of a log.
    pub(super) fn entries_needed(&self) -> usize {
        self.limit.saturating_sub(self.waiting) as usize + usize::from(self.reading.is_none())
    }

    pub(super) fn put_back(&mut self, buffer: DmaBuffer) {
        self.buffer = Some(buffer);
    }

    /// The controller has stopped: nothing waits there any more.
    pub(super) fn forget(&mut self) {
        self.waiting = 0;
        self.logs.clear();
        self.reading = None;
    }
}

impl Core {
    /// Tells the controller which events it is to report: critical warnings, and of the notices that it has (OAES) those that the driver can do something with.
    pub(super) fn configure_events(&mut self) {
        let oaes = self.hub.identity.load().as_ref().map_or(0, |identity| identity.oaes);
        let supported = AsyncEventConfig::from_bits(oaes);
        let config = AsyncEventConfig::new()
            .with_smart(CRITICAL_WARNINGS)
            .with_namespace_attributes(supported.namespace_attributes())
            .with_firmware_activation(supported.firmware_activation());
        let command = Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, config.into_bits());
        if !self.admin.is_full() {
            self.start_driver(Purpose::EventConfig, command, None);
        }
    }

    /// A rescan is over: changes that were reported before can be seen.
    pub(super) fn announce_changes(&mut self) {
        for event in std::mem::take(&mut self.events.changes) {
            self.hub.announce(event);
        }
    }

    /// Sends event requests up to the limit.
    pub(super) fn arm_events(&mut self) {
        while matches!(self.phase, Phase::Running) && self.events.waiting < self.events.limit {
            if self.admin.is_full()
                || !self.start_driver(Purpose::Event, Command::async_event_request(), None)
            {
                break;
            }
            self.events.waiting += 1;
        }
    }

    /// An event request was answered.
    pub(super) fn event_reported(&mut self, completion: Completion) {
        self.events.waiting = self.events.waiting.saturating_sub(1);
        if !completion.status().is_success() {
            // Over the limit, or aborted: not asked again until the next reset, or it would come back at once, for ever.
            tracing::warn!(status = %completion.status(), "an asynchronous event request was refused");
            self.events.limit = self.events.limit.min(self.events.waiting);
            return;
        }
        self.hub.statistics.events.add(1);
        let event = AsyncEvent::from_bits(completion.dw0);
        let log = event.log_page();
        if log != LogId::CHANGED_NS_LIST {
            self.hub.announce(event);
        } else if !self.events.changes.contains(&event) {
            self.events.changes.push(event);
        }
        tracing::info!(dw0 = format_args!("{:#010x}", completion.dw0), log = log.0, "asynchronous event");
        if log.0 == 0 {
            self.arm_events();
        } else if !self.events.logs.contains(&log) {
            self.events.logs.push_back(log);
        }
        self.read_next_log();
    }

    fn read_next_log(&mut self) {
        if self.events.reading.is_some() || !matches!(self.phase, Phase::Running) {
            return;
        }
        let Some(buffer) = self.events.buffer.take() else { return };
        let Some(log) = self.events.logs.pop_front() else {
            self.events.buffer = Some(buffer);
            return;
        };
        self.events.reading = Some(log);
        let command = Command::get_log_page(log, u32::MAX, log_bytes(log), 0, false);
        match DmaSlice::new(buffer, 0, log_bytes(log)) {
            Ok(data) => {
                self.start_driver(Purpose::EventLog, command, Some(data));
            }
            Err((_, buffer)) => self.events.buffer = Some(buffer),
        }
    }

    /// The log of an event was read, which lets the controller report its kind again.
    pub(super) fn event_log_read(&mut self, completion: Completion, data: Option<DmaSlice>) {
        if let Some(data) = data {
            self.events.put_back(data.into_buffer());
        }
        let log = self.events.reading.take();
        if !completion.status().is_success() {
            tracing::warn!(?log, status = %completion.status(), "the log page of an event could not be read");
        }
        if log == Some(LogId::CHANGED_NS_LIST) {
            self.start_rescan();
        }
        self.arm_events();
        self.read_next_log();
    }
}

/// How much of a log page is read.
fn log_bytes(log: LogId) -> usize {
    match log {
        LogId::SMART | LogId::FIRMWARE_SLOT => 512,
        LogId::ERROR => 64,
        _ => LOG_BYTES,
    }
}
