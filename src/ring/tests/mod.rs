//! What the ring module promises, on real threads.
