//! A disk that is full soon.

use std::{fs, path::Path, process::Command};

use atoll_e2e::cluster::run;

/// A small disk under the images of the only node.
pub(crate) struct Disk<'a>(&'a Path);

impl<'a> Disk<'a> {
    pub(crate) fn mount(at: &'a Path, size: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "atoll-e2e"]).arg(at);
        run(mount, "").ok();
        Self(at)
    }

    pub(crate) fn grow(&self, size: &str) {
        let mut mount = Command::new("mount");
        mount.args(["-o", &format!("remount,size={size}")]).arg(self.0);
        run(mount, "").ok();
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(self.0);
        run(umount, "");
    }
}
