//! Features.

use super::{assert_bits, assert_offsets};
use crate::spec::feature::*;
use crate::spec::log::LogId;

#[test]
fn the_values_are_laid_out_as_the_specification_has_them() {
    assert_bits!(Capabilities as u32, saveable 0..=0, namespace_specific 1..=1, changeable 2..=2);
    assert_bits!(Arbitration as u32, ab 0..=2, lpw_z 8..=15, mpw_z 16..=23, hpw_z 24..=31);
    assert_bits!(PowerManagement as u32, ps 0..=4, wh 5..=7);
    assert_bits!(TemperatureThreshold as u32, tmpth 0..=15, tmpsel 16..=19, thsel 20..=21);
    assert_bits!(VolatileWriteCache as u32, wce 0..=0);
    assert_bits!(ErrorRecovery as u32, tler 0..=15, dulbe 16..=16);
    assert_bits!(NumberOfQueues as u32, nsq_z 0..=15, ncq_z 16..=31);
    assert_bits!(InterruptCoalescing as u32, thr_z 0..=7, time 8..=15);
    assert_bits!(InterruptVectorConfig as u32, iv 0..=15, cd 16..=16);
    assert_bits!(WriteAtomicity as u32, dn 0..=0);
    assert_bits!(AsyncEventConfig as u32, smart 0..=7, namespace_attributes 8..=8, firmware_activation 9..=9,
        telemetry 10..=10, ana_change 11..=11, predictable_latency 12..=12, lba_status 13..=13,
        endurance_group 14..=14, subsystem_shutdown 15..=15);
    assert_bits!(AsyncEvent as u32, aet 0..=2, aei 8..=15, lid 16..=23);
    assert_offsets!(Timestamp, timestamp 0, attr 6);
    assert_offsets!(HostBehaviorSupport, acre 0, etdas 1, lbafee 2);
}

#[test]
fn an_event_names_the_page_that_tells_more() {
    // A namespace was added: a notice (2) of namespace attributes (0), log page 4.
    let event = AsyncEvent::from_bits(0x0004_0002);
    assert_eq!((event.aet(), event.aei(), event.log_page()), (2, 0, LogId::CHANGED_NS_LIST));
}

#[test]
fn a_timestamp_has_48_bits() {
    let timestamp = Timestamp { timestamp: [1, 0, 0, 0, 0, 0x80], attr: 0xff, rsvd7: 0xff };
    assert_eq!(timestamp.milliseconds(), 0x8000_0000_0001);
}

#[test]
fn reserved_bits_of_features_survive() {
    for raw in [u32::MAX, 0x8000_0000, 0xdead_beef] {
        assert_eq!(AsyncEventConfig::from_bits(raw).into_bits(), raw);
        assert_eq!(TemperatureThreshold::from_bits(raw).into_bits(), raw);
        assert_eq!(Capabilities::from_bits(raw).into_bits(), raw);
        assert_eq!(VolatileWriteCache::from_bits(raw).with_wce(false).into_bits(), raw & !1);
    }
}
