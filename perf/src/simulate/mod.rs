//! `slipring simulate`: worlds in which everything happens in an order drawn from a seed, on one thread, with a clock of their own, against a device that
//! does wrong what the seed says; and an oracle that knows what may be. What a world is made of is in `setup`, what happens in it in `world`, `io` and `messages`,
//! what must be true in `oracle` and `end`.
#![forbid(unsafe_code)]

mod end;
mod io;
mod messages;
mod oracle;
mod plan;
mod setup;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

use crate::error::Error;
use crate::numbers;
use crate::report::{self, table, thousands};
use plan::{Plan, Skips};
use serde::Serialize;
use setup::Setup;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;
use world::{Counts, Ending, Sabotage};

/// Failures that are looked into; more are not needed.
const FAILURES: usize = 5;
/// Steps of one world, unless another number is asked for.
const STEPS: u64 = 400;

/// What to simulate.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  slipring simulate --seeds 1000\n  slipring simulate --seed 7 --steps 400 --trace\n\n\
    A failure is shrunk, and said with the line that repeats it. --skip and --without come from such lines."
)]
pub(crate) struct SimulateArgs {
    /// Seed of the first world [default: another one each time]
    #[arg(long, value_name = "X")]
    seed: Option<u64>,
    /// How many worlds, each with the next seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
    /// Steps of each world, before its end
    #[arg(long, value_name = "N", default_value_t = STEPS)]
    steps: u64,
    /// Steps to leave out, such as 3,7,10-19
    #[arg(long, value_name = "STEPS")]
    skip: Option<Skips>,
    /// Faults to leave out, by their places among those that the seed draws
    #[arg(long, value_name = "PLACES", value_delimiter = ',')]
    without: Vec<usize>,
    /// Worlds at a time, each on a thread of its own [default: as many as there are cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Say on the standard error what happens, step by step
    #[arg(long)]
    trace: bool,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// A world in which something happened that must not.
#[derive(Clone, Debug, Serialize)]
struct Failure {
    seed: u64,
    what: String,
    /// The command line that repeats it.
    repeat: String,
    /// What was wrong with the device, as drawn; those that matter.
    faults: Vec<String>,
}

/// The result under the keys of `docs/JSON.md`.
#[derive(Debug, Serialize)]
struct Json {
    first_seed: u64,
    steps_each: u64,
    duration_s: f64,
    #[serde(flatten)]
    counts: Counts,
    failures: Vec<Failure>,
}

/// Runs one world to its end; a panic in it is a failure like others.
fn live(plan: &Plan, setup: Setup, sabotage: Option<Sabotage>, trace: bool) -> Ending {
    catch_unwind(AssertUnwindSafe(|| world::run(plan, setup, sabotage, trace))).unwrap_or_else(|panic| {
        let failure = Some((None, format!("panicked: {}", words_of(&*panic))));
        Ending { counts: Counts { worlds: 1, ..Counts::default() }, failure }
    })
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<&str>().copied();
    words.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// Makes the plan of a failure as small as it gets.
fn look_into(plan: &Plan, what: String) -> Failure {
    let faults = Setup::draw(plan).drawn;
    let fails = |plan: &Plan| {
        let failure = live(plan, Setup::draw(plan), None, false).failure;
        failure.map(|(step, _)| step)
    };
    let smallest = shrink::shrink(plan, faults.list().len(), fails);
    let what = live(&smallest, Setup::draw(&smallest), None, false).failure.map_or(what, |(_, what)| what);
    let faults = Setup::draw(&smallest).config.faults;
    let faults = faults.list().iter().map(ToString::to_string).collect();
    Failure { seed: plan.seed, what, repeat: smallest.to_string(), faults }
}

/// Runs `seeds` worlds on `threads` threads.
fn run_all(first: &Plan, seeds: u64, threads: usize, trace: bool) -> (Counts, Vec<Failure>) {
    let next = AtomicU64::new(0);
    let total = Mutex::new((Counts::default(), Vec::new()));
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    // Relaxed: a number for each, ordered with nothing.
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= seeds || lock().1.len() >= FAILURES || crate::interrupt::came() {
                        return;
                    }
                    let plan = Plan { seed: first.seed.wrapping_add(index), ..first.clone() };
                    let Ending { counts, failure } = live(&plan, Setup::draw(&plan), None, trace);
                    let failure = failure.map(|(_, what)| look_into(&plan, what));
                    let mut total = lock();
                    total.0.add(&counts);
                    total.1.extend(failure);
                }
            });
        }
    });
    let (counts, mut failures) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    failures.sort_by_key(|failure| failure.seed);
    (counts, failures)
}

/// Simulates, and reports.
pub(crate) fn run(args: &SimulateArgs) -> Result<ExitCode, Error> {
    report::check_writable(args.json.as_deref())?;
    if args.seeds == 0 || args.threads == Some(0) {
        return Err(Error::input("0 worlds show nothing: expected 1 or more (--seeds, --threads)"));
    }
    let seed = args.seed.unwrap_or_else(numbers::fresh_seed);
    let skips = args.skip.clone().unwrap_or_default();
    let first = Plan { skips, without: args.without.clone(), ..Plan::new(seed, args.steps) };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    crate::interrupt::catch()?;
    if args.seed.is_none() {
        crate::print(&format!("seed {seed}\n"))?;
    }
    let begin = Instant::now();
    let (counts, failures) = run_all(&first, args.seeds, args.threads.unwrap_or(cores), args.trace);
    let duration_s = begin.elapsed().as_secs_f64();
    let json = Json { first_seed: seed, steps_each: args.steps, duration_s, counts, failures };
    crate::print(&json.tables())?;
    if let Some(path) = &args.json {
        report::write_json(path, &json)?;
    }
    match json.failures.as_slice() {
        [] => Ok(ExitCode::SUCCESS),
        failures => {
            let first = &failures[0];
            let more = failures.len() - 1;
            Err(Error::failed(format!("{} (to repeat: {}; {more} more failures)", first.what, first.repeat)))
        }
    }
}

impl Json {
    fn tables(&self) -> String {
        let Counts { worlds, steps, requests, messages, completed, aborted, refused, .. } = self.counts;
        let header = ["worlds", "steps", "requests", "messages", "completed", "aborted", "refused"];
        let row = [worlds, steps, requests, messages, completed, aborted, refused].map(thousands).to_vec();
        let happened = table(&header, [row]);
        let Counts { resets, detaches, failed_attaches, failed_controllers, faults_met, .. } = self.counts;
        let header =
            ["resets", "detaches", "attaches refused", "controllers failed", "faults met", "seconds"];
        let mut row =
            [resets, detaches, failed_attaches, failed_controllers, faults_met].map(thousands).to_vec();
        row.push(format!("{:.1}", self.duration_s));
        let mut text = format!("What happened\n{happened}\nAround it\n{}\n", table(&header, [row]));
        for Failure { what, repeat, faults, .. } in &self.failures {
            let faults: Vec<_> = faults.iter().map(|fault| format!("  fault:  {fault}\n")).collect();
            text += &["\nfailed: ", what, "\n  repeat: ", repeat, "\n", &faults.concat()].concat();
        }
        text
    }
}
