//! The rig: one controller attached under one scheme, with its poller, the device that the polling thread steps, and a load of I/O.
//!
//! The polling thread steps the device itself, in all schemes alike: so two cores are enough, and nothing but the scheme differs.
#![forbid(unsafe_code)]

use super::machine::nanoseconds;
use crate::device::Address;
use crate::error::Error;
use crate::latency::Histogram;
use slipring::ctrlr::{Ctrlr, CtrlrOptions, Namespace};
use slipring::dma::DmaSlice;
use slipring::emulated::{self, Device, EmulatedTransport};
use slipring::poller::{PollError, Poller, QpairOptions, QueuePair};
use slipring::ring::Scheme;
use slipring::transport::Transport;
use slipring::transport::vfio::{VfioTransport, install_sigbus_guard};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// I/O commands in flight beside the messages. Few: the device's work runs on the polling core, and would hide what is compared.
const IO_DEPTH: usize = 4;
/// Turns of the poll loop between two looks at the clock and at the device, while no I/O runs.
const DEVICE_PERIOD: u32 = 16;
/// How long attaching and connecting may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// What a polling thread owns.
pub(super) struct Rig<S: Scheme> {
    pub(super) ctrlr: Ctrlr<S>,
    pub(super) poller: Poller<S>,
    pub(super) device: Stepped,
    pub(super) io: IoLoad,
    now: Instant,
    turns: u32,
}

impl<S: Scheme> Rig<S> {
    /// Attaches a new controller, steps it up, and connects a queue pair.
    pub(super) fn attach(address: &Address) -> Result<Self, Error> {
        let (transport, mut device) = open(address)?;
        let mut attach =
            Ctrlr::<S>::begin_attach(transport, CtrlrOptions::default()).map_err(Error::failed)?;
        let ctrlr = loop {
            if let Some(ctrlr) = attach.step(Instant::now()).map_err(Error::failed)? {
                break ctrlr;
            }
            device.step();
        };
        let mut poller = Poller::new(&ctrlr, "compare").map_err(Error::failed)?;
        let options = QpairOptions { entries: 256 };
        let mut qpair = QueuePair::request(&ctrlr, &options).map_err(Error::failed)?;
        let started = Instant::now();
        while !qpair.connected().map_err(Error::failed)? {
            poller.poll(Instant::now()).map_err(Error::failed)?;
            device.step();
            if started.elapsed() > DEADLINE {
                return Err(Error::failed("the queue pair was not connected within 10 s"));
            }
        }
        let io = IoLoad::new(&ctrlr, qpair)?;
        Ok(Self { ctrlr, poller, device, io, now: started, turns: 0 })
    }

    /// One turn of the polling thread while messages are alone.
    #[inline(always)]
    pub(super) fn turn(&mut self) -> Result<usize, PollError> {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(DEVICE_PERIOD) {
            self.now = Instant::now();
            self.device.step();
        }
        self.poller.poll(self.now)
    }

    /// One turn of the polling thread while I/O runs.
    #[inline(always)]
    pub(super) fn turn_with_io(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.poller.poll(now).map_err(Error::failed)?;
        self.io.turn(now)?;
        self.device.step();
        Ok(())
    }

    /// Lets nothing be in flight that the next measurement would see.
    pub(super) fn quiesce(&mut self) -> Result<(), Error> {
        let started = Instant::now();
        while self.io.qpair.outstanding() > 0 {
            self.io.reap(Instant::now())?;
            self.device.step();
            if started.elapsed() > DEADLINE {
                return Err(Error::failed("I/O did not come to its end within 10 s"));
            }
        }
        for _ in 0..64 {
            self.poller.poll(Instant::now()).map_err(Error::failed)?;
            self.device.step();
        }
        Ok(())
    }
}

/// The far side of the transport: an emulated device, which is stepped here, or a real one, which needs no help.
pub(super) struct Stepped(Option<(Device, Arc<EmulatedTransport>)>);

impl Stepped {
    /// Lets an emulated device do what is due.
    #[inline(always)]
    pub(super) fn step(&mut self) {
        if let Some((device, _)) = &mut self.0 {
            device.step();
        }
    }

    /// The rules of NVMe that the driver broke, as far as the device tells.
    pub(super) fn violations(&self) -> Vec<String> {
        self.0.as_ref().map(|(_, transport)| transport.violations()).unwrap_or_default()
    }
}

fn open(address: &Address) -> Result<(Arc<dyn Transport>, Stepped), Error> {
    match address {
        Address::Emulated(config) => {
            let (transport, device) = emulated::new((**config).clone()).map_err(Error::input)?;
            Ok((transport.clone(), Stepped(Some((device, transport)))))
        }
        Address::Pci(address) => {
            install_sigbus_guard().map_err(Error::input)?;
            Ok((VfioTransport::open(*address).map_err(Error::input)?, Stepped(None)))
        }
    }
}

/// Reads of one block each on one queue pair, a constant number in flight.
pub(super) struct IoLoad {
    qpair: QueuePair,
    namespace: Namespace,
    idle: Vec<(usize, DmaSlice)>,
    submitted: [Instant; IO_DEPTH],
    lba: u64,
    /// How many were completed.
    pub(super) done: u64,
    /// Their latencies, from the turn that submitted to the turn that saw the completion.
    pub(super) latency: Histogram,
}

impl IoLoad {
    fn new<S: Scheme>(ctrlr: &Ctrlr<S>, qpair: QueuePair) -> Result<Self, Error> {
        let namespace =
            ctrlr.namespaces().first().copied().ok_or_else(|| {
                Error::input("the controller has no namespace to read from; compare needs one")
            })?;
        let idle = (0..IO_DEPTH)
            .map(|index| {
                let buffer = ctrlr.allocate(namespace.block_bytes as usize).map_err(Error::failed)?;
                Ok((index, DmaSlice::from(buffer)))
            })
            .collect::<Result<_, Error>>()?;
        let submitted = [Instant::now(); IO_DEPTH];
        Ok(Self { qpair, namespace, idle, submitted, lba: 0, done: 0, latency: Histogram::new() })
    }

    /// Forgets what was measured.
    pub(super) fn clear(&mut self) {
        self.done = 0;
        self.latency = Histogram::new();
    }

    /// Takes completions and submits as many anew.
    #[inline(always)]
    fn turn(&mut self, now: Instant) -> Result<(), Error> {
        self.reap(now)?;
        while let Some((index, data)) = self.idle.pop() {
            self.submitted[index] = now;
            self.lba = (self.lba + 1) % self.namespace.size_blocks;
            let sent = self.qpair.read(&self.namespace, self.lba, data, index as u64);
            sent.map_err(Error::failed)?;
        }
        self.qpair.commit();
        Ok(())
    }

    #[inline(always)]
    fn reap(&mut self, now: Instant) -> Result<(), Error> {
        let Self { qpair, idle, submitted, done, latency, .. } = self;
        let mut failed = None;
        let reaped = qpair.poll(IO_DEPTH, |completion| {
            let index = completion.token as usize;
            latency.record(nanoseconds(now.saturating_duration_since(submitted[index])));
            *done += 1;
            if !completion.is_success() {
                failed = Some(Error::failed(format!("a read failed: {:?}", completion.outcome)));
            }
            idle.extend(completion.data.map(|data| (index, data)));
        });
        reaped.map_err(Error::failed)?;
        failed.map_or(Ok(()), Err)
    }
}
