//! The agent: runs inside the guest, starts the tests that the host names as processes of their own, and passes on what they print and ask.
#![forbid(unsafe_code)]

use crate::protocol::{Answer, Ask, FromGuest, ToGuest, line};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The first argument of an executable that is to be the agent.
pub const AGENT: &str = "--inside";
/// The first argument of an executable that is to be a test.
pub const TEST: &str = "--inside-test";

/// The serial port to the host.
const PORT: &str = "/dev/ttyS1";

/// Says things to the host, from any thread.
#[derive(Clone, Debug)]
struct Host(Arc<Mutex<File>>);

impl Host {
    fn say(&self, message: &FromGuest) {
        let mut port = self.0.lock().expect("nobody panics while writing");
        // If the host cannot be told, there is nobody to be told.
        let _ = port.write_all(line(message).as_bytes());
    }
}

/// The test that runs.
#[derive(Debug)]
struct Running {
    pid: u32,
    /// Where the answers to its asks go.
    asks: UnixStream,
}

/// Serves the host until it hangs up.
pub fn serve() -> io::Result<()> {
    let host = Host(Arc::new(Mutex::new(File::options().write(true).open(PORT)?)));
    let log = Arc::new(Mutex::new(KernelLog::open()?));
    host.say(&FromGuest::Ready);
    let mut running: Option<Running> = None;
    for text in BufReader::new(File::open(PORT)?).lines() {
        match serde_json::from_str(&text?) {
            Ok(ToGuest::Run { group, test }) => running = Some(start(&group, &test, &host, &log)?),
            Ok(ToGuest::Answer(answer)) => {
                if let Some(running) = &mut running {
                    // A test that has ended needs no answer.
                    let _ = running.asks.write_all(line(&answer).as_bytes());
                }
            }
            Ok(ToGuest::Diagnose) => {
                if let Some(running) = &running {
                    diagnose(running.pid, &host);
                }
                for line in log.lock().expect("nobody panics while reading").read() {
                    host.say(&FromGuest::KernelLog(line));
                }
                host.say(&FromGuest::Diagnosed);
            }
            Err(error) => host.say(&FromGuest::Output(format!("agent: what is this? {error}"))),
        }
    }
    Ok(())
}

/// Starts a test, and the threads that pass on what it prints, asks and ends with.
fn start(group: &str, test: &str, host: &Host, log: &Arc<Mutex<KernelLog>>) -> io::Result<Running> {
    // What was logged before is none of this test's.
    log.lock().expect("nobody panics while reading").read();
    let (output, writer) = io::pipe()?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([TEST, group, test]).process_group(0);
    command.stdin(OwnedFd::from(theirs)).stdout(writer.try_clone()?).stderr(writer);
    let begun = Instant::now();
    let child = command.spawn()?;
    // It holds the writing end of the pipe, which has to be closed for the reading end to end.
    drop(command);
    let pid = child.id();
    host.say(&FromGuest::Begin { pid });
    let printing = std::thread::spawn({
        let host = host.clone();
        move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                host.say(&FromGuest::Output(String::from_utf8_lossy(&line).into_owned()));
            }
        }
    });
    let asks = ours.try_clone()?;
    std::thread::spawn({
        let host = host.clone();
        move || {
            for text in BufReader::new(ours).lines().map_while(Result::ok) {
                if let Ok(ask) = serde_json::from_str::<Ask>(&text) {
                    host.say(&FromGuest::Ask(ask));
                }
            }
        }
    });
    let (host, log) = (host.clone(), Arc::clone(log));
    std::thread::spawn(move || {
        let (code, signal) = end(child, pid);
        // Whatever it had started is dead as well, so that nobody prints any more.
        let _ = printing.join();
        for line in log.lock().expect("nobody panics while reading").read() {
            host.say(&FromGuest::KernelLog(line));
        }
        let milliseconds = begun.elapsed().as_millis() as u64;
        host.say(&FromGuest::End { code, signal, milliseconds });
    });
    Ok(Running { pid, asks })
}

/// Waits for a test and ends what it left running: its status, or the signal that killed it.
fn end(mut child: Child, pid: u32) -> (Option<i32>, Option<i32>) {
    let status = child.wait();
    if let Some(group) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    status.map_or((None, None), |status| (status.code(), status.signal()))
}

/// Where a late test's processes are, and what the kernel knows of those that are blocked.
fn diagnose(pid: u32, host: &Host) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let say = |text: String| host.say(&FromGuest::Output(text));
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = read(&format!("/proc/{id}/stat"));
        // After the name: state, parent, process group.
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        if fields.get(2) != Some(&pid.to_string().as_str()) {
            continue;
        }
        for thread in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
            let thread = thread.path();
            let of = |what: &str| read(&thread.join(what).display().to_string());
            let stack = of("stack");
            let calls: Vec<_> =
                stack.lines().filter_map(|call| call.split_whitespace().nth(1)).take(8).collect();
            let state = of("stat").rsplit(") ").next().map(|rest| rest.chars().take(1).collect::<String>());
            let name = of("comm");
            let state = state.unwrap_or_default();
            say(format!("late: process {id}, thread {}, {state}: {}", name.trim(), calls.join(" < ")));
        }
    }
    // Blocked tasks, onto the console and into the log.
    let _ = fs::write("/proc/sysrq-trigger", "w");
}

/// The kernel's log, as far as it was not read yet.
#[derive(Debug)]
struct KernelLog(File);

impl KernelLog {
    fn open() -> io::Result<Self> {
        let mut file =
            File::from(rustix::fs::open("/dev/kmsg", OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?);
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The messages since the last call. Each read gives one record: "priority,sequence,time,flags;text", then indented properties.
    fn read(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(length @ 1..) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    let (_, message) = text.split_once(';').unwrap_or(("", &text));
                    lines.push(message.lines().next().unwrap_or_default().to_owned());
                }
                // The kernel was faster than we and has overwritten what was next.
                Err(error) if error.raw_os_error() == Some(32) => {
                    lines.push("(messages were lost)".to_owned());
                }
                _ => return lines,
            }
        }
    }
}

/// Asks the host, from inside a test; the agent is at the other end of the socket.
pub fn ask(socket: &mut UnixStream, ask: &Ask) -> Answer {
    let lost = |error: io::Error| format!("the agent does not answer: {error}");
    socket.write_all(line(ask).as_bytes()).map_err(lost)?;
    let mut text = String::new();
    BufReader::new(&*socket).read_line(&mut text).map_err(lost)?;
    serde_json::from_str(&text).map_err(|error| format!("the agent's answer {text:?}: {error}"))?
}
