//! From an address to a device that runs, and to a controller that is attached to it. For now devices are emulated, in this process.
#![forbid(unsafe_code)]

use crate::error::Error;
use slipring::ctrlr::{Ctrlr, CtrlrOptions, Namespace};
use slipring::emulated::{self, Backing, Config, DeviceThread, EmulatedTransport};
use slipring::poller::Poller;
use slipring::ring::{LockFree, Scheme};
use std::sync::Arc;
use std::time::Duration;

/// How long a detach may take: the device gets half of it for its goodbye.
pub(crate) const DETACH_TIMEOUT: Duration = Duration::from_secs(20);

/// What an address can be.
pub(crate) const ACCEPTED: &str = "\"emulated\" or \"emulated:key=value,...\", such as emulated:size=1G,lba=4096 (`slipring list` says more)";

/// A device that runs on a thread of its own, which stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Device {
    /// The way to it.
    pub(crate) transport: Arc<EmulatedTransport>,
    /// All of its namespaces are in memory, and gone with this.
    pub(crate) is_volatile: bool,
    _thread: DeviceThread,
}

/// Reads an address, without making anything.
pub(crate) fn parse(address: &str) -> Result<Config, Error> {
    if emulated::address::is_emulated(address) {
        return emulated::address::parse(address).map_err(Error::input);
    }
    if is_pci(address) {
        return Err(Error::input(format!(
            "{address} is a PCI address, and PCI devices cannot be opened yet: expected {ACCEPTED}"
        )));
    }
    Err(Error::input(format!("{address:?} is no device address: expected {ACCEPTED}")))
}

impl Device {
    /// Makes the device that `address` describes and runs it, pinned to `core` if one is given.
    pub(crate) fn open(address: &str, core: Option<usize>) -> Result<Self, Error> {
        Self::start(parse(address)?, core)
    }

    /// Makes the device that `config` describes and runs it, pinned to `core` if one is given.
    pub(crate) fn start(config: Config, core: Option<usize>) -> Result<Self, Error> {
        let is_volatile = config.namespaces.iter().all(|namespace| namespace.backing == Backing::Ram);
        let (transport, device) = emulated::new(config).map_err(Error::input)?;
        let thread = device.spawn(core);
        let thread =
            thread.map_err(|error| Error::input(format!("cannot start the device's thread: {error}")))?;
        Ok(Self { transport, is_volatile, _thread: thread })
    }

    /// Attaches a controller under publication scheme `S`.
    pub(crate) fn attach<S: Scheme>(&self, options: CtrlrOptions) -> Result<Ctrlr<S>, Error> {
        Ctrlr::attach(self.transport.clone(), options).map_err(Error::failed)
    }
}

/// A device with a controller attached and polled by the calling thread: what most subcommands work with.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) poller: Poller<LockFree>,
    pub(crate) ctrlr: Ctrlr<LockFree>,
    /// Last, so that it outlives the controller.
    pub(crate) device: Device,
}

impl Session {
    /// Opens `address` and attaches.
    pub(crate) fn open(address: &str, core: Option<usize>, options: CtrlrOptions) -> Result<Self, Error> {
        let device = Device::open(address, core)?;
        let ctrlr = device.attach(options)?;
        let poller = Poller::new(&ctrlr, "main").map_err(Error::failed)?;
        Ok(Self { poller, ctrlr, device })
    }

    /// Namespace `nsid`, or all active ones; each fit for I/O.
    pub(crate) fn namespaces(&self, nsid: Option<u32>) -> Result<Vec<Namespace>, Error> {
        let active = self.ctrlr.namespaces();
        let known = active.iter().map(|namespace| namespace.nsid.to_string()).collect::<Vec<_>>().join(", ");
        if active.is_empty() {
            return Err(Error::input("the controller has no active namespace: expected one at least"));
        }
        let is_chosen = |namespace: &&Namespace| nsid.is_none_or(|nsid| namespace.nsid == nsid);
        let chosen: Vec<Namespace> = active.iter().filter(is_chosen).copied().collect();
        if let (Some(nsid), true) = (nsid, chosen.is_empty()) {
            return Err(Error::input(format!(
                "there is no active namespace {nsid}: expected one of {known} (--ns)"
            )));
        }
        for namespace in &chosen {
            if let Some(why) = namespace.unsupported {
                return Err(Error::input(format!("namespace {} cannot be used: {why}", namespace.nsid)));
            }
        }
        Ok(chosen)
    }

    /// Detaches. A driver's fault that the device noticed on the way is an error.
    pub(crate) fn close(self) -> Result<(), Error> {
        let Self { poller, ctrlr, device } = self;
        poller.detach(DETACH_TIMEOUT).map_err(Error::failed)?;
        drop(ctrlr);
        match device.transport.violations().first() {
            None => Ok(()),
            Some(violation) => Err(Error::failed(format!("the driver broke a rule of NVMe: {violation}"))),
        }
    }
}

/// Whether `address` looks like `0000:01:00.0` or `01:00.0`.
fn is_pci(address: &str) -> bool {
    let is_hex = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let Some((rest, function)) = address.rsplit_once('.') else { return false };
    let parts: Vec<&str> = rest.split(':').collect();
    let bus_device = match parts.as_slice() {
        [domain, bus, device] if is_hex(domain, 4) => [*bus, *device],
        [bus, device] => [*bus, *device],
        _ => return false,
    };
    is_hex(function, 1) && bus_device.iter().all(|part| is_hex(part, 2))
}
