//! Measures 2 and 3: messages from other cores with their outcomes back, and I/O beside them.
#![forbid(unsafe_code)]

use super::ledger::{Counts, Ledger};
use super::machine::{Cores, nanoseconds, pin};
use super::rig::Rig;
use crate::error::Error;
use crate::latency::Histogram;
use slipring::ctrlr::{Message, Producer, Reply, SendErrorReason};
use slipring::ring::{Mailbox, Scheme};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Messages in flight per producer.
pub(super) const WINDOW: usize = 256;
/// Messages of one batch.
pub(super) const BATCH: usize = 8;
/// Messages that are sent before outcomes are taken: half the window. Who looks for outcomes after each few looks in vain, and takes the lines away that
/// they are about to be written to.
const BURST: usize = WINDOW / 2;
/// One message in this many is timed, so that reading the clock is not what is measured.
const SAMPLE: u64 = 128;
/// Sampled messages in flight at most, as their numbers are far apart.
const STAMPS: usize = WINDOW.div_ceil(SAMPLE as usize).next_power_of_two() * 2;
/// Messages before the clock starts.
const WARM_UP: u64 = 5_000;

/// How producers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// One by one, up to [`WINDOW`] in flight.
    Stream,
    /// Eight at a time, up to [`WINDOW`] in flight.
    Batches,
    /// The next one when the last one's outcome is back.
    PingPong,
}

/// What is to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) style: Style,
    pub(super) producers: usize,
    pub(super) with_io: bool,
    pub(super) duration: Duration,
}

/// What came of it.
pub(super) struct Traffic {
    /// Outcomes per second, of all producers together.
    pub(super) messages_per_s: f64,
    /// From before the send to after the outcome was received; with one in flight, all of them.
    pub(super) latency: Histogram,
    pub(super) io_per_s: f64,
    pub(super) io_latency: Histogram,
    pub(super) counts: Counts,
}

struct Produced {
    messages_per_s: f64,
    latency: Histogram,
    counts: Counts,
}

/// Runs `load`: the polling thread on its core, producers on theirs.
pub(super) fn run<S: Scheme>(rig: &mut Rig<S>, cores: &Cores, load: Load) -> Result<Traffic, Error> {
    let ctrlr = rig.ctrlr.clone();
    let names: Vec<String> = (0..load.producers).map(|index| format!("producer {index}")).collect();
    let producers: Vec<Producer<S>> =
        names.iter().map(|name| ctrlr.register(name).map_err(Error::failed)).collect::<Result<_, _>>()?;
    rig.io.clear();
    let (stop_sending, stop_polling) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut traffic = Traffic {
        messages_per_s: 0.0,
        latency: Histogram::new(),
        io_per_s: 0.0,
        io_latency: Histogram::new(),
        counts: Counts::default(),
    };
    let mut io_s = 0.0;
    std::thread::scope(|scope| -> Result<(), Error> {
        let polling = scope.spawn(|| poll(rig, cores.poller, load.with_io, &stop_polling));
        let sending: Vec<_> = producers
            .iter()
            .enumerate()
            .map(|(index, producer)| {
                let (stop, core) = (&stop_sending, cores.sender(index));
                scope.spawn(move || produce(producer, core, load.style, stop))
            })
            .collect();
        std::thread::sleep(load.duration);
        // Relaxed, both: they only end loops; joining orders the rest.
        stop_sending.store(true, Ordering::Relaxed);
        let produced: Vec<_> = sending.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        let unregistered: Vec<_> =
            names.iter().map(|name| ctrlr.unregister(name, Duration::from_secs(5))).collect();
        stop_polling.store(true, Ordering::Relaxed);
        io_s = polling.join().map_err(|_| Error::failed("the polling thread panicked"))??;
        for one in produced {
            let one = one.map_err(|_| Error::failed("a producer panicked"))??;
            traffic.messages_per_s += one.messages_per_s;
            traffic.latency.add(&one.latency);
            traffic.counts.add(&one.counts);
        }
        unregistered.into_iter().collect::<Result<Vec<_>, _>>().map_err(Error::failed)?;
        Ok(())
    })?;
    if load.with_io {
        traffic.io_per_s = rig.io.done as f64 / io_s;
        traffic.io_latency.add(&rig.io.latency);
    }
    rig.quiesce()?;
    Ok(traffic)
}

/// Polls until it is stopped; returns for how many seconds.
fn poll<S: Scheme>(rig: &mut Rig<S>, core: usize, with_io: bool, stop: &AtomicBool) -> Result<f64, Error> {
    pin(core)?;
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if with_io {
            rig.turn_with_io()?;
        } else {
            rig.turn().map_err(Error::failed)?;
        }
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Sends until it is stopped, or the poller is gone.
fn produce<S: Scheme>(
    producer: &Producer<S>,
    core: usize,
    style: Style,
    stop: &AtomicBool,
) -> Result<Produced, Error> {
    pin(core)?;
    let window = if style == Style::PingPong { 1 } else { WINDOW };
    let mut sender = Sending {
        ledger: Ledger::new(),
        mailbox: Mailbox::new(window),
        latency: Histogram::new(),
        stamps: [Instant::now(); STAMPS],
        batch: Vec::with_capacity(BATCH),
        received: 0,
    };
    // Where it is too slow for a warm-up, all of it counts.
    let (mut start, mut is_warm) = ((Instant::now(), 0), false);
    while !stop.load(Ordering::Relaxed) {
        match style {
            Style::Stream => sender.stream(producer)?,
            Style::Batches => sender.batch(producer)?,
            Style::PingPong => sender.ping(producer, stop)?,
        }
        if !is_warm && sender.received >= WARM_UP {
            is_warm = true;
            sender.latency = Histogram::new();
            start = (Instant::now(), sender.received);
        }
    }
    let (started, before) = start;
    let messages_per_s = (sender.received - before) as f64 / started.elapsed().as_secs_f64().max(1e-9);
    let Sending { ledger, mut mailbox, latency, .. } = sender;
    Ok(Produced { messages_per_s, latency, counts: ledger.close(&mut mailbox) })
}

struct Sending {
    ledger: Ledger,
    mailbox: Mailbox<Reply>,
    latency: Histogram,
    /// When the sampled messages were sent, by the low bits of their number.
    stamps: [Instant; STAMPS],
    /// The messages of one batch, on their way out; empty between calls.
    batch: Vec<(u64, Message)>,
    received: u64,
}

impl Sending {
    /// Sends one by one, as far as the window goes, and takes what has come back.
    #[inline(always)]
    fn stream<S: Scheme>(&mut self, producer: &Producer<S>) -> Result<(), Error> {
        let room = self.mailbox.window() - self.mailbox.in_flight();
        if room >= BURST {
            for _ in 0..BURST {
                self.stamp();
                match self.ledger.send(producer, &mut self.mailbox) {
                    Ok(()) => {}
                    Err(SendErrorReason::Full) => break,
                    Err(reason) => return Err(Error::failed(format!("a message was refused: {reason}"))),
                }
            }
        }
        self.receive();
        Ok(())
    }

    /// Sends eight at once, as far as the window goes, and takes what has come back.
    #[inline(always)]
    fn batch<S: Scheme>(&mut self, producer: &Producer<S>) -> Result<(), Error> {
        let room = self.mailbox.window() - self.mailbox.in_flight();
        if room >= BURST {
            for _ in 0..BURST / BATCH {
                self.stamp();
                let first = self.ledger.next();
                // What was not accepted is made anew.
                self.batch.clear();
                self.batch.extend((first..).take(BATCH).map(|id| (id, Message::call(|_| 0))));
                let sent = producer.send_batch_to(&mut self.mailbox, &mut self.batch);
                match sent {
                    Ok(count) => self.ledger.accepted(count),
                    Err(SendErrorReason::Full) => self.ledger.rejected(),
                    Err(reason) => return Err(Error::failed(format!("a batch was refused: {reason}"))),
                }
            }
        }
        self.receive();
        Ok(())
    }

    /// Sends one and waits for its outcome.
    #[inline(always)]
    fn ping<S: Scheme>(&mut self, producer: &Producer<S>, stop: &AtomicBool) -> Result<(), Error> {
        let sent_at = Instant::now();
        let sent = self.ledger.send(producer, &mut self.mailbox);
        sent.map_err(|reason| Error::failed(format!("a message was refused: {reason}")))?;
        loop {
            let count = self.ledger.receive(&mut self.mailbox);
            if count > 0 {
                self.received += count as u64;
                self.latency.record(nanoseconds(sent_at.elapsed()));
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }

    /// Notes the time when the next message, or the first of the next batch, is one of those that are timed.
    #[inline(always)]
    fn stamp(&mut self) {
        let id = self.ledger.next();
        if id % SAMPLE == 1 {
            self.stamps[(id / SAMPLE) as usize % STAMPS] = Instant::now();
        }
    }

    #[inline(always)]
    fn receive(&mut self) {
        let Self { ledger, mailbox, latency, stamps, .. } = self;
        let count = mailbox.receive(|id, outcome| {
            ledger.outcome(id, &outcome);
            if id % SAMPLE == 1 {
                latency.record(nanoseconds(stamps[(id / SAMPLE) as usize % STAMPS].elapsed()));
            }
        });
        self.received += count as u64;
    }
}
