//! Format NVM and Namespace Attachment.

use super::{DATA_AT, Host, pattern, small};
use crate::spec::command::Command;
use crate::spec::identify::Cns;
use crate::spec::status::Status;

fn format(nsid: u32, lbaf: u8) -> Command {
    Command::format_nvm(nsid, lbaf, 0)
}

impl Host {
    /// Runs an I/O command on queue 1 with its data at `DATA_AT`.
    fn on_queue_1(&mut self, command: Command) -> Status {
        let command = self.with_data(command);
        self.status(1, command)
    }

    fn attachment(&mut self, nsid: u32, attach: bool, ids: &[u16]) -> Status {
        let count = ids.len() as u16;
        let words: Vec<u8> = [&[count], ids].concat().iter().flat_map(|id| id.to_le_bytes()).collect();
        self.block.fill(DATA_AT, 4096, 0);
        self.block.write(DATA_AT, &words);
        let command = self.with_data(Command::namespace_attachment(nsid, attach));
        self.status(0, command)
    }
}

#[test]
fn a_format_erases_and_changes_the_block_size() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    host.block.write(DATA_AT, &pattern(1, 512));
    assert_eq!(host.on_queue_1(Command::write(1, 7, 1)), Status::SUCCESS);
    host.admin_ok(format(1, 1));
    let page = host.admin_data(Command::identify(Cns::NS, 1, 0));
    assert_eq!((page[..8].to_vec(), page[26]), (256_u64.to_le_bytes().to_vec(), 1));
    assert_eq!(host.on_queue_1(Command::read(1, 0, 1)), Status::SUCCESS);
    assert_eq!(host.data(4096), [0; 4096]);
    assert_eq!(host.on_queue_1(Command::read(1, 256, 1)), Status::LBA_OUT_OF_RANGE.with_dnr());
    // All of them, back again.
    host.admin_ok(format(u32::MAX, 0));
    assert_eq!(host.on_queue_1(Command::read(2, 2047, 1)), Status::SUCCESS);
    assert!(host.violations().is_empty());
}

#[test]
fn wrong_formats_are_refused() {
    let mut host = Host::ready(small());
    for wrong in [
        format(1, 2),
        format(1, 16),
        // Metadata settings, protection information, and its place.
        Command { cdw10: 1 << 4, ..format(1, 0) },
        Command { cdw10: 1 << 5, ..format(1, 0) },
        Command { cdw10: 1 << 8, ..format(1, 0) },
    ] {
        host.fails(0, wrong, Status::INVALID_FORMAT);
    }
    host.admin_ok(Command::format_nvm(1, 0, 1));
    let keys = Command::format_nvm(1, 0, 2);
    host.fails(0, keys, Status::INVALID_FIELD);
    host.fails(0, format(0, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
    host.fails(0, format(3, 0), Status::INVALID_FIELD);
}

#[test]
fn a_detached_namespace_is_inactive_and_keeps_its_data() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    host.block.write(DATA_AT, &pattern(4, 512));
    assert_eq!(host.on_queue_1(Command::write(1, 7, 1)), Status::SUCCESS);
    assert_eq!(host.attachment(1, false, &[0]), Status::SUCCESS);
    assert_eq!(host.on_queue_1(Command::read(1, 7, 1)), Status::INVALID_FIELD.with_dnr());
    assert_eq!(host.status(0, format(1, 0)), Status::INVALID_FIELD.with_dnr());
    let active = host.admin_data(Command::identify(Cns::ACTIVE_NS_LIST, 0, 0));
    let allocated = host.admin_data(Command::identify(Cns::ALLOCATED_NS_LIST, 0, 0));
    assert_eq!((active[0], active[4], allocated[0], allocated[4]), (2, 0, 1, 2));
    assert_eq!(host.admin_data(Command::identify(Cns::NS, 1, 0)), [0; 4096]);
    assert_ne!(host.admin_data(Command::identify(Cns::NS_ALLOCATED, 1, 0)), [0; 4096]);
    assert_eq!(host.admin_data(Command::identify(Cns::NS_CTRLR_LIST, 1, 0)), [0; 4096]);
    // A reset changes nothing about it.
    host.reset();
    host.next_queue = 1 << 20;
    host.create_pair(1, 8);
    assert_eq!(host.on_queue_1(Command::read(1, 7, 1)), Status::INVALID_FIELD.with_dnr());
    assert_eq!(host.attachment(1, true, &[0]), Status::SUCCESS);
    assert_eq!(host.on_queue_1(Command::read(1, 7, 1)), Status::SUCCESS);
    assert_eq!(host.data(512), pattern(4, 512));
    assert!(host.violations().is_empty());
}

#[test]
fn wrong_attachments_are_refused() {
    let mut host = Host::ready(small());
    let with_dnr = |status: Status| status.with_dnr();
    assert_eq!(host.attachment(1, true, &[0]), with_dnr(Status::NAMESPACE_ALREADY_ATTACHED));
    assert_eq!(host.attachment(2, false, &[0]), Status::SUCCESS);
    assert_eq!(host.attachment(2, false, &[0]), with_dnr(Status::NAMESPACE_NOT_ATTACHED));
    assert_eq!(host.attachment(1, false, &[]), with_dnr(Status::INVALID_CONTROLLER_LIST));
    assert_eq!(host.attachment(1, false, &[0, 1]), with_dnr(Status::INVALID_CONTROLLER_LIST));
    assert_eq!(host.attachment(1, false, &[9]), with_dnr(Status::INVALID_CONTROLLER_LIST));
    assert_eq!(host.attachment(3, true, &[0]), with_dnr(Status::INVALID_FIELD));
    assert_eq!(host.attachment(0, true, &[0]), with_dnr(Status::INVALID_NAMESPACE_OR_FORMAT));
    assert_eq!(host.attachment(u32::MAX, true, &[0]), with_dnr(Status::INVALID_FIELD));
    let unknown = Command { cdw10: 5, ..Command::namespace_attachment(1, true) };
    host.fails(0, unknown, Status::INVALID_FIELD);
    // A list that claims more ids than it has room for.
    host.block.write(DATA_AT, &2048_u16.to_le_bytes());
    let command = host.with_data(Command::namespace_attachment(1, false));
    host.fails(0, command, Status::INVALID_CONTROLLER_LIST);
    assert!(host.violations().is_empty());
}
