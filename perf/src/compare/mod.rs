//! `slipring compare`: the publication schemes against each other.
#![forbid(unsafe_code)]

use crate::error::Error;
use std::process::ExitCode;

/// What to compare.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {}

/// Runs the comparison.
pub(crate) fn run(_: &CompareArgs) -> Result<ExitCode, Error> {
    Err(Error::input("compare is being built in this folder"))
}
