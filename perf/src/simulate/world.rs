//! The world: one device, one controller and everybody who uses it, on one thread, with a clock that only this file moves. What happens next is drawn from the
//! seed; what must be true is asked of the oracle at every outcome, and of everything at the end.
#![forbid(unsafe_code)]

use super::end::{How, no_violations};
use super::io::Lane;
use super::messages::Correspondence;
use super::oracle::Oracle;
use super::plan::{Part, Plan};
use super::setup::{Act, BLOCKS, Setup, may_break, may_refuse};
use crate::numbers::Random;
use slipring::ctrlr::{ControllerEvent, Ctrlr, CtrlrOptions, Detach, EventAnswer, OnEvent, Reset};
use slipring::dma::DmaBuffer;
use slipring::emulated::{self, Device, EmulatedTransport, Fault};
use slipring::poller::{PollError, Poller};
use slipring::ring::LockFree;
use slipring::transport::Transport;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How far the world's clock is ahead of the real one, so that no deadline is ever met by the wrong clock.
const AHEAD: Duration = Duration::from_secs(3600);
/// A detach with that much patience never hurries.
const PATIENT: Duration = Duration::from_secs(365 * 86_400);
/// Buffers that came back and are watched for a while.
const WATCHED: usize = 12;
/// Rounds in which anything comes to its end that ever does.
pub(super) const ROUNDS: u64 = 30_000;
/// How long a real thread may take to give a failed device up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Counts {
    pub(super) worlds: u64,
    pub(super) steps: u64,
    pub(super) requests: u64,
    pub(super) messages: u64,
    pub(super) completed: u64,
    pub(super) aborted: u64,
    pub(super) refused: u64,
    pub(super) resets: u64,
    pub(super) detaches: u64,
    pub(super) failed_attaches: u64,
    pub(super) failed_controllers: u64,
    pub(super) faults_met: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.worlds += other.worlds;
        self.steps += other.steps;
        self.requests += other.requests;
        self.messages += other.messages;
        self.completed += other.completed;
        self.aborted += other.aborted;
        self.refused += other.refused;
        self.resets += other.resets;
        self.detaches += other.detaches;
        self.failed_attaches += other.failed_attaches;
        self.failed_controllers += other.failed_controllers;
        self.faults_met += other.faults_met;
    }
}

/// What a test has the world get wrong on purpose, so that the oracle has something to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// A completion is told twice.
    TellTwice,
    /// A completion is kept from its owner.
    Swallow,
    /// Memory is written to after it was given back.
    Scribble,
    /// A closure runs twice.
    RunTwice,
    /// The device is pulled out and nobody is told.
    PullOut,
}

/// What a world came to.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) counts: Counts,
    /// What must not be, and the step in which it was noticed; none when it was the end.
    pub(super) failure: Option<(Option<u64>, String)>,
}

/// See the module.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) random: Random,
    pub(super) setup: Setup,
    pub(super) transport: Arc<EmulatedTransport>,
    pub(super) device: Device,
    /// `None` once it was dropped.
    pub(super) handle: Option<Ctrlr<LockFree>>,
    pub(super) poller: Option<Poller<LockFree>>,
    pub(super) lanes: Vec<Lane>,
    pub(super) correspondence: Correspondence,
    pub(super) oracle: Oracle,
    pub(super) counts: Counts,
    pub(super) sabotage: Option<Sabotage>,
    /// Memory that came back, and what each byte of it must stay.
    pub(super) watched: VecDeque<(DmaBuffer, u8)>,
    pub(super) detach: Option<Detach<LockFree>>,
    pub(super) is_detaching: bool,
    pub(super) is_removed: bool,
    pub(super) resets: Vec<Reset>,
    /// The device was given up by a thread of the driver's, which is waited for.
    gave_up: Arc<AtomicBool>,
    trace: bool,
}

/// Runs one world to its end.
pub(super) fn run(plan: &Plan, setup: Setup, sabotage: Option<Sabotage>, trace: bool) -> Ending {
    let mut counts = Counts { worlds: 1, ..Counts::default() };
    if trace {
        say(&format!("{:?}\n{:?}", setup.config, setup.options));
    }
    let mut world = match World::begin(plan, setup, sabotage, trace) {
        Ok(Ok(world)) => world,
        Ok(Err(refused)) => {
            counts.failed_attaches = 1;
            counts.faults_met = refused;
            return Ending { counts, failure: None };
        }
        Err(what) => return Ending { counts, failure: Some((None, what)) },
    };
    world.counts.worlds = 1;
    let mut failure = None;
    for step in (0..plan.steps).filter(|step| !plan.skips.contains(*step)) {
        world.random = plan.random(Part::Step(step));
        world.counts.steps += 1;
        if let Err(what) = world.step(step) {
            failure = Some((Some(step), what));
            break;
        }
    }
    if failure.is_none() {
        world.random = plan.random(Part::End);
        failure = world.end().err().map(|what| (None, what));
    }
    world.counts.faults_met = world.transport.faults_met().iter().sum();
    Ending { counts: world.counts, failure }
}

#[expect(clippy::print_stderr, reason = "a trace is for eyes, and asked for")]
fn say(text: &str) {
    eprintln!("{text}");
}

impl World {
    /// Attaches. Within, the number of faults met when the device would not be attached for them.
    fn begin(
        plan: &Plan,
        setup: Setup,
        sabotage: Option<Sabotage>,
        trace: bool,
    ) -> Result<Result<Self, u64>, String> {
        let mut random = plan.random(Part::Attach);
        let mut now = Instant::now() + AHEAD;
        let (transport, mut device) =
            emulated::new(setup.config.clone()).map_err(|error| error.to_string())?;
        let gave_up = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&gave_up);
        let on_event = OnEvent::new(move |event| {
            // Relaxed, here and below: all of it is one thread.
            told.fetch_or(matches!(event, ControllerEvent::Failed(_)), Ordering::Relaxed);
            EventAnswer::Proceed
        });
        let options = CtrlrOptions { on_event: Some(on_event), ..setup.options.clone() };
        let attach = Ctrlr::<LockFree>::begin_attach(transport.clone(), options);
        let mut attach = attach.map_err(|error| error.to_string())?;
        for round in 0..ROUNDS {
            now += pace(&mut random, round);
            if random.below(2) == 0 {
                device.step_at(now);
                continue;
            }
            match attach.step(now) {
                Ok(None) => {}
                Ok(Some(ctrlr)) => {
                    let world = Self {
                        now,
                        random,
                        oracle: Oracle::new(BLOCKS),
                        correspondence: Correspondence::new(),
                        setup,
                        transport,
                        device,
                        handle: Some(ctrlr),
                        poller: None,
                        lanes: Vec::new(),
                        counts: Counts::default(),
                        sabotage,
                        watched: VecDeque::new(),
                        detach: None,
                        is_detaching: false,
                        is_removed: false,
                        resets: Vec::new(),
                        gave_up,
                        trace,
                    };
                    return Ok(Ok(world));
                }
                Err(error) => {
                    let met = transport.faults_met();
                    if !was_met(&setup, &met, may_break) {
                        return Err(format!(
                            "not attached, though nothing is wrong with the device: {error}"
                        ));
                    }
                    no_violations(&setup, &transport, How::Failed)?;
                    return Ok(Err(met.iter().sum()));
                }
            }
        }
        Err(format!("neither attached nor refused after {ROUNDS} rounds: {attach:?}"))
    }

    pub(super) fn ctrlr(&self) -> &Ctrlr<LockFree> {
        self.handle.as_ref().expect("dropped at the end only")
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            say(&what());
        }
    }

    /// Whether such a fault was met so far.
    pub(super) fn was_met(&self, which: fn(&Fault) -> bool) -> bool {
        was_met(&self.setup, &self.transport.faults_met(), which)
    }

    /// Whether the controller has a reason to fail.
    pub(super) fn may_fail(&self) -> bool {
        self.is_removed || self.was_met(may_break)
    }

    /// Whether requests have a reason to be refused by the device.
    pub(super) fn may_refuse(&self) -> bool {
        self.is_removed || self.was_met(may_refuse)
    }

    pub(super) fn is_detaching(&self) -> bool {
        self.is_detaching
    }

    /// Whether anybody asked for a reset.
    pub(super) fn was_reset(&self) -> bool {
        self.counts.resets > 0
    }

    /// One thing that happens.
    fn step(&mut self, step: u64) -> Result<(), String> {
        if self.sabotage == Some(Sabotage::PullOut) && step == 50 {
            self.transport.remove();
        }
        let act = self.setup.weights.draw(&mut self.random);
        self.note(|| format!("{step}: {act:?}"));
        match act {
            Act::Round => return self.short_round(),
            Act::Poll => return self.poll(),
            Act::PollLanes => return self.poll_lanes(),
            Act::Io => return self.do_io(),
            Act::Message => return self.send(),
            Act::Collect => return self.collect(),
            Act::Time => return self.pass_time(),
            Act::Registrations => return self.change_registrations(),
            Act::Owners => return self.change_owners(),
            Act::Reset => return self.ask_for_reset(),
            Act::Detach => return self.drive_detach(),
            Act::Device => self.step_device(),
            Act::Event => self.raise_event(),
            Act::Remove => self.remove(),
        }
        Ok(())
    }

    /// Device, poller and owners in turn, a few times: what must happen for a queue pair to be connected.
    fn short_round(&mut self) -> Result<(), String> {
        for _ in 0..=self.random.below(6) {
            self.round(0)?;
        }
        Ok(())
    }

    fn step_device(&mut self) {
        for _ in 0..=self.random.below(4) {
            self.device.step_at(self.now);
        }
    }

    /// Polls, from a new seat if nobody polls.
    pub(super) fn poll(&mut self) -> Result<(), String> {
        if self.poller.is_none() {
            self.poller = Poller::new(self.ctrlr(), "simulated").ok();
        }
        let Some(seat) = &mut self.poller else { return Ok(()) };
        let polled = seat.poll(self.now);
        self.wait_for_give_up()?;
        self.correspondence.count_runs()?;
        match polled {
            Ok(_) => Ok(()),
            Err(PollError::Detached) if self.is_detaching => {
                self.poller = None;
                Ok(())
            }
            Err(PollError::Failed(_)) if self.may_fail() => Ok(()),
            Err(error) => Err(format!("the poller says, for no reason: {error}")),
        }
    }

    /// The driver gives a failed device up on a thread of its own: the only one there is, so it is waited for.
    fn wait_for_give_up(&mut self) -> Result<(), String> {
        if !self.gave_up.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        self.counts.failed_controllers += 1;
        let started = Instant::now();
        // Its memory first, and then the device.
        while self.ctrlr().dma_bytes().1 != 0 || !self.transport.is_gone() {
            if started.elapsed() > GIVE_UP {
                return Err("a failed device is not given up".to_owned());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Time passes: mostly little; sometimes much, while everybody gets on.
    fn pass_time(&mut self) -> Result<(), String> {
        match self.random.below(24) {
            0 if !self.setup.config.faults.is_empty() => {
                // Little enough at a time that no deadline passes that the device keeps.
                let part = Duration::from_millis(1 + self.random.below(150));
                for _ in 0..32 {
                    self.device.step_at(self.now);
                    self.poll()?;
                    self.poll_lanes()?;
                    self.now += part;
                }
            }
            1 => self.now += Duration::from_micros(self.random.below(2000)),
            _ => self.now += Duration::from_micros(self.random.below(60)),
        }
        Ok(())
    }

    pub(super) fn ask_for_reset(&mut self) -> Result<(), String> {
        let is_subsystem = self.setup.config.nssr.is_some() && self.random.below(2) == 0;
        let reset = if is_subsystem { self.ctrlr().reset_subsystem() } else { self.ctrlr().reset() };
        match reset {
            Ok(reset) => {
                self.counts.resets += 1;
                self.resets.push(reset);
                Ok(())
            }
            Err(_) if self.is_detaching || self.may_fail() => Ok(()),
            Err(error) => Err(format!("a reset was refused for no reason: {error}")),
        }
    }

    fn raise_event(&mut self) {
        if self.random.below(2) == 0 {
            self.transport.set_temperature_k(300 + self.random.below(100) as u16);
        } else {
            self.transport.set_critical_warning(self.random.below(32) as u8);
        }
    }

    fn remove(&mut self) {
        self.transport.remove();
        self.is_removed = true;
    }

    /// Begins a detach, drives it on, or lets go of it.
    fn drive_detach(&mut self) -> Result<(), String> {
        // Seldom begun, then driven on again and again.
        if !self.is_detaching && self.random.below(20) != 0 {
            return Ok(());
        }
        self.is_detaching = true;
        if self.random.below(10) == 0 {
            self.detach = None;
        }
        self.step_detach().map(|_| ())
    }

    pub(super) fn step_detach(&mut self) -> Result<bool, String> {
        if self.detach.is_none() {
            let timeout = if self.random.below(2) == 0 { Duration::ZERO } else { PATIENT };
            let begun = self.ctrlr().begin_detach(timeout);
            self.detach = Some(begun.map_err(|error| format!("a detach was refused: {error}"))?);
        }
        let is_over = self.detach.as_mut().is_some_and(|detach| detach.step(self.now));
        self.wait_for_give_up()?;
        self.correspondence.count_runs()?;
        Ok(is_over)
    }

    /// Keeps memory that came back, to see whether anybody still writes to it.
    pub(super) fn watch(&mut self, buffer: DmaBuffer) -> Result<(), String> {
        let byte = self.random.below(255) as u8 + 1;
        buffer.fill(byte);
        if self.sabotage == Some(Sabotage::Scribble) {
            buffer.write_at(buffer.len() - 1, &[!byte]);
        }
        self.watched.push_back((buffer, byte));
        if self.watched.len() > WATCHED { self.unwatch() } else { Ok(()) }
    }

    pub(super) fn unwatch(&mut self) -> Result<(), String> {
        let Some((buffer, byte)) = self.watched.pop_front() else { return Ok(()) };
        let bytes = buffer.to_vec();
        match bytes.iter().position(|found| *found != byte) {
            None => Ok(()),
            Some(place) => Err(format!(
                "memory that was given back was written to: {:#04x} at {:#x} + {place}",
                bytes[place],
                buffer.iova()
            )),
        }
    }

    /// A round in which everybody gets on.
    pub(super) fn round(&mut self, round: u64) -> Result<(), String> {
        self.now += pace(&mut self.random, round);
        self.device.step_at(self.now);
        self.poll()?;
        self.poll_lanes()?;
        self.collect()
    }
}

/// How much time passes in a round: more and more, since what does not come soon waits for a deadline.
pub(super) fn pace(random: &mut Random, round: u64) -> Duration {
    match round {
        0..1000 => Duration::from_micros(random.below(20)),
        1000..3000 => Duration::from_millis(random.below(10)),
        _ => Duration::from_millis(random.below(200)),
    }
}

pub(super) fn was_met(setup: &Setup, met: &[u64], which: fn(&Fault) -> bool) -> bool {
    setup.told.list().iter().zip(met).any(|(fault, met)| *met > 0 && which(fault))
}
