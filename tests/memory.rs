//! What an attached controller costs in memory, and that nothing grows: not over a million registrations, with a poller and without, and not over ten thousand
//! lives of a controller.
//!
//! Counted are the heap, by an allocator that counts every byte of this process (so the emulated device's too); DMA memory, by what the driver has handed out
//! and by what of its memory files is resident; threads, file descriptors and mappings, by /proc.

mod support;

use slipring::ctrlr::{Ctrlr, CtrlrOptions, Message};
use slipring::emulated::{self, Backing, Config, NamespaceConfig};
use slipring::poller::{Poller, QpairOptions, QueuePair};
use slipring::ring::{LockFree, Mailbox, Scheme, rivals};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use support::{DEADLINE, Stepped};

/// The bytes that are allocated now. Relaxed: a count, read while the threads that change it are at rest, or as a snapshot.
static HEAP_BYTES: AtomicIsize = AtomicIsize::new(0);

/// The system's allocator, counted.
struct Counting;

// SAFETY: everything is the system allocator's work; counting touches nothing of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP_BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HEAP_BYTES.fetch_add(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        HEAP_BYTES.fetch_add(new_size.cast_signed() - layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.realloc(block, layout, new_size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HEAP_BYTES.fetch_sub(layout.size().cast_signed(), Ordering::Relaxed);
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests that have begun and not ended, each on a thread of the harness, which begins the next one whenever it comes to that.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// One test at a time: they all count the same process.
struct Alone(#[expect(dead_code, reason = "held, and not looked at")] MutexGuard<'static, ()>);

fn alone() -> Alone {
    static ALONE: Mutex<()> = Mutex::new(());
    BEGUN.fetch_add(1, Ordering::Relaxed);
    Alone(ALONE.lock().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Alone {
    fn drop(&mut self) {
        BEGUN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    heap_bytes: isize,
    /// But for those of tests that wait for their turn.
    threads: isize,
    descriptors: usize,
    mappings: usize,
    /// Of memory files that the driver made.
    dma_mappings: usize,
}

impl Holdings {
    fn now() -> Self {
        let entries = |folder| std::fs::read_dir(folder).expect("a /proc file system").count();
        let maps = std::fs::read_to_string("/proc/self/maps").expect("a /proc file system");
        Self {
            heap_bytes: HEAP_BYTES.load(Ordering::Relaxed),
            threads: entries("/proc/self/task").cast_signed() - BEGUN.load(Ordering::Relaxed).cast_signed(),
            descriptors: entries("/proc/self/fd"),
            mappings: maps.lines().count(),
            dma_mappings: maps.lines().filter(|line| line.contains("slipring-dma")).count(),
        }
    }

    /// The same once no thread of the harness is just coming or going.
    fn settled() -> Self {
        let mut holdings = Self::now();
        let mut same = 0;
        while same < 3 {
            std::thread::sleep(Duration::from_millis(10));
            let now = Self::now();
            same = if now.threads == holdings.threads { same + 1 } else { 0 };
            holdings = now;
        }
        holdings
    }

    /// That nothing has grown since `before`. The heap may differ by what buffers of the test's own output and of the epoch's collector come and go with, the
    /// mappings by how the system's allocator cuts its own; `cycles` is so large that a leak of one byte or one mapping each is well above both.
    fn assert_flat(self, before: Self, cycles: usize, what: &str) {
        const HEAP_SLACK: isize = 32 << 10;
        const MAPPING_SLACK: usize = 16;
        assert!(cycles >= 10_000, "too few cycles to tell a leak by");
        let told = format!("{what}: {before:?} before and {self:?} after {cycles} cycles");
        assert!(self.heap_bytes <= before.heap_bytes + HEAP_SLACK, "the heap grew; {told}");
        assert!(self.mappings <= before.mappings + MAPPING_SLACK, "the mappings grew; {told}");
        assert_eq!(self.dma_mappings, before.dma_mappings, "DMA mappings are left; {told}");
        assert_eq!(self.threads, before.threads, "threads are left; {told}");
        assert_eq!(self.descriptors, before.descriptors, "descriptors are left; {told}");
    }
}

fn small() -> Config {
    let namespace = NamespaceConfig { size_bytes: 1 << 20, lba_bytes: 512, backing: Backing::Ram };
    Config { namespaces: vec![namespace], io_queues: 4, ..Config::default() }
}

/// Resident bytes of the driver's memory files.
fn dma_resident_bytes() -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("a /proc file system");
    let mut is_ours = false;
    let mut kilobytes = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("Rss:"), Some(count)) if is_ours => kilobytes += count.parse::<usize>().expect("a number"),
            (Some(first), _) if first.contains('-') => is_ours = line.contains("slipring-dma"),
            _ => {}
        }
    }
    kilobytes << 10
}

/// The promise: under 2 MiB, apart from data buffers, for a controller with an idle ring of 1,024 slots and one queue pair of 256 entries.
#[test]
fn an_attached_controller_stays_small() {
    let _alone = alone();
    let limit = 2 << 20;
    let options = CtrlrOptions::default();
    assert_eq!(options.ring_slots, 1024);
    // On ordinary pages, so that what is resident is what was touched.
    let options =
        CtrlrOptions { dma: slipring::dma::DmaOptions { huge_pages: false, ..options.dma }, ..options };
    let (transport, device) = emulated::new(Config { io_queues: 64, ..small() }).expect("a controller");
    let device = device.spawn(None).expect("a device thread");
    let before = Holdings::now();
    let resident_before = dma_resident_bytes();
    let ctrlr: Ctrlr<LockFree> = Ctrlr::attach(transport, options).expect("attach");
    let mut poller = Poller::new(&ctrlr, "small").expect("the seat");
    let producer = ctrlr.register("idle").expect("registered");
    let qpair = poller.queue_pair(&QpairOptions { entries: 256 }).expect("a queue pair");
    for _ in 0..1000 {
        poller.poll(Instant::now()).expect("well");
    }
    let heap = (Holdings::now().heap_bytes - before.heap_bytes) as usize;
    let (handed_out, mapped) = ctrlr.dma_bytes();
    let resident = dma_resident_bytes() - resident_before;
    let told =
        format!("heap {heap}, DMA memory {handed_out} handed out, {resident} resident, {mapped} mapped");
    assert!(heap >= 1024 * 128, "the ring is counted: {told}");
    assert!(handed_out >= 255 * 64 && resident >= 256 * 64, "the queues are counted: {told}");
    assert!(heap + handed_out < limit, "with all that is handed out: {told}");
    assert!(heap + resident < limit, "with all that is resident: {told}");
    drop((qpair, producer, poller));
    ctrlr.detach(DEADLINE).expect("detached");
    drop(device);
}

/// How many registrations there are, which nothing may grow over: a million, or what `SLIPRING_CYCLES` says. A count decides and never a clock.
fn registrations() -> usize {
    cycles_of("SLIPRING_CYCLES", 1_000_000)
}

fn cycles_of(variable: &str, usual: usize) -> usize {
    let given = std::env::var(variable).ok();
    let cycles =
        given.map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: a number is expected")));
    cycles.unwrap_or(usual)
}

/// Runs cycles, the first hundredth to warm up; then nothing may grow.
#[expect(clippy::print_stdout, reason = "long runs are started by hand, and say what they did")]
fn assert_flat_over(cycles: usize, what: &str, mut cycle: impl FnMut()) {
    (0..cycles / 100).for_each(|_| cycle());
    let (before, started) = (Holdings::settled(), Instant::now());
    (0..cycles).for_each(|_| cycle());
    let took = started.elapsed();
    let after = Holdings::settled();
    after.assert_flat(before, cycles, what);
    println!("{what}: {cycles} cycles of {:?}; {before:?} before, {after:?} after", took / cycles as u32);
}

/// Registers, unregisters, and waits for that.
fn register_and_unregister<S: Scheme>(ctrlr: &Ctrlr<S>) {
    let producer = ctrlr.register("cycle").expect("registered");
    ctrlr.unregister("cycle", DEADLINE).expect("unregistered");
    drop(producer);
}

/// The ring is published and retired each time; a small one, as what is counted does not depend on its size (see the next test) and its making takes the time.
fn options() -> CtrlrOptions {
    CtrlrOptions { ring_slots: 8, ..CtrlrOptions::default() }
}

#[test]
fn nothing_grows_over_a_million_registrations_without_a_poller() {
    let _alone = alone();
    let rig: Stepped<LockFree> = Stepped::attach(small(), options());
    assert_flat_over(registrations(), "without a poller", || register_and_unregister(&rig.ctrlr));
    rig.finish();
    let rig: Stepped<LockFree> = Stepped::attach(small(), CtrlrOptions::default());
    assert_flat_over(10_000, "without a poller, rings of 1,024 slots", || {
        register_and_unregister(&rig.ctrlr);
    });
    rig.finish();
}

/// A poller that polls in between, on this same thread, so that the cycles cost what they cost and not what the scheduler makes of two threads: each
/// ring is looked at by it, sent through, and on its way out while it comes by.
#[test]
fn nothing_grows_over_a_million_registrations_with_polls_in_between() {
    let _alone = alone();
    let rig: Stepped<LockFree> = Stepped::attach(small(), options());
    let mut poller = rig.poller();
    let mut answered = 0_usize;
    let cycles = registrations();
    // A clock that stands still: the device is not stepped, and however long this takes, none of the driver's own commands is late.
    let now = Instant::now();
    assert_flat_over(cycles, "with polls in between", || {
        let producer = rig.ctrlr.register("cycle").expect("registered");
        let ticket = producer.send(Message::call(|_| 7)).expect("room");
        poller.poll(now).expect("well");
        // The poller, on this thread, cannot be waited for: the ring goes when it has come by.
        let _ = rig.ctrlr.unregister("cycle", Duration::ZERO);
        poller.poll(now).expect("well");
        answered += usize::from(ticket.try_take().is_ok());
    });
    assert_eq!(answered, cycles + cycles / 100, "every message is answered");
    drop(poller);
    rig.finish();
}

/// Stops a loop at the end, or when the test fails before, which would wait for it otherwise.
struct Stops<'s>(&'s AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        // Relaxed: ends a loop, nothing more.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Registers, sends, and unregisters with the messages in flight, under a poller on another thread, which each retirement waits for: fewer, as the scheduler has its
/// say in each. Every message is answered, whether the poller came by before the ring was closed or not.
fn under_a_poller<S: Scheme>(cycles: usize) {
    let rig: Stepped<S> = Stepped::attach(small(), options());
    let mut poller = rig.poller();
    let stop = AtomicBool::new(false);
    let polls = std::thread::scope(|scope| {
        let polling = scope.spawn(|| {
            let mut polls = 0_u64;
            // It stands still, as above.
            let now = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                match poller.poll(now) {
                    Ok(_) => polls += 1,
                    Err(error) => panic!("{error}"),
                }
                std::thread::yield_now();
            }
            polls
        });
        let stops = Stops(&stop);
        let mut mailbox = Mailbox::new(4);
        let mut sent = 0_u64;
        assert_flat_over(cycles, S::NAME, || {
            let producer = rig.ctrlr.register("cycle").expect("registered");
            for _ in 0..4 {
                producer.send_to(&mut mailbox, sent, Message::call(|_| 7)).expect("room in the ring");
                sent += 1;
            }
            rig.ctrlr.unregister("cycle", DEADLINE).expect("unregistered");
            // The ring is drained when that returns; what the poller had taken out of it, it answers by itself.
            let mut answered = 0;
            support::wait_until("all four are answered", || {
                answered += mailbox.receive(|_, _| ());
                mailbox.in_flight() == 0
            });
            assert_eq!(answered, 4, "each message has one outcome");
        });
        drop(stops);
        polling.join().expect("the poller is well")
    });
    assert!(polls > 0, "it was polled");
    drop(poller);
    rig.finish();
}

#[test]
fn nothing_grows_over_registrations_under_a_poller_on_another_thread() {
    let _alone = alone();
    under_a_poller::<LockFree>(cycles_of("SLIPRING_CYCLES", 10_000));
    under_a_poller::<rivals::Spinlock>(30_000);
    under_a_poller::<rivals::SpinlockFlag>(30_000);
    under_a_poller::<rivals::RobustMutex>(30_000);
}

/// Attach, a message ring, a queue pair; and detach with reads in flight and messages in the ring, each of which is answered once.
fn life_under_load() {
    const READS: u64 = 3;
    let mut rig: Stepped<LockFree> = Stepped::attach(small(), options());
    let mut poller = rig.poller();
    let producer = rig.ctrlr.register("life").expect("registered");
    let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 4 }).expect("a queue pair");
    rig.run(&mut poller, "connected", || qpair.connected().expect("well"));
    for token in 0..READS {
        let data = rig.ctrlr.allocate(512).expect("memory").into();
        qpair.read(&rig.ctrlr.namespaces()[0], token, data, token).expect("submitted");
    }
    qpair.commit();
    // One of them is with the device, the others are in the ring.
    let mut tickets = vec![producer.send(Message::Rescan).expect("room")];
    poller.poll(Instant::now()).expect("well");
    tickets.push(producer.send(Message::Rescan).expect("room"));
    tickets.push(producer.send(Message::call(|_| 7)).expect("room"));
    drop(poller);
    rig.finish();
    for ticket in tickets {
        assert!(ticket.try_take().is_ok(), "each message is answered when detach is over");
    }
    let mut back = 0;
    while qpair.poll(8, |_| back += 1).is_ok() {}
    assert_eq!(back, READS, "each read comes back once");
}

/// Ten thousand lives (or as many as `SLIPRING_LIVES` says), all but a tenth of them under load until the end.
#[test]
fn nothing_grows_over_ten_thousand_attaches() {
    let _alone = alone();
    let lives = cycles_of("SLIPRING_LIVES", 10_000);
    let mut index = 0;
    assert_flat_over(lives, "attach and detach", || {
        index += 1;
        if index % 10 == 0 {
            Stepped::<LockFree>::attach(small(), options()).finish();
        } else {
            life_under_load();
        }
    });
}

/// Namespaces read anew time and again by who never registers or detaches: what the new list replaces goes all the same.
#[test]
fn nothing_grows_over_rescans_without_registrations() {
    let _alone = alone();
    let namespaces = vec![small().namespaces[0].clone(); 8];
    let mut rig: Stepped<LockFree> = Stepped::attach(Config { namespaces, ..small() }, options());
    let mut poller = rig.poller();
    assert_flat_over(10_000, "rescans", || {
        let ticket = poller.send(Message::Rescan).expect("running");
        rig.run(&mut poller, "rescanned", || ticket.is_ready());
    });
    drop(poller);
    rig.finish();
}
