//! The driver on a controller that nobody here wrote, through the kernel's VFIO: it says what nvme-cli says, and moves the same bytes as the kernel's driver.
#![forbid(unsafe_code)]

use crate::group::{Group, Test, User};
use crate::hardware::{Controller, Media, Namespace};
use crate::inside::driver::{attach, attach_bound, perf_verifies};
use crate::inside::{Inside, SLIPRING, give, nvme, output, pci, run, wait_for};
use serde_json::Value;
use slipring::ctrlr::{Ctrlr, CtrlrOptions, admin};
use slipring::dma::DmaSlice;
use slipring::poller::{Poller, QpairOptions};
use slipring::ring::{LockFree, Outcome};
use slipring::spec::feature::FeatureId;
use slipring::spec::status::Status;
use slipring::transport::vfio::{VfioTransport, install_sigbus_guard};
use std::fs;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(30);
const USER: u32 = 1000;
/// The sector that cannot be read.
const UNREADABLE: u64 = 1000;

pub fn group() -> Group {
    let test = |name, body| Test::new(name, body).deadline(180);
    Group::new("vfio")
        .controller(
            Controller::new("nv0").serial("SER0000").media(Media::disk(64).error_at("read", UNREADABLE)),
        )
        .controller(
            Controller::new("nv1")
                .serial("SER0001")
                .namespace(Namespace::new(1, Media::disk(64)))
                .namespace(Namespace::new(2, Media::disk(64)).lba_bytes(4096)),
        )
        .controller(Controller::new("slow").media(Media::slow(64, Duration::from_secs(2))))
        .controller(Controller::new("void").serial("SER0003").media(Media::slow(64, Duration::ZERO)))
        .test(test("identify_smart_and_features_agree_with_nvme_cli", agrees))
        .test(test("the_kernels_driver_reads_the_same_bytes_and_the_other_way_round", same_bytes))
        .test(test("perf_verifies_polled_and_with_interrupts", perf))
        .test(test("every_offset_and_length_arrives_whole", offsets))
        .test(test("a_storm_loses_nothing", storm))
        .test(test("compare_prints_its_table_and_what_it_is_worth", compare))
        .test(test("a_media_error_reaches_the_caller_as_its_status", media_error))
        .test(test("a_slow_device_is_detached_by_its_deadline", slow_device))
        .test(test("a_late_doorbell_goes_nowhere_when_memory_decoding_is_off", decoding_off))
        .test(test("a_killed_process_leaves_a_device_that_attaches", killed))
        .test(test("with_the_groups_permission_no_root_is_needed", ordinary_user).user(User {
            id: USER,
            memlock: 256 << 20,
            prepare: give_nv1,
        }))
}

/// Every key that both have, apart from those that nvme-cli prints in another form, has the same value.
fn assert_same(what: &str, ours: &Value, theirs: &Value, least: usize) {
    let (ours, theirs) = (ours.as_object().expect("an object"), theirs.as_object().expect("an object"));
    let mut compared = 0;
    for (key, value) in ours {
        let Some(other) = theirs.get(key) else { continue };
        let same = match (value, other) {
            // Identifiers come with or without hyphens.
            (Value::String(ours), Value::String(theirs)) => {
                ours.trim().replace('-', "") == theirs.trim().replace('-', "")
            }
            (Value::Number(_), Value::Number(_)) => value == other,
            // Lists and big numbers have other forms.
            _ => continue,
        };
        assert!(same, "{what}: {key} is {value} here, and {other} in nvme-cli");
        compared += 1;
    }
    assert!(compared >= least, "{what}: only {compared} values could be compared");
}

fn agrees(inside: &Inside) {
    for (id, nsids) in [("nv0", &[1][..]), ("nv1", &[1, 2][..])] {
        let address = inside.address(id);
        pci::bind(&address, "nvme");
        let name = wait_for("a name", pci::KERNEL, || pci::kernel_name(&address));
        let node = format!("/dev/{name}");
        let ctrlr = nvme(&["id-ctrl", &node]);
        let namespaces: Vec<Value> =
            nsids.iter().map(|nsid| nvme(&["id-ns", &node, &format!("--namespace-id={nsid}")])).collect();
        let smart = nvme(&["smart-log", &node]);
        let features = FEATURES.map(|feature| (feature, feature_by_nvme_cli(&node, feature)));

        pci::bind(&address, "vfio-pci");
        let ours: Value =
            serde_json::from_str(&run(SLIPRING, &["identify", &address, "--json"])).expect("JSON");
        assert_same(id, &ours, &ctrlr, 30);
        let listed = ours["namespaces"].as_array().expect("a list");
        assert_eq!(listed.len(), nsids.len(), "{id}'s namespaces");
        for (ours, theirs) in listed.iter().zip(&namespaces) {
            assert_same(&format!("{id} namespace {}", ours["nsid"]), ours, theirs, 15);
        }
        let ctrlr = attach_bound(inside, id);
        let mut poller = Poller::new(&ctrlr, "guest").expect("free");
        let log = poller.call(admin::smart_log(), DEADLINE).expect("SMART");
        for (key, value) in [
            ("temperature", log.temperature_k().into()),
            ("critical_warning", log.critical_warning.into()),
            ("avail_spare", log.avail_spare.into()),
            ("spare_thresh", log.spare_thresh.into()),
            ("percent_used", log.percent_used.into()),
            ("warning_temp_time", u64::from(log.warning_temp_time)),
            ("critical_comp_time", u64::from(log.critical_comp_time)),
        ] {
            assert_eq!(smart[key].as_u64(), Some(value), "{id}: {key} of the SMART log");
        }
        for (feature, theirs) in features {
            let ours = poller.call(admin::get_feature(feature, 0), DEADLINE).expect("the feature");
            assert_eq!(ours, theirs, "{id}: {feature:?}");
        }
        poller.detach(DEADLINE).expect("detached");
    }
}

/// Those that neither driver sets.
const FEATURES: [FeatureId; 6] = [
    FeatureId::ARBITRATION,
    FeatureId::POWER_MANAGEMENT,
    FeatureId::TEMPERATURE_THRESHOLD,
    FeatureId::VOLATILE_WRITE_CACHE,
    FeatureId::NUMBER_OF_QUEUES,
    FeatureId::WRITE_ATOMICITY,
];

fn feature_by_nvme_cli(node: &str, feature: FeatureId) -> u32 {
    let said = run("nvme", &["get-feature", node, &format!("--feature-id={}", feature.0)]);
    let value = said.trim().rsplit(':').next().unwrap_or_default().trim_start_matches("0x");
    u32::from_str_radix(value, 16).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// Ten MiB that differ in every sector.
fn pattern(seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..10 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn same_bytes(inside: &Inside) {
    let address = inside.address("nv1");
    for (nsid, lba_bytes) in [(1, 512), (2, 4096)] {
        let ns = format!("--ns={nsid}");
        let blocks = format!("--blocks={}", (10 << 20) / lba_bytes);
        // Ours first: an ext4 image, made here, that the kernel then mounts.
        run("modprobe", &["-a", "crc32c_generic", "ext4"]);
        fs::write("/tmp/image", vec![0; 10 << 20]).expect("room");
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", "/tmp/image"]);
        pci::bind(&address, "vfio-pci");
        run(SLIPRING, &["write", &address, &ns, "--lba=0", &blocks, "--file=/tmp/image"]);
        pci::bind(&address, "nvme");
        let node = pci::block_device(&address, nsid);
        run("e2fsck", &["-fn", &node]);
        run("mount", &["-t", "ext4", &node, "/mnt"]);
        let text = format!("written by the kernel on namespace {nsid}\n").repeat(5000);
        fs::write("/mnt/file", &text).expect("written");
        run("umount", &["/mnt"]);
        // Then the kernel's, read back by us.
        let theirs = read_device(&node);
        pci::bind(&address, "vfio-pci");
        run(SLIPRING, &["read", &address, &ns, "--lba=0", &blocks, "--file=/tmp/back"]);
        let ours = fs::read("/tmp/back").expect("read");
        assert!(ours == theirs, "namespace {nsid}: what the kernel's driver wrote is read back");
        run("e2fsck", &["-fn", "/tmp/back"]);
        // And random bytes, every one of them.
        let bytes = pattern(nsid.into());
        fs::write("/tmp/image", &bytes).expect("room");
        run(SLIPRING, &["write", &address, &ns, "--lba=0", &blocks, "--file=/tmp/image"]);
        pci::bind(&address, "nvme");
        assert!(
            read_device(&pci::block_device(&address, nsid)) == bytes,
            "namespace {nsid}: the kernel reads what we wrote"
        );
    }
}

fn read_device(node: &str) -> Vec<u8> {
    run("dd", &[&format!("if={node}"), "of=/tmp/theirs", "bs=1048576", "count=10"]);
    fs::read("/tmp/theirs").expect("read")
}

fn perf(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "vfio-pci");
    for (depth, size, mode) in [
        ("1", "4096", None),
        ("32", "131072", None),
        ("128", "4096", None),
        ("1", "524288", None),
        ("1", "524288", Some("--interrupts")),
        ("32", "4096", Some("--interrupts")),
        ("128", "4096", Some("--interrupts")),
    ] {
        let mut words = vec!["-q", depth, "-o", size, "--ns=2"];
        words.extend(mode);
        perf_verifies(&address, &words);
    }
}

/// Offsets that are not those of pages, lengths up to the limit: compared byte by byte, since QEMU completes DMA to nowhere with success.
fn offsets(inside: &Inside) {
    let ctrlr = attach(inside, "nv1");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = ctrlr.namespace(1).expect("namespace 1");
    let limit = ctrlr.limits().expect("limits").max_transfer_bytes;
    let bytes = pattern(77);
    for (offset, len) in [
        (0, 512),
        (4, 512),
        (2048, 4096),
        (4092, 4096),
        (1020, 8192),
        (516, 65_536),
        (8, limit),
        (4000, limit - 4096),
    ] {
        let mut transfer = |writes: bool, content: &[u8]| -> Vec<u8> {
            let buffer = ctrlr.allocate(offset + len + 4096).expect("memory");
            buffer.fill(0xEE);
            buffer.write_at(offset, content);
            let data = DmaSlice::new(buffer, offset, len).expect("a slice");
            let submit = if writes {
                qpair.write(&namespace, 64, data, 1)
            } else {
                qpair.read(&namespace, 64, data, 1)
            };
            submit.expect("submitted");
            let mut back = Vec::new();
            let drained = qpair.drain(DEADLINE, |io| {
                assert!(io.is_success(), "{:?}", io.outcome);
                back = io.data.expect("data").into_buffer().to_vec();
            });
            assert!(drained.expect("alive"), "it ended");
            back
        };
        transfer(true, &bytes[..len]);
        let back = transfer(false, &vec![0; len]);
        assert!(back[offset..offset + len] == bytes[..len], "offset {offset}, {len} bytes");
        assert!(
            back[..offset].iter().chain(&back[offset + len..]).all(|byte| *byte == 0xEE),
            "nothing beside: {offset}, {len}"
        );
    }
    drop(qpair);
    poller.detach(DEADLINE).expect("detached");
}

/// On a medium that takes no time: QEMU 7.2 frees queues whose reads are still in flight when a doorbell comes just before a reset, and crashes in every
/// other storm on a medium that takes some.
fn storm(inside: &Inside) {
    let address = inside.address("void");
    pci::bind(&address, "vfio-pci");
    run(SLIPRING, &["stress", &address, "--seconds=30", "--seed=3353", "--json=/tmp/stress.json"]);
    let json: Value =
        serde_json::from_str(&fs::read_to_string("/tmp/stress.json").expect("written")).expect("JSON");
    assert_eq!((json["lost"].as_u64(), json["duplicated"].as_u64()), (Some(0), Some(0)), "{json}");
    assert!(json["sent"].as_u64() > Some(100) && json["attach_cycles"].as_u64() > Some(3), "{json}");
}

fn compare(inside: &Inside) {
    let address = inside.address("void");
    pci::bind(&address, "vfio-pci");
    let printed =
        run(SLIPRING, &["compare", &address, "--rounds=1", "--seconds=20", "--json=/tmp/compare.json"]);
    for scheme in ["lockfree", "spinlock", "spinlock-flag", "robust-mutex", "(control)"] {
        assert!(printed.contains(scheme), "the table has {scheme}: {printed}");
    }
    assert!(printed.contains("mean little") && printed.contains("QEMU NVMe Ctrl"), "{printed}");
    let json: Value =
        serde_json::from_str(&fs::read_to_string("/tmp/compare.json").expect("written")).expect("JSON");
    for scheme in json["schemes"].as_array().expect("a list") {
        assert_eq!((scheme["lost"].as_u64(), scheme["duplicated"].as_u64()), (Some(0), Some(0)), "{scheme}");
        assert!(
            scheme["sent"].as_u64() > Some(0) && scheme["messages_per_s"].as_f64() > Some(0.0),
            "{scheme}"
        );
    }
    assert_eq!(json["machine"]["emulated"].as_array().map(Vec::len), Some(2), "{json}");
}

fn media_error(inside: &Inside) {
    let ctrlr = attach(inside, "nv0");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = ctrlr.namespace(1).expect("namespace 1");
    for (lba, expected) in [(UNREADABLE, Status::UNRECOVERED_READ_ERROR), (UNREADABLE + 1, Status::SUCCESS)] {
        qpair.read(&namespace, lba, ctrlr.allocate(512).expect("memory").into(), lba).expect("submitted");
        let mut status = None;
        let drained = qpair.drain(DEADLINE, |io| {
            let Outcome::Completed(completion) = io.outcome else { panic!("the device answers") };
            status = Some(completion.status().without_dnr());
        });
        assert!(drained.expect("alive"));
        assert_eq!(status, Some(expected), "sector {lba}");
    }
    drop(qpair);
    poller.detach(DEADLINE).expect("detached");
}

fn slow_device(inside: &Inside) {
    let ctrlr = attach(inside, "slow");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    let namespace = ctrlr.namespaces()[0];
    for token in 0..8 {
        qpair.read(&namespace, token, ctrlr.allocate(512).expect("memory").into(), token).expect("submitted");
    }
    qpair.commit();
    let begun = Instant::now();
    poller.detach(Duration::from_secs(10)).expect("by its deadline");
    assert!(begun.elapsed() < Duration::from_secs(10));
    let mut back = 0;
    while qpair.poll(8, |_| back += 1).is_ok() {}
    assert_eq!(back, 8, "every request came back");
}

fn decoding_off(inside: &Inside) {
    install_sigbus_guard().expect("installed");
    pci::bind(&inside.address("nv1"), "vfio-pci");
    let transport = VfioTransport::open(inside.address("nv1").parse().expect("an address")).expect("opened");
    let ctrlr: Ctrlr<LockFree> = Ctrlr::attach(transport.clone(), CtrlrOptions::default()).expect("attached");
    let mut poller = Poller::new(&ctrlr, "guest").expect("free");
    let mut qpair = poller.queue_pair(&QpairOptions::default()).expect("a queue pair");
    transport.set_memory_decoding(false).expect("switched off");
    qpair.read(&ctrlr.namespaces()[0], 0, ctrlr.allocate(512).expect("memory").into(), 7).expect("submitted");
    // The doorbell: without the guard this would be the end of the process.
    qpair.commit();
    let begun = Instant::now();
    let mut tokens = Vec::new();
    while tokens.is_empty() {
        // An error, once it is noticed; the requests come back all the same.
        let _ = poller.poll(Instant::now());
        let _ = qpair.poll(8, |io| tokens.push((io.token, matches!(io.outcome, Outcome::Aborted(_)))));
        assert!(begun.elapsed() < DEADLINE, "noticed");
    }
    assert_eq!(tokens, [(7, true)]);
    assert!(
        ctrlr.failure().is_some_and(|failure| failure.to_string().contains("gone")),
        "{:?}",
        ctrlr.failure()
    );
    drop(qpair);
    poller.detach(DEADLINE).expect("detached");
    drop((ctrlr, transport));
    let ctrlr = attach_bound(inside, "nv1");
    ctrlr.detach(DEADLINE).expect("it attaches again, and detaches");
}

fn killed(inside: &Inside) {
    let address = inside.address("nv1");
    pci::bind(&address, "vfio-pci");
    let mut child = std::process::Command::new(SLIPRING)
        .args(["perf", &address, "-q", "32", "-o", "4096", "-w", "randwrite", "-t", "60", "--quiet"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    std::thread::sleep(Duration::from_secs(3));
    let second = output(SLIPRING, &["identify", &address]);
    assert_eq!(second.status.code(), Some(2), "in use by another process");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("in use by another process"), "{said}");
    child.kill().expect("killed");
    child.wait().expect("gone");
    let identity = run(SLIPRING, &["identify", &address]);
    assert!(identity.contains("SER0001"), "{identity}");
}

fn give_nv1(inside: &Inside) {
    for id in ["nv0", "nv1"] {
        let address = inside.address(id);
        pci::bind(&address, "vfio-pci");
        let node = pci::group_node(pci::group(&address));
        wait_for("the group's node", pci::KERNEL, || node.exists().then_some(()));
        if id == "nv1" {
            give(&node, USER);
        }
    }
}

fn ordinary_user(inside: &Inside) {
    let identity = run(SLIPRING, &["identify", &inside.address("nv1")]);
    assert!(identity.contains("SER0001"), "{identity}");
    let refused = output(SLIPRING, &["identify", &inside.address("nv0")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("no permission to open /dev/vfio/") && said.contains("sudo chown"), "{said}");
}
