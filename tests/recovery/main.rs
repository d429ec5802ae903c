//! What the driver does by itself when the device does wrong: commands that are never answered, controllers that fail, resets that do not succeed. On a device
//! that is stepped, with faults by description and a clock that the test keeps, so that each bound is checked to the millisecond.
//!
//! `world` is the controller with its clock; `late` has commands that take too long, `events` what the controller reports, `faults` one fault after the other,
//! `keep_alive` the sign of life that controllers may ask for, `resets` what is reset and why, `retries` what is sent again, `given_up` what is not, or later,
//! `subsystem` the resets that take the whole device along.
#![allow(unreachable_pub, reason = "a test target exports nothing")]

mod events;
mod faults;
mod given_up;
mod keep_alive;
mod late;
#[path = "../support/meddled.rs"]
mod meddled;
mod resets;
mod retries;
mod subsystem;
mod world;
