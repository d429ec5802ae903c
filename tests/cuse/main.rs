//! Controllers as character devices, over a stand-in for the kernel's CUSE: every ioctl against an emulated controller, clients that lie, signals, resets,
//! namespaces that come and go, and the end of a controller with ioctls in flight.
//!
//! `kernel` is the stand-in, `rig` a served controller, `ioctls` what works, `hostile` what does not, `lifecycle` the rest, `fuzz` arbitrary messages, `beside` what a poller notices.
#![expect(unreachable_pub, reason = "a test target exports nothing")]
#![expect(clippy::similar_names, reason = "server and served are what they are")]

mod beside;
mod fuzz;
mod hostile;
mod ioctls;
mod kernel;
mod lifecycle;
mod rig;
#[path = "../support/mod.rs"]
mod support;
