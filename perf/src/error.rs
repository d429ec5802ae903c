//! How a subcommand fails: one line, and an exit status.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// Exit status when it ran, and data were lost or wrong, or the device failed.
pub(crate) const FAILED: u8 = 1;
/// Exit status when what was asked for cannot be done.
pub(crate) const BAD_INPUT: u8 = 2;

/// Exit status when the reader of the standard output has left: what a shell gives to a process that SIGPIPE has ended.
const READER_LEFT: u8 = 141;

/// Why a subcommand did not do what was asked for.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
    status: u8,
}

impl Error {
    /// What was asked for cannot be done: says what was wrong and what would be right. Nothing was changed.
    pub(crate) fn input(message: impl Display) -> Self {
        Self { message: message.to_string(), status: BAD_INPUT }
    }

    /// It was begun, and data were lost or wrong, or the device failed.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { message: message.to_string(), status: FAILED }
    }

    /// The reader of the standard output has left. It knows, so nothing is said.
    pub(crate) fn reader_left() -> Self {
        Self { message: String::new(), status: READER_LEFT }
    }

    /// Says it, and turns it into the exit status.
    pub(crate) fn report(&self) -> ExitCode {
        if self.message.is_empty() {
            return ExitCode::from(self.status);
        }
        let line = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        // With no standard error left there is only the status to tell.
        let _ = writeln!(std::io::stderr(), "slipring: {line}");
        ExitCode::from(self.status)
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}
