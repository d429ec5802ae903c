//! Registers and doorbells.

use super::assert_bits;
use crate::spec::registers::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn the_offsets_are_those_of_the_specification() {
    let offsets = [CAP, VS, INTMS, INTMC, CC, CSTS, NSSR, AQA, ASQ, ACQ, CRTO, DOORBELLS];
    assert_eq!(offsets, [0x0, 0x8, 0xc, 0x10, 0x14, 0x1c, 0x20, 0x24, 0x28, 0x30, 0x68, 0x1000]);
    assert_eq!(NSSR_MAGIC.to_be_bytes(), *b"NVMe");
}

#[test]
fn the_fields_lie_where_the_specification_puts_them() {
    assert_bits!(Cap as u64,
        mqes_z 0..=15, cqr 16..=16, ams 17..=18, to 24..=31, dstrd 32..=35, nssrs 36..=36, css 37..=44, bps 45..=45,
        cps 46..=47, mpsmin 48..=51, mpsmax 52..=55, pmrs 56..=56, cmbs 57..=57, nsss 58..=58, crms 59..=60);
    assert_bits!(Vs as u32, ter 0..=7, mnr 8..=15, mjr 16..=31);
    assert_bits!(Cc as u32,
        en 0..=0, css 4..=6, mps 7..=10, ams 11..=13, shn 14..=15, iosqes 16..=19, iocqes 20..=23, crime 24..=24);
    assert_bits!(Csts as u32, rdy 0..=0, cfs 1..=1, shst 2..=3, nssro 4..=4, pp 5..=5, st 6..=6);
    assert_bits!(Aqa as u32, asqs_z 0..=11, acqs_z 16..=27);
    assert_bits!(Crto as u32, crwmt 0..=15, crimt 16..=31);
}

#[test]
fn what_qemu_shows_is_read_as_it_is_meant() {
    // 2,048 entries, contiguous, 7.5 s, stride of 4, NVM and other command sets, pages of 4 to 64 KiB.
    let cap = Cap::from_bits(0x0040_1820_0f01_07ff);
    assert_eq!((cap.mqes_z(), cap.cqr(), cap.to(), cap.dstrd(), cap.css()), (0x7ff, true, 15, 0, 0xc1));
    assert_eq!((cap.mpsmin(), cap.mpsmax(), cap.nssrs(), cap.crms()), (0, 4, false, 0));
    assert_eq!(Vs::from_bits(0x0001_0400), Vs::new().with_mjr(1).with_mnr(4));
    let cc = Cc::new().with_en(true).with_iosqes(6).with_iocqes(4);
    assert_eq!(cc.into_bits(), 0x0046_0001);
}

#[test]
fn doorbells_alternate_at_the_stride() {
    assert_eq!((sq_tail_doorbell(0, 0), cq_head_doorbell(0, 0)), (0x1000, 0x1004));
    assert_eq!((sq_tail_doorbell(1, 0), cq_head_doorbell(1, 0)), (0x1008, 0x100c));
    assert_eq!((sq_tail_doorbell(3, 2), cq_head_doorbell(3, 2)), (0x1060, 0x1070));
    // The largest that there can be: 131,071 strides of 128 KiB.
    assert_eq!(cq_head_doorbell(u16::MAX, 15), 0x1000 + 131_071 * 131_072);
}

#[test]
fn no_two_queues_share_a_doorbell() {
    for dstrd in 0..16 {
        let tails = (0..512).map(|qid| sq_tail_doorbell(qid, dstrd));
        let heads = (0..512).map(|qid| cq_head_doorbell(qid, dstrd));
        let all: BTreeSet<usize> = tails.chain(heads).collect();
        assert_eq!(all.len(), 1024, "DSTRD {dstrd}");
        assert!(all.iter().all(|offset| (offset - DOORBELLS).is_multiple_of(4 << dstrd)));
    }
}

proptest! {
    #[test]
    fn reserved_bits_survive(raw: u64) {
        let low = raw as u32;
        prop_assert_eq!(Cap::from_bits(raw).into_bits(), raw);
        prop_assert_eq!(Cc::from_bits(low).into_bits(), low);
        prop_assert_eq!(Csts::from_bits(low).into_bits(), low);
        prop_assert_eq!(Aqa::from_bits(low).into_bits(), low);
        // A driver that changes one field keeps the others.
        prop_assert_eq!(Cc::from_bits(low).with_en(false).into_bits(), low & !1);
    }
}
