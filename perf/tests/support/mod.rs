//! What the tests of the command share: running it, and reading what it leaves behind.
#![allow(dead_code, unreachable_pub, reason = "each test target uses its own part, and none exports any")]

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The command with `args`, separated by blanks.
pub fn command(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipring"));
    command.args(args.split_whitespace()).env_remove("SLIPRING_LOG");
    command
}

/// Runs the command with `args`, separated by blanks.
pub fn run(args: &str) -> Output {
    command(args).stdin(Stdio::null()).output().expect("the command runs")
}

/// Runs the command with `input` on its standard input.
pub fn run_with_input(args: &str, input: &[u8]) -> Output {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|threads| {
        // A command that refuses its arguments reads nothing.
        threads.spawn(move || _ = stdin.write_all(input));
        child.wait_with_output().expect("the command ends")
    })
}

pub fn status(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Runs it and expects success.
pub fn succeed(args: &str) -> Output {
    let output = run(args);
    assert_eq!(status(&output), 0, "slipring {args}: {}", stderr(&output));
    output
}

/// Checks that `output` is a refusal: status 2, nothing on the standard output, and one line that holds all of `words`.
pub fn assert_refused(args: &str, output: &Output, words: &[&str]) {
    let error = stderr(output);
    assert_eq!(status(output), 2, "slipring {args}: {error}");
    assert_eq!(error.lines().count(), 1, "slipring {args}: one line, not {error:?}");
    assert!(error.starts_with("slipring: "), "slipring {args}: {error:?}");
    for word in words {
        assert!(error.contains(word), "slipring {args}: {word:?} is not in {error:?}");
    }
    assert!(output.stdout.is_empty(), "slipring {args}: {}", stdout(output));
}

/// Runs it and expects a refusal, see [`assert_refused`].
pub fn refuse(args: &str, words: &[&str]) {
    assert_refused(args, &run(args), words);
}

/// The JSON in file `path`.
pub fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file was written");
    serde_json::from_str(&text).expect("JSON")
}

/// Checks that `value` is an object that has all of `keys`, each a number.
pub fn assert_numbers(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value[key].is_number(), "{key} is a number in {value}");
    }
}

/// The names in `folder`.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// `count` bytes that look like nothing in particular.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
