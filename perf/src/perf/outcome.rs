//! What a run came to: the table, the JSON object, and the exit status.
#![forbid(unsafe_code)]

use super::args::PerfArgs;
use super::plan::Plan;
use super::worker::{Tally, Worker};
use crate::error::Error;
use crate::latency::{Histogram, Latency};
use crate::report::{nanoseconds, table, thousands};
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;

const PERCENTILES: [f64; 13] =
    [1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 99.999];

/// The result under the keys of `docs/JSON.md`.
#[derive(Debug, Serialize)]
pub(super) struct Json {
    address: String,
    pattern: &'static str,
    read_percent: u8,
    namespaces: Vec<u32>,
    workers: usize,
    cores: Vec<usize>,
    qpairs: u32,
    queue_depth: u32,
    io_size_bytes: u64,
    rate: Option<f64>,
    seed: u64,
    duration_s: f64,
    iops: f64,
    bytes_per_s: f64,
    ios: u64,
    reads: u64,
    writes: u64,
    errors: u64,
    ended_early: Option<String>,
    not_started: u64,
    verify: bool,
    verified_blocks: u64,
    wrong_blocks: u64,
    latency_ns: Latency,
}

/// Everything that is reported.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) json: Json,
    histogram: Histogram,
    first_error: Option<String>,
    first_wrong: Option<String>,
}

impl Summary {
    pub(super) fn of(args: &PerfArgs, plan: &Plan, workers: &[Worker]) -> Self {
        let mut all = Tally::new();
        let mut iops = 0.0;
        for Worker { tally, .. } in workers {
            all.histogram.add(&tally.histogram);
            all.reads += tally.reads;
            all.writes += tally.writes;
            all.not_started += tally.not_started;
            all.duration_ns = all.duration_ns.max(tally.duration_ns);
            all.found.errors += tally.found.errors;
            all.found.verified_blocks += tally.found.verified_blocks;
            all.found.wrong_blocks += tally.found.wrong_blocks;
            if tally.duration_ns > 0 {
                iops += (tally.reads + tally.writes) as f64 * 1e9 / tally.duration_ns as f64;
            }
        }
        let first_error = workers.iter().find_map(|worker| worker.tally.found.first_error.clone());
        let first_wrong = workers.iter().find_map(|worker| worker.tally.found.first_wrong.as_ref());
        let read_percent = match args.pattern {
            pattern if pattern.is_mixed() => args.read_share.unwrap_or(50),
            pattern => {
                if pattern.writes() {
                    0
                } else {
                    100
                }
            }
        };
        let json = Json {
            address: args.address.clone(),
            pattern: args.pattern.name(),
            read_percent,
            namespaces: plan.namespaces.iter().map(|namespace| namespace.nsid).collect(),
            workers: plan.workers(),
            cores: plan.cores.clone(),
            qpairs: args.qpairs,
            queue_depth: args.queue_depth,
            io_size_bytes: args.io_size,
            rate: args.rate,
            seed: plan.seed,
            duration_s: all.duration_ns as f64 / 1e9,
            iops,
            bytes_per_s: iops * args.io_size as f64,
            ios: all.reads + all.writes,
            reads: all.reads,
            writes: all.writes,
            errors: all.found.errors,
            ended_early: ended_early(plan, workers),
            not_started: all.not_started,
            verify: args.verify,
            verified_blocks: all.found.verified_blocks,
            wrong_blocks: all.found.wrong_blocks,
            latency_ns: all.histogram.summary(),
        };
        Self {
            json,
            histogram: all.histogram,
            first_error,
            first_wrong: first_wrong.map(ToString::to_string),
        }
    }

    /// The tables.
    pub(super) fn text(&self, with_percentiles: bool) -> String {
        let Json { latency_ns: latency, .. } = &self.json;
        let mut text = self.what() + "\n";
        let shown = |ns: u64| nanoseconds(ns as f64);
        let row = vec![
            thousands(self.json.iops as u64),
            format!("{:.1}", self.json.bytes_per_s / f64::from(1 << 20)),
            nanoseconds(latency.mean),
            shown(latency.min),
            shown(latency.p50),
            shown(latency.p99),
            shown(latency.p99_9),
            shown(latency.max),
        ];
        let header = ["IOPS", "MiB/s", "mean", "min", "p50", "p99", "p99.9", "max"];
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "{}", table(&header, [row]));
        if with_percentiles {
            let rows = PERCENTILES
                .map(|percent| vec![format!("{percent} %"), shown(self.histogram.percentile(percent))]);
            let _ = writeln!(text, "{}", table(&["of all I/Os", "took at most"], rows));
        }
        let Json { errors, not_started, verified_blocks, wrong_blocks, .. } = self.json;
        if self.json.verify {
            let (right, wrong) = (thousands(verified_blocks), thousands(wrong_blocks));
            let _ = writeln!(
                text,
                "verified: {right} blocks were right, {wrong} wrong (seed {})",
                self.json.seed
            );
        }
        if not_started > 0 {
            let _ = writeln!(
                text,
                "behind the rate: {} I/Os were due and not begun when the time was up",
                thousands(not_started)
            );
        }
        if errors > 0 {
            let _ = writeln!(text, "{} I/Os failed", thousands(errors));
        }
        if let Some(why) = &self.json.ended_early {
            let _ = writeln!(text, "ended early: {why}");
        }
        text
    }

    fn what(&self) -> String {
        let Json { pattern, queue_depth, io_size_bytes, workers, qpairs, duration_s, .. } = &self.json;
        let nsids = self.json.namespaces.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let loop_kind = match self.json.rate {
            Some(rate) => format!("open loop of {rate} per second"),
            None => "closed loop".to_owned(),
        };
        format!(
            "{}: {pattern}, {io_size_bytes} bytes, queue depth {queue_depth}, {qpairs} queue pairs per worker and namespace, \
             {workers} workers, namespaces {nsids}; {loop_kind}, {duration_s:.2} s",
            self.json.address
        )
    }

    /// How the run ends for the shell.
    pub(super) fn verdict(&self) -> Result<ExitCode, Error> {
        if let Some(wrong) = &self.first_wrong {
            return Err(Error::failed(wrong));
        }
        if let Some(why) = &self.json.ended_early {
            let Json { address, duration_s, .. } = &self.json;
            return Err(Error::failed(format!("{address} ended early, after {duration_s:.1} s: {why}")));
        }
        if let Some(error) = &self.first_error {
            let errors = thousands(self.json.errors);
            return Err(Error::failed(format!("{errors} I/Os failed, the first one being {error}")));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Why the run was not as long as it was to be: the controller failed, or is wanted back.
fn ended_early(plan: &Plan, workers: &[Worker]) -> Option<String> {
    if let Some(failure) = plan.session.ctrlr.failure() {
        return Some(failure.to_string());
    }
    if plan.is_asked_back() {
        return Some("the system wants the device back".to_owned());
    }
    workers.iter().find_map(|worker| worker.tally.lost.clone())
}
