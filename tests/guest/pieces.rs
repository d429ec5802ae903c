//! What has to be on the host: programs, and the unpacked kernel package. Says what is missing and which command installs it; never skips.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

/// Programs and the Debian packages that have them. `tests/run setup` installs the same packages.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86 seabios"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("nvme", "nvme-cli"),
    ("smartctl", "smartmontools"),
    ("strace", "strace"),
    ("xz", "xz-utils"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("ldd", "libc-bin"),
];

/// Where everything of the guest is kept: `guest` in cargo's target folder.
pub fn folder() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("cargo's own folder is not the root").join("guest")
}

/// The programs and the kernel, all found.
#[derive(Debug)]
pub struct Pieces {
    programs: Vec<(&'static str, PathBuf)>,
    /// The compressed kernel.
    pub vmlinuz: PathBuf,
    /// The folder with `lib/modules`.
    pub kernel_root: PathBuf,
    /// As `uname -r` in the guest.
    pub kernel_version: String,
}

impl Pieces {
    /// Looks for everything.
    ///
    /// # Errors
    /// What is missing, all at once, and the command to run.
    pub fn find() -> Result<Self, String> {
        let mut programs = Vec::new();
        let mut missing = Vec::new();
        let mut packages = Vec::new();
        for &(program, package) in PROGRAMS {
            if let Some(path) = find_program(program) {
                programs.push((program, path));
            } else {
                missing.push(program.to_owned());
                packages.push(package);
            }
        }
        let kernel_root = folder().join("kernel");
        let kernel = find_kernel(&kernel_root);
        if kernel.is_none() {
            missing.push(format!("an unpacked kernel package in {}", kernel_root.display()));
        }
        let Some((kernel_version, vmlinuz)) = kernel.filter(|_| missing.is_empty()) else {
            let install = if packages.is_empty() {
                String::new()
            } else {
                format!(", after `sudo apt-get install {}` if you are not root", packages.join(" "))
            };
            return Err(format!(
                "the guest needs what is not here: {}. Run `tests/run setup`{install}; docs/TESTING.md says more.",
                missing.join(", ")
            ));
        };
        Ok(Self { programs, vmlinuz, kernel_root, kernel_version })
    }

    /// Where this program is.
    pub fn program(&self, name: &str) -> &Path {
        let found = self.programs.iter().find(|(program, _)| *program == name);
        found.map(|(_, path)| path.as_path()).expect("only programs of the table are asked for")
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let everywhere = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    everywhere.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The version and image of the newest unpacked kernel.
fn find_kernel(root: &Path) -> Option<(String, PathBuf)> {
    let versions = std::fs::read_dir(root.join("lib/modules")).ok()?;
    let kernels = versions.filter_map(|entry| {
        let entry = entry.ok()?;
        let version = entry.file_name().into_string().ok()?;
        let image = root.join("boot").join(format!("vmlinuz-{version}"));
        let unpacked = entry.metadata().ok()?.modified().ok()?;
        image.is_file().then_some((unpacked, version, image))
    });
    kernels.max().map(|(_, version, image)| (version, image))
}
