//! A guest seen from the host: it is booted, told to run one test after another, listened to, and killed when it is late.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::image::Image;
use crate::klog;
use crate::pieces::{self, Pieces};
use crate::protocol::{Answer, Ask, FromGuest, ToGuest, line};
use crate::qemu::Qemu;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Boot takes 5 s; this is for a machine that is busy.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);
/// How long a late test may take to say where it is.
const DIAGNOSIS_DEADLINE: Duration = Duration::from_secs(5);
/// How much of the console a failure shows.
const CONSOLE_LINES: usize = 80;

/// What the host runs inside, found by the names that they have in the guest's `/host`.
#[derive(Clone, Debug)]
pub struct Executables {
    /// This executable, which has the agent and the tests in it.
    pub harness: PathBuf,
    /// The `slipring` command.
    pub slipring: PathBuf,
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    qemu: Qemu,
    agent: UnixStream,
    messages: Receiver<FromGuest>,
    folder: PathBuf,
    /// Whether its tests' output is shown as it comes.
    live: bool,
    /// How long it took to boot.
    boot: Duration,
    /// It was late or ended: no further test can run in it.
    pub spent: bool,
}

/// Why there is no guest.
enum NotBooted {
    /// It ended, or was late, before its agent said anything.
    Silent(String),
    /// Anything else.
    Otherwise(String),
}

impl NotBooted {
    fn into_words(self) -> String {
        match self {
            Self::Silent(why) | Self::Otherwise(why) => why,
        }
    }
}

impl From<String> for NotBooted {
    fn from(why: String) -> Self {
        Self::Otherwise(why)
    }
}

/// What a test did.
#[derive(Debug, Default)]
struct Report {
    output: Vec<String>,
    kernel_log: Vec<String>,
    milliseconds: u64,
    /// Why the test failed, if it did.
    failure: Option<String>,
}

impl Guest {
    /// Boots the guest of a group. One that ends or hangs before its agent says a word is a fault of the emulated machine, which does happen on a busy host: its
    /// console is printed, and it is booted once more.
    pub fn boot(
        pieces: &Pieces,
        image: &Image,
        executables: &Executables,
        group: &Group,
        live: bool,
    ) -> Result<Self, String> {
        let first = match Self::start(pieces, image, executables, group, live) {
            Err(NotBooted::Silent(why)) => why,
            other => return other.map_err(NotBooted::into_words),
        };
        let _ = writeln!(std::io::stderr(), "the guest of {}: {first}it is booted once more", group.name);
        let second = Self::start(pieces, image, executables, group, live);
        second.map_err(|again| format!("{}(and the first time: {first})", again.into_words()))
    }

    fn start(
        pieces: &Pieces,
        image: &Image,
        executables: &Executables,
        group: &Group,
        live: bool,
    ) -> Result<Self, NotBooted> {
        let begun = Instant::now();
        let folder = pieces::folder().join("run").join(group.name);
        lay_out(&folder, executables).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (qemu, agent) = Qemu::start(pieces, image, group, &folder)?;
        let reader = agent.try_clone().map_err(|error| format!("the agent's socket: {error}"))?;
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
                // What is no message is the kernel's or the firmware's.
                let Ok(message) = serde_json::from_slice(&line) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let mut guest = Self { qemu, agent, messages, folder, live, boot: Duration::ZERO, spent: false };
        match guest.receive(begun + BOOT_DEADLINE) {
            Ok(FromGuest::Ready) => {
                guest.boot = begun.elapsed();
                Ok(guest)
            }
            Ok(other) => Err(format!("the guest's first message is {other:?}, not that it is ready").into()),
            Err(why) => Err(NotBooted::Silent(format!("it did not boot: {why}\n{}", guest.console()))),
        }
    }

    /// Runs one test. The error is its whole report.
    pub fn run(&mut self, group: &Group, test: &Test) -> Result<(), String> {
        let name = format!("{}::{}", group.name, test.name);
        self.qemu.monitor.forget_events();
        let mut report = Report::default();
        if let Err(why) = self.converse(group, test, &mut report) {
            self.spent = true;
            report.failure = Some(why);
        }
        let complaints = klog::complaints(&report.kernel_log, test.allowed_log);
        if report.failure.is_none() && !complaints.is_empty() {
            report.failure = Some(format!("the kernel complained:\n{}", complaints.join("\n")));
        }
        let described = self.describe(&name, &report);
        let log = self.folder.join(format!("{}.log", test.name));
        fs::write(&log, &described).map_err(|error| format!("{}: {error}", log.display()))?;
        match (test.must_fail, report.failure) {
            (None, None) => Ok(()),
            (None, Some(_)) => Err(described),
            (Some(expected), None) => {
                Err(format!("it passed, and should fail with {expected:?}\n{described}"))
            }
            (Some(expected), Some(_)) if described.contains(expected) => Ok(()),
            (Some(expected), Some(_)) => {
                Err(format!("its report should have {expected:?} in it\n{described}"))
            }
        }
    }

    /// Talks with the agent until the test has ended. An error means that the guest can be used no more.
    fn converse(&mut self, group: &Group, test: &Test, report: &mut Report) -> Result<(), String> {
        let deadline = Instant::now() + test.deadline;
        self.send(&ToGuest::Run { group: group.name.to_owned(), test: test.name.to_owned() })?;
        loop {
            let message = match self.receive(deadline) {
                Ok(message) => message,
                Err(why) => {
                    self.diagnose(report);
                    return Err(why);
                }
            };
            match message {
                FromGuest::Output(line) => {
                    if self.live {
                        let _ = writeln!(std::io::stderr(), "{}: {line}", test.name);
                    }
                    report.output.push(line);
                }
                FromGuest::KernelLog(line) => report.kernel_log.push(line),
                FromGuest::Ask(ask) => {
                    let answer = self.answer(ask, deadline);
                    self.send(&ToGuest::Answer(answer))?;
                }
                FromGuest::End { code, signal, milliseconds } => {
                    report.milliseconds = milliseconds;
                    report.failure = match (code, signal) {
                        (Some(0), _) => None,
                        (Some(code), _) => Some(format!("it ended with status {code}")),
                        (None, signal) => Some(format!("it ended by signal {}", signal.unwrap_or_default())),
                    };
                    return Ok(());
                }
                FromGuest::Ready => return Err("the agent started anew".to_owned()),
                FromGuest::Begin { .. } | FromGuest::Diagnosed => {}
            }
        }
    }

    fn answer(&mut self, ask: Ask, deadline: Instant) -> Answer {
        match ask {
            Ask::Qmp { execute, arguments } => self.qemu.monitor.execute(&execute, &arguments),
            Ask::WaitEvent { event, device, timeout_ms } => {
                let left = deadline.saturating_duration_since(Instant::now());
                let timeout = Duration::from_millis(timeout_ms).min(left);
                self.qemu.monitor.wait_event(&event, device.as_deref(), timeout)
            }
        }
    }

    /// Lets a late test say where it is, if the guest still can.
    fn diagnose(&mut self, report: &mut Report) {
        let deadline = Instant::now() + DIAGNOSIS_DEADLINE;
        if self.send(&ToGuest::Diagnose).is_err() {
            return;
        }
        while let Ok(message) = self.receive(deadline) {
            match message {
                FromGuest::Output(line) => report.output.push(line),
                FromGuest::KernelLog(line) => report.kernel_log.push(line),
                FromGuest::Diagnosed => return,
                _ => {}
            }
        }
    }

    fn describe(&self, name: &str, report: &Report) -> String {
        let mut text = match &report.failure {
            Some(why) => format!("{name}: {why}\n"),
            None => format!("{name}: passed\n"),
        };
        let _ = writeln!(text, "({} ms, in a guest that booted in {:.1?})", report.milliseconds, self.boot);
        for (title, lines) in [("output", &report.output), ("kernel log", &report.kernel_log)] {
            if !lines.is_empty() {
                let _ = writeln!(text, "--- {title}\n{}", lines.join("\n"));
            }
        }
        if self.spent {
            text += &self.console();
        }
        text
    }

    fn console(&self) -> String {
        format!("--- console ({})\n{}\n", self.qemu.console.display(), self.qemu.last_words(CONSOLE_LINES))
    }

    fn send(&mut self, message: &ToGuest) -> Result<(), String> {
        self.agent
            .write_all(line(message).as_bytes())
            .map_err(|error| format!("the guest does not listen: {error}"))
    }

    fn receive(&mut self, deadline: Instant) -> Result<FromGuest, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.messages.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                "it was still running at its deadline; the guest was killed".to_owned()
            }
            RecvTimeoutError::Disconnected => match self.qemu.ended(Duration::from_secs(2)) {
                Some(status) => format!("the guest ended (QEMU: {status})"),
                None => "the guest hung up".to_owned(),
            },
        })
    }
}

/// The folder in which a guest runs, with what it shares: hard links, so that building anew does not disturb it.
fn lay_out(folder: &Path, executables: &Executables) -> std::io::Result<()> {
    let share = folder.join("share");
    if share.exists() {
        fs::remove_dir_all(&share)?;
    }
    fs::create_dir_all(&share)?;
    for (name, path) in [("harness", &executables.harness), ("slipring", &executables.slipring)] {
        fs::hard_link(path, share.join(name)).or_else(|_| fs::copy(path, share.join(name)).map(drop))?;
    }
    Ok(())
}
