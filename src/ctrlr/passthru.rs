//! Which commands of others may run: those that would pull the ground from under the driver may not.
#![forbid(unsafe_code)]

use super::message::Refusal;
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::feature::FeatureId;

/// Refuses admin commands that belong to the driver: queues, events, keep-alive, doorbell buffers, number of queues, host memory.
pub(super) fn check_admin(command: &Command) -> Result<(), Refusal> {
    let opcode = AdminOpcode(command.opcode);
    let is_the_drivers = match opcode {
        AdminOpcode::CREATE_IO_SQ
        | AdminOpcode::DELETE_IO_SQ
        | AdminOpcode::CREATE_IO_CQ
        | AdminOpcode::DELETE_IO_CQ
        | AdminOpcode::ASYNC_EVENT_REQUEST
        | AdminOpcode::KEEP_ALIVE
        | AdminOpcode::DOORBELL_BUFFER_CONFIG => true,
        AdminOpcode::SET_FEATURES => {
            let feature = FeatureId(command.cdw10 as u8);
            matches!(
                feature,
                FeatureId::NUMBER_OF_QUEUES | FeatureId::HOST_MEMORY_BUFFER | FeatureId::KEEP_ALIVE_TIMER
            )
        }
        _ => false,
    };
    if is_the_drivers { Err(Refusal::DriverOwned { opcode: command.opcode }) } else { Ok(()) }
}
