//! `slipring compare`: the publication schemes against each other, doing the same work.
//!
//! | file | what |
//! |---|---|
//! | [`rig`] | one controller under one scheme, and the device that its polling thread steps |
//! | [`idle`], [`traffic`], [`storm`], [`detach`] | what is measured |
//! | [`ledger`] | every message by its number: lost, duplicated, or neither |
//! | [`machine`] | cores, load, steal, run-queue wait |
//! | [`raw`] | what cache lines take with no driver around them |
//! | [`figures`], [`report`] | what the rounds say together, for people and for programs |
//!
//! Here are the options, the order of the rounds, and how long each part of one takes.
#![forbid(unsafe_code)]

mod detach;
mod figures;
mod idle;
mod ledger;
mod machine;
mod raw;
mod report;
mod rig;
mod storm;
mod traffic;

use crate::device::Address;
use crate::error::Error;
use crate::numbers::{Random, fresh_seed};
use figures::Figures;
use ledger::Counts;
use machine::{Conditions, Cores};
use raw::Raw;
use rig::Rig;
use slipring::ring::rivals::{RobustMutex, Spinlock, SpinlockFlag};
use slipring::ring::{LockFree, Scheme};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use traffic::{Load, Style};

/// What to compare, and for how long.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each scheme does the same work on the same cores, in randomised order, round after round; one of them runs twice, as a \
    control. Exit status 1 when a message was lost or answered twice.\n\nExamples:\n  slipring compare\n  \
    slipring compare --rounds 15 --seconds 150 --json compare.json\n  slipring compare emulated:lba=4096 --seed 7"
)]
pub(crate) struct CompareArgs {
    /// The device to compare on
    #[arg(value_name = "ADDR", default_value = "emulated")]
    address: String,
    /// Rounds, each of which measures every scheme once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long it takes altogether, in seconds
    #[arg(long, value_name = "S", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// Decides the order within each round; random if not given, and printed
    #[arg(long, value_name = "X")]
    seed: Option<u64>,
    /// Write the figures to a file as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One of those that are compared.
#[derive(Debug)]
struct Entrant {
    name: &'static str,
    /// The same scheme a second time, to see how much of a difference is chance.
    is_control: bool,
    figures: Figures,
    counts: Counts,
}

impl Entrant {
    fn new(name: &'static str, is_control: bool) -> Self {
        Self { name, is_control, figures: Figures::default(), counts: Counts::default() }
    }
}

/// Everything that was found.
#[derive(Debug)]
struct Comparison {
    address: String,
    seed: u64,
    rounds: u32,
    duration: Duration,
    producers: usize,
    entrants: Vec<Entrant>,
    conditions: Conditions,
}

/// Runs the comparison.
pub(crate) fn run(args: &CompareArgs) -> Result<ExitCode, Error> {
    let address = Address::parse(&args.address)?;
    let cores = Cores::choose()?;
    crate::report::check_writable(args.json.as_deref())?;
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let started = Instant::now();
    let mut conditions = Conditions::before(&cores);
    let mut entrants: Vec<Entrant> = [LockFree::NAME, Spinlock::NAME, SpinlockFlag::NAME, RobustMutex::NAME]
        .into_iter()
        .map(|name| Entrant::new(name, false))
        .collect();
    entrants.push(Entrant::new(LockFree::NAME, true));
    // Attaching, starting threads and draining take the rest.
    let slot = Duration::from_secs(args.seconds.into()).mul_f64(0.9) / (args.rounds * entrants.len() as u32);
    let mut progress = Progress::new(args.rounds, entrants.len());
    let mut random = Random::new(seed);
    let mut rounds = 0;
    while rounds < args.rounds {
        // On a machine that is busy with something else all takes longer: then fewer rounds, within the time.
        let elapsed = started.elapsed();
        if rounds > 0 && elapsed + elapsed / rounds > Duration::from_secs(args.seconds.into()).mul_f64(1.1) {
            break;
        }
        rounds += 1;
        conditions.raw.push(Raw::measure(&cores, slot.mul_f64(0.1))?);
        let mut order: Vec<usize> = (0..entrants.len()).collect();
        shuffle(&mut order, &mut random);
        for index in order {
            let entrant = &mut entrants[index];
            progress.next(entrant.name);
            let slot = Slot { address: &address, cores: &cores, duration: slot };
            match entrant.name {
                LockFree::NAME => slot.measure::<LockFree>(entrant, &mut conditions)?,
                Spinlock::NAME => slot.measure::<Spinlock>(entrant, &mut conditions)?,
                SpinlockFlag::NAME => slot.measure::<SpinlockFlag>(entrant, &mut conditions)?,
                _ => slot.measure::<RobustMutex>(entrant, &mut conditions)?,
            }
        }
    }
    progress.end();
    conditions.after();
    let producers = cores.producers();
    let address = args.address.clone();
    let duration = started.elapsed();
    let comparison = Comparison { address, seed, rounds, duration, producers, entrants, conditions };
    crate::print(&report::text(&comparison))?;
    if let Some(path) = &args.json {
        crate::report::write_json(path, &report::json(&comparison))?;
    }
    let is_exact = comparison.entrants.iter().all(|entrant| entrant.counts.is_exact());
    Ok(if is_exact { ExitCode::SUCCESS } else { ExitCode::from(crate::error::FAILED) })
}

/// One scheme's part of one round.
struct Slot<'a> {
    address: &'a Address,
    cores: &'a Cores,
    duration: Duration,
}

impl Slot<'_> {
    /// `percent` of the slot's time.
    fn part(&self, percent: u32) -> Duration {
        self.duration * percent / 100
    }

    /// All measures of one scheme, on a controller of its own.
    fn measure<S: Scheme>(&self, entrant: &mut Entrant, conditions: &mut Conditions) -> Result<(), Error> {
        let mut rig = Rig::<S>::attach(self.address)?;
        if matches!(self.address, Address::Pci(_)) {
            conditions.model = rig.ctrlr.identity().map(|identity| identity.model());
        }
        self.idle(&mut rig, &mut entrant.figures)?;
        self.traffic(&mut rig, entrant)?;
        self.storm(&mut rig, entrant, conditions)?;
        let Entrant { figures, counts, .. } = entrant;
        for (key, left) in [("detach_ns", 0), ("detach_left_ns", detach::LEFT)] {
            let detach = detach::message_path(&mut rig, self.cores, left, self.part(3))?;
            figures.add_latency(key, &detach.latency);
            counts.add(&detach.counts);
        }
        let (took, counted) = detach::controller(rig, self.cores)?;
        figures.add("detach_ctrlr_ns", took.as_nanos() as f64);
        counts.add(&counted);
        Ok(())
    }

    fn idle<S: Scheme>(&self, rig: &mut Rig<S>, figures: &mut Figures) -> Result<(), Error> {
        // On the core that polls later, from a thread of its own: the main thread stays unpinned.
        let (external, whole) = std::thread::scope(|scope| {
            let measuring = scope.spawn(|| -> Result<(f64, f64), Error> {
                machine::pin(self.cores.poller)?;
                Ok((idle::external_ns::<S>(self.part(3)), idle::whole_ns(rig, self.part(3))?))
            });
            measuring.join().map_err(|_| Error::failed("the polling thread panicked"))?
        })?;
        figures.add("idle_external_ns", external);
        figures.add("idle_poll_ns", whole);
        Ok(())
    }

    fn traffic<S: Scheme>(&self, rig: &mut Rig<S>, entrant: &mut Entrant) -> Result<(), Error> {
        let Entrant { figures, counts, .. } = entrant;
        let load = |style, producers, with_io, percent| Load {
            style,
            producers,
            with_io,
            duration: self.part(percent),
        };
        let mut run = |load| -> Result<traffic::Traffic, Error> {
            let traffic = traffic::run(rig, self.cores, load)?;
            counts.add(&traffic.counts);
            Ok(traffic)
        };
        let alone = run(load(Style::Stream, 1, false, 6))?;
        figures.add("message_ns", 1e9 / alone.messages_per_s);
        let batches = run(load(Style::Batches, 1, false, 5))?;
        figures.add("message_batch_ns", 1e9 / batches.messages_per_s);
        let ping_pong = run(load(Style::PingPong, 1, false, 5))?;
        figures.add_latency("ping_pong_ns", &ping_pong.latency);
        let one = run(load(Style::Stream, 1, true, 8))?;
        figures.add("messages_per_s", one.messages_per_s);
        figures.add_latency("message_latency_ns", &one.latency);
        figures.add("io_iops", one.io_per_s);
        figures.add_latency("io_latency_ns", &one.io_latency);
        let many = run(load(Style::Stream, self.cores.producers(), true, 6))?;
        figures.add("messages_many_per_s", many.messages_per_s);
        let none = run(load(Style::Stream, 0, true, 3))?;
        figures.add("io_alone_iops", none.io_per_s);
        Ok(())
    }

    fn storm<S: Scheme>(
        &self,
        rig: &mut Rig<S>,
        entrant: &mut Entrant,
        conditions: &mut Conditions,
    ) -> Result<(), Error> {
        let Entrant { figures, counts, .. } = entrant;
        let calm = storm::run(rig, self.cores, 0, self.part(16))?;
        figures.add_latency("calm_poll_ns", &calm.poll);
        figures.add("calm_stall_ms", calm.stall_ms_per_s);
        figures.add("calm_machine_ms", calm.machine_ms_per_s);
        conditions.poller_wait.push(calm.wait_share);
        let storm = storm::run(rig, self.cores, storm::CYCLES_PER_S, self.part(38))?;
        figures.add_latency("storm_poll_ns", &storm.poll);
        figures.add("storm_stall_ms", storm.stall_ms_per_s);
        figures.add("storm_machine_ms", storm.machine_ms_per_s);
        figures.add("storm_cycles_per_s", storm.cycles_per_s);
        counts.add(&storm.counts);
        Ok(())
    }
}

/// What is being measured, on the standard error.
struct Progress {
    of: usize,
    rounds: u32,
    entrants: usize,
    done: usize,
    is_terminal: bool,
}

impl Progress {
    fn new(rounds: u32, entrants: usize) -> Self {
        let of = rounds as usize * entrants;
        Self { of, rounds, entrants, done: 0, is_terminal: std::io::stderr().is_terminal() }
    }

    fn next(&mut self, name: &str) {
        let (round, rounds) = (self.done / self.entrants + 1, self.rounds);
        let percent = self.done * 100 / self.of;
        // Who does not listen misses nothing.
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K{percent:3} % round {round} of {rounds}: {name}");
        } else if self.done.is_multiple_of(self.entrants) {
            let _ = writeln!(std::io::stderr(), "{percent:3} % round {round} of {rounds}");
        }
        self.done += 1;
    }

    fn end(&self) {
        if self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Puts `items` into an order that is a matter of `random`'s seed.
fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, (random.next() % (last as u64 + 1)) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_a_matter_of_the_seed() {
        let order = |seed| {
            let mut items: Vec<u32> = (0..50).collect();
            shuffle(&mut items, &mut Random::new(seed));
            items
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..50).collect::<Vec<_>>());
    }

    /// A whole round on every scheme, too short for its figures to mean anything, but every message is counted.
    #[test]
    fn a_short_comparison_measures_everything_and_loses_nothing() {
        let address = Address::parse("emulated:size=1M").unwrap();
        let Ok(cores) = Cores::choose() else { return };
        let slot = Slot { address: &address, cores: &cores, duration: Duration::from_millis(300) };
        let mut conditions = Conditions::before(&cores);
        let mut entrant = Entrant::new(LockFree::NAME, false);
        slot.measure::<LockFree>(&mut entrant, &mut conditions).unwrap();
        slot.measure::<Spinlock>(&mut entrant, &mut conditions).unwrap();
        slot.measure::<SpinlockFlag>(&mut entrant, &mut conditions).unwrap();
        slot.measure::<RobustMutex>(&mut entrant, &mut conditions).unwrap();
        let Counts { sent, completed, aborted, lost, duplicated, .. } = entrant.counts;
        assert!(sent > 0 && completed > 0);
        assert_eq!((lost, duplicated), (0, 0));
        assert_eq!(sent, completed + aborted);
        for metric in figures::METRICS {
            let value =
                entrant.figures.get(metric).unwrap_or_else(|| panic!("{} was not measured", metric.key));
            assert!(value.middle.is_finite(), "{}: {value:?}", metric.key);
        }
    }
}
