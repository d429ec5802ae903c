//! The nodes of `slipring cuse` under the real clients, beside the nodes of the kernel's own driver: the same answers, for every line of `cuse.txt`; and the end
//! of a server, of a controller and of a client while commands are in flight.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::{Inside, SLIPRING, output, pci, run, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LINES: &str = include_str!("cuse.txt");

/// Lines whose answers differ between the kernel's nodes and ours, with the reason. The first part starts the line; docs/CUSE.md has the table.
const DIFFERENT: &[(&str, &str)] = &[
    ("smart-log", "its counters count what was done in between"),
    ("get-log C --log-id=2", "its counters count what was done in between"),
    ("admin-passthru C --opcode=2", "its counters count what was done in between"),
    ("get-feature C --feature-id=0xb", "each driver asks for the events that it handles"),
    ("get-feature C --feature-id=0xe", "a clock"),
    ("set-feature C --feature-id=0xf", "keep-alive belongs to the driver: EACCES"),
    ("effects-log", "nvme-cli looks for the controller in sysfs, where only the kernel's are"),
    (
        "get-lba-status",
        "libnvme 1.3 leaves its buffer's length out, and nothing may be written past that: EINVAL",
    ),
];

/// Lines that QEMU's controller and the emulated one take differently, with the reason.
const EMULATED_DIFFERENT: &[(&str, &str)] = &[
    ("get-feature C --feature-id=0xe", "it has no clock"),
    ("get-feature C --feature-id=0x16", "it asks nothing of the host's behaviour"),
    ("set-feature C --feature-id=4", "its features can be saved, QEMU's cannot"),
    ("set-feature C --feature-id=1", "its arbitration can be set, QEMU's cannot"),
    ("dsm N1 --ad --slbs=100000000", "it refuses ranges past the end, QEMU passes over them"),
];

/// How long a command may take once it cannot succeed any more.
const PROMPT: Duration = Duration::from_secs(2);
/// What a read of the slow namespace takes. Not longer: to delete a queue, or to reset, QEMU waits for such reads, and stops the whole guest meanwhile.
const SLOW: Duration = Duration::from_millis(1500);
const START: Duration = Duration::from_secs(30);

pub fn group() -> Group {
    Group::new("cuse")
        .controller(
            Controller::new("nv0")
                .serial("SER0000")
                .namespace(Namespace::new(1, Media::disk(64)))
                .namespace(Namespace::new(2, Media::disk(64)).lba_bytes(4096)),
        )
        .controller(
            Controller::new("nv1")
                .serial("SER0001")
                .namespace(Namespace::new(1, Media::disk(64)))
                .namespace(Namespace::new(2, Media::slow(64, SLOW))),
        )
        .test(Test::new("nvme_cli_gets_the_kernels_answers", same_answers).deadline(900))
        .test(Test::new("smartctl_gets_the_kernels_answers", same_smart).deadline(300))
        .test(Test::new("twelve_clients_for_a_minute", twelve_clients).deadline(300))
        .test(Test::new("commands_in_flight_at_the_servers_end", servers_end).deadline(300))
        .test(Test::new("a_client_is_killed_in_its_ioctl", clients_end).deadline(300))
        .test(
            Test::new("commands_in_flight_at_an_unplug", unplug)
                .deadline(300)
                .allow_log(&["Relaying device request to user"]),
        )
}

/// A running `slipring cuse`, which is killed when it is dropped.
struct Serving {
    child: Child,
    /// The controller's node, without `/dev/slipring/`.
    name: String,
}

impl Serving {
    /// Starts it, and waits for so many nodes.
    fn start(arguments: &[&str], nodes: usize) -> Self {
        let path = "/tmp/serving";
        let out = File::create(path).expect("a file");
        let child = Command::new(SLIPRING)
            .arg("cuse")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::inherit())
            .spawn()
            .expect("started");
        let text = wait_for("the nodes are printed", START, || {
            fs::read_to_string(path).ok().filter(|text| text.lines().count() >= nodes)
        });
        say(&text);
        let node = text.split(['\t', '\n']).next().expect("a line");
        let name = node.strip_prefix("/dev/slipring/").expect("a node of ours").to_owned();
        assert!(Path::new(node).exists());
        Self { child, name }
    }

    fn node(&self) -> String {
        format!("/dev/slipring/{}", self.name)
    }

    fn namespace(&self, nsid: u32) -> String {
        format!("/dev/slipring/{}n{nsid}", self.name)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Waits for its end, after which no node may be left.
    fn ended(mut self) -> Option<i32> {
        let status = wait_for("the server has ended", START, || self.child.try_wait().expect("ours"));
        assert!(!Path::new(&self.node()).exists(), "the node is gone");
        assert!(!Path::new(&self.namespace(1)).exists(), "the namespace's node is gone");
        status.code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Into the test's report.
fn say(text: &str) {
    writeln!(std::io::stdout(), "{text}").expect("the agent reads");
}

/// What a command line gave: its exit status, and what it printed, with the nodes' names taken out.
#[derive(PartialEq, Eq)]
struct Answer {
    status: Option<i32>,
    text: String,
}

/// Runs every line on a controller's nodes, named as `/dev/` and then this.
fn answers(node: &str) -> BTreeMap<usize, Answer> {
    fs::write("/tmp/data", (0..4096_u32).map(|i| (i * 7) as u8).collect::<Vec<_>>()).expect("written");
    fs::write("/tmp/other", (0..4096_u32).map(|i| (i * 5 + 1) as u8).collect::<Vec<_>>()).expect("written");
    let mut answers = BTreeMap::new();
    for (number, line) in LINES.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        let words: Vec<_> = line
            .split_whitespace()
            .map(|word| match word {
                "C" => format!("/dev/{node}"),
                "N1" | "N2" => format!("/dev/{node}n{}", &word[1..]),
                _ => word.replace("DATA", "/tmp/data").replace("OTHER", "/tmp/other"),
            })
            .collect();
        let output =
            Command::new("nvme").args(&words).stdin(Stdio::null()).output().expect("nvme-cli is there");
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text += &String::from_utf8_lossy(&output.stderr);
        let bare = node.rsplit('/').next().unwrap_or(node);
        let text = text.replace(&format!("/dev/{node}"), "/dev/C").replace(bare, "C");
        answers.insert(number, Answer { status: output.status.code(), text });
    }
    answers
}

/// Prints a table of two runs of all lines, and what differs; the lines that differ without a known reason. With a list of reasons given, statuses alone count.
fn compare(
    what: &str,
    ours: &BTreeMap<usize, Answer>,
    kernels: &BTreeMap<usize, Answer>,
    different: Option<&[(&str, &str)]>,
) -> Vec<String> {
    let lines: Vec<_> = LINES.lines().collect();
    let mut unexpected = Vec::new();
    say(&format!("TABLE {what}"));
    for (number, kernels) in kernels {
        let (line, ours) = (lines[*number], &ours[number]);
        let is_same = ours.status == kernels.status && (different.is_some() || ours.text == kernels.text);
        let reason = different
            .unwrap_or(DIFFERENT)
            .iter()
            .find(|(start, _)| line.starts_with(start))
            .map(|(_, reason)| *reason);
        let verdict = match (is_same, reason) {
            (true, _) => "same",
            (false, Some(reason)) => reason,
            (false, None) => "DIFFERENT",
        };
        say(&format!("| `{line}` | {:?} | {:?} | {verdict} |", kernels.status, ours.status));
        if !is_same {
            say(&format!("--- kernel\n{}--- ours\n{}---", shorten(&kernels.text), shorten(&ours.text)));
        }
        if verdict == "DIFFERENT" {
            unexpected.push(line.to_owned());
        }
    }
    unexpected
}

fn shorten(text: &str) -> String {
    text.lines().take(12).fold(String::new(), |text, line| text + line + "\n")
}

fn same_answers(inside: &Inside) {
    let address = inside.address("nv0");
    pci::bind(&address, "nvme");
    pci::block_device(&address, 2);
    let node = pci::kernel_name(&address).expect("the kernel's driver has it");
    let kernels = answers(&node);
    pci::bind(&address, "vfio-pci");
    let serving = Serving::start(&[&address], 3);
    let ours = answers(&format!("slipring/{}", serving.name));
    serving.signal(Signal::TERM);
    assert_eq!(serving.ended(), Some(0));
    let unexpected = compare("VFIO", &ours, &kernels, None);
    // The same lines on a controller that is not QEMU's: the same statuses, where both can do a thing.
    let serving = Serving::start(&["emulated:size=64M,namespaces=2,serial=SER0000"], 3);
    let emulated = answers(&format!("slipring/{}", serving.name));
    serving.signal(Signal::TERM);
    assert_eq!(serving.ended(), Some(0));
    let others = compare("emulated", &emulated, &kernels, Some(EMULATED_DIFFERENT));
    say(&format!(
        "{} lines; emulated: {} with another exit status: {others:#?}",
        kernels.len(),
        others.len()
    ));
    assert!(unexpected.is_empty() && others.is_empty(), "{unexpected:#?}{others:#?}");
}

fn same_smart(inside: &Inside) {
    let address = inside.address("nv0");
    let ask = |node: &str| {
        let output = output("smartctl", &["--json=g", "-a", "-d", "nvme", node]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // Times, counters, and what names the node.
        let differs = [
            "json.device.",
            "json.local_time",
            "json.smartctl.argv",
            "data_units",
            "host_reads",
            "host_writes",
            "json.smartctl.exit",
        ];
        let lines = text.lines().filter(|line| !differs.iter().any(|part| line.contains(part)));
        (output.status.code(), lines.map(str::to_owned).collect::<Vec<_>>())
    };
    pci::bind(&address, "nvme");
    pci::block_device(&address, 1);
    let kernels = ask(&format!("/dev/{}", pci::kernel_name(&address).expect("the kernel's driver has it")));
    pci::bind(&address, "vfio-pci");
    let serving = Serving::start(&[&address], 3);
    let ours = ask(&serving.node());
    assert!(kernels.1.len() > 20, "it said something: {kernels:?}");
    assert_eq!(ours, kernels);
}

fn twelve_clients(inside: &Inside) {
    const RUN: Duration = Duration::from_secs(60);
    let address = inside.address("nv0");
    pci::bind(&address, "vfio-pci");
    let serving = Serving::start(&[&address, "--poll-interval", "50"], 3);
    let (c, n1, n2) = (serving.node(), serving.namespace(1), serving.namespace(2));
    let until = Instant::now() + RUN;
    let (asked, well) = (AtomicU64::new(0), AtomicU64::new(0));
    let slowest_ms = AtomicU64::new(0);
    let go = |words: &[&str]| {
        let begun = Instant::now();
        let output =
            Command::new("nvme").args(words).stdin(Stdio::null()).output().expect("nvme-cli is there");
        asked.fetch_add(1, Ordering::Relaxed);
        well.fetch_add(u64::from(output.status.success()), Ordering::Relaxed);
        slowest_ms.fetch_max(begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        output
    };
    std::thread::scope(|scope| {
        let (go, c, n1, n2) = (&go, &c, &n1, &n2);
        for client in 0..4_u8 {
            scope.spawn(move || {
                let file = format!("/tmp/client{client}");
                let block = format!("--start-block={}", u32::from(client) * 100);
                let mut round = 0_u8;
                while Instant::now() < until {
                    round = round.wrapping_add(1);
                    let data: Vec<u8> =
                        (0..4096_u32).map(|i| (i as u8) ^ client.wrapping_mul(31) ^ round).collect();
                    fs::write(&file, &data).expect("written");
                    let data_file = format!("--data={file}");
                    let range = ["--block-count=7", "--data-size=4096"];
                    let written = go(&[&["write", n1, &block, &data_file][..], &range].concat());
                    let read = go(&[&["read", n1, &block][..], &range].concat());
                    if written.status.success() && read.status.success() {
                        assert!(read.stdout.starts_with(&data), "the wrong data");
                    }
                }
            });
        }
        for words in [
            vec!["get-log", c, "--log-id=0xc0", "--log-len=512"],
            vec!["id-ctrl", c],
            vec!["smart-log", c],
            vec!["id-ns", n1],
        ] {
            scope.spawn(move || {
                while Instant::now() < until {
                    go(&words);
                }
            });
        }
        scope.spawn(move || {
            while Instant::now() < until {
                go(&["reset", c]);
                std::thread::sleep(Duration::from_secs(2));
            }
        });
        scope.spawn(move || {
            while Instant::now() < until {
                go(&["format", n2, "--lbaf=4", "--force"]);
            }
        });
        scope.spawn(move || {
            while Instant::now() < until {
                go(&["detach-ns", c, "--namespace-id=2", "--controllers=0"]);
                go(&["attach-ns", c, "--namespace-id=2", "--controllers=0"]);
            }
        });
        scope.spawn(move || {
            while Instant::now() < until {
                go(&["ns-rescan", c]);
            }
        });
    });
    let (asked, well) = (asked.load(Ordering::Relaxed), well.load(Ordering::Relaxed));
    say(&format!(
        "{asked} commands, {well} went well, the slowest took {} ms",
        slowest_ms.load(Ordering::Relaxed)
    ));
    assert!(well > 20, "{well} of {asked} went well");
    // Whatever was going on, it is well now.
    wait_for("the server answers", START, || go(&["id-ctrl", &c]).status.success().then_some(()));
    serving.signal(Signal::TERM);
    assert_eq!(serving.ended(), Some(0));
}

/// Starts commands that take their time, in the middle of which `end` comes; all of them have to return soon after. (Their statuses
/// say nothing: nvme-cli 2.3 ends with 0 if it cannot learn the block size.)
fn in_flight(serving: &Serving, nsid: u32, end: impl FnOnce()) {
    let slow = serving.namespace(nsid);
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let words = ["read", &slow, "--start-block=0", "--block-count=0", "--data-size=512"];
            let mut command = Command::new("nvme");
            let child = command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            child.expect("nvme-cli is there")
        })
        .collect();
    // They have got as far as the device.
    std::thread::sleep(Duration::from_millis(800));
    let begun = Instant::now();
    let is_late = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut client in clients {
            let is_late = &is_late;
            scope.spawn(move || {
                let status = client.wait().expect("ours");
                let took = begun.elapsed();
                say(&format!("a client returned after {took:?}: {status}"));
                is_late.fetch_or(took > PROMPT, Ordering::Relaxed);
            });
        }
        end();
    });
    assert!(!is_late.into_inner(), "every command returns within {PROMPT:?}");
}

fn servers_end(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "vfio-pci");
    // A device that takes its time for ever, and one that the kernel has to take back.
    let devices = [("emulated:size=64M,latency_us=60000000", 1), (address.as_str(), 2)];
    for (device, nsid) in devices {
        for signal in [Signal::TERM, Signal::INT, Signal::KILL, Signal::TERM] {
            let serving = Serving::start(&[device], 1 + nsid as usize);
            in_flight(&serving, nsid, || serving.signal(signal));
            let status = serving.ended();
            say(&format!("{device}: {signal:?}: {status:?}"));
            assert!(status == Some(0) || signal == Signal::KILL);
            assert_eq!(run(SLIPRING, &["list"]).matches("/dev/slipring/").count(), 0, "none is listed");
        }
    }
}

fn unplug(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "vfio-pci");
    let serving = Serving::start(&[&address], 3);
    in_flight(&serving, 2, || inside.device_del("nv1"));
    assert_eq!(serving.ended(), Some(1), "no controller is left, and it says so");
    // Not `wait_deleted`: with reads in flight QEMU 7.2 may keep what it has unplugged.
    wait_for("the kernel has let it go", START, || (!pci::exists(&address)).then_some(()));
    let other = inside.address("nv0");
    pci::bind(&other, "vfio-pci");
    let serving = Serving::start(&[&other], 3);
    run("nvme", &["id-ctrl", &serving.node()]);
}

fn clients_end(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "vfio-pci");
    let serving = Serving::start(&[&address], 3);
    for signal in [Signal::KILL, Signal::INT, Signal::KILL] {
        let slow = serving.namespace(2);
        let words = ["read", &slow, "--start-block=0", "--block-count=0", "--data-size=512"];
        let mut child =
            Command::new("nvme").args(words).stdin(Stdio::null()).spawn().expect("nvme-cli is there");
        std::thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let status = child.wait().expect("ours");
        say(&format!("{signal:?}: {status} after {:?}", begun.elapsed()));
        assert!(begun.elapsed() < PROMPT && !status.success());
        run("nvme", &["id-ctrl", &serving.node()]);
        run(
            "nvme",
            &["read", &serving.namespace(1), "--start-block=0", "--block-count=0", "--data-size=512"],
        );
    }
    serving.signal(Signal::TERM);
    assert_eq!(serving.ended(), Some(0));
}
