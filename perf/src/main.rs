//! The `slipring` command.
#![forbid(unsafe_code)]
fn main() {}
