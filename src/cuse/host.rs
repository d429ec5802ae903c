//! Where nodes come from: /dev/cuse and the folders around it, or whatever a test puts in their place.
#![forbid(unsafe_code)]

use rustix::fs::{Gid, Mode, Uid};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The folder of all nodes, below /dev.
pub const FOLDER: &str = "slipring";

/// Who may open a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits; 0600 if nothing else is said.
    pub mode: u32,
    /// The owner, if not root.
    pub uid: Option<u32>,
    /// The group, if not root's.
    pub gid: Option<u32>,
}

impl Default for Access {
    fn default() -> Self {
        Self { mode: 0o600, uid: None, gid: None }
    }
}

/// The system that nodes are made in. Called by the server's thread only, so nothing here may wait.
pub trait Host: Send + fmt::Debug {
    /// Opens a line to the kernel, on which it asks for a node's properties at once. Whatever comes back keeps messages apart.
    fn open(&mut self) -> io::Result<OwnedFd>;

    /// The device number that the next node is to have, as major and minor; the kernel chooses if the major is 0.
    fn number(&mut self) -> (u32, u32);

    /// The node exists: gives it to whom it is for.
    fn made(&mut self, name: &str, access: Access) -> io::Result<()>;

    /// Takes the node's name away. What has it open, keeps it.
    fn unlink(&mut self, name: &str) -> io::Result<()>;

    /// Whether a controller's name (`nvme0`) is in use, be it by the kernel's driver or by another server.
    fn is_taken(&self, name: &str) -> bool;
}

/// The system itself.
#[derive(Clone, Debug)]
pub struct DevCuse {
    /// The dynamic major that the first node was given, which the others share: there are few of them.
    major: Option<u32>,
    next_minor: u32,
}

impl DevCuse {
    const PATH: &'static str = "/dev/cuse";

    /// Looks whether there is such a thing.
    ///
    /// # Errors
    /// In words, when /dev/cuse is missing, or not for this user.
    pub fn new() -> io::Result<Self> {
        let opened = rustix::fs::open(Self::PATH, rustix::fs::OFlags::RDWR, Mode::empty());
        match opened {
            Ok(_) => Ok(Self { major: None, next_minor: 0 }),
            Err(error) => {
                let hint = match error {
                    rustix::io::Errno::NOENT | rustix::io::Errno::NXIO | rustix::io::Errno::NODEV => {
                        "the kernel has no CUSE; as root: modprobe cuse"
                    }
                    rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => "run this as root",
                    _ => "expected a character device",
                };
                let error = io::Error::from(error);
                Err(io::Error::new(error.kind(), format!("{}: {error}: {hint}", Self::PATH)))
            }
        }
    }

    /// The names of all nodes that anybody serves under [`FOLDER`]: `nvme0`, `nvme0n1`.
    pub fn served() -> Vec<String> {
        let prefix = format!("{FOLDER}!");
        let mut names: Vec<_> = std::fs::read_dir("/sys/class/cuse")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(&prefix)?.to_owned()))
            // Withdrawn ones stay in sysfs until they are closed.
            .filter(|name| path(name).exists())
            .collect();
        names.sort();
        names
    }
}

/// The path of a node.
pub fn path(name: &str) -> PathBuf {
    Path::new("/dev").join(FOLDER).join(name)
}

fn sysfs(name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/class/cuse/{FOLDER}!{name}"))
}

impl Host for DevCuse {
    fn open(&mut self) -> io::Result<OwnedFd> {
        use rustix::fs::OFlags;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(Self::PATH, flags, Mode::empty())?)
    }

    fn number(&mut self) -> (u32, u32) {
        let Some(major) = self.major else { return (0, 0) };
        let minor = self.next_minor;
        self.next_minor += 1;
        (major, minor)
    }

    fn made(&mut self, name: &str, access: Access) -> io::Result<()> {
        if self.major.is_none() {
            let number = std::fs::read_to_string(sysfs(name).join("dev"))?;
            let (major, minor) = number.trim().split_once(':').unwrap_or_default();
            self.major = major.parse().ok().filter(|major| *major != 0);
            self.next_minor = minor.parse().unwrap_or(0) + 1;
        }
        let path = path(name);
        rustix::fs::chmod(&path, Mode::from_raw_mode(access.mode))?;
        if access.uid.is_some() || access.gid.is_some() {
            rustix::fs::chown(&path, access.uid.map(Uid::from_raw), access.gid.map(Gid::from_raw))?;
        }
        Ok(())
    }

    fn unlink(&mut self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn is_taken(&self, name: &str) -> bool {
        // nvme-cli finds the kernel's controller of that name in sysfs, and would describe that one.
        Path::new("/sys/class/nvme").join(name).exists() || sysfs(name).exists() || path(name).exists()
    }
}
