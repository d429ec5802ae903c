//! Who may do what. Root may do everything that does not pull the ground from under the driver (which the controller itself refuses); others what Linux's
//! `nvme_cmd_allowed` lets them; on read-only nodes nobody may change anything.
#![forbid(unsafe_code)]

use super::request::Asking;
use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::identify::Cns;
use rustix::io::Errno;

/// Whether the caller may run this command: EACCES if not.
pub(super) fn check(asking: &Asking<'_>, is_admin: bool, command: &Command) -> Result<(), Errno> {
    let allowed = if asking.is_read_only && !changes_nothing(is_admin, command) {
        false
    } else {
        asking.is_root() || if is_admin { admin_for_all(command) } else { io_for_all(asking, command) }
    };
    if allowed { Ok(()) } else { Err(Errno::ACCESS) }
}

/// Resets and rescans: root's, and a reset is nothing for a read-only node.
pub(super) fn check_control(asking: &Asking<'_>, is_reset: bool) -> Result<(), Errno> {
    if !asking.is_root() || asking.is_read_only && is_reset { Err(Errno::ACCESS) } else { Ok(()) }
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
