//! Arbitrary messages and arbitrary structures: the server goes on, answers each request once, and lets no command past its checks that a careful reading of the
//! bytes would refuse.
//!
//! A seeded mutator over a committed corpus (`corpus/`), since coverage-guided fuzzing needs a nightly compiler. Some seconds in the test command;
//! `SLIPRING_FUZZ_SECONDS` runs it for longer, `SLIPRING_FUZZ_SEED` repeats a run.

use crate::kernel::Kernel;
use crate::rig::{Rack, admin, passthru, small};
use crate::support::DEADLINE;
use slipring::cuse::ioctls::{self, PassthruCmd64, UserIo};
use slipring::cuse::wire::{InHeader, IoctlIn, OutHeader, opcode};
use slipring::emulated::Config;
use slipring::spec::command::Command;
use slipring::spec::identify::Cns;
use slipring::spec::log::LogId;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

const SECONDS: u64 = 4;

/// The same each time, for the same seed.
struct Random(fastrand::Rng);

impl Random {
    fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    fn below(&mut self, most: usize) -> usize {
        self.0.usize(..most.max(1))
    }

    fn number(&mut self) -> u64 {
        const EDGES: [u64; 12] =
            [0, 1, 7, 8, 511, 512, 4095, 4096, 0x7fff_ffff, u32::MAX as u64, i64::MAX as u64, u64::MAX];
        match self.below(3) {
            0 => EDGES[self.below(EDGES.len())],
            1 => self.next() & 0xff,
            _ => self.next(),
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/cuse/corpus")
}

/// Messages that are all right, or nearly: what the mutator starts from.
fn corpus() -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder())
        .expect("the corpus")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let corpus: Vec<_> = paths.iter().map(|path| std::fs::read(path).expect("readable")).collect();
    assert!(corpus.len() >= 20, "{} messages", corpus.len());
    corpus
}

/// The corpus is what this makes; run with `SLIPRING_FUZZ_WRITE_CORPUS=1` after a change.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let message = |opcode: u32, body: &[u8]| {
        let len = (size_of::<InHeader>() + body.len()) as u32;
        let header = InHeader { len, opcode, unique: 2, pid: 1, ..InHeader::default() };
        [header.as_bytes(), body].concat()
    };
    let ioctl = |cmd: u32, out_size: u32, input: &[u8]| {
        let ioctl = IoctlIn { fh: 1, flags: 2, cmd, arg: 4096, in_size: input.len() as u32, out_size };
        message(opcode::IOCTL, &[ioctl.as_bytes(), input].concat())
    };
    let mut seeds = vec![
        ("open".to_owned(), message(opcode::OPEN, &[0; 8])),
        (
            "release".to_owned(),
            message(opcode::RELEASE, &[[1, 0, 0, 0, 0, 0, 0, 0], [0; 8], [0; 8]].concat()),
        ),
        ("interrupt".to_owned(), message(opcode::INTERRUPT, &2_u64.to_le_bytes())),
        ("poll".to_owned(), message(opcode::POLL, &[0; 24])),
        ("read".to_owned(), message(opcode::READ, &[0; 40])),
        ("write".to_owned(), message(opcode::WRITE, &[0; 44])),
        ("init".to_owned(), message(opcode::CUSE_INIT, &[7, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])),
    ];
    for cmd in [
        ioctls::ID,
        ioctls::RESCAN,
        ioctls::SUBSYS_RESET,
        ioctls::BLKGETSIZE64,
        ioctls::BLKSSZGET,
        ioctls::BLKFLSBUF,
    ] {
        seeds.push((format!("ioctl-{cmd:08x}"), ioctl(cmd, 0, &[])));
        seeds.push((format!("ioctl-{cmd:08x}-out"), ioctl(cmd, 8, &[])));
    }
    seeds.push(("set-block-size".into(), ioctl(ioctls::BLKBSZSET, 0, &4096_u32.to_le_bytes())));
    for (name, command, len) in [
        ("identify", Command::identify(Cns::CTRLR, 0, 0), 4096_u32),
        ("log", Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), 512),
        ("format", Command::format_nvm(1, 0, 0), 0),
    ] {
        let cmd = ioctls::PassthruCmd { data_len: len, addr: 1 << 16, ..passthru(command) };
        seeds.push((format!("admin-{name}-first"), ioctl(ioctls::ADMIN_CMD, 0, &[])));
        seeds.push((format!("admin-{name}-structure"), ioctl(ioctls::ADMIN_CMD, 4, cmd.as_bytes())));
        seeds.push((format!("admin-{name}-data"), ioctl(ioctls::ADMIN_CMD, 4 + len, cmd.as_bytes())));
    }
    for (name, command) in [("read", Command::read(1, 0, 8)), ("write", Command::write(1, 0, 8))] {
        let cmd = passthru(command);
        let cmd = PassthruCmd64 {
            opcode: cmd.opcode,
            nsid: 1,
            cdw10_15: cmd.cdw10_15,
            addr: 1 << 16,
            data_len: 4096,
            ..PassthruCmd64::default()
        };
        seeds.push((format!("io64-{name}"), ioctl(ioctls::IO64_CMD, 8, cmd.as_bytes())));
        let vector = [cmd.as_bytes(), &[0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0]].concat();
        let one = PassthruCmd64 { data_len: 1, ..cmd };
        seeds.push((format!("vector-{name}"), ioctl(ioctls::IO64_CMD_VEC, 8, one.as_bytes())));
        seeds.push((format!("vector-{name}-ranges"), ioctl(ioctls::IO64_CMD_VEC, 8, &vector)));
        let io = UserIo { opcode: command.opcode, nblocks_z: 7, addr: 1 << 16, ..UserIo::default() };
        seeds.push((format!("submit-{name}"), ioctl(ioctls::SUBMIT_IO, 0, io.as_bytes())));
        seeds.push((format!("submit32-{name}"), ioctl(ioctls::SUBMIT_IO_32, 0, &io.as_bytes()[..44])));
    }
    seeds
}

#[test]
fn the_corpus_is_what_the_seeds_are() {
    if std::env::var_os("SLIPRING_FUZZ_WRITE_CORPUS").is_some() {
        std::fs::create_dir_all(folder()).expect("a folder");
        for (name, bytes) in seeds() {
            std::fs::write(folder().join(name), bytes).expect("written");
        }
    }
    for (name, bytes) in seeds() {
        assert_eq!(std::fs::read(folder().join(&name)).expect("committed"), bytes, "{name}");
    }
    assert_eq!(corpus().len(), seeds().len());
}

/// Changes a message here and there. The header's length mostly stays true, or nothing behind it would ever be looked at.
fn mutate(random: &mut Random, corpus: &[Vec<u8>], unique: u64) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    for _ in 0..random.below(6) {
        match random.below(5) {
            0 => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 => {
                let (at, value) = (random.below(bytes.len() / 4) * 4, random.number() as u32);
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            2 => bytes.truncate(random.below(bytes.len()).max(1)),
            3 => bytes.extend((0..random.below(128)).map(|i| i as u8)),
            _ => {
                // Another message's body.
                let other = &corpus[random.below(corpus.len())];
                let at = random.below(bytes.len().min(other.len()));
                bytes.truncate(at);
                bytes.extend(&other[at..]);
            }
        }
        if bytes.len() < 4 {
            bytes.resize(40, 0);
        }
    }
    if bytes.len() >= 40 {
        if random.below(16) != 0 {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
        }
        if bytes.len() >= 72 && bytes[4] == opcode::IOCTL as u8 && random.below(4) != 0 {
            let in_size = (bytes.len() - 72) as u32;
            bytes[64..68].copy_from_slice(&in_size.to_le_bytes());
        }
        bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        // Nobody's memory: this very process has the number that a careless message would name.
        let pid = if random.below(2) == 0 { 0 } else { u32::MAX - random.below(4) as u32 };
        bytes[32..36].copy_from_slice(&pid.to_le_bytes());
    }
    bytes
}

/// Whether the kernel would wait for an answer to this.
fn is_awaited(bytes: &[u8]) -> bool {
    match InHeader::read_from_prefix(bytes) {
        Ok((header, _)) => !matches!(header.opcode, opcode::INTERRUPT | opcode::DESTROY),
        Err(_) => false,
    }
}

#[test]
fn arbitrary_messages_do_no_harm() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seconds = number("SLIPRING_FUZZ_SECONDS").unwrap_or(SECONDS);
    let seed = number("SLIPRING_FUZZ_SEED").unwrap_or(0x5eed_0001);
    let corpus = corpus();
    let mut random = Random(fastrand::Rng::with_seed(seed));
    let rack = Rack::new(Config { mdts: 5, ..small() });
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut executed, mut refused, mut unique) = (0_u64, 0_u64, 1 << 32);
    // So many at least, however slow the machine is.
    while Instant::now() < until || executed <= 1000 {
        // A resetting message ends nothing, and a release only its file: so each burst has files of its own.
        let files = [rack.ctrlr(), rack.namespace(1)];
        for file in &files {
            let mut waiting = Vec::new();
            for _ in 0..128 {
                unique += 2;
                let mut bytes = mutate(&mut random, &corpus, unique);
                if bytes.len() >= 48 && bytes[4] == opcode::IOCTL as u8 && random.below(8) != 0 {
                    bytes[40..48].copy_from_slice(&file.fh.to_le_bytes());
                }
                let answer = is_awaited(&bytes).then(|| file.line.expect_answer(unique));
                file.line
                    .raw(&bytes)
                    .unwrap_or_else(|error| panic!("seed {seed:#x}: the line is dead: {error}"));
                executed += 1;
                waiting.extend(answer.map(|answer| (answer, bytes)));
            }
            for (answer, bytes) in waiting {
                let reply = answer.recv_timeout(DEADLINE).unwrap_or_else(|_| {
                    panic!("seed {seed:#x}, message {executed}: no answer to {bytes:02x?}")
                });
                let (header, _) = OutHeader::read_from_prefix(&reply).expect("a header");
                refused += u64::from(header.error != 0);
            }
        }
    }
    if number("SLIPRING_FUZZ_SECONDS").is_some() {
        let report = format!("seed {seed:#x}: {executed} messages, {refused} of them refused\n");
        std::io::stderr().write_all(report.as_bytes()).expect("written");
    }
    assert!(refused < executed, "{executed} messages, {refused} refused");
    let (status, _, _) = admin(&rack.ctrlr(), Command::identify(Cns::CTRLR, 0, 0), &[0; 4096]).expect("well");
    assert_eq!(status, 0);
    let names = |kernel: &Kernel| kernel.names();
    assert_eq!(names(&rack.kernel), ["nvme0", "nvme0n1"]);
    rack.finish();
}
