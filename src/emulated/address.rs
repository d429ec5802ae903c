//! The textual address of an emulated controller, `emulated:key=value,...`, turned into a [`Config`].
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `size=1G` | bytes of each namespace in RAM; K, M, G, T are powers of 1024 | 1G |
//! | `lba=4096` | logical block size in bytes, 512 or 4096 | 512 |
//! | `namespaces=2` | how many namespaces in RAM | 1 |
//! | `image=PATH` | a namespace in a raw image file; once per namespace, from NSID 1; the path has no comma | |
//! | `readonly` | the images are write protected | no |
//! | `mdts=5` | largest transfer, a power of two in units of 4 KiB; 0 is unlimited | 9 |
//! | `queues=4` | I/O queue pairs | 64 |
//! | `mqes=256` | entries of the largest queue | 1024 |
//! | `dstrd=0` | doorbells are `4 << dstrd` bytes apart | 3 |
//! | `kas=10` | keep-alive granularity in units of 100 ms; 0 is a controller without keep-alive | 0 |
//! | `crdt=1/10/50` | command retry delay times 1 to 3, in units of 100 ms; `crdt=1` sets the first only | 0/0/0 |
//! | `nssr` | the controller has an NVM subsystem reset (CAP.NSSRS) | no |
//! | `latency_us=80` | each I/O command takes so long at least | 0 |
//! | `admin_latency_us=80` | each admin command takes so long at least | 0 |
//! | `faults=FILE` | what goes wrong: a text file with one fault a line, see `docs/FAULTS.md`; the path has no comma | nothing |
//! | `serial=TEXT` | Identify's serial number | SLIPRING0001 |
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::config::{Backing, Config, ConfigError, Latency, NamespaceConfig, QueueKind};
use super::faults::Faults;

/// The word that every address of an emulated controller begins with.
pub const SCHEME: &str = "emulated";

/// The longest file of faults, in bytes.
const FAULTS_BYTES_MAX: u64 = 1 << 20;

const KEYS: [&str; 16] = [
    "size",
    "lba",
    "namespaces",
    "image",
    "readonly",
    "mdts",
    "queues",
    "mqes",
    "dstrd",
    "kas",
    "crdt",
    "nssr",
    "latency_us",
    "admin_latency_us",
    "faults",
    "serial",
];

/// Whether `address` is meant for this module: `emulated`, or anything that begins with `emulated:`.
pub fn is_emulated(address: &str) -> bool {
    address.strip_prefix(SCHEME).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

/// What the keys said, before it is put together.
#[derive(Default)]
struct Parsed {
    config: Config,
    seen: Vec<&'static str>,
    size_bytes: Option<u64>,
    lba_bytes: Option<u32>,
    namespaces: Option<u32>,
    images: Vec<PathBuf>,
    read_only: bool,
}

/// Turns an address into the description of a controller.
///
/// # Errors
/// One line that names the key, what was given and what was expected. Whether images exist is only known when the
/// controller is made ([`super::new`]); a file of faults is read at once.
pub fn parse(address: &str) -> Result<Config, ConfigError> {
    let wrong = || ConfigError::Address { address: address.to_owned() };
    let rest = address.strip_prefix(SCHEME).ok_or_else(wrong)?;
    let mut parsed = Parsed::default();
    address.clone_into(&mut parsed.config.address);
    if !rest.is_empty() {
        let keys = rest.strip_prefix(':').ok_or_else(wrong)?;
        keys.split(',').try_for_each(|item| parsed.item(item))?;
    }
    let config = parsed.finish()?;
    config.validate()?;
    Ok(config)
}

impl Parsed {
    fn item(&mut self, item: &str) -> Result<(), ConfigError> {
        let (key, value) = item.split_once('=').map_or((item, None), |(key, value)| (key, Some(value)));
        let Some(key) = KEYS.into_iter().find(|known| *known == key) else {
            return Err(ConfigError::UnknownKey { key: key.to_owned(), known: KEYS.join(", ") });
        };
        if key != "image" && self.seen.contains(&key) {
            return Err(ConfigError::Conflict { first: key, second: key, why: "it may be given once" });
        }
        self.seen.push(key);
        if matches!(key, "readonly" | "nssr") {
            if let Some(value) = value {
                return Err(wrong_value(key, value, "no value"));
            }
            match key {
                "readonly" => self.read_only = true,
                _ => self.config.nssr = Some(Duration::ZERO),
            }
            return Ok(());
        }
        let value = value.filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| wrong_value(key, "", "a value after \"=\""))?;
        self.key(key, value)
    }

    fn key(&mut self, key: &'static str, value: &str) -> Result<(), ConfigError> {
        let config = &mut self.config;
        match key {
            "size" => self.size_bytes = Some(parse_size(key, value)?),
            "lba" => self.lba_bytes = Some(number(key, value)?),
            "namespaces" => self.namespaces = Some(number(key, value)?),
            "image" => self.images.push(PathBuf::from(value)),
            "mdts" => config.mdts = number(key, value)?,
            "queues" => config.io_queues = number(key, value)?,
            "mqes" => config.mqes = number(key, value)?,
            "dstrd" => config.dstrd = number(key, value)?,
            "kas" => config.kas = number(key, value)?,
            "crdt" => config.crdt = delays(key, value)?,
            "latency_us" => config.latencies.push(latency(QueueKind::Io, number(key, value)?)),
            "admin_latency_us" => config.latencies.push(latency(QueueKind::Admin, number(key, value)?)),
            "faults" => config.faults = read_faults(Path::new(value))?,
            _ => value.clone_into(&mut config.serial),
        }
        Ok(())
    }

    fn finish(self) -> Result<Config, ConfigError> {
        let Self { mut config, size_bytes, lba_bytes, namespaces, images, read_only, .. } = self;
        let default = NamespaceConfig::default();
        let lba_bytes = lba_bytes.unwrap_or(default.lba_bytes);
        let namespace = |size_bytes, backing| NamespaceConfig { size_bytes, lba_bytes, backing };
        let conflict = |first, second, why| Err(ConfigError::Conflict { first, second, why });
        if images.is_empty() {
            if read_only {
                return Err(wrong_value("readonly", "", "at least one image=PATH beside it"));
            }
            let count = namespaces.unwrap_or(1);
            if count > config.nn {
                return Err(wrong_value("namespaces", count, format!("at most {}", config.nn)));
            }
            let size_bytes = size_bytes.unwrap_or(default.size_bytes);
            config.namespaces = (0..count).map(|_| namespace(size_bytes, Backing::Ram)).collect();
        } else if size_bytes.is_some() {
            return conflict("size", "image", "the size is that of the image");
        } else if namespaces.is_some() {
            return conflict("namespaces", "image", "each image is a namespace");
        } else {
            let image = |path| namespace(0, Backing::Image { path, read_only });
            config.namespaces = images.into_iter().map(image).collect();
            config.nn = config.nn.max(config.namespaces.len() as u32);
        }
        Ok(config)
    }
}

/// Reads a file of faults, but no more of it than such a file can have: a path may lead to a device that never ends.
fn read_faults(path: &Path) -> Result<Faults, ConfigError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(FAULTS_BYTES_MAX + 1).read_to_string(&mut text));
    let read = read.and_then(|_| {
        let is_too_long = text.len() as u64 > FAULTS_BYTES_MAX;
        if is_too_long { Err(std::io::Error::other("it is longer than 1 MiB")) } else { Ok(()) }
    });
    read.map_err(|source| ConfigError::FaultsFile { path: path.to_owned(), source })?;
    text.parse().map_err(|error| ConfigError::Faults { path: path.to_owned(), error })
}

fn latency(queue: QueueKind, delay_us: u32) -> Latency {
    Latency { queue, opcode: None, delay: Duration::from_micros(delay_us.into()) }
}

fn wrong_value(key: &'static str, value: impl Display, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, value: value.to_string(), expected: expected.into() }
}

fn number<T: FromStr>(key: &'static str, value: &str) -> Result<T, ConfigError> {
    let bits = 8 * size_of::<T>();
    value.parse().map_err(|_| wrong_value(key, value, format!("a whole number below 2^{bits}")))
}

/// One to three numbers with slashes between them.
fn delays(key: &'static str, value: &str) -> Result<[u16; 3], ConfigError> {
    let wrong = || wrong_value(key, value, "one to three whole numbers below 2^16, such as 1/10/50");
    let mut delays = [0; 3];
    for (index, text) in value.split('/').enumerate() {
        *delays.get_mut(index).ok_or_else(wrong)? = text.parse().map_err(|_| wrong())?;
    }
    Ok(delays)
}

fn parse_size(key: &'static str, value: &str) -> Result<u64, ConfigError> {
    let wrong = || wrong_value(key, value, "a number of bytes such as 4096, 512K, 64M, 1G or 2T");
    let (digits, shift) = match value.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&value[..value.len() - 1], 10),
        Some(b'M') => (&value[..value.len() - 1], 20),
        Some(b'G') => (&value[..value.len() - 1], 30),
        Some(b'T') => (&value[..value.len() - 1], 40),
        _ => (value, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}
