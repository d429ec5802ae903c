//! The one switch between std and loom.
