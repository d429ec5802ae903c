//! What a run leaves behind: tables for people, JSON for programs. JSON files appear whole or not at all.
#![forbid(unsafe_code)]

use crate::error::Error;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A table with a header line, numbers (all but the first column) to the right.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = text_table(header, rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table with a header line, everything to the left.
pub(crate) fn text_table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.to_vec()).add_rows(rows);
    table
}

/// `number` with a comma between thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration in nanoseconds in the unit that suits it.
pub(crate) fn nanoseconds(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.2} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.2} ms", ns / 1e6),
        ns => format!("{:.3} s", ns / 1e9),
    }
}

/// JSON as it is written everywhere: indented, with a newline at the end.
pub(crate) fn to_json(value: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Error::failed(format!("cannot make JSON: {error}")))
}

/// A file that appears whole or not at all: written beside its place, and renamed into it.
///
/// What is no regular file (a pipe, a device) cannot be replaced and is written to directly.
#[derive(Debug)]
pub(crate) struct OutputFile {
    file: File,
    place: PathBuf,
    /// `None` once it is in its place, or when it is written to directly.
    temporary: Option<PathBuf>,
}

impl OutputFile {
    /// Opens a file that is to be at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let wrong = |error: io::Error| cannot_write(path, &error);
        let place = match fs::canonicalize(path) {
            Ok(place) => place,
            Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_path_buf(),
            Err(error) => return Err(wrong(error)),
        };
        if let Ok(metadata) = fs::metadata(&place) {
            if metadata.is_dir() {
                return Err(Error::input(format!(
                    "cannot write {}: it is a folder; name a file",
                    path.display()
                )));
            }
            if !metadata.is_file() {
                let file = OpenOptions::new().write(true).open(&place).map_err(wrong)?;
                return Ok(Self { file, place, temporary: None });
            }
        }
        let Some(name) = place.file_name() else {
            return Err(Error::input(format!("cannot write {}: name a file", path.display())));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.tmp", std::process::id()));
        let temporary = place.with_file_name(hidden);
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(wrong)?;
        Ok(Self { file, place, temporary: Some(temporary) })
    }

    /// Puts the file, with all that was written, into its place.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        let Some(temporary) = self.temporary.clone() else { return Ok(()) };
        let finished = self.file.sync_all().and_then(|()| fs::rename(&temporary, &self.place));
        finished.map_err(|error| cannot_write(&self.place, &error))?;
        self.temporary = None;
        Ok(())
    }

    /// The error for what went wrong while writing.
    pub(crate) fn error(&self, error: &io::Error) -> Error {
        cannot_write(&self.place, error)
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // It cannot be helped if that fails too.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// That a file can be written at `path`, as well as can be known before a long run.
pub(crate) fn check_writable(path: Option<&Path>) -> Result<(), Error> {
    path.map_or(Ok(()), |path| OutputFile::create(path).map(drop))
}

/// Writes `value` as JSON to `path`, whole or not at all.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = to_json(value)?;
    let mut file = OutputFile::create(path)?;
    file.write_all(text.as_bytes()).map_err(|error| file.error(&error))?;
    file.finish()
}

fn cannot_write(path: &Path, error: &io::Error) -> Error {
    Error::input(format!("cannot write {}: {error}; expected a place that can be written to", path.display()))
}
