//! A disk that takes its time, fails or is full when it is told to: FUSE serves a folder.

use crate::{cluster::run, eventually};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Python, which Debian's `fusepy` belongs to.
const PYTHON: &str = "/usr/bin/python3";

/// Gone when dropped; the files stay in the folder.
pub struct SlowDisk {
    server: Child,
    mountpoint: PathBuf,
    /// What it is told stands beside its files.
    files: PathBuf,
}

impl SlowDisk {
    /// Its files stand in `folder`; syncs take `sync_ms` unless it is told otherwise.
    pub fn mount(folder: &Path, mountpoint: &Path, sync_ms: u64) -> Self {
        let script = folder.join("slow.py");
        std::fs::write(&script, include_str!("disk/slow.py")).unwrap();
        let files = folder.join("files");
        for made in [&files, mountpoint] {
            std::fs::create_dir_all(made).unwrap();
        }
        let log = File::create(folder.join("slow.log")).unwrap();
        // It goes with this process, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", PYTHON]).arg(&script);
        command.arg(&files).arg(mountpoint).arg(sync_ms.to_string());
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let slow = Self { server: server.unwrap(), mountpoint: mountpoint.to_owned(), files };
        eventually(Duration::from_secs(10), "the file system is there", || {
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
            if mounts.contains(slow.mountpoint.to_str().unwrap()) {
                return Ok(());
            }
            Err(std::fs::read_to_string(folder.join("slow.log")).unwrap())
        });
        slow
    }

    /// From the next sync on.
    pub fn take(&self, sync_ms: u64) {
        // A file that is half written would be read.
        let (file, half) = (self.files.with_extension("delay"), self.files.with_extension("half"));
        std::fs::write(&half, sync_ms.to_string()).unwrap();
        std::fs::rename(half, file).unwrap();
    }

    /// Whether syncs fail.
    pub fn fail(&self, fails: bool) {
        self.tell("failing", fails);
    }

    /// Whether no file can grow.
    pub fn fill(&self, is_full: bool) {
        self.tell("full", is_full);
    }

    fn tell(&self, what: &str, is_so: bool) {
        let file = self.files.with_extension(what);
        if is_so {
            std::fs::write(file, "").unwrap();
        } else if file.exists() {
            std::fs::remove_file(file).unwrap();
        }
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(&self.mountpoint);
        run(unmount, "");
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
