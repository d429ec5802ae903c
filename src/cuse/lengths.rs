//! How much a command lets the device move, whatever its sender says: a buffer that is shorter would let it read or write past its end.
#![forbid(unsafe_code)]

use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::feature::FeatureId;

const PAGE: u64 = 4096;

/// The bytes that the command may make the device move, or `None` where its fields do not say: vendors' own commands, and those of which this driver knows nothing.
///
/// NVMe Base 2.0, 5; NVM Command Set 1.0, 3. `block_bytes` is the namespace's block size.
pub(super) fn of(is_admin: bool, command: &Command, block_bytes: u32) -> Option<u64> {
    if is_admin { admin(command) } else { io(command, block_bytes) }
}

fn dwords_z(count_z: u32) -> u64 {
    (u64::from(count_z) + 1) * 4
}

fn admin(command: &Command) -> Option<u64> {
    let bytes = match AdminOpcode(command.opcode) {
        AdminOpcode::IDENTIFY | AdminOpcode::NAMESPACE_ATTACHMENT => PAGE,
        AdminOpcode::GET_LOG_PAGE => dwords_z(command.cdw10 >> 16 | command.cdw11 << 16),
        // SEL = 3 asks for capabilities, which are in dword 0.
        AdminOpcode::GET_FEATURES if command.cdw10 >> 8 & 0b111 == 3 => 0,
        AdminOpcode::GET_FEATURES | AdminOpcode::SET_FEATURES => {
            return feature(FeatureId(command.cdw10 as u8), command);
        }
        // To create one; deleting takes no data.
        AdminOpcode::NAMESPACE_MANAGEMENT if command.cdw10 & 0xf == 0 => PAGE,
        AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD => dwords_z(command.cdw10),
        AdminOpcode::SECURITY_SEND | AdminOpcode::SECURITY_RECEIVE => command.cdw11.into(),
        AdminOpcode::GET_LBA_STATUS => dwords_z(command.cdw12),
        // Identify's parameters and streams' status; the allocation of streams has no data.
        AdminOpcode::DIRECTIVE_RECEIVE if command.cdw11 & 0xffff != 0x0103 => dwords_z(command.cdw10),
        AdminOpcode::NAMESPACE_MANAGEMENT
        | AdminOpcode::DIRECTIVE_RECEIVE
        | AdminOpcode::ABORT
        | AdminOpcode::FIRMWARE_COMMIT
        | AdminOpcode::DEVICE_SELF_TEST
        | AdminOpcode::VIRTUALIZATION_MANAGEMENT
        | AdminOpcode::CAPACITY_MANAGEMENT
        | AdminOpcode::LOCKDOWN
        | AdminOpcode::FORMAT_NVM
        | AdminOpcode::SANITIZE => 0,
        _ => return None,
    };
    Some(bytes)
}

/// The data of a feature (NVMe Base 2.0, 5.27.1); most have none.
fn feature(feature: FeatureId, command: &Command) -> Option<u64> {
    let bytes = match feature {
        FeatureId::AUTONOMOUS_POWER_STATE => 256,
        FeatureId::TIMESTAMP => 8,
        FeatureId::HOST_BEHAVIOR_SUPPORT | FeatureId::PREDICTABLE_LATENCY_MODE_CONFIG => 512,
        FeatureId::LBA_RANGE_TYPE
        | FeatureId::HOST_MEMORY_BUFFER
        | FeatureId::ENHANCED_CONTROLLER_METADATA
        | FeatureId::CONTROLLER_METADATA
        | FeatureId::NAMESPACE_METADATA => PAGE,
        // EXHID: an identifier of 16 bytes.
        FeatureId::HOST_IDENTIFIER => 8 << (command.cdw11 & 1),
        FeatureId(0x00..=0x1f | 0x80..=0x84) => 0,
        _ => return None,
    };
    Some(bytes)
}

fn io(command: &Command, block_bytes: u32) -> Option<u64> {
    let bytes = match NvmOpcode(command.opcode) {
        NvmOpcode::READ | NvmOpcode::WRITE | NvmOpcode::COMPARE => {
            (u64::from(command.nlb_z()) + 1) * u64::from(block_bytes)
        }
        NvmOpcode::DATASET_MANAGEMENT => (u64::from(command.cdw10 & 0xff) + 1) * 16,
        // Descriptor formats 0 and 2 have 32 bytes, 1 and 3 have 40.
        NvmOpcode::COPY => {
            let bytes = if command.cdw12 >> 8 & 1 == 0 { 32 } else { 40 };
            (u64::from(command.cdw12 & 0xff) + 1) * bytes
        }
        NvmOpcode::RESERVATION_REPORT => dwords_z(command.cdw10),
        NvmOpcode::RESERVATION_REGISTER | NvmOpcode::RESERVATION_ACQUIRE => 16,
        NvmOpcode::RESERVATION_RELEASE => 8,
        NvmOpcode::FLUSH | NvmOpcode::WRITE_UNCORRECTABLE | NvmOpcode::WRITE_ZEROES | NvmOpcode::VERIFY => 0,
        _ => return None,
    };
    Some(bytes)
}
