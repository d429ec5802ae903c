//! `slipring read` and `write`: what is written is read back, through files and pipes, in pieces of all sizes.

mod support;

use std::fs;
use std::path::Path;
use support::{names, pattern, run_with_input, status, stderr, succeed};

fn image(folder: &Path, bytes: usize) -> String {
    let path = folder.join("disk.img");
    fs::write(&path, vec![0; bytes]).expect("written");
    format!("emulated:image={}", path.display())
}

#[test]
fn files_go_into_an_image_and_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pattern(300 * 4096);
    let source = folder.path().join("source");
    fs::write(&source, &data).expect("written");
    for (keys, lba, blocks) in [("", 1000, 2400), (",lba=4096", 3, 300), (",mdts=1", 7, 2400)] {
        let address = image(folder.path(), 4 << 20) + keys;
        let copy = folder.path().join("copy");
        succeed(&format!("write {address} --lba {lba} --file {}", source.display()));
        succeed(&format!("read {address} --lba {lba} --blocks {blocks} --file {}", copy.display()));
        assert!(fs::read(&copy).expect("there") == data, "{keys}: what was written is read back");
        let raw = fs::read(folder.path().join("disk.img")).expect("there");
        let first = lba * if keys == ",lba=4096" { 4096 } else { 512 };
        assert!(raw[first..first + data.len()] == data, "{keys}: it is where it belongs");
        let around = raw[..first].iter().chain(&raw[first + data.len()..]);
        assert!(around.copied().all(|byte| byte == 0), "{keys}: and nowhere else");
        fs::remove_file(&copy).expect("there");
    }
    assert_eq!(names(folder.path()), ["disk.img", "source"]);
}

#[test]
fn pieces_of_any_size_and_any_number_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = pattern(512 * 501);
    for (size, depth) in [("512", 1), ("4K", 3), ("36K", 2), ("256K", 8)] {
        let address = image(folder.path(), 512 * 1024);
        let args = format!("write {address} --lba 5 --blocks 501 -o {size} -q {depth}");
        let output = run_with_input(&args, &data);
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        let output = succeed(&format!("read {address} --lba 5 --blocks 501 -o {size} -q {depth}"));
        assert!(output.stdout == data, "{size} bytes, {depth} at a time");
    }
}

#[test]
fn writing_reads_no_more_of_its_input_than_it_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = image(folder.path(), 512 * 16);
    let output = run_with_input(&format!("write {address} --blocks 2"), &[7; 512 * 5]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let read = succeed(&format!("read {address}")).stdout;
    assert_eq!(read.len(), 512 * 16, "without --blocks everything is read");
    assert!(read[..1024].iter().all(|byte| *byte == 7) && read[1024..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure_worth_words() {
    let mut child = support::command("read emulated:size=16M")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!((status(&output), stderr(&output)), (141, String::new()));
}
