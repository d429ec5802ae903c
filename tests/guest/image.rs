//! What the guest boots: the kernel as an ELF image, and an initramfs with busybox, the modules, the programs and every shared library that they and
//! our own executables need. Kept in the target folder and made anew when a source has changed.
#![forbid(unsafe_code)]

use crate::pieces::{self, Pieces};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Modules that the guest loads at boot, in `modprobe` order.
const BOOT_MODULES: &[&str] =
    &["virtio_pci", "9pnet_virtio", "9p", "nvme", "vfio-pci", "vfio_iommu_type1", "cuse"];
/// Modules that a test may load with `modprobe`.
const OTHER_MODULES: &[&str] = &["crc32c_generic", "ext4"];
/// Programs of the host that tests run in the guest.
const GUEST_PROGRAMS: &[&str] = &["nvme", "smartctl", "strace", "mkfs.ext4", "e2fsck"];

const INIT: &str = include_str!("init.sh");

/// The two files that QEMU is given.
#[derive(Clone, Debug)]
pub struct Image {
    pub vmlinux: PathBuf,
    pub initrd: PathBuf,
}

impl Image {
    /// Finds or makes them. `executables` will run in the guest: their shared libraries are put in.
    ///
    /// # Errors
    /// What could not be made, and why.
    pub fn prepare(pieces: &Pieces, executables: &[PathBuf]) -> Result<Self, String> {
        let folder = pieces::folder().join("image");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let image = Self { vmlinux: folder.join("vmlinux"), initrd: folder.join("initrd") };
        make(&image.vmlinux, &stamp([pieces.vmlinuz.as_path()])?, |path| extract(pieces, path))?;

        let modules = modules(pieces)?;
        let programs: Vec<_> = GUEST_PROGRAMS.iter().map(|name| pieces.program(name).to_owned()).collect();
        let busybox = pieces.program("busybox").to_owned();
        let libraries = libraries(pieces, programs.iter().chain([&busybox]).chain(executables))?;
        let sources = modules.files.iter().chain(&programs).chain(&libraries).chain([&busybox]);
        let stamp = stamp(sources.map(PathBuf::as_path))? + INIT;
        make(&image.initrd, &stamp, |path| {
            let root = tempfile::tempdir_in(&folder)
                .map_err(|error| format!("a folder for the initramfs: {error}"))?;
            fill(root.path(), pieces, &modules, &programs, &libraries)
                .map_err(|error| format!("the initramfs in {}: {error}", root.path().display()))?;
            pack(root.path(), pieces, path)
        })?;
        Ok(image)
    }
}

/// Makes a file, unless it was made from the same sources before. Whoever else makes it at the same time makes the same.
fn make(path: &Path, stamp: &str, maker: impl FnOnce(&Path) -> Result<(), String>) -> Result<(), String> {
    let stamp_file = path.with_extension("stamp");
    if path.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|before| before == stamp) {
        return Ok(());
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    maker(&new)?;
    let moved = fs::rename(&new, path).and_then(|()| fs::write(&stamp_file, stamp));
    moved.map_err(|error| format!("{}: {error}", path.display()))
}

/// The names, lengths and times of the sources.
fn stamp<'a>(sources: impl IntoIterator<Item = &'a Path>) -> Result<String, String> {
    let mut stamp = String::new();
    for source in sources {
        let metadata = fs::metadata(source).map_err(|error| format!("{}: {error}", source.display()))?;
        let modified = metadata.modified().map_err(|error| format!("{}: {error}", source.display()))?;
        let _ = writeln!(stamp, "{} {} {modified:?}", source.display(), metadata.len());
    }
    Ok(stamp)
}

/// Unpacks the ELF image from an XZ-compressed bzImage ("The Linux/x86 Boot Protocol": `setup_sects`, `payload_offset`, `payload_length`).
fn extract(pieces: &Pieces, path: &Path) -> Result<(), String> {
    let wrong = |what: &str| format!("{}: {what}", pieces.vmlinuz.display());
    let image = fs::read(&pieces.vmlinuz).map_err(|error| wrong(&error.to_string()))?;
    let word = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(|bytes| u32::from_le_bytes(bytes) as usize)
            .ok_or_else(|| wrong("is too short for a kernel"))
    };
    let setup_sectors = usize::from(*image.get(0x1f1).ok_or_else(|| wrong("is too short for a kernel"))?);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    // The last four bytes are the unpacked length, which xz does not know.
    let end = (start + word(0x24c)?).saturating_sub(4);
    let payload = image.get(start..end).ok_or_else(|| wrong("has a payload outside of the file"))?;
    if !payload.starts_with(b"\xfd7zXZ\0") {
        return Err(wrong("is not XZ-compressed; the package linux-image-amd64 of Debian 12 is"));
    }
    let output = fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut xz = Command::new(pieces.program("xz"));
    let mut child =
        xz.arg("-dc").stdin(Stdio::piped()).stdout(output).spawn().map_err(|error| format!("xz: {error}"))?;
    let written = child.stdin.take().expect("a pipe was asked for").write_all(payload);
    let status = child.wait().map_err(|error| format!("xz: {error}"))?;
    written.map_err(|error| format!("xz: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("xz: {status}")) }
}

/// The modules of the guest, with those that they need.
struct Modules {
    /// Their lines of `modules.dep`.
    dependencies: String,
    files: BTreeSet<PathBuf>,
}

fn modules(pieces: &Pieces) -> Result<Modules, String> {
    let folder = pieces.kernel_root.join("lib/modules").join(&pieces.kernel_version);
    let list = folder.join("modules.dep");
    if !list.is_file() {
        run(Command::new(pieces.program("depmod"))
            .arg("-b")
            .arg(&pieces.kernel_root)
            .arg(&pieces.kernel_version))?;
    }
    let list = fs::read_to_string(&list).map_err(|error| format!("{}: {error}", list.display()))?;
    let mut found = Modules { dependencies: String::new(), files: BTreeSet::new() };
    let mut wanted: Vec<String> =
        BOOT_MODULES.iter().chain(OTHER_MODULES).map(|name| format!("/{name}.ko:")).collect();
    while let Some(name) = wanted.pop() {
        let line = list.lines().find(|line| line.contains(&name));
        let line =
            line.ok_or_else(|| format!("the kernel {} has no module {name}", pieces.kernel_version))?;
        let (module, needs) = line.split_once(':').expect("it was found with its colon");
        if found.files.insert(folder.join(module)) {
            let _ = writeln!(found.dependencies, "{line}");
            wanted.extend(needs.split_whitespace().map(|module| format!("{module}:")));
        }
    }
    Ok(found)
}

/// Every shared library that these need, the dynamic linker included.
fn libraries<'a>(
    pieces: &Pieces,
    executables: impl Iterator<Item = &'a PathBuf>,
) -> Result<BTreeSet<PathBuf>, String> {
    let mut libraries = BTreeSet::new();
    for executable in executables {
        let listing = Command::new(pieces.program("ldd")).arg(executable).output();
        let listing = listing.map_err(|error| format!("ldd: {error}"))?;
        // It fails for what is linked statically, which needs nothing.
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            match path {
                Some(path) => libraries.insert(PathBuf::from(path)),
                None if line.contains("not found") => {
                    return Err(format!("{}: {line}", executable.display()));
                }
                None => false,
            };
        }
    }
    Ok(libraries)
}

/// Lays the initramfs out.
fn fill(
    root: &Path,
    pieces: &Pieces,
    modules: &Modules,
    programs: &[PathBuf],
    libraries: &BTreeSet<PathBuf>,
) -> std::io::Result<()> {
    for folder in ["bin", "dev", "proc", "sys", "tmp", "run", "host", "mnt", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    symlink("bin", root.join("sbin"))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")?;
    fs::write(root.join("init"), INIT.replace("@MODULES@", &BOOT_MODULES.join(" ")))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let copy = |from: &Path, to: PathBuf| {
        fs::create_dir_all(to.parent().expect("below the root"))?;
        fs::copy(from, to).map(drop)
    };
    copy(pieces.program("busybox"), root.join("bin/busybox"))?;
    for program in programs {
        copy(program, root.join("bin").join(program.file_name().expect("a file")))?;
    }
    for library in libraries {
        copy(library, root.join(library.strip_prefix("/").expect("ldd gives absolute paths")))?;
    }
    let version = Path::new("lib/modules").join(&pieces.kernel_version);
    for module in &modules.files {
        copy(module, root.join(module.strip_prefix(&pieces.kernel_root).expect("it was found there")))?;
    }
    fs::write(root.join(version).join("modules.dep"), &modules.dependencies)?;
    let applets = Command::new(pieces.program("busybox")).arg("--list").output()?;
    for applet in String::from_utf8_lossy(&applets.stdout).lines() {
        let link = root.join("bin").join(applet);
        if !link.exists() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

/// Packs it. Not compressed: unpacking costs the guest more than reading.
fn pack(root: &Path, pieces: &Pieces, path: &Path) -> Result<(), String> {
    let output = fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let script = r#"find . -print0 | "$0" --null --create --quiet --format=newc --owner=0:0"#;
    let mut shell = Command::new("sh");
    let packing = shell.arg("-c").arg(script).arg(pieces.program("cpio")).current_dir(root).stdout(output);
    let status = packing.status().map_err(|error| format!("cpio: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("cpio: {status}")) }
}

/// Runs a program and gives what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
