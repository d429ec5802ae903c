//! Storms: everything at once, on real threads, under each scheme. Producers register, send and unregister under each other's hands; queue pairs come and go
//! with I/O in flight; the controller is reset, its poller dropped and seated again, and in the end detached, in a calm or in the middle of it all;
//! then it is attached again. Every accepted message has exactly one outcome, every I/O comes back exactly once with its data right, and nobody is stuck.

mod support;

use slipring::ctrlr::{
    Ctrlr, CtrlrOptions, CtrlrState, Message, Producer, Reply, ResetError, SendErrorReason, UnregisterError,
};
use slipring::dma::DmaBuffer;
use slipring::emulated::{Backing, Config, NamespaceConfig};
use slipring::poller::{IoCompletion, PollError, Poller, QpairError, QpairOptions, QueuePair, SubmitReason};
use slipring::ring::{LockFree, Mailbox, Outcome, Scheme, rivals};
use slipring::spec::command::Command;
use slipring::spec::feature::FeatureId;
use slipring::spec::log::LogId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{DEADLINE, Rig};

/// Messages of one round at most; one byte each.
const IDS: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
/// Blocks that one life of a queue pair uses; no other life does.
const LIFE_BLOCKS: u64 = 32;
const NAMESPACE_BLOCKS: u64 = 1 << 20;
const ROUND: Duration = Duration::from_millis(600);
const ROUNDS: u64 = 4;

/// In the ledger: how many outcomes a message has had, and what is known of it.
const OUTCOMES: u8 = 0x0f;
const ACCEPTED: u8 = 0x10;
const REFUSED: u8 = 0x20;
/// Its closure has run.
const RAN: u8 = 0x40;
/// It was aborted with the word that it was not executed.
const UNEXECUTED: u8 = 0x80;

/// What became of every message of one round.
struct Ledger {
    messages: Box<[AtomicU8]>,
    next: AtomicU64,
    completed: AtomicU64,
    aborted: AtomicU64,
}

impl Ledger {
    fn new() -> Self {
        Self {
            messages: (0..IDS).map(|_| AtomicU8::new(0)).collect(),
            next: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
        }
    }

    /// An identifier for a message that is about to be sent, unless they are used up.
    fn id(&self) -> Option<u64> {
        // Relaxed throughout: read when all threads were joined.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        ((id as usize) < IDS).then_some(id)
    }

    fn mark(&self, id: u64, bits: u8) {
        self.messages[id as usize].fetch_or(bits, Ordering::Relaxed);
    }

    fn outcome(&self, id: u64, outcome: &Outcome<Reply>) {
        let before = self.messages[id as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(before & OUTCOMES, 0, "message {id} has a second outcome: {outcome:?}");
        match outcome {
            Outcome::Completed(reply) => {
                assert!(!matches!(reply, Reply::Refused(_)), "message {id}: {reply:?}");
                if let Reply::Called(value) = reply {
                    assert_eq!(*value, id, "each closure's value comes back to its sender");
                }
                self.completed.fetch_add(1, Ordering::Relaxed);
            }
            Outcome::Aborted(aborted) => {
                self.mark(id, if aborted.may_have_executed { 0 } else { UNEXECUTED });
                self.aborted.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The balance: sent = completed + aborted, by each single message. Returns the three.
    fn balance(&self) -> (u64, u64, u64) {
        let mut sent = 0;
        for (id, message) in self.messages.iter().enumerate() {
            let word = message.load(Ordering::Relaxed);
            assert!(word & UNEXECUTED == 0 || word & RAN == 0, "message {id} ran, and was said not to have");
            if word & ACCEPTED != 0 {
                sent += 1;
                assert_eq!(word & OUTCOMES, 1, "message {id} was accepted and has one outcome");
            } else {
                assert_eq!(word & OUTCOMES, 0, "message {id} was refused and has no outcome");
            }
        }
        let (completed, aborted) =
            (self.completed.load(Ordering::Relaxed), self.aborted.load(Ordering::Relaxed));
        assert_eq!(sent, completed + aborted, "sent = completed + aborted");
        (sent, completed, aborted)
    }
}

/// xorshift64: a storm need not be the same twice, but its seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What the threads of one round share. `S` threads end when they are told to, or when they find the controller detached.
struct Round<S: Scheme> {
    ctrlr: Ctrlr<S>,
    ledger: Arc<Ledger>,
    /// Everybody but the poller is to end.
    stop: AtomicBool,
    /// So is the poller.
    stop_polling: AtomicBool,
    /// Producers of whoever is registered, for others to send through.
    producers: Mutex<Vec<Option<Producer<S>>>>,
    next_life: AtomicU64,
    counts: Counts,
}

/// That the storm was one. Relaxed, all.
#[derive(Debug, Default)]
struct Counts {
    registrations: AtomicU64,
    resets: AtomicU64,
    pollers: AtomicU64,
    lives: AtomicU64,
    reconnects: AtomicU64,
    ios: AtomicU64,
    verified: AtomicU64,
    given_back: AtomicU64,
    dropped_in_flight: AtomicU64,
    refused: AtomicU64,
}

fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl<S: Scheme> Round<S> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        assert_ne!(self.ctrlr.state(), CtrlrState::Failed, "{:?}", self.ctrlr.failure());
        matches!(self.ctrlr.state(), CtrlrState::Detaching | CtrlrState::Detached)
    }

    fn slot(&self, index: usize) -> Option<Producer<S>> {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)[index].clone()
    }

    fn set_slot(&self, index: usize, producer: Option<Producer<S>>) {
        self.producers.lock().unwrap_or_else(PoisonError::into_inner)[index] = producer;
    }

    /// One message of any kind, for the ledger's `id`.
    fn message(&self, id: u64, random: &mut Random) -> Message {
        let buffer = |len| self.ctrlr.allocate(len).ok().map(|buffer| Box::new(buffer.into()));
        let plain = Message::Admin {
            command: Command::get_features(FeatureId::TEMPERATURE_THRESHOLD, 0, 0),
            data: None,
        };
        match random.below(16) {
            0..8 => {
                let ledger = Arc::clone(&self.ledger);
                Message::call(move |_| {
                    ledger.mark(id, RAN);
                    id
                })
            }
            8 | 9 => buffer(512).map_or(plain, |data| Message::Admin {
                command: Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true),
                data: Some(data),
            }),
            10 | 11 => buffer(BLOCK_BYTES)
                .map_or(plain, |data| Message::Io { command: Command::read(1, 0, 1), data: Some(data) }),
            12 => Message::Io { command: Command::flush(1), data: None },
            13 if random.one_in(8) => Message::Rescan,
            _ => plain,
        }
    }

    /// Notes whether a message was accepted; true if it was.
    fn sent(&self, id: u64, result: Result<(), SendErrorReason>) -> bool {
        match result {
            Ok(()) => {
                self.ledger.mark(id, ACCEPTED);
                true
            }
            Err(reason) => {
                self.ledger.mark(id, REFUSED);
                count(&self.counts.refused, 1);
                assert_ne!(reason, SendErrorReason::WindowFull);
                std::thread::yield_now();
                false
            }
        }
    }
}

/// Polls; now and then the poller is dropped, or goes offline, and sits down again.
fn poller_thread<S: Scheme>(round: &Round<S>, mut random: Random) {
    while !round.stop_polling.load(Ordering::Relaxed) {
        let mut poller = match Poller::new(&round.ctrlr, "storm") {
            Ok(poller) => poller,
            Err(error) => {
                assert!(round.is_over(), "{error}");
                return;
            }
        };
        count(&round.counts.pollers, 1);
        let mut left = random.below(20_000);
        while left > 0 && !round.stop_polling.load(Ordering::Relaxed) {
            left -= 1;
            match poller.poll(Instant::now()) {
                Ok(0) => std::thread::yield_now(),
                Ok(_) => {}
                Err(PollError::Detached) => return,
                Err(error) => panic!("{error}"),
            }
            if random.one_in(5000) {
                poller.pause();
                std::thread::sleep(Duration::from_micros(random.below(300)));
            }
        }
        drop(poller);
        std::thread::sleep(Duration::from_micros(random.below(500)));
    }
}

/// Registers, sends through its own producer and others', and unregisters what others may be sending through.
fn sender_thread<S: Scheme>(round: &Round<S>, index: usize, mut random: Random) {
    let name = format!("sender {index}");
    let mut mailbox = Mailbox::new(32);
    while round.goes_on() {
        let Ok(own) = round.ctrlr.register(&name) else {
            assert!(round.is_over(), "nobody else registers this name");
            break;
        };
        count(&round.counts.registrations, 1);
        round.set_slot(index, Some(own.clone()));
        for _ in 0..random.below(20) {
            let other = round.slot(random.below(3) as usize);
            let producer = other.as_ref().unwrap_or(&own);
            match random.below(3) {
                0 => send_tickets(round, producer, &mut random),
                1 => send_callbacks(round, producer, &mut random),
                _ => send_window(round, producer, &mut mailbox, &mut random),
            }
        }
        round.set_slot(index, None);
        match round.ctrlr.unregister(&name, DEADLINE) {
            Ok(()) => {}
            Err(UnregisterError::NotRegistered { .. }) => assert!(round.is_over(), "registered above"),
            Err(error) => panic!("{error}"),
        }
    }
    empty(round, &mut mailbox, 0);
    assert_eq!(mailbox.in_flight(), 0);
}

fn send_tickets<S: Scheme>(round: &Round<S>, producer: &Producer<S>, random: &mut Random) {
    let mut tickets = Vec::new();
    for _ in 0..random.below(8) {
        let Some(id) = round.ledger.id() else { break };
        match producer.send(round.message(id, random)) {
            Ok(ticket) => {
                round.sent(id, Ok(()));
                tickets.push((id, ticket));
            }
            Err(error) => {
                round.sent(id, Err(error.reason));
            }
        }
    }
    for (id, ticket) in tickets {
        let outcome = ticket.wait(DEADLINE).unwrap_or_else(|_| panic!("message {id} has no outcome"));
        round.ledger.outcome(id, &outcome);
    }
}

fn send_callbacks<S: Scheme>(round: &Round<S>, producer: &Producer<S>, random: &mut Random) {
    for _ in 0..random.below(32) {
        let Some(id) = round.ledger.id() else { return };
        let ledger = Arc::clone(&round.ledger);
        let sent = producer.send_with(round.message(id, random), move |outcome| ledger.outcome(id, &outcome));
        round.sent(id, sent.map_err(|error| error.reason));
    }
}

fn send_window<S: Scheme>(
    round: &Round<S>,
    producer: &Producer<S>,
    mailbox: &mut Mailbox<Reply>,
    random: &mut Random,
) {
    let room = mailbox.window() - mailbox.in_flight();
    let mut batch = Vec::new();
    for _ in 0..random.below(room as u64 + 1) {
        let Some(id) = round.ledger.id() else { break };
        let message = round.message(id, random);
        if random.one_in(2) {
            batch.push((id, message));
        } else {
            round.sent(id, producer.send_to(mailbox, id, message).map_err(|error| error.reason));
        }
    }
    let ids: Vec<u64> = batch.iter().map(|(id, _)| *id).collect();
    let accepted = match producer.send_batch_to(mailbox, &mut batch) {
        Ok(accepted) => accepted,
        Err(SendErrorReason::WindowFull) => panic!("there was room for {}", ids.len()),
        Err(_) => 0,
    };
    assert_eq!(batch.len(), ids.len() - accepted, "what was not accepted is still there");
    for (place, id) in ids.into_iter().enumerate() {
        round.sent(id, if place < accepted { Ok(()) } else { Err(SendErrorReason::Full) });
    }
    empty(round, mailbox, random.below(32) as usize);
}

/// Receives until at most `left` messages are in flight.
fn empty<S: Scheme>(round: &Round<S>, mailbox: &mut Mailbox<Reply>, left: usize) {
    let started = Instant::now();
    while mailbox.in_flight() > left {
        if mailbox.receive(|id, outcome| round.ledger.outcome(id, &outcome)) == 0 {
            assert!(started.elapsed() < DEADLINE, "{} messages have no outcome", mailbox.in_flight());
            std::thread::yield_now();
        }
    }
}

/// Registers and unregisters a name that nobody uses, without pause.
fn registrar_thread<S: Scheme>(round: &Round<S>) {
    while round.goes_on() && round.ctrlr.register("registrar").is_ok() {
        count(&round.counts.registrations, 1);
        if let Err(error) = round.ctrlr.unregister("registrar", DEADLINE) {
            assert!(round.is_over(), "{error}");
            return;
        }
        std::thread::yield_now();
    }
    assert!(!round.goes_on() || round.is_over());
}

/// Resets, time and again.
fn resetter_thread<S: Scheme>(round: &Round<S>, mut random: Random) {
    while round.goes_on() {
        std::thread::sleep(Duration::from_millis(random.below(40)));
        match round.ctrlr.reset().and_then(|reset| reset.wait(DEADLINE)) {
            Ok(()) => count(&round.counts.resets, 1),
            Err(ResetError::Detached) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// What a block holds, as far as its owner knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// It was never written, or a write was given back: either content is right.
    Unknown,
    /// The write with this stamp was answered.
    Written(u64),
    /// A command is on its way there.
    Busy,
}

/// One queue pair from its creation to its drop.
struct Life<'a, S: Scheme> {
    round: &'a Round<S>,
    qpair: QueuePair,
    first_block: u64,
    blocks: Vec<Block>,
    /// By token: the block, what it held, and whether this is a write.
    in_flight: HashMap<u64, (usize, Block, bool)>,
    spare: Vec<DmaBuffer>,
    next_token: u64,
}

impl<S: Scheme> Life<'_, S> {
    fn submit(&mut self, random: &mut Random) {
        let block = random.below(LIFE_BLOCKS) as usize;
        let held = self.blocks[block];
        if held == Block::Busy {
            return;
        }
        let buffer = match self.spare.pop() {
            Some(buffer) => buffer,
            None => match self.round.ctrlr.allocate(BLOCK_BYTES) {
                Ok(buffer) => buffer,
                Err(error) => {
                    assert!(self.round.is_over(), "{error}");
                    return;
                }
            },
        };
        let token = self.next_token;
        let is_write = held == Block::Unknown || random.one_in(2);
        // A stamp that no other life writes, all over the block.
        let stamp = if is_write { self.first_block << 32 | token } else { u64::MAX };
        let bytes: Vec<u8> = std::iter::repeat_n(stamp.to_le_bytes(), BLOCK_BYTES / 8).flatten().collect();
        buffer.write_at(0, &bytes);
        let namespace = self.round.ctrlr.namespaces().iter().find(|namespace| namespace.nsid == 1).copied();
        let namespace = namespace.expect("the namespace is there, whatever happens");
        let lba = self.first_block + block as u64;
        let submit = if is_write { QueuePair::write } else { QueuePair::read };
        match submit(&mut self.qpair, &namespace, lba, buffer.into(), token) {
            Ok(()) => {
                self.next_token += 1;
                self.blocks[block] = Block::Busy;
                self.in_flight.insert(token, (block, held, is_write));
            }
            Err(error) => {
                let expected = matches!(
                    error.reason,
                    SubmitReason::QueueFull | SubmitReason::NotConnected | SubmitReason::Gone
                );
                assert!(expected, "{error}");
                self.spare.push(error.data.expect("the data come back").into_buffer());
            }
        }
    }

    /// False when the controller is detached.
    fn poll(&mut self) -> bool {
        let Self { round, qpair, first_block, blocks, in_flight, spare, .. } = self;
        let polled = qpair.poll(8, |completion: IoCompletion| {
            let token = completion.token;
            let (block, held, is_write) = in_flight.remove(&token).expect("in flight, and back once");
            let buffer = completion.data.expect("the data come back").into_buffer();
            blocks[block] = match completion.outcome {
                Outcome::Completed(answer) => {
                    assert!(answer.status().is_success(), "{}", answer.status());
                    count(&round.counts.ios, 1);
                    if is_write {
                        Block::Written(*first_block << 32 | token)
                    } else {
                        if let Block::Written(stamp) = held {
                            let right =
                                buffer.to_vec().chunks_exact(8).all(|word| word == stamp.to_le_bytes());
                            assert!(right, "block {block} holds what was last written");
                            count(&round.counts.verified, 1);
                        }
                        held
                    }
                }
                Outcome::Aborted(_) => {
                    count(&round.counts.given_back, 1);
                    if is_write { Block::Unknown } else { held }
                }
            };
            spare.push(buffer);
        });
        match polled {
            Ok(0) => {
                std::thread::yield_now();
                true
            }
            Ok(_) => true,
            Err(QpairError::Gone(None)) => {
                assert!(self.round.is_over());
                assert!(self.in_flight.is_empty(), "the error comes after the last request");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Queue pairs that come and go, with I/O in flight or without.
fn io_thread<S: Scheme>(round: &Round<S>, index: usize, mut random: Random) {
    let name = format!("io {index}");
    while round.goes_on() {
        let options = QpairOptions { entries: 2 + random.below(30) as u32 };
        let created = if random.one_in(3) {
            let Ok(producer) = round.ctrlr.register(&name) else { break };
            let created = QueuePair::create(&producer, &options, DEADLINE);
            match round.ctrlr.unregister(&name, DEADLINE) {
                Ok(()) => {}
                Err(error) => assert!(round.is_over(), "{error}"),
            }
            created
        } else {
            QueuePair::request(&round.ctrlr, &options)
        };
        let qpair = match created {
            Ok(qpair) => qpair,
            // Those that were dropped are still being deleted; or the ring was full.
            Err(QpairError::NoneFree { .. } | QpairError::NotSent(SendErrorReason::Full)) => {
                std::thread::yield_now();
                continue;
            }
            Err(error) => {
                assert!(round.is_over(), "{error}");
                break;
            }
        };
        count(&round.counts.lives, 1);
        // Relaxed: a number of its own.
        let first_block = round.next_life.fetch_add(1, Ordering::Relaxed) * LIFE_BLOCKS % NAMESPACE_BLOCKS;
        let blocks = vec![Block::Unknown; LIFE_BLOCKS as usize];
        let mut life = Life {
            round,
            qpair,
            first_block,
            blocks,
            in_flight: HashMap::new(),
            spare: Vec::new(),
            next_token: 0,
        };
        let started = Instant::now();
        let mut left = random.below(400);
        let mut alive = true;
        while alive && (left > 0 || life.next_token == 0) {
            left = left.saturating_sub(1);
            for _ in 0..random.below(6) {
                life.submit(&mut random);
            }
            alive = life.poll();
            if life.next_token == 0 {
                assert!(started.elapsed() < DEADLINE, "a queue pair was never connected: {:?}", life.qpair);
            }
        }
        if random.one_in(2) || !alive {
            let drained_from = Instant::now();
            while alive && life.qpair.outstanding() > 0 {
                alive = life.poll();
                assert!(drained_from.elapsed() < DEADLINE, "I/O does not come back: {:?}", life.qpair);
            }
            assert_eq!(life.in_flight.len(), 0);
        } else {
            count(&round.counts.dropped_in_flight, life.in_flight.len() as u64);
        }
        let statistics = life.qpair.statistics();
        count(&round.counts.reconnects, statistics.reconnects);
        assert_eq!(statistics.submitted, life.next_token);
        let back = statistics.completed + statistics.aborted;
        assert_eq!(statistics.submitted, back + life.in_flight.len() as u64, "every I/O is accounted for");
        if !alive {
            break;
        }
    }
}

/// Why one kind of violation is no fault of the driver's: a queue pair's thread may find its queues connected, and be preempted before it rings their
/// doorbell. A reset or detach does not wait for it (it would have to, for as long as that thread sleeps), so the ring may come when the queues are
/// gone. It does no harm: the queues are created again only once that same thread has asked for it, so no later queue is ever told of an old entry, and
/// what was in flight is given back. It can only be said of queues, by their number, that were once connected by another thread, so never of the admin
/// queue or of the external queue pair (0 and 1), which the poller owns alone.
fn is_tolerated(violation: &str) -> bool {
    let of = |kind: &str| {
        let rest = violation.strip_prefix(&format!("the doorbell of {kind} queue "))?;
        let (qid, why) = rest.split_once(' ')?;
        Some(qid.parse::<u16>().ok()? >= 2 && why == "was rung, and there is no such queue")
    };
    of("submission").or(of("completion")).unwrap_or(false)
}

/// Starts a thread that says when it has ended, well or by a panic.
fn start(
    threads: &mut Vec<(&'static str, std::thread::JoinHandle<()>)>,
    name: &'static str,
    ended: &mpsc::Sender<&'static str>,
    body: impl FnOnce() + Send + 'static,
) {
    struct Says(mpsc::Sender<&'static str>, &'static str);
    impl Drop for Says {
        fn drop(&mut self) {
            let _ = self.0.send(self.1);
        }
    }
    let says = Says(ended.clone(), name);
    let body = move || {
        let _says = says;
        body();
    };
    threads.push((name, std::thread::Builder::new().name(name.into()).spawn(body).expect("a thread")));
}

/// Joins threads that have ended, and fails, by name, for those that do not.
fn join(
    threads: Vec<(&'static str, std::thread::JoinHandle<()>)>,
    ended: &mpsc::Receiver<&'static str>,
    already: usize,
) {
    let mut waiting: Vec<&str> = threads.iter().map(|(name, _)| *name).collect();
    for _ in already..threads.len() {
        let name = ended.recv_timeout(2 * DEADLINE).unwrap_or_else(|_| panic!("stuck: some of {waiting:?}"));
        waiting.retain(|other| *other != name);
    }
    for (name, thread) in threads {
        assert!(thread.join().is_ok(), "{name} failed, see above");
    }
}

fn config() -> Config {
    let namespace = NamespaceConfig {
        size_bytes: NAMESPACE_BLOCKS * BLOCK_BYTES as u64,
        lba_bytes: BLOCK_BYTES as u32,
        backing: Backing::Ram,
    };
    Config { namespaces: vec![namespace], io_queues: 8, ..Config::default() }
}

/// One life of a controller in the storm, from attach to detach.
fn storm_round<S: Scheme>(seed: u64, ends_calm: bool) -> Sums {
    // Small, so that rings and queues are full at times.
    let options = CtrlrOptions {
        ring_slots: 64,
        external_queue_entries: 8,
        admin_queue_entries: 16,
        ..CtrlrOptions::default()
    };
    let rig: Rig<S> = Rig::attach_with(config(), options);
    let calm_bytes = rig.ctrlr.dma_bytes().0;
    let round = Arc::new(Round {
        ctrlr: rig.ctrlr.clone(),
        ledger: Arc::new(Ledger::new()),
        stop: AtomicBool::new(false),
        stop_polling: AtomicBool::new(false),
        producers: Mutex::new(vec![None; 3]),
        next_life: AtomicU64::new(0),
        counts: Counts::default(),
    });
    let random = |n: u64| Random((seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (says, ended) = mpsc::channel();
    let mut threads = Vec::new();
    let shared = || Arc::clone(&round);
    let (mine, dice) = (shared(), random(0));
    start(&mut threads, "poller", &says, move || poller_thread(&mine, dice));
    for (index, name) in ["sender 0", "sender 1", "sender 2"].into_iter().enumerate() {
        let (mine, dice) = (shared(), random(1 + index as u64));
        start(&mut threads, name, &says, move || sender_thread(&mine, index, dice));
    }
    let mine = shared();
    start(&mut threads, "registrar", &says, move || registrar_thread(&mine));
    let (mine, dice) = (shared(), random(5));
    start(&mut threads, "resetter", &says, move || resetter_thread(&mine, dice));
    for (index, name) in ["io 0", "io 1"].into_iter().enumerate() {
        let (mine, dice) = (shared(), random(6 + index as u64));
        start(&mut threads, name, &says, move || io_thread(&mine, index, dice));
    }
    let started = Instant::now();
    let mut hot = false;
    while started.elapsed() < ROUND {
        // Events come in too.
        hot = !hot;
        rig.transport.set_temperature_k(if hot { 400 } else { 310 });
        std::thread::sleep(Duration::from_millis(20));
    }
    if ends_calm {
        round.stop.store(true, Ordering::Relaxed);
        for _ in 0..threads.len() - 1 {
            ended.recv_timeout(2 * DEADLINE).expect("all but the poller end");
        }
        // What was dropped in flight is given back once the device has deleted its queues.
        let settled = Instant::now();
        let mut bytes = 0;
        while settled.elapsed() < DEADLINE {
            drop(round.ctrlr.register("sweeper").expect("live"));
            round.ctrlr.unregister("sweeper", DEADLINE).expect("unregistered");
            bytes = rig.ctrlr.dma_bytes().0;
            if bytes == calm_bytes {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(bytes, calm_bytes, "no DMA memory is lost in the storm");
        round.stop_polling.store(true, Ordering::Relaxed);
        join(threads, &ended, 7);
        rig.ctrlr.detach(DEADLINE).expect("detached");
    } else {
        rig.ctrlr.detach(DEADLINE).expect("detached in the middle of it");
        join(threads, &ended, 0);
    }
    assert_eq!(rig.ctrlr.state(), CtrlrState::Detached);
    assert_eq!(rig.ctrlr.dma_bytes(), (0, 0), "nothing is mapped any more");
    let (sent, completed, aborted) = round.ledger.balance();
    let violations: Vec<String> =
        rig.transport.violations().into_iter().filter(|violation| !is_tolerated(violation)).collect();
    assert_eq!(violations, Vec::<String>::new(), "rules that the driver broke, seed {seed}");
    Sums { sent, completed, aborted, counts: Arc::into_inner(round).expect("all threads have ended").counts }
}

/// What one round came to.
#[derive(Debug)]
struct Sums {
    sent: u64,
    completed: u64,
    aborted: u64,
    counts: Counts,
}

fn storm<S: Scheme>() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = now.as_nanos() as u64;
    let rounds: Vec<Sums> =
        (0..ROUNDS).map(|round| storm_round::<S>(seed + 100 * round, round % 2 == 0)).collect();
    // That it was a storm.
    let what = format!("{} of seed {seed}: {rounds:#?}", S::NAME);
    let happened = |of: fn(&Counts) -> &AtomicU64| {
        rounds.iter().map(|round| of(&round.counts).load(Ordering::Relaxed)).sum::<u64>() > 0
    };
    assert!(rounds.iter().all(|round| round.sent > 0 && round.completed > 0), "{what}");
    assert!(rounds.iter().any(|round| round.aborted > 0), "{what}");
    assert!(happened(|counts| &counts.registrations) && happened(|counts| &counts.refused), "{what}");
    assert!(happened(|counts| &counts.resets) && happened(|counts| &counts.reconnects), "{what}");
    assert!(happened(|counts| &counts.lives) && happened(|counts| &counts.dropped_in_flight), "{what}");
    assert!(happened(|counts| &counts.verified) && happened(|counts| &counts.given_back), "{what}");
    assert!(happened(|counts| &counts.pollers) && happened(|counts| &counts.ios), "{what}");
}

#[test]
fn lock_free() {
    storm::<LockFree>();
}

#[test]
fn spinlock() {
    storm::<rivals::Spinlock>();
}

#[test]
fn spinlock_flag() {
    storm::<rivals::SpinlockFlag>();
}

#[test]
fn robust_mutex() {
    storm::<rivals::RobustMutex>();
}
