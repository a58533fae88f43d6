//! The store that could not be used is kept beside the new one: nothing is lost by a mistake. One
//! is kept, so that a disk does not fill up with them.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use std::{
    fs::File,
    io::ErrorKind,
    path::{Path, PathBuf},
};

const BEGINNING: &str = "store.damaged-";

/// Moves the store away, if there is anything in it; where it is then.
pub fn keep(folder: &Path, now: Timestamp) -> Result<Option<PathBuf>> {
    let store = folder.join("store");
    if !holds_anything(&store)? {
        remove(&store)?;
        return Ok(None);
    }
    for former in kept(folder)? {
        remove(&former)?;
    }
    let place = folder.join(format!("{BEGINNING}{}", now.strftime("%Y%m%dT%H%M%SZ")));
    std::fs::rename(&store, &place)
        .with_context(|| format!("moving {} to {}", store.display(), place.display()))?;
    sync(folder)?;
    Ok(Some(place))
}

/// A lock alone is nothing.
fn holds_anything(store: &Path) -> Result<bool> {
    let entries = match std::fs::read_dir(store) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("reading {}", store.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", store.display()))?;
        if entry.file_name() != "lock" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn kept(folder: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("reading {}", folder.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        if entry.file_name().to_string_lossy().starts_with(BEGINNING) {
            all.push(entry.path());
        }
    }
    all.sort();
    Ok(all)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("syncing {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_last_store_is_kept_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let now: Timestamp = "2026-11-25T16:00:00Z".parse().unwrap();
        assert_eq!(keep(root, now).unwrap(), None);
        for (hour, content) in [(16, "first"), (17, "second")] {
            std::fs::create_dir(root.join("store")).unwrap();
            std::fs::write(root.join("store/state.redb"), content).unwrap();
            let now: Timestamp = format!("2026-11-25T{hour}:00:00Z").parse().unwrap();
            let place = keep(root, now).unwrap().unwrap();
            assert_eq!(std::fs::read_to_string(place.join("state.redb")).unwrap(), content);
            assert_eq!(names(root), [format!("store.damaged-20261125T{hour}0000Z")]);
        }
        // When the folder was emptied, the last one stays.
        std::fs::create_dir(root.join("store")).unwrap();
        std::fs::write(root.join("store/lock"), "7").unwrap();
        assert_eq!(keep(root, now).unwrap(), None);
        assert_eq!(names(root), ["store.damaged-20261125T170000Z"]);
    }
}
