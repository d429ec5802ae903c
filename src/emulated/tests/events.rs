//! Async events: the limit, delivery, masking until the log is read, and abort.

use super::{DATA_AT, Host, small};
use crate::emulated::Config;
use crate::spec::command::Command;
use crate::spec::feature::FeatureId;
use crate::spec::log::LogId;
use crate::spec::status::Status;
use std::time::Duration;

/// Asks for one event.
fn request(host: &mut Host) -> u16 {
    let cid = host.push(0, Command::async_event_request());
    host.ring(0);
    cid
}

/// CID and dword 0 of the next event, if one was delivered.
fn event(host: &mut Host) -> Option<(u16, u32)> {
    let completion = host.reap(0)?;
    assert_eq!(completion.status(), Status::SUCCESS);
    Some((completion.cid, completion.dw0))
}

fn read_log(host: &mut Host, log: LogId, retain: bool) {
    let command = host.with_data(Command::get_log_page(log, u32::MAX, 512, 0, retain));
    host.admin_ok(command);
}

#[test]
fn requests_stay_outstanding_up_to_the_limit() {
    let mut host = Host::ready(Config { async_events: 2, ..small() });
    request(&mut host);
    request(&mut host);
    assert!(host.peek(0).is_none());
    host.fails(0, Command::async_event_request(), Status::AER_LIMIT_EXCEEDED);
    host.expect_violation("beyond the 2 that AERL allows");
    // As many again after a reset.
    host.reset();
    request(&mut host);
    request(&mut host);
    assert!(host.peek(0).is_none());
}

#[test]
fn a_wrong_doorbell_is_reported_and_then_masked_until_the_log_is_read() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    let first = request(&mut host);
    let second = request(&mut host);
    host.pair(1).sq_bell.ring(99);
    host.settle();
    // Error, invalid doorbell value, error log.
    assert_eq!(event(&mut host), Some((first, 0x0001_0100)));
    host.pair(1).sq_bell.ring(98);
    host.settle();
    assert_eq!(event(&mut host), None);
    read_log(&mut host, LogId::ERROR, true);
    assert_eq!(event(&mut host), None);
    // Reading the log clears what waited for it as well.
    read_log(&mut host, LogId::ERROR, false);
    assert_eq!(event(&mut host), None);
    host.add_pair(4, 4);
    host.pair(4).sq_bell.ring(1);
    host.settle();
    // Invalid doorbell register.
    assert_eq!(event(&mut host), Some((second, 0x0001_0000)));
}

#[test]
fn an_event_waits_for_a_request() {
    let mut host = Host::ready(small());
    host.admin_ok(Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, 1 << 8));
    host.admin_ok(Command::format_nvm(2, 1, 0));
    let cid = request(&mut host);
    assert_eq!(event(&mut host), Some((cid, 0x0004_0002)));
    let log = host.admin_data(Command::get_log_page(LogId::CHANGED_NS_LIST, 0, 4096, 0, false));
    assert_eq!(log[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
    // Cleared by reading it.
    let log = host.admin_data(Command::get_log_page(LogId::CHANGED_NS_LIST, 0, 4096, 0, false));
    assert_eq!(log, [0; 4096]);
}

#[test]
fn events_that_nobody_asked_for_are_not_raised() {
    let mut host = Host::ready(small());
    request(&mut host);
    host.admin_ok(Command::format_nvm(2, 1, 0));
    host.transport.set_temperature_k(400);
    host.settle();
    assert_eq!(event(&mut host), None);
}

#[test]
fn crossing_the_temperature_threshold_is_reported_once() {
    let mut host = Host::ready(small());
    host.admin_ok(Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, 0x1f));
    let cid = request(&mut host);
    let again = request(&mut host);
    host.transport.set_temperature_k(342);
    host.settle();
    assert_eq!(event(&mut host), None);
    host.transport.set_temperature_k(343);
    host.settle();
    // SMART, temperature threshold, SMART log.
    assert_eq!(event(&mut host), Some((cid, 0x0002_0101)));
    read_log(&mut host, LogId::SMART, false);
    host.transport.set_temperature_k(350);
    host.settle();
    assert_eq!(event(&mut host), None);
    // Down, and to 280 K, the other threshold.
    host.admin_ok(Command::set_features(FeatureId::TEMPERATURE_THRESHOLD, false, 0, 0x10_0118));
    host.transport.set_temperature_k(300);
    host.settle();
    host.transport.set_temperature_k(280);
    host.settle();
    assert_eq!(event(&mut host), Some((again, 0x0002_0101)));
}

#[test]
fn critical_warnings_are_reported() {
    let mut host = Host::ready(small());
    host.admin_ok(Command::set_features(FeatureId::ASYNC_EVENT_CONFIG, false, 0, 0x1f));
    let cids = [request(&mut host), request(&mut host)];
    host.transport.set_critical_warning(0b100);
    host.settle();
    // NVM subsystem reliability.
    assert_eq!(event(&mut host), Some((cids[0], 0x0002_0001)));
    read_log(&mut host, LogId::SMART, false);
    host.transport.set_critical_warning(0b101);
    host.settle();
    // Spare below threshold.
    assert_eq!(event(&mut host), Some((cids[1], 0x0002_0201)));
    let log = host.admin_data(Command::get_log_page(LogId::SMART, 0, 512, 0, false));
    assert_eq!(log[0], 0b101);
}

#[test]
fn a_request_can_be_aborted() {
    let mut host = Host::ready(small());
    let cid = request(&mut host);
    // The answer to the abort, and then the request's.
    assert_eq!(host.admin_ok(Command::abort(0, cid)), 0);
    let completion = host.reap(0).expect("aborted");
    assert_eq!((completion.cid, completion.status()), (cid, Status::ABORTED_BY_REQUEST));
    assert_eq!(host.admin_ok(Command::abort(0, cid)), 1);
}

#[test]
fn a_request_with_a_cid_in_use_is_a_conflict() {
    let mut host = Host::ready(small());
    host.push_as(0, Command { cid: 3, ..Command::async_event_request() });
    host.push_as(0, Command { cid: 3, ..Command::get_features(FeatureId::ARBITRATION, 0, 0) });
    host.ring(0);
    let completion = host.reap(0).expect("refused");
    assert_eq!((completion.cid, completion.status()), (3, Status::COMMAND_ID_CONFLICT));
    host.expect_violation("CID 0x0003 of queue 0");
    host.block.fill(DATA_AT, 4, 0);
}

/// The driver is told first, if it asked for that; then commands wait, and none is lost.
#[test]
fn firmware_is_activated_while_commands_wait() {
    let mut host = Host::ready(small());
    let read = Command::get_log_page(LogId::FIRMWARE_SLOT, u32::MAX, 512, 0, false);
    let ms = Duration::from_millis;
    for (is_asked_for, time_ms) in [(false, 70), (true, 90)] {
        host.admin_ok(Command::set_features(
            FeatureId::ASYNC_EVENT_CONFIG,
            false,
            0,
            u32::from(is_asked_for) << 9,
        ));
        let cid = request(&mut host);
        host.transport.activate_firmware(ms(time_ms));
        host.settle();
        assert!(host.csts().pp() && host.csts().rdy() && !host.csts().cfs());
        // Firmware activation starting, firmware slot log.
        assert_eq!(event(&mut host), is_asked_for.then_some((cid, 0x0003_0102)));
        let command = host.with_data(read);
        let waiting = host.push(0, command);
        host.ring(0);
        host.pass(ms(time_ms - 1));
        assert!(host.csts().pp() && host.peek(0).is_none());
        host.pass(ms(1));
        assert!(!host.csts().pp() && host.csts().rdy());
        let completion = host.reap(0).expect("answered after the pause");
        assert_eq!((completion.cid, completion.status()), (waiting, Status::SUCCESS));
        // Whether it was told or not, the next round begins without a request at the controller.
        host.reset();
    }
    // A reset, or a shutdown, does not wait for the end of a pause.
    host.transport.activate_firmware(Duration::from_secs(3600));
    host.settle();
    assert!(host.csts().pp());
    host.reset();
    assert!(!host.csts().pp() && host.csts().rdy());
    assert!(host.violations().is_empty());
}
