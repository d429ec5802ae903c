//! A queue pair's thread at its doorbell while the controller is taken down. Being inside is being in a closure: the rest of the world goes on in there.
#![forbid(unsafe_code)]

use super::World;
use crate::ctrlr::CtrlrState;
use crate::poller::QueuePair;
use crate::spec::registers::{CSTS, Csts};
use crate::transport::Transport;
use std::time::Duration;

fn is_ready(world: &World) -> bool {
    Csts::from_bits(world.transport.read_u32(CSTS)).rdy()
}

fn is_reset(qpair: &mut QueuePair) -> bool {
    qpair.poll(1, |_| ()).expect("well");
    qpair.is_connected() && qpair.statistics().reconnects == 1
}

#[test]
fn a_reset_waits_for_a_thread_at_its_doorbell() {
    let mut world = World::new();
    let mut qpair = world.queue_pair();
    let slot = world.ctrlr.0.hub.slots()[usize::from(qpair.qid()) - 1].clone();
    let mut was_inside = false;
    slot.ring(|| {
        let _ = world.ctrlr.reset().expect("asked");
        for _ in 0..1000 {
            world.step().expect("well");
        }
        assert_eq!(world.ctrlr.state(), CtrlrState::Resetting);
        assert!(is_ready(&world), "the device is not touched while somebody may ring");
        was_inside = true;
    });
    assert!(was_inside);
    slot.ring(|| panic!("the door is shut"));
    world.run("reset", |_| is_reset(&mut qpair));
    drop(qpair);
    assert_eq!(world.detach(), Vec::<String>::new());
}

#[test]
fn a_thread_that_sleeps_at_its_doorbell_is_not_waited_for_for_ever() {
    let mut world = World::new();
    let mut qpair = world.queue_pair();
    let slot = world.ctrlr.0.hub.slots()[usize::from(qpair.qid()) - 1].clone();
    let doorbell = qpair.allocate(512).expect("memory");
    qpair.read(&world.ctrlr.namespaces()[0], 0, doorbell.into(), 1).expect("submitted");
    slot.ring(|| {
        let reset = world.ctrlr.reset().expect("asked");
        world.step().expect("well");
        for _ in 0..9 {
            world.now += Duration::from_millis(111);
            world.step().expect("well");
        }
        assert!(is_ready(&world));
        world.now += Duration::from_millis(1);
        world.run("reset without it", |_| reset.is_over().is_some());
        assert_eq!(reset.is_over(), Some(Ok(())));
    });
    let mut back = 0;
    world.run("given back, and connected again", |_| {
        qpair.poll(1, |_| back += 1).expect("well");
        qpair.is_connected()
    });
    assert_eq!(back, 1);
    drop(qpair);
    assert_eq!(world.detach(), Vec::<String>::new());
}

#[test]
fn a_detach_waits_for_a_thread_at_its_doorbell_but_not_past_half_its_deadline() {
    let mut world = World::new();
    let qpair = world.queue_pair();
    let slot = world.ctrlr.0.hub.slots()[usize::from(qpair.qid()) - 1].clone();
    let ctrlr = world.ctrlr.clone();
    slot.ring(|| {
        drop(world.poller);
        let mut detach = ctrlr.begin_detach(Duration::from_millis(400)).expect("begins");
        let begun = std::time::Instant::now();
        for _ in 0..100 {
            assert!(!detach.step(begun));
            world.device.step_at(begun);
        }
        assert!(Csts::from_bits(world.transport.read_u32(CSTS)).rdy());
        let late = begun + Duration::from_millis(201);
        let steps = (0..super::STEPS).take_while(|_| {
            world.device.step_at(late);
            !detach.step(late)
        });
        assert!(steps.count() < super::STEPS);
    });
    assert_eq!(ctrlr.state(), CtrlrState::Detached);
}
