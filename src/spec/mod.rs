//! `spec`: NVMe on the wire.
