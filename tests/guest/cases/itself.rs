//! The harness tested with itself: tests that fail in every way there is, and have to be reported so.
#![forbid(unsafe_code)]

use crate::group::{Group, Test};
use crate::hardware::{Controller, Media};
use crate::inside::{Inside, run};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn group() -> Group {
    Group::new("itself")
        .controller(Controller::new("nv0").media(Media::disk(16)))
        .test(
            Test::new("a_panic_is_a_failure_with_its_message", panics)
                .must_fail("this is the panic's message"),
        )
        .test(
            Test::new("what_a_test_prints_is_in_its_report", prints).must_fail("this was printed by a child"),
        )
        .test(Test::new("a_process_left_behind_is_ended", leaves_a_process))
        .test(
            Test::new("a_kernel_complaint_is_a_failure", complains)
                .must_fail("vfio: what a complaint looks like"),
        )
        .test(
            Test::new("an_allowed_complaint_is_none", complains)
                .allow_log(&["vfio: what a complaint looks like"]),
        )
        .test(
            Test::new("a_late_test_says_where_it_is_and_is_killed", sleeps)
                .deadline(2)
                .must_fail("late: process"),
        )
        .test(Test::new("a_new_guest_comes_after_a_late_test", |_| {}))
        .test(Test::new("a_kernel_panic_shows_the_console", crashes).must_fail("Kernel panic - not syncing"))
}

fn panics(_: &Inside) {
    panic!("this is the panic's message");
}

fn prints(_: &Inside) {
    run("echo", &["this was printed by a child"]);
    std::process::exit(3);
}

/// If it were not ended it would hold the pipe, and the test would never end.
fn leaves_a_process(_: &Inside) {
    let status = Command::new("sh").args(["-c", "sleep 1000 &"]).stdin(Stdio::null()).status();
    assert!(status.expect("started").success());
}

fn complains(_: &Inside) {
    fs::write("/dev/kmsg", "vfio: what a complaint looks like\n").expect("said");
}

fn sleeps(_: &Inside) {
    std::thread::sleep(Duration::from_secs(1000));
}

fn crashes(_: &Inside) {
    fs::write("/proc/sysrq-trigger", "c").expect("never returns");
}
