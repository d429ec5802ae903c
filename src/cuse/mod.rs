//! `cuse`: controllers as character devices. `/dev/slipring/nvme0` and `/dev/slipring/nvme0n1` take the ioctls of Linux's own NVMe nodes, so that `nvme-cli`,
//! `smartctl` and libnvme work on a controller while an application polls it. docs/CUSE.md says what they can and cannot do.
//!
//! ```no_run
//! use slipring::cuse::{DevCuse, ServeOptions, Server};
//! # fn serve(ctrlr: &slipring::ctrlr::Ctrlr) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! let server = Server::start(DevCuse::new()?)?;
//! let served = server.serve(ctrlr, &ServeOptions::default())?;      // while another thread polls the controller
//! println!("{:?}", served.nodes());                                 // ["nvme0", "nvme0n1"]
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//! One thread serves all nodes of a process. It never blocks: a node that is not read leaves its clients in uninterruptible sleep, so nothing it does waits for
//! a poller, a device or another client. What an ioctl asks becomes a message to the controller; its outcome arrives in a mailbox, which costs the poller a store
//! and no system call (`requests` says how it is noticed); the answer is written by this thread. The client's memory is reached by what CUSE carries (128 KiB), and
//! beyond that by `process_vm_readv` and its counterpart, while the client is blocked in the very ioctl.
//!
//! # What it does not trust
//! Its clients. Every length is checked against a copy that they cannot change any more; a command that would let the device move more than its buffer holds is
//! refused; each has a buffer of its own, zeroed. Commands that would pull the ground from under the driver are the controller's to refuse, and it does.
//!
//! # Map
//! `wire`, `ioctls`: the kernel's structures. `caller`: descriptors and other processes' memory, the only `unsafe`. `request`, `passthru`, `blk`: an ioctl from
//! round to round, decided without doing anything; `policy` and `lengths` are what they ask. `host`, `node`: nodes as files. `requests`: what is in flight.
//! `unit`: one controller's nodes. `server`: the thread.

mod blk;
mod caller;
mod host;
pub mod ioctls;
mod lengths;
mod node;
mod passthru;
mod policy;
mod request;
mod requests;
mod server;
#[cfg(test)]
mod tests;
mod unit;
pub mod wire;

pub use host::{Access, DevCuse, FOLDER, Host, path};
pub use policy::{Operation, Policy, PolicyRequest, Verdict};
pub use server::{ServeError, ServeOptions, Served, Server};
