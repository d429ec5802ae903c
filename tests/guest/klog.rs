//! What the kernel may say while a test runs. What VFIO, the IOMMU or a broken kernel says fails the test, unless it is on this list or on the test's own.
#![forbid(unsafe_code)]

/// Kernel messages that matter have one of these in them, in small letters.
const WATCHED: &[&str] =
    &["vfio", "dmar", "iommu", "bug:", "warning:", "oops", "call trace", "rcu:", "blocked for more than"];

/// Parts of watched messages that are all right, each with the reason.
const ALLOWED: &[&str] = &[
    // A device that is plugged is given a group.
    ": Adding to iommu group ",
    // A device that goes leaves its group.
    ": Removing from iommu group ",
];

/// The lines that neither list allows.
pub fn complaints<'a>(lines: &'a [String], allowed_by_test: &[&str]) -> Vec<&'a str> {
    let watched = |line: &&str| {
        let line = line.to_lowercase();
        WATCHED.iter().any(|part| line.contains(part))
    };
    let allowed = |line: &&str| ALLOWED.iter().chain(allowed_by_test).any(|part| line.contains(part));
    lines.iter().map(String::as_str).filter(watched).filter(|line| !allowed(line)).collect()
}
