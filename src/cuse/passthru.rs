//! Commands as ioctls bring them: the three structures, what Linux refuses about them, and the command that they make.
#![forbid(unsafe_code)]

use super::ioctls::{PassthruCmd, PassthruCmd64, UserIo};
use super::request::{Asking, NodeKind, Run, Transfer, read};
use super::{lengths, policy};
use crate::spec::command::{Command, NvmOpcode};
use rustix::io::Errno;
use std::time::Duration;

/// Entries of a vector of buffers at most (UIO_MAXIOV).
const MAX_VECTOR: u32 = 1024;
/// How long a command may take whose structure does not say, as with Linux.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
const IO_TIMEOUT: Duration = Duration::from_secs(30);

/// Which structure an ioctl has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// [`PassthruCmd`].
    Cmd { is_admin: bool },
    /// [`PassthruCmd64`], perhaps with a vector of buffers.
    Cmd64 { is_admin: bool, is_vector: bool },
    /// [`UserIo`], with or without its padding.
    Io { bytes: usize },
}

impl Shape {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Cmd { .. } => size_of::<PassthruCmd>(),
            Self::Cmd64 { .. } => size_of::<PassthruCmd64>(),
            Self::Io { bytes } => bytes,
        }
    }

    pub(super) fn is_vector(self) -> bool {
        matches!(self, Self::Cmd64 { is_vector: true, .. })
    }

    /// Bytes of the result, and where it is in the structure.
    pub(super) fn result_bytes(self) -> usize {
        match self {
            Self::Cmd { .. } => 4,
            Self::Cmd64 { .. } => 8,
            Self::Io { .. } => 0,
        }
    }

    pub(super) fn result_at(self) -> u64 {
        (self.bytes() - self.result_bytes()) as u64
    }
}

/// What an ioctl's structure says, whichever it was.
#[derive(Debug)]
pub(super) struct Passthru {
    is_admin: bool,
    is_vector: bool,
    command: Command,
    pub(super) addr: u64,
    /// Bytes, or entries of the vector.
    pub(super) data_len: u32,
    /// There is metadata.
    has_metadata: bool,
    timeout_ms: u32,
}

impl Passthru {
    pub(super) fn of_cmd(cmd: &PassthruCmd, is_admin: bool) -> Self {
        let [cdw10, cdw11, cdw12, cdw13, cdw14, cdw15] = cmd.cdw10_15;
        let command = Command {
            opcode: cmd.opcode,
            flags: cmd.flags,
            nsid: cmd.nsid,
            cdw2: cmd.cdw2,
            cdw3: cmd.cdw3,
            cdw10,
            cdw11,
            cdw12,
            cdw13,
            cdw14,
            cdw15,
            ..Command::default()
        };
        Self {
            is_admin,
            is_vector: false,
            command,
            addr: cmd.addr,
            data_len: cmd.data_len,
            has_metadata: cmd.metadata != 0 && cmd.metadata_len != 0,
            timeout_ms: cmd.timeout_ms,
        }
    }

    pub(super) fn of_cmd64(cmd: &PassthruCmd64, is_admin: bool, is_vector: bool) -> Self {
        let narrow = PassthruCmd {
            opcode: cmd.opcode,
            flags: cmd.flags,
            rsvd1: cmd.rsvd1,
            nsid: cmd.nsid,
            cdw2: cmd.cdw2,
            cdw3: cmd.cdw3,
            metadata: cmd.metadata,
            addr: cmd.addr,
            metadata_len: cmd.metadata_len,
            data_len: cmd.data_len,
            cdw10_15: cmd.cdw10_15,
            timeout_ms: cmd.timeout_ms,
            result: 0,
        };
        Self { is_vector, ..Self::of_cmd(&narrow, is_admin) }
    }

    /// SUBMIT_IO has neither namespace nor length: the node is the namespace, and the blocks are the length.
    pub(super) fn of_io(structure: &[u8], asking: &Asking<'_>) -> Result<Self, Errno> {
        let mut padded = [0; size_of::<UserIo>()];
        padded.get_mut(..structure.len()).ok_or(Errno::INVAL)?.copy_from_slice(structure);
        let io: UserIo = read(&padded)?;
        let namespace = asking.namespace().ok_or(Errno::NODEV)?;
        let is_known =
            matches!(NvmOpcode(io.opcode), NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE);
        // Blocks with metadata beside them: nowhere to take it from.
        if !is_known || namespace.unsupported.is_some() {
            return Err(Errno::INVAL);
        }
        let bytes = (u64::from(io.nblocks_z) + 1) * u64::from(namespace.block_bytes);
        let command = Command {
            opcode: io.opcode,
            flags: io.flags,
            nsid: namespace.nsid,
            cdw10: io.slba as u32,
            cdw11: (io.slba >> 32) as u32,
            cdw12: u32::from(io.nblocks_z) | u32::from(io.control) << 16,
            cdw13: io.dsmgmt,
            cdw14: io.reftag,
            cdw15: u32::from(io.apptag) | u32::from(io.appmask) << 16,
            ..Command::default()
        };
        Ok(Self {
            is_admin: false,
            is_vector: false,
            command,
            addr: io.addr,
            data_len: u32::try_from(bytes).map_err(|_| Errno::INVAL)?,
            has_metadata: false,
            timeout_ms: 0,
        })
    }

    /// As Linux tells directions: a command that carries data in brings it, whatever its bit 1 says.
    pub(super) fn is_to_device(&self) -> bool {
        self.command.opcode & 1 != 0
    }

    /// What Linux refuses, in its order; then the policy. The command, if it may run.
    pub(super) fn check(&self, asking: &Asking<'_>) -> Result<Command, Errno> {
        if self.command.flags != 0 {
            return Err(Errno::INVAL);
        }
        if !self.is_admin {
            // On the controller's node there is exactly one namespace, or it was refused before.
            let nsid = match asking.kind {
                NodeKind::Namespace(nsid) => Some(nsid),
                NodeKind::Ctrlr => asking.namespaces.first().map(|namespace| namespace.nsid),
            };
            if nsid != Some(self.command.nsid) {
                return Err(Errno::INVAL);
            }
        }
        policy::check(asking, self.is_admin, &self.command)?;
        if self.has_metadata || self.is_vector && self.data_len > MAX_VECTOR {
            return Err(Errno::INVAL);
        }
        Ok(self.command)
    }

    /// That the device cannot be made to move more than `len` bytes, nor more at once than it takes.
    pub(super) fn check_length(
        &self,
        asking: &Asking<'_>,
        command: &Command,
        len: usize,
    ) -> Result<(), Errno> {
        let namespace = asking.namespaces.iter().find(|namespace| namespace.nsid == command.nsid);
        let block_bytes = namespace.map_or(512, |namespace| namespace.block_bytes);
        let moved = lengths::of(self.is_admin, command, block_bytes).unwrap_or(0);
        if moved > len as u64 || len > asking.max_transfer_bytes { Err(Errno::INVAL) } else { Ok(()) }
    }

    pub(super) fn run<'a>(
        &self,
        asking: &Asking<'_>,
        command: Command,
        shape: Shape,
        transfer: Transfer<'a>,
    ) -> Run<'a> {
        let usual = if self.is_admin { ADMIN_TIMEOUT } else { IO_TIMEOUT };
        let timeout = match self.timeout_ms {
            0 => usual,
            // What is late may end in a reset, and resets are root's to bring about: others can only wait longer.
            ms if asking.is_root() => Duration::from_millis(ms.into()),
            ms => usual.max(Duration::from_millis(ms.into())),
        };
        Run { is_admin: self.is_admin, command, timeout, result_bytes: shape.result_bytes(), transfer }
    }
}
