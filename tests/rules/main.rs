//! The driver against the strict controller: odd but legal controllers, and the limits of each handle; `full_queues` has queues without room. Every test ends with
//! no rule broken.
#![allow(unreachable_pub, reason = "a test target exports nothing")]

mod full_queues;

#[path = "../support/mod.rs"]
mod support;

use slipring::ctrlr::{
    AttachError, CallError, Ctrlr, CtrlrOptions, Message, Namespace, Producer, Refusal, RegisterError, Reply,
    ResetError, SendErrorReason, admin,
};
use slipring::dma::{DmaBuffer, DmaError, DmaSlice};
use slipring::emulated::{self, Backing, Config, Latency, NamespaceConfig, QueueKind};
use slipring::poller::{Poller, PollerError, QpairError, QpairOptions, QueuePair, SubmitReason};
use slipring::ring::{AbortReason, LockFree, Outcome, Ticket};
use slipring::spec::command::{Command, NvmOpcode};
use slipring::spec::log::LogId;
use slipring::spec::status::Status;
use std::time::{Duration, Instant};
use support::{DEADLINE, Rig, wait_until};

fn ram(size_bytes: u64, lba_bytes: u32) -> NamespaceConfig {
    NamespaceConfig { size_bytes, lba_bytes, backing: Backing::Ram }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(31).wrapping_add(seed * 131) >> 3) as u8).collect()
}

/// One request of a queue pair, to its end.
fn finish_one(qpair: &mut QueuePair) -> (Status, DmaSlice) {
    let mut end = None;
    let drained = qpair.drain(DEADLINE, |completion| {
        let Outcome::Completed(answer) = completion.outcome else { panic!("{:?}", completion.outcome) };
        end = Some((answer.status(), completion.data.expect("data")));
    });
    assert!(drained.expect("alive"), "answered within the deadline");
    end.expect("one completion")
}

/// Writes, reads back and compares `len` bytes at `lba`, from and to unaligned places of a buffer.
fn write_and_read(
    ctrlr: &Ctrlr<LockFree>,
    qpair: &mut QueuePair,
    namespace: &Namespace,
    lba: u64,
    len: usize,
) {
    const OFFSET: usize = 1028;
    let expected = pattern(len, lba + u64::from(namespace.nsid));
    let slice = |buffer: DmaBuffer| DmaSlice::new(buffer, OFFSET, len).expect("inside");
    let buffer = ctrlr.allocate(len + OFFSET + 64).expect("memory");
    buffer.write_at(OFFSET, &expected);
    qpair.write(namespace, lba, slice(buffer), 1).expect("submitted");
    let (status, data) = finish_one(qpair);
    assert!(status.is_success(), "write of {len} bytes: {status}");
    qpair.compare(namespace, lba, data, 2).expect("submitted");
    let (status, data) = finish_one(qpair);
    assert!(status.is_success(), "compare of {len} bytes: {status}");
    let buffer = data.into_buffer();
    buffer.fill(0xee);
    qpair.read(namespace, lba, slice(buffer), 3).expect("submitted");
    let (status, data) = finish_one(qpair);
    assert!(status.is_success(), "read of {len} bytes: {status}");
    let got = data.buffer().to_vec();
    assert!(got[OFFSET..OFFSET + len] == expected, "{len} bytes at {lba} are read back as they were written");
    let around = got[..OFFSET].iter().chain(&got[OFFSET + len..]);
    assert!(around.into_iter().all(|byte| *byte == 0xee), "nothing around the {len} bytes was written");
}

/// Attaches, does I/O of every interesting length on every namespace, by queue pair and by message, and detaches.
fn exercise(what: &str, config: Config, options: CtrlrOptions) {
    let io_queues = if config.admin_only { 0 } else { config.io_queues.min(options.io_queues) };
    let has_external = options.external_queue_entries != 0 && !config.admin_only;
    let namespaces = config.namespaces.len();
    let unit = 4096 << config.mpsmin;
    let mdts_bytes = if config.mdts == 0 { usize::MAX } else { unit << config.mdts };
    let max_transfer_bytes = options.max_transfer_bytes.min(mdts_bytes);
    let rig: Rig = Rig::attach_with(config, options);
    let limits = rig.ctrlr.limits().expect("limits");
    assert_eq!((limits.io_queues, limits.max_transfer_bytes), (io_queues, max_transfer_bytes), "{what}");
    assert_eq!(rig.ctrlr.namespaces().len(), namespaces, "{what}: namespaces");
    let mut poller = rig.poller();
    let entries = limits.max_queue_entries.min(8);
    for namespace in rig.ctrlr.namespaces().iter() {
        if io_queues > u16::from(has_external) {
            let mut qpair = poller.queue_pair(&QpairOptions { entries }).expect("a queue pair");
            let block = namespace.block_bytes as usize;
            let page = limits.page_bytes;
            let lengths = [block, 2 * block, page, 2 * page, 3 * page, limits.max_transfer_bytes];
            for (index, len) in lengths.into_iter().enumerate() {
                if len <= limits.max_transfer_bytes && len.is_multiple_of(block) {
                    write_and_read(&rig.ctrlr, &mut qpair, namespace, index as u64 * 3, len);
                }
            }
        }
        let read = Message::Io {
            command: Command::read(namespace.nsid, 0, 1),
            data: Some(Box::new(poller.allocate(namespace.block_bytes as usize).expect("memory").into())),
        };
        let ticket = poller.send(read).expect("running");
        match answer(&mut poller, ticket) {
            Reply::Command { status: Status::SUCCESS, .. } if has_external => {}
            Reply::Refused { why: Refusal::NoIoQueue, .. } if !has_external => {}
            other => panic!("{what}: {other:?}"),
        }
    }
    let smart = poller.call(admin::smart_log(), DEADLINE).expect("SMART");
    assert!(smart.temperature_k() > 0, "{what}");
    drop(poller);
    rig.finish();
}

/// That the driver refused a message, and gave its data back.
fn assert_refused(reply: Reply, expected: Refusal, bytes: usize) {
    let Reply::Refused { why, data } = reply else { panic!("{reply:?}") };
    assert_eq!(why, expected);
    assert_eq!(data.expect("the data come back").len(), bytes, "{why}");
}

/// Polls until the message is answered.
fn answer(poller: &mut Poller, ticket: Ticket<Reply>) -> Reply {
    wait_until("a message is answered", || {
        poller.poll(Instant::now()).expect("alive");
        ticket.is_ready()
    });
    match ticket.try_take().expect("ready") {
        Outcome::Completed(reply) => reply,
        Outcome::Aborted(aborted) => panic!("{aborted}"),
    }
}

#[test]
fn odd_controllers_are_driven_by_the_rules() {
    let plain = Config { namespaces: vec![ram(16 << 20, 512)], io_queues: 4, ..Config::default() };
    let options = CtrlrOptions::default;
    let with = |edit: fn(&mut Config)| {
        let mut config = plain.clone();
        edit(&mut config);
        config
    };
    exercise("no transfer limit", with(|config| config.mdts = 0), options());
    let long = CtrlrOptions { max_transfer_bytes: 4 << 20, ..options() };
    exercise("no transfer limit, and long transfers", with(|config| config.mdts = 0), long.clone());
    exercise("transfers of 2 MiB", with(|config| config.mdts = 9), long);
    let short = CtrlrOptions { max_transfer_bytes: 4096, ..options() };
    exercise("transfers of a page", with(|config| config.mdts = 0), short);
    exercise("transfers of 8 KiB", with(|config| config.mdts = 1), options());
    exercise("queues of two entries", with(|config| config.mqes = 2), options());
    exercise("queues of seven entries", with(|config| config.mqes = 7), options());
    exercise("the external queue pair alone", with(|config| config.io_queues = 1), options());
    exercise("two I/O queue pairs", with(|config| config.io_queues = 2), options());
    exercise("doorbells side by side", with(|config| config.dstrd = 0), options());
    exercise("doorbells 64 bytes apart", with(|config| config.dstrd = 4), options());
    exercise("doorbells 2 KiB apart", with(|config| config.dstrd = 9), options());
    exercise("CAP.TO of 127.5 s", with(|config| config.timeout = Duration::from_millis(127_500)), options());
    exercise("slow to be ready", with(|config| config.ready_delay = Duration::from_millis(80)), options());
    exercise(
        "slow to shut down",
        with(|config| config.shutdown_delay = Duration::from_millis(120)),
        options(),
    );
    let slow = |config: &mut Config| config.faults = "slow-registers=200us".parse().expect("a fault");
    exercise("slow registers", with(slow), options());
    exercise("an old version", with(|config| config.version = 0x0001_0000), options());
    exercise("pages of 64 KiB", with(|config| (config.mpsmin, config.mpsmax) = (4, 4)), options());
    exercise("admin commands only", with(|config| config.admin_only = true), options());
    exercise("one event request", with(|config| config.async_events = 1), options());
    exercise("256 event requests", with(|config| config.async_events = 256), options());
    exercise("no interrupts", with(|config| config.interrupts = 0), options());
    exercise("no namespaces", with(|config| config.namespaces.clear()), options());
    let mixed = with(|config| {
        config.namespaces = vec![ram(8 << 20, 512), ram(4 << 20, 4096), ram(4096, 512), ram(8 << 20, 4096)];
        config.namespaces[2].size_bytes = 2 << 20;
    });
    exercise("namespaces of mixed block sizes", mixed, options());
    exercise("the smallest admin queue", plain.clone(), CtrlrOptions { admin_queue_entries: 8, ..options() });
    exercise(
        "the largest admin queue",
        plain.clone(),
        CtrlrOptions { admin_queue_entries: 4096, ..options() },
    );
    exercise(
        "the smallest external queue",
        plain.clone(),
        CtrlrOptions { external_queue_entries: 2, ..options() },
    );
    let without = CtrlrOptions { external_queue_entries: 0, ..options() };
    exercise("no external queue pair", plain.clone(), without.clone());
    exercise("one I/O queue pair, and it is mine", with(|config| config.io_queues = 1), without.clone());
    exercise(
        "one I/O queue pair asked for",
        plain,
        CtrlrOptions { io_queues: 1, ring_slots: 2, ..options() },
    );
}

/// CAP.TO of 0 is half a second, which a device on a thread of its own may need on a busy machine: so it is stepped.
#[test]
fn a_controller_that_says_no_time_gets_half_a_second() {
    for (ready_ms, is_in_time) in [(499, true), (501, false)] {
        let ready_delay = Duration::from_millis(ready_ms);
        let config = Config { timeout: Duration::ZERO, ready_delay, ..Config::default() };
        let (transport, mut device) = emulated::new(config).expect("a valid configuration");
        let mut attach = Ctrlr::<LockFree>::begin_attach(transport, CtrlrOptions::default()).expect("begins");
        let mut now = Instant::now();
        let attached = loop {
            now += Duration::from_micros(100);
            match attach.step(now) {
                Ok(None) => device.step_at(now),
                Ok(Some(_)) => break true,
                Err(error) => {
                    assert!(error.to_string().contains("CSTS.RDY = 1 within 500 ms"), "{error}");
                    break false;
                }
            };
        };
        assert_eq!(attached, is_in_time, "ready after {ready_ms} ms");
    }
}

#[test]
fn options_out_of_range_are_refused_before_the_device_is_touched() {
    let good = CtrlrOptions::default;
    let bad = [
        ("ring_slots is 3", CtrlrOptions { ring_slots: 3, ..good() }),
        ("ring_slots is 1", CtrlrOptions { ring_slots: 1, ..good() }),
        ("ring_slots is 131072", CtrlrOptions { ring_slots: 131_072, ..good() }),
        ("admin_queue_entries is 7", CtrlrOptions { admin_queue_entries: 7, ..good() }),
        ("admin_queue_entries is 4097", CtrlrOptions { admin_queue_entries: 4097, ..good() }),
        ("external_queue_entries is 1", CtrlrOptions { external_queue_entries: 1, ..good() }),
        ("io_queues is 0", CtrlrOptions { io_queues: 0, ..good() }),
        ("io_queues is 1025", CtrlrOptions { io_queues: 1025, ..good() }),
        ("max_transfer_bytes is 4095", CtrlrOptions { max_transfer_bytes: 4095, ..good() }),
        ("max_transfer_bytes is 33554433", CtrlrOptions { max_transfer_bytes: (32 << 20) + 1, ..good() }),
    ];
    let (transport, _device) = emulated::new(Config::default()).expect("a controller");
    for (words, options) in bad {
        // The device is not stepped: an attach that went on would never end.
        match Ctrlr::<LockFree>::attach(transport.clone(), options) {
            Err(AttachError::Options(text)) => assert!(text.contains(words), "{text:?} says {words:?}"),
            other => panic!("{words}: {other:?}"),
        }
    }
    assert_eq!(transport.violations(), Vec::<String>::new());
}

#[test]
fn queue_depths_and_full_queues_are_answers() {
    let latency = Latency { queue: QueueKind::Io, opcode: None, delay: Duration::from_millis(20) };
    let config = Config { io_queues: 3, mqes: 64, latencies: vec![latency], ..Config::default() };
    let rig: Rig = Rig::attach(config);
    let mut poller = rig.poller();
    for entries in [0, 1, 65, 1 << 20] {
        let refused = poller.queue_pair(&QpairOptions { entries }).expect_err("out of range");
        assert_eq!(refused, QpairError::Entries { entries, limit: 64 });
    }
    let mut small = poller.queue_pair(&QpairOptions { entries: 2 }).expect("the smallest");
    let mut large = poller.queue_pair(&QpairOptions { entries: 64 }).expect("the largest");
    let none = poller.queue_pair(&QpairOptions { entries: 2 }).expect_err("both are in use");
    assert_eq!(none, QpairError::NoneFree { io_queues: 3 });
    let namespace = rig.ctrlr.namespaces()[0];
    for (qpair, entries) in [(&mut small, 2_u64), (&mut large, 64)] {
        assert_eq!(qpair.capacity() as u64, entries - 1);
        for token in 0..entries - 1 {
            let data = rig.ctrlr.allocate(512).expect("memory").into();
            qpair.read(&namespace, token, data, token).expect("room");
        }
        let buffer = rig.ctrlr.allocate(512).expect("memory");
        buffer.fill(0x5a);
        let full = qpair.read(&namespace, 0, buffer.into(), 99).expect_err("full");
        assert_eq!(full.reason, SubmitReason::QueueFull);
        assert_eq!(full.data.expect("the data come back").buffer().to_vec(), vec![0x5a; 512]);
        let mut seen = vec![0; entries as usize - 1];
        let drained = qpair.drain(DEADLINE, |completion| {
            assert!(completion.is_success());
            seen[completion.token as usize] += 1;
        });
        assert!(drained.expect("alive"));
        assert!(seen.iter().all(|count| *count == 1), "each request once: {seen:?}");
    }
    drop(small);
    // The identifier is free again once the device has deleted the queues.
    wait_until("a dropped queue pair can be had again", || {
        poller.poll(Instant::now()).expect("alive");
        matches!(poller.queue_pair(&QpairOptions { entries: 4 }), Ok(qpair) if qpair.is_connected())
    });
    drop(large);
    drop(poller);
    rig.finish();
}

#[test]
fn wrong_requests_come_back_with_their_data_and_the_right_error() {
    let config = Config { mdts: 2, namespaces: vec![ram(1 << 20, 4096)], ..Config::default() };
    let rig: Rig = Rig::attach(config);
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = rig.ctrlr.namespaces()[0];
    let limit_bytes = 16 << 10;
    assert_eq!(rig.ctrlr.limits().expect("limits").max_transfer_bytes, limit_bytes);
    let data = |len: usize| -> DmaSlice { rig.ctrlr.allocate(len).expect("memory").into() };

    let refused = qpair.read(&namespace, 0, data(limit_bytes + 4096), 1).expect_err("too long");
    assert_eq!(refused.reason, SubmitReason::TooLarge { limit_bytes });
    assert_eq!(refused.data.expect("back").len(), limit_bytes + 4096);
    for (lba, len) in [(256, 4096), (255, 8192), (u64::MAX, 4096), (u64::MAX - 1, 8192)] {
        let refused = qpair.write(&namespace, lba, data(len), 1).expect_err("past the end");
        assert_eq!(refused.reason, SubmitReason::Range, "{len} bytes at {lba}");
        assert_eq!(refused.data.expect("back").len(), len);
    }
    let refused = qpair.read(&namespace, 0, data(512), 1).expect_err("no whole block");
    assert!(matches!(refused.reason, SubmitReason::BadData { .. }), "{:?}", refused.reason);
    assert_eq!(refused.data.expect("back").len(), 512);
    let refused = qpair.write_zeroes(&namespace, 0, 0, false, 1).expect_err("no blocks");
    assert_eq!(refused.reason, SubmitReason::Range);
    let refused = qpair.deallocate(&namespace, &[], 1).expect_err("no ranges");
    assert!(matches!(refused.reason, SubmitReason::BadData { .. }), "{:?}", refused.reason);
    let (error, buffer) =
        DmaSlice::new(rig.ctrlr.allocate(4096).expect("memory"), 2, 512).expect_err("unaligned");
    assert!(matches!(error, DmaError::Unaligned { offset: 2, align: 4 }), "{error}");
    assert_eq!(buffer.len(), 4096);
    assert_eq!(qpair.outstanding(), 0, "nothing of it was submitted");

    // What only the device can tell comes back with its own word, and the data.
    let bad = [
        (Command::read(1, 256, 1), Status::LBA_OUT_OF_RANGE),
        (Command::read(2, 0, 1), Status::INVALID_FIELD),
        (Command::read(0, 0, 1), Status::INVALID_NAMESPACE_OR_FORMAT),
        (Command::nvm(NvmOpcode(0x7f), 1), Status::INVALID_OPCODE),
    ];
    for (command, expected) in bad {
        qpair.submit(command, Some(data(4096)), 7).expect("submitted");
        let (status, data) = finish_one(&mut qpair);
        assert_eq!(status.without_dnr(), expected, "{command:?}");
        assert!(status.dnr(), "{command:?}: do not retry");
        assert_eq!(data.len(), 4096);
    }

    // The same by message.
    let too_long = Message::Io { command: Command::read(1, 0, 8), data: Some(Box::new(data(32 << 10))) };
    let ticket = poller.send(too_long).expect("running");
    let why = Refusal::TooLarge { limit_bytes: 16_384 };
    assert_refused(answer(&mut poller, ticket), why, 32 << 10);
    let not_allowed = Message::Admin { command: Command::delete_io_sq(1), data: Some(Box::new(data(4096))) };
    let ticket = poller.send(not_allowed).expect("running");
    assert_refused(answer(&mut poller, ticket), Refusal::DriverOwned { opcode: 0 }, 4096);
    let call = poller.call(admin::identify_ns(2), DEADLINE);
    assert!(call.is_ok(), "an inactive namespace reads as zeroes: {call:?}");
    let call = poller.call(admin::log_page(LogId(0xef), u32::MAX, 512, 0), DEADLINE);
    assert!(
        matches!(call, Err(CallError::Status(status)) if status.without_dnr() == Status::INVALID_LOG_PAGE),
        "{call:?}"
    );
    drop((qpair, poller));
    rig.finish();
}

#[test]
fn handles_of_a_detached_controller_say_so_and_lose_nothing() {
    let rig: Rig = Rig::attach(Config::default());
    let mut poller = rig.poller();
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let mut pair_in_flight = poller.queue_pair(&QpairOptions { entries: 4 }).expect("a queue pair");
    let producer: Producer<LockFree> = rig.ctrlr.register("late").expect("registered");
    let namespace = rig.ctrlr.namespaces()[0];
    let buffer = rig.ctrlr.allocate(512).expect("memory");
    buffer.fill(0x77);
    // Submitted, and its doorbell never rung: the device does not know of it.
    pair_in_flight
        .read(&namespace, 0, rig.ctrlr.allocate(512).expect("memory").into(), 5)
        .expect("submitted");
    let ctrlr = rig.ctrlr.clone();
    poller.detach(DEADLINE).expect("detached");

    let refused = qpair.write(&namespace, 0, buffer.into(), 1).expect_err("detached");
    assert_eq!(refused.reason, SubmitReason::Gone);
    assert_eq!(refused.data.expect("back").buffer().to_vec(), vec![0x77; 512]);
    assert_eq!(qpair.poll(8, |_| panic!("nothing was in flight")), Err(QpairError::Gone(None)));
    let mut given_back = Vec::new();
    let none = pair_in_flight.poll(0, |_| panic!("none was asked for"));
    assert_eq!(none, Ok(0), "the error comes after the last request");
    let count = pair_in_flight.poll(8, |completion| given_back.push(completion)).expect("the request first");
    assert_eq!((count, given_back[0].token), (1, 5));
    let Outcome::Aborted(aborted) = given_back[0].outcome else { panic!("{given_back:?}") };
    assert_eq!(aborted.reason, AbortReason::Detached);
    assert_eq!(given_back[0].data.as_ref().expect("back").len(), 512);
    assert_eq!(pair_in_flight.poll(8, |_| panic!("twice")), Err(QpairError::Gone(None)));

    let message = Message::Admin {
        command: Command::get_log_page(LogId::SMART, u32::MAX, 512, 0, true),
        data: given_back.pop().and_then(|completion| completion.data).map(Box::new),
    };
    let refused = producer.send(message).expect_err("detached");
    assert_eq!(refused.reason, SendErrorReason::Detached);
    assert!(matches!(refused.message, Message::Admin { data: Some(_), .. }), "the message comes back whole");
    assert!(matches!(
        producer.call(admin::identify_ctrlr(), DEADLINE),
        Err(CallError::Memory(DmaError::Detached))
    ));
    assert_eq!(ctrlr.register("again").map(|_| ()), Err(RegisterError::Detached));
    assert_eq!(Poller::new(&ctrlr, "again").map(|_| ()), Err(PollerError::Detached));
    assert_eq!(ctrlr.reset().map(|_| ()), Err(ResetError::Detached));
    assert_eq!(QueuePair::request(&ctrlr, &QpairOptions::default()).map(|_| ()), Err(QpairError::Gone(None)));
    assert!(matches!(ctrlr.allocate(1), Err(DmaError::Detached)));
    assert_eq!(ctrlr.detach(DEADLINE), Ok(()), "a second detach has nothing to do");
    assert_eq!(ctrlr.dma_bytes(), (0, 0));
    drop((qpair, pair_in_flight));
    rig.finish();
}
