//! `transport`: how a device is reached.
