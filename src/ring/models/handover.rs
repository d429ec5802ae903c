//! The hand-over between a queue pair's thread and a controller that is reset or taken down, by the slot's own code: memory that the device may write to is nobody
//! else's, and what is dropped in flight is given up once, when the device has stopped.

use super::qpair_slot::{LeftBehind, QpairSlot, QueueMemory, SlotState};
use super::{RACE, explore, must_fail};
use crate::ring::doorway::Barrier;
use crate::sync::{Arc, Protection, UnsafeCell};
use loom::thread;

/// Queues and buffers of one owner; loom sees each use.
struct Memory(UnsafeCell<()>);

// SAFETY: loom checks in each model that uses do not overlap.
unsafe impl Sync for Memory {}
// SAFETY: as above.
unsafe impl Send for Memory {}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self(UnsafeCell::new(())))
    }

    fn make_use(&self) {
        self.0.with_mut(|_| ());
    }
}

/// What an owner leaves behind.
struct Queues {
    memory: Arc<Memory>,
    is_given_up: bool,
}

impl Queues {
    fn of(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::clone(memory), is_given_up: false }
    }
}

impl LeftBehind for Queues {
    fn give_up(mut self) {
        self.memory.make_use();
        self.is_given_up = true;
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        assert!(self.is_given_up || std::thread::panicking(), "queues are dropped with requests in flight");
    }
}

type Slot = QpairSlot<Queues>;

/// Has a claimed slot connected, as its owner and the controller do it.
fn connect(slot: &Slot) {
    let memory = QueueMemory { sq_iova: 0, cq_iova: 0, sq_entries: 2, cq_entries: 2 };
    assert!(slot.want(memory));
    assert!(slot.change(SlotState::Wanted, SlotState::Creating));
    assert!(slot.change(SlotState::Creating, SlotState::Connected));
}

fn connected() -> Arc<Slot> {
    let slot = Arc::new(Slot::new(2, Barrier::Fences));
    assert!(slot.claim());
    connect(&slot);
    slot
}

/// The controller stops the device and says so; the owner, which polls, takes its requests back and asks for its queues again.
fn a_queue_pair_is_reset() {
    let slot = connected();
    let memory = Memory::new();
    let owner = {
        let (slot, memory) = (Arc::clone(&slot), Arc::clone(&memory));
        thread::spawn(move || {
            while slot.state() != SlotState::Stopped {
                thread::yield_now();
            }
            memory.make_use();
            assert!(slot.change(SlotState::Stopped, SlotState::Wanted));
        })
    };
    assert!(slot.change(SlotState::Connected, SlotState::Quiescing));
    // The device's last write.
    memory.make_use();
    assert!(slot.change(SlotState::Quiescing, SlotState::Stopped));
    while slot.state() != SlotState::Wanted {
        thread::yield_now();
    }
    // The owner has filled the queues with zeros, and the device is shown them again.
    memory.make_use();
    owner.join().unwrap();
}

#[test]
fn a_reset_hands_the_memory_over_and_gets_it_back() {
    explore(3, a_queue_pair_is_reset);
}

#[test]
fn without_release_and_acquire_an_owner_takes_back_what_the_device_still_writes_to() {
    must_fail(Protection::SlotHandOver, RACE, a_queue_pair_is_reset);
}

/// The owner is dropped with requests in flight, while the controller stops the device; then somebody else has the slot, and goes as well.
fn an_owner_goes_during_a_take_down() {
    let slot = connected();
    let (memory, next) = (Memory::new(), Memory::new());
    let owner = {
        let (slot, queues) = (Arc::clone(&slot), Queues::of(&memory));
        thread::spawn(move || {
            slot.release(queues);
        })
    };
    slot.change(SlotState::Connected, SlotState::Quiescing);
    // The device's last write.
    memory.make_use();
    slot.change(SlotState::Quiescing, SlotState::Stopped);
    slot.change(SlotState::Released, SlotState::Free);
    slot.sweep();
    if slot.claim() {
        connect(&slot);
        slot.release(Queues::of(&next));
        slot.change(SlotState::Released, SlotState::Free);
    }
    owner.join().unwrap();
    slot.change(SlotState::Released, SlotState::Free);
    assert_eq!(slot.state(), SlotState::Free, "the slot is free again");
    slot.sweep();
}

#[test]
fn what_an_owner_leaves_during_a_take_down_is_given_up_once_the_device_has_stopped() {
    explore(3, an_owner_goes_during_a_take_down);
}

#[test]
fn without_the_memory_first_the_next_owners_queues_are_dropped_in_flight() {
    must_fail(Protection::MemoryFirst, "dropped with requests in flight", an_owner_goes_during_a_take_down);
}

/// A control thread sweeps what the last owner left, while the slot gets another owner, who goes too, with a device that still writes.
fn a_sweep_meets_the_next_owner() {
    let slot = connected();
    let (memory, next) = (Memory::new(), Memory::new());
    slot.release(Queues::of(&memory));
    assert!(slot.change(SlotState::Released, SlotState::Free));
    let sweeping = {
        let slot = Arc::clone(&slot);
        thread::spawn(move || slot.sweep())
    };
    assert!(slot.claim());
    connect(&slot);
    slot.release(Queues::of(&next));
    // The device's last write.
    next.make_use();
    assert!(slot.change(SlotState::Released, SlotState::Free));
    sweeping.join().unwrap();
    slot.sweep();
}

#[test]
fn a_sweep_takes_nothing_that_the_device_still_writes_to() {
    explore(3, a_sweep_meets_the_next_owner);
}

#[test]
fn without_the_second_look_a_sweep_takes_what_the_next_owner_left() {
    must_fail(Protection::SweepAgain, RACE, a_sweep_meets_the_next_owner);
}
