//! One node: its line to the kernel, its open files, and the answers that wait for room.
#![forbid(unsafe_code)]

use super::caller::{Channel, Sent};
use super::host::{Access, FOLDER, Host};
use super::request::{NodeKind, Rounds};
use super::wire::{self, CuseInitIn, CuseInitOut, IoVec, IoctlOut, OutHeader};
use rustix::event::epoll;
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;
use zerocopy::{FromBytes, IntoBytes};

/// What a node is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeState {
    /// The kernel has not asked for its properties yet.
    Opening,
    /// The kernel was told; not known yet whether it took the name.
    Made,
    /// Serving.
    Live,
    /// Its name is gone, since then; who has it open is answered ENODEV.
    Withdrawn(Instant),
    /// There is nobody to answer any more.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u64,
    pub(super) kind: NodeKind,
    pub(super) name: String,
    pub(super) state: NodeState,
    pub(super) rounds: Rounds,
    channel: Channel,
    /// Open files, and whether each was opened for writing.
    files: HashMap<u64, bool>,
    next_fh: u64,
    backlog: VecDeque<Vec<u8>>,
}

/// What the server's thread has once: where its descriptors are waited for, and where nodes come from.
#[derive(Debug)]
pub(super) struct World {
    pub(super) epoll: OwnedFd,
    pub(super) host: Box<dyn Host>,
    pub(super) next_id: u64,
}

impl Node {
    /// Opens a line for a node. The rest follows when the kernel asks.
    pub(super) fn open(world: &mut World, kind: NodeKind, name: String) -> io::Result<Self> {
        let channel = Channel::new(world.host.open()?)?;
        let id = world.next_id;
        world.next_id += 1;
        epoll::add(&world.epoll, &channel, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
        Ok(Self {
            id,
            kind,
            name,
            state: NodeState::Opening,
            rounds: Rounds::default(),
            channel,
            files: HashMap::new(),
            next_fh: 1,
            backlog: VecDeque::new(),
        })
    }

    /// The next message from the kernel.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if let Ok(received) = self.channel.receive(buffer) {
            return received;
        }
        self.state = NodeState::Gone;
        None
    }

    /// The kernel asks for the node's properties: tells it, and gives the node to whom it is for.
    pub(super) fn init(&mut self, unique: u64, body: &[u8], world: &mut World) {
        let Ok((asked, _)) = CuseInitIn::read_from_prefix(body) else {
            return self.fail(unique, Errno::INVAL);
        };
        if self.state != NodeState::Opening {
            return self.fail(unique, Errno::INVAL);
        }
        if asked.major != wire::MAJOR
            || asked.minor < wire::MINOR
            || asked.flags & wire::UNRESTRICTED_IOCTL == 0
        {
            tracing::error!(major = asked.major, minor = asked.minor, "the kernel's CUSE is not known");
            self.fail(unique, Errno::PROTO);
            self.state = NodeState::Gone;
            return;
        }
        let (dev_major, dev_minor) = world.host.number();
        let init = CuseInitOut {
            major: wire::MAJOR,
            minor: wire::MINOR,
            flags: wire::UNRESTRICTED_IOCTL,
            max_read: 4096,
            max_write: 4096,
            dev_major,
            dev_minor,
            ..CuseInitOut::default()
        };
        let name = format!("DEVNAME={FOLDER}/{}\0", self.name);
        self.answer(unique, &[init.as_bytes(), name.as_bytes()]);
        self.state = NodeState::Made;
    }

    /// Something was received, or nothing could be, after the kernel was told the node's properties: so it has made the node, and it can be given to whom it is
    /// for. (If it had one of that name, the line would be dead, and the node somebody else's.)
    pub(super) fn settle(&mut self, world: &mut World, access: Access) {
        if self.state != NodeState::Made {
            return;
        }
        if let Err(error) = world.host.made(&self.name, access) {
            tracing::error!(name = self.name, %error, "a node could not be given to whom it is for; it is withdrawn");
            self.withdraw(world, Instant::now());
            return;
        }
        self.state = NodeState::Live;
    }

    pub(super) fn open_file(&mut self, may_write: bool) -> u64 {
        let fh = self.next_fh;
        self.next_fh += 1;
        self.files.insert(fh, may_write);
        fh
    }

    pub(super) fn close_file(&mut self, fh: u64) {
        self.files.remove(&fh);
        self.rounds.forget_file(fh);
    }

    /// Whether the open file may write; `None` if there is no such file.
    pub(super) fn may_write(&self, fh: u64) -> Option<bool> {
        self.files.get(&fh).copied()
    }

    pub(super) fn is_open(&self) -> bool {
        !self.files.is_empty()
    }

    /// Takes the node's name away.
    pub(super) fn withdraw(&mut self, world: &mut World, now: Instant) {
        if matches!(self.state, NodeState::Withdrawn(_) | NodeState::Gone) {
            return;
        }
        if let Err(error) = world.host.unlink(&self.name) {
            tracing::warn!(name = self.name, %error, "a node's name could not be taken away");
        }
        self.state = NodeState::Withdrawn(now);
    }

    /// Answers an ioctl with its result and bytes for the caller.
    pub(super) fn answer_ioctl(&mut self, unique: u64, result: i32, bytes: &[&[u8]]) {
        let out = IoctlOut { result, ..IoctlOut::default() };
        let parts: Vec<_> = std::iter::once(out.as_bytes()).chain(bytes.iter().copied()).collect();
        self.answer(unique, &parts);
    }

    /// Answers an ioctl with what else is needed of the caller's memory.
    pub(super) fn ask_again(&mut self, unique: u64, input: &[IoVec], output: &[IoVec]) {
        let out = IoctlOut {
            result: 0,
            flags: wire::IOCTL_RETRY,
            in_iovs: input.len() as u32,
            out_iovs: output.len() as u32,
        };
        self.answer(unique, &[out.as_bytes(), input.as_bytes(), output.as_bytes()]);
    }

    /// Answers with an error.
    pub(super) fn fail(&mut self, unique: u64, error: Errno) {
        let header = OutHeader { len: size_of::<OutHeader>() as u32, error: -error.raw_os_error(), unique };
        self.send(&[header.as_bytes()]);
    }

    /// Answers with these parts.
    pub(super) fn answer(&mut self, unique: u64, parts: &[&[u8]]) {
        let len = size_of::<OutHeader>() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = OutHeader { len: len as u32, error: 0, unique };
        let parts: Vec<_> = std::iter::once(header.as_bytes()).chain(parts.iter().copied()).collect();
        if let Some(error) = self.send(&parts) {
            tracing::error!(name = self.name, %error, "the kernel refused an answer");
            // It is still waited for.
            self.fail(unique, Errno::IO);
        }
    }

    /// Sends, or keeps for later; an error is one that the kernel has with this very answer.
    fn send(&mut self, parts: &[&[u8]]) -> Option<Errno> {
        if self.state == NodeState::Gone {
            return None;
        }
        let sent = if self.backlog.is_empty() { self.channel.send(parts) } else { Sent::Full };
        match sent {
            Sent::Done => {}
            Sent::Full => self.backlog.push_back(parts.concat()),
            Sent::Gone => self.state = NodeState::Gone,
            Sent::Refused(error) => return Some(error),
        }
        None
    }

    /// Sends what was kept, as far as there is room; whether some is left.
    pub(super) fn send_backlog(&mut self) -> bool {
        while let Some(answer) = self.backlog.front() {
            match self.channel.send(&[answer]) {
                Sent::Full => return true,
                Sent::Gone => {
                    self.state = NodeState::Gone;
                    self.backlog.clear();
                }
                Sent::Done | Sent::Refused(_) => {
                    self.backlog.pop_front();
                }
            }
        }
        false
    }
}
