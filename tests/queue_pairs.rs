//! What an embedder is told by queue pairs, poll groups and a poller, beyond reading and writing: each limit of a command, each answer, each count. One thread, which
//! steps the device too.

mod support;

use slipring::ctrlr::{AdminCall, CallError, CtrlrOptions, Message, Namespace, Reply, admin};
use slipring::dma::DmaSlice;
use slipring::emulated::{Backing, Config, NamespaceConfig};
use slipring::poller::{
    IoCompletion, PollGroup, Poller, QpairError, QpairOptions, QueuePair, SubmitError, SubmitReason,
};
use slipring::ring::{Outcome, Ticket};
use slipring::spec::command::Command;
use slipring::spec::feature::FeatureId;
use slipring::spec::status::Status;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::Stepped;

/// Blocks of the namespace: more than one command may cover.
const BLOCKS: u64 = 70_000;

struct World {
    rig: Stepped,
    poller: Poller,
    qpair: QueuePair,
    namespace: Namespace,
}

impl World {
    fn new() -> Self {
        let namespace = NamespaceConfig { size_bytes: BLOCKS * 512, lba_bytes: 512, backing: Backing::Ram };
        let config = Config { namespaces: vec![namespace], io_queues: 8, ..Config::default() };
        let mut rig = Stepped::attach(config, CtrlrOptions::default());
        let mut poller = rig.poller();
        let qpair = connect(&mut rig, &mut poller);
        let namespace = rig.ctrlr.namespaces()[0];
        Self { rig, poller, qpair, namespace }
    }

    fn data(&self, bytes: usize) -> DmaSlice {
        self.poller.allocate(bytes).expect("memory").into()
    }

    /// Polls and steps until the one request that is in flight is answered.
    fn answer(&mut self) -> IoCompletion {
        assert_eq!(self.qpair.outstanding(), 1);
        let mut answer = None;
        let Self { rig, poller, qpair, .. } = self;
        rig.run(poller, "answered", || {
            qpair.poll(8, |completion| answer = Some(completion)).expect("alive");
            answer.is_some()
        });
        answer.expect("answered")
    }

    fn succeeds(&mut self) -> IoCompletion {
        let answer = self.answer();
        assert!(answer.is_success(), "{answer:?}");
        answer
    }

    fn write(&mut self, lba: u64, blocks: usize, byte: u8) {
        let buffer = self.poller.allocate(blocks * 512).expect("memory");
        buffer.fill(byte);
        self.qpair.write(&self.namespace, lba, buffer.into(), 1).expect("submitted");
        self.succeeds();
    }

    /// The first byte of each block.
    fn read(&mut self, lba: u64, blocks: usize) -> Vec<u8> {
        let data = self.data(blocks * 512);
        self.qpair.read(&self.namespace, lba, data, 2).expect("submitted");
        let data = self.succeeds().data.expect("comes back");
        data.buffer().to_vec().chunks(512).map(|block| block[0]).collect()
    }

    fn finish(self) {
        let Self { rig, poller, qpair, .. } = self;
        drop((poller, qpair));
        rig.finish();
    }
}

fn connect(rig: &mut Stepped, poller: &mut Poller) -> QueuePair {
    let mut qpair = QueuePair::request(&rig.ctrlr, &QpairOptions { entries: 8 }).expect("a queue pair");
    rig.run(poller, "connected", || qpair.connected().expect("well"));
    qpair
}

fn refused(result: Result<(), SubmitError>) -> SubmitReason {
    result.expect_err("refused").reason
}

#[test]
fn a_range_of_blocks_is_1_to_65536_and_inside() {
    let mut world = World::new();
    let namespace = world.namespace;
    for (lba, blocks, fits) in [
        (0, 0, false),
        (0, 1, true),
        (0, 65_536, true),
        (0, 65_537, false),
        (BLOCKS - 1, 1, true),
        (BLOCKS - 1, 2, false),
        (BLOCKS, 1, false),
        (u64::MAX, 1, false),
    ] {
        let verified = world.qpair.verify(&namespace, lba, blocks, 3);
        assert_eq!(verified.is_ok(), fits, "verify {blocks} at {lba}");
        let zeroed = world.qpair.write_zeroes(&namespace, lba, blocks, false, 4);
        assert_eq!(zeroed.is_ok(), fits, "zero {blocks} at {lba}");
        let copied = world.qpair.copy(&namespace, 0, &[(lba, blocks)], 5);
        assert_eq!(copied.is_ok(), fits, "copy {blocks} from {lba}");
        for outcome in [verified, zeroed, copied].into_iter().filter(Result::is_err) {
            assert_eq!(refused(outcome), SubmitReason::Range);
        }
        let Stepped { ctrlr: _, transport: _, device } = &mut world.rig;
        let mut rounds = 0;
        while world.qpair.outstanding() > 0 {
            world.qpair.poll(8, |_| ()).expect("alive");
            device.step();
            rounds += 1;
            assert!(rounds < Stepped::<slipring::ring::LockFree>::STEPS, "answered");
        }
    }
    for (len, reason) in [(512, SubmitReason::Range), (1024, SubmitReason::Range)] {
        let data = world.data(len);
        assert_eq!(refused(world.qpair.read(&namespace, BLOCKS, data, 6)), reason);
    }
    let data = world.data(513);
    assert!(matches!(refused(world.qpair.write(&namespace, 0, data, 7)), SubmitReason::BadData { .. }));
    world.finish();
}

#[test]
fn blocks_are_copied_one_range_after_the_other() {
    let mut world = World::new();
    let namespace = world.namespace;
    world.write(10, 2, 0xaa);
    world.write(20, 3, 0xbb);
    world.qpair.copy(&namespace, 40, &[(20, 3), (11, 1)], 8).expect("submitted");
    let answer = world.succeeds();
    assert_eq!((answer.token, answer.data.map(|list| list.len())), (8, Some(64)), "two ranges of 32 bytes");
    assert_eq!(world.read(39, 6), [0, 0xbb, 0xbb, 0xbb, 0xaa, 0]);
    // To the last block, and not past it.
    world.qpair.copy(&namespace, BLOCKS - 4, &[(20, 3), (11, 1)], 9).expect("submitted");
    world.succeeds();
    let past = world.qpair.copy(&namespace, BLOCKS - 3, &[(20, 3), (11, 1)], 9);
    assert_eq!(refused(past), SubmitReason::Range);
    let far = world.qpair.copy(&namespace, u64::MAX, &[(20, 3)], 9);
    assert_eq!(refused(far), SubmitReason::Range);
    let one_is_outside = world.qpair.copy(&namespace, 0, &[(20, 3), (BLOCKS, 1)], 9);
    assert_eq!(refused(one_is_outside), SubmitReason::Range);
    world.finish();
}

#[test]
fn a_command_has_1_to_256_ranges() {
    let mut world = World::new();
    let namespace = world.namespace;
    for (count, fits) in [(0, false), (256, true), (257, false)] {
        let ranges: Vec<_> = (0..count).map(|index| (index, 1)).collect();
        for result in
            [world.qpair.copy(&namespace, 1000, &ranges, 0), world.qpair.deallocate(&namespace, &ranges, 0)]
        {
            match result {
                Ok(()) => assert!(fits, "{count}"),
                Err(error) => {
                    assert!(
                        !fits && matches!(error.reason, SubmitReason::BadData { .. }),
                        "{count}: {error}"
                    );
                }
            }
        }
    }
    world.finish();
}

#[test]
fn what_is_deallocated_reads_as_zeroes_range_by_range() {
    let mut world = World::new();
    let namespace = world.namespace;
    world.write(10, 6, 0xaa);
    world.qpair.deallocate(&namespace, &[(10, 1), (13, 2)], 0).expect("submitted");
    world.succeeds();
    assert_eq!(world.read(10, 6), [0, 0xaa, 0xaa, 0, 0, 0xaa]);
    world.finish();
}

#[test]
fn what_differs_is_told_by_the_devices_own_status() {
    let mut world = World::new();
    let namespace = world.namespace;
    world.write(5, 1, 0xaa);
    let data = world.data(512);
    data.buffer().fill(0xab);
    world.qpair.compare(&namespace, 5, data, 12).expect("submitted");
    let answer = world.answer();
    assert!(!answer.is_success());
    let Outcome::Completed(completion) = answer.outcome else { panic!("{:?}", answer.outcome) };
    assert_eq!((answer.token, completion.status().with_dnr()), (12, Status::COMPARE_FAILURE.with_dnr()));
    assert_eq!(world.qpair.statistics().completed, world.qpair.statistics().submitted);
    world.finish();
}

#[test]
fn who_cannot_submit_is_told_why() {
    let mut world = World::new();
    let namespace = world.namespace;
    let limit_bytes = world.rig.ctrlr.limits().expect("limits").max_transfer_bytes;
    let data = world.data(limit_bytes + 512);
    let SubmitError { reason, data } = world.qpair.read(&namespace, 0, data, 0).expect_err("too large");
    assert_eq!(reason, SubmitReason::TooLarge { limit_bytes });
    assert_eq!(data.map(|data| data.len()), Some(limit_bytes + 512));

    let mut early = QueuePair::request(&world.rig.ctrlr, &QpairOptions { entries: 8 }).expect("asked for");
    assert!(!early.connected().expect("may become so"));
    assert_eq!(refused(early.flush(&namespace, 0)), SubmitReason::NotConnected);

    let World { rig, poller, mut qpair, .. } = world;
    drop(poller);
    rig.finish();
    for qpair in [&mut qpair, &mut early] {
        assert_eq!(refused(qpair.flush(&namespace, 0)), SubmitReason::Gone);
        assert!(matches!(qpair.connected(), Err(QpairError::Gone(None))), "{:?}", qpair.connected());
    }
}

#[test]
fn a_group_polls_all_and_names_each() {
    let mut world = World::new();
    let mut group = PollGroup::new();
    assert!(group.is_empty());
    let qpairs: Vec<_> = (0..3).map(|_| connect(&mut world.rig, &mut world.poller)).collect();
    for (index, qpair) in qpairs.into_iter().enumerate() {
        assert_eq!(group.add(qpair), index);
        assert_eq!((group.len(), group.is_empty()), (index + 1, false));
    }
    for (token, qpair) in (10..).zip(group.iter_mut()) {
        qpair.flush(&world.namespace, token).expect("submitted");
    }
    group.get_mut(1).expect("it is there").flush(&world.namespace, 21).expect("submitted");
    assert!(group.get_mut(3).is_none());
    let (mut answered, mut count) = (Vec::new(), 0);
    world.rig.run(&mut world.poller, "all are answered", || {
        count += group.poll(8, |index, completion| answered.push((index, completion.token))).expect("alive");
        answered.len() == 4
    });
    answered.sort_unstable();
    assert_eq!((answered, count), (vec![(0, 10), (1, 11), (1, 21), (2, 12)], 4));

    let first = group.remove(0);
    assert_eq!((first.statistics().submitted, group.len()), (1, 2));
    drop((first, group));
    world.finish();
}

#[test]
fn a_poll_says_how_much_happened() {
    let World { mut rig, mut poller, qpair, .. } = World::new();
    let producer = rig.ctrlr.register("counted").expect("registered");
    let flush = || Message::Io { command: Command::flush(1), data: None };
    let mut tickets: Vec<_> = (0..3).map(|_| producer.send(flush()).expect("room")).collect();
    let mut poll = |expected| assert_eq!(poller.poll(Instant::now()), Ok(expected));
    poll(3);
    poll(0);
    while rig.device.step() != 0 {}
    tickets.extend((0..2).map(|_| producer.send(flush()).expect("room")));
    // Two messages and three completions.
    poll(5);
    while rig.device.step() != 0 {}
    poll(2);
    assert!(tickets.iter().all(Ticket::is_ready));
    drop((producer, poller, qpair));
    rig.finish();
}

/// Of a device that does not answer: the call is still on its way then, and the poller its caller's.
#[test]
fn a_call_waits_no_longer_than_it_is_to_nor_for_who_detaches() {
    let World { rig, mut poller, qpair, .. } = World::new();
    drop(qpair);
    let in_time = poller.call(admin::smart_log(), Duration::ZERO);
    let Err(CallError::Pending(first)) = in_time else { panic!("{in_time:?}") };
    let mut detach = rig.ctrlr.begin_detach(support::DEADLINE).expect("begins");
    let begun = Instant::now();
    let left = poller.call(admin::smart_log(), support::DEADLINE / 4);
    let Err(CallError::Pending(second)) = left else { panic!("{left:?}") };
    assert!(begun.elapsed() < support::DEADLINE / 4, "nobody is left who would answer it");
    let Stepped { ctrlr, mut device, .. } = rig;
    for _ in 0..Stepped::<slipring::ring::LockFree>::STEPS {
        if detach.step(Instant::now()) {
            assert!(first.is_ready() && second.is_ready());
            assert_eq!(ctrlr.dma_bytes().1, 0);
            return;
        }
        device.step();
    }
    panic!("not detached: {ctrlr:?}");
}

/// A call's answer, on this thread.
fn call<T: std::fmt::Debug>(rig: &mut Stepped, poller: &mut Poller, call: AdminCall<T>) -> T {
    let pending = poller.start_call(call).expect("running");
    rig.run(poller, "answered", || pending.is_ready());
    pending.wait(Duration::ZERO).expect("the answer")
}

#[test]
fn active_namespaces_are_listed_from_any_on() {
    let namespace = NamespaceConfig { size_bytes: 4096, lba_bytes: 512, backing: Backing::Ram };
    let config = Config { namespaces: vec![namespace; 3], ..Config::default() };
    let mut rig = Stepped::attach(config, CtrlrOptions::default());
    let mut poller = rig.poller();
    for (after, listed) in [(0, &[1, 2, 3][..]), (1, &[2, 3]), (3, &[])] {
        assert_eq!(call(&mut rig, &mut poller, admin::active_namespaces(after)), listed, "after {after}");
    }
    drop(poller);
    rig.finish();
}

#[test]
fn no_more_queues_are_taken_than_are_wanted() {
    for (wanted, of) in [(1, 64), (4, 64), (64, 3)] {
        let options = CtrlrOptions { io_queues: wanted, ..CtrlrOptions::default() };
        let mut rig = Stepped::attach(Config { io_queues: of, ..Config::default() }, options);
        let mut poller = rig.poller();
        let taken_z = call(&mut rig, &mut poller, admin::get_feature(FeatureId::NUMBER_OF_QUEUES, 0));
        let pairs_z = u32::from(wanted.min(of) - 1);
        assert_eq!(taken_z, pairs_z << 16 | pairs_z, "{wanted} of {of}");
        drop(poller);
        rig.finish();
    }
}

#[test]
fn a_poller_answers_on_its_own_thread_and_says_whether_it_is_waited_for() {
    let mut world = World::new();
    assert!(world.poller.is_online(), "it has polled");
    world.poller.pause();
    assert!(!world.poller.is_online());
    assert_eq!(world.rig.ctrlr.namespace(1), Some(world.namespace));
    assert_eq!(world.rig.ctrlr.namespace(2), None);
    assert_eq!(world.rig.ctrlr.address(), Config::default().address);

    let answers = Arc::new(AtomicUsize::new(0));
    let callback = || {
        let answers = Arc::clone(&answers);
        move |outcome| {
            let is_answer = matches!(outcome, Outcome::Completed(Reply::Command { .. }));
            // Relaxed: this is one thread.
            answers.fetch_add(usize::from(is_answer), Ordering::Relaxed);
        }
    };
    let message = || Message::Io { command: Command::flush(1), data: None };
    assert!(world.poller.send_with(message(), callback()));
    // Relaxed: as above.
    world.rig.run(&mut world.poller, "answered", || answers.load(Ordering::Relaxed) == 1);

    let pending = world.poller.start_call(admin::smart_log()).expect("started");
    world.rig.run(&mut world.poller, "answered", || pending.is_ready());

    let World { rig, mut poller, qpair, .. } = world;
    drop(qpair);
    let ctrlr = rig.ctrlr.clone();
    let mut detach = ctrlr.begin_detach(support::DEADLINE).expect("begins");
    let Stepped { mut device, .. } = rig;
    let mut is_over = false;
    for _ in 0..Stepped::<slipring::ring::LockFree>::STEPS {
        let _ = poller.poll(Instant::now());
        is_over = detach.step(Instant::now());
        if is_over {
            break;
        }
        device.step();
    }
    assert!(is_over, "detached");
    assert!(!poller.send_with(message(), callback()), "nobody would answer");
    assert!(poller.start_call(admin::smart_log()).is_err());
    assert!(!poller.is_online());
}
