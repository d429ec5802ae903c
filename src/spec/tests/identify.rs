//! Identify data structures.

use super::{assert_bits, assert_offsets};
use crate::spec::identify::*;
use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn identify_controller_is_laid_out_as_the_specification_has_it() {
    assert_offsets!(IdentifyCtrlr, vid 0, ssvid 2, sn 4, mn 24, fr 64, rab 72, ieee 73, cmic 76, mdts 77, cntlid 78,
        ver 80, rtd3r 84, rtd3e 88, oaes 92, ctratt 96, rrls 100, cntrltype 111, fguid 112, crdt1 128, crdt2 130,
        crdt3 132, nvmsr 253, vwci 254, mec 255, oacs 256, acl 258, aerl 259, frmw 260, lpa 261, elpe 262, npss 263,
        avscc 264, apsta 265, wctemp 266, cctemp 268, mtfa 270, hmpre 272, hmmin 276, tnvmcap 280, unvmcap 296,
        rpmbs 312, edstt 316, dsto 318, fwug 319, kas 320, hctma 322, mntmt 324, mxtmt 326, sanicap 328, hmminds 332,
        hmmaxd 336, nsetidmax 338, endgidmax 340, anatt 342, anacap 343, anagrpmax 344, nanagrpid 348, pels 352,
        domainid 356, megcap 368);
    assert_offsets!(IdentifyCtrlr, sqes 512, cqes 513, maxcmd 514, nn 516, oncs 520, fuses 522, fna 524, vwc 525,
        awun 526, awupf 528, icsvscc 530, nwpc 531, acwu 532, ocfs 534, sgls 536, mnan 540, maxdna 544, maxcna 560,
        subnqn 768, ioccsz 1792, iorcsz 1796, icdoff 1800, fcatt 1802, msdbd 1803, ofcs 1804, dctype 1806, psd 2048,
        vs 3072);
    assert_offsets!(PowerState, mp 0, flags 3, enlat 4, exlat 8, rrt 12, rrl 13, rwt 14, rwl 15, idlp 16, ips 18,
        actp 20, apws 22);
    assert_offsets!(IdentifyCtrlrNvm, vsl 0, wzsl 1, wusl 2, dmrl 3, dmrsl 4, dmsl 8);
}

#[test]
fn identify_namespace_is_laid_out_as_the_specification_has_it() {
    assert_offsets!(IdentifyNs, nsze 0, ncap 8, nuse 16, nsfeat 24, nlbaf 25, flbas 26, mc 27, dpc 28, dps 29, nmic 30,
        rescap 31, fpi 32, dlfeat 33, nawun 34, nawupf 36, nacwu 38, nabsn 40, nabo 42, nabspf 44, noiob 46, nvmcap 48,
        npwg 64, npwa 66, npdg 68, npda 70, nows 72, mssrl 74, mcl 76, msrc 80, nulbaf 82, anagrpid 92, nsattr 99,
        nvmsetid 100, endgid 102, nguid 104, eui64 120, lbaf 128, vs 384);
    assert_offsets!(IdentifyNsNvm, lbstm 0, pic 8, elbaf 12);
    assert_offsets!(IdentifyNsIndependent, nsfeat 0, nmic 1, rescap 2, fpi 3, anagrpid 4, nsattr 8, nvmsetid 10,
        endgid 12, nstat 14);
    assert_bits!(LbaFormat as u32, ms 0..=15, lbads 16..=23, rp 24..=25);
    assert_bits!(ExtendedLbaFormat as u32, sts 0..=6, pif 7..=8);
}

#[test]
fn the_lists_are_laid_out_as_the_specification_has_them() {
    assert_offsets!(CtrlrList, num 0, identifier 2);
    assert_offsets!(SecondaryCtrlr, scid 0, pcid 2, scs 4, vfn 8, nvq 10, nvi 12);
    assert_offsets!(SecondaryCtrlrList, num 0, sc_entry 32);
    assert_offsets!(PrimaryCtrlrCaps, cntlid 0, portid 2, crt 4, vqfrt 32, vqrfa 36, vqrfap 40, vqprt 42, vqfrsm 44,
        vqgran 46, vifrt 64, virfa 68, virfap 72, viprt 74, vifrsm 76, vigran 78);
}

fn with_serial(sn: &[u8; 20]) -> String {
    IdentifyCtrlr { sn: *sn, ..IdentifyCtrlr::default() }.serial()
}

#[test]
fn texts_lose_their_padding_and_whatever_a_terminal_would_act_on() {
    assert_eq!(with_serial(b"S4EWNX0R123456      "), "S4EWNX0R123456");
    assert_eq!(with_serial(b"      S4EWNX0R123456"), "S4EWNX0R123456");
    assert_eq!(with_serial(b"two words           "), "two words");
    assert_eq!(with_serial(b"AB\0CDEFGHIJKLMNOPQRS"), "AB");
    assert_eq!(with_serial(b"\x1b[2J\xff\xfe\x7f\t            "), "?[2J????");
    assert_eq!(with_serial(&[0; 20]), "");
    assert_eq!(with_serial(&[b' '; 20]), "");
    // All 20 bytes may be in use.
    assert_eq!(with_serial(b"ABCDEFGHIJKLMNOPQRST"), "ABCDEFGHIJKLMNOPQRST");
}

#[test]
fn each_text_comes_from_its_own_field() {
    let mut id = IdentifyCtrlr::default();
    id.sn[..2].copy_from_slice(b"S1");
    id.mn[..2].copy_from_slice(b"M2");
    id.fr[..2].copy_from_slice(b"F3");
    id.subnqn[..5].copy_from_slice(b"nqn.4");
    assert_eq!([id.serial(), id.model(), id.firmware(), id.subsystem_nqn()], ["S1", "M2", "F3", "nqn.4"]);
    assert_eq!(IdentifyCtrlr { ieee: [0x38, 0x25, 0x00], ..id }.ieee_oui(), 0x00_2538);
    id.tnvmcap[8] = 1;
    id.unvmcap[0] = 2;
    assert_eq!((id.total_capacity_bytes(), id.unallocated_capacity_bytes()), (1 << 64, 2));
}

#[test]
fn power_states_are_counted_and_scaled() {
    let mut id = IdentifyCtrlr { npss: 4, ..IdentifyCtrlr::default() };
    assert_eq!(id.power_states().len(), 5);
    id.npss = 255;
    assert_eq!(id.power_states().len(), 32);
    let mut raw = [0; 32];
    (raw[0], raw[3], raw[18], raw[22]) = (25, 0b11, 0x80, 0x42);
    let state = PowerState::read_from_bytes(&raw).unwrap();
    assert!(state.flags.mxps() && state.flags.nops());
    assert_eq!(state.max_power_uw(), 2_500);
    assert_eq!((state.ips.scale(), state.apws.scale(), state.apws.workload()), (2, 1, 2));
    raw[3] = 0;
    assert_eq!(PowerState::read_from_bytes(&raw).unwrap().max_power_uw(), 250_000);
}

#[test]
fn the_lba_format_index_has_six_bits_where_there_are_so_many_formats() {
    let index = |nlbaf, nulbaf, flbas| {
        IdentifyNs { nlbaf, flbas, nulbaf, ..IdentifyNs::default() }.lba_format_index()
    };
    assert_eq!(index(1, 0, 0x01), 1);
    // Bit 4 says where metadata goes; it is not part of the index.
    assert_eq!(index(3, 0, 0x13), 3);
    assert_eq!(index(63, 0, 0x7f), 63);
    assert_eq!(index(16, 0, 0x20), 16);
    assert_eq!(index(9, 7, 0x20), 16);
    // With 16 formats or fewer the upper bits mean nothing.
    assert_eq!(index(15, 0, 0x65), 5);
}

#[test]
fn the_lba_format_in_use() {
    let mut ns = IdentifyNs { nlbaf: 1, nulbaf: 1, flbas: 1, ..IdentifyNs::default() };
    ns.lbaf[1] = LbaFormat::from_bits(0x020c_0008);
    let format = ns.lba_format().unwrap();
    assert_eq!((format.ms(), format.lbads(), format.rp()), (8, 12, 2));
    assert_eq!(ns.lba_formats().len(), 3);
    assert_eq!(IdentifyNs { nlbaf: 255, nulbaf: 255, ..ns }.lba_formats().len(), 64);
    let mut nvmcap = [0; 16];
    nvmcap[15] = 0x80;
    assert_eq!(IdentifyNs { nvmcap, ..ns }.capacity_bytes(), 1 << 127);
}

#[test]
fn namespace_descriptors_end_where_they_no_longer_fit() {
    let mut page = vec![
        NsDescriptor::EUI64,
        8,
        0,
        0,
        1,
        2,
        3,
        4,
        5,
        6,
        7,
        8,
        NsDescriptor::CSI,
        1,
        0,
        0,
        0x02,
        99,
        2,
        0,
        0,
        7,
        7,
    ];
    let expected = [
        NsDescriptor { nidt: 1, nid: &[1, 2, 3, 4, 5, 6, 7, 8] },
        NsDescriptor { nidt: 4, nid: &[2] },
        NsDescriptor { nidt: 99, nid: &[7, 7] },
    ];
    let found = |page: &[u8]| ns_descriptors(page).map(|d| (d.nidt, d.nid.to_vec())).collect::<Vec<_>>();
    let expected: Vec<_> = expected.iter().map(|d| (d.nidt, d.nid.to_vec())).collect();
    assert_eq!(found(&page), expected);
    // A device that promises more than there is: what is whole counts.
    assert_eq!(found(&page[..page.len() - 1]), expected[..2]);
    assert_eq!(found(&page[..page.len() - 4]), expected[..2]);
    page.extend([0; 64]);
    assert_eq!(found(&page), expected);
    assert!(found(&[]).is_empty() && found(&[3, 16]).is_empty() && found(&[0; 4096]).is_empty());
}

#[test]
fn lists_end_at_zero_or_at_their_count() {
    let mut list = NsIdList::default();
    assert_eq!(list.iter().count(), 0);
    list.nsids[..4].copy_from_slice(&[1, 5, 0, 9]);
    assert_eq!(list.iter().collect::<Vec<_>>(), [1, 5]);
    assert_eq!(NsIdList { nsids: [3; 1024] }.iter().count(), 1024);

    let ctrlrs = CtrlrList::of(0x41);
    assert_eq!(ctrlrs.identifiers(), [0x41]);
    assert_eq!(ctrlrs.as_bytes()[..6], [1, 0, 0x41, 0, 0, 0]);
    assert_eq!(CtrlrList { num: u16::MAX, ..ctrlrs }.identifiers().len(), 2047);
    assert_eq!(SecondaryCtrlrList { num: 2, ..SecondaryCtrlrList::default() }.entries().len(), 2);
    assert_eq!(SecondaryCtrlrList { num: 255, ..SecondaryCtrlrList::default() }.entries().len(), 127);
}

proptest! {
    #[test]
    fn whatever_a_device_sends_survives(seed in prop::array::uniform32(any::<u8>())) {
        let wire: Vec<u8> = seed.iter().cycle().zip(0_u32..4096).map(|(byte, at)| byte ^ (at >> 5) as u8).collect();
        let (id, ns) = (IdentifyCtrlr::read_from_bytes(&wire).unwrap(), IdentifyNs::read_from_bytes(&wire).unwrap());
        let list = SecondaryCtrlrList::read_from_bytes(&wire).unwrap();
        prop_assert_eq!(id.as_bytes(), &wire[..]);
        prop_assert_eq!(ns.as_bytes(), &wire[..]);
        prop_assert_eq!(list.as_bytes(), &wire[..]);
        // Nothing in it makes a helper panic, or a text that is not plain ASCII.
        prop_assert!(id.model().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        prop_assert!(id.power_states().len() <= 32 && usize::from(ns.lba_format_index()) < 64);
        prop_assert!(ns_descriptors(&wire).map(|d| d.nid.len() + 4).sum::<usize>() <= wire.len());
    }
}
