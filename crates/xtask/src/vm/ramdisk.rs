//! The first file system of the machine: a shell, and the modules to reach the host's files.

use super::kernel::Kernel;
use anyhow::{Context, Result};
use std::{fs, path::Path};

/// Mounts the host's files and goes over to them.
const INIT: &str = include_str!("ramdisk.sh");

/// Needed before modules can be loaded from the host's files.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtiofs", "overlay"];

const SHELL: &str = "/bin/busybox";

pub(crate) fn write(kernel: &Kernel, path: &Path) -> Result<()> {
    let shell = fs::read(SHELL)
        .with_context(|| format!("{SHELL} is missing: run `scripts/prepare test`"))?;
    let mut archive = Archive::default();
    archive.folder("bin");
    archive.folder("modules");
    archive.file("bin/busybox", &shell);
    archive.file("init", INIT.as_bytes());
    for (index, file) in kernel.module_files(MODULES)?.iter().enumerate() {
        let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        // Numbered, so that the shell's order of names is the order of loading.
        archive.file(&format!("modules/{index:02}.ko"), &bytes);
    }
    fs::write(path, archive.finish()).with_context(|| format!("writing {}", path.display()))
}

/// An archive in the `newc` form of cpio, which the kernel unpacks.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len(), name.len() + 1);
        // inode, mode, uid, gid, links, time, size, device, special device, name, checksum
        let header = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}{:08x}{:08x}{:08x}{:08x}\
             {name_size:08x}{:08x}",
            self.entries, 0, 0, 1, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, process::Command, process::Stdio};

    #[test]
    fn another_program_reads_the_archive() {
        if !Path::new(SHELL).exists() {
            assert!(std::env::var_os("CI").is_none(), "CI must have {SHELL}");
            println!("skipped: it needs {SHELL}");
            return;
        }
        let mut archive = Archive::default();
        archive.folder("a");
        archive.file("a/b", b"hello");
        let bytes = archive.finish();
        let mut child = Command::new(SHELL)
            .args(["cpio", "-t", "-v"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" a"), "{text}");
        assert!(lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with(" a/b"), "{text}");
        assert_eq!(lines.len(), 2, "{text}");
    }
}
