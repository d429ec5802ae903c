//! What the sanitizers must find: memory that is used after it was freed, and memory that is lost, both on purpose. `tests/run asan` runs each alone and asserts
//! that it is reported, or the rest of that step would prove nothing. In any other run nothing would notice, so they are left out.

use std::hint::black_box;

/// Like a ring that is freed under its poller: one thread frees what another one still reads.
#[test]
#[ignore = "wrong on purpose: for tests/run asan, which asserts that AddressSanitizer reports it"]
fn a_use_after_free() {
    let slot = Box::into_raw(Box::new([7_u64; 64]));
    let address = slot as usize;
    let freeing = std::thread::spawn(move || {
        // SAFETY: made by `Box::into_raw` above, and freed here alone.
        drop(unsafe { Box::from_raw(address as *mut [u64; 64]) });
    });
    freeing.join().expect("freed");
    // SAFETY: none; this is the fault that is to be found.
    let read = unsafe { black_box(slot.cast::<u64>()).read_volatile() };
    black_box(read);
}

/// Like messages in a ring that is freed without being drained.
#[test]
#[ignore = "wrong on purpose: for tests/run asan, which asserts that LeakSanitizer reports it"]
fn a_leak() {
    let losing = std::thread::spawn(|| {
        for message in 0..64_u64 {
            // Nobody keeps the address.
            black_box(Box::into_raw(Box::new([message; 16])));
        }
    });
    losing.join().expect("lost");
}
