//! fsGroup: which group owns a volume's files, and what that adds to their modes.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

/// The pod's `fsGroup`.
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

    /// `user` is whom a token is for.
    pub fn apply_file(&self, path: &Path, user: Option<u32>) -> io::Result<()> {
        if self.group.is_none() && user.is_none() {
            return Ok(());
        }
        lchown(path, user, self.group)
    }

    /// A directory of the group: new files inherit it.
    pub fn apply_dir(&self, path: &Path) -> io::Result<()> {
        self.give_dir(path, 0o2770)
    }

    /// A directory whose files only we write.
    pub fn apply_read_only_dir(&self, path: &Path) -> io::Result<()> {
        self.give_dir(path, 0o2550)
    }

    fn give_dir(&self, path: &Path, bits: u32) -> io::Result<()> {
        let Some(group) = self.group else { return Ok(()) };
        lchown(path, None, Some(group))?;
        let mode = path.metadata()?.permissions().mode() & 0o7777;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | bits))
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
