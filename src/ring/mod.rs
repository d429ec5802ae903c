//! `ring`: the message ring, its publication and retirement.
