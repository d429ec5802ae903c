//! The device driven by hand, through registers, doorbells and memory, step by step. No part of the driver is used.
//! `Host` is the hand; what is tested is in the other files.

mod address;
mod admin;
mod bring_up;
mod events;
mod faults;
mod faults_text;
mod features;
mod hostile;
mod identify;
mod image;
mod io;
mod iommu;
mod keep_alive;
mod latency;
mod logs;
mod prp;
mod queues;
mod subsystem_reset;
mod thread;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, IntoBytes};

use super::{Backing, Config, Device, EmulatedTransport, NamespaceConfig};
use crate::dma::{DmaMap, MemoryBlock};
use crate::spec::command::Command;
use crate::spec::completion::Completion;
use crate::spec::registers::{self, Aqa, Cc, Csts};
use crate::spec::status::Status;
use crate::transport::{Doorbell, Transport};

/// Bytes of the host's one mapped block.
const BLOCK_BYTES: usize = 16 << 20;
/// Where the data of most commands lies.
pub(super) const DATA_AT: usize = 4 << 20;
/// Where PRP lists lie.
pub(super) const LISTS_AT: usize = 3 << 20;
/// Entries of the admin queues.
pub(super) const ADMIN_ENTRIES: u32 = 16;

/// A small controller: 4 queue pairs, one namespace of 1 MiB per block size.
pub(super) fn small() -> Config {
    let namespace = |lba_bytes| NamespaceConfig { size_bytes: 1 << 20, lba_bytes, backing: Backing::Ram };
    Config {
        namespaces: vec![namespace(512), namespace(4096)],
        io_queues: 4,
        mqes: 64,
        mdts: 5,
        interrupts: 5,
        ..Config::default()
    }
}

/// A queue pair, as its owner sees it.
pub(super) struct Pair {
    pub(super) qid: u16,
    entries: u32,
    pub(super) sq_at: usize,
    pub(super) cq_at: usize,
    pub(super) tail: u32,
    pub(super) head: u32,
    phase: bool,
    pub(super) sq_bell: Doorbell,
    pub(super) cq_bell: Doorbell,
    next_cid: u16,
}

/// A driver's place, with nobody in it but the test.
pub(super) struct Host {
    pub(super) transport: Arc<EmulatedTransport>,
    pub(super) device: Device,
    pub(super) block: Arc<MemoryBlock>,
    pub(super) iova: u64,
    pub(super) now: Instant,
    pairs: BTreeMap<u16, Pair>,
    dstrd: u8,
    next_queue: usize,
    /// Steps that let the device look at every doorbell.
    round: usize,
}

impl Host {
    /// A host whose controller is not enabled, with memory mapped and bus mastering on.
    pub(super) fn new(config: Config) -> Self {
        let (dstrd, io_queues) = (config.dstrd, usize::from(config.io_queues));
        let (transport, device) = crate::emulated::new(config).expect("a controller");
        let block = MemoryBlock::new(BLOCK_BYTES, false).expect("memory");
        let iova = transport.map(&block).expect("mapped");
        transport.set_bus_master(true).expect("bus mastering");
        let (pairs, round) = (BTreeMap::new(), 2 * (io_queues + 2));
        let now = Instant::now();
        let mut host = Self { transport, device, block, iova, now, pairs, dstrd, next_queue: 0, round };
        host.add_pair(0, ADMIN_ENTRIES);
        host
    }

    /// A host with a controller that is ready.
    pub(super) fn ready(config: Config) -> Self {
        let mut host = Self::new(config);
        host.enable();
        host
    }

    /// CC as it should be.
    pub(super) fn cc() -> Cc {
        Cc::new().with_en(true).with_iosqes(6).with_iocqes(4)
    }

    /// Writes AQA, ASQ and ACQ.
    pub(super) fn set_admin_queues(&mut self) {
        let z = (ADMIN_ENTRIES - 1) as u16;
        let (asq, acq) = self.queue_iovas(0);
        self.transport.write_u32(registers::AQA, Aqa::new().with_asqs_z(z).with_acqs_z(z).into());
        self.transport.write_u64(registers::ASQ, asq);
        self.transport.write_u64(registers::ACQ, acq);
    }

    pub(super) fn write_cc(&mut self, cc: Cc) {
        self.transport.write_u32(registers::CC, cc.into());
        self.settle();
    }

    pub(super) fn csts(&self) -> Csts {
        Csts::from(self.transport.read_u32(registers::CSTS))
    }

    pub(super) fn enable(&mut self) {
        self.set_admin_queues();
        self.write_cc(Self::cc());
        assert!(self.csts().rdy() && !self.csts().cfs(), "{:?}", self.violations());
    }

    /// Resets the controller and enables it again, with the admin queues as new.
    pub(super) fn reset(&mut self) {
        self.write_cc(Cc::new());
        assert!(!self.csts().rdy());
        self.forget_queues();
        self.enable();
    }

    /// Queue memory, indices and phases as new.
    pub(super) fn forget_queues(&mut self) {
        self.block.fill(0, LISTS_AT, 0);
        self.pairs.values_mut().for_each(Pair::forget);
    }

    pub(super) fn violations(&self) -> Vec<String> {
        self.transport.violations()
    }

    /// The only breach so far, which must contain `words`.
    pub(super) fn expect_violation(&self, words: &str) {
        let all = self.violations();
        assert!(all.len() == 1 && all[0].contains(words), "{words:?} is not what {all:?} says");
    }

    /// Steps until every doorbell was looked at and nothing was left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let done: usize = (0..self.round).map(|_| self.device.step_at(self.now)).sum();
            if done == 0 {
                return;
            }
        }
        panic!("the device always finds something to do");
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// Takes memory for a queue pair, of which the device does not know yet.
    pub(super) fn add_pair(&mut self, qid: u16, entries: u32) {
        let mut take = |bytes: usize| {
            let start = self.next_queue;
            self.next_queue += bytes.next_multiple_of(4096);
            start
        };
        let sq_at = take(entries as usize * 64);
        let cq_at = take(entries as usize * 16);
        assert!(self.next_queue <= LISTS_AT, "too many queues for the test's memory");
        let bell = |offset| self.transport.doorbell(offset).expect("a doorbell");
        let sq_bell = bell(registers::sq_tail_doorbell(qid, self.dstrd));
        let cq_bell = bell(registers::cq_head_doorbell(qid, self.dstrd));
        let pair = Pair {
            qid,
            entries,
            sq_at,
            cq_at,
            tail: 0,
            head: 0,
            phase: true,
            sq_bell,
            cq_bell,
            next_cid: 0x10,
        };
        self.pairs.insert(qid, pair);
    }

    pub(super) fn pair(&mut self, qid: u16) -> &mut Pair {
        self.pairs.get_mut(&qid).expect("a pair that was added")
    }

    /// Addresses of a pair's queues.
    pub(super) fn queue_iovas(&mut self, qid: u16) -> (u64, u64) {
        let iova = self.iova;
        let pair = self.pair(qid);
        (iova + pair.sq_at as u64, iova + pair.cq_at as u64)
    }

    /// Makes an I/O queue pair.
    pub(super) fn create_pair(&mut self, qid: u16, entries: u32) {
        self.add_pair(qid, entries);
        let (sq, cq) = self.queue_iovas(qid);
        self.admin_ok(Command { prp1: cq, ..Command::create_io_cq(qid, entries, None) });
        self.admin_ok(Command { prp1: sq, ..Command::create_io_sq(qid, qid, entries, 0) });
    }

    /// Puts a command into a queue and returns its CID. The doorbell is not rung.
    pub(super) fn push(&mut self, qid: u16, command: Command) -> u16 {
        let pair = self.pair(qid);
        let cid = pair.next_cid;
        pair.next_cid += 1;
        self.push_as(qid, Command { cid, ..command });
        cid
    }

    /// As `push`, with the CID of the command.
    pub(super) fn push_as(&mut self, qid: u16, command: Command) {
        let block = self.block.clone();
        let pair = self.pair(qid);
        block.write(pair.sq_at + pair.tail as usize * 64, command.as_bytes());
        pair.tail = (pair.tail + 1) % pair.entries;
    }

    /// Tells the device the tail, and lets it work.
    pub(super) fn ring(&mut self, qid: u16) {
        let pair = self.pair(qid);
        pair.sq_bell.ring(pair.tail);
        self.settle();
    }

    /// Takes a completion, if there is one. The doorbell is not rung.
    pub(super) fn peek(&mut self, qid: u16) -> Option<Completion> {
        let mut bytes = [0; 16];
        let block = self.block.clone();
        let pair = self.pair(qid);
        block.read(pair.cq_at + pair.head as usize * 16, &mut bytes);
        let completion = Completion::read_from_bytes(&bytes).expect("16 bytes");
        if completion.phase() != pair.phase {
            return None;
        }
        pair.head += 1;
        if pair.head == pair.entries {
            pair.head = 0;
            pair.phase = !pair.phase;
        }
        assert_eq!(completion.sqid, pair.qid);
        Some(completion)
    }

    /// Takes a completion, if there is one, and tells the device.
    pub(super) fn reap(&mut self, qid: u16) -> Option<Completion> {
        let completion = self.peek(qid)?;
        let pair = self.pair(qid);
        pair.cq_bell.ring(pair.head);
        self.settle();
        Some(completion)
    }

    /// Runs one command and returns its completion.
    pub(super) fn run(&mut self, qid: u16, command: Command) -> Completion {
        let cid = self.push(qid, command);
        self.ring(qid);
        let completion = self.reap(qid).expect("a completion");
        assert_eq!(completion.cid, cid);
        completion
    }

    /// The status of one command.
    pub(super) fn status(&mut self, qid: u16, command: Command) -> Status {
        self.run(qid, command).status()
    }

    /// Runs an admin command that must succeed, and returns dword 0.
    pub(super) fn admin_ok(&mut self, command: Command) -> u32 {
        let completion = self.run(0, command);
        assert_eq!(completion.status(), Status::SUCCESS, "{command:?}");
        completion.dw0
    }

    /// Runs a command that must fail for good, with this status.
    pub(super) fn fails(&mut self, qid: u16, command: Command, status: Status) {
        assert_eq!(self.status(qid, command), status.with_dnr(), "{command:?}");
    }

    /// The command with its data at `DATA_AT`: two pages at most, as PRP1 and PRP2 describe them.
    pub(super) fn with_data(&self, command: Command) -> Command {
        let prp1 = self.iova + DATA_AT as u64;
        Command { prp1, prp2: prp1 + 4096, ..command }
    }

    /// Reads what is at `DATA_AT`.
    pub(super) fn data(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.block.read(DATA_AT, &mut bytes);
        bytes
    }

    /// An admin command that returns 4096 bytes, and those bytes.
    pub(super) fn admin_data(&mut self, command: Command) -> Vec<u8> {
        self.block.fill(DATA_AT, 4096, 0xee);
        self.admin_ok(self.with_data(command));
        self.data(4096)
    }
}

impl Pair {
    /// Back to the state of a new queue.
    fn forget(&mut self) {
        (self.tail, self.head, self.phase) = (0, 0, true);
    }
}

/// A pattern that differs at every offset and by seed.
pub(super) fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8).wrapping_add(seed)).collect()
}

#[test]
fn a_ready_controller_has_no_complaint_and_has_posted_nothing() {
    let mut host = Host::ready(small());
    assert_eq!(host.violations(), Vec::<String>::new());
    assert!(host.peek(0).is_none());
}
