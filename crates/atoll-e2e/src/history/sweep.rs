//! What a run that was killed has left mounted.

use crate::cluster::run;
use std::{collections::BTreeSet, path::Path, process::Command};

/// Folders of runs are called by this, the process, and something random.
pub(super) fn prefix() -> String {
    format!("{NAME}{}-", std::process::id())
}

const NAME: &str = "atoll-history-";

/// Folders that nobody has mounts in are kept: somebody may want to look into them.
pub(super) fn sweep() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    let mut folders = BTreeSet::new();
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let Some((parent, name)) = point.rsplit_once(NAME) else { continue };
        let Some((process, _)) = name.split_once('-') else { continue };
        let is_number = process.parse::<u32>().is_ok();
        if !is_number || Path::new("/proc").join(process).exists() {
            continue;
        }
        let mut unmount = Command::new("umount");
        unmount.arg("-l").arg(point);
        run(unmount, "");
        let folder = name.split('/').next().unwrap_or(name);
        folders.insert(format!("{parent}{NAME}{folder}"));
    }
    for folder in folders {
        std::fs::remove_dir_all(folder).ok();
    }
}
