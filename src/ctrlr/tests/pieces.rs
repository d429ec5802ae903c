//! Small parts that need no device: who polls, how long commands may take, which are the driver's, what a namespace or an answer says, who hears of an event.
#![forbid(unsafe_code)]

use super::World;
use crate::ctrlr::core::outcome_of;
use crate::ctrlr::interrupts::Interrupts;
use crate::ctrlr::namespace::{Namespace, Unsupported};
use crate::ctrlr::options::Timeouts;
use crate::ctrlr::passthru::check_admin;
use crate::ctrlr::seat::ReaderRecord;
use crate::ctrlr::state::StateCell;
use crate::ctrlr::{CtrlrOptions, CtrlrState, Failure, Message, Refusal, Reply, Stalled};
use crate::dma::DmaSlice;
use crate::emulated::{self, Config};
use crate::ring::{AbortReason, Aborted, Answer, Outcome};
use crate::spec::command::{AdminOpcode, Command};
use crate::spec::completion::Completion;
use crate::spec::feature::{AsyncEvent, FeatureId};
use crate::spec::identify::IdentifyNs;
use crate::spec::status::Status;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_reader_is_known_by_its_name_and_its_last_poll() {
    let record = ReaderRecord::default();
    let epoch = Instant::now().checked_sub(10 * SECOND).unwrap_or_else(Instant::now);
    assert_eq!(record.stalled(epoch), Stalled { poller: None, last_poll_ago: None });
    record.sit_down("first");
    assert_eq!(record.stalled(epoch), Stalled { poller: Some("first".into()), last_poll_ago: None });
    let polled = Duration::new(2, 900_000_000);
    record.polled(polled);
    let least = epoch.elapsed().saturating_sub(polled);
    let ago = record.stalled(epoch).last_poll_ago.expect("it has polled");
    assert!((least..=epoch.elapsed().saturating_sub(polled)).contains(&ago), "{ago:?} and not {least:?}");
    record.get_up();
    assert_eq!(record.stalled(epoch).poller, None);
}

#[test]
fn who_holds_it_up_is_said_in_words() {
    let said = |poller: Option<&str>, last_poll_ago| {
        Stalled { poller: poller.map(str::to_owned), last_poll_ago }.to_string()
    };
    assert_eq!(said(Some("io"), Some(1500 * MS)), "poller 'io' last polled 1500 ms ago");
    assert_eq!(said(Some("io"), None), "poller 'io' has never polled");
    assert_eq!(said(None, Some(MS)), "nobody polls; a producer may be in the middle of a send");
}

#[test]
fn an_eighth_of_the_shortest_timeout_is_how_often_is_looked() {
    let all = |time| Timeouts { io: time, admin: time, slow_admin: time, abort: time, ..Timeouts::default() };
    for shortest in [
        Timeouts { io: 80 * MS, ..all(SECOND) },
        Timeouts { admin: 80 * MS, ..all(SECOND) },
        Timeouts { slow_admin: 80 * MS, ..all(SECOND) },
        Timeouts { abort: 80 * MS, ..all(SECOND) },
    ] {
        assert_eq!(shortest.period(), 10 * MS, "{shortest:?}");
    }
    assert_eq!(all(Duration::ZERO).period(), MS);
    assert_eq!(all(Duration::MAX).period(), SECOND);
}

#[test]
fn commands_that_change_media_or_firmware_have_longer() {
    let timeouts = Timeouts { admin: SECOND, slow_admin: 2 * SECOND, ..Timeouts::default() };
    let slow = [
        AdminOpcode::FORMAT_NVM,
        AdminOpcode::SANITIZE,
        AdminOpcode::DEVICE_SELF_TEST,
        AdminOpcode::FIRMWARE_COMMIT,
        AdminOpcode::FIRMWARE_IMAGE_DOWNLOAD,
        AdminOpcode::NAMESPACE_MANAGEMENT,
    ];
    for opcode in 0..=u8::MAX {
        let expected = if slow.contains(&AdminOpcode(opcode)) { 2 * SECOND } else { SECOND };
        assert_eq!(timeouts.of_admin(opcode), expected, "{opcode:#x}");
    }
}

#[test]
fn the_bounds_of_options_are_allowed_and_what_is_past_them_is_not() {
    let usual = CtrlrOptions::default;
    assert_eq!(usual().check(), Ok(()));
    let allowed = [
        CtrlrOptions { ring_slots: 2, ..usual() },
        CtrlrOptions { ring_slots: 65_536, ..usual() },
        CtrlrOptions { admin_queue_entries: 8, ..usual() },
        CtrlrOptions { admin_queue_entries: 4096, ..usual() },
        CtrlrOptions { external_queue_entries: 0, ..usual() },
        CtrlrOptions { external_queue_entries: 2, ..usual() },
        CtrlrOptions { external_queue_entries: u16::MAX, ..usual() },
        CtrlrOptions { io_queues: 1, ..usual() },
        CtrlrOptions { io_queues: 1024, ..usual() },
        CtrlrOptions { max_transfer_bytes: 4096, ..usual() },
        CtrlrOptions { max_transfer_bytes: 32 << 20, ..usual() },
    ];
    for options in allowed {
        assert_eq!(options.check(), Ok(()), "{options:?}");
    }
    let refused = [
        ("ring_slots", CtrlrOptions { ring_slots: 1, ..usual() }),
        ("ring_slots", CtrlrOptions { ring_slots: 3, ..usual() }),
        ("ring_slots", CtrlrOptions { ring_slots: 131_072, ..usual() }),
        ("admin_queue_entries", CtrlrOptions { admin_queue_entries: 7, ..usual() }),
        ("admin_queue_entries", CtrlrOptions { admin_queue_entries: 4097, ..usual() }),
        ("external_queue_entries", CtrlrOptions { external_queue_entries: 1, ..usual() }),
        ("io_queues", CtrlrOptions { io_queues: 0, ..usual() }),
        ("io_queues", CtrlrOptions { io_queues: 1025, ..usual() }),
        ("max_transfer_bytes", CtrlrOptions { max_transfer_bytes: 4095, ..usual() }),
        ("max_transfer_bytes", CtrlrOptions { max_transfer_bytes: (32 << 20) + 1, ..usual() }),
    ];
    for (name, options) in refused {
        let error = options.check().expect_err(name);
        assert!(error.starts_with(name), "{error}");
    }
}

#[test]
fn a_namespace_is_used_when_its_format_is_one_that_the_driver_knows() {
    /// LBADS is in bits 16 to 23 of a format, MS in bits 0 to 15.
    fn of(lbads: u8, ms: u16, dps: u8) -> Namespace {
        let mut data = IdentifyNs { nsze: 100, nsattr: 0xfe, noiob: 8, dps, ..IdentifyNs::default() };
        data.lbaf[0] = crate::spec::identify::LbaFormat::from_bits(u32::from(lbads) << 16 | u32::from(ms));
        Namespace::from_identify(7, &data)
    }
    for (lbads, block_bytes) in [(9, 512), (12, 4096), (16, 65_536)] {
        let namespace = of(lbads, 0, 0);
        assert_eq!(
            (namespace.nsid, namespace.size_blocks, namespace.block_bytes, namespace.optimal_boundary_blocks),
            (7, 100, block_bytes, 8)
        );
        assert_eq!((namespace.unsupported, namespace.is_write_protected), (None, false));
        assert_eq!(namespace.size_bytes(), 100 * u64::from(block_bytes));
    }
    for lbads in [0, 8, 17, 255] {
        let namespace = of(lbads, 0, 0);
        assert_eq!(namespace.unsupported, Some(Unsupported::BlockSize { lbads }));
        assert_eq!(namespace.block_bytes, 512);
    }
    assert_eq!(of(9, 8, 0).unsupported, Some(Unsupported::Metadata { bytes: 8 }));
    for dps in [1, 2, 3, 7, 0x0f] {
        assert_eq!(of(9, 0, dps).unsupported, Some(Unsupported::Protection), "{dps:#x}");
    }
    assert_eq!(of(9, 0, 0x08).unsupported, None, "where protection information would be is no protection");
}

#[test]
fn an_inbox_tells_kinds_apart_and_counts_those_beyond_its_places_together() {
    let world = World::new();
    let hub = &world.ctrlr.0.hub;
    let subscription = hub.subscribe();
    let event = |aei: u8| AsyncEvent::new().with_aet(1).with_aei(aei).with_lid(2);
    for round in 0..3 {
        for aei in 0..=round {
            hub.announce(event(aei));
        }
    }
    let read = || std::iter::from_fn(|| subscription.next()).map(|report| (report.event, report.count));
    assert_eq!(read().collect::<Vec<_>>(), [(event(0), 3), (event(1), 2), (event(2), 1)]);
    for aei in (0..70).chain(0..70) {
        hub.announce(event(aei));
    }
    let reports: Vec<_> = read().collect();
    let (known, others) = reports.split_at(63);
    assert_eq!(known, (0..63).map(|aei| (event(aei), 2)).collect::<Vec<_>>());
    let of_others = AsyncEvent::from_bits(0x00ff_ff07);
    assert_eq!(others, [(of_others, 14)], "seven kinds have no place of their own");
    assert_eq!(subscription.wait(Duration::ZERO), None);
    world.detach();
}

#[test]
fn a_subscriber_that_is_gone_makes_room() {
    let world = World::new();
    let hub = &world.ctrlr.0.hub;
    let (first, second) = (hub.subscribe(), hub.subscribe());
    assert_eq!(hub.subscribers.load().len(), 2);
    drop(first);
    let third = hub.subscribe();
    assert_eq!(hub.subscribers.load().len(), 2);
    hub.announce(AsyncEvent::new());
    assert!(second.next().is_some() && third.next().is_some());
    world.detach();
}

#[test]
fn admin_commands_that_are_the_drivers_own_are_refused() {
    let owned = [
        AdminOpcode::CREATE_IO_SQ,
        AdminOpcode::DELETE_IO_SQ,
        AdminOpcode::CREATE_IO_CQ,
        AdminOpcode::DELETE_IO_CQ,
        AdminOpcode::ASYNC_EVENT_REQUEST,
        AdminOpcode::KEEP_ALIVE,
        AdminOpcode::DOORBELL_BUFFER_CONFIG,
    ];
    for opcode in 0..=u8::MAX {
        let is_owned = owned.contains(&AdminOpcode(opcode));
        let expected = if is_owned { Err(Refusal::DriverOwned { opcode }) } else { Ok(()) };
        assert_eq!(check_admin(&Command { opcode, ..Command::default() }), expected);
    }
    let owned = [FeatureId::NUMBER_OF_QUEUES, FeatureId::HOST_MEMORY_BUFFER, FeatureId::KEEP_ALIVE_TIMER]
        .map(|id| id.0);
    let opcode = AdminOpcode::SET_FEATURES.0;
    for feature in 0..=u8::MAX {
        let expected = if owned.contains(&feature) { Err(Refusal::DriverOwned { opcode }) } else { Ok(()) };
        for save in [false, true] {
            let set = Command::set_features(FeatureId(feature), save, 0, 0);
            assert_eq!(check_admin(&set), expected, "feature {feature:#x}");
        }
        assert_eq!(check_admin(&Command::get_features(FeatureId(feature), 0, 0)), Ok(()));
    }
}

#[test]
fn an_answer_has_both_of_its_dwords_and_one_for_a_deleted_queue_is_none() {
    let completion = |status: Status| Completion {
        dw0: 0x8765_4321,
        dw1: 0x0fed_cba9,
        status: status.0 << 1,
        ..Completion::default()
    };
    match outcome_of(completion(Status::INVALID_FIELD), None) {
        Outcome::Completed(Reply::Command { status, result, data: None }) => {
            assert_eq!((status, result), (Status::INVALID_FIELD, 0x0fed_cba9_8765_4321));
        }
        other => panic!("{other:?}"),
    }
    match outcome_of(completion(Status::ABORTED_SQ_DELETION), None) {
        Outcome::Aborted(aborted) => assert_eq!(aborted, Aborted::maybe_executed(AbortReason::Detached)),
        other @ Outcome::Completed(_) => panic!("{other:?}"),
    }
}

/// The poller frees no memory, unless no control thread comes by for long.
/// What shares a cache line on its way back is what comes to a word and is itself again behind it.
#[test]
fn an_answer_that_is_more_than_a_word_is_none() {
    let World { ctrlr, device: _device, .. } = World::new();
    let command = |status, data| Reply::Command { status, result: 1 << 40 | 2, data };
    let word = command(Status(0x4002), None).to_word().expect("a status and a result");
    assert!(matches!(
        Reply::of_word(word),
        Reply::Command { status: Status(0x4002), result: 0x100_0000_0002, data: None }
    ));
    let word = Reply::Called(u64::MAX).to_word().expect("a number");
    assert!(matches!(Reply::of_word(word), Reply::Called(u64::MAX)));
    let data = Box::new(DmaSlice::from(ctrlr.allocate(4096).expect("memory")));
    assert_eq!(command(Status::SUCCESS, Some(data)).to_word(), None, "its data would be lost");
    assert_eq!(command(Status(u16::MAX), None).to_word(), None, "it would come back as a closure's");
    assert_eq!(Reply::Rescanned.to_word(), None);
}

#[test]
fn snapshots_that_were_replaced_are_left_to_control_threads_up_to_eight() {
    let world = World::new();
    let hub = &world.ctrlr.0.hub;
    hub.sweep();
    let mut replaced = Vec::new();
    for count in 1..=20_usize {
        replaced.push(Arc::downgrade(&hub.namespaces.load()));
        hub.publish_namespaces(Vec::new());
        let kept: Vec<_> = replaced.iter().map(|snapshot| snapshot.strong_count() != 0).collect();
        let expected: Vec<_> = (0..count).map(|place| place + 8 >= count).collect();
        assert_eq!(kept, expected, "after {count}");
    }
    drop(world.ctrlr.register("sweeps").expect("registered"));
    assert!(replaced.iter().all(|snapshot| snapshot.strong_count() == 0));
    world.detach();
}

/// One for the poller, which completions of messages share, and one for each other queue pair that there may be, as far as the device has them.
#[test]
fn vectors_are_connected_for_the_poller_and_each_queue_pair_of_its_own() {
    for (available, external_queue_entries, expected) in [
        (65, 64, [Some(0), Some(1), Some(2), None]),
        (2, 64, [Some(0), Some(1), None, None]),
        (65, 0, [Some(1), Some(2), Some(3), None]),
        (1, 0, [None; 4]),
    ] {
        let config = Config { interrupts: available, ..Config::default() };
        let (transport, _device) = emulated::new(config).expect("valid");
        let options = CtrlrOptions { io_queues: 3, external_queue_entries, ..CtrlrOptions::default() };
        let interrupts =
            Interrupts::connect(&*transport, &options).expect("connected").expect("there are some");
        let vectors = [1, 2, 3, 4].map(|qid| interrupts.vector(qid));
        assert_eq!(vectors, expected, "{available} vectors, external queue of {external_queue_entries}");
        assert_eq!(
            [1, 2, 3, 4].map(|qid| interrupts.descriptor(qid).is_some()),
            expected.map(|vector| vector.is_some())
        );
    }
    let (transport, _device) = emulated::new(Config { interrupts: 0, ..Config::default() }).expect("valid");
    assert!(matches!(Interrupts::connect(&*transport, &CtrlrOptions::default()), Ok(None)));
}

/// Each arrow of the picture in `state`, and no other.
#[test]
fn the_state_moves_along_the_arrows_only() {
    use CtrlrState::{Attaching, Detached, Detaching, Failed, Live, Resetting};
    let all = [Attaching, Live, Resetting, Failed, Detaching, Detached];
    let arrows = [
        (Attaching, Live),
        (Attaching, Failed),
        (Attaching, Detaching),
        (Live, Resetting),
        (Live, Failed),
        (Live, Detaching),
        (Resetting, Live),
        (Resetting, Failed),
        (Resetting, Detaching),
        (Failed, Detaching),
        (Detaching, Detached),
    ];
    // A way to each state from the first.
    let ways: [&[CtrlrState]; 6] =
        [&[], &[Live], &[Live, Resetting], &[Failed], &[Detaching], &[Detaching, Detached]];
    for (from, way) in all.into_iter().zip(ways) {
        for to in all {
            let state = StateCell::new();
            assert_eq!(state.get(), Attaching);
            assert!(way.iter().all(|step| state.advance(*step)));
            assert_eq!(state.get(), from);
            let is_arrow = arrows.contains(&(from, to));
            assert_eq!(state.advance(to), is_arrow, "{from} to {to}");
            assert_eq!(state.get(), if is_arrow { to } else { from });
        }
    }
}

#[test]
fn the_first_reason_of_a_failure_stands() {
    let state = StateCell::new();
    assert_eq!(state.failure(), None);
    let reason = |csts| Failure::Fatal { csts };
    assert!(state.fail(reason(1)));
    assert!(!state.fail(reason(2)), "it has failed already");
    assert_eq!((state.get(), state.failure()), (CtrlrState::Failed, Some(&reason(1))));
}

#[test]
fn a_state_is_said_in_a_word() {
    use CtrlrState::{Attaching, Detached, Detaching, Failed, Live, Resetting};
    let said = [Attaching, Live, Resetting, Failed, Detaching, Detached].map(|state| state.to_string());
    assert_eq!(said, ["attaching", "live", "resetting", "failed", "detaching", "detached"]);
}

/// Who waits for an event sleeps until one comes; one that is there is given at once, however long the caller would wait.
#[test]
fn a_subscriber_waits_for_an_event_and_not_for_one_that_is_there() {
    let world = World::new();
    let hub = &world.ctrlr.0.hub;
    let subscription = hub.subscribe();
    hub.announce(AsyncEvent::new());
    let report = subscription.wait(Duration::MAX).expect("it is there");
    assert_eq!((report.event, report.count), (AsyncEvent::new(), 1));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| subscription.wait(Duration::MAX));
        let is_asleep = || format!("{:?}", hub.waiters.bell()).contains("sleepers: 1");
        while !is_asleep() {
            assert!(!waits.is_finished(), "no event has come");
            std::thread::yield_now();
        }
        hub.announce(AsyncEvent::new());
        hub.waiters.bell().ring();
        assert!(waits.join().expect("no panic").is_some());
    });
    world.detach();
}

/// On the polling thread nobody could announce what is waited for.
#[test]
fn a_subscriber_does_not_wait_inside_a_message() {
    let mut world = World::new();
    let subscription = world.ctrlr.0.hub.subscribe();
    let waits = Message::call(move |_| u64::from(subscription.wait(Duration::MAX).is_some()));
    let ticket = world.poller.send(waits).expect("seated");
    world.run("answered", |_| ticket.is_ready());
    assert!(matches!(ticket.try_take().expect("ready"), Outcome::Completed(Reply::Called(0))));
    world.detach();
}

/// Of a flood that nobody reads, the count stays at the most that it can say, and what it counts stays what it was.
#[test]
fn a_count_of_events_that_is_full_stays_full() {
    use std::sync::atomic::Ordering::Relaxed;
    let world = World::new();
    let hub = &world.ctrlr.0.hub;
    let subscription = hub.subscribe();
    let event = AsyncEvent::new().with_aet(1).with_lid(2);
    hub.announce(event);
    let inbox = hub.subscribers.load()[0].upgrade().expect("it is subscribed");
    inbox.0[0].fetch_add(u64::from(u32::MAX) - 2, Relaxed);
    for _ in 0..3 {
        hub.announce(event);
    }
    let report = subscription.next().expect("it has come");
    assert_eq!((report.event, report.count), (event, u32::MAX));
    assert_eq!(subscription.next(), None);
    world.detach();
}

#[test]
fn a_closure_sees_the_controller_as_it_is() {
    let mut world = World::new();
    let (say, heard) = std::sync::mpsc::channel();
    let look = Message::call(move |turn| {
        say.send((turn.state(), turn.namespaces(), turn.statistics())).expect("heard");
        0
    });
    world.run("something is counted", |world| world.ctrlr.statistics().completions > 0);
    let (namespaces, statistics) = (world.ctrlr.namespaces(), world.ctrlr.statistics());
    assert_eq!(namespaces.len(), 1);
    drop(world.poller.send(look).expect("seated"));
    assert_eq!(heard.recv().expect("it has run"), (CtrlrState::Live, namespaces, statistics));
    world.detach();
}

/// What a closure sends is executed like any other message, and its answer comes on the polling thread.
#[test]
fn a_closure_may_send_messages() {
    let mut world = World::new();
    let (say, heard) = std::sync::mpsc::channel();
    let sends = Message::call(move |turn| {
        turn.send(Message::call(|_| 7), move |outcome| say.send(outcome).expect("heard"));
        0
    });
    drop(world.poller.send(sends).expect("seated"));
    let mut answer = None;
    world.run("answered", |_| {
        answer = answer.take().or(heard.try_recv().ok());
        answer.is_some()
    });
    let answer = answer.expect("it is");
    assert!(matches!(answer, Outcome::Completed(Reply::Called(7))), "{answer:?}");
    world.detach();
}
