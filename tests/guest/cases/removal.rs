//! The driver while its controller is asked back: ten times, under I/O and with messages in flight, each followed by another attach.
//!
//! Pulling it out under the driver's I/O is not here: QEMU 7.2 corrupts its own heap then ("unsorted double linked list corrupted"), now and then.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media};
use crate::inside::{Inside, pci, wait_for};
use slipring::ctrlr::{ControllerEvent, Ctrlr, CtrlrOptions, CtrlrState, EventAnswer, Message, OnEvent};
use slipring::dma::DmaSlice;
use slipring::poller::{PollError, Poller, QpairError, QpairOptions};
use slipring::ring::{LockFree, Outcome};
use slipring::transport::vfio::VfioTransport;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TIMES: usize = 10;
const DEADLINE: Duration = Duration::from_secs(30);
const DEPTH: usize = 16;
/// What vfio-pci and the hot-plug driver say of a device that goes while it is used.
const REMOVAL_CHATTER: &[&str] = &["vfio-pci 0000:", "vfio_bar_restore", "Relaying device request to user"];

pub fn group() -> Group {
    let test = |name, body| Test::new(name, body).deadline(400).allow_log(REMOVAL_CHATTER);
    Group::new("removal")
        .native_hotplug()
        .controller(Controller::new("nv0").serial("SER0000").media(Media::disk(64)))
        .test(test("asked_back_under_io_it_detaches_and_comes_back", asked_back))
}

/// What a round counts. Relaxed: read after all threads were joined.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    asked: AtomicU64,
}

/// Attaches, does I/O and sends messages until the controller is gone, and checks that all of it was answered. `take_away` runs meanwhile.
fn live_through(inside: &Inside, take_away: impl FnOnce() + Send) -> (Ctrlr<LockFree>, Arc<Counts>) {
    let address = inside.address("nv0");
    pci::bind(&address, "vfio-pci");
    let counts = Arc::new(Counts::default());
    let told = Arc::clone(&counts);
    let on_event = OnEvent::new(move |event| {
        told.asked.fetch_add(u64::from(*event == ControllerEvent::RemoveRequested), Ordering::Relaxed);
        EventAnswer::Proceed
    });
    let options = CtrlrOptions { on_event: Some(on_event), ..CtrlrOptions::default() };
    let transport = VfioTransport::open(address.parse().expect("an address")).expect("opened");
    let ctrlr = Ctrlr::<LockFree>::attach(transport, options).expect("attached");
    let poller = Poller::new(&ctrlr, "guest").expect("free");
    let producer = ctrlr.register("monitor").expect("registered");
    std::thread::scope(|scope| {
        let polling = scope.spawn(|| poll_to_the_end(poller, &counts.requests));
        let sending = scope.spawn(|| {
            let mut tickets = Vec::new();
            let begun = Instant::now();
            while let Ok(ticket) = producer.send(Message::Rescan) {
                tickets.push(ticket);
                std::thread::sleep(Duration::from_millis(2));
                let is_gone = matches!(ctrlr.state(), CtrlrState::Failed | CtrlrState::Detached);
                assert!(begun.elapsed() < DEADLINE, "the removal is noticed");
                if is_gone {
                    break;
                }
            }
            for ticket in tickets {
                // Completed or aborted: answered.
                ticket.wait(DEADLINE).expect("every accepted message has an outcome");
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        take_away();
        sending.join().expect("all messages were answered");
        polling.join().expect("all requests came back");
    });
    (ctrlr, counts)
}

/// Reads as fast as it goes, until the queue pair says that it is over; every request must have come back by then.
fn poll_to_the_end(mut poller: Poller<LockFree>, requests: &AtomicU64) {
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = poller.ctrlr().namespaces()[0];
    let buffer = || DmaSlice::from(poller.allocate(4096).expect("memory"));
    let mut idle: Vec<DmaSlice> = (0..DEPTH).map(|_| buffer()).collect();
    let begun = Instant::now();
    loop {
        while let Some(data) = idle.pop() {
            match qpair.read(&namespace, 0, data, 0) {
                Ok(()) => _ = requests.fetch_add(1, Ordering::Relaxed),
                Err(refused) => {
                    idle.extend(refused.data);
                    break;
                }
            }
        }
        let completed = qpair.poll(DEPTH, |io| {
            assert!(matches!(io.outcome, Outcome::Aborted(_)) || io.is_success(), "{:?}", io.outcome);
            idle.extend(io.data);
        });
        let is_over = matches!(poller.poll(Instant::now()), Err(PollError::Detached | PollError::Failed(_)));
        match completed {
            Err(QpairError::Gone(_)) if is_over => break,
            Ok(_) | Err(QpairError::Gone(_)) => {}
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < DEADLINE, "the removal is noticed");
    }
    assert_eq!(idle.len(), DEPTH, "every request came back with its buffer");
}

fn asked_back(inside: &Inside) {
    let address = inside.address("nv0");
    for round in 0..TIMES {
        let (ctrlr, counts) = live_through(inside, || inside.device_del("nv0"));
        // By itself, on a thread of its own.
        wait_for("the detach", DEADLINE, || (ctrlr.state() == CtrlrState::Detached).then_some(()));
        assert!(counts.asked.load(Ordering::Relaxed) > 0, "round {round}: the embedder was told");
        assert!(counts.requests.load(Ordering::Relaxed) > 0);
        drop(ctrlr);
        inside.wait_deleted("nv0", DEADLINE).expect("the kernel finishes the removal");
        assert!(!pci::exists(&address));
        inside.device_add("nv0");
        // The kernel's driver takes it first, and must not be disturbed while it does.
        pci::block_device(&address, 1);
    }
}
