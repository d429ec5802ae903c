//! The driver while its controller is asked back, and while it is pulled out: ten times each, under I/O and with messages in flight, each followed by
//! another attach in the same process. And `slipring perf` in both cases.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media};
use crate::inside::{Inside, SLIPRING, note, open_vfio_devices, output, pci, wait_for};
use serde_json::Value;
use slipring::ctrlr::{
    AttachError, ControllerEvent, Ctrlr, CtrlrOptions, CtrlrState, EventAnswer, Failure, Message, OnEvent,
    Producer, Reply,
};
use slipring::dma::DmaSlice;
use slipring::poller::{IoCompletion, PollError, Poller, QpairError, QpairOptions, QueuePair};
use slipring::ring::{AbortReason, LockFree, Outcome, Ticket};
use slipring::spec::command::Command;
use slipring::transport::vfio::VfioTransport;
use std::fs;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TIMES: usize = 10;
const DEADLINE: Duration = Duration::from_secs(30);
const DEPTH: usize = 16;
/// Of the medium of the controller that is pulled out: what is submitted before is in flight then.
const LATENCY: Duration = Duration::from_millis(1500);
/// How long QEMU may take to start what a doorbell announces.
const SETTLING: Duration = Duration::from_millis(200);
/// What the kernel says of a device that goes while it is used.
const REMOVAL_CHATTER: &[&str] =
    &["vfio_bar_restore: reset recovery - restoring BARs", "Relaying device request to user"];

/// With ACPI's hot plug, which needs no 5 s for the button.
pub fn asked_back_group() -> Group {
    let test = Test::new("under_io_it_detaches_and_comes_back_ten_times", asked_back);
    Group::new("asked_back")
        .controller(Controller::new("nv0").serial("SER0000").media(Media::disk(64)))
        .test(test.deadline(300).allow_log(REMOVAL_CHATTER))
}

pub fn pulled_out_group() -> Group {
    let test = |name, body| Test::new(name, body).deadline(300).allow_log(REMOVAL_CHATTER);
    Group::new("pulled_out")
        .native_hotplug()
        .controller(Controller::new("nv0").serial("SER0000").media(Media::disk(64)))
        .controller(Controller::new("late").serial("SER0001").media(Media::slow(64, LATENCY)))
        .test(test("under_io_it_answers_everybody_and_comes_back_ten_times", pulled_out))
        .test(test("during_attach_it_says_so", pulled_out_during_attach))
        .test(test("perf_reports_what_ran", perf_pulled_out))
        .test(test("perf_reports_what_ran_when_it_is_asked_back_by_the_button", perf_asked_back))
}

/// What happened in one life of a controller. Relaxed: a flag, and counts that are read after all threads were joined.
#[derive(Default)]
struct Life {
    submitted: AtomicU64,
    returned: AtomicU64,
    removed: AtomicU64,
    asked: AtomicU64,
    failed: AtomicU64,
    /// The time to read has come.
    may_read: AtomicBool,
    /// The controller is gone: what is submitted now goes nowhere.
    is_pulled: AtomicBool,
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

fn get(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}

/// A controller at work, with a life to be told of.
fn attach(inside: &Inside, id: &str) -> (Ctrlr<LockFree>, Arc<Life>) {
    let address = inside.address(id);
    pci::bind(&address, "vfio-pci");
    let life = Arc::new(Life::default());
    let told = Arc::clone(&life);
    let on_event = OnEvent::new(move |event| {
        match event {
            ControllerEvent::RemoveRequested => add(&told.asked),
            ControllerEvent::Failed(Failure::Removed { .. }) => add(&told.failed),
            other => panic!("an event that nobody expects: {other:?}"),
        }
        EventAnswer::Proceed
    });
    let options = CtrlrOptions { on_event: Some(on_event), ..CtrlrOptions::default() };
    let transport = VfioTransport::open(address.parse().expect("an address")).expect("opened");
    (Ctrlr::attach(transport, options).expect("attached"), life)
}

/// Sends messages of the kind that needs nothing but the admin queue until the controller is no more, and sees that each is answered.
fn send_to_the_end(ctrlr: &Ctrlr<LockFree>, producer: &Producer<LockFree>, life: &Life) {
    let mut tickets = Vec::new();
    let begun = Instant::now();
    while !matches!(ctrlr.state(), CtrlrState::Failed | CtrlrState::Detached) {
        assert!(begun.elapsed() < DEADLINE, "the removal is noticed");
        match producer.send(Message::Rescan) {
            Ok(ticket) => tickets.push(ticket),
            Err(_) => break,
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    for ticket in tickets {
        if is_removed(&ticket.wait(DEADLINE).expect("every accepted message has an outcome")) {
            add(&life.removed);
        }
    }
}

fn is_removed<T>(outcome: &Outcome<T>) -> bool {
    matches!(outcome, Outcome::Aborted(aborted) if aborted.reason == AbortReason::Removed)
}

/// Reads on one queue pair, whose requests must all come back.
struct Reader<'a> {
    poller: Poller<LockFree>,
    qpair: QueuePair,
    idle: Vec<DmaSlice>,
    life: &'a Life,
    begun: Instant,
}

impl<'a> Reader<'a> {
    fn new(mut poller: Poller<LockFree>, life: &'a Life) -> Self {
        let qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
        let idle = (0..DEPTH).map(|_| DmaSlice::from(poller.allocate(4096).expect("memory"))).collect();
        Self { poller, qpair, idle, life, begun: Instant::now() }
    }

    /// Submits as much as there is memory for, unless that is refused.
    fn fill(&mut self) {
        let namespace = self.poller.ctrlr().namespaces()[0];
        while let Some(data) = self.idle.pop() {
            match self.qpair.read(&namespace, 0, data, 0) {
                Ok(()) => add(&self.life.submitted),
                Err(refused) => {
                    self.idle.extend(refused.data);
                    return;
                }
            }
        }
        self.qpair.commit();
    }

    /// Polls the queue pair, then the controller: what the one and the other say.
    fn poll(&mut self) -> (Result<usize, QpairError>, Result<usize, PollError>) {
        assert!(self.begun.elapsed() < DEADLINE, "the removal is noticed");
        let Self { qpair, idle, life, .. } = self;
        let taken = qpair.poll(DEPTH, |io: IoCompletion| {
            let is_removed = is_removed(&io.outcome);
            assert!(
                is_removed || io.is_success() || matches!(io.outcome, Outcome::Aborted(_)),
                "{:?}",
                io.outcome
            );
            add(&life.returned);
            life.removed.fetch_add(u64::from(is_removed), Ordering::Relaxed);
            idle.extend(io.data);
        });
        (taken, self.poller.poll(Instant::now()))
    }

    /// Polls on until both say that it is over; `each` may submit in between. Everything must have come back by then.
    fn read_to_the_end(&mut self, mut each: impl FnMut(&mut Self)) {
        loop {
            each(self);
            let (taken, polled) = self.poll();
            let is_over = matches!(polled, Err(PollError::Detached | PollError::Failed(_)));
            match taken {
                Err(QpairError::Gone(_)) if is_over => break,
                Ok(_) | Err(QpairError::Gone(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(self.idle.len(), DEPTH, "every request came back with its buffer");
        let again = self.qpair.poll(DEPTH, |io| panic!("a request came back twice: {io:?}"));
        assert!(matches!(again, Err(QpairError::Gone(_))), "the queue pair goes on saying so: {again:?}");
    }
}

fn comes_back(inside: &Inside, id: &str) {
    let address = inside.address(id);
    inside.device_add(id);
    // The kernel's driver takes it first, and must not be disturbed while it does.
    pci::block_device(&address, 1);
}

fn asked_back(inside: &Inside) {
    for round in 0..TIMES {
        let (ctrlr, life) = attach(inside, "nv0");
        let poller = Poller::new(&ctrlr, "guest").expect("free");
        let producer = ctrlr.register("monitor").expect("registered");
        std::thread::scope(|scope| {
            let polling = scope.spawn(|| Reader::new(poller, &life).read_to_the_end(Reader::fill));
            let sending = scope.spawn(|| send_to_the_end(&ctrlr, &producer, &life));
            std::thread::sleep(Duration::from_millis(300));
            inside.device_del("nv0");
            sending.join().expect("all messages were answered");
            polling.join().expect("all requests came back");
        });
        // By itself, on a thread of its own.
        wait_for("the detach", DEADLINE, || (ctrlr.state() == CtrlrState::Detached).then_some(()));
        assert!(get(&life.asked) > 0, "round {round}: the embedder was told");
        assert_eq!((get(&life.failed), get(&life.removed)), (0, 0), "round {round}: nothing failed");
        assert!(get(&life.submitted) > 0);
        drop(ctrlr);
        inside.wait_deleted("nv0", DEADLINE).expect("the kernel finishes the removal");
        assert!(!pci::exists(&inside.address("nv0")));
        comes_back(inside, "nv0");
    }
}

fn pulled_out(inside: &Inside) {
    let pulls: Vec<_> = (0..TIMES).map(|round| pull_out_once(inside, round)).collect();
    let (mut closed_after, in_flight): (Vec<_>, Vec<_>) = pulls.into_iter().unzip();
    closed_after.sort_unstable();
    note(&format!("closed after {closed_after:?}; in flight on the queue pair: {in_flight:?}"));
    // The middle one, and the sum: a busy host may hold some of them up.
    assert!(closed_after[TIMES / 2] < Duration::from_secs(1), "{closed_after:?}");
    assert!(in_flight.iter().sum::<u64>() > (TIMES * DEPTH / 2) as u64, "{in_flight:?}");
}

/// Pulls it out once: how long the descriptor stayed open, and how many reads of the queue pair were in flight.
fn pull_out_once(inside: &Inside, round: usize) -> (Duration, u64) {
    let (ctrlr, life) = attach(inside, "late");
    assert_eq!(open_vfio_devices(), 1, "round {round}");
    let poller = Poller::new(&ctrlr, "guest").expect("free");
    let producer = ctrlr.register("monitor").expect("registered");
    let (closed_after, in_flight) = std::thread::scope(|scope| {
        let polling = scope.spawn(|| read_around(poller, &life));
        for _ in 0..5 {
            let rescan = producer.send(Message::Rescan).expect("sent");
            assert!(matches!(rescan.wait(DEADLINE), Ok(Outcome::Completed(_))), "round {round}");
        }
        let reads: Vec<_> = (0..4).map(|lba| send_read(&producer, lba)).collect();
        life.may_read.store(true, Ordering::Relaxed);
        wait_for("the reads", DEADLINE, || (get(&life.submitted) == DEPTH as u64).then_some(()));
        // No doorbell is rung any more (see `surprise_remove`); 20 reads are in flight.
        std::thread::sleep(SETTLING);
        let in_flight = DEPTH as u64 - get(&life.returned);
        let gone_at = inside.surprise_remove("late");
        life.is_pulled.store(true, Ordering::Relaxed);
        let sending = scope.spawn(|| send_to_the_end(&ctrlr, &producer, &life));
        wait_for("the descriptor is closed", DEADLINE, || (open_vfio_devices() == 0).then_some(()));
        let closed_after = gone_at.elapsed();
        for read in reads {
            // What QEMU finished on its way out is completed.
            let outcome = read.wait(DEADLINE).expect("every accepted message has an outcome");
            let is_read =
                matches!(&outcome, Outcome::Completed(Reply::Command { status, .. }) if status.is_success());
            assert!(is_read || is_removed(&outcome), "round {round}: {outcome:?}");
            life.removed.fetch_add(u64::from(!is_read), Ordering::Relaxed);
        }
        sending.join().expect("all messages were answered");
        polling.join().expect("all requests came back");
        (closed_after, in_flight)
    });
    assert_eq!(ctrlr.state(), CtrlrState::Failed, "round {round}");
    let failure = ctrlr.failure().expect("a reason");
    assert!(matches!(failure, Failure::Removed { .. }) && failure.to_string().contains("gone"), "{failure}");
    assert_eq!(get(&life.failed), 1, "round {round}: the embedder was told, once");
    assert!(get(&life.removed) > 0, "round {round}: {} were submitted", get(&life.submitted));
    ctrlr.detach(DEADLINE).expect("a controller that is gone is detached");
    assert_eq!((ctrlr.state(), get(&life.failed)), (CtrlrState::Detached, 1), "round {round}");
    drop((producer, ctrlr));
    let address = inside.address("late");
    wait_for("the kernel to notice", pci::KERNEL, || (!pci::exists(&address)).then_some(()));
    comes_back(inside, "late");
    (closed_after, in_flight)
}

/// Reads once when that is wanted, and again when the controller is gone: doorbells that go nowhere.
fn read_around(poller: Poller<LockFree>, life: &Life) {
    let mut may_read = true;
    Reader::new(poller, life).read_to_the_end(|reader| {
        let is_pulled = life.is_pulled.load(Ordering::Relaxed);
        if is_pulled || may_read && life.may_read.load(Ordering::Relaxed) {
            reader.fill();
            may_read = false;
        }
    });
}

/// Sends a read as a message.
fn send_read(producer: &Producer<LockFree>, lba: u64) -> Ticket<Reply> {
    let data = DmaSlice::from(producer.allocate(4096).expect("memory"));
    let command = Command::read(1, lba, 8);
    producer.send(Message::Io { command, data: Some(Box::new(data)) }).expect("sent")
}

/// At several moments of the bring-up, which takes 8 steps at least: each time the attach ends with the reason, and leaves nothing open.
fn pulled_out_during_attach(inside: &Inside) {
    let address = inside.address("nv0");
    for steps in [0, 1, 3, 6] {
        pci::bind(&address, "vfio-pci");
        let transport = VfioTransport::open(address.parse().expect("an address")).expect("opened");
        let mut attach =
            Ctrlr::<LockFree>::begin_attach(transport, CtrlrOptions::default()).expect("it is there still");
        for _ in 0..steps {
            assert!(
                attach.step(Instant::now()).expect("it is there still").is_none(),
                "not attached in {steps} steps"
            );
        }
        inside.surprise_remove("nv0");
        let begun = Instant::now();
        let error = loop {
            match attach.step(Instant::now()) {
                Ok(None) => assert!(begun.elapsed() < DEADLINE, "noticed"),
                Ok(Some(_)) => panic!("attached to nothing"),
                Err(error) => break error,
            }
        };
        note(&format!("after {steps} steps: {error}"));
        assert!(matches!(error, AttachError::Failed { failure: Failure::Removed { .. }, .. }), "{error}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "at once, not at a deadline: {:?}",
            begun.elapsed()
        );
        drop(attach);
        assert_eq!(open_vfio_devices(), 0, "nothing is left open");
        wait_for("the kernel to notice", pci::KERNEL, || (!pci::exists(&address)).then_some(()));
        let gone = output(SLIPRING, &["identify", &address]);
        let said = String::from_utf8_lossy(&gone.stderr).into_owned();
        assert_eq!((gone.status.code(), said.lines().count()), (Some(2), 1), "{said}");
        assert!(said.contains("there is no PCI device"), "{said}");
        comes_back(inside, "nv0");
    }
}

/// Starts `slipring perf` for a minute, has its controller taken away, and gives what it said and reported.
fn perf(inside: &Inside, id: &str, take_away: impl FnOnce()) -> (String, String, Value) {
    let address = inside.address(id);
    pci::bind(&address, "vfio-pci");
    let json = "/tmp/perf.json";
    let arguments =
        ["perf", &address, "-q", "4", "-o", "4096", "-w", "randread", "-t", "60", "--quiet", "--json", json];
    let mut command = std::process::Command::new(SLIPRING);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    take_away();
    wait_for("the end of perf", DEADLINE, || child.try_wait().expect("its status"));
    let output = child.wait_with_output().expect("what it said");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    note(&format!("{printed}{said}"));
    assert_eq!(output.status.code(), Some(1), "it ran, and its device was lost");
    let reported = serde_json::from_str(&fs::read_to_string(json).expect("written")).expect("JSON");
    (said, printed, reported)
}

fn assert_reported(said: &str, printed: &str, reported: &Value, reason: &str) {
    // Before it, what the library logs.
    assert_eq!(said.lines().filter(|line| line.starts_with("slipring: ")).count(), 1, "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains(reason)), "{said}");
    assert!(
        printed.contains("IOPS") && printed.contains("ended early"),
        "the figures of what ran: {printed}"
    );
    assert!(reported["ended_early"].as_str().is_some_and(|why| why.contains(reason)), "{reported}");
    assert!(reported["ios"].as_u64() > Some(0), "{reported}");
    assert!(
        reported["duration_s"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 59.0),
        "{reported}"
    );
}

fn perf_asked_back(inside: &Inside) {
    let (said, printed, reported) = perf(inside, "nv0", || {
        std::thread::sleep(Duration::from_secs(3));
        inside.device_del("nv0");
    });
    assert_reported(&said, &printed, &reported, "the system wants the device back");
    assert_eq!(reported["errors"].as_u64(), Some(0), "what was in flight came to its end: {reported}");
    inside.wait_deleted("nv0", DEADLINE).expect("it was given back");
    comes_back(inside, "nv0");
}

fn perf_pulled_out(inside: &Inside) {
    let (said, printed, reported) = perf(inside, "late", || {
        // When reads have just ended, the next are about to begin: then none begins for a while.
        let ended = || inside.reads_ended("late");
        let before = ended();
        wait_for("the first reads", DEADLINE, || (ended() >= before + 4).then_some(()));
        std::thread::sleep(2 * SETTLING);
        inside.surprise_remove("late");
    });
    assert_reported(&said, &printed, &reported, "the device is gone");
    assert!(reported["errors"].as_u64() > Some(0), "what was in flight is counted: {reported}");
    let address = inside.address("late");
    wait_for("the kernel to notice", pci::KERNEL, || (!pci::exists(&address)).then_some(()));
    comes_back(inside, "late");
}
