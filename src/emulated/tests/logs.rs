//! Get Log Page: what each page says, its parts, and the refusals.

use super::{DATA_AT, Host, small};
use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::log::LogId;
use crate::spec::status::Status;

fn log(host: &mut Host, id: LogId, nsid: u32, bytes: usize) -> Vec<u8> {
    let mut page = host.admin_data(Command::get_log_page(id, nsid, bytes, 0, true));
    page.truncate(bytes);
    page
}

fn count(page: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(page[at..at + 16].try_into().expect("sixteen bytes"))
}

#[test]
fn the_health_log_counts_what_happens() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    let before = log(&mut host, LogId::SMART, u32::MAX, 512);
    assert_eq!((before[0], u16::from_le_bytes([before[1], before[2]]), before[3]), (0, 310, 100));
    assert_eq!(count(&before, 64), 0);
    for command in [Command::read(1, 0, 16), Command::write(2, 0, 2), Command::compare(1, 0, 1)] {
        let command = host.with_data(command);
        host.status(1, command);
    }
    host.transport.set_temperature_k(345);
    let all = log(&mut host, LogId::SMART, u32::MAX, 512);
    // The unit is 1,000 sectors, rounded up.
    assert_eq!((count(&all, 32), count(&all, 48)), (1, 1), "data units");
    assert_eq!((count(&all, 64), count(&all, 80)), (2, 1), "commands");
    assert_eq!((all[0], u16::from_le_bytes([all[1], all[2]])), (0b10, 345), "too warm");
    let second = log(&mut host, LogId::SMART, 2, 512);
    assert_eq!((count(&second, 64), count(&second, 80)), (0, 1));
    host.fails(0, Command::get_log_page(LogId::SMART, 3, 512, 0, true), Status::INVALID_FIELD);
    host.fails(
        0,
        Command::get_log_page(LogId::SMART, 500, 512, 0, true),
        Status::INVALID_NAMESPACE_OR_FORMAT,
    );
}

#[test]
fn the_error_log_has_the_newest_first() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    assert_eq!(log(&mut host, LogId::ERROR, 0, 4096), [0; 4096]);
    let bad = Command::read(1, 5000, 1);
    let cid = host.run(1, bad).cid;
    host.fails(0, Command::admin(AdminOpcode(0x7e), 9), Status::INVALID_OPCODE);
    let page = log(&mut host, LogId::ERROR, 0, 4096);
    let entry = |i: usize| &page[i * 64..][..64];
    assert_eq!(entry(0)[..8], 2_u64.to_le_bytes());
    assert_eq!(entry(0)[8..10], [0, 0], "the admin queue");
    assert_eq!(entry(0)[24..28], 9_u32.to_le_bytes());
    assert_eq!(entry(1)[..8], 1_u64.to_le_bytes());
    assert_eq!(entry(1)[8..10], [1, 0]);
    assert_eq!(entry(1)[10..12], cid.to_le_bytes());
    assert_eq!(entry(1)[12..14], (Status::LBA_OUT_OF_RANGE.with_dnr().0 << 1).to_le_bytes());
    assert_eq!(entry(1)[16..24], 5000_u64.to_le_bytes());
    assert_eq!(entry(1)[24..28], 1_u32.to_le_bytes());
    assert_eq!(entry(2), [0; 64]);
    assert_eq!(count(&log(&mut host, LogId::SMART, 0, 512), 176), 2);
}

#[test]
fn the_error_log_keeps_the_last_64() {
    let mut host = Host::ready(small());
    for _ in 0..70 {
        host.fails(0, Command::admin(AdminOpcode(0x7e), 0), Status::INVALID_OPCODE);
    }
    let page = log(&mut host, LogId::ERROR, 0, 4096);
    assert_eq!(page[..8], 70_u64.to_le_bytes());
    assert_eq!(page[63 * 64..][..8], 7_u64.to_le_bytes());
}

#[test]
fn the_firmware_log_has_one_slot() {
    let mut host = Host::ready(small());
    let page = log(&mut host, LogId::FIRMWARE_SLOT, 0, 512);
    assert_eq!(page[0], 1);
    assert_eq!(&page[8..16], b"1.0     ");
    assert_eq!(page[16..], [0; 496]);
}

#[test]
fn the_effects_log_names_exactly_the_commands_that_there_are() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    let page = log(&mut host, LogId::COMMAND_EFFECTS, 0, 4096);
    for opcode in 0..=255_u8 {
        let supported = |at: usize| page[at + usize::from(opcode) * 4] & 1 == 1;
        // A request for an event would stay; all others fail for some other reason or succeed.
        if opcode != AdminOpcode::ASYNC_EVENT_REQUEST.0 {
            let status = host.status(0, Command { opcode, nsid: 77, ..Command::default() });
            let known = status != Status::INVALID_OPCODE.with_dnr();
            assert_eq!(supported(0), known, "admin opcode {opcode:#x}: {status}");
        }
        let status = host.status(1, Command { opcode, nsid: 77, ..Command::default() });
        assert_eq!(supported(1024), status != Status::INVALID_OPCODE.with_dnr(), "opcode {opcode:#x}");
    }
    assert_eq!(page[1024 + usize::from(NvmOpcode::WRITE.0) * 4], 0b11);
}

#[test]
fn parts_are_found_by_their_offset() {
    let mut host = Host::ready(small());
    host.fails(0, Command::admin(AdminOpcode(0x7e), 0), Status::INVALID_OPCODE);
    let whole = log(&mut host, LogId::SMART, 0, 512);
    for (offset, bytes) in [(0, 4), (176, 16), (508, 4), (500, 4096)] {
        host.block.fill(DATA_AT, 4096, 0xee);
        let command = Command::get_log_page(LogId::SMART, 0, bytes, offset as u64, true);
        let command = host.with_data(command);
        host.admin_ok(command);
        let len = bytes.min(512 - offset);
        let data = host.data(4096);
        assert_eq!(data[..len], whole[offset..offset + len]);
        // Nothing beyond the page's end, or beyond what was asked for.
        assert!(data[len..].iter().all(|&byte| byte == 0xee));
    }
    let at = |offset: u32| Command { cdw12: offset, ..Command::get_log_page(LogId::SMART, 0, 4, 0, true) };
    host.fails(0, at(516), Status::INVALID_FIELD);
    host.fails(0, at(2), Status::INVALID_FIELD);
    host.fails(0, Command { cdw13: 1, ..at(0) }, Status::INVALID_FIELD);
    host.fails(0, Command { cdw14: 1 << 23, ..at(0) }, Status::INVALID_FIELD);
}

#[test]
fn unknown_pages_and_too_long_ones_are_refused() {
    let mut host = Host::ready(small());
    for id in [0x06, 0x0c, 0x0d, 0x70, 0xc0, 0xff] {
        host.fails(0, Command::get_log_page(LogId(id), 0, 512, 0, true), Status::INVALID_LOG_PAGE);
    }
    let long = Command::get_log_page(LogId::SMART, 0, (128 << 10) + 4, 0, true);
    host.fails(0, long, Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}
