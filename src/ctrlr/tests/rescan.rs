//! The reading of the namespaces: whatever the controller lists, refuses or describes oddly, what can be used is.
#![forbid(unsafe_code)]

use super::World;
use crate::ctrlr::namespace::Unsupported;
use crate::ctrlr::{CtrlrOptions, Message, Refusal, Reply};
use crate::emulated::{Config, NamespaceConfig};
use crate::ring::Outcome;
use crate::spec::status::Status;

/// So many namespaces, each of so many blocks.
fn namespaces(count: usize, blocks: u64) -> Vec<NamespaceConfig> {
    vec![NamespaceConfig { size_bytes: blocks * 512, ..NamespaceConfig::default() }; count]
}

fn world(faults: &str, count: usize, version: u32) -> World {
    let faults = faults.parse().expect("faults");
    let namespaces = namespaces(count, 8);
    World::with(
        Config { namespaces, faults, version, nn: 8, io_queues: 4, ..Config::default() },
        CtrlrOptions::default(),
    )
}

fn nsids(world: &World) -> Vec<u32> {
    world.ctrlr.namespaces().iter().map(|namespace| namespace.nsid).collect()
}

fn rescan(world: &mut World) -> Reply {
    let ticket = world.poller.send(Message::Rescan).expect("seated");
    world.run("rescanned", |_| ticket.is_ready());
    match ticket.try_take().expect("ready") {
        Outcome::Completed(reply) => reply,
        other @ Outcome::Aborted(_) => panic!("{other:?}"),
    }
}

/// Of NVMe 2.0: it has command sets, and so each namespace is asked for its own.
const NEW: u32 = 0x0002_0000;
/// Has lists of namespaces, and no command sets.
const OLD: u32 = 0x0001_0400;

/// A controller of NVMe 1.0 has no list; one that refuses it is asked for each namespace in turn as well.
#[test]
fn without_a_list_every_identifier_is_tried() {
    // At attach the controller is identified first, then its list is asked for.
    let without = world("status=0x4002 opcode=identify nth=2", 3, OLD);
    assert_eq!(nsids(&without), [1, 2, 3]);
    assert_eq!(without.detach(), Vec::<String>::new());
}

/// What a refused command left in the buffer belongs to the one before, and is no namespace.
#[test]
fn a_namespace_whose_data_are_refused_is_left_out_and_the_others_are_not() {
    let refused = "status=namespace-not-ready/dnr opcode=identify";
    let mut world = world(&format!("{refused} nsid=1 nth=1..3\n{refused} nsid=2 nth=1..2"), 2, OLD);
    assert!(nsids(&world).is_empty());
    for expected in [vec![], vec![2], vec![1, 2]] {
        let reply = rescan(&mut world);
        assert_eq!(nsids(&world), expected);
        match reply {
            Reply::Refused { why, .. } => {
                assert_eq!(why, Refusal::Status(Status(Status::NAMESPACE_NOT_READY.0 | 0x4000)));
                assert!(expected.is_empty(), "some were found: {expected:?}");
            }
            Reply::Rescanned => assert!(!expected.is_empty(), "none was found, and why is not said"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(world.detach(), Vec::<String>::new());
}

/// Of one of another command set the driver knows no commands.
#[test]
fn a_namespace_of_another_command_set_is_listed_and_not_used() {
    // The descriptors of the namespace: an NGUID, a UUID, and at 40 the command set, whose number is turned here from 0 to 255.
    let other = world("corrupt=44 opcode=identify nth=4", 2, NEW);
    let unsupported: Vec<_> =
        other.ctrlr.namespaces().iter().map(|namespace| namespace.unsupported).collect();
    assert_eq!(unsupported, [Some(Unsupported::CommandSet { csi: 255 }), None]);
    assert_eq!(other.detach(), Vec::<String>::new());
}

/// Refused descriptors say nothing of a command set, whatever lies in their place: here a size that reads like one.
#[test]
fn a_namespace_whose_command_set_is_refused_is_used_as_one_of_blocks() {
    // 0x104 blocks and, by the fault, 0xff << 32 more: a descriptor of kind 4 and length 1 that says 255.
    let faults = "corrupt=4 opcode=identify nth=3\nstatus=internal-error/dnr opcode=identify nth=4";
    let config = Config {
        namespaces: namespaces(1, 0x104),
        faults: faults.parse().expect("faults"),
        version: NEW,
        io_queues: 4,
        ..Config::default()
    };
    let world = World::with(config, CtrlrOptions::default());
    let namespace = world.ctrlr.namespaces()[0];
    assert_eq!((namespace.size_blocks, namespace.unsupported), (0xff_0000_0104, None));
    assert_eq!(world.detach(), Vec::<String>::new());
}

/// A list has 1024; the driver keeps 4096, and asks for no more than that.
#[test]
fn long_lists_are_read_one_after_the_other_up_to_the_most_that_are_kept() {
    for (count, kept, lists) in [(1024, 1024, 2), (1025, 1025, 2), (4096, 4096, 4), (4100, 4096, 4)] {
        let config = Config {
            namespaces: namespaces(count, 1),
            nn: count as u32,
            version: OLD,
            faults: "delay=0us opcode=identify".parse().expect("a fault that only counts"),
            ..Config::default()
        };
        let world = World::with(config, CtrlrOptions::default());
        let found = nsids(&world);
        assert!(found.iter().copied().eq(1..=kept), "{count}: {} and not {kept}", found.len());
        assert_eq!(world.transport.faults_met(), [u64::from(1 + lists + kept)], "{count}");
        assert_eq!(world.detach(), Vec::<String>::new());
    }
}

/// Whoever asks on the polling thread may do so in the midst of a reset: it ends with a reading, and until then nothing is asked of a controller that does not run.
#[test]
fn a_rescan_in_the_midst_of_a_reset_is_answered_with_its_end() {
    for moment in 0..60 {
        let mut world = world("", 2, NEW);
        let reset = world.ctrlr.reset().expect("asked");
        for _ in 0..moment {
            world.step().expect("well");
        }
        assert!(matches!(rescan(&mut world), Reply::Rescanned), "moment {moment}");
        world.run("over", |_| reset.is_over().is_some());
        assert_eq!(reset.is_over(), Some(Ok(())), "moment {moment}");
        assert_eq!(nsids(&world), [1, 2]);
        assert_eq!(world.detach(), Vec::<String>::new(), "moment {moment}");
    }
}
