//! The doorway: whoever shut the door and saw nobody inside has what is behind it for itself.

use super::{RACE, explore, must_fail};
use crate::ring::doorway::{Barrier, Doorway};
use crate::sync::{Arc, AtomicU32, Ordering, Protection, UnsafeCell};
use loom::thread;

const OPEN: u32 = 1;
const SHUT: u32 = 2;

/// A queue pair as far as its doorbell is concerned.
struct Slot {
    state: AtomicU32,
    doorway: Doorway,
    /// What the doorbell reaches; loom sees each use.
    queue: UnsafeCell<()>,
}

// SAFETY: loom checks in each model that uses of the queue do not overlap.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}

/// The owner rings twice; the controller, meanwhile, shuts the door, and deletes the queue once nobody is inside.
fn a_queue_is_deleted_while_its_owner_rings() {
    let slot = Arc::new(Slot {
        state: AtomicU32::new(OPEN),
        doorway: Doorway::new(Barrier::Fences),
        queue: UnsafeCell::new(()),
    });
    let owner = {
        let slot = Arc::clone(&slot);
        thread::spawn(move || {
            for _ in 0..2 {
                slot.doorway
                    .pass(|| slot.state.load(Ordering::Acquire) == OPEN, || slot.queue.with_mut(|_| ()));
            }
        })
    };
    slot.state.store(SHUT, Ordering::Release);
    Barrier::Fences.heavy();
    while !slot.doorway.is_empty() {
        thread::yield_now();
    }
    slot.queue.with_mut(|_| ());
    owner.join().unwrap();
}

#[test]
fn no_doorbell_is_rung_once_the_door_was_shut_and_nobody_was_inside() {
    explore(3, a_queue_is_deleted_while_its_owner_rings);
}

#[test]
fn without_the_owners_fence_a_doorbell_is_rung_late() {
    must_fail(Protection::DoorwayEntry, RACE, a_queue_is_deleted_while_its_owner_rings);
}

#[test]
fn without_the_closers_barrier_a_doorbell_is_rung_late() {
    must_fail(Protection::DoorwayBarrier, RACE, a_queue_is_deleted_while_its_owner_rings);
}
