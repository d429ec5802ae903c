//! `queue`: submission and completion queues and their trackers.
