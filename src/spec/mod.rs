//! `spec`: NVMe on the wire. NVM Express Base Specification 2.0 and NVM Command Set Specification 1.0.
//!
//! Plain data with the specification's names: no access to any device, no policy. What a device says is never an enum: open newtypes keep
//! values that nobody knew when this was written. Zero-based fields keep the mark `_z`.

mod codes;
pub mod command;
pub mod completion;
pub mod feature;
pub mod identify;
pub mod log;
pub mod registers;
pub mod status;
#[cfg(test)]
mod tests;

#[cfg(not(target_endian = "little"))]
compile_error!("NVMe structures are little-endian and are used in place: a big-endian host is not supported");
