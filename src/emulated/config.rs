//! What an emulated controller is made from: its limits, its namespaces, its delays; and what is wrong with a description.
//! The textual form is in `address`.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use super::faults::{Faults, FaultsError};

/// VS of the first version with CRTO and CC.CSS other than 0.
pub(super) const VERSION_2_0: u32 = 0x0002_0000;

/// Where the blocks of a namespace live.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Backing {
    /// Anonymous memory that reads as zeroes and is taken from the host only where it is written. Gone with the device.
    #[default]
    Ram,
    /// A raw image in a regular file, whose size is the namespace's. Writes survive the device.
    Image {
        /// The file.
        path: PathBuf,
        /// Writes are answered with Namespace is Write Protected, and the file is opened for reading only.
        read_only: bool,
    },
}

/// One namespace. The first in [`Config::namespaces`] has NSID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceConfig {
    /// Size in bytes, a multiple of `lba_bytes`. Ignored for an image, whose file size counts.
    pub size_bytes: u64,
    /// Logical block size: 512 or 4096.
    pub lba_bytes: u32,
    /// Where the blocks live.
    pub backing: Backing,
}

impl Default for NamespaceConfig {
    /// 1 GiB of RAM in blocks of 512 bytes.
    fn default() -> Self {
        Self { size_bytes: 1 << 30, lba_bytes: 512, backing: Backing::Ram }
    }
}

/// Which commands a [`Latency`] is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Commands of the admin queue.
    Admin,
    /// Commands of any I/O queue.
    Io,
}

/// A delay between the fetch of a command and its execution and completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// The kind of queue.
    pub queue: QueueKind,
    /// One opcode, or all of that queue. A later entry overrides an earlier one.
    pub opcode: Option<u8>,
    /// The delay. Zero means that the command is executed when it is fetched.
    pub delay: Duration,
}

/// Everything about a controller that can be chosen.
///
/// `Config::default()` is a controller with one namespace of 1 GiB in RAM, 64 I/O queue pairs of up to 1,024 entries and
/// transfers of up to 2 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What the transport is called in messages; [`address::parse`](super::address::parse) keeps the address here.
    pub address: String,
    /// The namespaces, from NSID 1; at most `nn`. May be empty.
    pub namespaces: Vec<NamespaceConfig>,
    /// Largest transfer as a power of two in units of 4 KiB (Identify Controller, MDTS); 0 is unlimited. At most 20.
    pub mdts: u8,
    /// Entries of the largest queue, 2 to 65,536. CAP.MQES is one less.
    pub mqes: u32,
    /// I/O queue pairs that the controller has, 1 to 1,024.
    pub io_queues: u16,
    /// CAP.DSTRD: doorbells are `4 << dstrd` bytes apart; 0 to 9. The default of 3 puts the two doorbells of a pair
    /// into one cache line of 64 bytes and those of different pairs into different ones.
    pub dstrd: u8,
    /// CAP.TO and CRTO, rounded up to units of 500 ms: how long the driver has to wait for CSTS.RDY at least. At most 127.5 s, which is all that CAP.TO can say;
    /// with CRTO, so from version 2.0 on, at most 32,767.5 s.
    pub timeout: Duration,
    /// How long CSTS.RDY takes to follow CC.EN, in either direction.
    pub ready_delay: Duration,
    /// How long CSTS.SHST stays at 01b after a shutdown notification.
    pub shutdown_delay: Duration,
    /// CAP.MPSMIN and CAP.MPSMAX: memory pages of `4 KiB << mps`. At most 4.
    pub mpsmin: u8,
    /// See `mpsmin`.
    pub mpsmax: u8,
    /// Value of the VS register and of Identify's VER, such as `0x0002_0000`. Below 2.0 there is no CRTO and there are no
    /// command sets to choose from; below 1.3 no namespace descriptors; below 1.1 no list of active namespaces.
    pub version: u32,
    /// Whether there are admin commands only, and no I/O queues (CAP.CSS bit 7, and no other).
    pub admin_only: bool,
    /// Identify's WZSL: Write Zeroes of more is refused, a power of two in units of 4 KiB; 0 is unlimited. At most 20.
    pub wzsl: u8,
    /// Identify's DMRSL: a longer range is refused by Dataset Management, in blocks; 0 is unlimited.
    pub dmrsl: u32,
    /// Identify's NOIOB: I/O that crosses a multiple of this many blocks would be slow on real media; 0 is none. A hint.
    pub noiob: u16,
    /// LBA formats with metadata that are listed before the two without, 0 to 62. Nothing can be formatted to them; from
    /// 15 on the index of a format takes the upper bits of FLBAS.
    pub metadata_formats: u8,
    /// Async event requests that may be outstanding at a time, 1 to 256. Identify's AERL is one less.
    pub async_events: u16,
    /// Abort commands that may be outstanding at a time, 1 to 256. Identify's ACL is one less.
    pub aborts: u16,
    /// Keep alive granularity in units of 100 ms (Identify's KAS); 0 is a controller without keep-alive.
    pub kas: u16,
    /// Command retry delay times in units of 100 ms (Identify's CRDT1 to CRDT3), which statuses with CRD 1 to 3 mean; given to hosts that heed them only (ACRE).
    pub crdt: [u16; 3],
    /// Whether there is an NVM subsystem reset (CAP.NSSRS), and for how long after one the device cannot be reached, as one whose PCIe link comes up again:
    /// registers read as all ones, and what is written is lost.
    pub nssr: Option<Duration>,
    /// Interrupt vectors, 0 to 2,048.
    pub interrupts: u16,
    /// Number of valid NSIDs (Identify's NN), at least as many as there are namespaces; those beyond are not allocated.
    pub nn: u32,
    /// Delays per command.
    pub latencies: Vec<Latency>,
    /// What goes wrong.
    pub faults: Faults,
    /// Identify's SN: at most 20 printable ASCII characters.
    pub serial: String,
    /// Identify's MN: at most 40 printable ASCII characters.
    pub model: String,
    /// Identify's FR: at most 8 printable ASCII characters.
    pub firmware: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: super::address::SCHEME.to_owned(),
            namespaces: vec![NamespaceConfig::default()],
            mdts: 9,
            mqes: 1024,
            io_queues: 64,
            dstrd: 3,
            timeout: Duration::from_secs(10),
            ready_delay: Duration::ZERO,
            shutdown_delay: Duration::ZERO,
            mpsmin: 0,
            mpsmax: 4,
            version: VERSION_2_0,
            admin_only: false,
            wzsl: 0,
            dmrsl: 0,
            noiob: 0,
            metadata_formats: 0,
            async_events: 4,
            aborts: 4,
            kas: 0,
            crdt: [0; 3],
            nssr: None,
            interrupts: 65,
            nn: 256,
            latencies: Vec::new(),
            faults: Faults::default(),
            serial: "SLIPRING0001".to_owned(),
            model: "Slipring Emulated NVMe Controller".to_owned(),
            firmware: "1.0".to_owned(),
        }
    }
}

/// Why a controller could not be made. Each message is one line and says what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The address does not name an emulated controller.
    #[error(
        "{address:?} is no address of an emulated controller: expected \"emulated\" or \"emulated:key=value,...\""
    )]
    Address {
        /// What was given.
        address: String,
    },
    /// A key that does not exist.
    #[error("unknown key {key:?}: expected one of {known}")]
    UnknownKey {
        /// What was given.
        key: String,
        /// All keys.
        known: String,
    },
    /// A key whose value cannot be used.
    #[error("{key}={value:?} cannot be used: expected {expected}")]
    Value {
        /// The key or field.
        key: &'static str,
        /// What was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// Two keys that contradict each other.
    #[error("{first} and {second} cannot be given together: {why}")]
    Conflict {
        /// One key.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The reason.
        why: &'static str,
    },
    /// A file of faults that cannot be read.
    #[error("faults {path:?} cannot be read: {source}; expected a text file with one fault a line")]
    FaultsFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of faults with something in it that is none.
    #[error("faults {path:?}, {error}")]
    Faults {
        /// The file.
        path: PathBuf,
        /// The line, and what is wrong with it.
        error: FaultsError,
    },
    /// An image that cannot be opened.
    #[error("image {path:?} cannot be opened for {access}: {source}; expected an existing raw image file")]
    Image {
        /// The file.
        path: PathBuf,
        /// `reading` or `reading and writing`.
        access: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image whose size does not fit.
    #[error(
        "image {path:?} has {bytes} bytes: expected a multiple of the LBA size of {lba_bytes} bytes, and at least one block"
    )]
    ImageSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The LBA size asked for.
        lba_bytes: u32,
    },
    /// An image that is a directory, a device or a pipe.
    #[error("image {path:?} is not a regular file: expected a raw image file")]
    ImageKind {
        /// The file.
        path: PathBuf,
    },
    /// The doorbell page could not be allocated.
    #[error("no memory for the doorbells: {0}")]
    Memory(String),
}

fn value(key: &'static str, value: impl Display, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected: expected.into() }
}

fn check_range(key: &'static str, given: u64, least: u64, most: u64) -> Result<(), ConfigError> {
    if (least..=most).contains(&given) {
        return Ok(());
    }
    Err(value(key, given, format!("{least} to {most}")))
}

fn check_text(key: &'static str, given: &str, most: usize) -> Result<(), ConfigError> {
    if given.len() <= most && given.bytes().all(|b| (0x20..0x7f).contains(&b)) {
        return Ok(());
    }
    Err(value(key, given, format!("at most {most} printable ASCII characters")))
}

impl Config {
    /// Checks every limit; the images are looked at when the device is made.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first field that is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_range("mdts", self.mdts.into(), 0, 20)?;
        check_range("mqes", self.mqes.into(), 2, 65_536)?;
        check_range("queues", self.io_queues.into(), 1, 1024)?;
        check_range("dstrd", self.dstrd.into(), 0, 9)?;
        let longest_units = if self.version >= VERSION_2_0 { u16::MAX.into() } else { u64::from(u8::MAX) };
        check_range("timeout", self.timeout.as_millis() as u64, 0, longest_units * 500)?;
        check_range("mpsmax", self.mpsmax.into(), 0, 4)?;
        check_range("mpsmin", self.mpsmin.into(), 0, self.mpsmax.into())?;
        check_range("async_events", self.async_events.into(), 1, 256)?;
        check_range("aborts", self.aborts.into(), 1, 256)?;
        check_range("wzsl", self.wzsl.into(), 0, 20)?;
        check_range("metadata_formats", self.metadata_formats.into(), 0, 62)?;
        check_range("interrupts", self.interrupts.into(), 0, 2048)?;
        check_range("nn", self.nn.into(), (self.namespaces.len() as u64).max(1), 65_536)?;
        check_text("serial", &self.serial, 20)?;
        check_text("model", &self.model, 40)?;
        check_text("firmware", &self.firmware, 8)?;
        self.namespaces.iter().try_for_each(NamespaceConfig::validate)
    }
}

impl NamespaceConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if !matches!(self.lba_bytes, 512 | 4096) {
            return Err(value("lba", self.lba_bytes, "512 or 4096"));
        }
        let ram = self.backing == Backing::Ram;
        if ram && (self.size_bytes == 0 || !self.size_bytes.is_multiple_of(self.lba_bytes.into())) {
            let expected =
                format!("a multiple of the LBA size of {} bytes, and at least one block", self.lba_bytes);
            return Err(value("size", self.size_bytes, expected));
        }
        // What is larger than the address space would fail at the first write rather than here.
        if ram && self.size_bytes > 1 << 46 {
            return Err(value("size", self.size_bytes, "at most 64T"));
        }
        Ok(())
    }
}
