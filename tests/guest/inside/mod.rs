//! What a test uses inside the guest: the group's controllers, the host's help, programs. All of it panics with a reason when something is wrong, as a
//! test should. How tests are written: docs/TESTING.md.
#![forbid(unsafe_code)]

pub mod driver;
pub mod pci;

use crate::agent;
use crate::group::{Group, Test};
use crate::protocol::Ask;
use rustix::process::{Gid, Resource, Rlimit, Uid, getuid, setrlimit};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The last argument of a test process that root has prepared.
const PREPARED: &str = "--prepared";

/// Where the `slipring` command is in the guest.
pub const SLIPRING: &str = "/host/slipring";

/// A test's view of its guest.
#[derive(Debug)]
pub struct Inside {
    group: Group,
    host: Mutex<UnixStream>,
}

/// The test process: runs one test. `arguments`: group, test, and `--prepared` the second time that an ordinary user's test runs.
pub fn main(groups: Vec<Group>, arguments: &[String]) -> ExitCode {
    let [group, test, rest @ ..] = arguments else { panic!("no group and test in {arguments:?}") };
    let mut group = groups.into_iter().find(|known| known.name == group).expect("a group of this executable");
    let at = group.tests.iter().position(|known| known.name == test).expect("a test of the group");
    let test = group.tests.swap_remove(at);
    let host = std::io::stdin().as_fd().try_clone_to_owned().expect("the agent's socket");
    let inside = Inside { group, host: Mutex::new(UnixStream::from(host)) };
    match &test.user {
        Some(_) if rest.iter().any(|word| word == PREPARED) => (test.body)(&inside),
        Some(user) => {
            (user.prepare)(&inside);
            panic!("{}", become_user(&inside, &test, user.id, user.memlock));
        }
        None => (test.body)(&inside),
    }
    ExitCode::SUCCESS
}

/// Runs this executable anew as that user. Only returns if that failed.
fn become_user(inside: &Inside, test: &Test, id: u32, memlock: u64) -> std::io::Error {
    let limit = Rlimit { current: Some(memlock), maximum: Some(memlock) };
    if let Err(error) = setrlimit(Resource::Memlock, limit) {
        return error.into();
    }
    let mut command = Command::new("/proc/self/exe");
    command.args([agent::TEST, inside.group.name, test.name, PREPARED]).uid(id).gid(id);
    command.exec()
}

impl Inside {
    /// The PCI address of a controller of the group.
    pub fn address(&self, id: &str) -> String {
        self.group.place(id).address()
    }

    /// QEMU's name of a namespace of a controller, which `throttle` takes.
    pub fn namespace_id(&self, id: &str, nsid: u32) -> String {
        self.group.find(id).namespace_id(nsid)
    }

    /// A command of QEMU's monitor.
    pub fn qmp(&self, execute: &str, arguments: Value) -> Value {
        self.ask(&Ask::Qmp { execute: execute.to_owned(), arguments }).unwrap_or_else(|why| panic!("{why}"))
    }

    /// Waits for an event of QEMU's, of this device if one is named; the error says that it did not come.
    pub fn wait_event(&self, event: &str, device: Option<&str>, timeout: Duration) -> Result<Value, String> {
        let timeout_ms = u64::try_from(timeout.as_millis()).expect("a short time");
        self.ask(&Ask::WaitEvent { event: event.to_owned(), device: device.map(str::to_owned), timeout_ms })
    }

    /// Asks for a controller to be let go: an orderly unplug. Returns at once; `wait_deleted` waits.
    pub fn device_del(&self, id: &str) {
        self.qmp("device_del", json!({"id": id}));
    }

    /// Plugs a controller of the group that was unplugged or removed. The kernel finds it a moment later.
    pub fn device_add(&self, id: &str) {
        let place = self.group.place(id);
        if self.group.native_hotplug {
            // The kernel ends a removal by switching the slot off, a second after the device has gone; a device that came before that would go again.
            pci::wait_slot_off(&place.port_address());
        }
        self.qmp("device_add", self.group.find(id).device(place));
    }

    /// Waits until QEMU has let a controller go.
    pub fn wait_deleted(&self, id: &str, timeout: Duration) -> Result<(), String> {
        self.wait_event("DEVICE_DELETED", Some(id), timeout).map(drop)
    }

    /// Whether QEMU has a device of this name.
    pub fn is_plugged(&self, id: &str) -> bool {
        let devices = self.qmp("qom-list", json!({"path": "/machine/peripheral"}));
        devices.as_array().expect("a list").iter().any(|device| device["name"] == id)
    }

    /// Pulls a controller out, without asking anybody: the group must have native hot plug. Returns when it was gone. There may be no `DEVICE_DELETED`: QEMU 7.2
    /// keeps the memory of a controller that goes with I/O in flight.
    ///
    /// No doorbell may be rung just before or meanwhile: QEMU 7.2 waits for the I/O in flight, begins what was announced in queues that it frees next, and
    /// writes to them when a doorbell that waited for it comes through. It crashes sooner or later.
    pub fn surprise_remove(&self, id: &str) -> Instant {
        assert!(self.group.native_hotplug, "surprise removal needs native hot plug");
        pci::cut_power(&self.group.place(id).port_address());
        let gone_at = Instant::now();
        assert!(!self.is_plugged(id), "{id} is gone as soon as its slot has no power");
        gone_at
    }

    /// How many reads of a controller's only namespace QEMU has ended, those before it was pulled out included.
    pub fn reads_ended(&self, id: &str) -> u64 {
        let all = self.qmp("query-blockstats", json!({}));
        let node = format!("{id}-media");
        let of_it = all.as_array().expect("a list").iter().filter(|one| one["node-name"] == node);
        of_it.map(|one| one["stats"]["rd_operations"].as_u64().expect("a number")).sum()
    }

    /// Limits a controller's or namespace's medium to so many operations a second; 0 is no limit.
    pub fn throttle(&self, qdev: &str, iops: u32) {
        let mut arguments = json!({"id": qdev, "iops": iops});
        for other in ["bps", "bps_rd", "bps_wr", "iops_rd", "iops_wr"] {
            arguments[other] = 0.into();
        }
        self.qmp("block_set_io_throttle", arguments);
    }

    fn ask(&self, ask: &Ask) -> Result<Value, String> {
        agent::ask(&mut self.host.lock().expect("nobody panics while asking"), ask)
    }
}

/// How many VFIO devices this process has open.
pub fn open_vfio_devices() -> usize {
    let all = std::fs::read_dir("/proc/self/fd").expect("the descriptors").flatten();
    let links = all.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().contains("[vfio-device]")).count()
}

/// Whether this test is root.
pub fn is_root() -> bool {
    getuid() == Uid::ROOT
}

/// Gives a file of the guest to an ordinary user.
pub fn give(path: &Path, id: u32) {
    rustix::fs::chown(path, Some(Uid::from_raw(id)), Some(Gid::from_raw(id)))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Runs a program and waits.
fn execute(program: &str, arguments: &[&str]) -> Output {
    // The standard input is the agent's socket, and no program's.
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs a program and waits; what it prints is kept, and is in the test's report.
pub fn output(program: &str, arguments: &[&str]) -> Output {
    let output = execute(program, arguments);
    let mut text = format!("$ {program} {}\n", arguments.join(" "));
    text += &String::from_utf8_lossy(&output.stdout);
    text += &String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let _ = writeln!(text, "({})", output.status);
    }
    std::io::stdout().write_all(text.as_bytes()).expect("the agent reads");
    output
}

/// Puts a line into the test's report.
pub fn note(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("the agent reads");
}

/// Runs a program that must succeed; what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = output(program, arguments);
    assert!(output.status.success(), "{program} {}: {}", arguments.join(" "), output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `nvme-cli` says, as JSON; the report does not have it.
pub fn nvme(arguments: &[&str]) -> Value {
    let output = execute("nvme", &[arguments, &["--output-format=json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| {
        let said = String::from_utf8_lossy(&output.stderr);
        panic!("nvme {}: {}: {error}: {text}{said}", arguments.join(" "), output.status)
    })
}

/// Looks until there is something.
pub fn wait_for<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "after {timeout:?} there is still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
