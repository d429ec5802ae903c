//! Latency, which holds a command until it is due, and what can happen to it meanwhile. Interrupts, which follow completions.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Host, small};
use crate::emulated::{Config, Latency, QueueKind};
use crate::spec::command::{AdminOpcode, Command, NvmOpcode};
use crate::spec::feature::FeatureId;
use crate::spec::status::Status;
use crate::transport::Transport;

const MS: Duration = Duration::from_millis(1);

fn latency(queue: QueueKind, opcode: Option<u8>, delay: Duration) -> Latency {
    Latency { queue, opcode, delay }
}

/// Flushes take 5 ms, reads 2 ms, everything else of the I/O queues 1 ms.
fn slow() -> Config {
    Config {
        latencies: vec![
            latency(QueueKind::Io, None, MS),
            latency(QueueKind::Io, Some(NvmOpcode::FLUSH.0), 5 * MS),
            latency(QueueKind::Io, Some(NvmOpcode::READ.0), 2 * MS),
        ],
        ..small()
    }
}

#[test]
fn completions_come_in_the_order_in_which_they_are_due() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 8);
    let flush = host.push(1, Command::flush(1));
    let read = host.with_data(Command::read(1, 0, 1));
    let reads = [host.push(1, read), host.push(1, read)];
    let zeroes = host.push(1, Command::write_zeroes(1, 0, 1, false));
    host.ring(1);
    assert!(host.peek(1).is_none());
    host.pass(Duration::from_nanos(999_999));
    assert!(host.peek(1).is_none());
    let mut order = Vec::new();
    for _ in 0..6 {
        host.pass(MS);
        while let Some(completion) = host.peek(1) {
            assert_eq!((completion.status(), completion.sqhd), (Status::SUCCESS, 4));
            order.push(completion.cid);
        }
    }
    assert_eq!(order, [zeroes, reads[0], reads[1], flush]);
    assert!(host.violations().is_empty());
}

#[test]
fn a_held_command_does_nothing_before_it_is_due() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 8);
    let read = host.with_data(Command::read(1, 0, 1));
    host.block.fill(super::DATA_AT, 512, 0x66);
    host.push(1, read);
    host.ring(1);
    host.pass(MS);
    assert_eq!(host.data(512), [0x66; 512]);
    // A reset comes first: nothing is ever written.
    host.reset();
    host.pass(10 * MS);
    assert_eq!(host.data(512), [0x66; 512]);
    assert!(host.violations().is_empty());
}

#[test]
fn an_abort_ends_a_held_command() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 8);
    let flushes = [host.push(1, Command::flush(1)), host.push(1, Command::flush(1))];
    host.ring(1);
    assert_eq!(host.admin_ok(Command::abort(1, flushes[1])), 0);
    let completion = host.peek(1).expect("aborted");
    assert_eq!((completion.cid, completion.status()), (flushes[1], Status::ABORTED_BY_REQUEST));
    // What is over, or never was, is not aborted.
    assert_eq!(host.admin_ok(Command::abort(1, flushes[1])), 1);
    assert_eq!(host.admin_ok(Command::abort(1, 0xbeef)), 1);
    host.fails(0, Command::abort(2, 0), Status::INVALID_FIELD);
    host.pass(5 * MS);
    let completion = host.peek(1).expect("in its time");
    assert_eq!((completion.cid, completion.status()), (flushes[0], Status::SUCCESS));
}

#[test]
fn aborts_are_limited() {
    let abort = latency(QueueKind::Admin, Some(AdminOpcode::ABORT.0), MS);
    let mut host = Host::ready(Config { aborts: 2, latencies: vec![abort], ..small() });
    for _ in 0..3 {
        host.push(0, Command::abort(0, 0xbeef));
    }
    host.ring(0);
    host.pass(MS);
    // The third finds two outstanding, and is refused at once.
    let statuses: Vec<Status> = std::iter::from_fn(|| host.peek(0)).map(|c| c.status()).collect();
    assert_eq!(statuses, [Status::ABORT_LIMIT_EXCEEDED, Status::SUCCESS, Status::SUCCESS]);
}

#[test]
fn deleting_a_queue_completes_what_is_held() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 8);
    let cids = [host.push(1, Command::flush(1)), host.push(1, Command::flush(1))];
    host.ring(1);
    host.admin_ok(Command::delete_io_sq(1));
    for cid in cids {
        let completion = host.peek(1).expect("completed");
        assert_eq!((completion.cid, completion.status()), (cid, Status::ABORTED_SQ_DELETION));
    }
    assert!(host.violations().is_empty());
}

#[test]
fn a_cid_in_use_is_a_conflict() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 8);
    host.push_as(1, Command { cid: 7, ..Command::flush(1) });
    host.push_as(1, Command { cid: 7, ..Command::flush(1) });
    host.ring(1);
    let completion = host.peek(1).expect("refused at once");
    assert_eq!((completion.cid, completion.status()), (7, Status::COMMAND_ID_CONFLICT));
    host.expect_violation("CID 0x0007 of queue 1");
}

#[test]
fn a_held_command_waits_for_room_in_its_completion_queue() {
    let mut host = Host::ready(slow());
    host.create_pair(1, 4);
    for _ in 0..3 {
        host.push(1, Command::write_zeroes(1, 0, 1, false));
    }
    host.ring(1);
    host.pass(MS);
    // All three are posted and none is acknowledged: no room for more.
    host.push(1, Command::flush(1));
    host.ring(1);
    host.pass(10 * MS);
    for _ in 0..3 {
        assert!(host.peek(1).is_some());
    }
    assert!(host.peek(1).is_none());
    host.pair(1).cq_bell.ring(3);
    host.settle();
    host.pass(10 * MS);
    assert!(host.peek(1).is_some());
    assert!(host.violations().is_empty());
}

#[test]
fn admin_commands_have_latencies_too() {
    let all = latency(QueueKind::Admin, None, MS);
    let mut host = Host::ready(Config { latencies: vec![all], ..small() });
    host.push(0, Command::get_features(FeatureId::ARBITRATION, 0, 0));
    host.ring(0);
    assert!(host.peek(0).is_none());
    host.pass(MS);
    assert!(host.peek(0).expect("due").status().is_success());
}

fn interrupts(fd: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

#[test]
fn interrupts_follow_completions_on_their_vector() {
    let mut host = Host::new(small());
    let vectors = host.transport.enable_interrupts(3).expect("three vectors");
    host.enable();
    host.add_pair(1, 8);
    let (sq, cq) = host.queue_iovas(1);
    host.admin_ok(Command { prp1: cq, ..Command::create_io_cq(1, 8, Some(2)) });
    host.admin_ok(Command { prp1: sq, ..Command::create_io_sq(1, 1, 8, 0) });
    assert_eq!(interrupts(&vectors[0]), 2);
    for _ in 0..3 {
        host.push(1, Command::flush(1));
    }
    host.ring(1);
    // One for the batch, on its own vector and no other.
    assert_eq!((interrupts(&vectors[2]), interrupts(&vectors[1]), interrupts(&vectors[0])), (1, 0, 0));
    host.create_pair(2, 8);
    interrupts(&vectors[0]);
    host.run(2, Command::flush(1));
    assert!(vectors.iter().all(|vector| interrupts(vector) == 0));
    assert!(host.violations().is_empty());
}
