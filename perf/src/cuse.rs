//! `slipring cuse`: serves controllers as character devices until a signal comes.
#![forbid(unsafe_code)]

use crate::device::{Address, DETACH_TIMEOUT, Device};
use crate::error::Error;
use crate::interrupt;
use slipring::ctrlr::{Ctrlr, CtrlrOptions, CtrlrState};
use slipring::cuse::{Access, DevCuse, ServeOptions, Served, Server, path};
use slipring::poller::{PollError, Poller, pin_to_core};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the nodes of one controller may take to go: their clients have a second, and are then answered without an outcome.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(5);
/// How often signals and controllers are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What to serve, and to whom.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The nodes take the ioctls of the kernel's own: nvme id-ctrl /dev/slipring/nvme0. Needs /dev/cuse, and so root.\n\
    Examples:\n  slipring cuse emulated:size=64M\n  slipring cuse 0000:01:00.0 --read-only --group disk --mode 640\n  \
    slipring cuse 0000:01:00.0 0000:02:00.0 --core 1 --poll-interval 0"
)]
pub(crate) struct CuseArgs {
    /// Addresses of devices, as in `slipring list`
    #[arg(value_name = "ADDR", required = true)]
    addresses: Vec<String>,
    /// Name of the controller's node below /dev/slipring; the first free one, nvme0 and up, if none is given
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Pin the polling thread to this core
    #[arg(long, value_name = "N")]
    core: Option<usize>,
    /// Microseconds that the polling thread sleeps when nothing has happened; 0 never sleeps
    #[arg(long, value_name = "US", default_value_t = 100)]
    poll_interval: u64,
    /// Refuse everything that changes anything: for monitoring
    #[arg(long)]
    read_only: bool,
    /// Permissions of the nodes, in octal
    #[arg(long, value_name = "MODE", default_value = "600")]
    mode: String,
    /// Group of the nodes, by name or number
    #[arg(long, value_name = "GROUP")]
    group: Option<String>,
}

/// One controller that is served. The fields go in this order.
struct Item {
    served: Option<Served>,
    ctrlr: Ctrlr,
    address: String,
    device: Device,
}

/// Serves until SIGINT or SIGTERM, or until no controller is left.
pub(crate) fn run(args: &CuseArgs) -> Result<ExitCode, Error> {
    let options = serve_options(args)?;
    let addresses: Vec<_> =
        args.addresses.iter().map(|address| Address::parse(address)).collect::<Result<_, _>>()?;
    if args.name.is_some() && addresses.len() > 1 {
        return Err(Error::input(
            "--name is for one controller: expected one address beside it, or no --name",
        ));
    }
    let host = DevCuse::new().map_err(Error::input)?;
    interrupt::catch()?;
    let mut items = Vec::new();
    let mut pollers = Vec::new();
    for (address, text) in addresses.iter().zip(&args.addresses) {
        let device = Device::open(address, None)?;
        let ctrlr: Ctrlr = device.attach(CtrlrOptions::default())?;
        pollers.push(Poller::new(&ctrlr, "cuse").map_err(Error::failed)?);
        items.push(Item { served: None, ctrlr, address: text.clone(), device });
    }
    let polling = Polling::start(pollers, args.core, Duration::from_micros(args.poll_interval))?;
    let server = Server::start(host).map_err(|error| Error::failed(format!("no server: {error}")))?;
    let result = serve(&server, &mut items, &options);
    let ended = end(server, items, polling);
    result.and(ended)
}

fn serve_options(args: &CuseArgs) -> Result<ServeOptions, Error> {
    let mode = u32::from_str_radix(&args.mode, 8).ok().filter(|mode| *mode <= 0o777);
    let mode = mode.ok_or_else(|| {
        Error::input(format!(
            "mode {:?} cannot be used: expected octal digits, such as 640 (--mode)",
            args.mode
        ))
    })?;
    let gid = args.group.as_deref().map(group_id).transpose()?;
    Ok(ServeOptions {
        name: args.name.clone(),
        access: Access { mode, uid: None, gid },
        is_read_only: args.read_only,
        policy: None,
    })
}

/// A group's number, which may be given itself.
fn group_id(group: &str) -> Result<u32, Error> {
    if let Ok(id) = group.parse() {
        return Ok(id);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let mut fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.first() == Some(&group));
    let id = found.and_then(|fields| fields.get(2)?.parse().ok());
    id.ok_or_else(|| {
        Error::input(format!("there is no group {group:?}: expected a name of /etc/group, or a number"))
    })
}

/// Makes the nodes, says which, and waits for the end.
fn serve(server: &Server, items: &mut [Item], options: &ServeOptions) -> Result<ExitCode, Error> {
    let mut text = String::new();
    for item in items.iter_mut() {
        let nodes = server.serve(&item.ctrlr, options).map_err(Error::input)?;
        for node in nodes.nodes() {
            let _ = writeln!(text, "{}\t{}", path(&node).display(), item.address);
        }
        item.served = Some(nodes);
    }
    crate::print(&text)?;
    loop {
        if interrupt::came() {
            return Ok(ExitCode::SUCCESS);
        }
        let is_alive = |item: &Item| {
            matches!(item.ctrlr.state(), CtrlrState::Attaching | CtrlrState::Live | CtrlrState::Resetting)
        };
        if !items.iter().any(is_alive) {
            let why = items.iter().find_map(|item| item.ctrlr.failure());
            return Err(Error::failed(match why {
                Some(failure) => format!("no controller is left: {failure}"),
                None => "no controller is left: the system asked for the device".to_owned(),
            }));
        }
        std::thread::sleep(LOOK);
    }
}

/// Takes everything down: the nodes first, then the controllers, then the devices.
fn end(server: Server, items: Vec<Item>, polling: Polling) -> Result<ExitCode, Error> {
    let withdrawing: Vec<_> = items
        .into_iter()
        .map(|mut item| {
            let nodes = item.served.take();
            (nodes.map(|nodes| std::thread::spawn(move || nodes.withdraw(WITHDRAW_TIMEOUT))), item)
        })
        .collect();
    let mut result = Ok(ExitCode::SUCCESS);
    let mut left = Vec::new();
    for (thread, item) in withdrawing {
        if thread.is_some_and(|thread| !thread.join().unwrap_or(false)) {
            result = Err(Error::failed(format!("the nodes of {} did not go in time", item.address)));
        }
        left.push(item);
    }
    drop(server);
    for item in &left {
        // The polling thread leaves each controller as it is detached.
        if let Err(error) = item.ctrlr.detach(DETACH_TIMEOUT) {
            result = Err(Error::failed(format!("{}: {error}", item.address)));
        }
        if let Some(violation) = item.device.violations().first() {
            result = Err(Error::failed(format!("the driver broke a rule of NVMe: {violation}")));
        }
    }
    polling.stop();
    result
}

/// The thread that polls all controllers.
struct Polling {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Polling {
    fn start(mut pollers: Vec<Poller>, core: Option<usize>, interval: Duration) -> Result<Self, Error> {
        if let Some(core) = core {
            let usable = slipring::poller::core_ids();
            if !usable.contains(&core) {
                return Err(Error::input(format!(
                    "there is no core {core}: this process may use {usable:?} (--core)"
                )));
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("slipring-poll".into()).spawn(move || {
            if let Some(core) = core {
                // It exists; a system that refuses all the same has its reasons, and only speed is lost.
                let _ = pin_to_core(core);
            }
            // Relaxed: nothing but the flag is told.
            while !told.load(Ordering::Relaxed) {
                let now = Instant::now();
                let mut events = 0;
                pollers.retain_mut(|poller| match poller.poll(now) {
                    Ok(count) => {
                        events += count;
                        true
                    }
                    // Messages of a failed controller are answered by polling on.
                    Err(PollError::Failed(_)) => true,
                    Err(_) => false,
                });
                if events == 0 && !interval.is_zero() {
                    std::thread::sleep(interval);
                }
            }
        });
        let thread =
            thread.map_err(|error| Error::failed(format!("cannot start the polling thread: {error}")))?;
        Ok(Self { stop, thread })
    }

    fn stop(self) {
        // Relaxed: as above.
        self.stop.store(true, Ordering::Relaxed);
        // Nothing to be done about one that panicked: its controllers are detached.
        let _ = self.thread.join();
    }
}
