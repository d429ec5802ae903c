//! Addresses and fault descriptions of the command line: any text is answered by a description that holds what the text says, or by an error of one line.

use crate::corpus;
use crate::dice::{Dice, fuzz};
use slipring::emulated::{Backing, Config, Faults, address};
use slipring::transport::vfio::PciAddress;

/// Characters that mean something somewhere, and some that should not.
const CHARACTERS: [char; 32] = [
    ':', ',', '=', '.', '-', '%', '#', ' ', '\n', '\t', '\r', '\0', '\u{1b}', '"', '\\', '0', '1', '9', 'x',
    'f', 'K', 'G', 'T', 'k', 's', 'u', 'm', '+', 'é', '🦀', '_', '\u{202e}',
];

/// Changes a text here and there. No path leads out of the folder that the test runs in.
fn mutate(dice: &mut Dice, texts: &[String]) -> String {
    let mut text: Vec<char> = texts[dice.below(texts.len())].chars().collect();
    for _ in 0..dice.below(6) {
        let at = dice.below(text.len() + 1);
        match dice.below(6) {
            0 => text.insert(at, dice.choose(&CHARACTERS)),
            1 => text.truncate(at),
            2 if at < text.len() => {
                text.remove(at);
            }
            3 => {
                let number = dice.number().to_string();
                text.splice(at..at, number.chars());
            }
            _ => {
                // The end of another text.
                let other: Vec<char> = texts[dice.below(texts.len())].chars().collect();
                text.truncate(at);
                text.extend(&other[dice.below(other.len() + 1)..]);
            }
        }
    }
    text.into_iter().filter(|character| *character != '/').collect()
}

/// That an error is one line, which a terminal shows as it is.
fn check_error(error: &str) -> Result<(), String> {
    if error.is_empty() || error.chars().any(char::is_control) {
        return Err(format!("the error is not one plain line: {error:?}"));
    }
    Ok(())
}

/// Whether a description holds what the address says, read by other code: each key once, known, and with its value in the description.
fn check_config(text: &str, config: &Config) -> Result<(), String> {
    let Some(items) = text.strip_prefix("emulated") else { return Err("it names another scheme".into()) };
    let items = items.strip_prefix(':').unwrap_or(items);
    let mut seen: Vec<&str> = Vec::new();
    let images = items.split(',').filter(|item| item.starts_with("image=")).count();
    for item in items.split(',').filter(|_| !items.is_empty()) {
        let (key, value) = item.split_once('=').unwrap_or((item, ""));
        if key != "image" && seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
        let is = |number: u64| value.parse() == Ok(number);
        let holds = match key {
            "size" => {
                let digits = value.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
                let factor = match value[digits.len()..].to_ascii_uppercase().as_str() {
                    "" => Some(1),
                    "K" => Some(1_u64 << 10),
                    "M" => Some(1 << 20),
                    "G" => Some(1 << 30),
                    "T" => Some(1 << 40),
                    _ => None,
                };
                let bytes = factor.and_then(|factor| digits.parse::<u64>().ok()?.checked_mul(factor));
                bytes.is_some_and(|bytes| {
                    config.namespaces.iter().all(|namespace| namespace.size_bytes == bytes)
                })
            }
            "lba" => config.namespaces.iter().all(|namespace| is(namespace.lba_bytes.into())),
            "namespaces" => is(config.namespaces.len() as u64),
            "image" => config.namespaces.len() == images && !value.is_empty(),
            "readonly" => config
                .namespaces
                .iter()
                .all(|namespace| matches!(namespace.backing, Backing::Image { read_only: true, .. })),
            "mdts" => is(config.mdts.into()),
            "queues" => is(config.io_queues.into()),
            "mqes" => is(config.mqes.into()),
            "dstrd" => is(config.dstrd.into()),
            "latency_us" | "admin_latency_us" => value.parse::<u32>().is_ok(),
            "serial" => config.serial == value,
            // Nor are faults read of a file that is not there.
            _ => false,
        };
        if !holds {
            return Err(format!("it was taken, and {item:?} is not what it says"));
        }
    }
    config.validate().map_err(|error| format!("it was taken, and cannot be used: {error}"))
}

type Parse = fn(&str) -> Result<Config, String>;

fn by_the_command(text: &str) -> Result<Config, String> {
    address::parse(text).map_err(|error| error.to_string())
}

fn try_address(dice: &mut Dice, texts: &[String], parse: Parse) -> Result<bool, String> {
    let text = mutate(dice, texts);
    let verdict = match parse(&text) {
        Ok(config) => check_config(&text, &config).map(|()| true),
        Err(error) => check_error(&error).map(|()| false),
    };
    verdict.map_err(|what| format!("{text:?}: {what}"))
}

/// Tries inputs, of which `input` says whether they were taken, or what was wrong about that. More than `least` are to be.
fn fuzz_parser(target: &str, usual: u64, least: u64, mut input: impl FnMut(u64) -> Result<bool, String>) {
    let mut taken = 0;
    fuzz(target, usual, |seed| match input(seed) {
        Ok(is_taken) => taken += u64::from(is_taken),
        Err(what) => panic!("{what}"),
    });
    assert!(taken > least || std::env::var_os("SLIPRING_FUZZ_ONLY").is_some(), "{taken} were taken");
}

#[test]
fn addresses_are_taken_for_what_they_say_or_refused_in_a_line() {
    let texts = corpus::lines("addresses.txt");
    fuzz_parser("addresses", 40_000, 100, |seed| try_address(&mut Dice::new(seed), &texts, by_the_command));
}

/// A parser that passes over what it does not know.
fn lenient(text: &str) -> Result<Config, String> {
    by_the_command(text).or_else(|error| {
        let (kept, _) = text.rsplit_once(',').ok_or(error)?;
        by_the_command(kept)
    })
}

/// One that repeats what it was given as it was.
fn careless(text: &str) -> Result<Config, String> {
    by_the_command(text).map_err(|_| format!("{text} is no address"))
}

#[test]
fn a_lenient_or_careless_parser_is_found_out() {
    let texts = corpus::lines("addresses.txt");
    let first_found = |parse: Parse| {
        let found = (0..100_000).find_map(|seed| try_address(&mut Dice::new(seed), &texts, parse).err());
        found.expect("the check finds it")
    };
    let what = first_found(lenient);
    assert!(what.contains("it was taken") || what.contains("twice"), "{what}");
    let what = first_found(careless);
    assert!(what.contains("not one plain line"), "{what}");
}

#[test]
fn pci_addresses_are_read_as_they_are_written() {
    let texts = corpus::lines("pci.txt");
    let mut taken = 0;
    fuzz("pci", 40_000, |seed| {
        let text = mutate(&mut Dice::new(seed), &texts);
        match text.parse::<PciAddress>() {
            Ok(address) => {
                taken += 1;
                let written = address.to_string();
                // The domain may be left out, and zeros in front; nothing else may differ.
                let digits = |text: &str| {
                    let parts = text.split([':', '.']);
                    let numbers: Option<Vec<u32>> =
                        parts.map(|part| u32::from_str_radix(part, 16).ok()).collect();
                    let mut numbers = numbers.expect("hexadecimal numbers");
                    if numbers.len() == 3 {
                        numbers.insert(0, 0);
                    }
                    numbers
                };
                assert_eq!(digits(&text), digits(&written), "{text:?} was read as {written}");
                assert_eq!(written.parse::<PciAddress>().expect("what it writes, it reads"), address);
            }
            Err(error) => check_error(&error.to_string()).unwrap_or_else(|what| panic!("{text:?}: {what}")),
        }
    });
    assert!(taken > 100 || std::env::var_os("SLIPRING_FUZZ_ONLY").is_some(), "{taken} were taken");
}

type ParseFaults = fn(&str) -> Result<Faults, String>;

fn faults_by_the_driver(text: &str) -> Result<Faults, String> {
    text.parse::<Faults>().map_err(|error| error.to_string())
}

/// One text of several descriptions: none is passed over, and the error names a line that is there.
fn try_faults(dice: &mut Dice, texts: &[String], parse: ParseFaults) -> Result<bool, String> {
    let lines: Vec<String> = (0..=dice.below(4)).map(|_| mutate(dice, texts)).collect();
    let text = lines.join("\n");
    let said = text.lines().filter(|line| !line.split('#').next().unwrap_or("").trim().is_empty()).count();
    let verdict = match parse(&text) {
        Ok(faults) if faults.list().len() == said => Ok(true),
        Ok(faults) => Err(format!("{} faults were taken of {said}", faults.list().len())),
        Err(error) => {
            let number = error.strip_prefix("line ").and_then(|rest| rest.split(':').next());
            let number: Option<usize> = number.and_then(|number| number.parse().ok());
            match number {
                Some(1..) if number <= Some(text.lines().count()) => check_error(&error).map(|()| false),
                _ => Err(format!("the error names no line: {error}")),
            }
        }
    };
    verdict.map_err(|what| format!("{text:?}: {what}"))
}

#[test]
fn fault_descriptions_are_taken_whole_or_refused_by_line() {
    let texts = corpus::lines("faults.txt");
    fuzz_parser("faults", 1_500, 15, |seed| try_faults(&mut Dice::new(seed), &texts, faults_by_the_driver));
}

#[test]
fn a_description_that_is_passed_over_is_found_out() {
    let texts = corpus::lines("faults.txt");
    let forgiving: ParseFaults = |text| {
        let right = text.lines().filter(|line| line.parse::<Faults>().is_ok());
        faults_by_the_driver(&right.collect::<Vec<_>>().join("\n"))
    };
    let found = (0..10_000).find_map(|seed| try_faults(&mut Dice::new(seed), &texts, forgiving).err());
    assert!(found.expect("the count finds it").contains("were taken of"));
}
