//! Namespaces in image files: what survives, what is write protected, what cannot be opened.

use std::fs;
use std::path::{Path, PathBuf};

use super::{DATA_AT, Host, pattern, small};
use crate::emulated::{Backing, Config, ConfigError, NamespaceConfig, address};
use crate::spec::command::Command;
use crate::spec::status::Status;
use crate::transport::Transport;

/// A file in the directory for temporary files that goes with the test.
struct Image(PathBuf);

impl Image {
    fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-{}-{name}", std::process::id()));
        fs::write(&path, bytes).expect("a temporary file");
        Self(path)
    }

    fn config(&self, lba_bytes: u32, read_only: bool) -> Config {
        let backing = Backing::Image { path: self.0.clone(), read_only };
        Config { namespaces: vec![NamespaceConfig { size_bytes: 0, lba_bytes, backing }], ..small() }
    }

    fn host(&self, lba_bytes: u32, read_only: bool) -> Host {
        let mut host = Host::ready(self.config(lba_bytes, read_only));
        host.create_pair(1, 8);
        host
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

impl Host {
    fn image_io(&mut self, command: Command) -> Status {
        let command = self.with_data(command);
        self.status(1, command)
    }
}

#[test]
fn writes_survive_the_device_in_both_block_sizes() {
    let image = Image::new("survive", &pattern(1, 64 << 10));
    for lba_bytes in [512, 4096_u32] {
        let bytes = pattern(lba_bytes as u8 ^ 0x33, 2 * lba_bytes as usize);
        let mut host = image.host(lba_bytes, false);
        host.block.write(DATA_AT, &bytes);
        assert_eq!(host.image_io(Command::write(1, 5, 2)), Status::SUCCESS);
        assert_eq!(host.image_io(Command::flush(1)), Status::SUCCESS);
        host.transport.set_bus_master(false).expect("off");
        drop(host);
        let at = 5 * lba_bytes as usize;
        let mut expected = pattern(1, 64 << 10);
        if lba_bytes == 4096 {
            let first = pattern(0x33, 1024);
            expected[5 * 512..][..1024].copy_from_slice(&first);
        }
        expected[at..at + bytes.len()].copy_from_slice(&bytes);
        assert!(fs::read(&image.0).expect("the image") == expected);
        let mut host = image.host(lba_bytes, true);
        assert_eq!(host.image_io(Command::read(1, 5, 2)), Status::SUCCESS);
        assert!(host.data(bytes.len()) == bytes);
        assert_eq!(host.image_io(Command::compare(1, 5, 2)), Status::SUCCESS);
        assert_eq!(host.image_io(Command::compare(1, 6, 2)), Status::COMPARE_FAILURE.with_dnr());
    }
}

#[test]
fn zeroes_and_deallocation_reach_the_image_and_keep_its_size() {
    let image = Image::new("zeroes", &vec![0xab; 32 << 10]);
    let mut host = image.host(512, false);
    assert_eq!(host.image_io(Command::write_zeroes(1, 1, 30, false)), Status::SUCCESS);
    let mut range = [0; 16];
    range[4] = 2;
    range[8] = 40;
    host.block.write(DATA_AT, &range);
    assert_eq!(host.image_io(Command::dataset_management(1, 1, true)), Status::SUCCESS);
    let mut expected = vec![0xab; 32 << 10];
    expected[512..31 * 512].fill(0);
    expected[40 * 512..42 * 512].fill(0);
    assert!(fs::read(&image.0).expect("the image") == expected);
}

#[test]
fn transfers_larger_than_the_copy_buffer_are_whole() {
    let bytes = pattern(8, 1 << 20);
    let image = Image::new("large", &bytes);
    let mut host = Host::ready(Config { mdts: 0, ..image.config(512, false) });
    host.create_pair(1, 8);
    let lists: Vec<u8> =
        (1..256_u64).flat_map(|i| (host.iova + DATA_AT as u64 + i * 4096).to_le_bytes()).collect();
    host.block.write(super::LISTS_AT, &lists);
    let prp2 = host.iova + super::LISTS_AT as u64;
    for command in [Command::read(1, 0, 2048), Command::compare(1, 0, 2048), Command::write(1, 0, 2048)] {
        let command = Command { prp2, ..host.with_data(command) };
        assert_eq!(host.status(1, command), Status::SUCCESS);
        assert!(host.data(1 << 20) == bytes);
    }
    assert!(fs::read(&image.0).expect("the image") == bytes);
}

#[test]
fn a_read_only_image_is_write_protected() {
    let image = Image::new("protected", &[0x11; 8192]);
    let mut permissions = fs::metadata(&image.0).expect("there").permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&image.0, permissions).expect("set");
    let mut host = image.host(512, true);
    let protected = Status::NAMESPACE_WRITE_PROTECTED.with_dnr();
    assert_eq!(host.image_io(Command::write(1, 0, 1)), protected);
    assert_eq!(host.image_io(Command::write_zeroes(1, 0, 1, false)), protected);
    host.block.write(DATA_AT, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host.image_io(Command::dataset_management(1, 1, true)), protected);
    assert_eq!(host.status(0, Command::format_nvm(1, 0, 0)), protected);
    assert_eq!(host.image_io(Command::flush(1)), Status::SUCCESS);
    assert_eq!(host.image_io(Command::read(1, 0, 1)), Status::SUCCESS);
    assert_eq!(host.data(512), [0x11; 512]);
    assert!(fs::read(&image.0).expect("the image") == [0x11; 8192]);
}

#[test]
fn an_image_that_shrinks_is_a_media_error() {
    let image = Image::new("shrinks", &[0; 8192]);
    let mut host = image.host(512, false);
    fs::OpenOptions::new().write(true).open(&image.0).expect("there").set_len(4096).expect("set");
    assert_eq!(host.image_io(Command::read(1, 8, 1)), Status::UNRECOVERED_READ_ERROR);
    assert_eq!(host.image_io(Command::read(1, 7, 1)), Status::SUCCESS);
}

#[test]
fn a_format_zeroes_the_image() {
    let image = Image::new("format", &[0x99; 12 << 10]);
    let mut host = image.host(512, false);
    host.admin_ok(Command::format_nvm(1, 1, 0));
    assert!(fs::read(&image.0).expect("the image") == vec![0; 12 << 10]);
    assert_eq!(host.image_io(Command::read(1, 2, 1)), Status::SUCCESS);
    assert_eq!(host.image_io(Command::read(1, 3, 1)), Status::LBA_OUT_OF_RANGE.with_dnr());
    // Five sectors are no number of larger blocks.
    let image = Image::new("format-odd", &[0x99; 5 * 512]);
    let mut host = image.host(512, false);
    assert_eq!(host.status(0, Command::format_nvm(1, 1, 0)), Status::INVALID_FORMAT.with_dnr());
    assert!(fs::read(&image.0).expect("the image") == vec![0x99; 5 * 512]);
}

fn refusal(path: &Path, options: &str) -> ConfigError {
    let config = address::parse(&format!("emulated:image={}{options}", path.display())).expect("an address");
    crate::emulated::new(config).expect_err("refused")
}

#[test]
fn images_that_will_not_do_are_refused_in_one_line() {
    let odd = Image::new("odd", &[0; 1000]);
    let empty = Image::new("empty", &[]);
    let sectors = Image::new("sectors", &[0; 512 * 9]);
    for (error, words) in [
        (refusal(Path::new("/nonexistent/x"), ""), "cannot be opened for reading and writing"),
        (refusal(Path::new("/nonexistent/x"), ",readonly"), "cannot be opened for reading: "),
        (refusal(&std::env::temp_dir(), ""), "is not a regular file"),
        (refusal(Path::new("/dev/null"), ""), "is not a regular file"),
        (refusal(&odd.0, ""), "has 1000 bytes: expected a multiple of the LBA size of 512 bytes"),
        (refusal(&empty.0, ""), "has 0 bytes"),
        (refusal(&sectors.0, ",lba=4096"), "has 4608 bytes: expected a multiple of the LBA size of 4096"),
    ] {
        let message = error.to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{message}");
    }
    assert!(
        crate::emulated::new(
            address::parse(&format!("emulated:image={}", sectors.0.display())).expect("valid")
        )
        .is_ok()
    );
}
