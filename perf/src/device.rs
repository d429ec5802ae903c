//! From an address to a device that is open, and to a controller that is attached to it.
#![forbid(unsafe_code)]

use crate::error::Error;
use slipring::ctrlr::{Ctrlr, CtrlrOptions, Namespace};
use slipring::emulated::{self, Backing, Config, DeviceThread, EmulatedTransport};
use slipring::poller::Poller;
use slipring::ring::{LockFree, Scheme};
use slipring::transport::Transport;
use slipring::transport::vfio::{PciAddress, VfioTransport, install_sigbus_guard};
use std::sync::Arc;
use std::time::Duration;

/// How long a detach may take: the device gets half of it for its goodbye.
pub(crate) const DETACH_TIMEOUT: Duration = Duration::from_secs(20);

/// What an address can be.
pub(crate) const ACCEPTED: &str = "a PCI address such as 0000:01:00.0, or \"emulated\" or \"emulated:key=value,...\", such as emulated:size=1G,lba=4096 (`slipring list` says more)";

/// What an address names.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    /// A controller in this process.
    Emulated(Box<Config>),
    /// A PCI device.
    Pci(PciAddress),
}

/// A device that is open; an emulated one runs on a thread of its own, which stops when this is dropped.
#[derive(Debug)]
pub(crate) struct Device {
    transport: Arc<dyn Transport>,
    /// All of its namespaces are in memory, and gone with this.
    pub(crate) is_volatile: bool,
    emulated: Option<(Arc<EmulatedTransport>, DeviceThread)>,
}

impl Address {
    /// Reads an address, without opening anything.
    pub(crate) fn parse(address: &str) -> Result<Self, Error> {
        if emulated::address::is_emulated(address) {
            return emulated::address::parse(address).map(Box::new).map(Self::Emulated).map_err(Error::input);
        }
        match address.parse() {
            Ok(address) => Ok(Self::Pci(address)),
            Err(_) => Err(Error::input(format!("{address:?} is no device address: expected {ACCEPTED}"))),
        }
    }

    /// How many namespaces to expect: as many as are described, or several on a device that has to be asked.
    pub(crate) fn namespaces(&self) -> u64 {
        match self {
            Self::Emulated(config) => (config.namespaces.len() as u64).max(1),
            Self::Pci(_) => 4,
        }
    }

    /// As [`Address::parse`], for what PCI devices alone can do.
    pub(crate) fn parse_pci(address: &str) -> Result<PciAddress, Error> {
        address.parse().map_err(Error::input)
    }
}

impl Device {
    /// Opens the device; one that is emulated runs pinned to `core` if one is given.
    pub(crate) fn open(address: &Address, core: Option<usize>) -> Result<Self, Error> {
        match address {
            Address::Emulated(config) => Self::start((**config).clone(), core),
            Address::Pci(address) => {
                // Pulled out under us, a doorbell would raise SIGBUS: report that, instead of dying of it.
                install_sigbus_guard().map_err(Error::input)?;
                let transport = VfioTransport::open(*address).map_err(Error::input)?;
                Ok(Self { transport, is_volatile: false, emulated: None })
            }
        }
    }

    fn start(config: Config, core: Option<usize>) -> Result<Self, Error> {
        let is_volatile = config.namespaces.iter().all(|namespace| namespace.backing == Backing::Ram);
        let (transport, device) = emulated::new(config).map_err(Error::input)?;
        let thread = device.spawn(core);
        let thread =
            thread.map_err(|error| Error::input(format!("cannot start the device's thread: {error}")))?;
        Ok(Self { transport: transport.clone(), is_volatile, emulated: Some((transport, thread)) })
    }

    /// The rules of NVMe that the driver broke, as far as the device noticed; real ones do not tell.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.emulated.as_ref().map(|(transport, _)| transport.violations()).unwrap_or_default()
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
    pub(crate) fn open(address: &Address, core: Option<usize>, options: CtrlrOptions) -> Result<Self, Error> {
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
        match device.violations().first() {
            None => Ok(()),
            Some(violation) => Err(Error::failed(format!("the driver broke a rule of NVMe: {violation}"))),
        }
    }
}
