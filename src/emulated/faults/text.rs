//! The textual form of faults, one a line: `EFFECT[=VALUE] [KEY=VALUE]...`, as files have it and errors show it. `docs/FAULTS.md` is its manual.
#![forbid(unsafe_code)]

use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::{CERTAIN_PPM, Effect, Fault, Faults, OnQueue};
use crate::spec::command::{AdminOpcode, NvmOpcode};
use crate::spec::status::Status;

/// What is wrong with a description of faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct FaultsError {
    /// The line, counted from 1.
    pub line: usize,
    /// What was found there, and what was expected.
    pub what: String,
}

const EFFECTS: &str = "hang, drop, delay=TIME, wrong-cid, repeat, stale-phase, wrong-sqhd, status=STATUS, corrupt[=OFFSET], fatal, remove, \
    registers=ones, registers=zero, never-ready, never-stops, never-shuts-down, slow-registers=TIME";
const CONDITIONS: &str = "queue, opcode, nsid, lba, nth, chance, seed";
/// Status codes are looked for by name below this one: SCT and SC, without the vendor's own.
const STATUS_END: u16 = 0x700;
const FOREVER: u64 = u64::MAX;

impl FromStr for Faults {
    type Err = FaultsError;

    /// Reads one fault a line. What follows a `#` is a comment; empty lines count for nothing.
    fn from_str(text: &str) -> Result<Self, FaultsError> {
        let mut faults = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.split('#').next().unwrap_or_default();
            if !text.trim().is_empty() {
                faults.push(text.parse().map_err(|what| FaultsError { line, what })?);
            }
        }
        Ok(Self(faults))
    }
}

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}

impl FromStr for Fault {
    type Err = String;

    /// Reads one fault, without a comment. The error says what was found and what was expected.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let first = words.next().ok_or_else(|| format!("nothing is there: expected one of {EFFECTS}"))?;
        let (name, value) = first.split_once('=').map_or((first, None), |(name, value)| (name, Some(value)));
        let mut fault = Self::new(effect(name, value)?);
        let mut seen = Vec::new();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("{word:?} is no condition: expected KEY=VALUE"))?;
            if seen.contains(&key) {
                return Err(format!("{key} is given twice"));
            }
            seen.push(key);
            if !fault.effect.is_about_commands() && (key != "nth" || name == "slow-registers") {
                return Err(format!(
                    "{}= does not go with {name}, which is not about commands",
                    key.escape_debug()
                ));
            }
            fault.condition(key, value)?;
        }
        if seen.contains(&"seed") && !seen.contains(&"chance") {
            return Err("seed= does not go without chance=".to_owned());
        }
        Ok(fault)
    }
}

fn effect(name: &str, value: Option<&str>) -> Result<Effect, String> {
    let plain = |effect| match value {
        None => Ok(effect),
        Some(value) => Err(format!("{name} has no value, and {value:?} was given")),
    };
    let needed = || value.ok_or_else(|| format!("{name} needs a value: expected one of {EFFECTS}"));
    match name {
        "hang" => plain(Effect::Hang),
        "drop" => plain(Effect::Drop),
        "delay" => Ok(Effect::Delay(time(needed()?)?)),
        "wrong-cid" => plain(Effect::WrongCid),
        "repeat" => plain(Effect::Repeat),
        "stale-phase" => plain(Effect::StalePhase),
        "wrong-sqhd" => plain(Effect::WrongSqHead),
        "status" => Ok(Effect::Status(status(needed()?)?)),
        "corrupt" => Ok(Effect::Corrupt(value.map_or(Ok(0), number)?)),
        "fatal" => plain(Effect::Fatal),
        "remove" => plain(Effect::Remove),
        "registers" if value == Some("ones") => Ok(Effect::RegistersOnes),
        "registers" if value == Some("zero") => Ok(Effect::RegistersZero),
        "never-ready" => plain(Effect::NeverReady),
        "never-stops" => plain(Effect::NeverStops),
        "never-shuts-down" => plain(Effect::NeverShutsDown),
        "slow-registers" => Ok(Effect::SlowRegisters(time(needed()?)?)),
        _ => Err(format!("{:?} is no effect: expected one of {EFFECTS}", whole(name, value))),
    }
}

fn whole(name: &str, value: Option<&str>) -> String {
    value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"))
}

impl Fault {
    fn condition(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "queue" => self.queue = queue(value)?,
            "opcode" => self.opcode = Some(self.opcode_of(value)?),
            "nsid" => self.nsid = Some(number(value)?),
            "lba" => self.lbas = Some(range(value)?),
            "nth" => {
                self.nth = range(value)?;
                if *self.nth.start() == 0 {
                    return Err("nth=0: expected 1 for the first, or more".to_owned());
                }
            }
            "chance" => self.chance_ppm = chance(value)?,
            "seed" => self.seed = number(value)?,
            _ => return Err(format!("{key:?} is no condition: expected one of {CONDITIONS}")),
        }
        Ok(())
    }

    /// An opcode by number or name. A name also says which queues, unless that was said before.
    fn opcode_of(&mut self, text: &str) -> Result<u8, String> {
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            return number(text);
        }
        let admin = (0..=u8::MAX).find(|&code| kebab(AdminOpcode(code).name()) == text);
        let nvm = (0..=u8::MAX).find(|&code| kebab(NvmOpcode(code).name()) == text);
        let (code, queue) = match (admin, nvm) {
            (_, Some(code)) => (code, OnQueue::Io),
            (Some(code), None) => (code, OnQueue::Admin),
            (None, None) => {
                return Err(format!(
                    "{text:?} is no opcode: expected a number such as 0x02, or a name such as read, write, flush, identify or get-log-page"
                ));
            }
        };
        if self.queue == OnQueue::Any {
            self.queue = queue;
        }
        Ok(code)
    }
}

/// A name of the specification as it is written in files: in small letters, with hyphens between its words.
fn kebab(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '/');
    let words: Vec<_> = words.filter(|word| !word.is_empty()).map(|word| word.replace('/', "")).collect();
    words.join("-").to_ascii_lowercase()
}

fn number<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let hex = text.strip_prefix("0x");
    let parsed = hex.map_or_else(|| text.parse().ok(), |hex| u64::from_str_radix(hex, 16).ok());
    parsed.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
        format!("{text:?}: expected a whole number below 2^{}, such as 12 or 0x0c", 8 * size_of::<T>())
    })
}

/// `7`, `7..9` (9 included), `7..` or `..9`.
fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let Some((first, last)) = text.split_once("..") else {
        let one = number(text)?;
        return Ok(one..=one);
    };
    let bound = |text: &str, open| if text.is_empty() { Ok(open) } else { number(text) };
    let range = bound(first, 1)?..=bound(last, FOREVER)?;
    if range.is_empty() {
        return Err(format!("{text:?} is an empty range: expected FIRST..LAST"));
    }
    Ok(range)
}

fn queue(text: &str) -> Result<OnQueue, String> {
    match text {
        "any" => Ok(OnQueue::Any),
        "admin" => Ok(OnQueue::Admin),
        "io" => Ok(OnQueue::Io),
        id => number(id).map(OnQueue::Id).map_err(|error| format!("queue={error}, or admin, io, any")),
    }
}

/// `1%`, `0.01%` or `1/100`, as millionths.
fn chance(text: &str) -> Result<u32, String> {
    let wrong = || format!("chance={text:?}: expected more than 0 and at most 100%, such as 1% or 1/500");
    let part = if let Some(percent) = text.strip_suffix('%') {
        percent.parse::<f64>().map_err(|_| wrong())? / 100.0
    } else {
        let (above, below) = text.split_once('/').ok_or_else(wrong)?;
        let (above, below): (f64, f64) =
            (above.parse().map_err(|_| wrong())?, below.parse().map_err(|_| wrong())?);
        above / below
    };
    let ppm = (part * f64::from(CERTAIN_PPM)).round();
    if (1.0..=f64::from(CERTAIN_PPM)).contains(&ppm) { Ok(ppm as u32) } else { Err(wrong()) }
}

/// `5ms`, `20us` or `3s`.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: expected a whole number with us, ms or s, such as 50ms");
    let end = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..end].parse().map_err(|_| wrong())?;
    let unit = match &text[end..] {
        "us" => Duration::from_micros,
        "ms" => Duration::from_millis,
        "s" if u32::try_from(number).is_ok() => Duration::from_secs,
        _ => return Err(wrong()),
    };
    Ok(unit(number))
}

/// A status by number (as [`Status`] holds it: SCT and SC, CRD, and 0x4000 for DNR) or name, `unrecovered-read-error`, and its marks: `/dnr`, `/crd2`.
fn status(text: &str) -> Result<Status, String> {
    let (code, marks) = text.split_once('/').map_or((text, None), |(code, marks)| (code, Some(marks)));
    let is_number = code.starts_with(|first: char| first.is_ascii_digit());
    let found = if is_number {
        number(code).ok().filter(|&code: &u16| code < 1 << 15).map(Status)
    } else {
        (1..STATUS_END).map(Status).find(|status| kebab(status.name()) == code)
    };
    let marked = marks.into_iter().flat_map(|marks| marks.split('/')).try_fold(found, |status, mark| {
        let status = status?;
        match mark {
            "dnr" => Some(Some(status.with_dnr())),
            "crd1" => Some(Some(status.with_crd(1))),
            "crd2" => Some(Some(status.with_crd(2))),
            "crd3" => Some(Some(status.with_crd(3))),
            _ => None,
        }
    });
    marked.flatten().filter(|status| !status.is_success()).ok_or_else(|| {
        format!(
            "{text:?} is no status: expected a number such as 0x281 (SCT 2, SC 0x81), or a name such as internal-error; then /dnr, /crd1, /crd2 or /crd3 where wanted"
        )
    })
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.effect)?;
        match self.queue {
            OnQueue::Any => {}
            OnQueue::Admin => f.write_str(" queue=admin")?,
            OnQueue::Io => f.write_str(" queue=io")?,
            OnQueue::Id(qid) => write!(f, " queue={qid}")?,
        }
        if let Some(opcode) = self.opcode {
            let name = match self.queue {
                OnQueue::Admin | OnQueue::Id(0) => AdminOpcode(opcode).name(),
                OnQueue::Io | OnQueue::Id(_) => NvmOpcode(opcode).name(),
                OnQueue::Any => "Unknown",
            };
            match name {
                "Unknown" | "Vendor Specific" => write!(f, " opcode={opcode:#04x}")?,
                name => write!(f, " opcode={}", kebab(name))?,
            }
        }
        if let Some(nsid) = self.nsid {
            write!(f, " nsid={nsid}")?;
        }
        if let Some(lbas) = &self.lbas {
            write_range(f, "lba", lbas)?;
        }
        if self.nth != (1..=FOREVER) {
            write_range(f, "nth", &self.nth)?;
        }
        if self.chance_ppm != CERTAIN_PPM {
            write!(f, " chance={}/{CERTAIN_PPM} seed={}", self.chance_ppm, self.seed)?;
        }
        Ok(())
    }
}

fn write_range(f: &mut fmt::Formatter<'_>, key: &str, range: &RangeInclusive<u64>) -> fmt::Result {
    match (*range.start(), *range.end()) {
        (first, last) if first == last => write!(f, " {key}={first}"),
        (first, FOREVER) => write!(f, " {key}={first}.."),
        (first, last) => write!(f, " {key}={first}..{last}"),
    }
}

impl Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Hang => "hang",
            Self::Drop => "drop",
            Self::Delay(delay) => return write!(f, "delay={}us", delay.as_micros()),
            Self::WrongCid => "wrong-cid",
            Self::Repeat => "repeat",
            Self::StalePhase => "stale-phase",
            Self::WrongSqHead => "wrong-sqhd",
            Self::Status(status) => return write!(f, "status={:#05x}", status.0),
            Self::Corrupt(offset) => return write!(f, "corrupt={offset}"),
            Self::Fatal => "fatal",
            Self::Remove => "remove",
            Self::RegistersOnes => "registers=ones",
            Self::RegistersZero => "registers=zero",
            Self::NeverReady => "never-ready",
            Self::NeverStops => "never-stops",
            Self::NeverShutsDown => "never-shuts-down",
            Self::SlowRegisters(delay) => return write!(f, "slow-registers={}us", delay.as_micros()),
        };
        f.write_str(name)
    }
}
