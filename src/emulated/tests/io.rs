//! I/O commands: what they do to blocks of 512 and 4096 bytes, and every status they can fail with.

use super::{DATA_AT, Host, pattern, small};
use crate::emulated::Config;
use crate::spec::command::{AdminOpcode, Command, CopyRange};
use crate::spec::status::Status;
use zerocopy::IntoBytes;

/// A host with queue pair 1. Namespace 1 has 2048 blocks of 512 bytes, namespace 2 has 256 of 4096.
fn host() -> Host {
    let mut host = Host::ready(small());
    host.create_pair(1, 16);
    host
}

impl Host {
    /// Runs a command with at most 8 KiB of data at `DATA_AT`.
    fn io(&mut self, command: Command) -> Status {
        let command = self.with_data(command);
        self.status(1, command)
    }

    fn io_ok(&mut self, command: Command) {
        assert_eq!(self.io(command), Status::SUCCESS, "{command:?}");
    }

    fn io_fails(&mut self, command: Command, status: Status) {
        assert_eq!(self.io(command), status.with_dnr(), "{command:?}");
    }

    fn put_data(&mut self, bytes: &[u8]) {
        self.block.write(DATA_AT, bytes);
    }

    fn put_range(&mut self, index: usize, slba: u64, blocks: u32) {
        let mut range = [0; 16];
        range[4..8].copy_from_slice(&blocks.to_le_bytes());
        range[8..].copy_from_slice(&slba.to_le_bytes());
        self.block.write(DATA_AT + index * 16, &range);
    }

    /// Reads a block of namespace 1.
    fn block_of_ns1(&mut self, lba: u64) -> Vec<u8> {
        self.io_ok(Command::read(1, lba, 1));
        self.data(512)
    }
}

#[test]
fn what_is_written_is_read_in_both_block_sizes() {
    let mut host = host();
    for (nsid, blocks, lba) in [(1, 16, 2048 - 16), (1, 1, 0), (2, 2, 254), (2, 1, 0)] {
        let len = blocks as usize * if nsid == 1 { 512 } else { 4096 };
        let bytes = pattern(nsid as u8 + blocks as u8, len);
        host.put_data(&bytes);
        host.io_ok(Command::write(nsid, lba, blocks));
        host.put_data(&vec![0; len]);
        host.io_ok(Command::read(nsid, lba, blocks));
        assert!(host.data(len) == bytes);
    }
    assert!(host.violations().is_empty());
}

#[test]
fn unwritten_blocks_read_as_zeroes() {
    let mut host = host();
    host.put_data(&[0xaa; 512]);
    assert_eq!(host.block_of_ns1(77), [0; 512]);
}

#[test]
fn lbas_past_the_end_are_out_of_range() {
    let mut host = host();
    for command in [
        Command::read(1, 2048, 1),
        Command::read(1, 2047, 2),
        Command::write(1, 2048, 1),
        Command::compare(1, 2040, 9),
        Command::write_zeroes(1, 2047, 2, false),
        Command::read(1, u64::MAX, 1),
        Command::read(1, u64::MAX, 2),
        Command::read(2, 256, 1),
    ] {
        host.io_fails(command, Status::LBA_OUT_OF_RANGE);
    }
    assert!(host.violations().is_empty());
}

#[test]
fn transfers_are_limited_by_mdts() {
    // 128 KiB are 256 blocks; the data may be anywhere, all of the memory is mapped.
    let mut host = Host::ready(Config { mdts: 1, ..small() });
    host.create_pair(1, 8);
    host.io_ok(Command::read(1, 0, 16));
    host.io_fails(Command::read(1, 0, 17), Status::INVALID_FIELD);
    host.io_fails(Command::write(2, 0, 3), Status::INVALID_FIELD);
    // Not a transfer.
    host.io_ok(Command::write_zeroes(1, 0, 2048, false));
}

#[test]
fn wrong_opcodes_namespaces_and_fields_are_refused() {
    let mut host = host();
    let read = Command::read(1, 0, 1);
    for opcode in [0x04, 0x0d, 0x3f, 0x7f, 0x80, 0xff, AdminOpcode::IDENTIFY.0] {
        host.io_fails(Command { opcode, ..read }, Status::INVALID_OPCODE);
    }
    for nsid in [0, 257, u32::MAX - 1, u32::MAX] {
        host.io_fails(Command { nsid, ..read }, Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    // Valid, and not allocated.
    host.io_fails(Command { nsid: 3, ..read }, Status::INVALID_FIELD);
    // Fused, SGL, protection information.
    for flags in [0x01, 0x02, 0x40, 0x80] {
        host.io_fails(Command { flags, ..read }, Status::INVALID_FIELD);
    }
    host.io_fails(Command { cdw12: 1 << 29, ..read }, Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn flush_takes_one_namespace_or_all() {
    let mut host = host();
    host.io_ok(Command::flush(2));
    host.io_ok(Command::flush(u32::MAX));
    host.io_fails(Command::flush(0), Status::INVALID_NAMESPACE_OR_FORMAT);
    host.io_fails(Command::flush(9), Status::INVALID_FIELD);
}

#[test]
fn compare_tells_equal_from_different() {
    let mut host = host();
    let mut bytes = pattern(9, 8192);
    host.put_data(&bytes);
    host.io_ok(Command::write(1, 100, 16));
    host.io_ok(Command::compare(1, 100, 16));
    bytes[8191] ^= 1;
    host.put_data(&bytes);
    host.io_fails(Command::compare(1, 100, 16), Status::COMPARE_FAILURE);
    host.io_ok(Command::compare(1, 100, 15));
    // And nothing was changed by it.
    host.io_fails(Command::compare(1, 100, 16), Status::COMPARE_FAILURE);
}

#[test]
fn write_zeroes_zeroes_its_blocks_and_no_other() {
    let mut host = host();
    host.put_data(&[0x55; 8192]);
    host.io_ok(Command::write(1, 0, 16));
    host.io_ok(Command::write_zeroes(1, 3, 9, false));
    for lba in 0..16 {
        let byte = if (3..12).contains(&lba) { 0 } else { 0x55 };
        assert_eq!(host.block_of_ns1(lba), [byte; 512], "{lba}");
    }
    host.io_ok(Command::write_zeroes(1, 0, 2048, true));
    assert_eq!(host.block_of_ns1(0), [0; 512]);
}

#[test]
fn deallocated_ranges_read_as_zeroes() {
    let mut host = host();
    host.put_data(&[0x55; 8192]);
    host.io_ok(Command::write(1, 0, 16));
    let put_ranges = |host: &mut Host| {
        for (index, slba, blocks) in [(0, 1, 2), (1, 5, 1), (2, 9, 0)] {
            host.put_range(index, slba, blocks);
        }
    };
    put_ranges(&mut host);
    // A hint only.
    host.io_ok(Command::dataset_management(1, 3, false));
    assert_eq!(host.block_of_ns1(1), [0x55; 512]);
    put_ranges(&mut host);
    host.io_ok(Command::dataset_management(1, 3, true));
    for lba in 0..16 {
        let byte = if matches!(lba, 1 | 2 | 5) { 0 } else { 0x55 };
        assert_eq!(host.block_of_ns1(lba), [byte; 512], "{lba}");
    }
}

#[test]
fn a_wrong_range_deallocates_nothing() {
    let mut host = host();
    host.put_data(&[0x55; 512]);
    host.io_ok(Command::write(1, 0, 1));
    for (slba, blocks) in [(2048, 1), (2047, 2), (u64::MAX, 1)] {
        host.put_range(0, 0, 1);
        host.put_range(1, slba, blocks);
        host.io_fails(Command::dataset_management(1, 2, true), Status::LBA_OUT_OF_RANGE);
    }
    assert_eq!(host.block_of_ns1(0), [0x55; 512]);
    host.io_fails(Command::dataset_management(7, 1, true), Status::INVALID_FIELD);
}

#[test]
fn large_transfers_go_through_in_one_command() {
    let mut host = Host::ready(Config { mdts: 10, ..small() });
    host.create_pair(1, 8);
    // One megabyte: a PRP list of consecutive pages.
    let bytes = pattern(3, 1 << 20);
    host.put_data(&bytes);
    let lists: Vec<u8> =
        (1..256_u64).flat_map(|i| (host.iova + DATA_AT as u64 + i * 4096).to_le_bytes()).collect();
    host.block.write(super::LISTS_AT, &lists);
    let prp2 = host.iova + super::LISTS_AT as u64;
    let command = Command { prp2, ..host.with_data(Command::write(2, 0, 256)) };
    assert_eq!(host.status(1, command), Status::SUCCESS);
    host.put_data(&vec![0; 1 << 20]);
    let command = Command { prp2, ..host.with_data(Command::read(2, 0, 256)) };
    assert_eq!(host.status(1, command), Status::SUCCESS);
    assert!(host.data(1 << 20) == bytes);
    assert!(host.violations().is_empty());
}

#[test]
fn commands_without_data_have_limits_of_their_own() {
    let mut host = Host::ready(Config { wzsl: 1, dmrsl: 4, ..small() });
    host.create_pair(1, 8);
    host.io_ok(Command::write_zeroes(1, 0, 16, false));
    host.io_fails(Command::write_zeroes(1, 0, 17, false), Status::INVALID_FIELD);
    host.put_range(0, 0, 4);
    host.io_ok(Command::dataset_management(1, 1, true));
    host.put_range(0, 0, 5);
    host.io_fails(Command::dataset_management(1, 1, true), Status::COMMAND_SIZE_LIMIT_EXCEEDED);
}

#[test]
fn blocks_are_verified_up_to_the_end() {
    let mut host = host();
    host.io_ok(Command::verify(1, 2047, 1));
    host.io_ok(Command::verify(2, 0, 256));
    host.io_fails(Command::verify(1, 2047, 2), Status::LBA_OUT_OF_RANGE);
    host.io_fails(Command::verify(3, 0, 1), Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn copy_gathers_ranges_within_its_limits() {
    let mut host = host();
    for lba in 0..4 {
        host.put_data(&[lba as u8 + 1; 512]);
        host.io_ok(Command::write(1, lba, 1));
    }
    let range = |host: &mut Host, index: usize, slba: u64, nlb_z: u16| {
        let range = CopyRange { slba, nlb_z, ..CopyRange::default() };
        host.block.write(DATA_AT + index * 32, range.as_bytes());
    };
    range(&mut host, 0, 3, 0);
    range(&mut host, 1, 0, 1);
    host.io_ok(Command::copy(1, 1, 2));
    let first_bytes: Vec<u8> = (0..4).map(|lba| host.block_of_ns1(lba)[0]).collect();
    assert_eq!(first_bytes, [1, 4, 1, 2], "the sources were read before the target was written");
    range(&mut host, 0, 0, 128);
    host.io_fails(Command::copy(1, 1000, 1), Status::COMMAND_SIZE_LIMIT_EXCEEDED);
    range(&mut host, 0, 0, 127);
    host.io_ok(Command::copy(1, 1000, 1));
    range(&mut host, 1, 0, 0);
    host.io_fails(Command::copy(1, 1000, 2), Status::COMMAND_SIZE_LIMIT_EXCEEDED);
    host.io_fails(Command::copy(1, 1000, 129), Status::COMMAND_SIZE_LIMIT_EXCEEDED);
    host.io_fails(Command::copy(1, 2047, 1), Status::LBA_OUT_OF_RANGE);
    range(&mut host, 0, 2048, 0);
    host.io_fails(Command::copy(1, 0, 1), Status::LBA_OUT_OF_RANGE);
    let other_format = Command::copy(1, 0, 1);
    host.io_fails(Command { cdw12: other_format.cdw12 | 1 << 8, ..other_format }, Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn all_blocks_are_well() {
    let mut host = host();
    let ask = |host: &mut Host, slba: u64, blocks: u16, scan: bool| {
        let command = host.with_data(Command::get_lba_status(1, slba, blocks, 4096, scan));
        host.status(0, command)
    };
    for scan in [false, true] {
        host.put_data(&[0xff; 16]);
        assert_eq!(ask(&mut host, 0, 0, scan), Status::SUCCESS);
        assert_eq!(host.data(8), [0, 0, 0, 0, 1, 0, 0, 0], "no descriptors, and that is all");
    }
    assert_eq!(ask(&mut host, 2048, 0, true), Status::LBA_OUT_OF_RANGE.with_dnr());
    assert_eq!(ask(&mut host, 2000, 49, true), Status::LBA_OUT_OF_RANGE.with_dnr());
    let unknown = Command { cdw13: 0, ..Command::get_lba_status(1, 0, 0, 4096, true) };
    let unknown = host.with_data(unknown);
    assert_eq!(host.status(0, unknown), Status::INVALID_FIELD.with_dnr());
}
