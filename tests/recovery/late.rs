//! Commands that take too long, and what is done about them.

use crate::world::{World, config, io_status, is_status, ms, timeouts};
use slipring::ctrlr::{
    ControllerEvent, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, Reply, TimeoutAction, Timeouts,
    admin,
};
use slipring::emulated::Config;
use slipring::ring::{AbortReason, Aborted, Mailbox, Outcome, Pending};
use slipring::spec::command::{AdminOpcode, Command, NvmOpcode};
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An eighth of the shortest timeout is how often is looked: late by two looks, and the steps of the test.
const SLACK: Duration = Duration::from_millis(12);

fn timed_out(told: &[ControllerEvent]) -> Vec<(u16, u8)> {
    let of = |event: &ControllerEvent| match event {
        ControllerEvent::TimedOut { qid, opcode, .. } => Some((*qid, *opcode)),
        _ => None,
    };
    told.iter().filter_map(of).collect()
}

fn resets(told: &[ControllerEvent]) -> usize {
    told.iter().filter(|event| matches!(event, ControllerEvent::Recovering(_))).count()
}

#[test]
fn a_message_that_hangs_is_aborted_in_its_time_and_its_data_come_back() {
    let mut world = World::new("hang opcode=read nth=1", timeouts());
    let (hung, well) = (world.send_read(0), world.send_read(1));
    assert!(is_status(&world.outcome(well).0, Status::SUCCESS), "others are not touched");
    let (outcome, took) = world.outcome(hung);
    assert!(is_status(&outcome, Status::ABORTED_BY_REQUEST), "{outcome:?}");
    let Outcome::Completed(Reply::Command { data, .. }) = outcome else { panic!("not its answer") };
    assert_eq!(data.expect("its data").len(), 512);
    assert!((ms(79)..ms(80) + SLACK).contains(&took), "{took:?}");
    assert_eq!(timed_out(&world.told()), [(1, NvmOpcode::READ.0)]);
    assert_eq!(world.ctrlr.statistics().resets, 0);
    world.finish();
}

#[test]
fn a_request_of_a_queue_pair_that_hangs_is_aborted_in_its_time() {
    let mut world = World::new("hang queue=2 opcode=read nth=2..3", timeouts());
    let mut qpair = world.queue_pair();
    world.pass(ms(50));
    for lba in 0..5 {
        world.read(&mut qpair, lba);
    }
    let (back, took) = world.back(&mut qpair, 5);
    let statuses: Vec<_> = back.iter().map(io_status).collect();
    let (ok, aborted) = (Status::SUCCESS, Status::ABORTED_BY_REQUEST);
    assert_eq!(statuses, [ok, aborted, aborted, ok, ok]);
    assert!(back.iter().all(|completion| completion.data.is_some()), "with their data");
    assert!((ms(79)..ms(80) + SLACK).contains(&took), "{took:?}");
    assert_eq!(timed_out(&world.told()), [(qpair.qid(), NvmOpcode::READ.0); 2]);
    assert_eq!(world.ctrlr.statistics().resets, 0);
    drop(qpair);
    world.finish();
}

/// The device says that it cannot abort what it has lost: then a reset ends it.
#[test]
fn what_cannot_be_aborted_is_ended_by_a_reset() {
    for queue_pair in [false, true] {
        let mut world = World::new("drop opcode=read nth=1", timeouts());
        let mut qpair = world.queue_pair();
        let took = if queue_pair {
            world.read(&mut qpair, 0);
            let (mut back, took) = world.back(&mut qpair, 1);
            let completion = back.pop().expect("one");
            let Outcome::Aborted(aborted) = completion.outcome else { panic!("{completion:?}") };
            assert_eq!(aborted, Aborted::maybe_executed(AbortReason::Reset));
            assert!(completion.data.is_some());
            took
        } else {
            let ticket = world.send_read(0);
            let (outcome, took) = world.outcome(ticket);
            let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
            assert_eq!(aborted, Aborted::maybe_executed(AbortReason::Reset));
            took
        };
        assert!((ms(119)..ms(120) + 2 * SLACK).contains(&took), "80 ms, and 40 for the Abort: {took:?}");
        assert_eq!((timed_out(&world.told()).len(), resets(&world.told())), (1, 1));
        world.run("connected again", |world| {
            qpair.poll(1, |_| ()).expect("well");
            world.ctrlr.state() == CtrlrState::Live && qpair.is_connected()
        });
        assert!(world.works());
        drop(qpair);
        world.finish();
    }
}

#[test]
fn an_abort_that_hangs_is_given_up_in_its_own_time() {
    let faults = "hang opcode=read nth=1..2\nhang queue=admin opcode=0x08 nth=1";
    let one_at_a_time = Config { aborts: 1, ..config(faults) };
    let mut world = World::with(one_at_a_time, timeouts(), EventAnswer::Proceed);
    let ticket = world.send_read(0);
    let (outcome, took) = world.outcome(ticket);
    assert!(matches!(outcome, Outcome::Aborted(Aborted { reason: AbortReason::Reset, .. })), "{outcome:?}");
    assert!((ms(119)..ms(120) + 2 * SLACK).contains(&took), "{took:?}");
    world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
    // It ended with the reset: there is room for the next one at the controller.
    let ticket = world.send_read(0);
    let (outcome, _) = world.outcome(ticket);
    assert!(is_status(&outcome, Status::ABORTED_BY_REQUEST), "{outcome:?}");
    assert!(world.works());
    world.finish();
}

/// Ten commands hang, and the controller takes one Abort at a time, each of which takes 5 ms: none is refused for being one too many.
#[test]
fn no_more_aborts_are_sent_than_the_controller_takes() {
    let faults = "hang opcode=read nth=1..10\ndelay=5ms queue=admin opcode=0x08";
    let long = Timeouts { abort: ms(200), ..timeouts() };
    let config = Config { aborts: 1, ..config(faults) };
    let mut world = World::with(config, long, EventAnswer::Proceed);
    let mut qpair = world.queue_pair();
    for lba in 0..10 {
        world.read(&mut qpair, lba);
    }
    let (back, _) = world.back(&mut qpair, 10);
    assert!(back.iter().all(|completion| io_status(completion) == Status::ABORTED_BY_REQUEST), "{back:?}");
    let call = world.poller.start_call(admin::log_page(LogId::ERROR, u32::MAX, 64 * 16, 0)).expect("running");
    world.run("the error log", |_| call.is_ready());
    let entries = call.wait(Duration::ZERO).expect("answered");
    // Status field of each entry: bits 15:1 of bytes 12 and 13.
    let statuses: Vec<_> =
        entries.chunks(64).map(|entry| u16::from_le_bytes([entry[12], entry[13]]) >> 1).collect();
    assert!(statuses.contains(&Status::ABORTED_BY_REQUEST.0), "the log is the right one: {statuses:x?}");
    assert!(!statuses.contains(&Status::ABORT_LIMIT_EXCEEDED.0), "{statuses:x?}");
    assert_eq!(world.ctrlr.statistics().resets, 0);
    drop(qpair);
    world.finish();
}

/// Eight commands hang, and each Abort takes 20 ms: as many at a time as the controller takes, up to four.
#[test]
fn as_many_aborts_are_sent_at_a_time_as_the_controller_takes() {
    for (aborts, at_a_time) in [(1, 1), (2, 2), (4, 4), (256, 4)] {
        let faults = "hang opcode=read nth=1..8\ndelay=20ms queue=admin opcode=0x08";
        let long = Timeouts { abort: ms(400), ..timeouts() };
        let mut world = World::with(Config { aborts, ..config(faults) }, long, EventAnswer::Proceed);
        let mut qpair = world.queue_pair();
        for lba in 0..8 {
            world.read(&mut qpair, lba);
        }
        let (back, took) = world.back(&mut qpair, 8);
        assert!(back.iter().all(|completion| io_status(completion) == Status::ABORTED_BY_REQUEST));
        let least = ms(79) + ms(20) * 8 / at_a_time;
        // Each round of them begins when the last one's answer is seen.
        assert!((least..least + SLACK + 8 * ms(1)).contains(&took), "{aborts}: {took:?} and not {least:?}");
        drop(qpair);
        world.finish();
    }
}

/// A message may be an Abort as well: the driver's own wait until it is answered, where the controller takes one at a time.
#[test]
fn aborts_that_are_messages_count_too() {
    let faults = "hang opcode=read nth=1\ndelay=40ms queue=admin opcode=0x08";
    let long = Timeouts { abort: ms(200), ..timeouts() };
    let config = Config { aborts: 1, ..config(faults) };
    let mut world = World::with(config, long, EventAnswer::Proceed);
    let hung = world.send_read(0);
    world.pass(ms(70));
    let command = Command::abort(1, 0x7777);
    let raw = world.poller.send(Message::Admin { command, data: None }).expect("running");
    world.run("the hung one is late", |world| !timed_out(&world.told()).is_empty());
    assert!(!raw.is_ready(), "the message is still at the controller");
    assert!(is_status(&world.outcome(raw).0, Status::SUCCESS), "not aborted, says its result");
    assert!(is_status(&world.outcome(hung).0, Status::ABORTED_BY_REQUEST));
    let call = world.poller.start_call(admin::log_page(LogId::ERROR, u32::MAX, 64 * 16, 0)).expect("running");
    world.run("the error log", |_| call.is_ready());
    let entries = call.wait(Duration::ZERO).expect("answered");
    let statuses: Vec<_> =
        entries.chunks(64).map(|entry| u16::from_le_bytes([entry[12], entry[13]]) >> 1).collect();
    assert!(!statuses.contains(&Status::ABORT_LIMIT_EXCEEDED.0), "{statuses:x?}");
    assert_eq!(world.ctrlr.statistics().resets, 0);
    world.finish();
}

#[test]
fn an_embedder_that_only_wants_to_know_is_told_each_time() {
    let report = Timeouts { action: TimeoutAction::Report, ..timeouts() };
    let configured = [(report, EventAnswer::Proceed), (timeouts(), EventAnswer::Object)];
    for (timeouts, answer) in configured {
        let mut world = World::with(config("hang opcode=read nth=1..2"), timeouts, answer);
        let mut qpair = world.queue_pair();
        world.read(&mut qpair, 0);
        let ticket = world.send_read(1);
        let begun = world.now;
        while world.now - begun < ms(300) {
            let _ = world.step();
            qpair.poll(1, |_| panic!("it hangs")).expect("well");
        }
        let mut told = timed_out(&world.told());
        told.sort_unstable();
        let read = NvmOpcode::READ.0;
        assert_eq!(
            told,
            [(1, read), (1, read), (1, read), (2, read), (2, read), (2, read)],
            "at 80, 160 and 240 ms"
        );
        assert!(!ticket.is_ready());
        assert_eq!(world.ctrlr.statistics().resets, 0);
        drop(qpair);
        world.finish();
        assert!(ticket.is_ready());
    }
}

#[test]
fn a_policy_may_be_to_reset_at_once() {
    let reset = Timeouts { action: TimeoutAction::Reset, resets_per_minute: 1, ..timeouts() };
    let mut world = World::new("hang opcode=read nth=1..2", reset);
    for ticket in [world.send_read(0), world.send_read(1)] {
        let (outcome, took) = world.outcome(ticket);
        let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
        assert_eq!(aborted.reason, AbortReason::Reset);
        assert!(took < ms(80) + 2 * SLACK, "{took:?}");
    }
    world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
    assert_eq!((resets(&world.told()), world.ctrlr.statistics().resets), (1, 1), "one for both");
    world.finish();
}

/// A sender may have less time than the controller's own: when it says that it is over, the rest follows as if the driver had found out.
#[test]
fn a_senders_own_time_is_followed_by_what_would_follow_the_drivers() {
    let report = Timeouts { action: TimeoutAction::Report, ..timeouts() };
    let reset = Timeouts { action: TimeoutAction::Reset, ..timeouts() };
    let proceed = EventAnswer::Proceed;
    for (faults, timeouts, answer, is_ending, resets_made) in [
        ("hang opcode=read nth=1", timeouts(), proceed, 1, 0),
        ("drop opcode=read nth=1", timeouts(), proceed, 1, 1),
        ("hang opcode=read nth=1", reset, proceed, 1, 1),
        ("hang opcode=read nth=1", report, proceed, 0, 0),
        ("hang opcode=read nth=1", timeouts(), EventAnswer::Object, 0, 0),
    ] {
        let mut world = World::with(config(faults), timeouts, answer);
        let producer = world.ctrlr.register("impatient").expect("registered");
        let mut mailbox = Mailbox::new(8);
        let read = |lba| {
            let data = producer.allocate(512).expect("memory");
            Message::Io { command: Command::read(1, lba, 1), data: Some(Box::new(data.into())) }
        };
        producer.send_to(&mut mailbox, 1, read(0)).expect("sent");
        world.pass(ms(10));
        // Said twice, of one that is not known, and of one of another mailbox.
        let (ours, theirs) = (mailbox.id(), Mailbox::<Reply>::new(1).id());
        for (token, mailbox_id, of) in [(2, ours, 1), (3, ours, 1), (4, ours, 77), (5, theirs, 1)] {
            let message = Message::TimedOut { mailbox: mailbox_id, token: of };
            producer.send_to(&mut mailbox, token, message).expect("sent");
        }
        let (begun, mut outcomes) = (world.now, BTreeMap::new());
        world.run("all that will be answered is", |_| {
            mailbox.receive(|token, outcome| drop(outcomes.insert(token, outcome)));
            outcomes.len() == 4 + is_ending as usize
        });
        let took = world.now - begun;
        for (token, expected) in [(2, is_ending), (3, is_ending), (4, 0), (5, 0)] {
            let outcome = &outcomes[&token];
            let Outcome::Completed(Reply::Called(value)) = outcome else { panic!("{token}: {outcome:?}") };
            assert_eq!(*value, expected, "{token}: {faults}, {answer:?}");
        }
        match outcomes.get(&1) {
            Some(outcome) if resets_made == 0 => assert!(is_status(outcome, Status::ABORTED_BY_REQUEST)),
            Some(outcome) => {
                let Outcome::Aborted(aborted) = outcome else { panic!("{outcome:?}") };
                assert_eq!(*aborted, Aborted::maybe_executed(AbortReason::Reset));
            }
            None => assert_eq!(is_ending, 0),
        }
        assert!(took < ms(40) + 2 * SLACK, "long before its time by the driver, of 80 ms: {took:?}");
        let told = timed_out(&world.told());
        // Whoever is told and leaves it alone is told again.
        assert_eq!(told, vec![(1, NvmOpcode::READ.0); if is_ending == 1 { 1 } else { 2 }]);
        assert_eq!(resets(&world.told()), resets_made);
        world.run("live", |world| world.ctrlr.state() == CtrlrState::Live);
        assert!(world.works());
        world.finish();
        mailbox.receive(|token, outcome| {
            assert!(token == 1 && is_ending == 0 && matches!(outcome, Outcome::Aborted(_)));
        });
        assert_eq!(mailbox.in_flight(), 0, "one outcome each");
    }
}

/// Each kind of admin command has its own time.
#[test]
fn admin_commands_have_their_own_times_and_slow_ones_longer() {
    let mut world = World::new("hang opcode=get-log-page\nhang queue=admin opcode=0x80", timeouts());
    let smart = world.poller.start_call(admin::smart_log()).expect("running");
    let command = Command::format_nvm(1, 0, 0);
    let format = world.poller.send(Message::Admin { command, data: None }).expect("running");
    let took = world.run("SMART is aborted", |_| smart.is_ready());
    assert!((ms(159)..ms(160) + SLACK).contains(&took), "{took:?}");
    assert!(!format.is_ready());
    let (outcome, more) = world.outcome(format);
    assert!(is_status(&outcome, Status::ABORTED_BY_REQUEST), "{outcome:?}");
    assert!((ms(1599)..ms(1600) + SLACK).contains(&(took + more)), "{:?}", took + more);
    let told = timed_out(&world.told());
    assert_eq!(told, [(0, AdminOpcode::GET_LOG_PAGE.0), (0, AdminOpcode::FORMAT_NVM.0)]);
    world.finish();
}

/// A command of the driver's own that hangs: there is nobody to ask, and no use in an Abort.
#[test]
fn a_stuck_command_of_the_drivers_own_resets_the_controller() {
    // Attach asks for the controller, the list, the namespace and its descriptors; a rescan asks for the list again, the fifth.
    let mut world = World::new("hang opcode=identify nth=5", timeouts());
    let rescan = world.poller.send(Message::Rescan).expect("running");
    let took = world.run("reset", |world| world.ctrlr.statistics().resets == 1);
    assert!((ms(399)..ms(400) + 2 * SLACK).contains(&took), "admin_timeout: {took:?}");
    let (outcome, _) = world.outcome(rescan);
    assert!(
        matches!(outcome, Outcome::Completed(Reply::Rescanned)),
        "the reset reads them anyway: {outcome:?}"
    );
    let told = world.told();
    assert!(matches!(&told[..], [ControllerEvent::Recovering(Failure::Stuck { qid: 0, .. })]), "{told:?}");
    assert!(world.works());
    world.finish();
}

/// All times are counted on the clock that the caller polls by, whatever the machine's own says: it may be behind that, or ahead.
#[test]
fn the_callers_clock_is_the_only_one() {
    let hour = Duration::from_secs(3600);
    let clock = Instant::now();
    for begun in [clock.checked_sub(hour).expect("a clock of the system's"), clock + hour] {
        let options = || CtrlrOptions { timeouts: timeouts(), ..CtrlrOptions::default() };
        let hangs = config("hang opcode=read nth=1");
        let mut world = World::at(begun, hangs, options(), EventAnswer::Proceed);
        let ticket = world.send_read(0);
        let (outcome, took) = world.outcome(ticket);
        assert!(is_status(&outcome, Status::ABORTED_BY_REQUEST), "{outcome:?}");
        assert!((ms(79)..ms(80) + SLACK).contains(&took), "{took:?}");
        world.finish();
        // And the end: a device that does not shut down has half of what a detach may take, 8 s.
        let config = Config { shutdown_delay: hour, ..config("") };
        let took = World::at(begun, config, options(), EventAnswer::Proceed).detach();
        assert!((ms(4000)..ms(4100)).contains(&took), "{took:?}");
    }
}

/// Each command of the reading of the namespaces has its own time, at attach, in a reset and afterwards: all of them together may take longer.
#[test]
fn many_namespaces_may_take_longer_than_one_command() {
    let slow = Config {
        namespaces: vec![config("").namespaces[0].clone(); 16],
        ..config("delay=50ms queue=admin opcode=identify")
    };
    let mut world = World::with(slow, timeouts(), EventAnswer::Proceed);
    assert_eq!(world.ctrlr.namespaces().len(), 16);
    let reset = world.ctrlr.reset().expect("asked");
    let took = world.run("over", |_| reset.is_over().is_some());
    assert_eq!(reset.is_over(), Some(Ok(())));
    assert!(took > ms(400), "admin_timeout is of no use to this test: {took:?}");
    let rescan = world.poller.send(Message::Rescan).expect("running");
    assert!(matches!(world.outcome(rescan).0, Outcome::Completed(Reply::Rescanned)));
    assert_eq!(world.ctrlr.statistics().resets, 1);
    world.finish();
}

/// A polling thread that sleeps blames nobody: what the device answered meanwhile is not late, and what it did not answer has its time yet.
#[test]
fn a_pause_of_the_polling_thread_is_no_commands_fault() {
    let mut world = World::new("hang opcode=write nth=1", timeouts());
    let mut qpair = world.queue_pair();
    for lba in 0..5 {
        world.read(&mut qpair, lba);
    }
    let data = world.ctrlr.allocate(512).expect("memory").into();
    qpair.write(&world.ctrlr.namespaces()[0], 9, data, 9).expect("submitted");
    qpair.commit();
    let ticket = world.send_read(0);
    world.pass(ms(30));
    world.now += Duration::from_secs(3600);
    let (outcome, took) = world.outcome(ticket);
    assert!(is_status(&outcome, Status::SUCCESS) && took <= ms(1), "{outcome:?} {took:?}");
    let (back, _) = world.back(&mut qpair, 5);
    assert!(back.iter().all(|completion| io_status(completion) == Status::SUCCESS), "{back:?}");
    assert_eq!(timed_out(&world.told()), []);
    let (back, took) = world.back(&mut qpair, 1);
    assert_eq!(io_status(&back[0]), Status::ABORTED_BY_REQUEST);
    assert!(took >= ms(25), "{took:?}");
    drop(qpair);
    world.finish();
}

/// A caller whose deadline passes has a ticket, and its buffer stays with the device until that can no longer write to it.
#[test]
fn a_callers_deadline_gives_it_a_ticket_and_not_its_buffer() {
    let mut world = World::new("drop opcode=read nth=1", timeouts());
    let idle = world.ctrlr.dma_bytes().0;
    let ticket = world.send_read(0);
    let busy = world.ctrlr.dma_bytes().0;
    assert!(busy > idle);
    let Err(Pending(ticket)) = ticket.wait(Duration::ZERO) else { panic!("nobody answered it") };
    while world.ctrlr.state() == CtrlrState::Live {
        assert_eq!(world.ctrlr.dma_bytes().0, busy, "the device may write to it");
        let _ = world.step();
    }
    let (outcome, _) = world.outcome(ticket);
    assert!(matches!(outcome, Outcome::Aborted(Aborted { reason: AbortReason::Reset, .. })));
    assert_eq!(world.ctrlr.dma_bytes().0, idle, "the device has stopped: it is free");
    world.run("live again", |world| world.ctrlr.state() == CtrlrState::Live);
    world.finish();
}
