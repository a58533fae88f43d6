//! `atoll restore --from-folder`: a majority of the servers is lost for good, and a cluster is made
//! of the folder of one that is left.

use super::{
    Restore, age, check_folder, confirm, filling::Filling, make_folder, sync_folder, what_follows,
};
use crate::server::remembered::Remembered;
use crate::{backup::progress::Progress, client::output, dev::folder::write_atomically};
use anyhow::{Context as _, Result, bail, ensure};
use atoll_store::restore::{Found, Restored, Survivor};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

pub fn run(restore: &Restore, folder: &Path) -> Result<()> {
    check_source(folder)?;
    let target = Target::of(folder, restore.data_dir.as_deref())?;
    let survivor = Survivor::read(&folder.join("store"))?;
    let found = survivor.found();
    if restore.output.is_none() {
        output::write(&describe(folder, &target, found));
    }
    let mut document = document(found, target.dir());
    if !restore.dry_run {
        if !restore.yes {
            confirm()?;
        }
        document["formerStore"] = target.fill(folder, &survivor)?.map_or(Value::Null, |aside| {
            if restore.output.is_none() {
                output::line(&format!("The former store is kept: {}", aside.display()));
            }
            aside.display().to_string().into()
        });
    }
    restore.say_done(document, target.dir())
}

fn check_source(folder: &Path) -> Result<()> {
    let name = folder.display();
    if folder.join("external-store.json").exists() {
        bail!("the cluster of {name} stands in an external etcd: recover that, by its own means");
    }
    if !folder.join("store").is_dir() {
        let is_dev = folder.join("server/store").is_dir();
        let hint = if is_dev { ", or server-2 and so on" } else { "" };
        let better = if is_dev { folder.join("server") } else { "its --data-dir".into() };
        bail!("{name} is no server's data folder: name {}{hint}", better.display());
    }
    ensure!(
        folder.join("keys").is_dir(),
        "{name} has no keys, and without them no node would trust the server; take the folder of another server that is left, or the newest backup"
    );
    Ok(())
}

/// Where the new cluster's folder is made.
pub(super) enum Target {
    New(PathBuf),
    InPlace(PathBuf),
}

impl Target {
    fn of(folder: &Path, data_dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = data_dir else { return Ok(Self::InPlace(folder.to_owned())) };
        let is_same = fs::canonicalize(dir).ok() == fs::canonicalize(folder).ok();
        if is_same && dir.exists() {
            return Ok(Self::InPlace(folder.to_owned()));
        }
        check_folder(dir)?;
        Ok(Self::New(dir.to_owned()))
    }

    fn dir(&self) -> &Path {
        let (Self::New(dir) | Self::InPlace(dir)) = self;
        dir
    }

    /// Where the former store is, if it had to go.
    pub(super) fn fill(&self, folder: &Path, survivor: &Survivor) -> Result<Option<PathBuf>> {
        let mut filling = Filling::begin(self.dir())?;
        let mut progress = Progress::new("restored", None);
        for chunk in survivor.chunks() {
            let chunk = chunk.context("reading the store")?;
            filling.push(&chunk)?;
            progress.add(chunk.len());
        }
        drop(progress);
        let restored = filling.complete()?;
        let remembered = remembered(folder, &restored)?;
        match self {
            Self::New(_) => {
                copy_keys(&folder.join("keys"), &filling.unfinished.join("keys"))?;
                let mut names = vec!["keys"];
                if let Some(remembered) = &remembered {
                    remembered.store(&filling.unfinished)?;
                    names.push("server.json");
                }
                filling.name(&names)?;
                Ok(None)
            }
            Self::InPlace(dir) => {
                forget_rejoin(dir)?;
                filling.exchange()?;
                let aside = filling.set_aside()?;
                // A store that exists does not ask for it; whoever reads it should not be misled.
                remembered.map_or(Ok(()), |remembered| remembered.store(dir))?;
                Ok(Some(aside))
            }
        }
    }
}

/// What the server keeps beside its store, as a member of the new cluster.
fn remembered(folder: &Path, restored: &Restored) -> Result<Option<Remembered>> {
    let Some(mut remembered) = Remembered::load(folder)? else { return Ok(None) };
    remembered.cluster = None;
    remembered.rejoin = None;
    if let Some(joined) = &mut remembered.joined {
        joined.cluster_id.clone_from(&restored.cluster_id);
        joined.member_id = Some(format!("{:x}", restored.member_id));
        joined.members.clear();
    }
    Ok(Some(remembered))
}

/// There is nobody any more whom it could have joined again, and it must not try with the new
/// store.
fn forget_rejoin(dir: &Path) -> Result<()> {
    match Remembered::load(dir)? {
        Some(remembered) => Remembered { rejoin: None, ..remembered }.store(dir),
        None => Ok(()),
    }
}

fn copy_keys(from: &Path, to: &Path) -> Result<()> {
    let reading = || format!("reading {}", from.display());
    make_folder(to)?;
    for entry in fs::read_dir(from).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let metadata = entry.metadata().with_context(reading)?;
        if !metadata.is_file() {
            continue;
        }
        let content = fs::read(entry.path()).with_context(reading)?;
        let mode = metadata.permissions().mode() & 0o777;
        write_atomically(&to.join(entry.file_name()), &content, mode)?;
    }
    sync_folder(to)
}

fn describe(folder: &Path, target: &Target, found: &Found) -> String {
    let (last, committed) = (found.last, found.committed);
    let mut text = describe_found(folder, found);
    text.push_str(&format!(
        "Restored into {} it is a new cluster of one server:\n",
        target.dir().display()
    ));
    text.push_str("  - what the other servers had received and this one had not is lost, and nobody can tell what that is; if another one is left as well, look at it with --dry-run and take the one with the highest term, and of those the highest entry\n");
    if committed < last.index {
        let count = last.index - committed;
        let entries = if count == 1 { "entry" } else { "entries" };
        text.push_str(&format!("  - what it received last and had not heard to be committed ({count} {entries}) is kept: it may have been acknowledged\n"));
    }
    text.push_str("  - all other servers of the old cluster are forgotten, and must never start again with their folders: a majority of them would go on as the old cluster beside this one. Empty their data folders, and join them again\n");
    text.push_str(&what_follows());
    if let Target::InPlace(dir) = target {
        text.push_str(&format!(
            "  - the store that is there now is kept in {}\n",
            dir.join("store.before-<time>").display()
        ));
    }
    text
}

fn describe_found(folder: &Path, found: &Found) -> String {
    let mut text = format!(
        "{} holds the server {} of the cluster {}\n",
        folder.display(),
        own_name(found),
        found.cluster_id
    );
    text.push_str(&format!(
        "  its log ends with term {}, entry {}; it wrote last {}\n",
        found.last.term,
        found.last.index,
        age(&written_at(found))
    ));
    text.push_str(&format!(
        "  objects at revision {}, applications' keys at revision {}\n",
        found.cluster_revision, found.applications_revision
    ));
    let all: Vec<&str> = found.members.iter().map(|member| member.name.as_str()).collect();
    text.push_str(&format!("  servers of its cluster: {}\n", all.join(", ")));
    if found.is_removed {
        text.push_str("  it was removed from its cluster, which went on without it: what was written since then is not here\n");
    }
    text
}

fn own_name(found: &Found) -> String {
    let own = found.members.iter().find(|member| member.id == found.member_id);
    let name = own.map(|member| member.name.clone()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| format!("{:x}", found.member_id))
}

fn written_at(found: &Found) -> String {
    let at = found.written_at.and_then(|at| Timestamp::try_from(at).ok());
    at.map_or("at a time unknown".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

fn document(found: &Found, dir: &Path) -> Value {
    let names: Vec<_> = found.members.iter().map(|member| member.name.clone()).collect();
    json!({
        "clusterId": found.cluster_id,
        "server": own_name(found),
        "servers": names,
        "isRemoved": found.is_removed,
        "term": found.last.term,
        "entry": found.last.index,
        "committedEntry": found.committed,
        "writtenAt": written_at(found),
        "clusterRevision": found.cluster_revision,
        "applicationsRevision": found.applications_revision,
        "dataDir": dir.display().to_string(),
    })
}
