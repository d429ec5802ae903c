//! Who may do what. Root may do everything that does not pull the ground from under the driver (which the controller itself refuses); others what Linux's
//! `nvme_cmd_allowed` lets them, unless the embedder's own [`Policy`] has another word; on read-only nodes nobody may change anything.
#![forbid(unsafe_code)]

use super::request::{Asking, NodeKind};
use crate::ring::inside::contain_panic;
use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::identify::Cns;
use rustix::io::Errno;
use std::fmt;
use std::sync::Arc;

/// What a client asks for, as a [`Policy`] is told.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PolicyRequest<'a> {
    /// The caller's user, as the server's own user namespace numbers it; 0 is root.
    pub uid: u32,
    /// The namespace whose node it came by; `None` on the controller's own.
    pub nsid: Option<u32>,
    /// The node was opened for writing.
    pub may_write: bool,
    /// What is to be done.
    pub operation: Operation<'a>,
}

/// What a client wants done.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Operation<'a> {
    /// An admin command: a private copy, which is what will run.
    Admin(&'a Command),
    /// An I/O command, likewise.
    Io(&'a Command),
    /// A controller reset.
    Reset,
    /// A reset of the NVM subsystem, with every controller of it.
    SubsystemReset,
    /// The namespaces read anew.
    Rescan,
}

/// What a [`Policy`] says of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// As Linux does: everything for root, and for others what its `nvme_cmd_allowed` lets them.
    #[default]
    AsLinux,
    /// Allowed, whoever asks. What belongs to the driver, and changes on read-only nodes, are refused all the same.
    Allow,
    /// Refused with EACCES, root or not.
    Refuse,
}

/// An embedder's own word on who may do what, by caller and command; see [`super::ServeOptions::policy`].
#[derive(Clone)]
pub struct Policy(Arc<dyn Fn(&PolicyRequest<'_>) -> Verdict + Send + Sync>);

impl Policy {
    /// Has `judge` asked, on the server's thread, where it must not wait: all clients of the process wait with it. It is asked in each round of an ioctl,
    /// so up to three times for one command. One that panics has refused.
    pub fn new(judge: impl Fn(&PolicyRequest<'_>) -> Verdict + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }
}

impl PartialEq for Policy {
    /// Whether it is the very same one.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Policy {}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Policy")
    }
}

/// Whether the caller may run this command: EACCES if not.
pub(super) fn check(asking: &Asking<'_>, is_admin: bool, command: &Command) -> Result<(), Errno> {
    let operation = if is_admin { Operation::Admin(command) } else { Operation::Io(command) };
    let as_linux =
        || asking.is_root() || if is_admin { admin_for_all(command) } else { io_for_all(asking, command) };
    decide(asking, !changes_nothing(is_admin, command), operation, as_linux)
}

/// Resets and rescans: root's, and a reset is nothing for a read-only node.
pub(super) fn check_control(asking: &Asking<'_>, operation: Operation<'_>) -> Result<(), Errno> {
    decide(asking, !matches!(operation, Operation::Rescan), operation, || asking.is_root())
}

fn decide(
    asking: &Asking<'_>,
    changes: bool,
    operation: Operation<'_>,
    as_linux: impl FnOnce() -> bool,
) -> Result<(), Errno> {
    if asking.is_read_only && changes {
        return Err(Errno::ACCESS);
    }
    let nsid = match asking.kind {
        NodeKind::Ctrlr => None,
        NodeKind::Namespace(nsid) => Some(nsid),
    };
    let request = PolicyRequest { uid: asking.uid, nsid, may_write: asking.may_write, operation };
    let verdict = match asking.policy {
        None => Verdict::AsLinux,
        Some(Policy(judge)) => contain_panic(|| judge(&request)).unwrap_or(Verdict::Refuse),
    };
    let is_allowed = match verdict {
        Verdict::AsLinux => as_linux(),
        Verdict::Allow => true,
        Verdict::Refuse => false,
    };
    if is_allowed { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Commands that read, and have no other effect.
fn changes_nothing(is_admin: bool, command: &Command) -> bool {
    if is_admin {
        matches!(
            AdminOpcode(command.opcode),
            AdminOpcode::IDENTIFY
                | AdminOpcode::GET_LOG_PAGE
                | AdminOpcode::GET_FEATURES
                | AdminOpcode::GET_LBA_STATUS
        )
    } else {
        matches!(
            NvmOpcode(command.opcode),
            NvmOpcode::READ
                | NvmOpcode::COMPARE
                | NvmOpcode::VERIFY
                | NvmOpcode::FLUSH
                | NvmOpcode::RESERVATION_REPORT
        )
    }
}

/// What one needs to know to do I/O, and nothing that is anybody's secret.
fn admin_for_all(command: &Command) -> bool {
    let cns = Cns(command.cdw10 as u8);
    command.opcode == AdminOpcode::IDENTIFY.0
        && matches!(cns, Cns::NS | Cns::CTRLR | Cns::CSI_NS | Cns::CSI_CTRLR | Cns::CSI_INDEPENDENT_NS)
}

/// I/O commands whose effects are known and end at the blocks. What brings data to the device or changes blocks needs a file that was opened for writing.
fn io_for_all(asking: &Asking<'_>, command: &Command) -> bool {
    match NvmOpcode(command.opcode) {
        NvmOpcode::READ | NvmOpcode::VERIFY | NvmOpcode::FLUSH => true,
        NvmOpcode::WRITE
        | NvmOpcode::COMPARE
        | NvmOpcode::WRITE_UNCORRECTABLE
        | NvmOpcode::WRITE_ZEROES
        | NvmOpcode::DATASET_MANAGEMENT
        | NvmOpcode::COPY => asking.may_write,
        _ => false,
    }
}
