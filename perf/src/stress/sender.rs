//! One sending thread of a storm: registers, sends in every way there is, unregisters with messages under way or without, and begins anew,
//! until the controller is detached.
#![forbid(unsafe_code)]

use super::episode::Episode;
use super::ledger::Ledger;
use crate::numbers::Random;
use slipring::ctrlr::{Message, Producer, RegisterError, Reply, SendError, UnregisterError};
use slipring::dma::{DmaError, DmaSlice};
use slipring::ring::{LockFree, Mailbox, Ticket};
use slipring::spec::command::Command;
use slipring::spec::identify::Cns;
use slipring::spec::log::LogId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a retirement may wait for the poller. Far above what it takes, even on a machine that is busy.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(20);
/// How long outcomes may take to arrive once the controller is detached.
const LAST_OUTCOMES: Duration = Duration::from_secs(20);
/// Tickets that are kept before some are waited for.
const MANY_TICKETS: usize = 64;
const WINDOW: usize = 64;
/// Messages per registration, at most.
const MESSAGES: u64 = 200;
const BATCH: u64 = 16;

/// See the module.
pub(super) struct Sender<'a> {
    episode: &'a Episode,
    ledger: Arc<Ledger>,
    random: Random,
    name: String,
    tickets: Vec<(u64, Ticket<Reply>)>,
    mailbox: Mailbox<Reply>,
    /// How often it registered.
    cycles: u64,
}

impl<'a> Sender<'a> {
    pub(super) fn new(episode: &'a Episode, number: usize, random: Random) -> Self {
        Self {
            ledger: Arc::clone(&episode.ledger),
            episode,
            random,
            name: format!("sender-{number}"),
            tickets: Vec::with_capacity(MANY_TICKETS),
            mailbox: Mailbox::new(WINDOW),
            cycles: 0,
        }
    }

    /// Storms until the controller is detached; returns how often it registered.
    pub(super) fn run(mut self) -> u64 {
        loop {
            match self.episode.ctrlr.register(&self.name) {
                Ok(producer) => self.registered(&producer),
                Err(RegisterError::Detached) => break,
                Err(error) => {
                    self.episode.fail(&format!("{}: {error}", self.name));
                    break;
                }
            }
            self.cycles += 1;
            match self.episode.ctrlr.unregister(&self.name, UNREGISTER_TIMEOUT) {
                // A detach unregisters everybody.
                Ok(()) | Err(UnregisterError::NotRegistered { .. }) => {}
                Err(error) => {
                    self.episode.fail(&format!("{}: {error}", self.name));
                    break;
                }
            }
        }
        self.collect_last();
        self.cycles
    }

    fn registered(&mut self, producer: &Producer<LockFree>) {
        let messages = self.random.below(MESSAGES + 1);
        for _ in 0..messages {
            match self.random.below(8) {
                0..=2 => self.by_ticket(producer),
                3..=4 => self.by_mailbox(producer),
                5 => self.by_batch(producer),
                _ => self.by_callback(producer),
            }
            if self.tickets.len() >= MANY_TICKETS {
                self.collect(true);
            }
        }
        // Otherwise what is under way meets the end of the registration.
        if self.random.below(2) == 0 {
            self.collect(true);
        }
        self.collect(false);
    }

    fn by_ticket(&mut self, producer: &Producer<LockFree>) {
        let Some((id, message)) = self.message(producer) else { return };
        match producer.send(message) {
            Ok(ticket) => {
                self.ledger.accepted(id);
                self.tickets.push((id, ticket));
            }
            Err(error) => self.rejected(id, &error),
        }
    }

    fn by_mailbox(&mut self, producer: &Producer<LockFree>) {
        let Some((id, message)) = self.message(producer) else { return };
        match producer.send_to(&mut self.mailbox, id, message) {
            Ok(()) => self.ledger.accepted(id),
            Err(error) => {
                self.rejected(id, &error);
                self.empty_mailbox();
            }
        }
    }

    fn by_batch(&mut self, producer: &Producer<LockFree>) {
        let mut messages = Vec::new();
        for _ in 0..=self.random.below(BATCH) {
            messages.extend(self.message(producer));
        }
        let ids: Vec<u64> = messages.iter().map(|(id, _)| *id).collect();
        // Which error it was is told by what comes back.
        let accepted = producer.send_batch_to(&mut self.mailbox, &mut messages).unwrap_or(0);
        if ids.len() - accepted != messages.len() {
            self.episode.fail("a batch came back with other messages than were not accepted");
        }
        for (place, id) in ids.into_iter().enumerate() {
            if place < accepted { self.ledger.accepted(id) } else { self.ledger.rejected(id) }
        }
        self.empty_mailbox();
    }

    fn by_callback(&mut self, producer: &Producer<LockFree>) {
        let Some((id, message)) = self.message(producer) else { return };
        let ledger = Arc::clone(&self.ledger);
        self.episode.callback_sent();
        let pending = Arc::clone(&self.episode.callbacks);
        let sent = producer.send_with(message, move |outcome| {
            ledger.settle(id, &outcome);
            pending.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        });
        match sent {
            Ok(()) => self.ledger.accepted(id),
            Err(error) => {
                self.episode.callback_returned();
                self.rejected(id, &error);
            }
        }
    }

    fn rejected(&mut self, id: u64, _: &SendError) {
        self.ledger.rejected(id);
        std::thread::yield_now();
    }

    /// Any message, with its number. `None` when there are no more numbers or no memory, because the controller is gone.
    fn message(&mut self, producer: &Producer<LockFree>) -> Option<(u64, Message)> {
        let kind = self.random.below(16);
        let Some(id) = self.ledger.open(kind < 9) else {
            std::thread::sleep(Duration::from_millis(1));
            return None;
        };
        let message = match kind {
            0..9 => {
                let ledger = Arc::clone(&self.ledger);
                Ok(Message::call(move |_| {
                    ledger.ran(id);
                    id
                }))
            }
            9..11 => admin(producer, Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), 512),
            11 => admin(producer, Command::identify(Cns::CTRLR, 0, 0), 4096),
            12 => Ok(Message::Rescan),
            _ => self.io(producer),
        };
        // What was opened and never sent counts as nothing.
        message.ok().map(|message| (id, message))
    }

    /// A read of a random block, or, where nothing that matters is written over, a write.
    fn io(&mut self, producer: &Producer<LockFree>) -> Result<Message, DmaError> {
        let namespace = &self.episode.namespace;
        let data = DmaSlice::from(producer.allocate(namespace.block_bytes as usize)?);
        let lba = self.random.below(namespace.size_blocks);
        let writes = self.episode.may_write && self.random.below(2) == 0;
        let command = if writes { Command::write } else { Command::read };
        Ok(Message::Io { command: command(namespace.nsid, lba, 1), data: Some(Box::new(data)) })
    }

    fn empty_mailbox(&mut self) -> usize {
        let Self { mailbox, ledger, .. } = self;
        mailbox.receive(|id, outcome| ledger.settle(id, &outcome))
    }

    /// Takes the outcomes that have arrived; waits for some of the others if it is to wait.
    fn collect(&mut self, waits: bool) {
        self.empty_mailbox();
        let wait = if waits { Duration::from_millis(self.random.below(4)) } else { Duration::ZERO };
        let tickets = std::mem::take(&mut self.tickets);
        for (id, ticket) in tickets {
            match ticket.wait(wait) {
                Ok(outcome) => self.ledger.settle(id, &outcome),
                Err(pending) => self.tickets.push((id, pending.0)),
            }
        }
    }

    /// After the detach every outcome is there, or lost.
    fn collect_last(&mut self) {
        let deadline = Instant::now() + LAST_OUTCOMES;
        for (id, ticket) in std::mem::take(&mut self.tickets) {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Ok(outcome) = ticket.wait(left) {
                self.ledger.settle(id, &outcome);
            }
        }
        while self.mailbox.in_flight() > 0 && Instant::now() < deadline {
            if self.empty_mailbox() == 0 {
                std::thread::yield_now();
            }
        }
    }
}

fn admin(producer: &Producer<LockFree>, command: Command, bytes: usize) -> Result<Message, DmaError> {
    let data = DmaSlice::from(producer.allocate(bytes)?);
    Ok(Message::Admin { command, data: Some(Box::new(data)) })
}
