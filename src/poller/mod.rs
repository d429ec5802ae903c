//! `poller`: what a polling thread calls.
