//! Arbitrary rounds of arbitrary ioctls against the part that decides: what it lets through is safe, whatever the client said.

use super::ioctls;
use super::lengths;
use super::request::{self, Asking, NodeKind, Rounds, Run, Step, Transfer};
use super::wire::{IOCTL_32BIT, IOCTL_COMPAT, IoVec, MAX_CARRIED, MAX_IOVECS};
use crate::ctrlr::Namespace;

const IOCTLS: [u32; 20] = [
    ioctls::ID,
    ioctls::ADMIN_CMD,
    ioctls::SUBMIT_IO,
    ioctls::SUBMIT_IO_32,
    ioctls::IO_CMD,
    ioctls::RESET,
    ioctls::SUBSYS_RESET,
    ioctls::RESCAN,
    ioctls::ADMIN64_CMD,
    ioctls::IO64_CMD,
    ioctls::IO64_CMD_VEC,
    ioctls::BLKROGET,
    ioctls::BLKRRPART,
    ioctls::BLKGETSIZE,
    ioctls::BLKFLSBUF,
    ioctls::BLKSSZGET,
    ioctls::BLKBSZSET,
    ioctls::BLKGETSIZE64,
    ioctls::BLKPBSZGET,
    0x5401,
];
/// What one transfer may be in these tests.
const MAX_TRANSFER: usize = 1 << 20;

/// The same each time, for the same seed.
struct Random(fastrand::Rng);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0.u64(..most)
    }

    /// Small numbers, edges, and anything.
    fn word(&mut self) -> u32 {
        const EDGES: [u32; 10] = [0, 1, 2, 512, 4096, 131_000, 131_072, 1 << 20, 0x7fff_ffff, u32::MAX];
        match self.below(4) {
            0 => EDGES[self.below(EDGES.len() as u64) as usize],
            1 => self.below(256) as u32,
            2 => 1 << self.below(32),
            _ => self.next() as u32,
        }
    }

    /// A structure, of which most fields are 0 and the opcode is one that exists.
    fn structure(&mut self, bytes: &mut [u8]) {
        const OPCODES: [u8; 16] = [0, 1, 2, 5, 6, 8, 9, 10, 0x0d, 0x11, 0x15, 0x19, 0x80, 0x82, 0x86, 0xc1];
        bytes.fill(0);
        for at in (4..bytes.len().saturating_sub(3)).step_by(4) {
            if self.below(3) == 0 {
                bytes[at..at + 4].copy_from_slice(&self.word().to_le_bytes());
            }
        }
        if let Some(opcode) = bytes.first_mut() {
            *opcode = OPCODES[self.below(16) as usize];
        }
        if self.below(3) != 0 && bytes.len() >= 8 {
            bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
        }
    }
}

fn namespaces() -> Vec<Namespace> {
    [512, 4096]
        .into_iter()
        .zip(1..)
        .map(|(block_bytes, nsid)| Namespace {
            nsid,
            size_blocks: 1 << 40,
            block_bytes,
            optimal_boundary_blocks: 0,
            is_write_protected: false,
            unsupported: None,
        })
        .collect()
}

/// That a command which was let through is safe.
fn check_command(run: &Run<'_>, asking: &Asking<'_>, namespaces: &[Namespace]) {
    let (len, carried) = match &run.transfer {
        Transfer::None => (0, 0),
        Transfer::In(bytes) => (bytes.len(), 0),
        Transfer::Out(len) => (*len, *len),
        Transfer::InRemote(ranges, len) | Transfer::OutRemote(ranges, len) => {
            assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), *len as u64);
            (*len, 0)
        }
    };
    assert_eq!(run.result_bytes + carried, asking.out_size, "just what was asked for");
    assert!(len <= MAX_TRANSFER && run.command.flags == 0);
    let block = namespaces.iter().find(|namespace| namespace.nsid == run.command.nsid);
    let block = block.map_or(512, |namespace| namespace.block_bytes);
    let moved = lengths::of(run.is_admin, &run.command, block).unwrap_or(0);
    assert!(moved <= len as u64, "{moved} bytes for {len}: {:?}", run.command);
    assert!((run.command.prp1, run.command.prp2, run.command.mptr) == (0, 0, 0));
    let is_the_only_one = asking.kind == NodeKind::Ctrlr && asking.namespaces.len() == 1;
    assert!(run.is_admin || is_the_only_one || run.command.nsid == 1);
}

/// One ioctl, for as many rounds as are asked for, its memory changing now and then. How many rounds there were, and whether a command came of it.
fn one_ioctl(random: &mut Random, rounds: &mut Rounds, namespaces: &[Namespace]) -> (u64, bool) {
    let kind = if random.below(2) == 0 { NodeKind::Ctrlr } else { NodeKind::Namespace(1) };
    let cmd = IOCTLS[random.below(IOCTLS.len() as u64) as usize];
    let flags = if random.below(4) == 0 { IOCTL_COMPAT | IOCTL_32BIT } else { 0 };
    let mut structure = [0; 80];
    random.structure(&mut structure);
    let (mut input, mut out_size) = (Vec::new(), 0);
    let (uid, may_write) = (random.below(2) as u32, random.below(2) == 0);
    let served = if random.below(2) == 0 { namespaces } else { &namespaces[..1] };
    for round in 1.. {
        let asking = Asking {
            kind,
            key: (1, 1),
            uid,
            may_write,
            is_read_only: uid == 0 && !may_write,
            policy: None,
            namespaces: served,
            max_transfer_bytes: MAX_TRANSFER,
            has_subsystem_reset: true,
            cmd,
            flags,
            arg: 0x1000,
            input: &input,
            out_size,
        };
        let (ranges_in, ranges_out) = match request::step(&asking, rounds) {
            Err(_) | Ok(Step::Reset | Step::SubsystemReset | Step::Rescan) => return (round, false),
            Ok(Step::Answer(_, bytes)) => {
                assert!(bytes.len() <= out_size, "more than the caller has room for");
                return (round, false);
            }
            Ok(Step::Run(run)) => {
                check_command(&run, &asking, namespaces);
                return (round, true);
            }
            Ok(Step::Retry { input, output }) => (input, output),
        };
        assert!(ranges_in.len() + ranges_out.len() <= MAX_IOVECS);
        let sum = |ranges: &[IoVec]| ranges.iter().map(|range| range.len).sum::<u64>();
        assert!(sum(&ranges_in) <= MAX_CARRIED as u64 && sum(&ranges_out) <= MAX_CARRIED as u64);
        assert!(round < 5, "no ioctl needs more rounds");
        // What the kernel would copy: the structure first, then anything.
        input = Vec::new();
        for (place, range) in ranges_in.iter().enumerate() {
            let len = range.len as usize;
            let start = input.len();
            if place == 0 {
                if random.below(16) == 0 {
                    random.structure(&mut structure);
                }
                input.extend(structure.iter().copied().chain(std::iter::repeat(0)).take(len));
            } else {
                input.resize(start + len, 0);
                for word in input[start..].chunks_exact_mut(8).take(64) {
                    word.copy_from_slice(&u64::from(random.word() % 8192).to_le_bytes());
                }
            }
        }
        out_size = sum(&ranges_out) as usize;
        match random.below(32) {
            0 => out_size = random.word() as usize % (MAX_CARRIED + 1),
            1 => input.truncate(random.below(input.len() as u64 + 1) as usize),
            2 => input.extend([0; 4]),
            _ => {}
        }
    }
    unreachable!()
}

#[test]
fn whatever_clients_say_the_device_stays_in_its_buffer() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let ioctls = number("SLIPRING_FUZZ_IOCTLS").unwrap_or(200_000);
    let seed = number("SLIPRING_FUZZ_SEED").unwrap_or(0x5eed_0002);
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let (mut rounds, namespaces) = (Rounds::default(), namespaces());
    let (mut executed, mut commands) = (0, 0);
    for _ in 0..ioctls {
        let (rounds, is_command) = one_ioctl(&mut random, &mut rounds, &namespaces);
        executed += rounds;
        commands += u64::from(is_command);
    }
    tracing::info!(seed, ioctls, executed, commands, "fuzzed");
    assert!(commands > ioctls / 100, "{commands} of {ioctls} ioctls ({executed} rounds) came to a command");
}
