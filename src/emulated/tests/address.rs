//! Addresses, and what is wrong with them.

use std::path::PathBuf;
use std::time::Duration;

use crate::emulated::address::{is_emulated, parse};
use crate::emulated::{Backing, Config, Latency, NamespaceConfig, QueueKind};

#[test]
fn the_bare_word_is_the_default() {
    assert_eq!(parse("emulated").expect("valid"), Config::default());
    assert!(is_emulated("emulated") && is_emulated("emulated:lba=512"));
    assert!(!is_emulated("emulated2") && !is_emulated("0000:01:00.0"));
}

#[test]
fn every_key_reaches_its_field() {
    let address = "emulated:size=64M,lba=4096,namespaces=3,mdts=0,queues=2,mqes=65536,dstrd=0,kas=10,crdt=1/10,nssr,latency_us=80,\
                   admin_latency_us=9,serial=A B";
    let config = parse(address).expect("valid");
    let namespace = NamespaceConfig { size_bytes: 64 << 20, lba_bytes: 4096, backing: Backing::Ram };
    let latency = |queue, delay_us| Latency { queue, opcode: None, delay: Duration::from_micros(delay_us) };
    assert_eq!(
        config,
        Config {
            address: address.to_owned(),
            namespaces: vec![namespace; 3],
            mdts: 0,
            io_queues: 2,
            mqes: 65_536,
            dstrd: 0,
            kas: 10,
            crdt: [1, 10, 0],
            nssr: Some(Duration::ZERO),
            latencies: vec![latency(QueueKind::Io, 80), latency(QueueKind::Admin, 9)],
            serial: "A B".to_owned(),
            ..Config::default()
        }
    );
}

#[test]
fn sizes_are_powers_of_1024() {
    for (text, bytes) in [("4096", 4096), ("8k", 8 << 10), ("3M", 3 << 20), ("2G", 2 << 30), ("1T", 1 << 40)]
    {
        let config = parse(&format!("emulated:size={text}")).expect("valid");
        assert_eq!(config.namespaces[0].size_bytes, bytes);
    }
}

#[test]
fn each_image_is_a_namespace() {
    let config = parse("emulated:image=/a b,lba=4096,image=c=d,readonly").expect("valid");
    let image = |path: &str| NamespaceConfig {
        size_bytes: 0,
        lba_bytes: 4096,
        backing: Backing::Image { path: PathBuf::from(path), read_only: true },
    };
    assert_eq!(config.namespaces, [image("/a b"), image("c=d")]);
}

#[test]
fn what_is_wrong_is_said_in_one_line() {
    for (address, words) in [
        ("emulatedx", "is no address of an emulated controller: expected \"emulated\""),
        ("nvme", "is no address of an emulated controller"),
        ("emulated:", "unknown key \"\": expected one of size, lba,"),
        (
            "emulated:colour=red",
            "unknown key \"colour\": expected one of size, lba, namespaces, image, readonly",
        ),
        ("emulated:size", "size=\"\" cannot be used: expected a value"),
        ("emulated:size=", "size=\"\" cannot be used: expected a value"),
        ("emulated:size=1X", "size=\"1X\" cannot be used: expected a number of bytes such as 4096"),
        ("emulated:size=G", "size=\"G\" cannot be used"),
        ("emulated:size=99999999999T", "cannot be used"),
        ("emulated:size=1T,size=2T", "size and size cannot be given together: it may be given once"),
        ("emulated:size=0", "size=\"0\" cannot be used: expected a multiple of the LBA size of 512 bytes"),
        ("emulated:size=1000", "expected a multiple of the LBA size of 512 bytes"),
        ("emulated:size=128T", "expected at most 64T"),
        ("emulated:lba=520", "lba=\"520\" cannot be used: expected 512 or 4096"),
        ("emulated:lba=-1", "lba=\"-1\" cannot be used: expected a whole number below 2^32"),
        ("emulated:namespaces=257", "namespaces=\"257\" cannot be used: expected at most 256"),
        ("emulated:mdts=21", "mdts=\"21\" cannot be used: expected 0 to 20"),
        ("emulated:queues=0", "queues=\"0\" cannot be used: expected 1 to 1024"),
        ("emulated:mqes=1", "mqes=\"1\" cannot be used: expected 2 to 65536"),
        ("emulated:dstrd=10", "dstrd=\"10\" cannot be used: expected 0 to 9"),
        ("emulated:kas=65536", "kas=\"65536\" cannot be used: expected a whole number below 2^16"),
        ("emulated:crdt=1/2/3/4", "crdt=\"1/2/3/4\" cannot be used: expected one to three whole numbers"),
        ("emulated:crdt=1//3", "such as 1/10/50"),
        ("emulated:nssr=yes", "nssr=\"yes\" cannot be used: expected no value"),
        ("emulated:latency_us=fast", "latency_us=\"fast\" cannot be used: expected a whole number"),
        ("emulated:serial=123456789012345678901", "expected at most 20 printable ASCII characters"),
        ("emulated:readonly", "readonly=\"\" cannot be used: expected at least one image=PATH"),
        ("emulated:image=a,readonly=yes", "readonly=\"yes\" cannot be used: expected no value"),
        (
            "emulated:image=a,size=1G",
            "size and image cannot be given together: the size is that of the image",
        ),
        ("emulated:image=a,namespaces=1", "namespaces and image cannot be given together"),
    ] {
        let message = parse(address).expect_err(address).to_string();
        assert!(message.contains(words), "{address}: {message}");
        assert!(!message.contains('\n'), "{address}: {message}");
    }
}

#[test]
fn no_namespace_at_all_is_allowed() {
    assert_eq!(parse("emulated:namespaces=0").expect("valid").namespaces, []);
}
