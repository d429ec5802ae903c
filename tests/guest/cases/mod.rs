//! The tests that run inside, one file a group.
#![forbid(unsafe_code)]

mod hotplug;
mod itself;
mod media;
mod shapes;
mod two_controllers;
mod vfio;

use crate::group::Group;

/// Every group there is.
pub fn groups() -> Vec<Group> {
    vec![
        two_controllers::group(),
        hotplug::group(),
        media::group(),
        shapes::group(),
        vfio::group(),
        itself::group(),
    ]
}
