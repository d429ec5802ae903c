//! What one controller's clients wait for: commands on their way, and the answers when their outcomes arrive.
//!
//! # How outcomes come back
//! Through a mailbox, which costs the poller a store into memory: no system call, no allocation, no wake-up. In exchange the server's thread has to look: while
//! something is in flight it sleeps for an eighth of the time that the youngest command has been under way, from 20 us to 1 ms. So an answer is late by an eighth
//! of what it took anyway, or by a millisecond at most, and a command that takes minutes costs a thousand short looks a second on the server's thread and
//! nothing on the poller's. With nothing in flight nobody looks.
#![forbid(unsafe_code)]

use super::caller::Caller;
use super::node::{Node, NodeState};
use super::request::{Run, Transfer};
use super::wire::IoVec;
use crate::ctrlr::{Message, Producer, Refusal, Reply, Reset, ResetError, SendErrorReason};
use crate::dma::{DmaError, DmaSlice};
use crate::ring::{AbortReason, LockFree, Mailbox, Outcome};
use crate::spec::command::AdminOpcode;
use crate::spec::status::Status;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

/// Messages in flight at a time; more wait here for their turn.
const WINDOW: usize = 256;
/// Requests at a time. Each is a thread that is blocked.
const MAX_REQUESTS: usize = 4096;
/// How long a late command's caller waits for what the driver does about it: only where nobody polls, or a device takes long to be reset, is that too short.
const LATE_PATIENCE: Duration = Duration::from_secs(30);
const SLEEP_LEAST: Duration = Duration::from_micros(20);
const SLEEP_MOST: Duration = Duration::from_millis(1);

/// What somebody waits for.
struct Request {
    node: u64,
    unique: u64,
    /// Nobody waits any more; but the outcome is still to come.
    is_answered: bool,
    started: Instant,
    deadline: Instant,
    is_abort_sent: bool,
    /// The driver was told that its time is over.
    is_late: bool,
    kind: Kind,
}

enum Kind {
    /// A command, and how it is answered.
    Command {
        caller: Caller,
        result_bytes: usize,
        out: Out,
        rescans: bool,
    },
    /// A reading of the namespaces; then this is the answer.
    Rescan(Vec<u8>),
    /// An Abort, for nobody.
    Abort,
    /// The word that the time of this one is over.
    Late(u64),
    Reset(Reset),
}

/// Where a command's data goes.
enum Out {
    Nowhere,
    /// Into the answer: so many bytes.
    Answer(usize),
    /// Into the caller's memory.
    Remote(Vec<IoVec>, usize),
}

/// See the module.
pub(super) struct Requests {
    producer: Producer<LockFree>,
    mailbox: Mailbox<Reply>,
    /// By token.
    table: HashMap<u64, Request>,
    next_token: u64,
    /// Messages that found no room yet.
    unsent: VecDeque<(u64, Message)>,
    /// Answers that wait until the nodes have followed the namespaces.
    rescanned: Vec<(u64, u64, Vec<u8>)>,
}

impl Requests {
    pub(super) fn new(producer: Producer<LockFree>) -> Self {
        Self {
            producer,
            mailbox: Mailbox::new(WINDOW),
            table: HashMap::new(),
            next_token: 1,
            unsent: VecDeque::new(),
            rescanned: Vec::new(),
        }
    }

    fn add(&mut self, node: u64, unique: u64, kind: Kind, started: Instant, timeout: Duration) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let deadline = started.checked_add(timeout).unwrap_or(started + Duration::from_secs(1 << 30));
        let is_answered = matches!(kind, Kind::Abort | Kind::Late(_));
        let (is_abort_sent, is_late) = (false, false);
        let request = Request { node, unique, is_answered, started, deadline, is_abort_sent, is_late, kind };
        self.table.insert(token, request);
        token
    }

    /// Runs a command for a caller.
    pub(super) fn run(&mut self, node: &mut Node, unique: u64, caller: Caller, run: &Run<'_>, now: Instant) {
        if self.table.len() >= MAX_REQUESTS {
            return node.fail(unique, Errno::AGAIN);
        }
        let (data, out) = match self.prepare(caller, &run.transfer) {
            Ok(prepared) => prepared,
            Err(error) => return node.fail(unique, error),
        };
        let rescans = run.is_admin && changes_namespaces(AdminOpcode(run.command.opcode));
        let kind = Kind::Command { caller, result_bytes: run.result_bytes, out, rescans };
        let token = self.add(node.id, unique, kind, now, run.timeout);
        let message = if run.is_admin {
            Message::Admin { command: run.command, data }
        } else {
            Message::Io { command: run.command, data }
        };
        // Sent with the next tick, which follows at once.
        self.unsent.push_back((token, message));
    }

    /// A buffer of the command's own, zeroed, with what the caller brings.
    fn prepare(
        &self,
        caller: Caller,
        transfer: &Transfer<'_>,
    ) -> Result<(Option<Box<DmaSlice>>, Out), Errno> {
        let allocate = |len: usize| {
            self.producer.allocate(len).map_err(|error| match error {
                DmaError::Detached => Errno::NODEV,
                _ => Errno::NOMEM,
            })
        };
        let (buffer, out) = match transfer {
            Transfer::None => return Ok((None, Out::Nowhere)),
            Transfer::In(bytes) => {
                let buffer = allocate(bytes.len())?;
                buffer.write_at(0, bytes);
                (buffer, Out::Nowhere)
            }
            Transfer::InRemote(ranges, len) => {
                let mut bytes = vec![0; *len];
                caller.read(ranges, &mut bytes)?;
                let buffer = allocate(*len)?;
                buffer.write_at(0, &bytes);
                (buffer, Out::Nowhere)
            }
            Transfer::Out(len) => (allocate(*len)?, Out::Answer(*len)),
            Transfer::OutRemote(ranges, len) => (allocate(*len)?, Out::Remote(ranges.clone(), *len)),
        };
        Ok((Some(Box::new(DmaSlice::from(buffer))), out))
    }

    pub(super) fn rescan(&mut self, node: &Node, unique: u64, now: Instant) {
        let token = self.add(node.id, unique, Kind::Rescan(Vec::new()), now, Duration::from_secs(60));
        self.unsent.push_back((token, Message::Rescan));
    }

    pub(super) fn reset(
        &mut self,
        node: &mut Node,
        unique: u64,
        reset: Result<Reset, ResetError>,
        now: Instant,
    ) {
        match reset {
            Ok(reset) => {
                self.add(node.id, unique, Kind::Reset(reset), now, Duration::from_secs(60));
            }
            Err(_) => node.fail(unique, Errno::NODEV),
        }
    }

    /// Hands over what has not been yet, as far as there is room.
    pub(super) fn send(&mut self, nodes: &mut [Node]) {
        while let Some((token, message)) = self.unsent.pop_front() {
            let Err(error) = self.producer.send_to(&mut self.mailbox, token, message) else { continue };
            match error.reason {
                SendErrorReason::Full | SendErrorReason::WindowFull => {
                    self.unsent.push_front((token, error.message));
                    return;
                }
                SendErrorReason::Unregistered | SendErrorReason::Detached => {
                    if let Some(request) = self.table.remove(&token) {
                        fail(nodes, &request, Errno::NODEV);
                    }
                }
            }
        }
    }

    /// Answers whose outcomes have arrived.
    pub(super) fn receive(&mut self, nodes: &mut [Node], now: Instant) {
        let mut arrived = Vec::new();
        self.mailbox.receive(|token, outcome| arrived.push((token, outcome)));
        let mut left_alone = Vec::new();
        for (token, outcome) in arrived {
            if let Some(Kind::Late(late)) = self.table.get(&token).map(|request| &request.kind) {
                if !matches!(outcome, Outcome::Completed(Reply::Called(1))) {
                    left_alone.push(*late);
                }
                self.table.remove(&token);
            } else {
                self.finish(nodes, token, outcome, now);
            }
        }
        // Those that have no outcome yet, and will not soon.
        for token in left_alone {
            self.answer_early(nodes, token, Errno::INTR, now);
        }
        let over: Vec<_> = self
            .table
            .iter()
            .filter_map(|(token, request)| match &request.kind {
                Kind::Reset(reset) => reset.is_over().map(|result| (*token, result)),
                _ => None,
            })
            .collect();
        for (token, result) in over {
            let Some(request) = self.table.remove(&token) else { continue };
            match result {
                Ok(()) => answer(nodes, &request, 0, &[]),
                Err(_) => fail(nodes, &request, Errno::NODEV),
            }
        }
    }

    fn finish(&mut self, nodes: &mut [Node], token: u64, outcome: Outcome<Reply>, now: Instant) {
        let Some(request) = self.table.remove(&token) else { return };
        let reply = match outcome {
            Outcome::Completed(reply) => reply,
            Outcome::Aborted(aborted) => return fail(nodes, &request, error_of(aborted.reason)),
        };
        match (&request.kind, reply) {
            (_, Reply::Refused { why, .. }) => match why {
                Refusal::Status(status) => answer(nodes, &request, status.0.into(), &[]),
                Refusal::DriverOwned { .. } => fail(nodes, &request, Errno::ACCESS),
                _ => fail(nodes, &request, Errno::INVAL),
            },
            (Kind::Rescan(bytes), _) => {
                self.rescanned.push((request.node, request.unique, bytes.clone()));
            }
            (
                Kind::Command { caller, result_bytes, out, rescans },
                Reply::Command { status, result, data },
            ) => {
                let mut bytes = result.to_le_bytes()[..*result_bytes].to_vec();
                if !status.is_success() || request.is_answered {
                    return answer(nodes, &request, status.0.into(), &[&bytes]);
                }
                let len = match out {
                    Out::Nowhere => 0,
                    Out::Answer(len) | Out::Remote(_, len) => *len,
                };
                let mut moved = vec![0; len];
                if let Some(data) = data.filter(|data| data.buffer().len() >= len) {
                    data.buffer().read_at(0, &mut moved);
                }
                match out {
                    Out::Remote(ranges, _) => {
                        // The caller is still blocked: it was not answered.
                        if let Err(error) = caller.write(ranges, &moved) {
                            return fail(nodes, &request, error);
                        }
                    }
                    Out::Nowhere | Out::Answer(_) => bytes.extend(moved),
                }
                if *rescans {
                    // The nodes are as they should be when the caller goes on, as with Linux.
                    let (node, unique) = (request.node, request.unique);
                    let token = self.add(node, unique, Kind::Rescan(bytes), now, Duration::from_secs(60));
                    self.unsent.push_back((token, Message::Rescan));
                } else {
                    answer(nodes, &request, 0, &[&bytes]);
                }
            }
            _ => fail(nodes, &request, Errno::IO),
        }
    }

    /// Answers those who waited for the nodes to follow the namespaces, which they have.
    pub(super) fn answer_rescanned(&mut self, nodes: &mut [Node], _now: Instant) {
        for (node, unique, bytes) in self.rescanned.drain(..) {
            if let Some(node) = nodes.iter_mut().find(|theirs| theirs.id == node) {
                node.answer_ioctl(unique, 0, &[&bytes]);
            }
        }
    }

    /// A caller was sent a signal: it is answered at once, and its command aborted. The buffer stays the device's until the device is done.
    pub(super) fn interrupt(&mut self, node: &mut Node, unique: u64, now: Instant) {
        let is_it =
            |request: &Request| request.node == node.id && request.unique == unique && !request.is_answered;
        let Some(token) = self.table.iter().find(|(_, request)| is_it(request)).map(|(token, _)| *token)
        else {
            // It was answered meanwhile.
            return;
        };
        self.answer_early(std::slice::from_mut(node), token, Errno::INTR, now);
    }

    /// Answers a request whose outcome is still to come, and asks for its abort.
    fn answer_early(&mut self, nodes: &mut [Node], token: u64, error: Errno, now: Instant) {
        let Some(request) = self.table.get_mut(&token) else { return };
        fail(nodes, request, error);
        request.is_answered = true;
        // What is late the driver knows of.
        let is_known = request.is_late;
        if let Some(at) = self.unsent.iter().position(|(unsent, _)| *unsent == token) {
            self.unsent.remove(at);
            self.table.remove(&token);
        } else if matches!(request.kind, Kind::Reset(_)) {
            self.table.remove(&token);
        } else if !is_known {
            self.abort(token, now);
        }
    }

    /// Asks once for a command's abort.
    fn abort(&mut self, token: u64, now: Instant) {
        let Some(request) = self.table.get_mut(&token) else { return };
        if std::mem::replace(&mut request.is_abort_sent, true)
            || !matches!(request.kind, Kind::Command { .. })
        {
            return;
        }
        let node = request.node;
        let message = Message::Abort { mailbox: self.mailbox.id(), token };
        let abort = self.add(node, 0, Kind::Abort, now, Duration::from_secs(60));
        self.unsent.push_back((abort, message));
    }

    /// Commands that take longer than they may, also those that nobody waits for any more: the driver is told, which aborts them or resets the controller.
    pub(super) fn expire(&mut self, nodes: &mut [Node], now: Instant) {
        let is_command = |request: &Request| matches!(request.kind, Kind::Command { .. });
        let matters = |request: &Request| !request.is_answered || is_command(request) && !request.is_late;
        let is_over = |request: &Request| now >= request.deadline && matters(request);
        let over: Vec<_> =
            self.table.iter().filter(|(_, request)| is_over(request)).map(|(token, _)| *token).collect();
        for token in over {
            let is_unsent = self.unsent.iter().any(|(unsent, _)| *unsent == token);
            let Some(request) = self.table.get_mut(&token) else { continue };
            if is_unsent || request.is_late || !is_command(request) {
                self.answer_early(nodes, token, Errno::INTR, now);
                continue;
            }
            request.is_late = true;
            request.deadline = now + LATE_PATIENCE;
            let node = request.node;
            let message = Message::TimedOut { mailbox: self.mailbox.id(), token };
            let late = self.add(node, 0, Kind::Late(token), now, LATE_PATIENCE);
            self.unsent.push_back((late, message));
        }
        self.send(nodes);
    }

    /// Nobody is answered by the controller any more: all that wait are told that it is gone.
    pub(super) fn give_up(&mut self, nodes: &mut [Node], now: Instant) {
        for node in nodes {
            self.give_up_node(node, now);
        }
    }

    /// As [`Requests::give_up`], for one node.
    pub(super) fn give_up_node(&mut self, node: &mut Node, now: Instant) {
        let is_its = |request: &Request| request.node == node.id && !request.is_answered;
        let waiting: Vec<_> =
            self.table.iter().filter(|(_, request)| is_its(request)).map(|(token, _)| *token).collect();
        for token in waiting {
            self.answer_early(std::slice::from_mut(node), token, Errno::NODEV, now);
        }
    }

    /// Whether somebody waits for an answer on this node.
    pub(super) fn is_awaited(&self, node: u64) -> bool {
        self.table.values().any(|request| request.node == node && !request.is_answered)
            || self.rescanned.iter().any(|(theirs, _, _)| *theirs == node)
    }

    /// How long until it is worth while to look again; `None` if nothing is in flight.
    pub(super) fn sleep(&self, now: Instant) -> Option<Duration> {
        let youngest = self.table.values().map(|request| request.started).max()?;
        let age = now.saturating_duration_since(youngest);
        Some((age / 8).clamp(SLEEP_LEAST, SLEEP_MOST))
    }
}

/// Commands after which there may be other namespaces, or of another size.
fn changes_namespaces(opcode: AdminOpcode) -> bool {
    matches!(
        opcode,
        AdminOpcode::FORMAT_NVM
            | AdminOpcode::NAMESPACE_MANAGEMENT
            | AdminOpcode::NAMESPACE_ATTACHMENT
            | AdminOpcode::SANITIZE
    )
}

/// What an ioctl is told whose message was aborted: as Linux, which cancels the commands of a controller that it resets with EINTR.
fn error_of(reason: AbortReason) -> Errno {
    match reason {
        AbortReason::Reset | AbortReason::Requested => Errno::INTR,
        AbortReason::Detached | AbortReason::Removed | AbortReason::Failed | AbortReason::Unregistered => {
            Errno::NODEV
        }
        _ => Errno::IO,
    }
}

fn waiting<'a>(nodes: &'a mut [Node], request: &Request) -> Option<&'a mut Node> {
    let node = nodes.iter_mut().find(|node| node.id == request.node)?;
    (!request.is_answered && node.state != NodeState::Gone).then_some(node)
}

fn fail(nodes: &mut [Node], request: &Request, error: Errno) {
    if let Some(node) = waiting(nodes, request) {
        node.fail(request.unique, error);
    }
}

/// A status is the positive result of the ioctl, and what the device says beside it is passed on as well.
fn answer(nodes: &mut [Node], request: &Request, status: i32, bytes: &[&[u8]]) {
    debug_assert!(status <= i32::from(Status(u16::MAX).0), "a status has 16 bits at most");
    if let Some(node) = waiting(nodes, request) {
        node.answer_ioctl(request.unique, status, bytes);
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Requests")
            .field("requests", &self.table.len())
            .field("unsent", &self.unsent.len())
            .finish_non_exhaustive()
    }
}
