//! Messages in a simulation: producers come and go and send in every way there is, and each accepted message must get one outcome, that suits it.
#![forbid(unsafe_code)]

use super::io::{data_for, draw_request, fill};
use super::oracle::{Kind, Owner, Verdict};
use super::world::{Sabotage, World};
use slipring::ctrlr::{Message, Producer, RegisterError, Reply, SendError, SendErrorReason, UnregisterError};
use slipring::dma::DmaSlice;
use slipring::ring::{LockFree, Mailbox, Outcome, Ticket};
use slipring::spec::command::{AdminOpcode, Command};
use slipring::spec::feature::FeatureId;
use slipring::spec::identify::Cns;
use slipring::spec::log::LogId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Names at a time.
const NAMES: usize = 3;
/// Tickets at a time; more are given up.
const TICKETS: usize = 40;
const WINDOW: usize = 8;

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Call,
    Admin,
    Io,
    Rescan,
    /// What the driver keeps for itself.
    Forbidden,
}

/// A message without its outcome.
#[derive(Clone, Copy, Debug)]
struct Letter {
    sent: Sent,
    /// How often its closure ran.
    runs: u32,
    /// Address and length of its data.
    data: Option<(u64, usize)>,
}

type Callbacks = Arc<Mutex<Vec<(u64, Outcome<Reply>)>>>;

/// Everything that was sent and is waited for.
pub(super) struct Correspondence {
    producers: Vec<Producer<LockFree>>,
    letters: BTreeMap<u64, Letter>,
    /// Letters whose outcome nobody waits for. Their closures may still run: once.
    given_up: BTreeMap<u64, Letter>,
    tickets: Vec<(u64, Ticket<Reply>)>,
    mailbox: Mailbox<Reply>,
    called_back: Callbacks,
    /// Closures that ran since the last look.
    ran: Arc<Mutex<Vec<u64>>>,
    pub(super) has_unregistered: bool,
    names: u64,
}

impl std::fmt::Debug for Correspondence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Correspondence").field("letters", &self.letters).finish_non_exhaustive()
    }
}

impl Correspondence {
    pub(super) fn new() -> Self {
        Self {
            producers: Vec::new(),
            letters: BTreeMap::new(),
            given_up: BTreeMap::new(),
            tickets: Vec::new(),
            mailbox: Mailbox::new(WINDOW),
            called_back: Arc::default(),
            ran: Arc::default(),
            has_unregistered: false,
            names: 0,
        }
    }

    /// Whether nothing is waited for.
    pub(super) fn is_answered(&self) -> bool {
        self.letters.is_empty()
    }

    /// Notes which closures have run. Before any outcome is looked at, so that a closure that runs after its outcome is noticed.
    pub(super) fn count_runs(&mut self) -> Result<(), String> {
        let ran = std::mem::take(&mut *self.ran.lock().unwrap_or_else(PoisonError::into_inner));
        for id in ran {
            let letter = self.letters.get_mut(&id).or_else(|| self.given_up.get_mut(&id));
            let letter =
                letter.ok_or_else(|| format!("the closure of message {id} ran after its outcome"))?;
            letter.runs += 1;
            if letter.runs > 1 {
                return Err(format!("the closure of message {id} ran twice"));
            }
        }
        Ok(())
    }
}

fn address_of(data: Option<&DmaSlice>) -> Option<(u64, usize)> {
    data.map(|data| (data.iova(), data.len()))
}

impl World {
    /// Registers a name, or unregisters one.
    pub(super) fn change_registrations(&mut self) -> Result<(), String> {
        if self.correspondence.producers.len() < NAMES && self.random.below(2) == 0 {
            return self.register();
        }
        if self.correspondence.producers.is_empty() {
            return Ok(());
        }
        let place = self.random.below(self.correspondence.producers.len() as u64) as usize;
        // Sometimes the name is left registered, as when its thread ends.
        let producer = self.correspondence.producers.swap_remove(place);
        if self.random.below(6) == 0 {
            return Ok(());
        }
        let unregistered = self.ctrlr().unregister(producer.name(), Duration::ZERO);
        self.correspondence.has_unregistered = true;
        self.correspondence.count_runs()?;
        if self.random.below(4) == 0 {
            // A sender that does not know yet.
            self.correspondence.producers.push(producer);
        }
        match unregistered {
            // The poller, on this same thread, is not waited for; and a detach, or this world before, may have unregistered it.
            Ok(()) | Err(UnregisterError::Stalled(_) | UnregisterError::NotRegistered { .. }) => Ok(()),
            Err(error) => Err(format!("an unregistration was refused: {error}")),
        }
    }

    fn register(&mut self) -> Result<(), String> {
        self.correspondence.names += 1;
        let registered = self.ctrlr().register(&format!("sender-{}", self.correspondence.names));
        self.correspondence.count_runs()?;
        match registered {
            Ok(producer) => {
                self.correspondence.producers.push(producer);
                Ok(())
            }
            Err(RegisterError::Detached) if self.is_detaching() => Ok(()),
            Err(error) => Err(format!("a registration was refused: {error}")),
        }
    }

    /// Sends one message, or several at once.
    pub(super) fn send(&mut self) -> Result<(), String> {
        if self.correspondence.producers.is_empty() {
            return self.register();
        }
        let place = self.random.below(self.correspondence.producers.len() as u64) as usize;
        let producer = self.correspondence.producers[place].clone();
        match self.random.below(8) {
            0..3 => self.send_for_ticket(&producer),
            3..5 => self.send_to_mailbox(&producer),
            5 => self.send_batch(&producer),
            _ => self.send_with_callback(&producer),
        }
    }

    /// Any message, with its number; none when there is no memory because the controller is gone.
    fn draw_message(&mut self) -> Result<Option<(u64, Message)>, String> {
        let id = self.oracle.fresh_id();
        let (sent, message) = match self.random.below(16) {
            0..6 => {
                let ran = Arc::clone(&self.correspondence.ran);
                let times = if self.sabotage == Some(Sabotage::RunTwice) { 2 } else { 1 };
                let call = move |_: &mut slipring::ctrlr::Turn<'_>| {
                    let mut ran = ran.lock().unwrap_or_else(PoisonError::into_inner);
                    ran.extend(std::iter::repeat_n(id, times));
                    id
                };
                (Sent::Call, Message::call(call))
            }
            6..13 => {
                let Some(message) = self.io_message(id)? else { return Ok(None) };
                (Sent::Io, message)
            }
            13 => {
                let log = Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
                let commands = [(log, 1), (Command::identify(Cns::CTRLR, 0, 0), 8)];
                let (command, blocks) = commands[self.random.below(2) as usize];
                let Some(data) = data_for(self, blocks)? else { return Ok(None) };
                (Sent::Admin, Message::Admin { command, data: Some(Box::new(data)) })
            }
            14 if self.random.below(2) == 0 => (Sent::Rescan, Message::Rescan),
            14 => {
                let command = Command { opcode: AdminOpcode::CREATE_IO_CQ.0, ..Command::default() };
                (Sent::Forbidden, Message::Admin { command, data: None })
            }
            _ => {
                let command = Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0);
                (Sent::Admin, Message::Admin { command, data: None })
            }
        };
        let data = match &message {
            Message::Io { data, .. } | Message::Admin { data, .. } => address_of(data.as_deref()),
            _ => None,
        };
        self.correspondence.letters.insert(id, Letter { sent, runs: 0, data });
        Ok(Some((id, message)))
    }

    fn io_message(&mut self, id: u64) -> Result<Option<Message>, String> {
        let (kind, lba, blocks) = draw_request(self);
        // Within every limit, but for a device that lies about it.
        let blocks = blocks.min(8);
        let mut data = None;
        if matches!(kind, Kind::Read | Kind::Write) {
            let Some(slice) = data_for(self, blocks)? else { return Ok(None) };
            fill(&slice, kind, id, lba, blocks);
            data = Some(Box::new(slice));
        }
        self.oracle.begin(id, kind, lba, blocks, Owner::Message);
        let command = match kind {
            Kind::Read => Command::read(1, lba, blocks as u32),
            Kind::Write => Command::write(1, lba, blocks as u32),
            Kind::Zero => Command::write_zeroes(1, lba, blocks as u32, false),
            Kind::Flush => Command::flush(1),
        };
        Ok(Some(Message::Io { command, data }))
    }

    fn accepted(&mut self) {
        self.counts.messages += 1;
    }

    /// A message that was not accepted was not executed, and is not.
    fn not_accepted(&mut self, id: u64, error: &SendError) -> Result<(), String> {
        self.take_back(id, error.reason)?;
        let letter = self.correspondence.letters.remove(&id);
        let is_the_same = matches!(
            (letter.map(|letter| letter.sent), &error.message),
            (Some(Sent::Call), Message::Call(_))
                | (Some(Sent::Io), Message::Io { .. })
                | (Some(Sent::Admin | Sent::Forbidden), Message::Admin { .. })
                | (Some(Sent::Rescan), Message::Rescan)
        );
        if is_the_same { Ok(()) } else { Err(format!("message {id} came back as another: {error:?}")) }
    }

    fn take_back(&mut self, id: u64, reason: SendErrorReason) -> Result<(), String> {
        self.oracle.withdraw(id);
        let is_reasonable = match reason {
            SendErrorReason::Full => true,
            SendErrorReason::WindowFull => self.correspondence.mailbox.in_flight() == WINDOW,
            SendErrorReason::Unregistered => self.correspondence.has_unregistered,
            SendErrorReason::Detached => self.is_detaching(),
            _ => false,
        };
        if is_reasonable { Ok(()) } else { Err(format!("message {id} was refused for no reason: {reason}")) }
    }

    fn send_for_ticket(&mut self, producer: &Producer<LockFree>) -> Result<(), String> {
        let Some((id, message)) = self.draw_message()? else { return Ok(()) };
        match producer.send(message) {
            Ok(ticket) => {
                self.accepted();
                self.correspondence.tickets.push((id, ticket));
                if self.correspondence.tickets.len() > TICKETS {
                    self.give_up_ticket();
                }
                Ok(())
            }
            Err(error) => self.not_accepted(id, &error),
        }
    }

    /// A sender that does not wait any longer.
    fn give_up_ticket(&mut self) {
        let (id, ticket) = self.correspondence.tickets.remove(0);
        drop(ticket);
        self.oracle.abandon_one(id);
        let letter = self.correspondence.letters.remove(&id);
        self.correspondence.given_up.extend(letter.map(|letter| (id, letter)));
    }

    fn send_to_mailbox(&mut self, producer: &Producer<LockFree>) -> Result<(), String> {
        let Some((id, message)) = self.draw_message()? else { return Ok(()) };
        match producer.send_to(&mut self.correspondence.mailbox, id, message) {
            Ok(()) => {
                self.accepted();
                Ok(())
            }
            Err(error) => self.not_accepted(id, &error),
        }
    }

    fn send_batch(&mut self, producer: &Producer<LockFree>) -> Result<(), String> {
        let mut messages = Vec::new();
        for _ in 0..=self.random.below(5) {
            messages.extend(self.draw_message()?);
        }
        let ids: Vec<u64> = messages.iter().map(|(id, _)| *id).collect();
        let sent = producer.send_batch_to(&mut self.correspondence.mailbox, &mut messages);
        let accepted = *sent.as_ref().unwrap_or(&0);
        if messages.iter().map(|(id, _)| *id).ne(ids[accepted..].iter().copied()) {
            return Err(format!("of a batch of {ids:?} {accepted} were accepted, and others came back"));
        }
        self.counts.messages += accepted as u64;
        for id in &ids[accepted..] {
            // What found no room behind others has no reason of its own.
            self.take_back(*id, sent.as_ref().err().copied().unwrap_or(SendErrorReason::Full))?;
            self.correspondence.letters.remove(id);
        }
        Ok(())
    }

    fn send_with_callback(&mut self, producer: &Producer<LockFree>) -> Result<(), String> {
        let Some((id, message)) = self.draw_message()? else { return Ok(()) };
        let called_back = Arc::clone(&self.correspondence.called_back);
        let sent = producer.send_with(message, move |outcome| {
            called_back.lock().unwrap_or_else(PoisonError::into_inner).push((id, outcome));
        });
        match sent {
            Ok(()) => {
                self.accepted();
                Ok(())
            }
            Err(error) => self.not_accepted(id, &error),
        }
    }

    /// Takes the outcomes that have arrived.
    pub(super) fn collect(&mut self) -> Result<(), String> {
        self.correspondence.count_runs()?;
        let mut arrived = Vec::new();
        self.correspondence.mailbox.receive(|id, outcome| arrived.push((id, outcome)));
        let called_back = &self.correspondence.called_back;
        arrived.append(&mut called_back.lock().unwrap_or_else(PoisonError::into_inner));
        for (id, ticket) in std::mem::take(&mut self.correspondence.tickets) {
            match ticket.try_take() {
                Ok(outcome) => arrived.push((id, outcome)),
                Err(pending) => self.correspondence.tickets.push((id, pending.0)),
            }
        }
        arrived.into_iter().try_for_each(|(id, outcome)| self.answered(id, outcome))
    }

    fn answered(&mut self, id: u64, outcome: Outcome<Reply>) -> Result<(), String> {
        let letter = self.correspondence.letters.remove(&id);
        let Letter { sent, runs, data: sent_data } =
            letter.ok_or_else(|| format!("message {id} has a second outcome"))?;
        match outcome {
            Outcome::Completed(Reply::Called(value)) if sent == Sent::Call && runs == 1 && value == id => {
                self.counts.completed += 1;
                Ok(())
            }
            Outcome::Completed(Reply::Rescanned) if sent == Sent::Rescan => Ok(()),
            Outcome::Completed(Reply::Refused { why, data }) => {
                let is_reasonable = sent == Sent::Forbidden || self.may_refuse();
                if !is_reasonable || address_of(data.as_deref()) != sent_data {
                    return Err(format!(
                        "message {id} was refused for no reason, or without its data: {why}"
                    ));
                }
                self.finish_io(id, Verdict::Aborted { may_have_executed: false }, data.map(|data| *data))
            }
            Outcome::Completed(Reply::Command { status, data, .. })
                if matches!(sent, Sent::Io | Sent::Admin) =>
            {
                if !status.is_success() && !self.may_refuse() {
                    return Err(format!("message {id} failed for no reason: {status}"));
                }
                if address_of(data.as_deref()) != sent_data {
                    return Err(format!(
                        "message {id} was sent with data {sent_data:?} and came back with {data:?}"
                    ));
                }
                let verdict = if status.is_success() { Verdict::Success } else { Verdict::Refused(status) };
                self.counts.completed += u64::from(status.is_success());
                self.finish_io(id, verdict, data.map(|data| *data))
            }
            Outcome::Aborted(aborted) => {
                self.check_reason(id, aborted)?;
                if !aborted.may_have_executed && runs > 0 {
                    return Err(format!("message {id} ran, and was {aborted}"));
                }
                let may_have_executed = aborted.may_have_executed;
                self.finish_io(id, Verdict::Aborted { may_have_executed }, None)
            }
            outcome @ Outcome::Completed(_) => {
                Err(format!("message {id}, {sent:?} that ran {runs} times, was answered {outcome:?}"))
            }
        }
    }

    fn finish_io(&mut self, id: u64, verdict: Verdict, data: Option<DmaSlice>) -> Result<(), String> {
        if self.oracle.is_known(id) {
            let told = self.oracle.finish(id, Owner::Message, verdict, data.as_ref());
            told.map_err(|why| format!("{why} (by message)"))?;
        }
        match data {
            Some(data) => self.watch(data.into_buffer()),
            None => Ok(()),
        }
    }

    /// After the detach every message has its outcome.
    pub(super) fn finish_messages(&mut self) -> Result<(), String> {
        self.collect()?;
        match self.correspondence.letters.iter().next() {
            Some((id, letter)) => Err(format!("message {id} has no outcome after the detach: {letter:?}")),
            None => Ok(()),
        }
    }
}
