//! The arguments of `slipring perf`, with the letters of spdk_nvme_perf.
#![forbid(unsafe_code)]

use crate::numbers;
use clap::ValueEnum;
use std::path::PathBuf;
use std::time::Duration;

/// What I/O to do, and for how long.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    slipring perf emulated -q 32 -w randread -t 5 -L\n  \
    slipring perf emulated:lba=4096,namespaces=2 -q 128 -o 16K -w randrw -M 70 -c 0x1 -P 2\n  \
    slipring perf emulated -w randread --rate 100K --json result.json\n  \
    slipring perf emulated:size=256M -w randrw --verify --seed 7\n\n\
    With --verify, the blocks that read and randread find must have been stamped by an earlier run with the same --seed;\n\
    an emulated controller's memory is new each time and is stamped first. The other patterns read everything back at the end.")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct PerfArgs {
    /// Address of the device, as in `slipring list`
    #[arg(value_name = "ADDR")]
    pub(super) address: String,
    /// I/Os in flight per queue pair
    #[arg(short = 'q', long, value_name = "N", default_value_t = 32)]
    pub(super) queue_depth: u32,
    /// Bytes per I/O; K and M are powers of 1024
    #[arg(short = 'o', long, value_name = "BYTES", default_value = "4K", value_parser = numbers::size)]
    pub(super) io_size: u64,
    /// What to do
    #[arg(short = 'w', long, value_enum, default_value_t = Pattern::Randread)]
    pub(super) pattern: Pattern,
    /// Percentage of reads, for rw and randrw [default: 50]
    #[arg(short = 'M', long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) read_share: Option<u8>,
    /// Seconds to measure for
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = numbers::seconds)]
    pub(super) time: Duration,
    /// Seconds to warm up before
    #[arg(short = 'a', long, value_name = "SECONDS", default_value = "0", value_parser = numbers::seconds)]
    pub(super) warmup: Duration,
    /// Cores to pin one worker thread each to: a mask (0x3) or a list ([0,2-3]). Without it there is one worker, not pinned
    #[arg(short = 'c', long, value_name = "MASK")]
    pub(super) core_mask: Option<String>,
    /// Queue pairs per namespace and worker
    #[arg(short = 'P', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) qpairs: u32,
    /// Print latency percentiles, to 99.999
    #[arg(short = 'L', long)]
    pub(super) latency: bool,
    /// I/Os per second to begin, whatever becomes of the earlier ones (an open loop): latencies count from the intended beginning
    #[arg(long, value_name = "N", value_parser = numbers::rate)]
    pub(super) rate: Option<f64>,
    /// Stamp every block that is written and check every block that is read
    #[arg(long)]
    pub(super) verify: bool,
    /// Wait for interrupts when there is nothing to do, instead of spinning
    #[arg(long)]
    pub(super) interrupts: bool,
    /// Only this namespace [default: all]
    #[arg(long, value_name = "N")]
    pub(super) ns: Option<u32>,
    /// Seed of the random addresses and of the stamps [default: another one each time; 0 with --verify]
    #[arg(long, value_name = "X")]
    pub(super) seed: Option<u64>,
    /// Write the result as JSON to this file
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// No progress on the standard error
    #[arg(long)]
    pub(super) quiet: bool,
}

/// Which blocks, in which order, read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pattern {
    Read,
    Write,
    Randread,
    Randwrite,
    Rw,
    Randrw,
}

impl Pattern {
    pub(super) fn is_random(self) -> bool {
        matches!(self, Self::Randread | Self::Randwrite | Self::Randrw)
    }

    pub(super) fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::Randread)
    }

    pub(super) fn is_mixed(self) -> bool {
        matches!(self, Self::Rw | Self::Randrw)
    }

    /// As it is written on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Randread => "randread",
            Self::Randwrite => "randwrite",
            Self::Rw => "rw",
            Self::Randrw => "randrw",
        }
    }
}
