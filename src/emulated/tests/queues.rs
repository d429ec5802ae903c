//! Queue semantics: creation and deletion with every refusal, wrap and phase, full queues, and doorbells that are wrong.

use super::{DATA_AT, Host, small};
use crate::emulated::Config;
use crate::spec::command::Command;
use crate::spec::registers::Cc;
use crate::spec::status::Status;
use crate::transport::Transport;

#[test]
fn completions_carry_cid_head_and_phase_through_many_wraps() {
    let mut host = Host::ready(small());
    host.create_pair(3, 5);
    for i in 0..23_u32 {
        let completion = host.run(3, Command::flush(1));
        assert_eq!(u32::from(completion.sqhd), (i + 1) % 5);
        assert!(completion.status().is_success());
    }
    assert!(host.violations().is_empty());
}

#[test]
fn several_pairs_of_different_sizes_do_not_mix() {
    let mut host = Host::ready(small());
    for (qid, entries) in [(1, 2), (4, 64), (2, 7)] {
        host.create_pair(qid, entries);
    }
    for round in 0..9 {
        for qid in [1, 2, 4] {
            let completion = host.run(qid, Command::flush(1 + round % 2));
            assert!(completion.status().is_success());
        }
    }
    assert!(host.violations().is_empty());
}

#[test]
fn a_full_submission_queue_is_served_at_once() {
    let mut host = Host::ready(small());
    host.create_pair(1, 8);
    let cids: Vec<u16> = (0..7).map(|_| host.push(1, Command::flush(1))).collect();
    host.ring(1);
    for cid in cids {
        assert_eq!(host.peek(1).expect("served").cid, cid);
    }
    assert!(host.violations().is_empty());
}

#[test]
fn a_full_completion_queue_holds_the_rest_back() {
    let mut host = Host::ready(small());
    // Eight submissions for four completions: a breach to begin with.
    host.add_pair(1, 8);
    let (sq, cq) = host.queue_iovas(1);
    host.admin_ok(Command { prp1: cq, ..Command::create_io_cq(1, 4, None) });
    host.admin_ok(Command { prp1: sq, ..Command::create_io_sq(1, 1, 8, 0) });
    host.expect_violation("completion queue 1 has 4 entries and its submission queues 8");
    for _ in 0..7 {
        host.push(1, Command::flush(1));
    }
    host.ring(1);
    let posted = |host: &mut Host| (0..3).filter_map(|_| host.peek(1)).count();
    assert_eq!(posted(&mut host), 3);
    assert!(host.peek(1).is_none());
    host.pair(1).cq_bell.ring(3);
    host.settle();
    // The fourth entry of the queue, and then the first again with the other phase.
    assert_eq!(host.peek(1).expect("room again").sqhd, 4);
    let mut bytes = [0; 16];
    host.block.read(host.queue_iovas_offset(1), &mut bytes);
    assert_eq!(bytes[14] & 1, 0);
    assert_eq!(host.violations().len(), 1);
}

impl Host {
    fn queue_iovas_offset(&self, qid: u16) -> usize {
        self.pairs[&qid].cq_at
    }
}

#[test]
fn creating_a_completion_queue_is_refused_for_each_reason() {
    let mut host = Host::ready(small());
    host.transport.write_u32(crate::spec::registers::CC, Cc::new().into());
    host.settle();
    host.transport.enable_interrupts(2).expect("two vectors");
    host.forget_queues();
    host.enable();
    host.create_pair(1, 4);
    let prp1 = host.iova + DATA_AT as u64;
    let good = Command { prp1, ..Command::create_io_cq(2, 4, None) };
    let refused = [
        (Command { prp1, ..Command::create_io_cq(0, 4, None) }, Status::INVALID_QUEUE_ID, "not among 1 to 4"),
        (Command { prp1, ..Command::create_io_cq(5, 4, None) }, Status::INVALID_QUEUE_ID, "not among 1 to 4"),
        (Command { prp1, ..Command::create_io_cq(1, 4, None) }, Status::INVALID_QUEUE_ID, "it exists"),
        (Command { prp1, ..Command::create_io_cq(2, 65, None) }, Status::INVALID_QUEUE_SIZE, "65 entries"),
        (Command { prp1, ..Command::create_io_cq(2, 1, None) }, Status::INVALID_QUEUE_SIZE, "1 entries"),
        (Command { cdw11: good.cdw11 & !1, ..good }, Status::INVALID_FIELD, "PC is 0"),
        (Command { prp1: prp1 + 8, ..good }, Status::INVALID_PRP_OFFSET, "not aligned"),
        (Command { prp1: 0x1000, ..good }, Status::DATA_TRANSFER_ERROR, "are not mapped"),
        (
            Command { prp1, ..Command::create_io_cq(2, 4, Some(2)) },
            Status::INVALID_INTERRUPT_VECTOR,
            "vector 2 is not enabled",
        ),
    ];
    for (i, (command, status, words)) in refused.into_iter().enumerate() {
        host.fails(0, command, status);
        let all = host.violations();
        assert_eq!(all.len(), i + 1);
        assert!(all[i].starts_with("Create I/O Completion Queue") && all[i].contains(words), "{}", all[i]);
    }
    // A namespace is none of its business.
    host.fails(0, Command { nsid: 1, ..good }, Status::INVALID_FIELD);
    host.admin_ok(Command { prp1, ..Command::create_io_cq(2, 4, Some(1)) });
}

#[test]
fn creating_a_submission_queue_is_refused_for_each_reason() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    let prp1 = host.iova + DATA_AT as u64;
    let refused = [
        (Command::create_io_sq(0, 1, 4, 0), Status::INVALID_QUEUE_ID, "not among"),
        (Command::create_io_sq(5, 1, 4, 0), Status::INVALID_QUEUE_ID, "not among"),
        (Command::create_io_sq(1, 1, 4, 0), Status::INVALID_QUEUE_ID, "it exists"),
        (Command::create_io_sq(2, 0, 4, 0), Status::INVALID_QUEUE_ID, "0 is not the id"),
        (Command::create_io_sq(2, 5, 4, 0), Status::INVALID_QUEUE_ID, "5 is not the id"),
        (Command::create_io_sq(2, 3, 4, 0), Status::INVALID_COMPLETION_QUEUE, "queue 3 does not exist"),
        (Command::create_io_sq(2, 1, 100, 0), Status::INVALID_QUEUE_SIZE, "100 entries"),
    ];
    for (i, (command, status, words)) in refused.into_iter().enumerate() {
        host.fails(0, Command { prp1, ..command }, status);
        let all = host.violations();
        assert!(all.len() == i + 1 && all[i].contains(words), "{words}: {all:?}");
    }
}

#[test]
fn deleting_is_refused_in_the_wrong_order_or_for_nothing() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    host.fails(0, Command::delete_io_cq(1), Status::INVALID_QUEUE_DELETION);
    for (i, command) in [
        Command::delete_io_cq(0),
        Command::delete_io_cq(2),
        Command::delete_io_cq(999),
        Command::delete_io_sq(0),
        Command::delete_io_sq(2),
        Command::delete_io_sq(999),
    ]
    .into_iter()
    .enumerate()
    {
        host.fails(0, command, Status::INVALID_QUEUE_ID);
        assert_eq!(host.violations().len(), i + 2);
    }
    host.admin_ok(Command::delete_io_sq(1));
    host.admin_ok(Command::delete_io_cq(1));
    // And they are really gone, so that they can be made anew, with other sizes.
    host.create_pair(1, 16);
    assert!(host.run(1, Command::flush(1)).status().is_success());
    assert_eq!(host.violations().len(), 7);
}

#[test]
fn wrong_submission_tails_are_ignored_and_breaches() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    for (value, words) in [(4, "is not below"), (0xffff_ffff, "is not below"), (0x1_0001, "is not below")] {
        host.pair(1).sq_bell.ring(value);
        host.settle();
        let all = host.violations();
        assert!(all.last().expect("one").contains(words), "{all:?}");
    }
    assert_eq!(host.violations().len(), 3);
    // It goes on where it was.
    assert!(host.run(1, Command::flush(1)).status().is_success());
    assert_eq!(host.violations().len(), 3);
}

#[test]
fn a_tail_over_entries_not_known_to_be_free_is_a_breach() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    for _ in 0..3 {
        host.push(1, Command::flush(1));
    }
    host.ring(1);
    // The last of the three completions told the driver that three entries are free again: it may use these.
    host.pair(1).sq_bell.ring(2);
    host.settle();
    assert!(host.violations().is_empty());
    // But no more: nothing was completed since, as the completion queue is full.
    host.pair(1).sq_bell.ring(1);
    host.settle();
    host.expect_violation("tail 1 of submission queue 1 goes further");
}

#[test]
fn an_unchanged_doorbell_is_a_breach() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    host.pair(1).sq_bell.ring(0);
    host.settle();
    host.expect_violation("tail 0 of submission queue 1 is what it was");
    assert!(host.run(1, Command::flush(1)).status().is_success());
    host.ring(1);
    assert!(host.violations()[1].contains("tail 1 of submission queue 1 is what it was"));
    let head = host.pair(1).head;
    host.pair(1).cq_bell.ring(head);
    host.settle();
    assert!(host.violations()[2].contains("head 1 of completion queue 1 is what it was"));
}

#[test]
fn wrong_completion_heads_are_breaches() {
    let mut host = Host::ready(small());
    host.create_pair(1, 4);
    host.pair(1).cq_bell.ring(1);
    host.settle();
    host.expect_violation("head 1 of completion queue 1 goes further");
    host.pair(1).cq_bell.ring(4);
    host.settle();
    assert!(host.violations()[1].contains("head 4 of completion queue 1 is not below"));
}

#[test]
fn doorbells_of_queues_that_do_not_exist_are_breaches() {
    let mut host = Host::ready(small());
    host.add_pair(2, 4);
    host.pair(2).sq_bell.ring(1);
    host.settle();
    host.expect_violation("the doorbell of submission queue 2 was rung, and there is no such queue");
    host.pair(2).cq_bell.ring(0);
    host.settle();
    assert!(host.violations()[1].contains("completion queue 2 was rung"));
}

#[test]
fn an_admin_only_controller_has_no_io_queues() {
    let mut host = Host::new(small());
    host.set_admin_queues();
    host.write_cc(Host::cc().with_css(0b111));
    assert!(host.csts().rdy());
    host.add_pair(1, 4);
    let (sq, cq) = host.queue_iovas(1);
    host.fails(0, Command { prp1: cq, ..Command::create_io_cq(1, 4, None) }, Status::INVALID_OPCODE);
    host.fails(0, Command { prp1: sq, ..Command::create_io_sq(1, 1, 4, 0) }, Status::INVALID_OPCODE);
}

#[test]
fn every_doorbell_stride_works() {
    for dstrd in [0, 1, 4, 9] {
        let mut host = Host::ready(Config { dstrd, ..small() });
        for qid in 1..=4 {
            host.create_pair(qid, 4);
            assert!(host.run(qid, Command::flush(1)).status().is_success());
        }
        assert!(host.violations().is_empty());
    }
}
