//! Removes what a container without root has left: directories that not even their owner
//! may read or write.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What its owner needs to empty a directory.
const OWNER_ALL: u32 = 0o700;

/// Removes a directory with all that is in it; nothing happens when it is not there.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path)?;
            fs::remove_dir_all(path)
        }
        Err(error) => Err(error),
    }
}

/// Symlinks are not followed.
fn open_up(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return Ok(());
    }
    let mode = fs::metadata(path)?.permissions().mode();
    if mode & OWNER_ALL != OWNER_ALL {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777 | OWNER_ALL))?;
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_directories_are_opened_first() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let deep = top.join("closed/deep");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "x").unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        // Root may read them all the same; what it does has to work as well.
        open_up(&top).unwrap();
        assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }
}
