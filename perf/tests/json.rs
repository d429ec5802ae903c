//! The JSON contract of `docs/JSON.md`: keys, kinds, and that the numbers agree with each other.

mod support;

use serde_json::Value;
use support::{assert_numbers, json_file, names, run, status, stderr, succeed};

fn json_of(args: &str) -> Value {
    serde_json::from_slice(&succeed(args).stdout).expect("JSON on the standard output")
}

#[test]
fn list() {
    let list = json_of("list --json");
    assert!(list["controllers"].is_array(), "the system's controllers, of which there may be none");
    assert!(list["nodes"].is_array(), "the nodes that are being served, of which there may be none");
    let devices = list["devices"].as_array().expect("a list");
    assert!(devices.iter().any(|device| device["address"] == "emulated" && device["kind"] == "emulated"));
    for device in devices {
        assert!(device["description"].is_string() && device["examples"].is_array(), "{device}");
        for key in device["keys"].as_array().expect("a list") {
            assert!(key["key"].is_string() && key["meaning"].is_string(), "{key}");
        }
    }
}

#[test]
fn identify_has_the_names_of_nvme_cli() {
    let identify = json_of("identify emulated:size=8M,lba=4096,namespaces=2,mdts=5,serial=ABC --json");
    assert_eq!((&identify["sn"], &identify["mdts"]), (&"ABC".into(), &5.into()));
    for key in ["mn", "fr", "subnqn"] {
        assert!(identify[key].is_string(), "{key}");
    }
    let numbers = [
        "vid", "ssvid", "rab", "ieee", "cmic", "cntlid", "ver", "rtd3r", "rtd3e", "oaes", "ctratt", "oacs",
        "acl", "aerl", "frmw", "lpa", "elpe", "npss", "avscc", "apsta", "wctemp", "cctemp", "mtfa", "hmpre",
        "hmmin", "tnvmcap", "unvmcap", "rpmbs", "kas", "sqes", "cqes", "maxcmd", "nn", "oncs", "fuses",
        "fna", "vwc", "awun", "awupf", "nwpc", "acwu", "sgls",
    ];
    assert_numbers(&identify, &numbers);
    assert!(identify["psds"].as_array().is_some_and(|states| !states.is_empty()));
    let namespaces = identify["namespaces"].as_array().expect("a list");
    assert_eq!(namespaces.len(), 2);
    for (namespace, nsid) in namespaces.iter().zip(1_u64..) {
        assert_eq!(namespace["nsid"], nsid);
        assert_eq!(namespace["nsze"], (8_u64 << 20) / 4096);
        assert_numbers(
            namespace,
            &["ncap", "nuse", "nsfeat", "nlbaf", "flbas", "mc", "dpc", "dps", "nmic", "nsattr"],
        );
        let index = namespace["flbas"].as_u64().expect("a number") as usize & 0xf;
        assert_eq!(namespace["lbafs"][index]["ds"], 12, "the format in use has blocks of 4096 bytes");
        assert_numbers(&namespace["lbafs"][index], &["ms", "rp"]);
    }
}

#[test]
fn perf() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("result.json");
    std::fs::write(&path, "an older result").expect("written");
    // On a busy machine a short run may end before a worker has seen the end of the warm-up: then a longer one.
    let run = |seconds: f64| {
        succeed(&format!(
            "perf emulated:size=4M -q 4 -o 8K -t {seconds} -a 0.1 -w randrw -M 70 -L --json {}",
            path.display()
        ));
        json_file(&path)
    };
    let mut results = [0.3, 2.0, 10.0, 30.0].into_iter().map(run);
    let result = results.find(|result| result["ios"].as_u64() > Some(0)).expect("some I/O in 30 s");
    assert_numbers(
        &result,
        &["iops", "bytes_per_s", "ios", "errors", "verified_blocks", "duration_s", "seed"],
    );
    assert_eq!((&result["queue_depth"], &result["io_size_bytes"]), (&4.into(), &8192.into()));
    assert_eq!((&result["errors"], &result["verified_blocks"]), (&0.into(), &0.into()));
    let number = |key: &str| result[key].as_f64().expect("a number");
    assert!(number("ios") > 0.0 && (number("reads") + number("writes") - number("ios")).abs() < 0.5);
    assert!((number("iops") * number("duration_s") / number("ios") - 1.0).abs() < 0.01, "{result}");
    assert!((number("bytes_per_s") / number("iops") - 8192.0).abs() < 1.0, "{result}");
    assert!(number("duration_s") > 0.0, "{result}");
    let latency = &result["latency_ns"];
    let order = ["min", "p50", "p90", "p99", "p99_9", "p99_99", "p99_999", "max"];
    let values = order.map(|key| latency[key].as_u64().unwrap_or_else(|| panic!("{key} in {latency}")));
    assert!(values[0] > 0 && values.is_sorted(), "{latency}");
    let mean = latency["mean"].as_f64().expect("a number");
    assert!((values[0] as f64..=values[7] as f64).contains(&mean), "{latency}");
    assert_eq!(names(folder.path()), ["result.json"]);
}

#[test]
fn stress() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("storm.json");
    // On a busy machine a second may end before anything was sent: then a longer storm.
    let storm = |seconds: u32| {
        let args = format!("stress emulated:size=4M --seconds {seconds} --seed 11");
        let output = run(&format!("{args} --json {}", path.display()));
        assert_eq!(status(&output), 0, "{}{}", stderr(&output), support::stdout(&output));
        assert!(support::stdout(&output).contains(&format!("slipring {args}")));
        json_file(&path)
    };
    let has_happened =
        |result: &Value| result["sent"].as_u64().min(result["register_cycles"].as_u64()) > Some(0);
    let result = [1, 5, 30].into_iter().map(storm).find(has_happened).expect("something in 30 s");
    let keys = [
        "sent",
        "completed",
        "aborted",
        "rejected",
        "lost",
        "duplicated",
        "register_cycles",
        "attach_cycles",
        "duration_s",
        "seed",
    ];
    assert_numbers(&result, &keys);
    let number = |key: &str| result[key].as_u64().expect("a count");
    assert_eq!((number("seed"), number("lost"), number("duplicated"), number("wrong")), (11, 0, 0, 0));
    assert_eq!(number("sent"), number("completed") + number("aborted"), "{result}");
    assert!(number("attach_cycles") > 0, "{result}");
}
