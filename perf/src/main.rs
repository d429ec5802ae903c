//! The `slipring` command: its subcommands, and what their ends mean to the shell. What each of them does is in a module of its own.
//!
//! Exit status: 0 all is well; 1 it ran, and data were lost or wrong, or the device failed; 2 what was asked for cannot be done, and a line
//! on the standard error says what was expected.
#![forbid(unsafe_code)]

mod bind;
mod compare;
mod cores;
mod cuse;
mod device;
mod error;
mod identify;
mod interrupt;
mod latency;
mod list;
mod numbers;
mod perf;
mod report;
mod simulate;
mod stress;
mod transfer;

use clap::{Parser, Subcommand};
use error::Error;
use std::io::Write;
use std::process::ExitCode;

/// A user-space NVMe driver at work: look at devices, move data, measure, compare.
#[derive(Debug, Parser)]
#[command(name = "slipring", version, about, disable_help_subcommand = true)]
#[command(after_help = "Devices are named by an address: `slipring list` says which there are. \
    Exit status: 0 all is well, 1 data were lost or wrong or the device failed, 2 what was asked for cannot be done.")]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Says which devices there are, and how they are named
    List(list::ListArgs),
    /// Gives a PCI controller to this program (the driver vfio-pci)
    Bind(bind::BindArgs),
    /// Gives a PCI controller back to the kernel's driver
    Unbind(bind::UnbindArgs),
    /// Prints what a controller and its namespaces say of themselves
    Identify(identify::IdentifyArgs),
    /// Reads blocks into a file or the standard output
    Read(transfer::TransferArgs),
    /// Writes blocks from a file or the standard input
    Write(transfer::TransferArgs),
    /// Does I/O at full speed or at a given rate, and measures it
    Perf(perf::PerfArgs),
    /// Serves controllers as character devices, for nvme-cli and its like, until a signal comes
    Cuse(cuse::CuseArgs),
    /// Measures the publication schemes against each other, doing the same work
    Compare(compare::CompareArgs),
    /// Storms: registers, sends, resets, detaches and attaches at once, and counts every message
    Stress(stress::StressArgs),
    /// Simulates worlds from seeds: everything in a drawn order, with faults, and an oracle that knows what may be
    Simulate(simulate::SimulateArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // A simulated device fails on purpose, all the time.
    let default = if matches!(cli.command, Subcommands::Simulate(_)) { "off" } else { "error" };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SLIPRING_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default)),
        )
        .init();
    let result = match &cli.command {
        Subcommands::List(args) => list::run(args),
        Subcommands::Bind(args) => bind::bind(args),
        Subcommands::Unbind(args) => bind::unbind(args),
        Subcommands::Identify(args) => identify::run(args),
        Subcommands::Read(args) => transfer::read(args),
        Subcommands::Write(args) => transfer::write(args),
        Subcommands::Perf(args) => perf::run(args),
        Subcommands::Cuse(args) => cuse::run(args),
        Subcommands::Compare(args) => compare::run(args),
        Subcommands::Stress(args) => stress::run(args),
        Subcommands::Simulate(args) => simulate::run(args),
    };
    result.unwrap_or_else(|error| error.report())
}

/// Help and versions are what was asked for; anything else is one line and exit status 2.
fn usage(error: &clap::Error) -> ExitCode {
    if error.exit_code() == 0 {
        // Who closed the pipe has read enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(error::BAD_INPUT);
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    let line = first.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    let hint = text.split("\n\n").find_map(|part| part.trim().strip_prefix("tip: "));
    let hint = hint.map(|hint| format!("; {}", hint.split_whitespace().collect::<Vec<_>>().join(" ")));
    Error::input(format!("{line}{} (--help says more)", hint.unwrap_or_default())).report()
}

/// Writes to the standard output.
fn print(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| stdout_error(&error))
}

/// What it means that the standard output cannot be written to.
fn stdout_error(error: &std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => Error::reader_left(),
        _ => {
            Error::input(format!("cannot write to the standard output: {error}; expected one that takes it"))
        }
    }
}
