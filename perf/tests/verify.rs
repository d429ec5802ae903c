//! `slipring perf`: its patterns, its open loop, and that `--verify` finds what is wrong.

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{json_file, run, status, stderr, succeed};

fn result(folder: &Path, args: &str) -> Value {
    let path = folder.join("result.json");
    succeed(&format!("perf {args} --quiet --json {}", path.display()));
    json_file(&path)
}

/// The result of a run that `shows` what is to be seen: on a busy machine a short one may end before anything has happened, and is repeated, longer.
fn result_of_a_run(folder: &Path, args: &str, shows: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for seconds in [0.2, 1.0, 5.0, 20.0] {
        last = result(folder, &format!("{args} -t {seconds}"));
        if shows(&last) {
            return last;
        }
    }
    panic!("{args}: {last}")
}

#[test]
fn every_pattern_is_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    for pattern in ["read", "write", "randread", "randwrite", "rw", "randrw"] {
        let args = format!("emulated:size=1M,namespaces=2 -q 4 -P 2 -w {pattern} --verify");
        let (reads, writes) = (!pattern.ends_with("write"), !pattern.ends_with("read"));
        result_of_a_run(folder.path(), &args, |result| {
            let count = |key: &str| result[key].as_u64().expect("a count");
            assert_eq!((count("wrong_blocks"), count("errors")), (0, 0), "{result}");
            assert!(reads || count("reads") == 0, "{result}");
            assert!(writes || count("writes") == 0, "{result}");
            count("verified_blocks") > 0 && (count("reads") > 0) == reads && (count("writes") > 0) == writes
        });
    }
}

#[test]
fn damage_between_two_runs_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    fs::write(&image, vec![0; 256 << 10]).expect("written");
    let perf = |rest: &str| format!("perf emulated:image={} --quiet -q 4 {rest}", image.display());
    // One turn over 64 units takes less than the time; the check at the end reads all of them.
    let deadline = 30;
    for time in 1..=deadline {
        succeed(&perf(&format!("-t {time} -w write --verify --seed 7")));
        let blocks = fs::read(&image).expect("there");
        if blocks.chunks(512).all(|block| block.starts_with(b"slipring")) {
            break;
        }
        assert!(time < deadline, "the image was not written over in {deadline} seconds");
    }
    let read = perf("-t 0.5 -w read --verify --seed 7");
    succeed(&read);
    let fail = |args: &str, words: &[&str]| {
        let output = run(args);
        let error = stderr(&output);
        assert_eq!(status(&output), 1, "{args}: {error}");
        assert_eq!(error.lines().count(), 1, "{args}: {error}");
        for word in words {
            assert!(error.contains(word), "{args}: {word:?} is not in {error:?}");
        }
    };
    let right = fs::read(&image).expect("there");
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = right.clone();
        change(&mut bytes);
        fs::write(&image, bytes).expect("written");
    };
    with(&|bytes| bytes[512 * 3 + 100] ^= 1);
    fail(&read, &["namespace 1 at LBA 3", "expected its stamp of seed 7", "byte 100"]);
    with(&|bytes| bytes[512 * 5..512 * 6].fill(0));
    fail(&read, &["LBA 5", "expected its stamp of seed 7", "got zeroes"]);
    with(&|bytes| bytes.copy_within(512 * 9..512 * 10, 512 * 2));
    fail(&read, &["LBA 2", "got the stamp of namespace 1, LBA 9, seed 7"]);
    with(&|_| {});
    fail(&perf("-t 0.5 -w read --verify --seed 8"), &["expected its stamp of seed 8", "seed 7"]);
    succeed(&read);
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_from_the_intended_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let show = |args: &str, shows: &dyn Fn(&Value) -> bool| result_of_a_run(folder.path(), args, shows);
    let count = |result: &Value, key: &str| result[key].as_u64().expect("a count");
    show("emulated:size=1M --rate 200 -q 4", &|even| {
        // So many as were due, begun or not, however long the run took: the first is due at once, and the clock is read twice.
        let begun = (count(even, "ios") + count(even, "not_started")) as f64;
        let seconds = even["duration_s"].as_f64().expect("a number");
        seconds > 0.1 && (0.75..1.3).contains(&(begun / (200.0 * seconds)))
    });
    // The device takes 20 ms for each, one at a time, and every 5 ms one is due: they queue up, and wait ever longer.
    show("emulated:size=1M,latency_us=20000 --rate 200 -q 1", &|late| {
        let longest = late["latency_ns"]["max"].as_u64().unwrap_or(0);
        count(late, "not_started") > 50 && longest > 300_000_000
    });
    show("emulated:size=1M,latency_us=20000 -q 1", &|closed| {
        closed["latency_ns"]["p50"].as_u64().is_some_and(|p50| p50 < 200_000_000)
    });
}

#[test]
fn one_worker_per_core_of_the_mask() {
    let folder = tempfile::tempdir().expect("a folder");
    let core = slipring::poller::core_ids()[0];
    let args = format!("emulated:size=1M -c [{core}] -q 2 -L");
    let result = result_of_a_run(folder.path(), &args, |result| result["ios"].as_u64() > Some(0));
    assert_eq!((&result["workers"], &result["cores"][0]), (&1.into(), &core.into()));
}
