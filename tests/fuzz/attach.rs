//! A driver and a device whose registers, completions, Identify data and log pages are drawn: attach ends, with a controller or with an error; what it says of
//! itself is within bounds; every message has one outcome; a detach ends, and leaves nothing mapped. On one thread, by a clock of its own.

use crate::corpus;
use crate::dice::{Dice, fuzz};
use crate::hostile::{Hostile, Pages, Wildness};
use slipring::ctrlr::{
    AttachError, Ctrlr, CtrlrOptions, CtrlrState, Limits, Message, Namespace, Reply, SendErrorReason,
    Timeouts,
};
use slipring::dma::DmaOptions;
use slipring::poller::{PollError, Poller};
use slipring::ring::{LockFree, Ticket};
use slipring::spec::command::Command;
use slipring::spec::identify::{Cns, IdentifyNs};
use slipring::spec::log::LogId;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::FromBytes;

/// The most steps until anything is over: far more than all of the driver's own deadlines take at the pace of the clock below.
const STEPS: usize = 200_000;
/// The most namespaces that a controller may show.
const MAX_NAMESPACES: usize = 4096;

fn pages() -> Arc<Pages> {
    Arc::new(corpus::files("pages").into_iter().collect())
}

fn options() -> CtrlrOptions {
    CtrlrOptions {
        ring_slots: 16,
        admin_queue_entries: 16,
        external_queue_entries: 16,
        io_queues: 4,
        max_transfer_bytes: 64 << 10,
        timeouts: Timeouts { subsystem_reset: true, ..Timeouts::default() },
        dma: DmaOptions { huge_pages: false, block_bytes: 256 << 10 },
        ..CtrlrOptions::default()
    }
}

/// What a controller says of itself is such that an embedder may work with it, whatever its device said.
fn check_limits(limits: Limits, options: &CtrlrOptions) -> Result<(), String> {
    let Limits { page_bytes, max_transfer_bytes, max_queue_entries, io_queues, .. } = limits;
    let is_sane = page_bytes.is_power_of_two()
        && (4096..=1 << 20).contains(&page_bytes)
        && (1..=options.max_transfer_bytes).contains(&max_transfer_bytes)
        && (1..=65_536).contains(&max_queue_entries)
        && io_queues <= options.io_queues;
    if is_sane { Ok(()) } else { Err(format!("{limits:?}")) }
}

fn check_namespaces(namespaces: &[Namespace]) -> Result<(), String> {
    let is_sane = |namespace: &Namespace| {
        let bytes = namespace.block_bytes;
        namespace.nsid != 0
            && namespace.size_blocks != 0
            && bytes.is_power_of_two()
            && (512..=65_536).contains(&bytes)
    };
    if let Some(namespace) = namespaces.iter().find(|namespace| !is_sane(namespace)) {
        return Err(format!("{namespace:?}"));
    }
    if !namespaces.is_sorted_by(|one, other| one.nsid < other.nsid) || namespaces.len() > MAX_NAMESPACES {
        return Err(format!("{} namespaces, or out of order", namespaces.len()));
    }
    Ok(())
}

struct World {
    dice: Dice,
    device: Arc<Hostile>,
    now: Instant,
    ctrlr: Ctrlr<LockFree>,
}

/// What inputs came to.
#[derive(Default, Debug)]
struct Tally {
    attached: u64,
    refused: u64,
    failed: u64,
    answered: u64,
    aborted: u64,
}

/// How far the clock goes on in a step: slowly at first, and then so that the longest deadline is not far.
fn pace(step: usize) -> Duration {
    Duration::from_millis(if step < 200 { 1 } else { 50 })
}

fn attach(seed: u64, pages: &Arc<Pages>) -> Result<Result<World, AttachError>, String> {
    let mut dice = Dice::new(seed);
    let levels = [20, 200, 2000, usize::MAX];
    let wildness = Wildness {
        registers: dice.choose(&levels),
        completions: dice.choose(&levels),
        data: dice.choose(&levels),
        statuses: dice.choose(&levels),
    };
    let device = Hostile::new(Dice::new(!seed), wildness, Arc::clone(pages));
    attach_to(device, dice, pace)
}

fn attach_to(
    device: Arc<Hostile>,
    dice: Dice,
    pace: impl Fn(usize) -> Duration,
) -> Result<Result<World, AttachError>, String> {
    let mut now = Instant::now();
    let refused = |error: AttachError, device: &Hostile| {
        if device.is_unmapped() {
            Ok(Err(error))
        } else {
            Err(format!("{error}, and memory is still mapped"))
        }
    };
    let mut attach = match Ctrlr::<LockFree>::begin_attach(device.clone(), options()) {
        Ok(attach) => attach,
        Err(error) => return refused(error, &device),
    };
    for step in 0..STEPS {
        match attach.step(now) {
            Ok(None) => {}
            Ok(Some(ctrlr)) => return Ok(Ok(World { dice, device, now, ctrlr })),
            Err(error) => return refused(error, &device),
        }
        device.step();
        now += pace(step);
    }
    Err(format!("attach is not over after {STEPS} steps: {attach:?}"))
}

impl World {
    fn message(&mut self) -> Message {
        let admin = |command, bytes| match self.ctrlr.allocate(bytes) {
            Ok(buffer) => Message::Admin { command, data: Some(Box::new(buffer.into())) },
            Err(_) => Message::Rescan,
        };
        match self.dice.below(8) {
            0 => Message::Rescan,
            1 => Message::Reset,
            2 => admin(Command::identify(Cns::CTRLR, 0, 0), 4096),
            3 => admin(Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true), 512),
            4 => admin(Command::get_log_page(LogId::CHANGED_NS_LIST, u32::MAX, 4096, 0, true), 4096),
            5 => Message::Io { command: Command::flush(1), data: None },
            6 => Message::ResetSubsystem,
            _ => Message::call(|_| 7),
        }
    }

    /// Polls for a while under messages.
    fn live(&mut self, tally: &mut Tally) -> Result<Vec<Ticket<Reply>>, String> {
        let mut poller = Poller::new(&self.ctrlr, "fuzz").map_err(|error| error.to_string())?;
        let producer = self.ctrlr.register("fuzz").map_err(|error| error.to_string())?;
        let mut tickets = Vec::new();
        for step in 0..self.dice.below(600) {
            if self.dice.one_in(4) {
                let message = self.message();
                match producer.send(message) {
                    Ok(ticket) => tickets.push(ticket),
                    Err(error) if matches!(error.reason, SendErrorReason::Full) => {}
                    Err(error) => return Err(format!("not sent: {error}")),
                }
            }
            match poller.poll(self.now) {
                Ok(_) | Err(PollError::Failed(_)) => {}
                Err(error) => return Err(error.to_string()),
            }
            check_namespaces(&self.ctrlr.namespaces())?;
            self.device.step();
            self.now += pace(step);
        }
        if self.ctrlr.state() == CtrlrState::Failed {
            tally.failed += 1;
        }
        // What is under way comes to its end by itself, well or not: no device keeps the driver busy for ever.
        for step in 0..STEPS {
            if tickets.iter().all(Ticket::is_ready) {
                return Ok(tickets);
            }
            let _ = poller.poll(self.now);
            self.device.step();
            self.now += pace(step);
        }
        let open = tickets.iter().filter(|ticket| !ticket.is_ready()).count();
        Err(format!(
            "{open} of {} messages have no outcome after {STEPS} steps: {:?}",
            tickets.len(),
            self.ctrlr
        ))
    }

    fn detach(mut self, tickets: Vec<Ticket<Reply>>, tally: &mut Tally) -> Result<(), String> {
        let mut detach =
            self.ctrlr.begin_detach(Duration::from_secs(20)).map_err(|error| error.to_string())?;
        let mut step = 0;
        while !detach.step(self.now) {
            step += 1;
            if step == STEPS {
                return Err(format!("not detached after {STEPS} steps: {:?}", self.ctrlr));
            }
            self.device.step();
            self.now += pace(step);
        }
        for ticket in tickets {
            match ticket.try_take().map_err(|_| "a message has no outcome after the detach")?.into_result() {
                Ok(_) => tally.answered += 1,
                Err(_) => tally.aborted += 1,
            }
        }
        if self.ctrlr.dma_bytes() != (0, 0) || !self.device.is_unmapped() {
            return Err(format!("mapped after the detach: {:?}", self.ctrlr.dma_bytes()));
        }
        Ok(())
    }
}

fn try_world(seed: u64, pages: &Arc<Pages>, tally: &mut Tally) -> Result<(), String> {
    let mut world = match attach(seed, pages)? {
        Ok(world) => world,
        Err(error) => {
            tally.refused += 1;
            let text = error.to_string();
            let is_plain = !text.is_empty() && !text.chars().any(char::is_control);
            return if is_plain { Ok(()) } else { Err(format!("the error is not one plain line: {text:?}")) };
        }
    };
    tally.attached += 1;
    if let Some(limits) = world.ctrlr.limits() {
        check_limits(limits, &options())?;
    }
    check_namespaces(&world.ctrlr.namespaces())?;
    let tickets = world.live(tally)?;
    world.detach(tickets, tally)
}

#[test]
fn a_device_that_says_anything_is_attached_or_refused_and_detached() {
    let pages = pages();
    let mut tally = Tally::default();
    fuzz("attach", 600, |seed| {
        if let Err(what) = try_world(seed, &pages, &mut tally) {
            panic!("{what}");
        }
    });
    let is_spread = tally.attached > 80 && tally.refused > 40 && tally.failed > 20 && tally.aborted > 40;
    assert!(is_spread || std::env::var_os("SLIPRING_FUZZ_ONLY").is_some(), "{tally:?}");
}

/// A device that lists as many namespaces as a list holds, whatever it is asked for, none of which is there when it is asked about.
#[test]
fn namespaces_that_are_listed_again_and_again_come_to_an_end() {
    let list: Vec<u8> = (1..=1024_u32).flat_map(u32::to_le_bytes).collect();
    let mut pages = Pages::clone(&pages());
    pages.insert("active-ns-list".into(), list);
    pages.insert("identify-ns".into(), vec![0; 4096]);
    let never = usize::MAX;
    let tame = Wildness { registers: never, completions: never, data: never, statuses: never };
    let device = Hostile::new(Dice::new(1), tame, Arc::new(pages));
    let world = attach_to(device, Dice::new(1), |_| Duration::from_millis(1)).expect("attach is over");
    let world = world.expect("long before its deadline");
    assert_eq!(*world.ctrlr.namespaces(), []);
    world.detach(Vec::new(), &mut Tally::default()).expect("detached");
}

/// A driver that takes Identify Namespace for what it says.
fn believing(nsid: u32, page: &[u8]) -> Namespace {
    let (data, _) = IdentifyNs::read_from_prefix(page).expect("a whole page");
    let lbads = data.lba_format().map_or(9, |format| format.lbads());
    Namespace {
        nsid,
        size_blocks: data.nsze,
        block_bytes: 1_u32.checked_shl(lbads.into()).unwrap_or(0),
        optimal_boundary_blocks: data.noiob,
        is_write_protected: data.nsattr & 1 != 0,
        unsupported: None,
    }
}

#[test]
fn a_driver_that_believes_its_device_is_found_out() {
    let page = &pages()["identify-ns"];
    assert_eq!(check_namespaces(&[believing(1, page)]), Ok(()), "the page as it is");
    let found = (0..10_000).find_map(|seed| {
        let mut page = page.clone();
        Dice::new(seed).mutate(&mut page, 64);
        check_namespaces(&[believing(1, &page)]).err()
    });
    assert!(found.is_some(), "the check finds it");
    let twice = [believing(1, page), believing(1, page)];
    assert!(check_namespaces(&twice).is_err(), "and one that is listed twice");
}
