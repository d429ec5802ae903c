//! Keep Alive: the timer, its rounding, what restarts it and what does not, and its end.

use std::time::Duration;

use super::{Host, small};
use crate::emulated::Config;
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::feature::FeatureId;
use crate::spec::log::LogId;
use crate::spec::status::Status;

const KATO: FeatureId = FeatureId::KEEP_ALIVE_TIMER;

/// A controller with a granularity of 500 ms.
fn with_keep_alive() -> Host {
    Host::ready(Config { kas: 5, ..small() })
}

fn set(host: &mut Host, kato_ms: u32) {
    host.admin_ok(Command::set_features(KATO, false, 0, kato_ms));
}

#[test]
fn a_controller_without_it_refuses() {
    let mut host = Host::ready(small());
    host.fails(0, Command::keep_alive(), Status::INVALID_OPCODE);
    host.fails(0, Command::set_features(KATO, false, 0, 1000), Status::INVALID_FIELD);
    host.fails(0, Command::get_features(KATO, 0, 0), Status::INVALID_FIELD);
    assert!(host.violations().is_empty());
}

#[test]
fn the_timer_is_off_at_first_rounded_up_and_off_again_after_a_reset() {
    let mut host = with_keep_alive();
    let get = |host: &mut Host| host.admin_ok(Command::get_features(KATO, 0, 0));
    assert_eq!(get(&mut host), 0);
    host.pass(Duration::from_secs(3600));
    for (asked, rounded) in [(1, 500), (500, 500), (501, 1000), (0, 0), (u32::MAX, u32::MAX), (2000, 2000)] {
        set(&mut host, asked);
        assert_eq!(get(&mut host), rounded, "{asked}");
    }
    host.fails(0, Command::set_features(KATO, true, 0, 1000), Status::FEATURE_NOT_SAVEABLE);
    host.fails(0, Command { nsid: 1, ..Command::keep_alive() }, Status::INVALID_FIELD);
    host.reset();
    assert_eq!(get(&mut host), 0);
    host.pass(Duration::from_secs(3600));
    assert!(!host.csts().cfs());
    assert!(host.violations().is_empty());
}

/// Other commands are no sign of life: TBKAS is 0. Nothing but a reset helps after that, and it does.
#[test]
fn without_a_keep_alive_in_time_the_controller_is_fatal() {
    let mut host = with_keep_alive();
    set(&mut host, 1000);
    for _ in 0..20 {
        host.pass(Duration::from_millis(999));
        assert!(!host.csts().cfs());
        host.admin_ok(Command::keep_alive());
    }
    host.pass(Duration::from_millis(500));
    host.admin_ok(Command::get_features(KATO, 0, 0));
    host.pass(Duration::from_millis(499));
    assert!(!host.csts().cfs());
    host.pass(Duration::from_millis(1));
    assert!(host.csts().cfs());
    host.expect_violation("no Keep Alive came for 1000 ms");
    host.reset();
    let page = host.admin_data(Command::get_log_page(LogId::ERROR, 0, 64, 0, true));
    let status = u16::from_le_bytes([page[12], page[13]]) >> 1;
    assert_eq!(Status(status).without_dnr(), Status::KEEP_ALIVE_TIMER_EXPIRED);
    assert_eq!(page[8..12], [0xff; 4], "of no command");
}

#[test]
fn the_effects_log_lists_it_where_it_is() {
    for (kas, listed) in [(0, 0), (5, 1)] {
        let mut host = Host::ready(Config { kas, ..small() });
        let page = host.admin_data(Command::get_log_page(LogId::COMMAND_EFFECTS, 0, 4096, 0, true));
        assert_eq!(page[usize::from(AdminOpcode::KEEP_ALIVE.0) * 4], listed);
    }
}
