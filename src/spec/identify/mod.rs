//! Identify: which data structures there are, and the structures. NVMe Base 2.0, 5.17.2; NVM Command Set 1.0, 4.1.5.
#![forbid(unsafe_code)]

mod ctrlr;
mod lists;
mod namespace;

pub use ctrlr::{ActivePower, IdentifyCtrlr, IdentifyCtrlrNvm, IdlePowerScale, PowerState, PowerStateFlags};
pub use lists::{
    CommandSets, CtrlrList, NsDescriptor, NsIdList, PrimaryCtrlrCaps, SecondaryCtrlr, SecondaryCtrlrList,
    ns_descriptors,
};
pub use namespace::{ExtendedLbaFormat, IdentifyNs, IdentifyNsIndependent, IdentifyNsNvm, LbaFormat};

use super::codes::codes;

codes! {
    /// Controller or Namespace Structure: which data Identify returns (NVMe Base 2.0, 5.17). Identify has no vendor specific
    /// structures in this version; those above 0xbf are kept for them.
    Cns, vendor 0xc0;
    NS = 0x00, "Identify Namespace";
    CTRLR = 0x01, "Identify Controller";
    ACTIVE_NS_LIST = 0x02, "Active Namespace ID List";
    NS_DESCRIPTORS = 0x03, "Namespace Identification Descriptor List";
    NVM_SETS = 0x04, "NVM Set List";
    CSI_NS = 0x05, "I/O Command Set Specific Identify Namespace";
    CSI_CTRLR = 0x06, "I/O Command Set Specific Identify Controller";
    CSI_ACTIVE_NS_LIST = 0x07, "I/O Command Set Specific Active Namespace ID List";
    CSI_INDEPENDENT_NS = 0x08, "I/O Command Set Independent Identify Namespace";
    USER_DATA_FORMAT_NS = 0x09, "Identify Namespace User Data Format";
    CSI_USER_DATA_FORMAT_NS = 0x0a, "I/O Command Set Specific Identify Namespace User Data Format";
    ALLOCATED_NS_LIST = 0x10, "Allocated Namespace ID List";
    NS_ALLOCATED = 0x11, "Identify Namespace of an Allocated Namespace ID";
    NS_CTRLR_LIST = 0x12, "Namespace Attached Controller List";
    CTRLR_LIST = 0x13, "Controller List";
    PRIMARY_CTRLR = 0x14, "Primary Controller Capabilities";
    SECONDARY_CTRLRS = 0x15, "Secondary Controller List";
    NS_GRANULARITY = 0x16, "Namespace Granularity List";
    UUID_LIST = 0x17, "UUID List";
    DOMAIN_LIST = 0x18, "Domain List";
    ENDURANCE_GROUPS = 0x19, "Endurance Group List";
    CSI_ALLOCATED_NS_LIST = 0x1a, "I/O Command Set Specific Allocated Namespace ID List";
    CSI_NS_ALLOCATED = 0x1b, "I/O Command Set Specific Identify Namespace of an Allocated Namespace ID";
    COMMAND_SETS = 0x1c, "Identify I/O Command Set";
}

codes! {
    /// Command Set Identifier (NVMe Base 2.0, 5.17).
    Csi, vendor 0x30;
    NVM = 0x00, "NVM Command Set";
    KEY_VALUE = 0x01, "Key Value Command Set";
    ZONED_NAMESPACE = 0x02, "Zoned Namespace Command Set";
}

/// A device's text: up to the first NUL, without padding, and nothing that a terminal would act on.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let visible = |byte: &u8| if matches!(byte, b' '..=b'~') { char::from(*byte) } else { '?' };
    bytes[..end].iter().map(visible).collect::<String>().trim().to_owned()
}
