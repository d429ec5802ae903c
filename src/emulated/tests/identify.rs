//! Identify, looked at byte by byte where the specification puts the fields.

use super::{Host, small};
use crate::emulated::Config;
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::identify::{Cns, Csi};
use crate::spec::status::Status;

fn identify(host: &mut Host, cns: Cns, nsid: u32) -> Vec<u8> {
    host.admin_data(Command::identify(cns, nsid, 0))
}

fn word(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().expect("four bytes"))
}

fn long(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn the_controller_says_what_it_is_and_can() {
    let config = Config {
        serial: "S1".to_owned(),
        model: "A model".to_owned(),
        firmware: "FW".to_owned(),
        async_events: 3,
        aborts: 7,
        nn: 30,
        ..small()
    };
    let mut host = Host::ready(config);
    let page = identify(&mut host, Cns::CTRLR, 0);
    assert_eq!(&page[4..24], b"S1                  ");
    assert_eq!(&page[24..64], b"A model                                 ");
    assert_eq!(&page[64..72], b"FW      ");
    assert_eq!(page[77], 5, "MDTS");
    assert_eq!(word(&page, 80), 0x0002_0000, "VER");
    assert_eq!(word(&page, 92), 1 << 8 | 1 << 9, "OAES");
    assert_eq!(page[111], 1, "CNTRLTYPE");
    assert_eq!((page[256], page[257]), (0b1010, 0b10), "OACS");
    assert_eq!((page[258], page[259]), (6, 2), "ACL, AERL");
    assert_eq!((page[512], page[513]), (0x66, 0x44), "SQES, CQES");
    assert_eq!(word(&page, 516), 30, "NN");
    assert_eq!((page[520], page[521]), (0b1001_1101, 1), "ONCS");
    assert_eq!(page[534], 1, "OCFS");
    assert_eq!(page[525], 0b111, "VWC");
    assert!(page[768..].starts_with(b"nqn.2014-08."));
    assert_eq!(word(&page, 536), 0, "SGLS");
}

#[test]
fn namespaces_say_their_size_and_formats() {
    let mut host = Host::ready(small());
    for (nsid, blocks, format) in [(1, 2048, 0), (2, 256, 1)] {
        let page = identify(&mut host, Cns::NS, nsid);
        assert_eq!((long(&page, 0), long(&page, 8), long(&page, 16)), (blocks, blocks, blocks));
        assert_eq!((page[25], page[26]), (1, format), "NLBAF, FLBAS");
        assert_eq!((page[128 + 2], page[132 + 2]), (9, 12), "LBADS");
        assert_eq!((page[128], page[28]), (0, 0), "no metadata, no protection information");
    }
    // Not there, but valid: all zero. All of them: what they have in common.
    assert_eq!(identify(&mut host, Cns::NS, 3), [0; 4096]);
    let common = identify(&mut host, Cns::NS, u32::MAX);
    assert_eq!((long(&common, 0), common[25], common[130]), (0, 1, 9));
    for nsid in [0, 257, u32::MAX - 1] {
        host.fails(0, Command::identify(Cns::NS, nsid, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
    }
    assert_eq!(identify(&mut host, Cns::NS_ALLOCATED, 2)[26], 1);
    assert_eq!(identify(&mut host, Cns::NS_ALLOCATED, 4), [0; 4096]);
}

#[test]
fn lists_are_sorted_and_begin_after_the_given_id() {
    let mut host = Host::ready(small());
    for cns in
        [Cns::ACTIVE_NS_LIST, Cns::ALLOCATED_NS_LIST, Cns::CSI_ACTIVE_NS_LIST, Cns::CSI_ALLOCATED_NS_LIST]
    {
        let page = identify(&mut host, cns, 0);
        assert_eq!((word(&page, 0), word(&page, 4), word(&page, 8)), (1, 2, 0));
        let page = identify(&mut host, cns, 1);
        assert_eq!((word(&page, 0), word(&page, 4)), (2, 0));
        assert_eq!(identify(&mut host, cns, 2), [0; 4096]);
        for nsid in [u32::MAX, u32::MAX - 1] {
            host.fails(0, Command::identify(cns, nsid, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
        }
    }
}

#[test]
fn a_list_ends_with_its_page() {
    let namespace = small().namespaces[0].clone();
    let mut config = Config { namespaces: vec![namespace; 1030], nn: 1030, ..small() };
    config.namespaces.iter_mut().for_each(|ns| ns.size_bytes = 512);
    let mut host = Host::ready(config);
    let page = identify(&mut host, Cns::ACTIVE_NS_LIST, 0);
    assert_eq!((word(&page, 0), word(&page, 4092)), (1, 1024));
    let page = identify(&mut host, Cns::ACTIVE_NS_LIST, 1024);
    assert_eq!((word(&page, 0), word(&page, 20), word(&page, 24)), (1025, 1030, 0));
}

#[test]
fn descriptors_differ_between_namespaces_and_stay_the_same() {
    let mut host = Host::ready(small());
    let first = identify(&mut host, Cns::NS_DESCRIPTORS, 1);
    let second = identify(&mut host, Cns::NS_DESCRIPTORS, 2);
    // NGUID, UUID, command set, end.
    assert_eq!((first[0], first[1], first[20], first[21], first[40], first[41]), (2, 16, 3, 16, 4, 1));
    assert_eq!(first[44..], [0; 4096 - 44]);
    assert_ne!(first[4..20], second[4..20]);
    assert_ne!(first[24..40], second[24..40]);
    let mut again = Host::ready(small());
    assert_eq!(identify(&mut again, Cns::NS_DESCRIPTORS, 1), first);
    host.fails(0, Command::identify(Cns::NS_DESCRIPTORS, 3, 0), Status::INVALID_FIELD);
    host.fails(0, Command::identify(Cns::NS_DESCRIPTORS, 0, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
}

#[test]
fn controller_lists_have_one_controller() {
    let mut host = Host::ready(small());
    let page = identify(&mut host, Cns::CTRLR_LIST, 0);
    assert_eq!(word(&page, 0), 1);
    assert_eq!(host.admin_data(Command::identify(Cns::CTRLR_LIST, 0, 1)), [0; 4096]);
    assert_eq!(word(&identify(&mut host, Cns::NS_CTRLR_LIST, 2), 0), 1);
    host.fails(0, Command::identify(Cns::NS_CTRLR_LIST, 5, 0), Status::INVALID_FIELD);
}

#[test]
fn there_is_one_command_set() {
    let mut host = Host::ready(small());
    assert_eq!(long(&identify(&mut host, Cns::COMMAND_SETS, 0), 0), 1);
    assert_eq!(identify(&mut host, Cns::CSI_CTRLR, 0), [0; 4096]);
    assert_eq!(identify(&mut host, Cns::CSI_NS, 1), [0; 4096]);
    for cns in [Cns::CSI_CTRLR, Cns::CSI_NS, Cns::CSI_ACTIVE_NS_LIST] {
        host.fails(0, Command::identify_csi(cns, Csi(2), 1), Status::INVALID_FIELD);
    }
}

#[test]
fn unknown_structures_and_unreachable_pages_are_refused() {
    let mut host = Host::ready(small());
    for cns in [0x04, 0x0b, 0x16, 0x40, 0xff] {
        host.fails(0, Command::identify(Cns(cns), 1, 0), Status::INVALID_FIELD);
    }
    assert!(host.violations().is_empty());
    let nowhere = Command { prp1: 8, ..Command::identify(Cns::CTRLR, 0, 0) };
    assert_eq!(host.status(0, nowhere), Status::DATA_TRANSFER_ERROR);
    host.expect_violation("opcode 0x06");
    let odd = Command { prp1: host.iova + 6, ..nowhere };
    host.fails(0, odd, Status::INVALID_PRP_OFFSET);
}

#[test]
fn unknown_admin_opcodes_are_refused() {
    let mut host = Host::ready(small());
    for opcode in [
        AdminOpcode::NAMESPACE_MANAGEMENT,
        AdminOpcode::FIRMWARE_COMMIT,
        AdminOpcode::DEVICE_SELF_TEST,
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::SANITIZE,
        AdminOpcode::DOORBELL_BUFFER_CONFIG,
        AdminOpcode(0x03),
        AdminOpcode(0xff),
    ] {
        host.fails(0, Command::admin(opcode, 0), Status::INVALID_OPCODE);
    }
    let fused = Command { flags: 1, ..Command::identify(Cns::CTRLR, 0, 0) };
    host.fails(0, fused, Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn the_index_of_a_format_may_need_the_upper_bits() {
    let mut host = Host::ready(Config { metadata_formats: 20, noiob: 256, ..small() });
    for (nsid, index, lbads) in [(1, 20, 9), (2, 21, 12_u8)] {
        let page = identify(&mut host, Cns::NS, nsid);
        assert_eq!((page[25], page[26]), (21, 0x20 | (index & 0xf) as u8), "NLBAF, FLBAS");
        assert_eq!((word(&page, 128 + 4 * index) >> 16) as u8, lbads);
        assert_eq!(word(&page, 128 + 4 * 19) & 0xffff, 8, "metadata before");
        assert_eq!(page[46..48], [0, 1], "NOIOB");
    }
    host.admin_ok(Command::format_nvm(1, 21, 0));
    assert_eq!(identify(&mut host, Cns::NS, 1)[26], 0x25);
    for lbaf in [0, 4, 19, 22] {
        host.fails(0, Command::format_nvm(1, lbaf, 0), Status::INVALID_FORMAT);
    }
}

#[test]
fn limits_of_the_command_set_are_told() {
    let mut host = Host::ready(Config { wzsl: 3, dmrsl: 77, ..small() });
    let page = identify(&mut host, Cns::CSI_CTRLR, 0);
    assert_eq!((page[1], word(&page, 4)), (3, 77));
}
