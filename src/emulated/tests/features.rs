//! Get and Set Features: each feature, select and save, and the refusals.

use super::{DATA_AT, Host, small};
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::status::Status;

fn get(host: &mut Host, id: FeatureId, select: u8, nsid: u32) -> u32 {
    host.admin_ok(Command::get_features(id, select, nsid))
}

fn set(host: &mut Host, id: FeatureId, value: u32) {
    host.admin_ok(Command::set_features(id, false, 0, value));
}

#[test]
fn values_are_current_default_and_saved() {
    let mut host = Host::ready(small());
    for (id, default, value) in [
        (FeatureId::ARBITRATION, 7, 0x0102_0303),
        (FeatureId::VOLATILE_WRITE_CACHE, 1, 0),
        (FeatureId::INTERRUPT_COALESCING, 0, 0x0a05),
        (FeatureId::WRITE_ATOMICITY, 0, 1),
        (FeatureId::ASYNC_EVENT_CONFIG, 0, 0x11f),
    ] {
        assert_eq!(get(&mut host, id, 0, 0), default, "{id:?}");
        set(&mut host, id, value);
        assert_eq!(get(&mut host, id, 0, 0), value, "{id:?}");
        assert_eq!((get(&mut host, id, 1, 0), get(&mut host, id, 2, 0)), (default, default), "{id:?}");
        // Changeable and saveable.
        assert_eq!(get(&mut host, id, 3, 0), 0b101, "{id:?}");
        host.reset();
        assert_eq!(get(&mut host, id, 0, 0), default, "{id:?}");
        host.admin_ok(Command::set_features(id, true, 0, value));
        host.reset();
        assert_eq!((get(&mut host, id, 0, 0), get(&mut host, id, 2, 0)), (value, value), "{id:?}");
        assert_eq!(get(&mut host, id, 1, 0), default, "{id:?}");
    }
    host.fails(0, Command::get_features(FeatureId::ARBITRATION, 4, 0), Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn temperature_thresholds_are_two() {
    let mut host = Host::ready(small());
    let id = FeatureId::TEMPERATURE_THRESHOLD;
    let under =
        |host: &mut Host| host.admin_ok(Command { cdw11: 1 << 20, ..Command::get_features(id, 0, 0) });
    assert_eq!((get(&mut host, id, 0, 0), under(&mut host)), (343, 0));
    set(&mut host, id, 0x10_00fa);
    set(&mut host, id, 360);
    assert_eq!((get(&mut host, id, 0, 0), under(&mut host)), (360, 250));
    // There are no single sensors, and no third kind of threshold.
    host.fails(0, Command::set_features(id, false, 0, 0x1_012c), Status::INVALID_FIELD);
    host.fails(0, Command::set_features(id, false, 0, 0x20_012c), Status::INVALID_FIELD);
}

#[test]
fn error_recovery_belongs_to_a_namespace() {
    let mut host = Host::ready(small());
    let id = FeatureId::ERROR_RECOVERY;
    host.admin_ok(Command::set_features(id, false, 2, 30));
    assert_eq!((get(&mut host, id, 0, 1), get(&mut host, id, 0, 2)), (0, 30));
    host.admin_ok(Command::set_features(id, false, u32::MAX, 9));
    assert_eq!((get(&mut host, id, 0, 1), get(&mut host, id, 0, 2)), (9, 9));
    assert_eq!(get(&mut host, id, 3, 1), 0b111);
    host.fails(0, Command::get_features(id, 0, 0), Status::INVALID_NAMESPACE_OR_FORMAT);
    host.fails(0, Command::get_features(id, 0, 3), Status::INVALID_FIELD);
    host.fails(0, Command::set_features(id, false, 1, 1 << 16), Status::INVALID_FIELD);
}

#[test]
fn features_of_the_controller_take_no_namespace() {
    let mut host = Host::ready(small());
    let command = Command::set_features(FeatureId::ARBITRATION, false, 1, 0);
    host.fails(0, command, Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
    host.admin_ok(Command::set_features(FeatureId::ARBITRATION, false, u32::MAX, 0));
}

#[test]
fn there_is_one_power_state() {
    let mut host = Host::ready(small());
    set(&mut host, FeatureId::POWER_MANAGEMENT, 0);
    host.fails(0, Command::set_features(FeatureId::POWER_MANAGEMENT, false, 0, 1), Status::INVALID_FIELD);
    let save = Command::set_features(FeatureId::POWER_MANAGEMENT, true, 0, 0);
    host.fails(0, save, Status::FEATURE_NOT_SAVEABLE);
    assert_eq!(get(&mut host, FeatureId::POWER_MANAGEMENT, 3, 0), 0b100);
}

#[test]
fn interrupt_vectors_are_configured_one_by_one() {
    let mut host = Host::ready(small());
    let id = FeatureId::INTERRUPT_VECTOR_CONFIG;
    set(&mut host, id, 1 << 16 | 3);
    let vector = |v| Command { cdw11: v, ..Command::get_features(id, 0, 0) };
    assert_eq!(host.admin_ok(vector(3)), 0x1_0003);
    assert_eq!(host.admin_ok(vector(4)), 4);
    host.fails(0, vector(5), Status::INVALID_FIELD);
    host.fails(0, Command::set_features(id, false, 0, 5), Status::INVALID_FIELD);
}

#[test]
fn unknown_features_are_refused() {
    let mut host = Host::ready(small());
    for id in [0, 0x03, 0x0c, 0x0d, 0x0f, 0x10, 0x7f, 0xc0, 0xff] {
        host.fails(0, Command::get_features(FeatureId(id), 0, 0), Status::INVALID_FIELD);
        host.fails(0, Command::set_features(FeatureId(id), false, 0, 0), Status::INVALID_FIELD);
    }
}

#[test]
fn the_number_of_queues_is_zero_based_and_may_be_less_than_asked() {
    let id = FeatureId::NUMBER_OF_QUEUES;
    for (asked, granted) in
        [(0x003f_003f, 0x0003_0003), (0x0001_0001, 0x0001_0001), (0x0002_0000, 0), (0x0001_0002, 0x0001_0001)]
    {
        let mut host = Host::ready(small());
        assert_eq!(host.admin_ok(Command::set_features(id, false, 0, asked)), granted);
        assert_eq!(get(&mut host, id, 0, 0), granted);
        let queues = (granted & 0xffff) as u16 + 1;
        host.create_pair(queues, 4);
        if queues < 4 {
            let iova = host.iova;
            let beyond = Command { prp1: iova + (4 << 20), ..Command::create_io_cq(queues + 1, 4, None) };
            host.fails(0, beyond, Status::INVALID_QUEUE_ID);
        }
    }
    let mut host = Host::ready(small());
    host.fails(0, Command::set_features(id, false, 0, 0xffff_0000), Status::INVALID_FIELD);
    host.fails(0, Command::set_features(id, false, 0, 0x0000_ffff), Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn the_number_of_queues_is_set_once_and_first() {
    let id = FeatureId::NUMBER_OF_QUEUES;
    let mut host = Host::ready(small());
    let command = Command::set_features(id, false, 0, 0x0001_0001);
    host.admin_ok(command);
    host.fails(0, command, Status::COMMAND_SEQUENCE_ERROR);
    host.expect_violation("for the second time");
    host.reset();
    host.admin_ok(command);
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    host.fails(0, command, Status::COMMAND_SEQUENCE_ERROR);
    host.expect_violation("after an I/O queue was created");
}

/// The host's side of Command Retry Delays: heard, read back, and forgotten at a reset.
#[test]
fn host_behavior_is_heard_until_a_reset() {
    let mut host = Host::ready(small());
    let id = FeatureId::HOST_BEHAVIOR_SUPPORT;
    let get = |host: &mut Host, select| host.admin_data(Command::get_features(id, select, 0))[..3].to_vec();
    assert_eq!(get(&mut host, 0), [0, 0, 0]);
    host.block.write(DATA_AT, &[1, 0, 1]);
    let set = host.with_data(Command::set_features(id, false, 0, 0));
    host.admin_ok(set);
    assert_eq!((get(&mut host, 0), get(&mut host, 1)), (vec![1, 0, 1], vec![0, 0, 0]));
    host.block.write(DATA_AT, &[2, 0, 0]);
    host.fails(0, set, Status::INVALID_FIELD);
    assert_eq!(get(&mut host, 0), [1, 0, 1]);
    host.reset();
    assert_eq!(get(&mut host, 0), [0, 0, 0]);
    assert!(host.violations().is_empty());
}
