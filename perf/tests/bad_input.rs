//! What the command refuses: with status 2 and one line that says what was expected, leaving nothing behind.

mod support;

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::process::Command;
use support::{assert_refused, names, refuse, run, status, stderr};

const SMALL: &str = "emulated:size=1M";

#[test]
fn addresses() {
    refuse("identify ffff:ff:1f.7", &["no PCI device ffff:ff:1f.7", "slipring list"]);
    refuse("identify 0000:01:00.9", &["0000:01:00.9", "PCI address", "emulated"]);
    refuse("bind ffff:ff:1f.7", &["no PCI device ffff:ff:1f.7"]);
    refuse("unbind nvme0", &["nvme0", "expected domain:bus:device.function"]);
    refuse("perf nvme0", &["nvme0", "no device address", "emulated"]);
    refuse("stress emulatedd", &["emulatedd", "emulated"]);
    refuse("read emulated:speed=9 --blocks 1", &["speed", "expected one of", "size"]);
    refuse("identify emulated:size=banana", &["banana", "expected", "64M"]);
    refuse("identify emulated:size=1000", &["1000", "multiple", "512"]);
    refuse("identify emulated:lba=520", &["520", "512 or 4096"]);
    refuse("identify emulated:namespaces=2,image=x", &["namespaces", "image"]);
    refuse("identify emulated:image=/nowhere/at/all", &["/nowhere/at/all", "No such file", "expected"]);
}

#[test]
fn arguments() {
    refuse("frobnicate", &["frobnicate"]);
    refuse("identify", &["ADDR"]);
    refuse("perf emulated --speed 9", &["--speed"]);
    refuse("perf emulated -w sideways", &["sideways", "randread"]);
    refuse("perf emulated -M 101 -w rw", &["101", "100"]);
    refuse("perf emulated -t banana", &["banana", "seconds"]);
    refuse("perf emulated --rate 0", &["0", "per second"]);
    refuse("perf emulated -M 30", &["-M", "randread", "rw"]);
    refuse("perf emulated -t 0", &["0", "expected seconds"]);
    refuse("cuse emulated --mode 999", &["999", "octal"]);
    refuse("cuse emulated --group nobody-has-this", &["nobody-has-this", "expected"]);
    refuse("cuse emulated emulated --name nvme7", &["--name", "one"]);
    refuse("cuse nvme0", &["nvme0", "no device address"]);
    refuse("stress emulated --seconds 0", &["0", "expected seconds"]);
    refuse("stress emulated --seed x", &["x", "seed"]);
}

#[test]
fn images() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    fs::write(&image, vec![0; 1_000_000]).expect("written");
    let address = format!("emulated:image={}", image.display());
    refuse(&format!("identify {address}"), &["1000000", "multiple", "512"]);
    fs::write(&image, vec![0; 512 * 1001]).expect("written");
    refuse(&format!("perf {address},lba=4096"), &["512512", "multiple", "4096"]);
    let source = folder.path().join("source");
    fs::write(&source, vec![1; 512]).expect("written");
    let write = format!("write {address},readonly --file {}", source.display());
    refuse(&write, &["namespace 1", "read only"]);
    for pattern in ["write", "randwrite", "rw", "randrw"] {
        refuse(&format!("perf {address},readonly -w {pattern}"), &["read only", pattern, "randread"]);
    }
    assert!(fs::read(&image).expect("readable").iter().all(|byte| *byte == 0), "nothing was written");
    refuse(&format!("identify emulated:image={}", folder.path().display()), &["not a regular file"]);
}

#[test]
fn blocks_past_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("disk.img");
    fs::write(&image, vec![0; 512 * 64]).expect("written");
    let address = format!("emulated:image={}", image.display());
    let source = folder.path().join("source");
    fs::write(&source, vec![1; 512 * 8]).expect("written");
    for (lba, blocks) in [(57, 8), (64, 1), (0, 65), (u64::MAX, 2)] {
        refuse(&format!("read {address} --lba {lba} --blocks {blocks}"), &["past the end", "below LBA 64"]);
    }
    let write = format!("write {address} --lba 60 --file {}", source.display());
    refuse(&write, &["8 blocks from LBA 60", "past the end of namespace 1", "below LBA 64"]);
    assert!(fs::read(&image).expect("readable").iter().all(|byte| *byte == 0), "nothing was written");
    refuse(&format!("read {address} --ns 2 --blocks 1"), &["no active namespace 2", "expected one of 1"]);
    refuse(&format!("perf {address} --ns 9"), &["no active namespace 9", "expected one of 1"]);
    refuse(&format!("read {address} --blocks 0"), &["0", "--blocks"]);
}

#[test]
fn short_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    fs::write(&source, vec![1; 700]).expect("written");
    let file = source.display();
    refuse(
        &format!("write {SMALL} --blocks 2 --file {file}"),
        &["expected 1024 bytes for 2 blocks", "got 700"],
    );
    refuse(&format!("write {SMALL} --file {file}"), &["700 bytes", "multiple of 512"]);
    refuse(&format!("write {SMALL} --file {file}.not"), &["cannot read", "No such file"]);
    refuse(&format!("write {SMALL} --file {}", folder.path().display()), &["folder"]);
    refuse(&format!("write {SMALL}"), &["standard input", "--blocks"]);
    let args = format!("write {SMALL} --blocks 3");
    let output = support::run_with_input(&args, &[1; 1100]);
    assert_refused(
        &args,
        &output,
        &["expected 1536 bytes for 3 blocks", "got 1100", "first 2 blocks were written"],
    );
}

#[test]
fn queue_depths_and_sizes() {
    refuse(&format!("perf {SMALL} -q 0"), &["queue depth 0", "expected 1 or more"]);
    refuse(&format!("perf {SMALL},mqes=64 -q 64"), &["queue depth 64", "1 to 63"]);
    refuse(&format!("perf {SMALL} -o 0"), &["I/O size 0"]);
    refuse(&format!("perf {SMALL} -o 1000"), &["1000", "multiple of its 512"]);
    refuse(&format!("perf {SMALL},mdts=1 -o 16K"), &["16384", "8192 bytes at a time"]);
    refuse(&format!("perf {SMALL} -P 0"), &["0", "1..=1024"]);
    refuse(&format!("perf {SMALL},queues=1 -P 2"), &["2 queue pairs are needed", "grants 1", "-P"]);
    refuse("perf emulated:size=64K -o 64K -P 2", &["too small", "room for 0"]);
    refuse("perf emulated:size=64K -q 32 --verify -w rw", &["too small", "room for 16", "expected 32"]);
    refuse(&format!("read {SMALL} --blocks 8 -q 0"), &["queue depth 0", "1 to 1023"]);
    refuse(&format!("read {SMALL} --blocks 8 -o 700"), &["700", "multiple of 512"]);
}

#[test]
fn cores() {
    refuse(&format!("perf {SMALL} -c 0x40000000000000000000"), &["unknown cores 78", "may use"]);
    refuse(&format!("perf {SMALL} -c [998,999]"), &["unknown cores 998, 999", "may use"]);
    refuse(&format!("perf {SMALL} -c 0"), &["names no core", "0x3"]);
    refuse(&format!("perf {SMALL} -c zebra"), &["zebra", "0x3"]);
    refuse(&format!("perf {SMALL} -c [0"), &["[0", "0x3"]);
}

#[test]
fn places_that_cannot_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("no/such/folder/result.json");
    for args in ["perf emulated:size=1M", "stress emulated:size=1M"] {
        let args = format!("{args} --json {}", nowhere.display());
        refuse(&args, &["cannot write", "result.json", "No such file"]);
        let args =
            format!("{} --json {}", &args[..args.find(" --json").expect("there")], folder.path().display());
        refuse(&args, &["cannot write", "folder"]);
    }
    let read = format!("read {SMALL} --blocks 8 --file {}", nowhere.display());
    refuse(&read, &["cannot write", "result.json"]);
    assert!(names(folder.path()).is_empty(), "nothing is left behind");
}

#[test]
fn full_disks() {
    let output = run(&format!("perf {SMALL} -t 0.1 --quiet --json /dev/full"));
    assert_eq!(status(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("cannot write /dev/full: No space left"), "{}", stderr(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    let kind = fs::metadata("/dev/full").expect("still there").file_type();
    assert!(kind.is_char_device(), "a device is written to, not replaced");
    refuse(
        &format!("read {SMALL} --blocks 8 --file /dev/full"),
        &["cannot write /dev/full", "No space left"],
    );
    let list = Command::new("sh")
        .args(["-c", concat!(env!("CARGO_BIN_EXE_slipring"), " list > /dev/full")])
        .output()
        .expect("runs");
    assert_refused("list > /dev/full", &list, &["standard output", "No space left"]);
}

/// A limit on the size of files is as good as a full disk: writing fails when it has begun.
#[test]
fn a_file_that_does_not_fit_leaves_what_was_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("blocks");
    fs::write(&place, b"what was there").expect("written");
    // 4 MiB are allowed, which is more than any piece of the driver's memory has; 8 MiB are read.
    let script = format!(
        "trap '' XFSZ; ulimit -f 8192; exec {} read emulated:size=8M -o 64K --file {}",
        env!("CARGO_BIN_EXE_slipring"),
        place.display()
    );
    let output = Command::new("sh").args(["-c", &script]).output().expect("runs");
    assert_refused("read", &output, &["cannot write", "File too large"]);
    assert_eq!(fs::read(&place).expect("still there"), b"what was there");
    assert_eq!(names(folder.path()), ["blocks"]);
}
