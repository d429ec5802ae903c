//! Storms: everything at once, on real threads, under each scheme. Producers register, send and unregister under each other's hands; queue pairs come and go
//! with I/O in flight; the controller is reset, its poller dropped and seated again, and in the end detached, in a calm or in the middle of it all;
//! then it is attached again, and its device goes wrong in every way that the driver recovers from, and in the end in one that it does not. Every accepted
//! message has exactly one outcome, every I/O comes back exactly once with its data right, and nobody is stuck.
//!
//! `ledger` keeps the books of messages, `round` is what the threads share, `threads` and `io` are the threads.
#![allow(unreachable_pub, reason = "a test target exports nothing")]

mod io;
mod ledger;
mod round;
#[path = "../support/mod.rs"]
mod support;
mod threads;

use io::io_thread;
use ledger::Ledger;
use round::{Counts, Random, Round};
use slipring::ctrlr::{CtrlrOptions, CtrlrState, Timeouts};
use slipring::emulated::{Backing, Config, Faults, NamespaceConfig};
use slipring::ring::{LockFree, Scheme, rivals};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::{DEADLINE, Rig};
use threads::{poller_thread, registrar_thread, resetter_thread, sender_thread};

const BLOCK_BYTES: usize = 4096;
const NAMESPACE_BLOCKS: u64 = 1 << 20;
const ROUNDS: u64 = 4;
/// Far beyond what a round takes on the slowest machine: whoever has not done his share by then never will.
const ROUND_MAX: Duration = Duration::from_secs(180);

/// What a round's device does, and how the round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// No faults; everybody stops, and then the controller is detached.
    Calm,
    /// No faults; detached in the middle of it.
    Sudden,
    /// Commands that hang, are lost, late or refused, and fatal statuses: aborts and resets of the driver's own, until everybody has stopped.
    Faults,
    /// The same, and a fault that the controller does not survive; detached in the middle of that.
    Failure,
}

impl Weather {
    fn of_round(round: u64) -> Self {
        [Self::Calm, Self::Sudden, Self::Faults, Self::Failure][(round % 4) as usize]
    }

    fn has_faults(self) -> bool {
        matches!(self, Self::Faults | Self::Failure)
    }

    /// What goes wrong, by chance. Nothing that bring-up depends on, or a reset would fail for it.
    fn faults(self, random: &mut Random) -> Faults {
        if !self.has_faults() {
            return Faults::default();
        }
        let by_chance = [
            "hang queue=io chance=1/1500",
            "drop queue=io chance=1/1500",
            "stale-phase queue=io chance=1/5000",
            "fatal queue=io chance=1/5000",
            "delay=2ms queue=io chance=1/100",
            "status=internal-error queue=io chance=1/100",
            "status=internal-error opcode=get-log-page chance=1/20",
            "drop opcode=get-features chance=1/500",
            "hang opcode=abort chance=1/4",
        ];
        let mut lines: Vec<String> =
            by_chance.iter().map(|fault| format!("{fault} seed={}", random.below(1 << 32))).collect();
        if self == Self::Failure {
            let effects = ["remove", "registers=ones", "registers=zero", "wrong-cid", "wrong-sqhd"];
            let effect = effects[random.below(effects.len() as u64) as usize];
            // From then on, as the first may meet a queue pair that nobody looks at any more.
            lines.push(format!("{effect} queue=io nth={}..", 100 + random.below(400)));
        }
        lines.join("\n").parse().expect("right descriptions")
    }
}

/// Short ones, so that what hangs is found while the storm goes on, and as many resets as it takes.
fn timeouts() -> Timeouts {
    Timeouts {
        io: Duration::from_millis(100),
        admin: Duration::from_millis(100),
        abort: Duration::from_millis(50),
        resets_per_minute: u32::MAX,
        ..Timeouts::default()
    }
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

fn config(faults: Faults) -> Config {
    let namespace = NamespaceConfig {
        size_bytes: NAMESPACE_BLOCKS * BLOCK_BYTES as u64,
        lba_bytes: BLOCK_BYTES as u32,
        backing: Backing::Ram,
    };
    Config { namespaces: vec![namespace], io_queues: 8, faults, ..Config::default() }
}

/// What was dropped in flight is given back once the device has deleted its queues, and somebody looks.
fn await_calm<S: Scheme>(rig: &Rig<S>, calm_bytes: usize) {
    let started = Instant::now();
    let mut bytes = 0;
    while started.elapsed() < DEADLINE {
        drop(rig.ctrlr.register("sweeper").expect("live"));
        rig.ctrlr.unregister("sweeper", DEADLINE).expect("unregistered");
        bytes = rig.ctrlr.dma_bytes().0;
        if bytes == calm_bytes {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(bytes, calm_bytes, "no DMA memory is lost in the storm");
}

/// One life of a controller in the storm, from attach to detach.
fn storm_round<S: Scheme>(seed: u64, weather: Weather) -> Sums {
    let random = |n: u64| Random(fastrand::Rng::with_seed(seed + n));
    // Small, so that rings and queues are full at times.
    let options = CtrlrOptions {
        ring_slots: 64,
        external_queue_entries: 8,
        admin_queue_entries: 16,
        timeouts: if weather.has_faults() { timeouts() } else { Timeouts::default() },
        ..CtrlrOptions::default()
    };
    let rig: Rig<S> = Rig::attach_with(config(weather.faults(&mut random(9))), options);
    let calm_bytes = rig.ctrlr.dma_bytes().0;
    let round = Arc::new(Round {
        ctrlr: rig.ctrlr.clone(),
        weather,
        ledger: Arc::new(Ledger::new()),
        stop: AtomicBool::new(false),
        stop_polling: AtomicBool::new(false),
        producers: Mutex::new(vec![None; 3]),
        next_life: AtomicU64::new(0),
        counts: Counts::default(),
    });
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
    while !round.has_had_enough() {
        let late = started.elapsed() > ROUND_MAX;
        assert!(
            !late,
            "{weather:?}, seed {seed}: somebody has not done his share: {:?}, {:?}",
            round.counts, rig.ctrlr
        );
        // Events come in too.
        hot = !hot;
        rig.transport.set_temperature_k(if hot { 400 } else { 310 });
        std::thread::sleep(Duration::from_millis(5));
    }
    if matches!(weather, Weather::Calm | Weather::Faults) {
        round.stop.store(true, Ordering::Relaxed);
        for _ in 0..threads.len() - 1 {
            ended.recv_timeout(2 * DEADLINE).expect("all but the poller end");
        }
        await_calm(&rig, calm_bytes);
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
    // No goodbye to a device that has failed; which may find too late that a doorbell was rung before it was stopped.
    let is_excused = |violation: &String| {
        weather == Weather::Failure
            && ["was closed without a shutdown notification", "while bus mastering is off"]
                .iter()
                .any(|words| violation.contains(words))
    };
    let violations: Vec<_> =
        rig.transport.violations().into_iter().filter(|violation| !is_excused(violation)).collect();
    assert_eq!(violations, Vec::<String>::new(), "rules that the driver broke, {weather:?}, seed {seed}");
    let faults_met = rig.transport.faults_met().iter().sum();
    let failed = u64::from(rig.ctrlr.failure().is_some());
    Sums {
        sent,
        completed,
        aborted,
        faults_met,
        failed,
        counts: Arc::into_inner(round).expect("all threads have ended").counts,
    }
}

/// What one round came to.
#[derive(Debug)]
struct Sums {
    sent: u64,
    completed: u64,
    aborted: u64,
    faults_met: u64,
    failed: u64,
    counts: Counts,
}

fn storm<S: Scheme>() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    let seed = now.as_nanos() as u64;
    let mut rounds: Vec<Sums> = Vec::new();
    // That it was a storm; on a busy machine some of it takes more rounds to happen.
    while (rounds.len() as u64) < ROUNDS || !is_storm(&rounds) {
        let round = rounds.len() as u64;
        assert!(round < 16 * ROUNDS, "{} of seed {seed} was no storm: {rounds:#?}", S::NAME);
        rounds.push(storm_round::<S>(seed + 100 * round, Weather::of_round(round)));
    }
}

/// Whether everything that makes a storm has happened.
fn is_storm(rounds: &[Sums]) -> bool {
    let happened = |of: fn(&Sums) -> u64| rounds.iter().any(|round| of(round) > 0);
    let counted = |of: fn(&Counts) -> &AtomicU64| {
        rounds.iter().any(|round| of(&round.counts).load(Ordering::Relaxed) > 0)
    };
    happened(|round| round.sent)
        && happened(|round| round.completed)
        && happened(|round| round.aborted)
        && happened(|round| round.faults_met)
        && happened(|round| round.failed)
        && counted(|counts| &counts.registrations)
        && counted(|counts| &counts.refused)
        && counted(|counts| &counts.resets)
        && counted(|counts| &counts.reconnects)
        && counted(|counts| &counts.pollers)
        && counted(|counts| &counts.lives)
        && counted(|counts| &counts.dropped_in_flight)
        && counted(|counts| &counts.ios)
        && counted(|counts| &counts.verified)
        && counted(|counts| &counts.given_back)
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
