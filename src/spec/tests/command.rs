//! Submission and completion queue entries.

use super::assert_offsets;
use crate::spec::command::{AdminOpcode, Command, DataTransfer, DsmRange, NvmOpcode};
use crate::spec::completion::Completion;
use crate::spec::feature::FeatureId;
use crate::spec::identify::{Cns, Csi};
use crate::spec::log::LogId;
use crate::spec::status::Status;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn the_entries_are_laid_out_as_the_specification_has_them() {
    assert_offsets!(Command, opcode 0, flags 1, cid 2, nsid 4, cdw2 8, cdw3 12, mptr 16, prp1 24, prp2 32,
        cdw10 40, cdw11 44, cdw12 48, cdw13 52, cdw14 56, cdw15 60);
    assert_offsets!(Completion, dw0 0, dw1 4, sqhd 8, sqid 10, cid 12, status 14);
    assert_offsets!(DsmRange, cattr 0, nlb 4, slba 8);
}

#[test]
fn a_read_on_the_wire() {
    let mut command = Command::read(2, 0x1_2345_6789, 8).with_fua();
    (command.cid, command.prp1, command.prp2) = (0xbeef, 0x1000, 0x2000);
    let mut expected = [0; 64];
    expected[0] = 0x02;
    expected[2..4].copy_from_slice(&[0xef, 0xbe]);
    expected[4] = 2;
    expected[25] = 0x10;
    expected[33] = 0x20;
    expected[40..45].copy_from_slice(&[0x89, 0x67, 0x45, 0x23, 0x01]);
    expected[48] = 7;
    expected[51] = 0x40;
    assert_eq!(command.as_bytes(), expected);
}

#[test]
fn admin_commands_fill_their_dwords() {
    let dwords = |command: Command| (command.opcode, command.nsid, command.cdw10, command.cdw11);
    assert_eq!(dwords(Command::identify(Cns::NS_CTRLR_LIST, 3, 0x55)), (0x06, 3, 0x0055_0012, 0));
    assert_eq!(dwords(Command::identify_csi(Cns::CSI_NS, Csi::ZONED_NAMESPACE, 3)), (0x06, 3, 0x05, 2 << 24));
    assert_eq!(dwords(Command::get_features(FeatureId::NUMBER_OF_QUEUES, 3, 0)), (0x0a, 0, 0x0307, 0));
    assert_eq!(
        dwords(Command::set_features(FeatureId::VOLATILE_WRITE_CACHE, true, 9, 1)),
        (0x09, 9, 0x8000_0006, 1)
    );
    assert_eq!(dwords(Command::create_io_cq(5, 256, None)), (0x05, 0, 0x00ff_0005, 1));
    assert_eq!(dwords(Command::create_io_cq(5, 65_536, Some(7))), (0x05, 0, 0xffff_0005, 0x0007_0003));
    assert_eq!(dwords(Command::create_io_sq(6, 5, 2, 3)), (0x01, 0, 0x0001_0006, 0x0005_0007));
    assert_eq!(dwords(Command::delete_io_sq(6)), (0x00, 0, 6, 0));
    assert_eq!(dwords(Command::delete_io_cq(5)), (0x04, 0, 5, 0));
    assert_eq!(dwords(Command::abort(6, 0x1234)), (0x08, 0, 0x1234_0006, 0));
    assert_eq!(dwords(Command::async_event_request()), (0x0c, 0, 0, 0));
    assert_eq!(dwords(Command::keep_alive()), (0x18, 0, 0, 0));
    // Format 0x2a: its low four bits, and its high two in bits 13:12.
    assert_eq!(dwords(Command::format_nvm(1, 0x2a, 1)), (0x80, 1, 0x220a, 0));
    assert_eq!(dwords(Command::namespace_attachment(4, true)), (0x15, 4, 0, 0));
    assert_eq!(dwords(Command::namespace_attachment(4, false)), (0x15, 4, 1, 0));
    assert_eq!(dwords(Command::firmware_image_download(4096, 8192)), (0x11, 0, 1023, 2048));
    assert_eq!(dwords(Command::firmware_commit(2, 3)), (0x10, 0, 0x1a, 0));
    assert_eq!(dwords(Command::device_self_test(u32::MAX, 0xf)), (0x14, u32::MAX, 0xf, 0));
}

#[test]
fn a_log_page_is_asked_for_in_dwords() {
    let command = Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
    assert_eq!((command.cdw10, command.cdw11), (0x007f_8002, 0));
    // 512 KiB are 131,072 dwords: more than NUMDL holds.
    let command = Command::get_log_page(LogId::TELEMETRY_HOST, 0, 512 * 1024, 0x1_0000_0004, false);
    assert_eq!((command.cdw10, command.cdw11, command.cdw12, command.cdw13), (0xffff_0007, 1, 4, 1));
}

#[test]
fn io_commands_without_a_read_or_write() {
    let zeroes = Command::write_zeroes(1, 0, 65_536, true);
    assert_eq!((zeroes.opcode, zeroes.cdw12), (0x08, 0x0200_ffff));
    assert_eq!(Command::write_zeroes(1, 0, 1, false).cdw12, 0);
    let trim = Command::dataset_management(1, 256, true);
    assert_eq!((trim.opcode, trim.cdw10, trim.cdw11), (0x09, 255, 4));
    assert_eq!(Command::dataset_management(1, 1, false).cdw11, 0);
    assert_eq!(Command::flush(7), Command { nsid: 7, ..Command::default() });
    assert_eq!(Command::compare(1, 2, 3).with_limited_retry().cdw12, 0x8000_0002);
    let opcodes = [Command::verify(1, 0, 1), Command::write_uncorrectable(1, 0, 1), Command::write(1, 0, 1)];
    assert_eq!(opcodes.map(|command| command.opcode), [0x0c, 0x04, 0x01]);
}

#[test]
fn opcodes_tell_which_way_data_go() {
    let way = |opcode: NvmOpcode| DataTransfer::of(opcode.0);
    assert_eq!(way(NvmOpcode::READ), DataTransfer::ControllerToHost);
    assert_eq!(way(NvmOpcode::WRITE), DataTransfer::HostToController);
    assert_eq!(way(NvmOpcode::COMPARE), DataTransfer::HostToController);
    assert_eq!(way(NvmOpcode::FLUSH), DataTransfer::None);
    assert_eq!(way(NvmOpcode::WRITE_ZEROES), DataTransfer::None);
    assert_eq!(DataTransfer::of(AdminOpcode::IDENTIFY.0), DataTransfer::ControllerToHost);
    assert_eq!(DataTransfer::of(AdminOpcode::NAMESPACE_ATTACHMENT.0), DataTransfer::HostToController);
    assert_eq!(DataTransfer::of(0xff), DataTransfer::Bidirectional);
}

#[test]
fn codes_have_names_and_unknown_ones_are_kept() {
    assert_eq!(AdminOpcode::GET_LOG_PAGE.to_string(), "Get Log Page (0x02)");
    assert_eq!(AdminOpcode(0xc1).to_string(), "Vendor Specific (0xc1)");
    assert_eq!(AdminOpcode(0x03).to_string(), "Unknown (0x03)");
    assert_eq!(NvmOpcode::DATASET_MANAGEMENT.name(), "Dataset Management");
    assert_eq!(NvmOpcode(0x80).name(), "Vendor Specific");
    assert_eq!(Cns::ACTIVE_NS_LIST.name(), "Active Namespace ID List");
    assert_eq!(LogId::SMART.name(), "SMART / Health Information");
    assert_eq!(FeatureId::ARBITRATION.name(), "Arbitration");
    assert_eq!(AdminOpcode(0x42).0, 0x42);
}

#[test]
fn a_completion_carries_status_and_phase_in_one_word() {
    let completion = Completion { status: 0x8105, ..Completion::default() };
    assert!(completion.phase());
    assert_eq!(completion.status(), Status(0x4082));
    assert!(!Completion { status: 0x8104, ..completion }.phase());
    assert_eq!(Completion { status: 0x8104, ..completion }.status(), completion.status());
}

proptest! {
    #[test]
    fn blocks_are_what_was_asked_for(slba: u64, blocks in 1_u32..=65_536) {
        for command in [Command::read(1, slba, blocks), Command::write(1, slba, blocks)] {
            prop_assert_eq!(command.slba(), slba);
            prop_assert_eq!(u32::from(command.nlb_z()) + 1, blocks);
            prop_assert_eq!(command.cdw12 >> 16, 0);
        }
    }

    #[test]
    fn entries_survive_the_wire(bytes in prop::array::uniform32(any::<u8>())) {
        let wire = [bytes, bytes].concat();
        let (command, completion) = (Command::read_from_bytes(&wire).unwrap(), Completion::read_from_bytes(&wire[..16]).unwrap());
        prop_assert_eq!(command.as_bytes(), &wire[..]);
        prop_assert_eq!(completion.as_bytes(), &wire[..16]);
    }
}
