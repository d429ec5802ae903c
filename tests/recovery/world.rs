//! A controller, its poller and its device on one thread, and a clock that only the test moves.

use slipring::ctrlr::{
    Attach, AttachError, ControllerEvent, Ctrlr, CtrlrOptions, EventAnswer, Message, OnEvent, Reply, Timeouts,
};
use slipring::emulated::{self, Backing, Config, Device, EmulatedTransport, NamespaceConfig};
use slipring::poller::{IoCompletion, PollError, Poller, QpairOptions, QueuePair};
use slipring::ring::{LockFree, Outcome, Ticket};
use slipring::spec::command::Command;
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use slipring::transport::Transport;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The most steps that anything takes.
const STEPS: usize = 200_000;
/// How far the clock goes on with each step.
pub const TICK: Duration = Duration::from_micros(500);

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub struct World {
    pub ctrlr: Ctrlr<LockFree>,
    pub poller: Poller,
    pub device: Device,
    pub transport: Arc<EmulatedTransport>,
    pub now: Instant,
    /// What the embedder was told.
    pub told: Arc<Mutex<Vec<ControllerEvent>>>,
}

/// The timeouts of these tests: short, and each another one.
pub fn timeouts() -> Timeouts {
    Timeouts { io: ms(80), admin: ms(160), slow_admin: ms(1600), abort: ms(40), ..Timeouts::default() }
}

pub fn config(faults: &str) -> Config {
    let namespace = NamespaceConfig { size_bytes: 1 << 20, lba_bytes: 512, backing: Backing::Ram };
    let faults = faults.parse().expect("faults");
    Config { namespaces: vec![namespace], io_queues: 4, timeout: ms(1000), faults, ..Config::default() }
}

/// Attaches to the end, whatever that is.
pub fn attach(config: Config, options: CtrlrOptions) -> Result<Ctrlr<LockFree>, AttachError> {
    let (transport, mut device) = emulated::new(config).expect("a valid configuration");
    let mut attach: Attach<LockFree> = Ctrlr::begin_attach(transport, options)?;
    let mut now = Instant::now();
    loop {
        now += ms(1);
        if let Some(ctrlr) = attach.step(now)? {
            return Ok(ctrlr);
        }
        device.step_at(now);
    }
}

impl World {
    pub fn new(faults: &str, timeouts: Timeouts) -> Self {
        Self::with(config(faults), timeouts, EventAnswer::Proceed)
    }

    pub fn with(config: Config, timeouts: Timeouts, answer: EventAnswer) -> Self {
        Self::of(config, CtrlrOptions { timeouts, ..CtrlrOptions::default() }, answer)
    }

    /// With other options; what the embedder is told, and how long a command of the driver's own may take, is the world's business.
    pub fn of(config: Config, options: CtrlrOptions, answer: EventAnswer) -> Self {
        Self::at(Instant::now(), config, options, answer)
    }

    /// As [`World::of`], on a clock that begins at `now`.
    pub fn at(now: Instant, config: Config, options: CtrlrOptions, answer: EventAnswer) -> Self {
        Self::through(|device| device, now, config, options, answer)
    }

    /// As [`World::at`], on what `wrap` makes of the device.
    pub fn through<T: Transport>(
        wrap: impl FnOnce(Arc<EmulatedTransport>) -> Arc<T>,
        mut now: Instant,
        config: Config,
        options: CtrlrOptions,
        answer: EventAnswer,
    ) -> Self {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let on_event = OnEvent::new(move |event| {
            tell.lock().expect("no panic").push(event.clone());
            answer
        });
        let options = CtrlrOptions { on_event: Some(on_event), admin_timeout: ms(400), ..options };
        let (transport, mut device) = emulated::new(config).expect("a valid configuration");
        let mut attach = Ctrlr::begin_attach(wrap(transport.clone()), options).expect("begins");
        let ctrlr = loop {
            now += TICK;
            if let Some(ctrlr) = attach.step(now).expect("attach") {
                break ctrlr;
            }
            device.step_at(now);
        };
        let poller = Poller::new(&ctrlr, "world").expect("the seat is free");
        Self { ctrlr, poller, device, transport, now, told }
    }

    /// Polls and steps once; the error is what the poll says.
    pub fn step(&mut self) -> Result<usize, PollError> {
        self.now += TICK;
        let polled = self.poller.poll(self.now);
        self.device.step_at(self.now);
        polled
    }

    /// Steps until `ready`; returns how long that took.
    pub fn run(&mut self, what: &str, mut ready: impl FnMut(&mut Self) -> bool) -> Duration {
        let begun = self.now;
        for _ in 0..STEPS {
            if ready(self) {
                return self.now - begun;
            }
            let _ = self.step();
        }
        panic!("not after {STEPS} steps: {what}; {:?}, {:?}", self.ctrlr, self.told);
    }

    /// Steps for so long.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            let _ = self.step();
        }
    }

    pub fn queue_pair(&mut self) -> QueuePair {
        let mut qpair = QueuePair::request(&self.ctrlr, &QpairOptions { entries: 16 }).expect("a queue pair");
        self.run("connected", |_| qpair.connected().expect("well"));
        qpair
    }

    pub fn read(&self, qpair: &mut QueuePair, lba: u64) {
        let data = self.ctrlr.allocate(512).expect("memory").into();
        qpair.read(&self.ctrlr.namespaces()[0], lba, data, lba).expect("submitted");
        qpair.commit();
    }

    /// Polls both pollers until `count` requests have come back, in the order of their tokens; returns how long it took.
    pub fn back(&mut self, qpair: &mut QueuePair, count: usize) -> (Vec<IoCompletion>, Duration) {
        let mut back = Vec::new();
        let took = self.run("requests come back", |_| {
            let _ = qpair.poll(8, |completion| back.push(completion));
            back.len() >= count
        });
        back.sort_by_key(|completion| completion.token);
        (back, took)
    }

    /// A message that reads one block.
    pub fn read_message(&self, lba: u64) -> Message {
        let data = self.ctrlr.allocate(512).expect("memory");
        Message::Io { command: Command::read(1, lba, 1), data: Some(Box::new(data.into())) }
    }

    /// A message that reads the SMART log.
    pub fn log_message(&self) -> Message {
        let data = self.ctrlr.allocate(512).expect("memory");
        let command = Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true);
        Message::Admin { command, data: Some(Box::new(data.into())) }
    }

    pub fn send_read(&mut self, lba: u64) -> Ticket<Reply> {
        let message = self.read_message(lba);
        self.poller.send(message).expect("running")
    }

    /// Runs until the ticket is ready; returns its outcome and how long it took.
    pub fn outcome(&mut self, ticket: Ticket<Reply>) -> (Outcome<Reply>, Duration) {
        let took = self.run("a message is answered", |_| ticket.is_ready());
        (ticket.try_take().expect("ready"), took)
    }

    pub fn told(&self) -> Vec<ControllerEvent> {
        self.told.lock().expect("no panic").clone()
    }

    /// Whether a read by message works now.
    pub fn works(&mut self) -> bool {
        let ticket = self.send_read(0);
        is_status(&self.outcome(ticket).0, Status::SUCCESS)
    }

    /// Detaches, and checks that the driver broke no rule in its life.
    pub fn finish(self) {
        let transport = Arc::clone(&self.transport);
        self.detach();
        assert_eq!(transport.violations(), Vec::<String>::new());
    }

    /// Detaches; returns how long it took.
    pub fn detach(self) -> Duration {
        self.detach_within(Duration::from_secs(8))
    }

    /// As [`World::detach`], with `timeout` for it.
    pub fn detach_within(mut self, timeout: Duration) -> Duration {
        drop(self.poller);
        let mut detach = self.ctrlr.begin_detach(timeout).expect("begins");
        let begun = self.now;
        for _ in 0..STEPS {
            self.now += TICK;
            if detach.step(self.now) {
                assert_eq!(self.ctrlr.dma_bytes().1, 0, "nothing is mapped any more");
                return self.now - begun;
            }
            self.device.step_at(self.now);
        }
        panic!("not detached after {STEPS} steps: {:?}", self.ctrlr);
    }
}

pub fn is_status(outcome: &Outcome<Reply>, expected: Status) -> bool {
    matches!(outcome, Outcome::Completed(Reply::Command { status, .. }) if status.without_dnr() == expected)
}

pub fn io_status(completion: &IoCompletion) -> Status {
    match &completion.outcome {
        Outcome::Completed(completion) => completion.status().without_dnr(),
        Outcome::Aborted(aborted) => panic!("{aborted}"),
    }
}
