//! Real input: an ext4 file system with files in it goes through the driver into an image file and comes back whole, while another thread asks for SMART
//! data and registers and unregisters without a pause.
//!
//! `mkfs.ext4 -d` makes the file system, `e2fsck -fn` judges what comes back; both are part of e2fsprogs.

mod support;

use slipring::ctrlr::{Ctrlr, CtrlrOptions, Namespace, admin};
use slipring::dma::{DmaBuffer, DmaSlice};
use slipring::emulated::{Backing, Config, NamespaceConfig};
use slipring::poller::{QpairOptions, QueuePair, SubmitReason};
use slipring::ring::LockFree;
use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use support::{DEADLINE, PollThread, Rig};

const IMAGE_BYTES: u64 = 48 << 20;
/// Commands in flight.
const DEPTH: usize = 16;

/// A directory that is gone at the end of the test.
struct Workshop(PathBuf);

impl Workshop {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("slipring-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a directory for the test's files");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program of e2fsprogs, wherever it is installed.
fn e2fsprogs(program: &str, arguments: &[&str]) {
    let mut places = vec![PathBuf::from(program)];
    places.extend(["/sbin", "/usr/sbin", "/usr/local/sbin"].map(|folder| Path::new(folder).join(program)));
    for place in places {
        match Command::new(&place).args(arguments).output() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => panic!("{} could not be run: {error}", place.display()),
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text);
                assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
                return;
            }
        }
    }
    panic!("{program} is not installed; install it with: sudo apt-get install e2fsprogs");
}

/// Bytes that look like no others: no two blocks of any file are the same.
fn contents(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Files of all sizes: none, less than a block, a few, many; in directories, with a hard and a symbolic link.
fn fill(root: &Path) {
    for (index, len) in (0_u64..).zip([0, 1, 511, 512, 513, 4095, 4096, 4097, 65_536, 100_001, 1 << 20]) {
        let folder = root.join(format!("folder{}", index % 3));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join(format!("file{index}-{len}")), contents(index + 1, len)).expect("a file");
    }
    for (index, mebibytes) in [3, 7, 12].into_iter().enumerate() {
        let bytes = contents(100 + index as u64, mebibytes << 20);
        fs::write(root.join(format!("large{index}")), bytes).expect("a file");
    }
    let many = root.join("many");
    fs::create_dir_all(&many).expect("a folder");
    for index in 0..300 {
        fs::write(many.join(format!("{index:04}")), contents(1000 + index, (index * 37) as usize))
            .expect("a file");
    }
    fs::hard_link(root.join("large0"), many.join("again")).expect("a hard link");
    std::os::unix::fs::symlink("../large1", many.join("link")).expect("a symbolic link");
}

/// How one command's buffer and length are chosen.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes that it transfers.
    len: usize,
    /// Where they begin in the buffer.
    offset: usize,
    /// PRP list pages that describe them: none when two entries do.
    lists: usize,
}

const fn shape(len: usize, offset: usize, lists: usize) -> Shape {
    Shape { len, offset, lists }
}

/// With pages of 4 KiB, so that 512 entries fit one page of a list.
const SHAPES: [Shape; 12] = [
    shape(4096, 0, 0),
    shape(4096, 2052, 0),
    shape(8192, 0, 0),
    shape(8192, 4, 1),
    shape(65_536, 0, 1),
    shape(65_536, 1540, 1),
    shape(131_072, 4092, 1),
    shape(1 << 20, 0, 1),
    shape(2 << 20, 0, 1),
    shape(2 << 20, 4, 1),
    shape((2 << 20) + 8192, 3000, 2),
    shape(4 << 20, 2048, 3),
];

/// The next piece of the image: where, and how.
struct Pieces {
    shapes: Vec<Shape>,
    at: u64,
    index: usize,
}

impl Iterator for Pieces {
    type Item = (u64, Shape);

    fn next(&mut self) -> Option<(u64, Shape)> {
        let left = IMAGE_BYTES - self.at;
        let mut shape = self.shapes[self.index % self.shapes.len()];
        self.index += 1;
        shape.len = shape.len.min(left as usize);
        let at = self.at;
        self.at += shape.len as u64;
        (left > 0).then_some((at, shape))
    }
}

/// Copies the image between a file and the namespace, `DEPTH` commands at a time.
struct Copier<'a> {
    ctrlr: &'a Ctrlr<LockFree>,
    qpair: QueuePair,
    namespace: Namespace,
    file: File,
    buffers: Vec<DmaBuffer>,
    /// By token, which is the place in the image.
    in_flight: HashMap<u64, Shape>,
    done_bytes: u64,
}

impl<'a> Copier<'a> {
    fn new(ctrlr: &'a Ctrlr<LockFree>, qpair: QueuePair, file: File) -> Self {
        let namespace = ctrlr.namespaces()[0];
        assert_eq!(namespace.size_bytes(), IMAGE_BYTES);
        let longest = SHAPES.iter().map(|shape| shape.offset + shape.len).max().unwrap_or_default();
        let buffers = (0..DEPTH).map(|_| ctrlr.allocate(longest).expect("memory")).collect();
        Self { ctrlr, qpair, namespace, file, buffers, in_flight: HashMap::new(), done_bytes: 0 }
    }

    fn copy(&mut self, pieces: Pieces, is_write: bool) {
        let block = u64::from(self.namespace.block_bytes);
        for (at, shape) in pieces {
            while self.buffers.is_empty() {
                self.collect(is_write);
            }
            let buffer = self.buffers.pop().expect("one was given back");
            if is_write {
                let mut bytes = vec![0; shape.len];
                self.file.read_exact_at(&mut bytes, at).expect("the image is read");
                buffer.write_at(shape.offset, &bytes);
            } else {
                buffer.fill(0xa5);
            }
            let mut data = DmaSlice::new(buffer, shape.offset, shape.len).expect("inside the buffer");
            self.in_flight.insert(at, shape);
            loop {
                let submit = if is_write { QueuePair::write } else { QueuePair::read };
                match submit(&mut self.qpair, &self.namespace, at / block, data, at) {
                    Ok(()) => break,
                    Err(error) if error.reason == SubmitReason::QueueFull => {
                        data = error.data.expect("the data come back");
                        self.collect(is_write);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            self.collect(is_write);
        }
        let started = std::time::Instant::now();
        while !self.in_flight.is_empty() {
            self.collect(is_write);
            assert!(started.elapsed() < DEADLINE, "{} commands are not answered", self.in_flight.len());
        }
        assert_eq!(self.done_bytes, IMAGE_BYTES, "every byte once");
        if is_write {
            self.qpair.flush(&self.namespace, u64::MAX).expect("submitted");
            let flushed = self.qpair.drain(DEADLINE, |completion| assert!(completion.is_success()));
            assert!(flushed.expect("alive"));
        }
    }

    /// Takes what has completed: each once, its data back, at the place where they were.
    fn collect(&mut self, is_write: bool) {
        let Self { qpair, in_flight, buffers, file, done_bytes, .. } = self;
        let polled = qpair.poll(DEPTH, |completion| {
            assert!(completion.is_success(), "{:?}", completion.outcome);
            let shape = in_flight.remove(&completion.token).expect("in flight, and answered once");
            let data = completion.data.expect("the data come back");
            assert_eq!((data.offset(), data.len()), (shape.offset, shape.len));
            let buffer = data.into_buffer();
            if !is_write {
                let bytes = buffer.to_vec();
                let (before, rest) = bytes.split_at(shape.offset);
                let (bytes, after) = rest.split_at(shape.len);
                file.write_all_at(bytes, completion.token).expect("the copy is written");
                assert!(before.iter().chain(after).all(|byte| *byte == 0xa5), "only the data were written");
            }
            *done_bytes += shape.len as u64;
            buffers.push(buffer);
        });
        if polled.expect("alive") == 0 {
            std::thread::yield_now();
        }
    }
}

/// Sends SMART requests and registers and unregisters, without pause.
struct Nuisance {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, u64)>,
    rounds: Arc<AtomicU64>,
}

impl Nuisance {
    fn start(ctrlr: &Ctrlr<LockFree>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ctrlr, told, counted) = (ctrlr.clone(), Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            let (mut answered, mut unanswered) = (0, 0);
            // Relaxed, all: nothing but the flag and the count is told.
            while !told.load(Ordering::Relaxed) {
                let producer = ctrlr.register("nuisance").expect("registered");
                let smart = producer.call(admin::smart_log(), DEADLINE).expect("SMART");
                assert!(smart.temperature_k() > 200);
                answered += 1;
                // One more that the unregistration meets in the ring or in flight.
                let pending = producer.start_call(admin::smart_log()).expect("sent");
                ctrlr.unregister("nuisance", DEADLINE).expect("unregistered");
                match pending.wait(DEADLINE) {
                    Ok(_) => answered += 1,
                    Err(slipring::ctrlr::CallError::Aborted(_)) => unanswered += 1,
                    Err(error) => panic!("{error}"),
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            (answered, unanswered)
        });
        Self { stop, thread, rounds }
    }

    /// Ends it; every request of its was answered or aborted, and it was never kept from going on.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let (answered, unanswered) = self.thread.join().expect("its thread did not panic");
        let rounds = self.rounds.load(Ordering::Relaxed);
        assert!(rounds > 0, "it ran beside the copy");
        assert_eq!(answered + unanswered, 2 * rounds);
    }
}

/// One attach, one copy of the whole image, one detach.
fn pass(config: Config, shapes: &[Shape], file: File, is_write: bool) {
    let options = CtrlrOptions { max_transfer_bytes: 4 << 20, ..CtrlrOptions::default() };
    let rig: Rig = Rig::attach_with(config, options);
    let page = rig.ctrlr.limits().expect("limits").page_bytes;
    for shape in shapes {
        assert_eq!(prp_lists(shape, page), shape.lists, "{} bytes at {}", shape.len, shape.offset);
    }
    let mut poller = rig.poller();
    let qpair = poller.queue_pair(&QpairOptions { entries: DEPTH as u32 }).expect("a queue pair");
    let polling = PollThread::spawn(poller);
    let nuisance = Nuisance::start(&rig.ctrlr);
    let mut copier = Copier::new(&rig.ctrlr, qpair, file);
    copier.copy(Pieces { shapes: shapes.to_vec(), at: 0, index: 0 }, is_write);
    nuisance.end();
    assert_eq!(copier.ctrlr.failure(), None);
    drop(copier);
    drop(polling.stop());
    rig.finish();
}

/// How many list pages describe a transfer: each but the last gives its last entry to the chain.
fn prp_lists(shape: &Shape, page: usize) -> usize {
    let first = page - shape.offset % page;
    let entries = shape.len.saturating_sub(first).div_ceil(page);
    let per_page = page / 8;
    match entries {
        0 | 1 => 0,
        2.. if entries <= per_page => 1,
        _ => (entries - 1).div_ceil(per_page - 1),
    }
}

fn through_the_driver(lba_bytes: u32) {
    let workshop = Workshop::new(&format!("ext4-{lba_bytes}"));
    let (source, namespace, copy) =
        (workshop.path("source.img"), workshop.path("namespace.img"), workshop.path("copy.img"));
    let root = workshop.path("root");
    fs::create_dir_all(&root).expect("a folder");
    fill(&root);
    for path in [&source, &namespace, &copy] {
        File::create(path).expect("an image file").set_len(IMAGE_BYTES).expect("its size");
    }
    let [root, source_name, copy_name] =
        [&root, &source, &copy].map(|path| path.to_str().expect("a plain path"));
    e2fsprogs("mkfs.ext4", &["-q", "-F", "-L", "slipring", "-d", root, source_name]);

    let backing = Backing::Image { path: namespace.clone(), read_only: false };
    let config = Config {
        namespaces: vec![NamespaceConfig { size_bytes: 0, lba_bytes, backing }],
        mdts: 10,
        ..Config::default()
    };
    pass(config.clone(), &SHAPES, File::open(&source).expect("the image"), true);
    // Backwards, so that no piece is read as it was written.
    let shapes: Vec<Shape> = SHAPES.into_iter().rev().collect();
    let file = File::options().read(true).write(true).open(&copy).expect("the copy");
    pass(config, &shapes, file, false);

    assert!(
        fs::read(&source).expect("the image") == fs::read(&copy).expect("the copy"),
        "byte for byte the same"
    );
    assert!(fs::read(&source).expect("the image") == fs::read(&namespace).expect("the namespace's image"));
    e2fsprogs("e2fsck", &["-fn", copy_name]);
}

#[test]
fn a_file_system_survives_the_driver_in_blocks_of_512_bytes() {
    through_the_driver(512);
}

#[test]
fn a_file_system_survives_the_driver_in_blocks_of_4096_bytes() {
    through_the_driver(4096);
}
