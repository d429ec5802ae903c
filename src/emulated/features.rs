//! Get and Set Features: the values, current, default and saved, and what each feature allows (NVMe Base 2.0, 5.15 and 5.27).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use zerocopy::IntoBytes;

use super::config::Config;
use super::device::{Device, Reply};
use super::events::Event;
use super::prp::Cursor;
use crate::spec::command::{BROADCAST_NSID, Command};
use crate::spec::feature::{FeatureId, HostBehaviorSupport};
use crate::spec::status::Status;

/// Over-temperature threshold at the start, in kelvins; also Identify's warning threshold.
pub(super) const WARNING_TEMPERATURE_K: u16 = 343;
/// Number of Queues asked for one that is not allowed.
const QUEUES_INVALID_Z: u32 = 0xffff;
/// Supported capabilities, as SEL=3 reports them.
const SAVEABLE: u32 = 1;
const NAMESPACE_SPECIFIC: u32 = 2;
const CHANGEABLE: u32 = 4;

/// A feature, and which of several values of it: a namespace, a vector, a temperature threshold.
type Key = (u8, u32);

/// The values of all features.
#[derive(Debug)]
pub(super) struct Features {
    current: BTreeMap<Key, u32>,
    saved: BTreeMap<Key, u32>,
    /// The driver said how many queues it wants, since the last reset.
    pub(super) queues_set: bool,
    /// What the host has learned since NVMe 1.0, as it said since the last reset: ACRE, ETDAS, LBAFEE.
    host_behavior: [u8; 3],
    /// Queue pairs that may be created.
    pub(super) queues: u16,
}

impl Features {
    pub(super) fn new(config: &Config) -> Self {
        let (current, saved) = (BTreeMap::new(), BTreeMap::new());
        Self { current, saved, queues_set: false, host_behavior: [0; 3], queues: config.io_queues }
    }

    /// A controller reset: saved values are current again.
    pub(super) fn reset(&mut self) {
        self.current.clone_from(&self.saved);
        self.queues_set = false;
        self.host_behavior = [0; 3];
    }

    /// The host heeds Command Retry Delays (ACRE).
    pub(super) fn heeds_retry_delays(&self) -> bool {
        self.host_behavior[0] == 1
    }

    fn default_of((id, sub): Key) -> u32 {
        match FeatureId(id) {
            // No limit on a burst.
            FeatureId::ARBITRATION => 0b111,
            FeatureId::TEMPERATURE_THRESHOLD if sub == 0 => WARNING_TEMPERATURE_K.into(),
            FeatureId::VOLATILE_WRITE_CACHE => 1,
            FeatureId::INTERRUPT_VECTOR_CONFIG => sub,
            _ => 0,
        }
    }

    fn current(&self, key: Key) -> u32 {
        self.current.get(&key).copied().unwrap_or_else(|| Self::default_of(key))
    }

    fn saved(&self, key: Key) -> u32 {
        self.saved.get(&key).copied().unwrap_or_else(|| Self::default_of(key))
    }

    /// The volatile write cache is enabled.
    #[inline]
    pub(super) fn is_write_cached(&self) -> bool {
        self.current((FeatureId::VOLATILE_WRITE_CACHE.0, 0)) & 1 == 1
    }

    /// Over and under temperature thresholds in kelvins.
    pub(super) fn temperature_thresholds_k(&self) -> (u16, u16) {
        let threshold = |sub| self.current((FeatureId::TEMPERATURE_THRESHOLD.0, sub)) as u16;
        (threshold(0), threshold(1))
    }

    /// Async Event Configuration.
    pub(super) fn async_event_config(&self) -> u32 {
        self.current((FeatureId::ASYNC_EVENT_CONFIG.0, 0))
    }
}

fn capabilities(id: FeatureId) -> Option<u32> {
    match id {
        FeatureId::ARBITRATION
        | FeatureId::TEMPERATURE_THRESHOLD
        | FeatureId::VOLATILE_WRITE_CACHE
        | FeatureId::INTERRUPT_COALESCING
        | FeatureId::INTERRUPT_VECTOR_CONFIG
        | FeatureId::WRITE_ATOMICITY
        | FeatureId::ASYNC_EVENT_CONFIG => Some(CHANGEABLE | SAVEABLE),
        FeatureId::ERROR_RECOVERY => Some(CHANGEABLE | SAVEABLE | NAMESPACE_SPECIFIC),
        FeatureId::POWER_MANAGEMENT
        | FeatureId::NUMBER_OF_QUEUES
        | FeatureId::COMMAND_SET_PROFILE
        | FeatureId::KEEP_ALIVE_TIMER
        | FeatureId::HOST_BEHAVIOR_SUPPORT => Some(CHANGEABLE),
        _ => None,
    }
}

impl Device {
    /// What can be done with a feature, if this controller has it.
    fn feature_capabilities(&self, id: FeatureId) -> Result<u32, Status> {
        let has_it = id != FeatureId::KEEP_ALIVE_TIMER || self.config.kas != 0;
        capabilities(id).filter(|_| has_it).ok_or(Status::INVALID_FIELD.with_dnr())
    }

    /// Which of several values of a feature a command means, after its fields were checked.
    fn feature_key(&self, id: FeatureId, command: &Command) -> Result<Key, Status> {
        let invalid = Err(Status::INVALID_FIELD.with_dnr());
        let sub = match id {
            FeatureId::TEMPERATURE_THRESHOLD => {
                let (select, kind) = (command.cdw11 >> 16 & 0xf, command.cdw11 >> 20 & 0b11);
                // The composite temperature, or all sensors, of which there is none.
                if !matches!(select, 0 | 0xf) || kind > 1 {
                    return invalid;
                }
                kind
            }
            FeatureId::INTERRUPT_VECTOR_CONFIG => {
                let vector = command.cdw11 & 0xffff;
                if vector >= u32::from(self.config.interrupts) {
                    return invalid;
                }
                vector
            }
            FeatureId::ERROR_RECOVERY => command.nsid,
            _ => 0,
        };
        Ok((id.0, sub))
    }

    /// Get Features.
    pub(super) fn get_features(&mut self, command: &Command) -> Reply {
        let id = FeatureId(command.cdw10 as u8);
        let select = command.cdw10 >> 8 & 0b111;
        let capabilities = self.feature_capabilities(id)?;
        if select == 3 {
            return Ok(capabilities);
        }
        if capabilities & NAMESPACE_SPECIFIC != 0 {
            self.active_namespace(command.nsid)?;
        }
        let key = self.feature_key(id, command)?;
        match (id, select) {
            (FeatureId::HOST_BEHAVIOR_SUPPORT, 0..=2) => {
                let now = if select == 0 { self.features.host_behavior } else { [0; 3] };
                self.get_host_behavior(command, now)
            }
            (FeatureId::NUMBER_OF_QUEUES, 0..=2) => Ok(self.queues_dw0()),
            (_, 0) => Ok(self.features.current(key)),
            (_, 1) => Ok(Features::default_of(key)),
            (_, 2) => Ok(self.features.saved(key)),
            _ => Err(Status::INVALID_FIELD.with_dnr()),
        }
    }

    /// Set Features.
    pub(super) fn set_features(&mut self, command: &Command) -> Reply {
        let id = FeatureId(command.cdw10 as u8);
        let save = command.cdw10 >> 31 == 1;
        let capabilities = self.feature_capabilities(id)?;
        if save && capabilities & SAVEABLE == 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE.with_dnr());
        }
        if capabilities & NAMESPACE_SPECIFIC == 0 {
            if !matches!(command.nsid, 0 | BROADCAST_NSID) {
                return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.with_dnr());
            }
        } else if command.nsid != BROADCAST_NSID {
            self.active_namespace(command.nsid)?;
        }
        let key = self.feature_key(id, command)?;
        let mut value = Self::check_value(id, command.cdw11)?;
        if id == FeatureId::KEEP_ALIVE_TIMER {
            value = self.set_keep_alive_timer(value);
        }
        if id == FeatureId::HOST_BEHAVIOR_SUPPORT {
            return self.set_host_behavior(command);
        }
        if id == FeatureId::NUMBER_OF_QUEUES {
            return self.set_queues(value);
        }
        let keys: Vec<Key> = if id == FeatureId::ERROR_RECOVERY && command.nsid == BROADCAST_NSID {
            self.namespaces.iter().map(|ns| (id.0, ns.nsid)).collect()
        } else {
            vec![key]
        };
        for key in keys {
            self.features.current.insert(key, value);
            if save {
                self.features.saved.insert(key, value);
            }
        }
        if id == FeatureId::VOLATILE_WRITE_CACHE && value & 1 == 0 {
            self.namespaces.iter().try_for_each(super::namespace::Namespace::flush)?;
        }
        self.judge_health();
        Ok(0)
    }

    fn get_host_behavior(&mut self, command: &Command, behavior: [u8; 3]) -> Reply {
        let [acre, etdas, lbafee] = behavior;
        let data = HostBehaviorSupport { acre, etdas, lbafee, ..HostBehaviorSupport::default() };
        self.memory.describe(command, size_of::<HostBehaviorSupport>())?;
        self.memory.to_host(&mut Cursor::default(), data.as_bytes());
        Ok(0)
    }

    fn set_host_behavior(&mut self, command: &Command) -> Reply {
        let mut data = HostBehaviorSupport::default();
        self.memory.describe(command, size_of::<HostBehaviorSupport>())?;
        self.memory.fill_from_host(&mut Cursor::default(), data.as_mut_bytes());
        let behavior = [data.acre, data.etdas, data.lbafee];
        if behavior.iter().any(|&byte| byte > 1) {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        self.features.host_behavior = behavior;
        Ok(0)
    }

    fn check_value(id: FeatureId, value: u32) -> Result<u32, Status> {
        let invalid = match id {
            // There is one power state.
            FeatureId::POWER_MANAGEMENT => value & 0x1f != 0,
            // There is one combination of command sets.
            FeatureId::COMMAND_SET_PROFILE => value & 0x1ff != 0,
            // Reading deallocated blocks is never an error here.
            FeatureId::ERROR_RECOVERY => value & 1 << 16 != 0,
            FeatureId::NUMBER_OF_QUEUES => {
                value & 0xffff == QUEUES_INVALID_Z || value >> 16 == QUEUES_INVALID_Z
            }
            _ => false,
        };
        if invalid {
            return Err(Status::INVALID_FIELD.with_dnr());
        }
        Ok(match id {
            FeatureId::VOLATILE_WRITE_CACHE | FeatureId::WRITE_ATOMICITY => value & 1,
            FeatureId::TEMPERATURE_THRESHOLD | FeatureId::INTERRUPT_COALESCING => value & 0xffff,
            FeatureId::INTERRUPT_VECTOR_CONFIG => value & 0x1_ffff,
            _ => value,
        })
    }

    fn queues_dw0(&self) -> u32 {
        let queues_z = u32::from(self.features.queues) - 1;
        queues_z | queues_z << 16
    }

    fn set_queues(&mut self, asked: u32) -> Reply {
        let refuse = |why: &str| {
            self.transport.violations.record(why.to_owned());
            Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr())
        };
        if self.sqs.len() > 1 || self.cqs.iter().flatten().count() > 1 {
            return refuse("Set Features, Number of Queues, after an I/O queue was created: it comes before");
        }
        if self.features.queues_set {
            return refuse(
                "Set Features, Number of Queues, for the second time since the reset: once is enough",
            );
        }
        // As many pairs as both numbers are enough for, as far as they go.
        let asked = (asked & 0xffff).min(asked >> 16) + 1;
        self.features.queues = asked.min(self.config.io_queues.into()) as u16;
        self.features.queues_set = true;
        Ok(self.queues_dw0())
    }

    /// Raises the events that the temperature or the critical warnings call for.
    pub(super) fn judge_health(&mut self) {
        let before = self.logs.critical_warning;
        let now = self.critical_warning();
        self.logs.critical_warning = now;
        // An event for each warning that is new and asked for.
        let new = now & !before & self.features.async_event_config() as u8;
        for (bit, event) in [(0, Event::SPARE), (1, Event::TEMPERATURE)] {
            if new & 1 << bit != 0 {
                self.events.raise(event);
            }
        }
        if new & !0b11 != 0 {
            self.events.raise(Event::RELIABILITY);
        }
    }
}
