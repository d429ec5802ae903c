//! `slipring perf`: I/O at full speed or at a given rate, its latencies, and whether the data were right.
#![forbid(unsafe_code)]

mod args;
mod lane;
mod outcome;
mod plan;
mod stamp;
mod worker;

pub(crate) use args::PerfArgs;

use crate::error::Error;
use crate::interrupt;
use crate::latency::Clock;
use crate::report;
use lane::Work;
use outcome::Summary;
use plan::Plan;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use worker::{Shared, Worker};

/// How often the main thread looks at the time, at Ctrl-C and at the workers.
const TICK: Duration = Duration::from_millis(50);
const PROGRESS: Duration = Duration::from_secs(1);

/// Runs the I/O and reports.
pub(crate) fn run(args: &PerfArgs) -> Result<ExitCode, Error> {
    let clock = Clock::new();
    let mut plan = Plan::make(args)?;
    let mut workers = plan.workers_for(args, &clock)?;
    interrupt::catch()?;
    let (summary, plan) = work(args, plan, &mut workers)?;
    drop(workers);
    let closed = plan.session.close();
    crate::print(&summary.text(args.latency))?;
    if let Some(path) = &args.json {
        report::write_json(path, &summary.json)?;
    }
    closed?;
    summary.verdict()
}

fn work(args: &PerfArgs, mut plan: Plan, workers: &mut [Worker]) -> Result<(Summary, Plan), Error> {
    if plan.fills_first {
        plan = pass(args, plan, workers, Work::Fill)?;
    }
    let is_lost = |plan: &Plan, workers: &[Worker]| {
        plan.is_asked_back() || workers.iter().any(|worker| worker.tally.lost.is_some())
    };
    if !is_lost(&plan, workers) {
        plan = pass(args, plan, workers, Work::Pattern)?;
    }
    let checks = args.verify && args.pattern.writes() && !is_lost(&plan, workers);
    if checks && workers.iter().all(|worker| worker.tally.found.wrong_blocks == 0) {
        plan = pass(args, plan, workers, Work::Check)?;
    }
    Ok((Summary::of(args, &plan, workers), plan))
}

/// Has all workers do `work`, each on a thread of its own, and shows how they get on.
fn pass(args: &PerfArgs, plan: Plan, workers: &mut [Worker], work: Work) -> Result<Plan, Error> {
    let shared = Shared::new(workers.len());
    let Plan { session, namespaces, cores, seed, fills_first, asked_back } = plan;
    let crate::device::Session { poller, ctrlr, device } = session;
    workers[0].poller = Some(poller);
    let result = std::thread::scope(|scope| {
        let shared = &shared;
        let mut threads = Vec::with_capacity(workers.len());
        for (number, worker) in workers.iter_mut().enumerate() {
            let builder = std::thread::Builder::new().name(format!("perf-{number}"));
            match builder.spawn_scoped(scope, move || worker.run(work, number, shared)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    shared.stop();
                    return Err(Error::failed(format!("cannot start a worker's thread: {error}")));
                }
            }
        }
        let is_over = || threads.iter().all(std::thread::ScopedJoinHandle::is_finished);
        // Relaxed: a flag, nothing more.
        let is_asked_back = || asked_back.load(Ordering::Relaxed);
        watch(args, work, shared, is_over, is_asked_back);
        let mut threads = threads.into_iter();
        threads.try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let poller = workers[0].poller.take();
    let () = result?;
    let Some(poller) = poller else { return Err(Error::failed("the poller did not come back")) };
    let session = crate::device::Session { poller, ctrlr, device };
    Ok(Plan { session, namespaces, cores, seed, fills_first, asked_back })
}

/// Keeps the time, and shows progress each second.
fn watch(
    args: &PerfArgs,
    work: Work,
    shared: &Shared,
    is_over: impl Fn() -> bool,
    is_asked_back: impl Fn() -> bool,
) {
    let begin = Instant::now();
    let measure_at = begin + args.warmup;
    let stop_at = (work == Work::Pattern).then(|| measure_at + args.time);
    let (mut shown_at, mut shown_ios) = (begin, 0);
    while !is_over() {
        let now = Instant::now();
        if interrupt::came() || is_asked_back() || stop_at.is_some_and(|stop_at| now >= stop_at) {
            shared.stop();
        } else if work == Work::Pattern && now >= measure_at {
            shared.measure();
        }
        if !args.quiet && now >= shown_at + PROGRESS {
            let ios = shared.ios();
            let what = match work {
                Work::Fill => "stamping",
                Work::Check => "checking",
                Work::Pattern if now < measure_at => "warming up",
                Work::Pattern => "measuring",
            };
            let rate = (ios - shown_ios) as f64 / (now - shown_at).as_secs_f64();
            progress(what, now - begin, rate, args.io_size);
            (shown_at, shown_ios) = (now, ios);
        }
        let next =
            [Some(now + TICK), Some(measure_at), stop_at].into_iter().flatten().filter(|at| *at > now).min();
        if let Some(next) = next {
            std::thread::sleep(next - now);
        }
    }
}

fn progress(what: &str, elapsed: Duration, rate: f64, io_size: u64) {
    let mib = rate * io_size as f64 / f64::from(1 << 20);
    let line = format!(
        "{:6.1} s  {what}: {} IOPS, {mib:.0} MiB/s",
        elapsed.as_secs_f64(),
        report::thousands(rate as u64)
    );
    // Progress that nobody can see is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{line}");
}
