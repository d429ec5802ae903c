//! The driver on media that are slow, fail or are under load: timeouts, aborts and resets while QEMU's controller has commands in flight. Every request has its one
//! outcome, and every block holds what was acknowledged.
//!
//! QEMU 7.2 crashes when it is reset while it takes up what a doorbell has just announced (docs/TESTING.md). So what is in flight at a reset has been for
//! a while, on media that take their time, and no submission queue's doorbell is rung just before.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::driver::attach_with;
use crate::inside::{Inside, note, pci};
use slipring::ctrlr::{
    ControllerEvent, Ctrlr, CtrlrOptions, CtrlrState, EventAnswer, Message, OnEvent, Reply, TimeoutAction,
    Timeouts,
};
use slipring::dma::DmaSlice;
use slipring::poller::{IoCompletion, Poller, QpairOptions, QueuePair};
use slipring::ring::{AbortReason, Aborted, LockFree, Outcome, Ticket};
use slipring::spec::command::{Command, NvmOpcode};
use slipring::spec::registers::{CAP, CSTS, Csts};
use slipring::spec::status::Status;
use slipring::transport::Transport as _;
use slipring::transport::vfio::VfioTransport;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Of the slow namespace, for each command.
const LATENCY: Duration = Duration::from_secs(2);
/// For what never takes long unless something hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// A sleep that an interrupt ends, or the test has failed.
const LONG: Duration = Duration::from_secs(120);
/// What the kernel says of a device that was reset behind its back.
const RESTORED: &str = "vfio_bar_restore: reset recovery - restoring BARs";
const DEPTH: u64 = 12;
const BYTES: usize = 4096;
/// How long QEMU may take to start what a doorbell announces.
const SETTLING: Duration = Duration::from_millis(300);
const RESETS: u64 = 10;
/// Operations a second of the medium under load: a round's take three seconds.
const IOPS: u32 = 5;
/// The time of a command here, and of its Abort, where it is over long before the medium is done.
const SHORT: Duration = Duration::from_millis(300);
/// Blocks of the faulty medium.
const UNREADABLE: [u64; 2] = [2, 5];
const UNWRITABLE: u64 = 7;
const ONCE_UNREADABLE: u64 = 9;
const ONCE_UNWRITABLE: u64 = 10;
/// How often a command that fails is sent again.
const RETRIES: u8 = 2;
/// Until a busy machine has let a command be late before it was done.
const ATTEMPTS: usize = 5;

pub fn group() -> Group {
    let test = |name, body| Test::new(name, body).deadline(400);
    Group::new("recovery")
        .controller(
            Controller::new("slow")
                .namespace(Namespace::new(1, Media::disk(16)))
                .namespace(Namespace::new(2, Media::slow(16, LATENCY))),
        )
        .controller(Controller::new("busy").namespace(Namespace::new(1, Media::disk(16))))
        .controller(Controller::new("faulty").namespace(Namespace::new(1, faulty())))
        .test(test("late_commands_that_no_abort_ends_have_their_answers", late_and_patient))
        .test(test("late_commands_are_ended_by_a_reset", late_and_reset))
        .test(test("medium_errors_are_the_devices_word_and_spoil_nothing_else", medium_errors))
        .test(
            test("what_a_reset_of_the_device_takes_from_its_bus_is_restored", restored)
                .allow_log(&[RESTORED]),
        )
        .test(test("ten_resets_under_load_lose_nothing", ten_resets))
}

/// A disk of which two blocks can not be read, and one not be written, ever; and two that fail once.
fn faulty() -> Media {
    let of = |block: u64| block * 8 + 3;
    let media = Media::disk(16).error_at("write", of(UNWRITABLE)).error_once_at("write", of(ONCE_UNWRITABLE));
    let media = media.error_once_at("read", of(ONCE_UNREADABLE));
    UNREADABLE.into_iter().fold(media, |media, block| media.error_at("read", of(block)))
}

/// A controller at work, all on this thread.
struct Rig {
    ctrlr: Ctrlr<LockFree>,
    poller: Poller<LockFree>,
    qpair: QueuePair,
    told: Arc<Mutex<Vec<ControllerEvent>>>,
    /// Requests of the queue pair that have come back.
    back: Vec<IoCompletion>,
}

impl Rig {
    fn attach(inside: &Inside, id: &str, timeouts: &Timeouts, retries: u8) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let on_event = OnEvent::new(move |event| {
            tell.lock().expect("nobody panics with it").push(event.clone());
            EventAnswer::Proceed
        });
        // A queue that is deleted, or a controller that is stopped, waits for the medium; and a busy host for much else.
        let options = CtrlrOptions {
            timeouts: Timeouts { resets_per_minute: 100, ..timeouts.clone() },
            admin_timeout: DEADLINE,
            retries,
            on_event: Some(on_event),
            ..CtrlrOptions::default()
        };
        let ctrlr = attach_with(inside, id, options);
        let mut poller = Poller::new(&ctrlr, "guest").expect("free");
        let qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
        Self { ctrlr, poller, qpair, told, back: Vec::new() }
    }

    /// Polls until there is something.
    fn until<T>(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            self.poller.poll(Instant::now()).expect("well");
            let back = &mut self.back;
            self.qpair.poll(DEPTH as usize, |io| back.push(io)).expect("well");
            if let Some(found) = ready(self) {
                return found;
            }
            assert!(begun.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}; told: {:?}", self.told);
        }
    }

    /// Polls for so long, and submits nothing.
    fn pass(&mut self, time: Duration) {
        let begun = Instant::now();
        self.until("time passes", |_| (begun.elapsed() >= time).then_some(()));
    }

    fn buffer(&self, fill: &[u8]) -> DmaSlice {
        let buffer = self.ctrlr.allocate(BYTES).expect("memory");
        buffer.write_at(0, fill);
        buffer.into()
    }

    /// Submits a read or write of the block of that number, which is the request's token as well.
    fn submit(&mut self, nsid: u32, block: u64, write: Option<&[u8]>) {
        let namespaces = self.ctrlr.namespaces();
        let namespace = namespaces.iter().find(|namespace| namespace.nsid == nsid).expect("it is there");
        let (lba, data) = (block * 8, self.buffer(write.unwrap_or(&[0xee; BYTES])));
        let submitted = match write {
            Some(_) => self.qpair.write(namespace, lba, data, block),
            None => self.qpair.read(namespace, lba, data, block),
        };
        submitted.expect("there is room");
        self.qpair.commit();
    }

    /// So many requests that have come back, by their tokens. None comes back twice, or is another one.
    fn take(&mut self, count: u64) -> Vec<IoCompletion> {
        self.until("all requests come back", |rig| (rig.back.len() as u64 >= count).then_some(()));
        let mut back = std::mem::take(&mut self.back);
        back.sort_by_key(|io| io.token);
        let tokens: Vec<_> = back.iter().map(|io| io.token).collect();
        assert_eq!(tokens, (0..count).collect::<Vec<_>>(), "one outcome each");
        assert!(back.iter().all(|io| io.data.is_some()), "with its buffer");
        back
    }

    /// What blocks 0 to `count` of a namespace hold.
    fn read_all(&mut self, nsid: u32, count: u64) -> Vec<Vec<u8>> {
        (0..count).for_each(|block| self.submit(nsid, block, None));
        self.take(count)
            .into_iter()
            .map(|io| {
                assert!(io.is_success(), "{:?}", io.outcome);
                bytes(io.data.as_ref())
            })
            .collect()
    }

    /// Waits for the outcome of a message.
    fn outcome(&mut self, ticket: Ticket<Reply>) -> Outcome<Reply> {
        self.until("a message is answered", |_| ticket.is_ready().then_some(()));
        ticket.try_take().expect("ready")
    }

    /// Waits for the end of a reset, whoever began it.
    fn settle(&mut self) {
        self.until("live and connected", |rig| {
            (rig.ctrlr.state() == CtrlrState::Live && rig.qpair.is_connected()).then_some(())
        });
    }

    fn send_read(&mut self, nsid: u32, block: u64) -> Ticket<Reply> {
        let data = Some(Box::new(self.buffer(&[0xee; BYTES])));
        let command = Command::read(nsid, block * 8, 8);
        self.poller.send(Message::Io { command, data }).expect("running")
    }

    fn resets(&self) -> u64 {
        self.ctrlr.statistics().resets.into()
    }

    /// Commands that were sent again, of the queue pair and of messages.
    fn retries(&self) -> u64 {
        self.qpair.statistics().retries + self.ctrlr.statistics().retries
    }

    fn late_reads(&self) -> u64 {
        let is_read = |event: &&ControllerEvent| matches!(event, ControllerEvent::TimedOut { opcode, .. } if *opcode == NvmOpcode::READ.0);
        self.told.lock().expect("nobody panics with it").iter().filter(is_read).count() as u64
    }

    fn finish(self) {
        let Self { ctrlr, poller, qpair, .. } = self;
        drop(qpair);
        poller.detach(DEADLINE).expect("detached");
        assert_eq!(ctrlr.state(), CtrlrState::Detached);
    }
}

fn bytes(data: Option<&DmaSlice>) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    data.expect("it came back").buffer().read_at(0, &mut bytes);
    bytes
}

/// Bytes that differ from block to block and from round to round.
fn pattern(block: u64, round: u64) -> Vec<u8> {
    let seed = (block << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..BYTES as u64).map(|at| ((at + 1).wrapping_mul(seed | 1) >> 29) as u8).collect()
}

fn status(io: &IoCompletion) -> Status {
    match &io.outcome {
        Outcome::Completed(completion) => completion.status().without_dnr(),
        Outcome::Aborted(aborted) => panic!("block {}: {aborted}", io.token),
    }
}

fn is_reset<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Outcome::Aborted(aborted) if *aborted == Aborted::maybe_executed(AbortReason::Reset))
}

fn is_read(outcome: &Outcome<Reply>) -> bool {
    matches!(outcome, Outcome::Completed(Reply::Command { status, .. }) if status.is_success())
}

/// QEMU aborts nothing: with time enough for an Abort, late commands have their own answers, and others are not held up.
fn late_and_patient(inside: &Inside) {
    let timeouts = Timeouts { io: SHORT, abort: DEADLINE, ..Timeouts::default() };
    let mut rig = Rig::attach(inside, "slow", &timeouts, 0);
    let begun = Instant::now();
    (0..DEPTH).for_each(|block| rig.submit(2, block, None));
    let message = rig.send_read(2, 0);
    let back = rig.take(DEPTH);
    assert!(begun.elapsed() >= LATENCY, "{:?}", begun.elapsed());
    for io in back {
        assert!(io.is_success() && bytes(io.data.as_ref()) == [0; BYTES], "{:?}", io.outcome);
    }
    let outcome = rig.outcome(message);
    assert!(is_read(&outcome), "{outcome:?}");
    let late = rig.late_reads();
    note(&format!("{late} of {} reads were found late", DEPTH + 1));
    assert!((1..=DEPTH + 1).contains(&late), "each is told of once: {:?}", rig.told);
    assert_eq!(rig.resets(), 0);
    (0..DEPTH).for_each(|block| rig.submit(1, block, Some(&pattern(block, 1))));
    assert!(rig.take(DEPTH).iter().all(IoCompletion::is_success), "the other namespace is well");
    let held = rig.read_all(1, DEPTH);
    assert!((0..).zip(&held).all(|(block, held)| *held == pattern(block, 1)), "with the right data");
    rig.finish();
}

/// Where neither the embedder nor the Abort has more patience, a reset ends them: each is aborted, once, and the controller is well again.
fn late_and_reset(inside: &Inside) {
    for action in [TimeoutAction::Abort, TimeoutAction::Reset] {
        let timeouts = Timeouts { io: SHORT, abort: SHORT, action, ..Timeouts::default() };
        let mut rig = Rig::attach(inside, "slow", &timeouts, 0);
        let (mut attempts, mut aborted) = (0, 0);
        while aborted == 0 {
            attempts += 1;
            assert!(attempts <= ATTEMPTS, "{action:?}: no read is found late that takes {LATENCY:?}");
            (0..DEPTH).for_each(|block| rig.submit(2, block, None));
            let message = rig.send_read(2, 0);
            for io in rig.take(DEPTH) {
                assert!(io.is_success() || is_reset(&io.outcome), "{:?}", io.outcome);
                aborted += u64::from(is_reset(&io.outcome));
            }
            let outcome = rig.outcome(message);
            assert!(is_read(&outcome) || is_reset(&outcome), "{outcome:?}");
            rig.settle();
        }
        let (late, resets) = (rig.late_reads(), rig.resets());
        note(&format!(
            "{action:?}: {late} late, {aborted} aborted by {resets} resets, in {attempts} attempts"
        ));
        assert!(late > 0 && resets > 0);
        let recovering = |event: &ControllerEvent| matches!(event, ControllerEvent::Recovering(_));
        assert!(rig.told.lock().expect("nobody panics with it").iter().any(recovering));
        // What was written before is there, and what is written now.
        (0..DEPTH).for_each(|block| rig.submit(1, block, Some(&pattern(block, 2))));
        assert!(rig.take(DEPTH).iter().all(IoCompletion::is_success));
        let held = rig.read_all(1, DEPTH);
        assert!((0..).zip(&held).all(|(block, held)| *held == pattern(block, 2)), "with the right data");
        rig.finish();
    }
}

/// Blocks that the medium will not take or give, between others: their errors come back as such after all retries, with their buffers, before a reset and after it,
/// and the others' data are right. What fails once, a retry mends.
fn medium_errors(inside: &Inside) {
    let mut rig = Rig::attach(inside, "faulty", &Timeouts::default(), RETRIES);
    let mut retries = 2;
    for round in 1..=2 {
        (0..DEPTH).for_each(|block| rig.submit(1, block, Some(&pattern(block, round))));
        for io in rig.take(DEPTH) {
            let expected = if io.token == UNWRITABLE { Status::WRITE_FAULT } else { Status::SUCCESS };
            assert_eq!(status(&io), expected, "round {round}, write of block {}", io.token);
        }
        (0..DEPTH).for_each(|block| rig.submit(1, block, None));
        for io in rig.take(DEPTH) {
            let block = io.token;
            if UNREADABLE.contains(&block) {
                assert_eq!(status(&io), Status::UNRECOVERED_READ_ERROR, "round {round}, block {block}");
                continue;
            }
            assert_eq!(status(&io), Status::SUCCESS, "round {round}, read of block {block}");
            let held = if block == UNWRITABLE { vec![0; BYTES] } else { pattern(block, round) };
            assert!(bytes(io.data.as_ref()) == held, "round {round}, block {block} holds something else");
        }
        let message = rig.send_read(1, UNREADABLE[0]);
        let outcome = rig.outcome(message);
        let Outcome::Completed(Reply::Command { status, data: Some(_), .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(status.without_dnr(), Status::UNRECOVERED_READ_ERROR, "round {round}, by message");
        // One write, two reads and a message that fail for good; in the first round, what failed once.
        retries += 4 * u64::from(RETRIES);
        assert_eq!(rig.retries(), retries, "round {round}");
        let reset = rig.ctrlr.reset().expect("asked for");
        rig.until("the reset is over", |_| reset.is_over()).expect("well");
        rig.settle();
    }
    rig.finish();
}

/// QEMU 7.2 has no NVM subsystem reset. But this is what one leaves of the bus, and how a driver that waits for interrupts gets on after it was restored.
fn restored(inside: &Inside) {
    let address = inside.address("busy");
    pci::bind(&address, "vfio-pci");
    let transport = VfioTransport::open(address.parse().expect("an address")).expect("opened");
    // Nobody looks at the controller while it cannot be read.
    let options = CtrlrOptions { interrupts: true, watch_period: LONG, ..CtrlrOptions::default() };
    let ctrlr: Ctrlr<LockFree> = Ctrlr::attach(transport.clone(), options).expect("attached");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    assert!(qpair.interrupt_descriptor().is_some());
    let namespace = ctrlr.namespaces()[0];
    for round in 0..3 {
        let begun = Instant::now();
        let data = ctrlr.allocate(BYTES).expect("memory").into();
        qpair.read(&namespace, 0, data, round).expect("submitted");
        let mut back = 0;
        while back == 0 {
            // Only an interrupt ends it in time.
            qpair.wait(LONG);
            back = qpair.poll(1, |io| assert!(io.is_success(), "{:?}", io.outcome)).expect("well");
        }
        assert!(begun.elapsed() < LONG, "round {round}: it was not slept through");
        pci::forget_configuration(&address);
        // QEMU gives zero where nothing answers, hardware all ones.
        assert!([0, u64::MAX].contains(&transport.read_u64(CAP)), "nothing is decoded");
        transport.restore().expect("the device is there");
        assert!(Csts::from_bits(transport.read_u32(CSTS)).rdy(), "round {round}");
    }
    drop(qpair);
    poller.detach(DEADLINE).expect("detached");
}

/// Ten resets with writes in flight: each write has its one outcome; those that succeeded are on the medium, those that were aborted are there or not, but
/// whole; messages that are sent during a reset wait for its end.
fn ten_resets(inside: &Inside) {
    let mut rig = Rig::attach(inside, "busy", &Timeouts::default(), 0);
    let throttle = |iops| inside.throttle(&inside.namespace_id("busy", 1), iops);
    (0..DEPTH).for_each(|block| rig.submit(1, block, Some(&pattern(block, 0))));
    assert!(rig.take(DEPTH).iter().all(IoCompletion::is_success));
    let mut before: Vec<_> = (0..DEPTH).map(|block| pattern(block, 0)).collect();
    let (mut aborted, mut executed) = (0, 0);
    for round in 1..=RESETS {
        throttle(IOPS);
        (0..DEPTH).for_each(|block| rig.submit(1, block, Some(&pattern(block, round))));
        let in_flight: Vec<_> = (0..3).map(|block| rig.send_read(1, 100 + block)).collect();
        rig.pass(SETTLING);
        let reset = rig.ctrlr.reset().expect("asked for");
        let waiting: Vec<_> = (0..3).map(|_| rig.poller.send(Message::Rescan).expect("running")).collect();
        rig.until("the reset is over", |_| reset.is_over()).expect("well");
        let back = rig.take(DEPTH);
        for ticket in in_flight {
            let outcome = rig.outcome(ticket);
            assert!(is_read(&outcome) || is_reset(&outcome), "{outcome:?}");
        }
        for ticket in waiting {
            let outcome = rig.outcome(ticket);
            assert!(matches!(outcome, Outcome::Completed(Reply::Rescanned)), "{outcome:?}");
        }
        rig.settle();
        throttle(0);
        let held = rig.read_all(1, DEPTH);
        for (block, (io, held)) in (0..).zip(back.iter().zip(&held)) {
            let (new, old) = (pattern(block, round), &before[block as usize]);
            let is_there = *held == new;
            if is_reset(&io.outcome) {
                aborted += 1;
                executed += u64::from(is_there);
                assert!(is_there || held == old, "round {round}, block {block} is neither old nor new");
            } else {
                assert!(io.is_success(), "{:?}", io.outcome);
                assert!(is_there, "round {round}, block {block} was acknowledged, and is not there");
            }
        }
        before = held;
    }
    note(&format!("{aborted} of {} writes were aborted, {executed} of these executed", DEPTH * RESETS));
    assert!(aborted > 0, "there was load");
    assert_eq!(rig.resets(), RESETS);
    rig.finish();
}
