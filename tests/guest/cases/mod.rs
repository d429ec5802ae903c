//! The tests that run inside, one file a group.
#![forbid(unsafe_code)]

mod cuse;
mod hotplug;
mod itself;
mod media;
mod recovery;
mod removal;
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
        recovery::group(),
        removal::asked_back_group(),
        removal::pulled_out_group(),
        cuse::group(),
        itself::group(),
    ]
}
