//! Writes a set of files so that readers see either all of the old or all of the new.
//!
//! Files stand in `..<time>.<random>/`; `..data` links to it and is switched by a rename;
//! each visible name links through `..data`. Programs that watch such volumes (for
//! example with inotify on `..data`) rely on exactly this layout.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use jiff::Timestamp;
use rand::Rng;

use crate::volume::ownership::Ownership;
use crate::volume::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Returns whether anything changed.
pub fn write(dir: &Path, payload: &Payload, owner: &Ownership) -> io::Result<bool> {
    let old = std::fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && holds(&dir.join(old), payload, owner)
    {
        return Ok(false);
    }
    let name = version_name();
    write_version(&dir.join(&name), payload, owner)?;
    match std::fs::remove_file(dir.join(DATA_NEW)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    symlink(&name, dir.join(DATA_NEW))?;
    std::fs::rename(dir.join(DATA_NEW), dir.join(DATA))?;
    show(dir, payload)?;
    remove_versions_but(dir, &name)?;
    Ok(true)
}

fn version_name() -> String {
    let time = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S");
    format!("..{time}.{}", rand::rng().random_range(0..u32::MAX))
}

fn holds(version: &Path, payload: &Payload, owner: &Ownership) -> bool {
    let mut found = 0;
    for (path, file) in payload {
        let path = version.join(path);
        let (Ok(bytes), Ok(meta)) = (std::fs::read(&path), path.metadata()) else { return false };
        if bytes != file.bytes || meta.permissions().mode() & 0o777 != owner.file_mode(file.mode) {
            return false;
        }
        found += 1;
    }
    count_files(version) == found
}

fn count_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

fn write_version(version: &Path, payload: &Payload, owner: &Ownership) -> io::Result<()> {
    std::fs::create_dir_all(version)?;
    std::fs::set_permissions(version, std::fs::Permissions::from_mode(0o755))?;
    owner.apply_read_only_dir(version)?;
    for (path, file) in payload {
        let path = version.join(path);
        if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
            std::fs::create_dir_all(parent)?;
            owner.apply_read_only_dir(parent)?;
        }
        std::fs::write(&path, &file.bytes)?;
        let mode = owner.file_mode(file.mode);
        owner.apply_file(&path, file.user)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Links each first path component through `..data`, and drops links to what is gone.
fn show(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> =
        payload.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for name in &wanted {
        let link = dir.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(name), link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            std::fs::remove_file(dir.join(name.as_ref()))?;
        }
    }
    Ok(())
}

fn remove_versions_but(dir: &Path, current: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let stale = name.starts_with("..") && name != DATA && name != current;
        if stale && entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::payload::File;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| {
                (
                    (*path).to_owned(),
                    File { bytes: text.as_bytes().to_vec(), mode: 0o640, user: None },
                )
            })
            .collect()
    }

    #[test]
    fn switches_versions_and_drops_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Ownership::default();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/b", "2")]), &owner).unwrap());
        let first = std::fs::read_link(dir.path().join("..data")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("d/b")).unwrap(), "2");
        assert_eq!(std::fs::read_link(dir.path().join("a")).unwrap(), Path::new("..data/a"));
        assert!(write(dir.path(), &payload(&[("a", "3")]), &owner).unwrap());
        assert_ne!(std::fs::read_link(dir.path().join("..data")).unwrap(), first);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(dir.path().join("d").symlink_metadata().is_err());
        assert!(!dir.path().join(first).exists(), "the old version is removed");
    }

    #[test]
    fn the_same_files_are_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Ownership::default();
        let files = payload(&[("a", "1")]);
        assert!(write(dir.path(), &files, &owner).unwrap());
        assert!(!write(dir.path(), &files, &owner).unwrap());
        assert!(write(dir.path(), &payload(&[]), &owner).unwrap(), "a removed key is a change");
    }

    #[test]
    fn modes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), &Ownership::default()).unwrap();
        let mode = std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
