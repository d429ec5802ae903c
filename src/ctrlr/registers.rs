//! Reading the controller's registers without believing them.
#![forbid(unsafe_code)]

use super::state::Failure;
use crate::spec::registers::{CAP, CC, CSTS, Cap, Cc, Csts, VS};
use crate::transport::Transport;

/// CSTS, or that the device is gone (all ones) or has given up (CFS).
pub(super) fn check_csts(transport: &dyn Transport) -> Result<Csts, Failure> {
    let value = transport.read_u32(CSTS);
    if value == u32::MAX || transport.is_gone() {
        return Err(Failure::Removed { register: "CSTS", value: value.into() });
    }
    let csts = Csts::from_bits(value);
    if csts.cfs() {
        return Err(Failure::Fatal { csts: value });
    }
    Ok(csts)
}

/// CAP, or that the device is gone: all ones on real hardware, zero under QEMU.
pub(super) fn check_cap(transport: &dyn Transport) -> Result<Cap, Failure> {
    let value = transport.read_u64(CAP);
    if value == u64::MAX || value == 0 || transport.is_gone() {
        return Err(Failure::Removed { register: "CAP", value });
    }
    Ok(Cap::from_bits(value))
}

pub(super) fn read_cc(transport: &dyn Transport) -> Cc {
    Cc::from_bits(transport.read_u32(CC))
}

pub(super) fn write_cc(transport: &dyn Transport, cc: Cc) {
    transport.write_u32(CC, cc.into_bits());
}

/// That a controller which should be running is: there, not fatal, and still enabled.
pub(super) fn check_running(transport: &dyn Transport) -> Result<(), Failure> {
    let csts = check_csts(transport)?;
    if csts.rdy() {
        return Ok(());
    }
    let version = transport.read_u32(VS);
    if version == 0 || version == u32::MAX {
        return Err(Failure::Removed { register: "VS", value: version.into() });
    }
    if !read_cc(transport).en() {
        return Err(Failure::Unusable("CC.EN is 0: somebody else reset it behind this driver".into()));
    }
    Err(Failure::Unusable(format!(
        "it stopped being ready (CSTS {:#x}) though it is enabled",
        csts.into_bits()
    )))
}
