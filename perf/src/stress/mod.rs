//! `slipring stress`: controllers that are registered with, sent to, reset, used, detached and attached again, all at once, on real threads,
//! with every message counted.
#![forbid(unsafe_code)]

mod episode;
mod ledger;
mod sender;

use crate::device::Address;
use crate::error::Error;
use crate::interrupt;
use crate::numbers::{self, Random};
use crate::report::{self, table, thousands};
use ledger::Sum;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long one controller lives, at most.
const LONGEST_EPISODE_US: u64 = 300_000;
const PROGRESS: Duration = Duration::from_secs(5);

/// How much of a storm.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  slipring stress emulated --seconds 10\n  \
    slipring stress emulated:queues=2,latency_us=50 --seconds 3600 --seed 7 --json storm.json\n\n\
    Image files are only read. Threads decide the same for the same seed; when they run is the system's choice.")]
pub(crate) struct StressArgs {
    /// Address of the device, as in `slipring list`
    #[arg(value_name = "ADDR")]
    address: String,
    /// For how long
    #[arg(long, value_name = "S", default_value = "10", value_parser = numbers::seconds)]
    seconds: Duration,
    /// Seed of all decisions [default: another one each time]
    #[arg(long, value_name = "X")]
    seed: Option<u64>,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The result under the keys of `docs/JSON.md`.
#[derive(Debug, Serialize)]
struct Json {
    address: String,
    seed: u64,
    duration_s: f64,
    #[serde(flatten)]
    sum: Sum,
    register_cycles: u64,
    attach_cycles: u64,
    resets: u64,
    ios: u64,
    ios_lost: u64,
    failure: Option<String>,
}

/// Storms, and reports.
pub(crate) fn run(args: &StressArgs) -> Result<ExitCode, Error> {
    if args.seconds.is_zero() {
        return Err(Error::input("a storm of 0 seconds shows nothing: expected seconds above 0 (--seconds)"));
    }
    let address = Address::parse(&args.address)?;
    report::check_writable(args.json.as_deref())?;
    let seed = args.seed.unwrap_or_else(numbers::fresh_seed);
    interrupt::catch()?;
    let repeat =
        format!("slipring stress {} --seconds {} --seed {seed}", args.address, args.seconds.as_secs_f64());
    crate::print(&format!("seed {seed}; to repeat: {repeat}\n"))?;
    let mut random = Random::new(seed);
    let mut json = Json {
        address: args.address.clone(),
        seed,
        duration_s: 0.0,
        sum: Sum::default(),
        register_cycles: 0,
        attach_cycles: 0,
        resets: 0,
        ios: 0,
        ios_lost: 0,
        failure: None,
    };
    let begin = Instant::now();
    let mut shown_at = begin;
    while begin.elapsed() < args.seconds && json.is_clean() && !interrupt::came() {
        let length = Duration::from_micros(1 + random.below(LONGEST_EPISODE_US));
        let left = args.seconds.saturating_sub(begin.elapsed());
        let life = episode::live(&address, length.min(left), random.next())?;
        json.sum += life.sum;
        json.register_cycles += life.register_cycles;
        json.attach_cycles += 1;
        json.resets += life.resets;
        json.ios += life.ios;
        json.ios_lost += life.ios_lost;
        json.failure = life.failure;
        json.duration_s = begin.elapsed().as_secs_f64();
        if shown_at.elapsed() >= PROGRESS {
            shown_at = Instant::now();
            // Progress that nobody can see is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{:6.0} s  {}", json.duration_s, json.line());
        }
    }
    crate::print(&json.tables())?;
    if let Some(path) = &args.json {
        report::write_json(path, &json)?;
    }
    json.verdict(&repeat)
}

impl Json {
    fn is_clean(&self) -> bool {
        self.sum.is_clean() && self.ios_lost == 0 && self.failure.is_none()
    }

    fn line(&self) -> String {
        let Sum { sent, lost, duplicated, .. } = self.sum;
        let (sent, attached) = (thousands(sent), thousands(self.attach_cycles));
        format!("{sent} messages sent, {lost} lost, {duplicated} duplicated, {attached} controllers attached")
    }

    fn tables(&self) -> String {
        let Sum { sent, completed, aborted, rejected, lost, duplicated, wrong } = self.sum;
        let header = ["sent", "completed", "aborted", "rejected", "lost", "duplicated", "wrong"];
        let row = [sent, completed, aborted, rejected, lost, duplicated, wrong].map(thousands).to_vec();
        let messages = table(&header, [row]);
        let header = ["register cycles", "attach cycles", "resets", "I/Os", "I/Os lost", "seconds"];
        let numbers = [self.register_cycles, self.attach_cycles, self.resets, self.ios, self.ios_lost];
        let mut row = numbers.map(thousands).to_vec();
        row.push(format!("{:.1}", self.duration_s));
        format!("Messages\n{messages}\nAround them\n{}\n", table(&header, [row]))
    }

    fn verdict(&self, repeat: &str) -> Result<ExitCode, Error> {
        if self.is_clean() {
            return Ok(ExitCode::SUCCESS);
        }
        let Sum { lost, duplicated, wrong, .. } = self.sum;
        let what = match &self.failure {
            Some(failure) => failure.clone(),
            None => format!(
                "{lost} messages were lost, {duplicated} answered more than once, {wrong} answered wrongly, {} I/Os lost",
                self.ios_lost
            ),
        };
        Err(Error::failed(format!("{what} (seed {}; to repeat: {repeat})", self.seed)))
    }
}
