//! fsGroup: which group owns a volume's files, and what that adds to their modes.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// The pod's `fsGroup` and, for tokens, its user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    pub group: Option<u32>,
}

impl Ownership {
    /// The mode of a read-only file: readable by the group.
    #[must_use]
    pub fn file_mode(&self, mode: u32) -> u32 {
        if self.group.is_some() { mode | 0o440 } else { mode }
    }

    pub fn apply_file(&self, path: &Path) -> io::Result<()> {
        match self.group {
            Some(group) => lchown(path, None, Some(group)),
            None => Ok(()),
        }
    }

    /// A directory of the group: new files inherit it.
    pub fn apply_dir(&self, path: &Path) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        lchown(path, None, Some(group))?;
        let mode = path.metadata()?.permissions().mode() & 0o7777;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o2770))
    }

    /// Everything below a writable volume, unless its root shows that it was done before
    /// and the pod asks for no more.
    pub fn apply_tree(&self, root: &Path, only_on_mismatch: bool) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        if only_on_mismatch && root.metadata()?.gid() == group {
            return Ok(());
        }
        self.apply_dir(root)?;
        for entry in std::fs::read_dir(root)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.apply_tree(&entry.path(), false)?;
            } else {
                lchown(entry.path(), None, Some(group))?;
                if kind.is_file() {
                    let mode = entry.metadata()?.permissions().mode() & 0o7777;
                    let mode = std::fs::Permissions::from_mode(mode | 0o660);
                    std::fs::set_permissions(entry.path(), mode)?;
                }
            }
        }
        Ok(())
    }
}
