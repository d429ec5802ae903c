//! The guest: tests that run inside a virtual machine with QEMU's NVMe controllers and the kernel's VFIO, IOMMU, CUSE and nvme driver. docs/TESTING.md
//! says how to run and to write them.
//!
//! This one executable is the test target that cargo runs on the host, and, inside the guest, the agent and the test processes. On the host:
//! `pieces` (what must be installed), `image` (what is booted), `qemu` and `qmp` (the machine), `guest` (a conversation with the agent), `klog` (what
//! the kernel may say). Inside: `agent`, `inside`. Both: `protocol`, `group`, `hardware`. The tests are in `cases`.
#![forbid(unsafe_code)]
#![expect(unreachable_pub, reason = "nothing is exported from a test target")]

mod agent;
mod cases;
mod group;
mod guest;
mod hardware;
mod image;
mod inside;
mod klog;
mod pieces;
mod protocol;
mod qemu;
mod qmp;

use group::Group;
use guest::{Executables, Guest};
use image::Image;
use libtest_mimic::{Arguments, Failed, Trial};
use pieces::Pieces;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|first| first.to_str()) {
        Some(agent::AGENT) => match agent::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => panic!("the agent: {error}"),
        },
        Some(agent::TEST) => {
            let words: Vec<_> =
                arguments[1..].iter().filter_map(|word| word.to_str()).map(str::to_owned).collect();
            inside::main(cases::groups(), &words)
        }
        Some(qemu::LAUNCH) => qemu::launch(arguments.into_iter().skip(1)),
        _ => host(),
    }
}

/// The test target as cargo knows it.
fn host() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One guest at a time, each with two processors; and QEMU ends with the thread that started it, which has to be the main one.
    arguments.test_threads = Some(1);
    let machine_room = Arc::new(Mutex::new(MachineRoom::new(arguments.nocapture)));
    let mut trials = Vec::new();
    for group in cases::groups() {
        let group = Arc::new(group);
        for at in 0..group.tests.len() {
            let (group, room) = (Arc::clone(&group), Arc::clone(&machine_room));
            let name = format!("{}::{}", group.name, group.tests[at].name);
            trials.push(Trial::test(name, move || {
                let mut room = room.lock().expect("nobody panics in the machine room");
                room.run(&group, at).map_err(Failed::from)
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Has the guest of one group at a time.
struct MachineRoom {
    live: bool,
    /// What guests are made of, found by the first that needs one; or why it was not.
    parts: Option<Result<(Pieces, Image, Executables), String>>,
    current: Option<(&'static str, Guest)>,
}

impl MachineRoom {
    fn new(live: bool) -> Self {
        Self { live, parts: None, current: None }
    }

    /// Runs a test in the guest of its group, which is booted unless it is running.
    fn run(&mut self, group: &Group, test: usize) -> Result<(), String> {
        let test = &group.tests[test];
        if self.current.as_ref().is_none_or(|(name, guest)| *name != group.name || guest.spent) {
            // The old one first: two at once would share the processors.
            self.current = None;
            let (pieces, image, executables) =
                self.parts.get_or_insert_with(parts).as_ref().map_err(String::clone)?;
            let guest = Guest::boot(pieces, image, executables, group, self.live);
            self.current =
                Some((group.name, guest.map_err(|why| format!("{}::{}: {why}", group.name, test.name))?));
        }
        let (_, guest) = self.current.as_mut().expect("it was booted");
        guest.run(group, test)
    }
}

fn parts() -> Result<(Pieces, Image, Executables), String> {
    let pieces = Pieces::find()?;
    let harness = std::env::current_exe().map_err(|error| format!("our own executable: {error}"))?;
    let slipring = PathBuf::from(env!("CARGO_BIN_EXE_slipring"));
    let image = Image::prepare(&pieces, &[harness.clone(), slipring.clone()])?;
    Ok((pieces, image, Executables { harness, slipring }))
}
