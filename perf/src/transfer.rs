//! `slipring read` and `slipring write`: blocks to and from files and pipes, in pieces of the largest transfer, several of them in flight.
#![forbid(unsafe_code)]

use crate::device::{Address, DETACH_TIMEOUT, Session};
use crate::error::Error;
use crate::report::OutputFile;
use crate::{identify, interrupt, numbers};
use slipring::ctrlr::{CtrlrOptions, Namespace};
use slipring::dma::{DmaBuffer, DmaSlice};
use slipring::poller::{QpairOptions, QueuePair};
use slipring::ring::Outcome;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// When progress is shown first, and how often from then on.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long one command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Which blocks, and from or to where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    slipring write emulated:image=disk.img --lba 2048 --file part.img\n  \
    slipring read emulated:image=disk.img --lba 2048 --blocks 64 --file part.img\n  \
    slipring read emulated:image=disk.img --blocks 8 | hexdump -C\n\n\
    A file that is read into appears whole or not at all. The standard input is written as it comes: when it ends early, what came is written.")]
pub(crate) struct TransferArgs {
    /// Address of the device, as in `slipring list`
    #[arg(value_name = "ADDR")]
    address: String,
    /// Namespace
    #[arg(long, value_name = "N", default_value_t = 1)]
    ns: u32,
    /// First block
    #[arg(long, value_name = "L", default_value_t = 0)]
    lba: u64,
    /// How many blocks [default: for write, as many as the file has; for read, up to the end]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(u64).range(1..))]
    blocks: Option<u64>,
    /// The file, instead of the standard input or output
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
    /// Commands in flight
    #[arg(short = 'q', long, value_name = "N", default_value_t = 8)]
    queue_depth: u32,
    /// Bytes per command; K and M are powers of 1024 [default: what the controller takes]
    #[arg(short = 'o', long, value_name = "BYTES", value_parser = numbers::size)]
    io_size: Option<u64>,
}

/// Blocks to a file or the standard output.
pub(crate) fn read(args: &TransferArgs) -> Result<ExitCode, Error> {
    let mut transfer = Transfer::prepare(args, None)?;
    let mut file = args.file.as_deref().map(OutputFile::create).transpose()?;
    let result = if let Some(file) = &mut file {
        transfer.read(|bytes| file.write_all(bytes).map_err(|error| file.error(&error)))
    } else {
        let mut out = io::stdout().lock();
        let wrong = |error: io::Error| crate::stdout_error(&error);
        transfer.read(|bytes| out.write_all(bytes).map_err(wrong)).and_then(|()| out.flush().map_err(wrong))
    };
    transfer.close(result)?;
    file.map_or(Ok(()), OutputFile::finish)?;
    Ok(ExitCode::SUCCESS)
}

/// Blocks from a file or the standard input.
pub(crate) fn write(args: &TransferArgs) -> Result<ExitCode, Error> {
    let (mut input, name, len): (Box<dyn Read>, String, Option<u64>) = match &args.file {
        None => (Box::new(io::stdin().lock()), "the standard input".into(), None),
        Some(path) => {
            let name = path.display().to_string();
            let wrong =
                |error: io::Error| Error::input(format!("cannot read {name}: {error}; expected a file"));
            let file = File::open(path).map_err(wrong)?;
            let metadata = file.metadata().map_err(wrong)?;
            if metadata.is_dir() {
                return Err(Error::input(format!("cannot read {name}: it is a folder; expected a file")));
            }
            let len = metadata.is_file().then_some(metadata.len());
            (Box::new(file), name, len)
        }
    };
    if args.blocks.is_none() && len.is_none() {
        return Err(Error::input(format!("{name} does not say how long it is: expected --blocks")));
    }
    let mut transfer = Transfer::prepare(args, len)?;
    let wanted = transfer.bytes();
    if let Some(len) = len.filter(|len| *len < wanted) {
        return Err(Error::input(format!(
            "{name} is too short: expected {wanted} bytes for {} blocks, got {len}",
            transfer.blocks
        )));
    }
    let result = transfer.write(&mut *input, &name);
    transfer.close(result)?;
    Ok(ExitCode::SUCCESS)
}

/// A piece in flight, or over.
struct Piece {
    len: usize,
    /// Its data, once it is over.
    data: Option<DmaBuffer>,
}

/// See the module.
struct Transfer {
    session: Session,
    qpair: QueuePair,
    namespace: Namespace,
    lba: u64,
    blocks: u64,
    piece_bytes: usize,
    depth: usize,
    /// In the order of their blocks, which is not that of their completion.
    pieces: VecDeque<Piece>,
    /// How many pieces were taken off the front of `pieces`, and so what a token means.
    taken: u64,
    idle: Vec<DmaBuffer>,
    failure: Option<String>,
    progress: Progress,
}

impl Transfer {
    /// Checks everything, and sets up. `len` is how many bytes there are to write, if that is known.
    fn prepare(args: &TransferArgs, len: Option<u64>) -> Result<Self, Error> {
        // No message does I/O here.
        let options = CtrlrOptions { external_queue_entries: 0, ..CtrlrOptions::default() };
        let mut session = Session::open(&Address::parse(&args.address)?, None, options)?;
        let namespace = session.namespaces(Some(args.ns))?.remove(0);
        let block_bytes = u64::from(namespace.block_bytes);
        let blocks = match (args.blocks, len) {
            (Some(blocks), _) => blocks,
            (None, Some(len)) if len.is_multiple_of(block_bytes) && len > 0 => len / block_bytes,
            (None, Some(len)) => {
                return Err(Error::input(format!(
                    "the file has {len} bytes: expected a multiple of {block_bytes}, the size of a block, or --blocks"
                )));
            }
            (None, None) => namespace.size_blocks.saturating_sub(args.lba).max(1),
        };
        if args.lba.checked_add(blocks).is_none_or(|end| end > namespace.size_blocks) {
            return Err(Error::input(format!(
                "{blocks} blocks from LBA {} on run past the end of namespace {}: expected them below LBA {}",
                args.lba, args.ns, namespace.size_blocks
            )));
        }
        let limits = session.ctrlr.limits().ok_or_else(|| Error::failed("the controller has no limits"))?;
        let deepest = limits.max_queue_entries - 1;
        if !(1..=deepest).contains(&args.queue_depth) {
            return Err(Error::input(format!(
                "queue depth {} is out of range: this controller's queues hold 1 to {deepest} (-q)",
                args.queue_depth
            )));
        }
        let most = (limits.max_transfer_bytes as u64).min(65_536 * block_bytes);
        let piece_bytes = args.io_size.unwrap_or(most / block_bytes * block_bytes);
        if piece_bytes == 0 || piece_bytes > most || !piece_bytes.is_multiple_of(block_bytes) {
            return Err(Error::input(format!(
                "I/O size {piece_bytes} cannot be used: expected a multiple of {block_bytes}, up to {most} bytes (-o)"
            )));
        }
        // No more than there is to do.
        let depth = u64::from(args.queue_depth).min((blocks * block_bytes).div_ceil(piece_bytes)) as usize;
        let entries = (depth as u32 + 1).max(2);
        let qpair = session.poller.queue_pair(&QpairOptions { entries }).map_err(Error::failed)?;
        let piece_bytes = piece_bytes as usize;
        let allocate = |_| session.poller.allocate(piece_bytes);
        let idle = (0..depth).map(allocate).collect::<Result<_, _>>();
        let idle = idle.map_err(|error| Error::input(format!("{error}; expected a smaller -q or -o")))?;
        let total = blocks * block_bytes;
        interrupt::catch()?;
        Ok(Self {
            session,
            qpair,
            namespace,
            lba: args.lba,
            blocks,
            piece_bytes,
            depth,
            pieces: VecDeque::with_capacity(depth),
            taken: 0,
            idle,
            failure: None,
            progress: Progress::new(total),
        })
    }

    fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.namespace.block_bytes)
    }

    /// Reads everything, and gives it to `sink` in order.
    fn read(&mut self, mut sink: impl FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let total = self.bytes();
        let (mut asked, mut given) = (0, 0);
        let mut bytes = vec![0; self.piece_bytes];
        while given < total {
            while asked < total && !self.idle.is_empty() {
                let len = (total - asked).min(self.piece_bytes as u64) as usize;
                self.submit(asked, len, true)?;
                asked += len as u64;
            }
            let len = self.wait_first()?;
            let data = &mut bytes[..len];
            if let Some(buffer) = self.take_first() {
                buffer.read_at(0, data);
                self.idle.push(buffer);
            }
            sink(data)?;
            given += len as u64;
            self.progress.show(given);
        }
        Ok(())
    }

    /// Writes everything that `input` has, and makes it durable.
    fn write(&mut self, input: &mut dyn Read, name: &str) -> Result<(), Error> {
        if identify::is_write_protected(&*identify::namespace_data(&mut self.session, self.namespace.nsid)?) {
            let nsid = self.namespace.nsid;
            return Err(Error::input(format!(
                "namespace {nsid} is read only: expected one that can be written"
            )));
        }
        let total = self.bytes();
        let mut written = 0;
        let mut bytes = vec![0; self.piece_bytes];
        let mut short = None;
        while written < total && short.is_none() {
            if self.idle.is_empty() {
                self.wait_first()?;
                let buffer = self.take_first();
                self.idle.extend(buffer);
            }
            let len = (total - written).min(self.piece_bytes as u64) as usize;
            let got = read_full(input, &mut bytes[..len])
                .map_err(|error| Error::input(format!("cannot read {name}: {error}")))?;
            if got < len {
                short = Some(written + got as u64);
            }
            // Whole blocks of what there is.
            let len = got - got % self.namespace.block_bytes as usize;
            if len == 0 {
                break;
            }
            if let Some(buffer) = self.idle.last() {
                buffer.write_at(0, &bytes[..len]);
            }
            self.submit(written, len, false)?;
            written += len as u64;
            self.progress.show(written);
        }
        while !self.pieces.is_empty() {
            self.wait_first()?;
            self.take_first();
        }
        self.flush()?;
        match short {
            None => Ok(()),
            Some(got) => Err(Error::input(format!(
                "{name} is too short: expected {total} bytes for {} blocks, got {got}; the first {} blocks were written",
                self.blocks,
                written / u64::from(self.namespace.block_bytes)
            ))),
        }
    }

    /// Starts the transfer of `len` bytes, `at` bytes from the first block on.
    fn submit(&mut self, at: u64, len: usize, is_read: bool) -> Result<(), Error> {
        let Some(buffer) = self.idle.pop() else { return Err(Error::failed("a buffer did not come back")) };
        let data = DmaSlice::new(buffer, 0, len).map_err(|(error, _)| Error::failed(error))?;
        let lba = self.lba + at / u64::from(self.namespace.block_bytes);
        let token = self.taken + self.pieces.len() as u64;
        let submitted = if is_read {
            self.qpair.read(&self.namespace, lba, data, token)
        } else {
            self.qpair.write(&self.namespace, lba, data, token)
        };
        submitted.map_err(Error::failed)?;
        self.qpair.commit();
        self.pieces.push_back(Piece { len, data: None });
        debug_assert!(self.pieces.len() <= self.depth);
        Ok(())
    }

    /// Polls until the first piece is over; its length.
    fn wait_first(&mut self) -> Result<usize, Error> {
        let mut deadline = Deadline::new();
        loop {
            match self.pieces.front() {
                Some(Piece { len, data: Some(_) }) => return Ok(*len),
                Some(_) => self.poll()?,
                None => return Err(Error::failed("nothing is in flight that could be waited for")),
            }
            deadline.check()?;
        }
    }

    fn take_first(&mut self) -> Option<DmaBuffer> {
        self.taken += 1;
        self.pieces.pop_front().and_then(|piece| piece.data)
    }

    /// Takes what has completed; the first failure is the transfer's.
    fn poll(&mut self) -> Result<(), Error> {
        if interrupt::came() {
            return Err(Error::failed("interrupted"));
        }
        self.session.poller.poll(Instant::now()).map_err(Error::failed)?;
        let Self { qpair, pieces, taken, failure, .. } = self;
        let polled = qpair.poll(usize::MAX, |completion| {
            if !completion.is_success() {
                let why = match &completion.outcome {
                    Outcome::Completed(completion) => completion.status().to_string(),
                    Outcome::Aborted(aborted) => aborted.to_string(),
                };
                failure.get_or_insert(why);
            }
            let index = completion.token.wrapping_sub(*taken) as usize;
            if let Some(piece) = pieces.get_mut(index) {
                piece.data = completion.data.map(DmaSlice::into_buffer);
            }
        });
        polled.map_err(Error::failed)?;
        match &self.failure {
            Some(why) => Err(Error::failed(format!("the transfer failed: {why}"))),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.qpair.flush(&self.namespace, u64::MAX).map_err(Error::failed)?;
        let mut deadline = Deadline::new();
        while self.qpair.outstanding() > 0 {
            self.poll()?;
            deadline.check()?;
        }
        Ok(())
    }

    /// Waits for what is in flight after a failure, and detaches; the first thing that went wrong counts.
    fn close(self, result: Result<(), Error>) -> Result<(), Error> {
        let Self { session, mut qpair, progress, .. } = self;
        progress.end();
        if result.is_err() {
            // What does not come back stays with the device until it is stopped.
            let _ = qpair.drain(DETACH_TIMEOUT, |_| {});
        }
        drop(qpair);
        let closed = session.close();
        result.and(closed)
    }
}

/// Bounds one wait.
struct Deadline {
    begin: Instant,
    rounds: u32,
}

impl Deadline {
    fn new() -> Self {
        Self { begin: Instant::now(), rounds: 0 }
    }

    fn check(&mut self) -> Result<(), Error> {
        self.rounds += 1;
        if self.rounds.is_multiple_of(256) {
            std::thread::yield_now();
            if self.begin.elapsed() > COMMAND_TIMEOUT {
                return Err(Error::failed("a command did not come back within a minute"));
            }
        }
        Ok(())
    }
}

/// How far it has come, for a person who waits.
struct Progress {
    total: u64,
    begin: Instant,
    shown_at: Instant,
    is_shown: bool,
    is_terminal: bool,
}

impl Progress {
    fn new(total: u64) -> Self {
        let now = Instant::now();
        Self { total, begin: now, shown_at: now, is_shown: false, is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, done: u64) {
        if !self.is_terminal || self.shown_at.elapsed() < PROGRESS {
            return;
        }
        self.shown_at = Instant::now();
        self.is_shown = true;
        let percent = done as f64 * 100.0 / self.total as f64;
        let rate = done as f64 / f64::from(1 << 20) / self.begin.elapsed().as_secs_f64();
        // Progress that nobody can see is no reason to stop.
        let _ = write!(io::stderr(), "\r{percent:5.1} %  {rate:.0} MiB/s ");
    }

    fn end(&self) {
        if self.is_shown {
            let _ = writeln!(io::stderr());
        }
    }
}

/// Fills `bytes` as far as `input` goes.
fn read_full(input: &mut dyn Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
