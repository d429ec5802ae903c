//! The QEMU process of one guest: its command line, its sockets, its console, its end.
#![forbid(unsafe_code)]

use crate::group::Group;
use crate::image::Image;
use crate::pieces::Pieces;
use crate::qmp::Qmp;
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The first argument of an executable that is to become QEMU.
pub const LAUNCH: &str = "--qemu";

/// QEMU opens its sockets at once; this is for a machine that is busy.
const SOCKET_DEADLINE: Duration = Duration::from_secs(30);

/// A running QEMU. Dropping it kills it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    pub monitor: Qmp,
    /// Where the kernel's console is written.
    pub console: PathBuf,
    /// What QEMU itself printed.
    log: PathBuf,
    /// Has the sockets: in a folder of their own, as their paths may not be long.
    _sockets: tempfile::TempDir,
}

impl Qemu {
    /// Starts the group's guest in this folder, which has the `share`. Also gives the agent's end of the second serial port.
    pub fn start(
        pieces: &Pieces,
        image: &Image,
        group: &Group,
        folder: &Path,
    ) -> Result<(Self, UnixStream), String> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        let sockets = tempfile::Builder::new()
            .prefix("slipring-guest-")
            .tempdir()
            .map_err(io("a folder for sockets"))?;
        let (console, log) = (folder.join("console.log"), folder.join("qemu.log"));
        File::create(&console).map_err(io("console.log"))?;
        let output = File::create(&log).map_err(io("qemu.log"))?;
        let arguments = arguments(image, group, folder, sockets.path()).map_err(io("the guest's media"))?;
        let mut command = Command::new(std::env::current_exe().map_err(io("our own executable"))?);
        command.arg(LAUNCH).arg(std::process::id().to_string()).arg(pieces.program("qemu-system-x86_64"));
        command.args(arguments).current_dir(folder).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(io("qemu.log"))?).stderr(output);
        let mut child = command.spawn().map_err(io("QEMU"))?;
        let connected = connect(&mut child, &sockets.path().join("agent"))
            .and_then(|agent| Ok((agent, connect(&mut child, &sockets.path().join("monitor"))?)))
            .and_then(|(agent, monitor)| Ok((agent, Qmp::new(monitor)?)));
        match connected {
            Ok((agent, monitor)) => Ok((Self { child, monitor, console, log, _sockets: sockets }, agent)),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("{error}\n{}", fs::read_to_string(&log).unwrap_or_default()))
            }
        }
    }

    /// How it ended, if it has, waiting this long.
    pub fn ended(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
                Ok(ended) => return ended,
                Err(_) => return None,
            }
        }
    }

    /// The end of the kernel's console, and all that QEMU printed.
    pub fn last_words(&self, lines: usize) -> String {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).replace('\r', "");
        let all: Vec<_> = console.lines().collect();
        let mut words = all[all.len().saturating_sub(lines)..].join("\n");
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        if !said.is_empty() {
            words = format!("{words}\n--- QEMU\n{}", said.trim_end());
        }
        words
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // The media are scratch: there is nothing to be saved.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes QEMU, which then ends when the process that asked for it ends, however that ends. `arguments`: that process, the program, what it is given.
pub fn launch(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let parent = arguments.next().and_then(|id| id.into_string().ok()).and_then(|id| id.parse::<i32>().ok());
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    let alive = getppid().map(|id| id.as_raw_nonzero().get());
    let (Some(program), Ok(()), true) = (arguments.next(), bound, parent.is_some() && alive == parent) else {
        return ExitCode::FAILURE;
    };
    // Only returns if it failed.
    let error = Command::new(&program).args(arguments).exec();
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}: {error}\n", program.display())));
    ExitCode::FAILURE
}

/// Connects to a socket that QEMU is about to open.
fn connect(child: &mut Child, path: &Path) -> Result<UnixStream, String> {
    let deadline = Instant::now() + SOCKET_DEADLINE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(format!("QEMU ended at once, {status}:"));
                }
                if Instant::now() > deadline {
                    return Err(format!("QEMU opened no {}: {error}", path.display()));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// The whole command line. TCG is named: where KVM exists it may be one that does not work.
fn arguments(image: &Image, group: &Group, folder: &Path, sockets: &Path) -> std::io::Result<Vec<String>> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &str| arguments.extend(words.split(' ').map(str::to_owned));
    add("-nodefaults -no-user-config -display none -no-reboot -machine q35 -cpu max -smp 2 -m 1024");
    add("-accel tcg,thread=multi,tb-size=256 -device intel-iommu,intremap=on,caching-mode=on");
    if group.native_hotplug {
        add("-global ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
    }
    add("-serial file:console.log -serial chardev:agent");
    add("-fsdev local,id=fs0,path=share,security_model=none,multidevs=remap");
    add("-device virtio-9p-pci,fsdev=fs0,mount_tag=host,bus=pcie.0,addr=3.0");
    for port in 0..group.ports() {
        add(&format!(
            "-device pcie-root-port,id=rp{port},bus=pcie.0,chassis=1,slot={},addr={}.0",
            port + 1,
            port + 4
        ));
    }
    // Paths may have spaces and commas in them.
    let path = |option: &str, path: &Path| [option.to_owned(), path.display().to_string()];
    arguments.extend(path("-kernel", &image.vmlinux));
    arguments.extend(path("-initrd", &image.initrd));
    // No self-tests of ciphers and no mitigations: they are slow to emulate.
    arguments.extend([
        "-append".to_owned(),
        "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off cryptomgr.notests intel_iommu=on iommu=pt"
            .to_owned(),
    ]);
    for id in ["agent", "monitor"] {
        let address = sockets.join(id).display().to_string().replace(',', ",,");
        arguments
            .extend(["-chardev".to_owned(), format!("socket,id={id},path={address},server=on,wait=off")]);
    }
    arguments.extend(["-mon".to_owned(), "chardev=monitor,mode=control".to_owned()]);
    for controller in &group.controllers {
        arguments.extend(controller.arguments(group.place(controller.id), folder)?);
    }
    Ok(arguments)
}
