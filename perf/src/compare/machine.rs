//! The machine under the comparison: which cores, how busy they are, and what it takes from a thread.
#![forbid(unsafe_code)]

use super::raw::Raw;
use crate::error::Error;
use slipring::poller::{core_ids, pin_to_core};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Where the parties run: the poller (with the device, which it steps) on a core of its own, senders on the others.
#[derive(Clone, Debug)]
pub(super) struct Cores {
    /// The polling thread's.
    pub(super) poller: usize,
    /// The senders': one or more.
    pub(super) senders: Vec<usize>,
}

impl Cores {
    /// The last core polls, as the first often serves interrupts.
    pub(super) fn choose() -> Result<Self, Error> {
        let mut cores = core_ids();
        match cores.pop() {
            Some(poller) if !cores.is_empty() => {
                cores.truncate(4);
                Ok(Self { poller, senders: cores })
            }
            _ => Err(Error::input(
                "compare needs two cores, and this process may use one; allow it another (taskset)",
            )),
        }
    }

    /// How many producers are "many": one per sending core, and at least two.
    pub(super) fn producers(&self) -> usize {
        self.senders.len().max(2)
    }

    /// The core of sender `index`.
    pub(super) fn sender(&self, index: usize) -> usize {
        self.senders[index % self.senders.len()]
    }
}

/// Under which conditions the comparison ran.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) cores: Cores,
    pub(super) load_before: f64,
    pub(super) load_after: f64,
    /// The share of time that the hypervisor gave to others, 0 to 1.
    pub(super) steal: f64,
    /// The share of each calm run that the poller waited for its core, 0 to 1.
    pub(super) poller_wait: Vec<f64>,
    /// What cache lines take by themselves, once per round.
    pub(super) raw: Vec<Raw>,
    /// What one reading of the clock costs.
    pub(super) clock_ns: f64,
    /// The controller's model, where there is a device to have one.
    pub(super) model: Option<String>,
    processor: String,
    ticks: Ticks,
}

impl Conditions {
    /// Before anything is measured.
    pub(super) fn before(cores: &Cores) -> Self {
        Self {
            cores: cores.clone(),
            load_before: load_average(),
            load_after: 0.0,
            steal: 0.0,
            poller_wait: Vec::new(),
            raw: Vec::new(),
            clock_ns: clock_ns(),
            model: None,
            processor: processor(),
            ticks: Ticks::now(),
        }
    }

    /// After all was measured.
    pub(super) fn after(&mut self) {
        self.load_after = load_average();
        self.steal = Ticks::now().steal_since(self.ticks);
    }

    /// The mean share of a calm run that the poller waited for its own core.
    pub(super) fn mean_wait(&self) -> f64 {
        self.poller_wait.iter().sum::<f64>() / self.poller_wait.len().max(1) as f64
    }

    /// The medians of the rounds.
    pub(super) fn raw(&self) -> Raw {
        let median = |of: fn(&Raw) -> f64| {
            // A round in which nothing got through, on a machine that is far too busy, has no time per message.
            let mut sorted: Vec<f64> = self.raw.iter().map(of).filter(|value| value.is_finite()).collect();
            sorted.sort_by(f64::total_cmp);
            sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Raw { ping_pong_ns: median(|raw| raw.ping_pong_ns), message_ns: median(|raw| raw.message_ns) }
    }

    /// What of the machine is emulated in software, as in a guest of QEMU: then the figures say that it works, and little of how fast.
    pub(super) fn emulated(&self) -> Vec<String> {
        let mut emulated = Vec::new();
        // As QEMU names them.
        if self.processor.contains("TCG") {
            emulated.push(format!("the processor ({})", self.processor));
        }
        if let Some(model) = self.model.as_ref().filter(|model| model.contains("QEMU")) {
            emulated.push(format!("the controller ({model})"));
        }
        emulated
    }

    /// How busy the machine was, as far as that speaks against these numbers; empty when it does not.
    pub(super) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        let cores = self.cores.senders.len() + 1;
        if self.load_before > 0.5 * cores as f64 {
            doubts.push(format!("a load of {:.2} on {cores} cores before it began", self.load_before));
        }
        if self.steal > 0.02 {
            doubts.push(format!("{:.1} % of the time went to other guests of the host", self.steal * 100.0));
        }
        if self.mean_wait() > 0.02 {
            doubts.push(format!(
                "the poller waited {:.1} % of a calm run for its own core",
                self.mean_wait() * 100.0
            ));
        }
        doubts
    }
}

/// Pins the calling thread, or says why not.
pub(super) fn pin(core: usize) -> Result<(), Error> {
    pin_to_core(core).map_err(Error::failed)
}

/// Counters of all processors together, in clock ticks since boot.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    total: u64,
    steal: u64,
}

impl Ticks {
    /// As of now; zeroes where the system does not say.
    pub(super) fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields: Vec<u64> = text
            .lines()
            .next()
            .map(|line| line.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect())
            .unwrap_or_default();
        // user nice system idle iowait irq softirq steal; guest time is part of user.
        Self { total: fields.iter().take(8).sum(), steal: fields.get(7).copied().unwrap_or(0) }
    }

    /// The share of time since `earlier` that the hypervisor gave to others, 0 to 1.
    pub(super) fn steal_since(self, earlier: Self) -> f64 {
        let total = self.total.saturating_sub(earlier.total);
        if total == 0 { 0.0 } else { self.steal.saturating_sub(earlier.steal) as f64 / total as f64 }
    }
}

/// The processor's name; empty where the system does not say.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map_or(String::new(), |(_, name)| name.trim().to_owned())
}

/// The load average of the last minute.
fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|field| field.parse().ok()).unwrap_or(0.0)
}

/// How long the calling thread was ready to run and did not, as the kernel counts it.
pub(super) struct RunQueueWait {
    file: Option<File>,
    last: u64,
    first: u64,
}

impl RunQueueWait {
    /// The calling thread's counter. Counts nothing where the kernel keeps none.
    pub(super) fn of_this_thread() -> Self {
        let mut wait = Self { file: File::open("/proc/thread-self/schedstat").ok(), last: 0, first: 0 };
        wait.since_last();
        wait.first = wait.last;
        wait
    }

    /// Nanoseconds of waiting since this was made.
    pub(super) fn total(&mut self) -> u64 {
        self.since_last();
        self.last - self.first
    }

    /// Nanoseconds of waiting since the last call.
    pub(super) fn since_last(&mut self) -> u64 {
        let Some(file) = &self.file else { return 0 };
        let mut text = [0; 128];
        let length = file.read_at(&mut text, 0).unwrap_or(0);
        let text = std::str::from_utf8(&text[..length]).unwrap_or("");
        // Time on the processor, time in the run queue, number of slices.
        let waited = text.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(self.last);
        waited.saturating_sub(std::mem::replace(&mut self.last, waited))
    }
}

/// What one reading of the clock costs, in nanoseconds; part of every latency that is measured one by one.
fn clock_ns() -> f64 {
    const READINGS: u32 = 100_000;
    let started = Instant::now();
    for _ in 0..READINGS {
        std::hint::black_box(Instant::now());
    }
    started.elapsed().as_nanos() as f64 / f64::from(READINGS)
}

/// A duration as histograms count it.
#[inline(always)]
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
