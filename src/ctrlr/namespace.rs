//! Namespaces as the embedder sees them: a snapshot that pollers replace and anyone may keep.
#![forbid(unsafe_code)]

use crate::spec::identify::IdentifyNs;

/// One active namespace, as last read from the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its identifier, 1 or more.
    pub nsid: u32,
    /// Its size in logical blocks (NSZE).
    pub size_blocks: u64,
    /// Bytes of data per logical block: a power of two, 512 to 65,536.
    pub block_bytes: u32,
    /// Blocks that an I/O should not cross (NOIOB), 0 when there is no such boundary.
    pub optimal_boundary_blocks: u16,
    /// Nothing can be written to it now (NSATTR bit 0).
    pub is_write_protected: bool,
    /// Why the namespace cannot be used for I/O, if it cannot.
    pub unsupported: Option<Unsupported>,
}

/// What keeps a namespace from being used. The controller's other namespaces are usable all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// The LBA format carries metadata.
    #[error(
        "its LBA format has {bytes} bytes of metadata per block, which are not supported yet; format it without"
    )]
    Metadata {
        /// Metadata bytes per block.
        bytes: u16,
    },
    /// The LBA size is no power of two from 512 to 65,536.
    #[error("its LBA size of 2^{lbads} bytes is outside 512 to 65536")]
    BlockSize {
        /// The exponent that the controller gave.
        lbads: u8,
    },
    /// It is of another command set than NVM's, such as the zoned one (2).
    #[error("it is of the I/O command set {csi:#x}{}, which is not supported yet; only the NVM command set is", if *csi == 2 { " (zoned)" } else { "" })]
    CommandSet {
        /// The command set's identifier (CSI).
        csi: u8,
    },
    /// The namespace is formatted with protection information.
    #[error("it is formatted with protection information, which is not supported yet; format it without")]
    Protection,
}

impl Namespace {
    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_blocks.saturating_mul(self.block_bytes.into())
    }

    /// Reads what matters out of Identify Namespace. Nothing in `data` is trusted.
    pub(crate) fn from_identify(nsid: u32, data: &IdentifyNs) -> Self {
        let index = usize::from(data.lba_format_index());
        let format = data.lbaf.get(index).copied().unwrap_or_default();
        let lbads = format.lbads();
        let metadata_bytes = format.ms();
        let size_is_sane = (9..=16).contains(&lbads);
        let unsupported = if !size_is_sane {
            Some(Unsupported::BlockSize { lbads })
        } else if metadata_bytes != 0 {
            Some(Unsupported::Metadata { bytes: metadata_bytes })
        } else if data.dps & 0x7 != 0 {
            Some(Unsupported::Protection)
        } else {
            None
        };
        Self {
            nsid,
            size_blocks: data.nsze,
            block_bytes: if size_is_sane { 1 << lbads } else { 512 },
            optimal_boundary_blocks: data.noiob,
            is_write_protected: data.nsattr & 1 != 0,
            unsupported,
        }
    }
}
