//! The ioctls of block devices that NVMe's tools use on a namespace's node.
#![forbid(unsafe_code)]

use super::ioctls;
use super::request::{Asking, Step};
use super::wire::IoVec;
use rustix::io::Errno;

/// Linux's sectors, whatever the block size.
const SECTOR_BYTES: u64 = 512;

/// The next step of such an ioctl; ENOTTY for all others.
pub(super) fn step<'a>(asking: &Asking<'a>) -> Result<Step<'a>, Errno> {
    let long = if asking.is_compat() { 4 } else { 8 };
    let Some(namespace) = asking.namespace() else { return Err(Errno::NOTTY) };
    let value = match asking.cmd {
        ioctls::BLKROGET => {
            u32::from(asking.is_read_only || namespace.is_write_protected).to_le_bytes().to_vec()
        }
        ioctls::BLKSSZGET | ioctls::BLKPBSZGET => namespace.block_bytes.to_le_bytes().to_vec(),
        ioctls::BLKGETSIZE64 | ioctls::BLKGETSIZE64_32 => namespace.size_bytes().to_le_bytes().to_vec(),
        ioctls::BLKGETSIZE => {
            let sectors = namespace.size_bytes() / SECTOR_BYTES;
            if long == 4 && sectors > u32::MAX.into() {
                return Err(Errno::FBIG);
            }
            sectors.to_le_bytes()[..long].to_vec()
        }
        // Nothing is buffered on this side of the device, and nobody looks for partitions.
        ioctls::BLKFLSBUF | ioctls::BLKRRPART if !asking.is_root() => return Err(Errno::ACCESS),
        ioctls::BLKFLSBUF | ioctls::BLKRRPART => return Ok(Step::Answer(0, Vec::new())),
        ioctls::BLKBSZSET | ioctls::BLKBSZSET_32 => return set_block_size(asking),
        _ => return Err(Errno::NOTTY),
    };
    if asking.out_size == 0 {
        let output = vec![IoVec { base: asking.arg, len: value.len() as u64 }];
        return Ok(Step::Retry { input: Vec::new(), output });
    }
    if asking.out_size != value.len() || !asking.input.is_empty() {
        return Err(Errno::INVAL);
    }
    Ok(Step::Answer(0, value))
}

/// There is no buffer cache whose blocks it would be: what Linux would take is taken, and does nothing.
fn set_block_size<'a>(asking: &Asking<'a>) -> Result<Step<'a>, Errno> {
    if !asking.is_root() {
        return Err(Errno::ACCESS);
    }
    if asking.input.is_empty() {
        let input = vec![IoVec { base: asking.arg, len: 4 }];
        return Ok(Step::Retry { input, output: Vec::new() });
    }
    let size = <[u8; 4]>::try_from(asking.input).map_err(|_| Errno::INVAL)?;
    let size = u32::from_le_bytes(size);
    let least = asking.namespace().map_or(512, |namespace| namespace.block_bytes);
    if size.is_power_of_two() && (least..=4096).contains(&size) {
        Ok(Step::Answer(0, Vec::new()))
    } else {
        Err(Errno::INVAL)
    }
}
