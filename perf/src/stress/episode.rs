//! One life of a controller in a storm: attached, polled, sent to, reset, used by queue pairs, and detached while all of that goes on.
#![forbid(unsafe_code)]

use super::ledger::{Ledger, Sum};
use super::sender::Sender;
use crate::device::{Address, Device};
use crate::error::Error;
use crate::numbers::{Random, mix};
use slipring::ctrlr::{Ctrlr, CtrlrOptions, Namespace, ResetError};
use slipring::dma::DmaSlice;
use slipring::poller::{PollError, Poller, PollerError, QpairError, QpairOptions, QueuePair};
use slipring::ring::{LockFree, Outcome};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::scope;
use std::time::{Duration, Instant};

/// Messages of one episode at most.
const CAPACITY: usize = 1 << 20;
const SENDERS: usize = 3;
/// Entries of a queue pair: few, so that queues are full and go around.
const MOST_ENTRIES: u32 = 32;
/// How long a detach, or a reset, may take on a busy machine before it counts as stuck.
const STUCK: Duration = Duration::from_secs(30);
/// Polls between two looks at the clock.
const POLLS_PER_TIME: u64 = 64;

/// What the threads of an episode share.
#[derive(Debug)]
pub(super) struct Episode {
    pub(super) ctrlr: Ctrlr<LockFree>,
    pub(super) namespace: Namespace,
    /// Nothing that matters is written over.
    pub(super) may_write: bool,
    pub(super) ledger: Arc<Ledger>,
    /// Callbacks that have not run.
    pub(super) callbacks: Arc<AtomicI64>,
    /// The poller's thread is to detach.
    poller_detaches: AtomicBool,
    is_detached: AtomicBool,
    failure: Mutex<Option<String>>,
    ios: Ios,
}

/// What became of the I/Os of queue pairs.
#[derive(Debug, Default)]
struct Ios {
    submitted: AtomicU64,
    answered: AtomicU64,
    /// In flight when their queue pair was dropped, which reports nothing.
    dropped: AtomicU64,
}

/// What an episode came to.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) sum: Sum,
    pub(super) register_cycles: u64,
    pub(super) resets: u64,
    pub(super) ios: u64,
    pub(super) ios_lost: u64,
    pub(super) failure: Option<String>,
}

/// Lives through one episode of about `length`, whose decisions follow from `seed`.
pub(super) fn live(address: &Address, length: Duration, seed: u64) -> Result<Life, Error> {
    let device = Device::open(address, None)?;
    let mut random = Random::new(seed);
    // Small rings fill up, large ones do not: both matter.
    let ring_slots = [4, 64, 1024][random.below(3) as usize];
    let ctrlr = device.attach(CtrlrOptions { ring_slots, ..CtrlrOptions::default() })?;
    let namespace = ctrlr.namespaces().iter().find(|namespace| namespace.unsupported.is_none()).copied();
    let namespace =
        namespace.ok_or_else(|| Error::input("no namespace can be used: expected one at least"))?;
    let episode = Episode {
        ctrlr,
        namespace,
        may_write: device.is_volatile,
        ledger: Arc::new(Ledger::new(CAPACITY)),
        callbacks: Arc::default(),
        poller_detaches: AtomicBool::new(false),
        is_detached: AtomicBool::new(false),
        failure: Mutex::default(),
        ios: Ios::default(),
    };
    let seed_of = |number: u64| Random::new(mix(seed ^ mix(number)));
    let (register_cycles, resets) = scope(|threads| {
        let episode = &episode;
        let poller = threads.spawn(|| episode.poll(seed_of(100)));
        let senders: Vec<_> = (0..SENDERS)
            .map(|number| {
                let random = seed_of(number as u64);
                threads.spawn(move || Sender::new(episode, number, random).run())
            })
            .collect();
        let resetter = threads.spawn(|| episode.reset(seed_of(101)));
        let user = threads.spawn(|| episode.use_queue_pairs(seed_of(102)));
        std::thread::sleep(length);
        episode.detach(random.below(3));
        let mut cycles = 0;
        for sender in senders {
            cycles += sender.join().unwrap_or_else(|_| episode.panicked());
        }
        poller.join().unwrap_or_else(|_| _ = episode.panicked());
        user.join().unwrap_or_else(|_| _ = episode.panicked());
        (cycles, resetter.join().unwrap_or_else(|_| episode.panicked()))
    });
    episode.wait_for_callbacks();
    if let Some(violation) = device.violations().first() {
        episode.fail(&format!("the driver broke a rule of NVMe: {violation}"));
    }
    let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let Ios { submitted, answered, dropped } = &episode.ios;
    Ok(Life {
        sum: episode.ledger.sum(),
        register_cycles,
        resets,
        ios: load(submitted),
        ios_lost: load(submitted).abs_diff(load(answered) + load(dropped)),
        failure: episode.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

// The orderings below are relaxed: flags and counts; what they count is read when all threads were joined.
impl Episode {
    /// Notes what must not happen; the first counts.
    pub(super) fn fail(&self, what: &str) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| what.to_owned());
    }

    /// A thread ended by a panic, which has said what it was; it counted nothing.
    fn panicked(&self) -> u64 {
        self.fail("a thread of the storm panicked");
        0
    }

    pub(super) fn callback_sent(&self) {
        self.callbacks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn callback_returned(&self) {
        self.callbacks.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::Relaxed)
    }

    fn wait_for_callbacks(&self) {
        let deadline = Instant::now() + STUCK;
        while self.callbacks.load(Ordering::Relaxed) > 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    /// The poller's thread: polls, now and then goes offline, or leaves its seat and takes it again.
    fn poll(&self, mut random: Random) {
        loop {
            let mut poller = match Poller::new(&self.ctrlr, "storm") {
                Ok(poller) => poller,
                Err(PollerError::Detached) => return,
                Err(error) => return self.fail(&error.to_string()),
            };
            let polls = 1000 + random.below(100_000);
            let mut idle = 0;
            let mut now = Instant::now();
            for number in 0..polls {
                match poller.poll(now) {
                    Ok(0) => idle += 1,
                    Ok(_) => idle = 0,
                    Err(PollError::Detached) => return,
                    Err(error) => self.fail(&error.to_string()),
                }
                if number.is_multiple_of(POLLS_PER_TIME) {
                    now = Instant::now();
                    if self.poller_detaches.load(Ordering::Relaxed) {
                        let detached = poller.detach(STUCK);
                        return detached.unwrap_or_else(|error| self.fail(&error.to_string()));
                    }
                }
                if idle > 1000 {
                    idle = 0;
                    std::thread::yield_now();
                }
            }
            if random.below(2) == 0 {
                poller.pause();
                std::thread::sleep(Duration::from_micros(random.below(500)));
            }
        }
    }

    /// Resets again and again; returns how often.
    fn reset(&self, mut random: Random) -> u64 {
        let mut resets = 0;
        while !self.is_detached() {
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            let result = self.ctrlr.reset().and_then(|reset| reset.wait(STUCK));
            match result {
                Ok(()) => resets += 1,
                Err(ResetError::Detached) => break,
                Err(error) => {
                    self.fail(&error.to_string());
                    break;
                }
            }
        }
        resets
    }

    /// Makes queue pairs, does I/O on them through resets, and drops them, idle or not.
    fn use_queue_pairs(&self, mut random: Random) {
        while !self.is_detached() {
            let most = self.ctrlr.limits().map_or(2, |limits| limits.max_queue_entries).min(MOST_ENTRIES);
            let entries = 2 + random.below(u64::from(most) - 1) as u32;
            match QueuePair::request(&self.ctrlr, &QpairOptions { entries }) {
                Ok(mut qpair) => {
                    if let Err(error) = self.use_queue_pair(&mut qpair, &mut random) {
                        self.fail(&error.to_string());
                        return;
                    }
                    let dropped = qpair.outstanding() as u64;
                    self.ios.dropped.fetch_add(dropped, Ordering::Relaxed);
                }
                // The earlier ones are on their way out.
                Err(QpairError::NoneFree { .. }) => std::thread::yield_now(),
                Err(QpairError::Gone(None)) => return,
                Err(error) => return self.fail(&error.to_string()),
            }
        }
    }

    fn use_queue_pair(&self, qpair: &mut QueuePair, random: &mut Random) -> Result<(), QpairError> {
        let rounds = random.below(20_000);
        let mut round = 0;
        while round < rounds && !self.is_detached() {
            round += 1;
            if qpair.outstanding() < qpair.capacity() && qpair.is_connected() {
                self.submit(qpair, random);
            }
            let mut wrong = false;
            let polled = qpair.poll(usize::MAX, |completion| {
                self.ios.answered.fetch_add(1, Ordering::Relaxed);
                wrong |=
                    matches!(completion.outcome, Outcome::Completed(done) if !done.status().is_success());
            });
            if wrong {
                self.fail("an I/O that is right was refused");
            }
            match polled {
                Ok(0) => std::thread::yield_now(),
                Ok(_) => {}
                Err(QpairError::Gone(None)) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        if self.is_detached() {
            // Everything in flight comes back before the error does.
            while qpair
                .poll(usize::MAX, |_| {
                    self.ios.answered.fetch_add(1, Ordering::Relaxed);
                })
                .is_ok()
            {}
        }
        Ok(())
    }

    fn submit(&self, qpair: &mut QueuePair, random: &mut Random) {
        let Ok(buffer) = self.ctrlr.allocate(self.namespace.block_bytes as usize) else { return };
        let data = DmaSlice::from(buffer);
        let lba = random.below(self.namespace.size_blocks);
        let submitted = if self.may_write && random.below(2) == 0 {
            qpair.write(&self.namespace, lba, data, lba)
        } else {
            qpair.read(&self.namespace, lba, data, lba)
        };
        // A reset or a detach may have come in between: then it was not submitted.
        if submitted.is_ok() {
            self.ios.submitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Detaches, in one of three ways: from here, from here and from another thread at once, or from the poller's thread.
    fn detach(&self, way: u64) {
        let detach = || {
            if let Err(error) = self.ctrlr.detach(STUCK) {
                self.fail(&error.to_string());
            }
        };
        match way {
            0 => detach(),
            1 => scope(|threads| {
                threads.spawn(detach);
                detach();
            }),
            _ => {
                self.poller_detaches.store(true, Ordering::Relaxed);
                let deadline = Instant::now() + STUCK;
                while self.ctrlr.state() != slipring::ctrlr::CtrlrState::Detached && Instant::now() < deadline
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                detach();
            }
        }
        self.is_detached.store(true, Ordering::Relaxed);
    }
}
