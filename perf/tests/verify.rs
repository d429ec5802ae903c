//! `slipring perf`: its patterns, its open loop, and that `--verify` finds what is wrong.

mod support;

use std::fs;
use std::path::Path;
use support::{json_file, run, status, stderr, succeed};

fn result(folder: &Path, args: &str) -> serde_json::Value {
    let path = folder.join("result.json");
    succeed(&format!("perf {args} --quiet --json {}", path.display()));
    json_file(&path)
}

#[test]
fn every_pattern_is_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    for pattern in ["read", "write", "randread", "randwrite", "rw", "randrw"] {
        let args = format!("emulated:size=1M,namespaces=2 -t 0.2 -q 4 -P 2 -w {pattern} --verify");
        let result = result(folder.path(), &args);
        let count = |key: &str| result[key].as_u64().expect("a count");
        assert!(count("verified_blocks") > 0, "{result}");
        assert_eq!((count("wrong_blocks"), count("errors")), (0, 0), "{result}");
        let (reads, writes) = (count("reads") > 0, count("writes") > 0);
        assert_eq!(reads, !matches!(pattern, "write" | "randwrite"), "{result}");
        assert_eq!(writes, !matches!(pattern, "read" | "randread"), "{result}");
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
    let result_of = |args: &str| result(folder.path(), args);
    let even = result_of("emulated:size=1M --rate 200 -t 1 -q 4");
    let begun = even["ios"].as_u64().expect("a count") + even["not_started"].as_u64().expect("a count");
    assert!((150..=260).contains(&begun), "about 200 a second: {even}");
    // The device takes 20 ms for each, one at a time, and every 5 ms one is due: they queue up, and wait ever longer.
    let late = result_of("emulated:size=1M,latency_us=20000 --rate 200 -t 1 -q 1");
    assert!(late["not_started"].as_u64().expect("a count") > 50, "{late}");
    let longest = late["latency_ns"]["max"].as_u64().expect("a number");
    assert!(longest > 300_000_000, "the wait before the start counts: {late}");
    let closed = result_of("emulated:size=1M,latency_us=20000 -t 1 -q 1");
    assert!(closed["latency_ns"]["p50"].as_u64().expect("a number") < 200_000_000, "{closed}");
}

#[test]
fn one_worker_per_core_of_the_mask() {
    let folder = tempfile::tempdir().expect("a folder");
    let core = slipring::poller::core_ids()[0];
    let result = result(folder.path(), &format!("emulated:size=1M -c [{core}] -t 0.2 -q 2 -L"));
    assert_eq!((&result["workers"], &result["cores"][0]), (&1.into(), &core.into()));
    assert!(result["ios"].as_u64() > Some(0), "{result}");
}
