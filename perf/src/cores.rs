//! Cores as the command line names them: a mask such as `0x3`, or a list such as `0,2-3`.
#![forbid(unsafe_code)]

use crate::error::Error;
use slipring::poller::core_ids;
use std::fmt::Display;

const EXPECTED: &str = "a hexadecimal mask such as 0x3, or a list such as [0,2-3]";
/// Cores that a list may name.
const MOST: usize = 4096;

/// The cores that `text` names, ascending, all of which this process may use.
pub(crate) fn parse(text: &str) -> Result<Vec<usize>, Error> {
    let mut cores = match text.strip_prefix('[') {
        Some(rest) => list(text, rest.strip_suffix(']').ok_or_else(|| wrong(text))?)?,
        None if text.contains([',', '-']) => list(text, text)?,
        None => mask(text)?,
    };
    cores.sort_unstable();
    cores.dedup();
    if cores.is_empty() {
        return Err(Error::input(format!("core mask {text:?} names no core: expected {EXPECTED}")));
    }
    check(&cores)?;
    Ok(cores)
}

/// That this process may use `cores`.
fn check(cores: &[usize]) -> Result<(), Error> {
    let known = core_ids();
    let unknown: Vec<usize> = cores.iter().copied().filter(|core| !known.contains(core)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Error::input(format!("unknown cores {}: this process may use {}", joined(&unknown), joined(&known))))
}

/// A core that this process may use and that is none of `taken`.
pub(crate) fn other_than(taken: &[usize]) -> Option<usize> {
    core_ids().into_iter().find(|core| !taken.contains(core))
}

fn mask(text: &str) -> Result<Vec<usize>, Error> {
    let digits = text.strip_prefix("0x").or(text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() {
        return Err(wrong(text));
    }
    let mut cores = Vec::new();
    for (place, digit) in digits.chars().rev().enumerate() {
        let bits = digit.to_digit(16).ok_or_else(|| wrong(text))?;
        cores.extend((0..4).filter(|bit| bits >> bit & 1 == 1).map(|bit| 4 * place + bit));
    }
    Ok(cores)
}

fn list(text: &str, items: &str) -> Result<Vec<usize>, Error> {
    let number = |digits: &str| {
        let number = digits.trim().parse().ok().filter(|core| *core < MOST);
        number.ok_or_else(|| wrong(text))
    };
    let mut cores = Vec::new();
    for item in items.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last): (usize, usize) = (number(first)?, number(last)?);
        if first > last {
            return Err(wrong(text));
        }
        cores.extend(first..=last);
    }
    Ok(cores)
}

fn wrong(text: &str) -> Error {
    Error::input(format!("core mask {text:?} cannot be read: expected {EXPECTED}"))
}

fn joined(numbers: &[impl Display]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{list, mask};

    #[test]
    fn reads_masks_and_lists() {
        assert_eq!(mask("0x3").ok(), Some(vec![0, 1]));
        assert_eq!(mask("a10").ok(), Some(vec![4, 9, 11]));
        assert_eq!(mask("0").ok(), Some(vec![]));
        assert_eq!(list("", "0,2-4").ok(), Some(vec![0, 2, 3, 4]));
        for text in ["", "0x", "0xg", "-1", "z"] {
            assert!(mask(text).is_err(), "{text:?}");
        }
        for text in ["", "1,", "3-1", "0-99999", "a"] {
            assert!(list(text, text).is_err(), "{text:?}");
        }
    }
}
