//! Status codes.

use crate::spec::status::{NAMES, Status};
use std::collections::BTreeSet;

#[test]
fn a_status_is_taken_apart() {
    // What Linux returns for a command that failed with everything set: DNR, M, CRD 2, SCT 1, SC 0x0a.
    let status = Status(0x710a);
    assert_eq!(
        (status.sct(), status.sc(), status.crd(), status.more(), status.dnr()),
        (1, 0x0a, 2, true, true)
    );
    assert_eq!(status.without_dnr(), Status::INVALID_FORMAT);
    assert!(!status.is_success());
    assert_eq!(Status::INVALID_FORMAT.with_dnr(), Status(0x410a));
    let plain = Status::LBA_OUT_OF_RANGE;
    assert_eq!((plain.sct(), plain.sc(), plain.crd(), plain.more(), plain.dnr()), (0, 0x80, 0, false, false));
}

#[test]
fn success_is_success_whatever_the_other_bits_say() {
    assert!(Status::SUCCESS.is_success());
    assert!(Status(0x7800).is_success());
    assert!(!Status(0x0001).is_success());
    assert!(!Status(0x0100).is_success());
}

#[test]
fn a_status_reads_as_the_specification_names_it() {
    assert_eq!(
        Status::INVALID_FIELD.with_dnr().to_string(),
        "Invalid Field in Command (sct 0x0, sc 0x02, dnr)"
    );
    assert_eq!(Status::SUCCESS.to_string(), "Successful Completion (sct 0x0, sc 0x00)");
    assert_eq!(Status(0x3821).to_string(), "Command Interrupted (sct 0x0, sc 0x21, crd 3, more)");
    assert_eq!(Status::UNRECOVERED_READ_ERROR.to_string(), "Unrecovered Read Error (sct 0x2, sc 0x81)");
    assert_eq!(
        format!("{:?}", Status::ANA_INACCESSIBLE),
        "Asymmetric Access Inaccessible (sct 0x3, sc 0x02)"
    );
}

#[test]
fn what_nobody_knows_has_a_name_too() {
    assert_eq!(Status(0x0c1).name(), "Vendor Specific");
    assert_eq!(Status(0x700).name(), "Vendor Specific");
    assert_eq!(Status(0x0ff).name(), "Vendor Specific");
    assert_eq!(Status(0x07f).name(), "Unknown Status");
    assert_eq!(Status(0x17f).name(), "Unknown Status");
    assert_eq!(Status(0x400).name(), "Unknown Status");
    // The upper bits do not hide the name.
    assert_eq!(Status(0x5881).without_dnr(), Status(0x081));
    assert_eq!(Status(0x5881).name(), "Capacity Exceeded");
}

#[test]
fn no_value_and_no_name_is_given_twice() {
    let values: BTreeSet<u16> = NAMES.iter().map(|(value, _)| *value).collect();
    let names: BTreeSet<&str> = NAMES.iter().map(|(_, name)| *name).collect();
    assert_eq!((values.len(), names.len()), (NAMES.len(), NAMES.len()));
    assert!(
        values.iter().all(|value| *value < 0x400 && Status(*value).sc() < 0xc0),
        "inside the four known types"
    );
}

#[test]
fn every_code_of_the_base_specification_is_known() {
    // Per type: the first and the last code of each run without a gap.
    let runs = [
        (0x00, 0x16),
        (0x18, 0x24),
        (0x80, 0x89),
        (0x100, 0x103),
        (0x105, 0x116),
        (0x118, 0x12d),
        (0x180, 0x183),
        (0x1b8, 0x1bf),
        (0x280, 0x288),
        (0x300, 0x303),
        (0x360, 0x360),
        (0x370, 0x371),
    ];
    for code in runs.into_iter().flat_map(|(first, last)| first..=last) {
        assert_ne!(Status(code).name(), "Unknown Status", "{code:#x}");
    }
    let count: usize = runs.into_iter().map(|(first, last)| usize::from(last - first) + 1).sum();
    assert_eq!(NAMES.len(), count);
}

#[test]
fn the_values_that_others_depend_on() {
    let values = [
        (Status::INVALID_OPCODE, 0x001),
        (Status::ABORTED_BY_REQUEST, 0x007),
        (Status::ABORTED_SQ_DELETION, 0x008),
        (Status::INVALID_NAMESPACE_OR_FORMAT, 0x00b),
        (Status::COMMAND_SEQUENCE_ERROR, 0x00c),
        (Status::INVALID_PRP_OFFSET, 0x013),
        (Status::NAMESPACE_WRITE_PROTECTED, 0x020),
        (Status::INVALID_COMPLETION_QUEUE, 0x100),
        (Status::INVALID_QUEUE_ID, 0x101),
        (Status::INVALID_QUEUE_SIZE, 0x102),
        (Status::AER_LIMIT_EXCEEDED, 0x105),
        (Status::INVALID_INTERRUPT_VECTOR, 0x108),
        (Status::INVALID_LOG_PAGE, 0x109),
        (Status::INVALID_QUEUE_DELETION, 0x10c),
        (Status::NAMESPACE_NOT_ATTACHED, 0x11a),
        (Status::INVALID_CONTROLLER_LIST, 0x11c),
        (Status::WRITE_FAULT, 0x280),
        (Status::COMPARE_FAILURE, 0x285),
    ];
    for (status, value) in values {
        assert_eq!(status, Status(value));
    }
}
