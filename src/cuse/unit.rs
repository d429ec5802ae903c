//! One served controller: its nodes, which follow its namespaces, and its end.
#![forbid(unsafe_code)]

use super::caller::Caller;
use super::node::{Node, NodeState, World};
use super::request::{self, Asking, NodeKind, Step};
use super::requests::Requests;
use super::server::ServeOptions;
use super::wire::{self, InHeader, InterruptIn, IoctlIn, OpenIn, OpenOut, PollOut, ReleaseIn, opcode};
use crate::ctrlr::{Ctrlr, CtrlrState, Namespace, Producer};
use crate::ring::LockFree;
use rustix::io::Errno;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// How long a withdrawn node answers those who have it open, before they are cut off.
const LINGER: Duration = Duration::from_millis(500);
/// How long the end of a controller waits for outcomes, before what is left is answered without.
const PATIENCE: Duration = Duration::from_secs(1);
/// The access mode in open(2)'s flags.
const O_ACCMODE: u32 = 0b11;
/// What Linux says of files that cannot say: readable and writable.
const DEFAULT_POLLMASK: u32 = 0x145;

/// See the module.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) id: u64,
    pub(super) name: String,
    ctrlr: Ctrlr,
    options: ServeOptions,
    pub(super) nodes: Vec<Node>,
    requests: Requests,
    /// What the nodes were last made to follow.
    followed: Arc<Vec<Namespace>>,
    /// Set when the nodes are taken down: since when.
    leaving: Option<Instant>,
}

impl Unit {
    /// Begins to serve: the nodes come when the kernel has asked for them.
    pub(super) fn new(
        id: u64,
        name: String,
        ctrlr: Ctrlr,
        producer: Producer<LockFree>,
        options: ServeOptions,
        world: &mut World,
    ) -> std::io::Result<Self> {
        let node = Node::open(world, NodeKind::Ctrlr, name.clone())?;
        let requests = Requests::new(producer);
        let followed = Arc::default();
        let mut unit =
            Self { id, name, ctrlr, options, nodes: vec![node], requests, followed, leaving: None };
        unit.follow_namespaces(world, Instant::now());
        Ok(unit)
    }

    /// Whether every node has been made, or not.
    pub(super) fn is_settled(&self) -> bool {
        self.nodes.iter().all(|node| !matches!(node.state, NodeState::Opening | NodeState::Made))
    }

    /// Whether the controller's own node is there.
    pub(super) fn is_serving(&self) -> bool {
        let is_there = |node: &Node| node.kind == NodeKind::Ctrlr && node.state == NodeState::Live;
        self.leaving.is_none() && self.nodes.iter().any(is_there)
    }

    /// Whether there is nothing left of it.
    pub(super) fn is_over(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes all nodes down.
    pub(super) fn leave(&mut self, world: &mut World, now: Instant) {
        if self.leaving.is_none() {
            self.leaving = Some(now);
            self.nodes.iter_mut().for_each(|node| node.withdraw(world, now));
        }
    }

    /// Reads and handles what the kernel sends on a node's line.
    pub(super) fn serve(&mut self, node_id: u64, world: &mut World, buffer: &mut [u8], now: Instant) {
        /// So that no node keeps the others waiting.
        const MOST: usize = 16;
        for _ in 0..MOST {
            let Some(at) = self.nodes.iter().position(|node| node.id == node_id) else { return };
            let received = self.nodes[at].receive(buffer);
            self.nodes[at].settle(world, self.options.access);
            let Some(len) = received else { return };
            self.handle(at, &buffer[..len], world, now);
        }
    }

    fn handle(&mut self, at: usize, message: &[u8], world: &mut World, now: Instant) {
        let Ok((header, body)) = InHeader::read_from_prefix(message) else { return };
        let node = &mut self.nodes[at];
        let unique = header.unique;
        if header.len as usize != message.len() {
            return node.fail(unique, Errno::INVAL);
        }
        match header.opcode {
            opcode::CUSE_INIT => node.init(unique, body, world),
            opcode::INTERRUPT => {
                if let Ok((interrupt, _)) = InterruptIn::read_from_prefix(body) {
                    self.requests.interrupt(node, interrupt.unique, now);
                }
            }
            opcode::DESTROY => {}
            opcode::RELEASE => {
                if let Ok((release, _)) = ReleaseIn::read_from_prefix(body) {
                    node.close_file(release.fh);
                }
                node.answer(unique, &[]);
            }
            _ if node.state != NodeState::Live => node.fail(unique, Errno::NODEV),
            opcode::OPEN => match OpenIn::read_from_prefix(body) {
                Ok((open, _)) => {
                    let fh = node.open_file(open.flags & O_ACCMODE != 0);
                    node.answer(unique, &[OpenOut { fh, ..OpenOut::default() }.as_bytes()]);
                }
                Err(_) => node.fail(unique, Errno::INVAL),
            },
            opcode::READ | opcode::WRITE => node.fail(unique, Errno::INVAL),
            opcode::POLL => {
                node.answer(unique, &[PollOut { revents: DEFAULT_POLLMASK, padding: 0 }.as_bytes()]);
            }
            opcode::IOCTL => self.ioctl(at, &header, body, now),
            _ => node.fail(unique, Errno::NOSYS),
        }
    }

    fn ioctl(&mut self, at: usize, header: &InHeader, body: &[u8], now: Instant) {
        let node = &mut self.nodes[at];
        let unique = header.unique;
        let Ok((ioctl, input)) = IoctlIn::read_from_prefix(body) else {
            return node.fail(unique, Errno::INVAL);
        };
        let Some(may_write) = node.may_write(ioctl.fh) else { return node.fail(unique, Errno::BADF) };
        let (in_size, out_size) = (ioctl.in_size as usize, ioctl.out_size as usize);
        if in_size != input.len() || out_size > wire::MAX_CARRIED {
            return node.fail(unique, Errno::INVAL);
        }
        let limits = self.ctrlr.limits();
        let asking = Asking {
            kind: node.kind,
            key: (ioctl.fh, header.pid),
            uid: header.uid,
            may_write,
            is_read_only: self.options.is_read_only,
            policy: self.options.policy.as_ref(),
            namespaces: &self.followed,
            max_transfer_bytes: limits.map_or(0, |limits| limits.max_transfer_bytes),
            has_subsystem_reset: limits.is_some_and(|limits| limits.nssrs),
            cmd: ioctl.cmd,
            flags: ioctl.flags,
            arg: ioctl.arg,
            input,
            out_size,
        };
        let caller = Caller(header.pid);
        match request::step(&asking, &mut node.rounds) {
            Err(error) => node.fail(unique, error),
            Ok(Step::Retry { input, output }) => node.ask_again(unique, &input, &output),
            Ok(Step::Answer(result, bytes)) => node.answer_ioctl(unique, result, &[&bytes]),
            Ok(Step::Run(run)) => self.requests.run(node, unique, caller, &run, now),
            Ok(Step::Rescan) => self.requests.rescan(node, unique, now),
            Ok(Step::Reset) => self.requests.reset(node, unique, self.ctrlr.reset(), now),
            Ok(Step::SubsystemReset) => {
                self.requests.reset(node, unique, self.ctrlr.reset_subsystem(), now);
            }
        }
    }

    /// What time and the controller bring about: outcomes, namespaces that came and went, the end.
    pub(super) fn tick(&mut self, world: &mut World, now: Instant) {
        self.requests.receive(&mut self.nodes, now);
        match self.ctrlr.state() {
            CtrlrState::Attaching | CtrlrState::Live | CtrlrState::Resetting => {}
            CtrlrState::Failed | CtrlrState::Detaching | CtrlrState::Detached => self.leave(world, now),
        }
        if self.leaving.is_none() {
            self.follow_namespaces(world, now);
        }
        self.requests.answer_rescanned(&mut self.nodes, now);
        self.requests.send(&mut self.nodes);
        self.requests.expire(&mut self.nodes, now);
        let is_impatient = self.leaving.is_some_and(|since| now >= since + PATIENCE);
        if is_impatient || self.ctrlr.state() == CtrlrState::Detached {
            self.requests.receive(&mut self.nodes, now);
            self.requests.give_up(&mut self.nodes, now);
        }
        self.close_nodes(now);
    }

    /// Closes the lines that nobody needs any more.
    fn close_nodes(&mut self, now: Instant) {
        let requests = &self.requests;
        self.nodes.retain_mut(|node| {
            let has_backlog = node.send_backlog();
            match node.state {
                NodeState::Withdrawn(since) => {
                    let is_needed = node.is_open() && now < since + LINGER;
                    is_needed || has_backlog || requests.is_awaited(node.id)
                }
                NodeState::Gone => false,
                NodeState::Opening | NodeState::Made | NodeState::Live => true,
            }
        });
        // Without the controller's own node there is no unit.
        let has_ctrlr = self.nodes.iter().any(|node| node.kind == NodeKind::Ctrlr);
        if self.leaving.is_none() && !has_ctrlr {
            self.leaving = Some(now);
        }
    }

    /// Makes nodes for namespaces that came, and takes down those of namespaces that went.
    fn follow_namespaces(&mut self, world: &mut World, now: Instant) {
        let namespaces = self.ctrlr.namespaces();
        if Arc::ptr_eq(&namespaces, &self.followed) {
            return;
        }
        let is_active = |nsid: u32| namespaces.iter().any(|namespace| namespace.nsid == nsid);
        for node in &mut self.nodes {
            if let NodeKind::Namespace(nsid) = node.kind
                && !is_active(nsid)
            {
                node.withdraw(world, now);
            }
        }
        for namespace in namespaces.iter() {
            let kind = NodeKind::Namespace(namespace.nsid);
            let has_node = |node: &Node| {
                node.kind == kind && !matches!(node.state, NodeState::Withdrawn(_) | NodeState::Gone)
            };
            if self.nodes.iter().any(has_node) {
                continue;
            }
            // The kernel knows a name until its line is closed.
            for at in
                (0..self.nodes.len()).rev().filter(|at| self.nodes[*at].kind == kind).collect::<Vec<_>>()
            {
                self.requests.give_up_node(&mut self.nodes[at], now);
                self.nodes.remove(at);
            }
            let name = format!("{}n{}", self.name, namespace.nsid);
            match Node::open(world, kind, name) {
                Ok(node) => self.nodes.push(node),
                Err(error) => {
                    tracing::error!(nsid = namespace.nsid, %error, "no node for a namespace");
                }
            }
        }
        self.followed = namespaces;
    }

    /// How long the server may sleep for this unit's sake.
    pub(super) fn sleep(&self, now: Instant) -> Option<Duration> {
        if self.leaving.is_some() || !self.is_settled() {
            return Some(Duration::from_millis(1));
        }
        self.requests.sleep(now)
    }
}
