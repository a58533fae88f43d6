//! A store that is being written into a folder beside its place, and how it comes to its place.

use super::{make_folder, making, sync_folder};
use anyhow::{Context as _, Result, bail};
use atoll_store::restore::{Restore as StoreRestore, Restored};
use jiff::Timestamp;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// Where everything is put before it is whole.
pub const UNFINISHED: &str = ".restoring";
/// Stands in a store that is being written. Without it a store in the unfinished folder is the
/// former one, which has given up its place and has not got its other name yet.
const MARK: &str = "restoring";
const STORE: &str = "store";
/// Stands in the unfinished folder while its parts get their names.
const NAMING: &str = "naming";

/// Dropped before it is finished, it leaves nothing.
pub struct Filling {
    dir: PathBuf,
    pub unfinished: PathBuf,
    /// `None` once it is finished.
    store: Option<StoreRestore>,
}

impl Filling {
    /// `dir` is made if it is not there. What an earlier try has left in it is removed.
    pub fn begin(dir: &Path) -> Result<Self> {
        make_folder(dir)?;
        clear(dir)?;
        let unfinished = dir.join(UNFINISHED);
        make_folder(&unfinished)?;
        let mut filling = Self { dir: dir.to_owned(), unfinished, store: None };
        let store = filling.store();
        filling.store = Some(StoreRestore::begin(&store).with_context(|| making(&store))?);
        File::create(store.join(MARK)).with_context(|| making(&store))?;
        Ok(filling)
    }

    fn store(&self) -> PathBuf {
        self.unfinished.join(STORE)
    }

    pub fn push(&mut self, snapshot: &[u8]) -> Result<()> {
        let Some(store) = &mut self.store else { bail!("the store was finished before") };
        store.push(snapshot).context("writing the store")
    }

    /// The store is whole and durable, but not in its place.
    pub fn complete(&mut self) -> Result<Restored> {
        let store = self.store.take().context("the store was finished before")?;
        store.finish().context("writing the store")
    }

    /// Gives what was put together its names, in this order. The store comes last, and counts.
    pub fn name(self, names: &[&str]) -> Result<()> {
        File::create(self.unfinished.join(NAMING)).with_context(|| making(&self.unfinished))?;
        sync_folder(&self.unfinished)?;
        for name in names.iter().chain(&[STORE]) {
            let path = self.dir.join(name);
            fs::rename(self.unfinished.join(name), &path).with_context(|| making(&path))?;
            sync_folder(&self.dir)?;
        }
        unmark(&self.dir)
    }

    /// Exchanges the store for the one that is there: at every moment one of them is, whole.
    pub fn exchange(&self) -> Result<()> {
        let (store, place) = (self.store(), self.dir.join(STORE));
        let exchanged = renameat_with(CWD, &store, CWD, &place, RenameFlags::EXCHANGE);
        if let Err(Errno::INVAL | Errno::NOSYS | Errno::BUSY | Errno::XDEV) = exchanged {
            bail!(
                "{} cannot be exchanged at once on this file system; nothing was changed: name a new folder with --data-dir",
                place.display()
            );
        }
        exchanged.map_err(std::io::Error::from).with_context(|| making(&place))?;
        sync_folder(&self.dir)?;
        sync_folder(&self.unfinished)
    }

    /// Behind an exchange: the former store gets a name of its own, which is returned.
    pub fn set_aside(self) -> Result<PathBuf> {
        let aside = set_aside(&self.dir)?;
        unmark(&self.dir)?;
        Ok(aside)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.store = None;
        if let Err(error) = clear(&self.dir) {
            tracing::warn!(%error, folder = %self.unfinished.display(), "an unfinished restore was left behind");
        }
    }
}

/// What gets its name before the store does.
const PARTS: [&str; 2] = ["keys", "server.json"];

/// Whether a file was left by a try that was interrupted while it named its parts: without a
/// store they are nobody's.
pub fn left_by_naming(dir: &Path, name: &str) -> bool {
    let is_part = name == UNFINISHED || PARTS.contains(&name);
    is_part && dir.join(UNFINISHED).join(NAMING).exists() && !dir.join(STORE).exists()
}

/// Removes what an earlier try has left. A former store is kept under another name.
fn clear(dir: &Path) -> Result<()> {
    let unfinished = dir.join(UNFINISHED);
    if !unfinished.exists() {
        return Ok(());
    }
    let store = unfinished.join(STORE);
    if store.join("member.json").exists() && !store.join(MARK).exists() {
        set_aside(dir)?;
        unmark(dir)?;
    }
    if left_by_naming(dir, "keys") {
        for name in PARTS {
            remove(&dir.join(name))?;
        }
        sync_folder(dir)?;
    }
    fs::remove_dir_all(&unfinished).with_context(|| removing(&unfinished))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.with_context(|| removing(path)),
    }
}

fn set_aside(dir: &Path) -> Result<PathBuf> {
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let aside = (1..)
        .map(|number| match number {
            1 => dir.join(format!("store.before-{now}")),
            number => dir.join(format!("store.before-{now}-{number}")),
        })
        .find(|path| !path.exists())
        .context("naming the former store")?;
    fs::rename(dir.join(UNFINISHED).join(STORE), &aside).with_context(|| making(&aside))?;
    sync_folder(dir)?;
    Ok(aside)
}

fn unmark(dir: &Path) -> Result<()> {
    remove(&dir.join(STORE).join(MARK))
}

fn removing(path: &Path) -> String {
    format!("removing {}", path.display())
}

/// A server must not begin an empty cluster where a restore was interrupted.
pub fn check_unfinished(dir: &Path) -> Result<()> {
    if dir.join(UNFINISHED).exists() && !dir.join(STORE).exists() {
        bail!(
            "a restore into {} did not come to its end; repeat it, or empty the folder",
            dir.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
