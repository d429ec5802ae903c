//! What the threads of one round share, and the dice.

use crate::ledger::{ACCEPTED, Ledger, RAN, REFUSED};
use crate::support::wait_until;
use crate::{BLOCK_BYTES, Weather};
use slipring::ctrlr::{Ctrlr, CtrlrState, Message, Producer, SendErrorReason};
use slipring::ring::Scheme;
use slipring::spec::command::Command;
use slipring::spec::feature::FeatureId;
use slipring::spec::log::LogId;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one thread draws. A storm need not be the same twice, but its seed is printed.
pub struct Random(pub fastrand::Rng);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.u64(..bound)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What the threads of one round share. `S` threads end when they are told to, or when they find the controller detached.
pub struct Round<S: Scheme> {
    pub ctrlr: Ctrlr<S>,
    pub weather: Weather,
    pub ledger: Arc<Ledger>,
    /// Everybody but the poller is to end.
    pub stop: AtomicBool,
    /// So is the poller.
    pub stop_polling: AtomicBool,
    /// Producers of whoever is registered, for others to send through.
    pub producers: Mutex<Vec<Option<Producer<S>>>>,
    pub next_life: AtomicU64,
    pub counts: Counts,
}

/// That the storm was one. Relaxed, all.
#[derive(Debug, Default)]
pub struct Counts {
    pub registrations: AtomicU64,
    pub resets: AtomicU64,
    pub pollers: AtomicU64,
    pub lives: AtomicU64,
    pub reconnects: AtomicU64,
    pub ios: AtomicU64,
    pub verified: AtomicU64,
    pub given_back: AtomicU64,
    pub dropped_in_flight: AtomicU64,
    pub refused: AtomicU64,
    /// Commands that the device answered with an error.
    pub errors: AtomicU64,
}

pub fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl<S: Scheme> Round<S> {
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Whether the controller is not to be expected to work any more.
    pub fn is_over(&self) -> bool {
        let state = self.ctrlr.state();
        let may_fail = self.weather == Weather::Failure;
        assert!(may_fail || state != CtrlrState::Failed, "{:?}", self.ctrlr.failure());
        matches!(state, CtrlrState::Failed | CtrlrState::Detaching | CtrlrState::Detached)
    }

    /// What somebody met for `error`: whoever finds the device gone may be the first to know, and the controller is soon.
    pub fn comes_to_its_end(&self, error: &dyn Display) {
        if self.weather == Weather::Failure {
            wait_until("the controller has failed", || self.is_over());
        }
        assert!(self.is_over(), "{error}");
    }

    /// Whether everybody has done a fair amount of work, or the controller has failed, after which nobody will.
    pub fn has_had_enough(&self) -> bool {
        let counts = &self.counts;
        let has = |counter: &AtomicU64, least| counter.load(Ordering::Relaxed) >= least;
        let all = has(&counts.registrations, 100)
            && has(&counts.resets, 3)
            && has(&counts.lives, 6)
            && has(&counts.ios, 500)
            && self.ledger.ids() >= 1000;
        if self.weather == Weather::Failure { self.ctrlr.state() == CtrlrState::Failed } else { all }
    }

    pub fn slot(&self, index: usize) -> Option<Producer<S>> {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)[index].clone()
    }

    pub fn set_slot(&self, index: usize, producer: Option<Producer<S>>) {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)[index] = producer;
    }

    /// One message of any kind, for the ledger's `id`.
    pub fn message(&self, id: u64, random: &mut Random) -> Message {
        let buffer = |len| self.ctrlr.allocate(len).ok().map(|buffer| Box::new(buffer.into()));
        let plain = Message::Admin {
            command: Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0),
            data: None,
        };
        match random.below(16) {
            0..8 => {
                let ledger = Arc::clone(&self.ledger);
                Message::call(move |_| {
                    ledger.mark(id, RAN);
                    id
                })
            }
            8 | 9 => buffer(512).map_or(plain, |data| Message::Admin {
                command: Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true),
                data: Some(data),
            }),
            10 | 11 => buffer(BLOCK_BYTES)
                .map_or(plain, |data| Message::Io { command: Command::read(1, 0, 1), data: Some(data) }),
            12 => Message::Io { command: Command::flush(1), data: None },
            13 if random.one_in(8) => Message::Rescan,
            _ => plain,
        }
    }

    /// Notes whether a message was accepted; true if it was.
    pub fn sent(&self, id: u64, result: Result<(), SendErrorReason>) -> bool {
        match result {
            Ok(()) => {
                self.ledger.mark(id, ACCEPTED);
                true
            }
            Err(reason) => {
                self.ledger.mark(id, REFUSED);
                count(&self.counts.refused, 1);
                assert_ne!(reason, SendErrorReason::WindowFull);
                std::thread::yield_now();
                false
            }
        }
    }
}
