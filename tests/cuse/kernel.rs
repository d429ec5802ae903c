//! A stand-in for Linux's CUSE: makes nodes of the lines that a server opens, and sends what clients do, as fs/fuse does it: an ioctl goes in rounds, in each of
//! which the parts of the client's memory are copied that the server asked for. Written against the kernel's behaviour, not against the server's.

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use slipring::cuse::ioctls::{PassthruCmd, PassthruCmd64};
use slipring::cuse::wire::*;
use slipring::cuse::{Access, Host};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use zerocopy::{FromBytes, IntoBytes};

use crate::support::{DEADLINE, wait_until};

/// Error numbers as ioctl(2) gives them.
pub const EINTR: i32 = libc::EINTR;
pub const ECONNABORTED: i32 = libc::ECONNABORTED;

/// What a client's ioctl returns: a result, or an error number.
pub type Result<T> = std::result::Result<T, i32>;

/// One system with nodes. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Kernel(Arc<State>);

#[derive(Debug, Default)]
struct State {
    nodes: Mutex<HashMap<String, Arc<Line>>>,
    pub access: Mutex<HashMap<String, Access>>,
    taken: Mutex<HashSet<String>>,
    minors: AtomicU64,
}

/// The kernel's end of a node's line.
#[derive(Debug)]
pub struct Line {
    fd: OwnedFd,
    waiting: Mutex<Option<HashMap<u64, mpsc::Sender<Vec<u8>>>>>,
    next: AtomicU64,
}

impl Host for Kernel {
    fn open(&mut self) -> io::Result<OwnedFd> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let line =
            Arc::new(Line { fd: ours, waiting: Mutex::new(Some(HashMap::new())), next: AtomicU64::new(2) });
        let init = CuseInitIn { major: 7, minor: 37, unused: 0, flags: UNRESTRICTED_IOCTL };
        let answer = line.post(opcode::CUSE_INIT, 0, 0, &[init.as_bytes()]).expect("a new line").1;
        let (kernel, reader) = (self.clone(), Arc::clone(&line));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 18];
            while let Ok((len @ 1.., _)) = recv(&reader.fd, &mut buffer, RecvFlags::empty()) {
                reader.dispatch(&buffer[..len]);
                if let Ok(init) = answer.try_recv() {
                    kernel.make(&init, &reader);
                }
            }
            // As the kernel does it: who waits is told that the connection is gone.
            reader.waiting.lock().unwrap().take();
            kernel.0.nodes.lock().unwrap().retain(|_, line| !Arc::ptr_eq(line, &reader));
        });
        Ok(theirs)
    }

    fn number(&mut self) -> (u32, u32) {
        (240, self.0.minors.fetch_add(1, Ordering::Relaxed) as u32)
    }

    fn made(&mut self, name: &str, access: Access) -> io::Result<()> {
        self.0.access.lock().unwrap().insert(name.to_owned(), access);
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> io::Result<()> {
        self.0.nodes.lock().unwrap().remove(name);
        Ok(())
    }

    fn is_taken(&self, name: &str) -> bool {
        self.0.taken.lock().unwrap().contains(name) || self.0.nodes.lock().unwrap().contains_key(name)
    }
}

impl Kernel {
    fn make(&self, reply: &[u8], line: &Arc<Line>) {
        let (header, body) = OutHeader::read_from_prefix(reply).expect("a header");
        assert_eq!(header.error, 0, "the node was refused");
        let (init, name) = CuseInitOut::read_from_prefix(body).expect("an answer to CUSE_INIT");
        assert_eq!((init.major, init.flags), (7, UNRESTRICTED_IOCTL));
        assert!(init.dev_major == 240 && init.max_write >= 4096);
        let name = std::str::from_utf8(name).expect("text").strip_suffix('\0').expect("ended by 0");
        let name = name.strip_prefix("DEVNAME=slipring/").expect("the name of a node");
        self.0.nodes.lock().unwrap().insert(name.to_owned(), Arc::clone(line));
    }

    /// Has a name in use by somebody else.
    pub fn take(&self, name: &str) {
        self.0.taken.lock().unwrap().insert(name.to_owned());
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.0.nodes.lock().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    pub fn access(&self, name: &str) -> Access {
        *self.0.access.lock().unwrap().get(name).expect("the node was made")
    }

    pub fn line(&self, name: &str) -> Arc<Line> {
        let find = || self.0.nodes.lock().unwrap().get(name).cloned();
        wait_until("the node is there", || find().is_some());
        find().expect("it was there")
    }

    /// Opens a node as root, for reading and writing.
    pub fn open_node(&self, name: &str) -> File {
        File::open(&self.line(name), 0, libc::O_RDWR as u32).expect("opened")
    }
}

/// Where an answer arrives.
pub type Answers = mpsc::Receiver<Vec<u8>>;

impl Line {
    /// Sends a message; what comes back is the way to its answer.
    pub fn post(&self, opcode: u32, uid: u32, pid: u32, body: &[&[u8]]) -> Result<(u64, Answers)> {
        let unique = self.next.fetch_add(2, Ordering::Relaxed);
        let (sender, answers) = mpsc::channel();
        match &mut *self.waiting.lock().unwrap() {
            Some(waiting) => waiting.insert(unique, sender),
            None => return Err(libc::ENOTCONN),
        };
        let body = body.concat();
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode, unique, uid, gid: uid, pid, ..InHeader::default() };
        self.raw(&[header.as_bytes(), &body].concat())?;
        Ok((unique, answers))
    }

    /// Where the answer to a message will arrive that is sent by other means.
    pub fn expect_answer(&self, unique: u64) -> Answers {
        let (sender, answers) = mpsc::channel();
        self.waiting.lock().unwrap().as_mut().expect("a live line").insert(unique, sender);
        answers
    }

    /// Sends any bytes.
    pub fn raw(&self, bytes: &[u8]) -> Result<()> {
        send(&self.fd, bytes, SendFlags::NOSIGNAL).map(drop).map_err(|_| libc::ENOTCONN)
    }

    fn dispatch(&self, reply: &[u8]) {
        let (header, _) = OutHeader::read_from_prefix(reply).expect("an answer starts with a header");
        assert_eq!(header.len as usize, reply.len(), "an answer says its length");
        assert!((-4095..=0).contains(&header.error), "error {}", header.error);
        assert!(header.error == 0 || reply.len() == 16, "an error comes alone");
        let sender = self.waiting.lock().unwrap().as_mut().and_then(|waiting| waiting.remove(&header.unique));
        // The fuzzer's messages have no sender of ours.
        if let Some(sender) = sender {
            let _ = sender.send(reply.to_vec());
        }
    }

    /// A message and its answer's body.
    pub fn ask(&self, opcode: u32, uid: u32, pid: u32, body: &[&[u8]]) -> Result<Vec<u8>> {
        let (_, answers) = self.post(opcode, uid, pid, body)?;
        body_of(&answers)
    }
}

/// Waits for an answer: its body, or the error.
fn body_of(answers: &Answers) -> Result<Vec<u8>> {
    match answers.recv_timeout(DEADLINE) {
        Ok(reply) => {
            let (header, body) = OutHeader::read_from_prefix(&reply).expect("a header");
            if header.error == 0 { Ok(body.to_vec()) } else { Err(-header.error) }
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(ECONNABORTED),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("a client was not answered: it would be in D state"),
    }
}

/// A client's memory: ranges at their real addresses, so that they can be reached through the process as well.
#[derive(Debug, Default)]
pub struct Memory(Vec<Box<[AtomicU8]>>);

impl Memory {
    /// Adds a range; its address.
    pub fn add(&mut self, bytes: &[u8]) -> u64 {
        let range: Box<[AtomicU8]> = bytes.iter().map(|byte| AtomicU8::new(*byte)).collect();
        let address = range.as_ptr().addr() as u64;
        self.0.push(range);
        address
    }

    fn range(&self, base: u64, len: u64) -> Result<&[AtomicU8]> {
        let found = self.0.iter().find_map(|range| {
            let start = base.checked_sub(range.as_ptr().addr() as u64)? as usize;
            range.get(start..start.checked_add(len as usize)?)
        });
        found.ok_or(libc::EFAULT)
    }

    pub fn read(&self, base: u64, len: usize) -> Vec<u8> {
        let range = self.range(base, len as u64).expect("inside");
        range.iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    pub fn write(&self, base: u64, bytes: &[u8]) {
        let range = self.range(base, bytes.len() as u64).expect("inside");
        range.iter().zip(bytes).for_each(|(to, byte)| to.store(*byte, Ordering::Relaxed));
    }
}

/// An open file of a node.
#[derive(Debug)]
pub struct File {
    pub line: Arc<Line>,
    pub fh: u64,
    pub uid: u32,
    /// Set to look like a process that the server cannot reach.
    pub hide: bool,
    /// The request in flight, for interrupts.
    current: AtomicU64,
}

impl File {
    pub fn open(line: &Arc<Line>, uid: u32, flags: u32) -> Result<Self> {
        let body = line.ask(opcode::OPEN, uid, 1, &[OpenIn { flags, open_flags: 0 }.as_bytes()])?;
        let (opened, _) = OpenOut::read_from_prefix(&body).expect("an open's answer");
        Ok(Self { line: Arc::clone(line), fh: opened.fh, uid, hide: false, current: AtomicU64::new(0) })
    }

    pub fn ioctl(&self, cmd: u32, arg: u64, memory: &Memory) -> Result<i32> {
        self.ioctl_with(cmd, arg, 0, memory, |_| {})
    }

    /// An ioctl; `between` may change the memory before each further round, of which it is given the number.
    pub fn ioctl_with(
        &self,
        cmd: u32,
        arg: u64,
        flags: u32,
        memory: &Memory,
        mut between: impl FnMut(usize),
    ) -> Result<i32> {
        let pid = if self.hide { 0 } else { rustix::thread::gettid().as_raw_nonzero().get() as u32 };
        let (mut input, mut output): (Vec<IoVec>, Vec<IoVec>) = (Vec::new(), Vec::new());
        for round in 0.. {
            let total = |ranges: &[IoVec]| ranges.iter().map(|range| range.len).sum::<u64>();
            if total(&input).max(total(&output)) > MAX_CARRIED as u64 {
                return Err(libc::ENOMEM);
            }
            let mut bytes = Vec::new();
            for range in &input {
                let range = memory.range(range.base, range.len)?;
                bytes.extend(range.iter().map(|byte| byte.load(Ordering::Relaxed)));
            }
            let out_size = total(&output) as u32;
            let in_size = bytes.len() as u32;
            let ioctl = IoctlIn { fh: self.fh, flags: flags | 2, cmd, arg, in_size, out_size };
            let posted = self.line.post(opcode::IOCTL, self.uid, pid, &[ioctl.as_bytes(), &bytes]);
            let (unique, answers) = posted?;
            self.current.store(unique, Ordering::Release);
            let body = body_of(&answers)?;
            let (out, rest) = IoctlOut::read_from_prefix(&body).expect("an ioctl's answer");
            if out.flags & IOCTL_RETRY != 0 {
                let count = (out.in_iovs + out.out_iovs) as usize;
                assert!(count <= MAX_IOVECS && rest.len() == count * 16, "the kernel would say EIO");
                let mut ranges: Vec<_> = rest
                    .chunks_exact(16)
                    .map(|chunk| IoVec::read_from_bytes(chunk).expect("16 bytes"))
                    .collect();
                output = ranges.split_off(out.in_iovs as usize);
                input = ranges;
                between(round);
                continue;
            }
            assert!(rest.len() <= out_size as usize, "the kernel would say EIO");
            let mut rest = rest;
            for range in &output {
                let (now, later) = rest.split_at(rest.len().min(range.len as usize));
                memory.range(range.base, now.len() as u64)?;
                memory.write(range.base, now);
                rest = later;
            }
            return if out.result < 0 { Err(-out.result) } else { Ok(out.result) };
        }
        unreachable!()
    }

    /// A signal for whoever is in an ioctl on this file; it has to be in one.
    pub fn interrupt(&self) {
        wait_until("the ioctl has begun", || self.current.load(Ordering::Acquire) != 0);
        let unique = self.current.load(Ordering::Acquire);
        let header =
            InHeader { len: 48, opcode: opcode::INTERRUPT, unique: unique | 1, ..InHeader::default() };
        self.line.raw(&[header.as_bytes(), InterruptIn { unique }.as_bytes()].concat()).expect("a live node");
    }

    /// A command with its data: status, result and what became of the data.
    pub fn command(&self, ioctl: u32, cmd: PassthruCmd, data: &[u8]) -> Result<(i32, u32, Vec<u8>)> {
        let mut memory = Memory::default();
        let addr = if data.is_empty() { 0 } else { memory.add(data) };
        let cmd = PassthruCmd { addr, data_len: data.len() as u32, ..cmd };
        let arg = memory.add(cmd.as_bytes());
        let status = self.ioctl(ioctl, arg, &memory)?;
        let cmd = PassthruCmd::read_from_bytes(&memory.read(arg, 72)).expect("72 bytes");
        Ok((status, cmd.result, if data.is_empty() { Vec::new() } else { memory.read(addr, data.len()) }))
    }

    /// The same with a result of 64 bits, and the data in these pieces.
    pub fn command64(
        &self,
        ioctl: u32,
        cmd: PassthruCmd64,
        pieces: &[&[u8]],
    ) -> Result<(i32, u64, Vec<Vec<u8>>)> {
        let mut memory = Memory::default();
        let ranges: Vec<_> =
            pieces.iter().map(|piece| IoVec { base: memory.add(piece), len: piece.len() as u64 }).collect();
        let (addr, data_len) = match ioctl {
            slipring::cuse::ioctls::IO64_CMD_VEC => (memory.add(ranges.as_bytes()), ranges.len() as u32),
            _ => ranges.first().map_or((0, 0), |range| (range.base, range.len as u32)),
        };
        let arg = memory.add(PassthruCmd64 { addr, data_len, ..cmd }.as_bytes());
        let status = self.ioctl(ioctl, arg, &memory)?;
        let cmd = PassthruCmd64::read_from_bytes(&memory.read(arg, 80)).expect("80 bytes");
        let pieces = ranges.iter().map(|range| memory.read(range.base, range.len as usize)).collect();
        Ok((status, cmd.result, pieces))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let release = ReleaseIn { fh: self.fh, ..ReleaseIn::default() };
        if let Ok((_, answers)) = self.line.post(opcode::RELEASE, self.uid, 1, &[release.as_bytes()]) {
            // A close waits for this; the line may go first.
            if let Err(mpsc::RecvTimeoutError::Timeout) = answers.recv_timeout(DEADLINE) {
                assert!(std::thread::panicking(), "a close was not answered: it would be in D state");
            }
        }
    }
}
