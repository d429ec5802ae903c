//! `emulated`: a whole NVMe controller in the process.
