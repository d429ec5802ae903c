//! A driver that writes anything anywhere: the device must survive it and work after a reset.

use std::time::Duration;

use zerocopy::FromBytes;

use super::{DATA_AT, Host, LISTS_AT, small};
use crate::dma::{DmaMap, MemoryBlock};
use crate::emulated::{Config, Latency, QueueKind};
use crate::spec::command::Command;
use crate::spec::registers::{self, Cc};
use crate::spec::status::Status;
use crate::transport::Transport;

/// Steps of one run. All runs together take about a second.
const STEPS: usize = 3_000;

/// What a run does, which its seed names.
struct Random(fastrand::Rng);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// One of `n`.
    fn of(&mut self, n: u64) -> u64 {
        self.0.u64(..n)
    }

    /// A value that is often near an edge.
    fn edge(&mut self) -> u32 {
        match self.of(5) {
            0 => self.of(20) as u32,
            1 => u32::MAX - self.of(3) as u32,
            2 => 1 << self.of(32),
            3 => self.next() as u32,
            _ => 0,
        }
    }

    /// An address that is often a good one.
    fn address(&mut self, host: &Host) -> u64 {
        let good = host.iova + [0, LISTS_AT, DATA_AT][self.of(3) as usize] as u64;
        match self.of(8) {
            0 => self.next(),
            1 => good + self.of(5000),
            2 => host.iova + host.block.len() as u64 - 4096 * self.of(3),
            _ => good + 4096 * self.of(64),
        }
    }

    fn command(&mut self, host: &Host) -> Command {
        let mut bytes = [0; 64];
        bytes.fill_with(|| self.next() as u8);
        let opcodes = [0, 1, 2, 4, 5, 6, 8, 9, 0xa, 0xc, 0x15, 0x80];
        let any = Command::read_from_bytes(&bytes).expect("64 bytes");
        Command {
            opcode: if self.of(20) == 0 { any.opcode } else { opcodes[self.of(12) as usize] },
            flags: if self.of(20) == 0 { any.flags } else { 0 },
            cid: self.of(64) as u16,
            nsid: if self.of(4) == 0 { self.edge() } else { self.of(4) as u32 },
            prp1: self.address(host),
            prp2: self.address(host),
            cdw10: self.edge(),
            cdw11: self.edge(),
            cdw12: self.edge(),
            cdw13: self.edge() * u32::from(self.of(4) == 0),
            ..any
        }
    }
}

/// Does something, and returns how many commands were completed.
fn disturb(host: &mut Host, random: &mut Random) -> usize {
    let mut completed = 0;
    let qid = random.of(3) as u16;
    match random.of(40) {
        0 if random.of(8) == 0 => host.transport.write_u32(4 * random.of(0x20) as usize, random.edge()),
        1 if random.of(8) == 0 => {
            host.transport.write_u32(registers::CC, Cc::new().with_en(random.of(2) == 0).into());
        }
        2 if random.of(8) == 0 => {
            host.transport.write_u32(registers::CC, Host::cc().with_shn(random.of(4) as u8).into());
        }
        3 | 4 => host.pair(qid).sq_bell.ring(random.edge()),
        5 | 6 => host.pair(qid).cq_bell.ring(random.edge()),
        7 => host.transport.set_bus_master(random.of(2) == 0).expect("not gone"),
        8 => {
            let entry = random.address(host).to_le_bytes();
            host.block.write(LISTS_AT + 8 * random.of(512) as usize, &entry);
        }
        9 => host.transport.set_temperature_k(random.edge() as u16),
        10 => {
            let other = MemoryBlock::new(4096, false).expect("memory");
            let iova = host.transport.map(&other).expect("mapped");
            host.transport.unmap(iova, 4096).expect("was mapped");
        }
        11 if random.of(4) == 0 => host.reset_whatever_it_takes(),
        _ => {
            let command = random.command(host);
            host.push_as(qid, command);
            let pair = host.pair(qid);
            pair.sq_bell.ring(pair.tail);
            while host.peek(qid).is_some() {
                completed += 1;
            }
            let pair = host.pair(qid);
            pair.cq_bell.ring(pair.head);
        }
    }
    host.now += Duration::from_micros(random.of(50));
    host.device.step_at(host.now);
    completed
}

impl Host {
    fn reset_whatever_it_takes(&mut self) {
        self.write_cc(Cc::new());
        self.transport.set_bus_master(true).expect("not gone");
        self.reset();
        self.create_pairs_again();
    }

    fn create_pairs_again(&mut self) {
        for (qid, entries) in [(1, 8), (2, 33)] {
            let (sq, cq) = self.queue_iovas(qid);
            self.admin_ok(Command { prp1: cq, ..Command::create_io_cq(qid, entries, None) });
            self.admin_ok(Command { prp1: sq, ..Command::create_io_sq(qid, qid, entries, 0) });
        }
    }
}

#[test]
fn nothing_that_a_driver_does_breaks_the_device() {
    for seed in 1..=12 {
        let latency = Latency { queue: QueueKind::Io, opcode: Some(2), delay: Duration::from_micros(100) };
        let latencies = if seed % 2 == 0 { vec![latency] } else { Vec::new() };
        let mut host = Host::ready(Config { latencies, mdts: 0, ..small() });
        host.create_pair(1, 8);
        host.create_pair(2, 33);
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let completed: usize = (0..STEPS).map(|_| disturb(&mut host, &mut random)).sum();
        // Much of it is not so bad that nothing works any more.
        assert!(completed > STEPS / 10 && !host.violations().is_empty(), "seed {seed}: {completed}");
        host.reset_whatever_it_takes();
        // Whatever was attached or formatted: the controller answers as it should.
        let status = host.status(1, Command::flush(u32::MAX));
        assert_eq!(status, Status::SUCCESS, "seed {seed}");
    }
}
