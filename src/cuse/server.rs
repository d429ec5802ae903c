//! The server: one thread for all nodes of a process, and the handle by which others tell it what to serve.
#![forbid(unsafe_code)]

use super::host::{Access, Host};
use super::node::World;
use super::policy::Policy;
use super::unit::Unit;
use crate::ctrlr::{Ctrlr, Producer, RegisterError};
use crate::ring::LockFree;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Below that the kernel gives no message at all: the longest ioctl, with room for its headers.
const BUFFER_BYTES: usize = super::wire::MAX_CARRIED + 8192;
/// How often the server looks at its controllers while nobody asks anything: how late it may notice that one is detached, or has other namespaces.
const LOOK: Duration = Duration::from_millis(50);
/// How long nodes may take to be made, or to go.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names that are tried one after the other.
const MAX_INDEX: u32 = 1024;
/// The wake-up's place among the descriptors.
const WAKE: u64 = 0;

/// How a controller is served. `ServeOptions::default()` is for root alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServeOptions {
    /// The controller's node, below /dev/slipring: `nvme7`, whose namespaces are `nvme7n1` and so on. The first free one if none is given, beside
    /// those of the kernel's own driver.
    pub name: Option<String>,
    /// Who may open the nodes.
    pub access: Access,
    /// Nothing that changes anything: for monitoring.
    pub is_read_only: bool,
    /// The embedder's own word on who may do what; without one, it is as with Linux's nodes.
    pub policy: Option<Policy>,
}

/// Why a controller is not served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The name is no name of a controller.
    #[error("{name:?} is no name for a controller's node: expected nvme and a number, such as nvme7")]
    BadName {
        /// What was given.
        name: String,
    },
    /// Somebody has a node of that name.
    #[error("the name {name} is taken (by the kernel's driver, or another server); choose another, or none")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The controller takes no messages of the server's.
    #[error("the controller takes no messages: {0}")]
    Register(#[from] RegisterError),
    /// No line to the kernel, or no thread.
    #[error("no node could be made: {0}")]
    Io(#[from] io::Error),
    /// The kernel did not ask for the node's properties, or the server has ended.
    #[error("the node was not made within {} s", PATIENCE.as_secs())]
    Deadline,
}

/// What the server's thread tells.
#[derive(Clone, Debug, Default)]
struct Report {
    is_settled: bool,
    is_serving: bool,
    nodes: Vec<String>,
}

enum Order {
    Serve { id: u64, name: String, ctrlr: Ctrlr, producer: Producer<LockFree>, options: ServeOptions },
    Withdraw(u64),
    Stop,
}

#[derive(Default)]
struct Desk {
    orders: Vec<Order>,
    reports: HashMap<u64, Report>,
    errors: HashMap<u64, io::Error>,
    next_unit: u64,
    is_over: bool,
}

/// What the server's thread and its handles share. A plain mutex, never held across a wait for anybody else; no poller knows of it.
struct Shared {
    desk: Mutex<Desk>,
    changed: Condvar,
    wake: OwnedFd,
    host: Mutex<HostView>,
}

/// Answers whether a name is taken, on the caller's thread.
type HostView = Box<dyn Fn(&str) -> bool + Send>;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        self.lock().orders.push(order);
        // Fails only when it is signalled 2^64 times over.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Waits until `ready` has something to say, at most for `timeout`.
    fn wait<T>(&self, timeout: Duration, mut ready: impl FnMut(&mut Desk) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut desk = self.lock();
        loop {
            if let Some(value) = ready(&mut desk) {
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || desk.is_over {
                return None;
            }
            desk = self.changed.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Serves controllers as character devices. Any thread may use it; one for a process is enough.
///
/// Dropping it takes all nodes down, within a second or so.
pub struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server's thread.
    ///
    /// # Errors
    /// When there are no descriptors, or no thread, to be had.
    pub fn start(host: impl Host + Clone + 'static) -> io::Result<Self> {
        let view = host.clone();
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk { next_unit: 1, ..Desk::default() }),
            changed: Condvar::new(),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            host: Mutex::new(Box::new(move |name| view.is_taken(name))),
        });
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let world = World { epoll, host: Box::new(host), next_id: WAKE + 1 };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("slipring-cuse".into());
        let thread = thread.spawn(move || Loop { shared: theirs, world, units: Vec::new() }.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Serves a controller: makes a node for it, and one for each of its namespaces. Returns when they are there. Somebody has to poll the controller.
    ///
    /// The nodes go when what is returned is dropped or [withdrawn](Served::withdraw), and when the controller is detached or has failed; each ioctl in flight is
    /// answered before.
    pub fn serve(&self, ctrlr: &Ctrlr, options: &ServeOptions) -> Result<Served, ServeError> {
        let is_name = |name: &str| {
            name.strip_prefix("nvme").is_some_and(|index| {
                !index.is_empty() && index.len() <= 6 && index.bytes().all(|b| b.is_ascii_digit())
            })
        };
        if let Some(name) = &options.name {
            if !is_name(name) {
                return Err(ServeError::BadName { name: name.clone() });
            }
            return self.serve_as(ctrlr, name, options);
        }
        let mut taken = String::new();
        for index in 0..MAX_INDEX {
            let name = format!("nvme{index}");
            match self.serve_as(ctrlr, &name, options) {
                // Another server may have been faster.
                Err(ServeError::NameTaken { name }) => taken = name,
                other => return other,
            }
        }
        Err(ServeError::NameTaken { name: taken })
    }

    fn serve_as(&self, ctrlr: &Ctrlr, name: &str, options: &ServeOptions) -> Result<Served, ServeError> {
        let is_taken = {
            let host = self.shared.host.lock().unwrap_or_else(PoisonError::into_inner);
            host(name)
        };
        if is_taken {
            return Err(ServeError::NameTaken { name: name.to_owned() });
        }
        let id = {
            let mut desk = self.shared.lock();
            desk.next_unit += 1;
            desk.next_unit
        };
        // One of an earlier service of that name may be registered still.
        let registered = format!("cuse {name} #{id}");
        let producer = ctrlr.register(&registered)?;
        let served = Served {
            shared: Arc::clone(&self.shared),
            id,
            name: name.to_owned(),
            registered,
            ctrlr: ctrlr.clone(),
        };
        let (name, ctrlr, options) = (name.to_owned(), ctrlr.clone(), options.clone());
        self.shared.order(Order::Serve { id, name: name.clone(), ctrlr, producer, options });
        let settled = self.shared.wait(PATIENCE, |desk| {
            if let Some(error) = desk.errors.remove(&id) {
                return Some(Err(ServeError::Io(error)));
            }
            let report = desk.reports.get(&id).filter(|report| report.is_settled)?;
            Some(if report.is_serving { Ok(()) } else { Err(ServeError::NameTaken { name: name.clone() }) })
        });
        match settled.unwrap_or(Err(ServeError::Deadline)) {
            Ok(()) => Ok(served),
            Err(error) => {
                served.withdraw(PATIENCE);
                Err(error)
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            // It ends by itself; if it panicked, its lines are closed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// A controller that is being served. Dropping it asks for the nodes to go, and does not wait for that.
pub struct Served {
    shared: Arc<Shared>,
    id: u64,
    name: String,
    registered: String,
    ctrlr: Ctrlr,
}

impl Served {
    /// The controller's node, such as `nvme0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The nodes that there are now, the controller's first; none when all is over.
    pub fn nodes(&self) -> Vec<String> {
        self.shared.lock().reports.get(&self.id).map(|report| report.nodes.clone()).unwrap_or_default()
    }

    /// Takes the nodes down: their names are gone when this has begun, each ioctl in flight is answered, the lines to the kernel are closed. Commands in
    /// flight have a second to end by themselves. True when all that is done; false if not within `timeout`, in which case it goes on.
    pub fn withdraw(self, timeout: Duration) -> bool {
        self.shared.order(Order::Withdraw(self.id));
        let is_done = self.wait_gone(timeout);
        // The ring is the last thing of ours that the controller has; it may be gone with the controller.
        let _ = self.ctrlr.unregister(&self.registered, timeout);
        is_done
    }

    /// Waits until all nodes are gone, at most for `timeout`: after a detach, say.
    pub fn wait_gone(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout, |desk| (!desk.reports.contains_key(&self.id)).then_some(())).is_some()
            || self.shared.lock().is_over
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.order(Order::Withdraw(self.id));
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The server's thread.
struct Loop {
    shared: Arc<Shared>,
    world: World,
    units: Vec<Unit>,
}

impl Loop {
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut is_stopping = false;
        loop {
            let now = Instant::now();
            is_stopping |= self.take_orders(now);
            for unit in &mut self.units {
                unit.tick(&mut self.world, now);
            }
            self.units.retain(|unit| !unit.is_over());
            self.report();
            if is_stopping && self.units.is_empty() {
                break;
            }
            self.wait(&mut buffer);
        }
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }

    /// Does what was ordered; true if the end was.
    fn take_orders(&mut self, now: Instant) -> bool {
        let orders = std::mem::take(&mut self.shared.lock().orders);
        let mut is_stopping = false;
        for order in orders {
            match order {
                Order::Serve { id, name, ctrlr, producer, options } => {
                    match Unit::new(id, name, ctrlr, producer, options, &mut self.world) {
                        Ok(unit) => self.units.push(unit),
                        Err(error) => {
                            self.shared.lock().errors.insert(id, error);
                            self.shared.changed.notify_all();
                        }
                    }
                }
                Order::Withdraw(id) => {
                    for unit in self.units.iter_mut().filter(|unit| unit.id == id) {
                        unit.leave(&mut self.world, now);
                    }
                }
                Order::Stop => {
                    is_stopping = true;
                    self.units.iter_mut().for_each(|unit| unit.leave(&mut self.world, now));
                }
            }
        }
        is_stopping
    }

    /// Says how things are, if they have changed.
    fn report(&self) {
        use super::node::NodeState;
        let mut desk = self.shared.lock();
        let mut has_changed = false;
        for unit in &self.units {
            let is_live = |node: &&super::node::Node| node.state == NodeState::Live;
            let live = || unit.nodes.iter().filter(is_live);
            let (is_settled, is_serving) = (unit.is_settled(), unit.is_serving());
            let is_same = desk.reports.get(&unit.id).is_some_and(|report| {
                (report.is_settled, report.is_serving) == (is_settled, is_serving)
                    && report.nodes.iter().eq(live().map(|node| &node.name))
            });
            if !is_same {
                let nodes = live().map(|node| node.name.clone()).collect();
                desk.reports.insert(unit.id, Report { is_settled, is_serving, nodes });
                has_changed = true;
            }
        }
        let before = desk.reports.len();
        desk.reports.retain(|id, _| self.units.iter().any(|unit| unit.id == *id));
        if has_changed || desk.reports.len() != before {
            self.shared.changed.notify_all();
        }
    }

    /// Sleeps until the kernel, an outcome or an order needs to be looked at, and handles what the kernel sent.
    fn wait(&mut self, buffer: &mut [u8]) {
        let now = Instant::now();
        let sleep = self.units.iter().filter_map(|unit| unit.sleep(now)).min().unwrap_or(LOOK).min(LOOK);
        let timeout = Timespec { tv_sec: 0, tv_nsec: sleep.subsec_nanos().into() };
        // epoll's own time-outs are in milliseconds on older kernels; poll's are not.
        let mut readable = [PollFd::new(&self.world.epoll, PollFlags::IN)];
        if !matches!(poll(&mut readable, Some(&timeout)), Ok(1..)) {
            return;
        }
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 64];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let Ok(count) = epoll::wait(&self.world.epoll, &mut events, Some(&at_once)) else { return };
        let now = Instant::now();
        for event in &events[..count] {
            let id = event.data.u64();
            if id == WAKE {
                let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
                continue;
            }
            for unit in &mut self.units {
                unit.serve(id, &mut self.world, buffer, now);
            }
        }
    }
}
