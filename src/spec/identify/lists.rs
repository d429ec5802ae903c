//! The lists that Identify returns: namespaces, descriptors, controllers, command sets.
#![forbid(unsafe_code)]

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Namespace identifiers in ascending order, ended by 0, 4,096 bytes (NVMe Base 2.0, 5.17.2; CNS 02h, 07h, 10h and 1Ah).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct NsIdList {
    /// The identifiers.
    pub nsids: [u32; 1024],
}

const _: () = assert!(size_of::<NsIdList>() == 4096);

impl NsIdList {
    /// The identifiers up to the first 0.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.nsids.iter().copied().take_while(|nsid| *nsid != 0)
    }
}

impl Default for NsIdList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// One entry of the Namespace Identification Descriptor list (NVMe Base 2.0, 5.17.2, CNS 03h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NsDescriptor<'a> {
    /// Type: [`NsDescriptor::EUI64`], [`NGUID`](Self::NGUID), [`UUID`](Self::UUID), [`CSI`](Self::CSI), or one that nobody knows yet.
    pub nidt: u8,
    /// The identifier.
    pub nid: &'a [u8],
}

impl NsDescriptor<'_> {
    /// IEEE extended unique identifier, 8 bytes.
    pub const EUI64: u8 = 1;
    /// Namespace globally unique identifier, 16 bytes.
    pub const NGUID: u8 = 2;
    /// Universally unique identifier, 16 bytes.
    pub const UUID: u8 = 3;
    /// Command set identifier, 1 byte.
    pub const CSI: u8 = 4;
}

/// The descriptors in the 4,096 bytes of such a list. Ends at the first that does not fit.
pub fn ns_descriptors(mut data: &[u8]) -> impl Iterator<Item = NsDescriptor<'_>> {
    const HEADER_BYTES: usize = 4;
    std::iter::from_fn(move || {
        let (header, rest) = data.split_at_checked(HEADER_BYTES)?;
        let (nidt, len) = (header[0], usize::from(header[1]));
        if len == 0 {
            return None;
        }
        let (nid, rest) = rest.split_at_checked(len)?;
        data = rest;
        Some(NsDescriptor { nidt, nid })
    })
}

/// A controller list, 4,096 bytes (NVMe Base 2.0, 5.17.2, CNS 12h and 13h; also the data of Namespace Attachment).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CtrlrList {
    /// Number of identifiers, 2,047 at most.
    pub num: u16,
    /// Controller identifiers in ascending order.
    pub identifier: [u16; 2047],
}

const _: () = assert!(size_of::<CtrlrList>() == 4096);

impl CtrlrList {
    /// A list of one controller.
    pub fn of(cntlid: u16) -> Self {
        let mut list = Self { num: 1, ..Self::default() };
        list.identifier[0] = cntlid;
        list
    }

    /// The identifiers. A count that is too large gives all of the 2,047.
    pub fn identifiers(&self) -> &[u16] {
        &self.identifier[..usize::from(self.num).min(self.identifier.len())]
    }
}

impl Default for CtrlrList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Combinations of I/O command sets, 4,096 bytes (NVMe Base 2.0, 5.17.2, CNS 1Ch).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct CommandSets {
    /// Each combination with a bit for each command set, by its identifier; 0 for none.
    pub iocsc: [u64; 512],
}

const _: () = assert!(size_of::<CommandSets>() == 4096);

impl Default for CommandSets {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Primary Controller Capabilities, 4,096 bytes (NVMe Base 2.0, 5.17.2, CNS 14h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PrimaryCtrlrCaps {
    /// Controller identifier.
    pub cntlid: u16,
    /// Port identifier.
    pub portid: u16,
    /// Controller resource types: bit 0 VQ, bit 1 VI.
    pub crt: u8,
    /// Reserved.
    pub rsvd5: [u8; 27],
    /// VQ resources flexible total.
    pub vqfrt: u32,
    /// VQ resources flexible assigned.
    pub vqrfa: u32,
    /// VQ resources flexible allocated to primary.
    pub vqrfap: u16,
    /// VQ resources private total.
    pub vqprt: u16,
    /// VQ resources flexible secondary maximum.
    pub vqfrsm: u16,
    /// VQ flexible resource preferred granularity.
    pub vqgran: u16,
    /// Reserved.
    pub rsvd48: [u8; 16],
    /// VI resources flexible total.
    pub vifrt: u32,
    /// VI resources flexible assigned.
    pub virfa: u32,
    /// VI resources flexible allocated to primary.
    pub virfap: u16,
    /// VI resources private total.
    pub viprt: u16,
    /// VI resources flexible secondary maximum.
    pub vifrsm: u16,
    /// VI flexible resource preferred granularity.
    pub vigran: u16,
    /// Reserved.
    pub rsvd80: [u8; 4016],
}

const _: () = assert!(size_of::<PrimaryCtrlrCaps>() == 4096);

impl Default for PrimaryCtrlrCaps {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// One secondary controller, 32 bytes (NVMe Base 2.0, 5.17.2, CNS 15h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SecondaryCtrlr {
    /// Secondary controller identifier.
    pub scid: u16,
    /// Primary controller identifier.
    pub pcid: u16,
    /// Secondary controller state: bit 0 online.
    pub scs: u8,
    /// Reserved.
    pub rsvd5: [u8; 3],
    /// Virtual function number, 0 for none.
    pub vfn: u16,
    /// Number of VQ flexible resources assigned.
    pub nvq: u16,
    /// Number of VI flexible resources assigned.
    pub nvi: u16,
    /// Reserved.
    pub rsvd14: [u8; 18],
}

const _: () = assert!(size_of::<SecondaryCtrlr>() == 32);

/// Secondary Controller List, 4,096 bytes (NVMe Base 2.0, 5.17.2, CNS 15h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SecondaryCtrlrList {
    /// Number of entries, 127 at most.
    pub num: u8,
    /// Reserved.
    pub rsvd1: [u8; 31],
    /// The entries, in ascending order of their secondary controller identifiers.
    pub sc_entry: [SecondaryCtrlr; 127],
}

const _: () = assert!(size_of::<SecondaryCtrlrList>() == 4096);

impl SecondaryCtrlrList {
    /// The entries that count. A count that is too large gives all of the 127.
    pub fn entries(&self) -> &[SecondaryCtrlr] {
        &self.sc_entry[..usize::from(self.num).min(self.sc_entry.len())]
    }
}

impl Default for SecondaryCtrlrList {
    fn default() -> Self {
        Self::new_zeroed()
    }
}
