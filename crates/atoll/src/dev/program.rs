//! The read-only copy of this program that shims run from and the built-in image shows.
//!
//! A container that could write to the program it was started by would own the node
//! (CVE-2019-5736), so the copy is root's, not writable, and no hard link of the original.

use super::folder::Folder;
use anyhow::{Context as _, Result};
use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tracing::warn;

/// Copies the running program into the folder, unless the same is there already.
pub fn copy(folder: &Folder) -> Result<PathBuf> {
    let original = std::env::current_exe().context("finding this program")?;
    copy_to(&original, &folder.root().join("program"))
}

/// Copies `original` to `folder/atoll`, root-owned and read-only.
pub fn copy_to(original: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let metadata =
        std::fs::metadata(original).with_context(|| format!("reading {}", original.display()))?;
    // Shims of an older program run on from their own copy.
    let stamp = format!("{:x}-{:x}-{:x}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let versioned = folder.join(stamp);
    let copy = versioned.join("atoll");
    if !copy.exists() {
        std::fs::create_dir_all(&versioned)
            .with_context(|| format!("making {}", versioned.display()))?;
        let partial = versioned.join("atoll.partial");
        std::fs::copy(original, &partial)
            .with_context(|| format!("copying the program to {}", partial.display()))?;
        std::fs::set_permissions(&partial, Permissions::from_mode(0o555))
            .with_context(|| format!("protecting {}", partial.display()))?;
        std::fs::rename(&partial, &copy).with_context(|| format!("naming {}", copy.display()))?;
    }
    Ok(copy)
}

/// Removes copies of other programs; the present one stays for the next start.
pub fn remove(present: &Path) {
    let Some(versioned) = present.parent() else { return };
    let Some(folder) = versioned.parent() else { return };
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if entry.path() != versioned
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            warn!(path = %entry.path().display(), %error, "an old copy of the program stays");
        }
    }
}
