//! One ioctl, round by round: what of the caller's memory it still needs, and at last what is to be run. Decides, and does nothing.
//!
//! CUSE sends an ioctl without data first. The answer names parts of the caller's memory, and the ioctl comes again with copies of them; so a command takes two
//! rounds without data, three with, four with a vector of buffers. Between two rounds the caller (another thread of it) can change its structure: what counts is
//! the copy of the last round, which has to be the one that the lengths were taken from, or the ioctl is EINVAL.
#![forbid(unsafe_code)]

use super::blk;
use super::ioctls::{self, PassthruCmd, PassthruCmd64, UserIo};
use super::passthru::{Passthru, Shape};
use super::policy::{self, Operation, Policy};
use super::wire::{self, IoVec};
use crate::ctrlr::Namespace;
use crate::spec::command::Command;
use rustix::io::Errno;
use std::collections::HashMap;
use std::time::Duration;

/// What a node stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Ctrlr,
    Namespace(u32),
}

/// One round of an ioctl, and what is known about node and caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    pub(super) kind: NodeKind,
    /// The open file, and the thread that is blocked in this ioctl: together they name the ioctl from round to round.
    pub(super) key: (u64, u32),
    pub(super) uid: u32,
    /// The file was opened for writing.
    pub(super) may_write: bool,
    pub(super) is_read_only: bool,
    pub(super) policy: Option<&'a Policy>,
    pub(super) namespaces: &'a [Namespace],
    pub(super) max_transfer_bytes: usize,
    /// The controller has an NVM subsystem reset.
    pub(super) has_subsystem_reset: bool,
    pub(super) cmd: u32,
    pub(super) flags: u32,
    pub(super) arg: u64,
    /// What the last answer asked for, and the kernel found.
    pub(super) input: &'a [u8],
    pub(super) out_size: usize,
}

/// What follows a round.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// Another round, with copies of `input`; the answer to that one may fill `output`.
    Retry { input: Vec<IoVec>, output: Vec<IoVec> },
    /// The end: the ioctl's result, and bytes for the caller.
    Answer(i32, Vec<u8>),
    /// A command.
    Run(Run<'a>),
    /// A controller reset.
    Reset,
    /// A reset of the NVM subsystem.
    SubsystemReset,
    /// The namespaces are to be read anew.
    Rescan,
}

/// A command that is ready to be run.
#[derive(Debug)]
pub(super) struct Run<'a> {
    pub(super) is_admin: bool,
    pub(super) command: Command,
    pub(super) timeout: Duration,
    /// Bytes of the completion's result that the caller gets: 0, 4 or 8.
    pub(super) result_bytes: usize,
    pub(super) transfer: Transfer<'a>,
}

/// What a command moves, and where the caller has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Transfer<'a> {
    None,
    /// To the device, and here it is.
    In(&'a [u8]),
    /// To the device: too much for CUSE to carry, so it is fetched from the caller's memory.
    InRemote(Vec<IoVec>, usize),
    /// From the device; CUSE carries it.
    Out(usize),
    /// From the device; it is put into the caller's memory.
    OutRemote(Vec<IoVec>, usize),
}

/// Ioctls that are between two rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds(HashMap<(u64, u32), Stage>);

/// What an ioctl needs next, with the structure as it was.
#[derive(Debug)]
enum Stage {
    /// The vector of buffers.
    Vector(Vec<u8>),
    /// The data, of so many bytes.
    Data(Vec<u8>, usize),
}

impl Rounds {
    /// As many threads of one node may be between two rounds; callers that die there are forgotten when there are more, or their file is closed.
    const MOST: usize = 4096;

    fn keep(&mut self, key: (u64, u32), stage: Stage) {
        if self.0.len() >= Self::MOST {
            self.0.clear();
        }
        self.0.insert(key, stage);
    }

    /// The open file is closed.
    pub(super) fn forget_file(&mut self, fh: u64) {
        self.0.retain(|(file, _), _| *file != fh);
    }
}

impl Asking<'_> {
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(super) fn is_compat(&self) -> bool {
        self.flags & (wire::IOCTL_COMPAT | wire::IOCTL_32BIT) != 0
    }

    /// The node's namespace, as last read.
    pub(super) fn namespace(&self) -> Option<&Namespace> {
        match self.kind {
            NodeKind::Ctrlr => None,
            NodeKind::Namespace(nsid) => self.namespaces.iter().find(|namespace| namespace.nsid == nsid),
        }
    }

    fn is_first_round(&self) -> bool {
        self.input.is_empty() && self.out_size == 0
    }
}

/// The next step of an ioctl. An error is the ioctl's.
pub(super) fn step<'a>(asking: &Asking<'a>, rounds: &mut Rounds) -> Result<Step<'a>, Errno> {
    let stage = rounds.0.remove(&asking.key);
    let is_ctrlr = asking.kind == NodeKind::Ctrlr;
    match asking.cmd {
        ioctls::ID => match asking.kind {
            NodeKind::Ctrlr => Err(Errno::NOTTY),
            NodeKind::Namespace(nsid) => Ok(Step::Answer(nsid.cast_signed(), Vec::new())),
        },
        ioctls::RESET if is_ctrlr => policy::check_control(asking, Operation::Reset).map(|()| Step::Reset),
        ioctls::SUBSYS_RESET if is_ctrlr && asking.has_subsystem_reset => {
            policy::check_control(asking, Operation::SubsystemReset).map(|()| Step::SubsystemReset)
        }
        ioctls::RESCAN => policy::check_control(asking, Operation::Rescan).map(|()| Step::Rescan),
        ioctls::ADMIN_CMD => passthru(asking, rounds, stage, Shape::Cmd { is_admin: true }),
        ioctls::ADMIN64_CMD => {
            passthru(asking, rounds, stage, Shape::Cmd64 { is_admin: true, is_vector: false })
        }
        ioctls::IO_CMD if is_ctrlr && asking.namespaces.is_empty() => Err(Errno::NOTTY),
        ioctls::IO_CMD if is_ctrlr && asking.namespaces.len() > 1 => Err(Errno::INVAL),
        ioctls::IO_CMD => passthru(asking, rounds, stage, Shape::Cmd { is_admin: false }),
        _ if is_ctrlr => Err(Errno::NOTTY),
        ioctls::IO64_CMD => {
            passthru(asking, rounds, stage, Shape::Cmd64 { is_admin: false, is_vector: false })
        }
        ioctls::IO64_CMD_VEC => {
            passthru(asking, rounds, stage, Shape::Cmd64 { is_admin: false, is_vector: true })
        }
        ioctls::SUBMIT_IO => passthru(asking, rounds, stage, Shape::Io { bytes: size_of::<UserIo>() }),
        ioctls::SUBMIT_IO_32 => {
            passthru(asking, rounds, stage, Shape::Io { bytes: ioctls::USER_IO_32_BYTES })
        }
        _ => blk::step(asking),
    }
}

fn passthru<'a>(
    asking: &Asking<'a>,
    rounds: &mut Rounds,
    stage: Option<Stage>,
    shape: Shape,
) -> Result<Step<'a>, Errno> {
    let of_structure = IoVec { base: asking.arg, len: shape.bytes() as u64 };
    if asking.is_first_round() {
        return Ok(Step::Retry { input: vec![of_structure], output: of_result(asking.arg, shape) });
    }
    let (structure, rest) = asking.input.split_at_checked(shape.bytes()).ok_or(Errno::INVAL)?;
    let request = match shape {
        Shape::Cmd { is_admin } => Passthru::of_cmd(&read::<PassthruCmd>(structure)?, is_admin),
        Shape::Cmd64 { is_admin, is_vector } => {
            Passthru::of_cmd64(&read::<PassthruCmd64>(structure)?, is_admin, is_vector)
        }
        Shape::Io { .. } => Passthru::of_io(structure, asking)?,
    };
    match stage {
        None if rest.is_empty() && asking.out_size == shape.result_bytes() => {
            let command = request.check(asking)?;
            if shape.is_vector() && request.data_len != 0 {
                let entry = if asking.is_compat() { 8 } else { 16 };
                let vector = IoVec { base: request.addr, len: u64::from(request.data_len) * entry };
                rounds.keep(asking.key, Stage::Vector(structure.to_vec()));
                return Ok(Step::Retry {
                    input: vec![of_structure, vector],
                    output: of_result(asking.arg, shape),
                });
            }
            let len = request.data_len as usize;
            let range = IoVec { base: request.addr, len: len as u64 };
            let ranges = if len == 0 { Vec::new() } else { vec![range] };
            ask_for_data(asking, rounds, shape, &request, command, (structure, ranges, len))
        }
        Some(Stage::Vector(before)) if before == structure && asking.out_size == shape.result_bytes() => {
            let command = request.check(asking)?;
            let (ranges, len) = vector(rest, asking.is_compat(), request.data_len)?;
            ask_for_data(asking, rounds, shape, &request, command, (structure, ranges, len))
        }
        Some(Stage::Data(before, len)) if before == structure => {
            let command = request.check(asking)?;
            request.check_length(asking, &command, len)?;
            let (to_device, from_device) = if request.is_to_device() { (len, 0) } else { (0, len) };
            if rest.len() != to_device || asking.out_size != shape.result_bytes() + from_device {
                return Err(Errno::INVAL);
            }
            let transfer = if request.is_to_device() { Transfer::In(rest) } else { Transfer::Out(len) };
            Ok(Step::Run(request.run(asking, command, shape, transfer)))
        }
        // The structure is not what it was, or this is no round that was asked for.
        _ => Err(Errno::INVAL),
    }
}

/// The structure's result, for the answer to fill.
fn of_result(arg: u64, shape: Shape) -> Vec<IoVec> {
    let len = shape.result_bytes() as u64;
    if len == 0 { Vec::new() } else { vec![IoVec { base: arg.wrapping_add(shape.result_at()), len }] }
}

/// All but the data is known: runs the command if there is none, or CUSE could not carry it; otherwise asks for it.
fn ask_for_data<'a>(
    asking: &Asking<'a>,
    rounds: &mut Rounds,
    shape: Shape,
    request: &Passthru,
    command: Command,
    (structure, ranges, len): (&[u8], Vec<IoVec>, usize),
) -> Result<Step<'a>, Errno> {
    request.check_length(asking, &command, len)?;
    let is_to_device = request.is_to_device();
    if len == 0 {
        return Ok(Step::Run(request.run(asking, command, shape, Transfer::None)));
    }
    let beside = if is_to_device { shape.bytes() } else { shape.result_bytes() };
    let iovecs = 1 + of_result(asking.arg, shape).len() + ranges.len();
    if len + beside > wire::MAX_CARRIED || iovecs > wire::MAX_IOVECS {
        let transfer =
            if is_to_device { Transfer::InRemote(ranges, len) } else { Transfer::OutRemote(ranges, len) };
        return Ok(Step::Run(request.run(asking, command, shape, transfer)));
    }
    let mut input = vec![IoVec { base: asking.arg, len: shape.bytes() as u64 }];
    let mut output = of_result(asking.arg, shape);
    (if is_to_device { &mut input } else { &mut output }).extend(&ranges);
    rounds.keep(asking.key, Stage::Data(structure.to_vec(), len));
    Ok(Step::Retry { input, output })
}

/// A vector of buffers, as the caller's word size has it, and the sum of its lengths.
fn vector(bytes: &[u8], is_compat: bool, count: u32) -> Result<(Vec<IoVec>, usize), Errno> {
    let entry = if is_compat { 8 } else { 16 };
    if bytes.len() != count as usize * entry {
        return Err(Errno::INVAL);
    }
    let word = |word: &[u8]| word.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let ranges: Vec<_> = bytes
        .chunks_exact(entry)
        .map(|chunk| IoVec { base: word(&chunk[..entry / 2]), len: word(&chunk[entry / 2..]) })
        .collect();
    let sum = ranges.iter().try_fold(0_u64, |sum, range| sum.checked_add(range.len)).ok_or(Errno::INVAL)?;
    let sum = usize::try_from(sum).map_err(|_| Errno::INVAL)?;
    Ok((ranges.into_iter().filter(|range| range.len != 0).collect(), sum))
}

pub(super) fn read<T: zerocopy::FromBytes>(bytes: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(bytes).map_err(|_| Errno::INVAL)
}
