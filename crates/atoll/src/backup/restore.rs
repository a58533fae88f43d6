//! `atoll restore`: a backup, or the folder of a server that is left, becomes the data folder of a
//! new cluster's only server.
//!
//! A backup is read twice: first to its end, so that nothing is written of one that is damaged or
//! cut, and then into a folder beside the final ones, which get their names last.

mod filling;
mod survivor;

pub use filling::check_unfinished;

use super::{document, lock, progress::Progress, size};
use crate::{
    cli::Output,
    client::{get::print_document, output},
    dev::folder::write_atomically,
};
use anyhow::{Context as _, Result, bail};
use atoll_backup::{
    age::{Key, Opener},
    archive::{Manifest, Reader},
};
use atoll_store::restore::{Contents, REVISIONS_SKIPPED, SnapshotCheck};
use filling::{Filling, UNFINISHED, left_by_naming};
use jiff::Timestamp;
use std::{
    fs::{DirBuilder, File},
    io::{IsTerminal as _, Read as _, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// Read from the file at a time.
const PIECE_BYTES: usize = 256 << 10;
const DATA_DIR: &str = "/var/lib/atoll/server";

/// Make a cluster of a backup, or of one server that is left of a lost majority
///
/// Says what there is and what is lost, asks, and makes the data folder of a new cluster's only
/// server. Nodes and their tokens, certificates and kubeconfigs stay good; other servers of the
/// old cluster are forgotten and join again with empty folders.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// What `atoll backup` wrote
    #[arg(value_name = "FILE", required_unless_present = "from_folder")]
    file: Option<PathBuf>,
    /// The data folder of a stopped server whose cluster has lost its majority for good. Of
    /// several that are left, take the one that --dry-run shows with the highest term, and of
    /// those the highest entry
    #[arg(long, value_name = "DIR", conflicts_with_all = ["file", "identity", "passphrase_file"])]
    from_folder: Option<PathBuf>,
    /// The data folder of the new server, empty or not there yet; of a dev cluster in DIR it is
    /// DIR/server [default: /var/lib/atoll/server; with --from-folder that folder, whose former
    /// store is kept beside the new one]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Only say what there is and what would be lost
    #[arg(long)]
    dry_run: bool,
    /// Open it with the secret keys in this file, as age-keygen writes it
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    identity: Option<PathBuf>,
    /// Open it with the passphrase in this file's first line, instead of asking for it
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Do not ask whether that is what you want
    #[arg(short, long)]
    yes: bool,
    /// Print what was restored as a document
    #[arg(short, long)]
    output: Option<Output>,
}

pub fn run(restore: &Restore) -> Result<()> {
    match (&restore.from_folder, &restore.file) {
        (Some(folder), _) => survivor::run(restore, folder),
        (None, Some(file)) => run_file(restore, file),
        (None, None) => bail!("name a backup, or a server's folder with --from-folder"),
    }
}

fn run_file(restore: &Restore, path: &Path) -> Result<()> {
    let dir = restore.data_dir.as_deref().unwrap_or(Path::new(DATA_DIR));
    check_folder(dir)?;
    let mut file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let key = lock::to_open(restore.identity.as_deref(), restore.passphrase_file.as_deref())?;
    let mut check = SnapshotCheck::default();
    let checked = Checked::read(path, &mut file, &key, "checked", |_, snapshot| {
        check.push(snapshot).context("its store is damaged")
    })?;
    let contents = check.finish().context("its store is damaged")?;
    if restore.output.is_none() {
        output::write(&describe(path, dir, &checked, &contents));
    }
    if !restore.dry_run {
        if !restore.yes {
            confirm()?;
        }
        fill_from_file(path, dir, &mut file, &key, (&checked, &contents))?;
    }
    let mut document = document(&checked.manifest, &contents, checked.bytes);
    document["dataDir"] = dir.display().to_string().into();
    restore.say_done(document, dir)
}

fn fill_from_file(
    path: &Path,
    dir: &Path,
    file: &mut File,
    key: &Key,
    (checked, contents): (&Checked, &Contents),
) -> Result<()> {
    let mut folder = Filling::begin(dir)?;
    let mut has_keys = false;
    let again = Checked::read(path, file, key, "restored", |manifest, snapshot| {
        if !std::mem::replace(&mut has_keys, true) {
            write_keys(&folder.unfinished.join("keys"), manifest)?;
        }
        folder.push(snapshot)
    })?;
    let restored = folder.complete()?;
    anyhow::ensure!(
        again.manifest == checked.manifest && restored.contents == *contents,
        "{} changed while it was read; nothing was restored",
        path.display()
    );
    sync_folder(&folder.unfinished.join("keys"))?;
    // A store without its keys would be given new ones, so the keys come first.
    folder.name(&["keys"])
}

fn write_keys(folder: &Path, manifest: &Manifest) -> Result<()> {
    make_folder(folder)?;
    for key in &manifest.keys {
        let mode = if key.secret { 0o600 } else { 0o644 };
        write_atomically(&folder.join(&key.name), &key.content()?, mode)?;
    }
    Ok(())
}

impl Restore {
    fn say_done(&self, document: serde_json::Value, dir: &Path) -> Result<()> {
        let dir = dir.display();
        match self.output {
            Some(format) => print_document(&document, format == Output::Yaml)?,
            None if self.dry_run => output::line("Nothing was changed."),
            None => output::line(&format!(
                "Restored into {dir}. Start it: atoll server --data-dir {dir}"
            )),
        }
        Ok(())
    }
}

/// What the first reading of a file has shown.
struct Checked {
    manifest: Manifest,
    bytes: u64,
}

impl Checked {
    /// Reads the whole file; `take` gets the description and each piece of the snapshot.
    fn read(
        path: &Path,
        file: &mut File,
        key: &Key,
        doing: &'static str,
        mut take: impl FnMut(&Manifest, &[u8]) -> Result<()>,
    ) -> Result<Self> {
        let damaged = || format!("{} cannot be restored", path.display());
        std::io::Seek::rewind(file).with_context(damaged)?;
        let total = file.metadata().with_context(damaged)?.len();
        let mut progress = Progress::new(doing, Some(total));
        let (mut opener, mut reader) = (Opener::new(key.clone()), Reader::new());
        let (mut piece, mut opened) = (vec![0; PIECE_BYTES], Vec::new());
        let mut bytes = 0;
        loop {
            let length = file.read(&mut piece).with_context(damaged)?;
            if length > 0 {
                opener.push(&piece[..length], &mut opened).with_context(damaged)?;
            } else {
                std::mem::replace(&mut opener, Opener::new(key.clone()))
                    .finish(&mut opened)
                    .with_context(damaged)?;
            }
            let snapshot = reader.push(&opened).with_context(damaged)?;
            if let Some(manifest) = reader.manifest() {
                take(manifest, snapshot).with_context(damaged)?;
            }
            opened.clear();
            bytes += length as u64;
            progress.add(length);
            if length == 0 {
                break;
            }
        }
        let manifest = reader.finish().with_context(damaged)?;
        Ok(Self { manifest, bytes })
    }
}

/// Empty, or not there, or with what an earlier try has left, which is removed before the next.
fn check_folder(dir: &Path) -> Result<()> {
    let reading = || format!("looking into {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(reading),
    };
    for entry in entries {
        let name = entry.with_context(reading)?.file_name();
        if name != UNFINISHED && !left_by_naming(dir, &name.to_string_lossy()) {
            bail!(
                "{} holds something already ({}); a restore overwrites nothing: move it away, or name another folder with --data-dir",
                dir.display(),
                name.to_string_lossy()
            );
        }
    }
    Ok(())
}

fn describe(path: &Path, dir: &Path, checked: &Checked, contents: &Contents) -> String {
    let manifest = &checked.manifest;
    let mut text = format!(
        "{} ({}) is whole: cluster {}, saved {} by atoll {}\n",
        path.display(),
        size(checked.bytes),
        manifest.cluster_id,
        age(&manifest.taken_at),
        manifest.release
    );
    text.push_str(&format!(
        "  {} records; objects at revision {}, applications' keys at revision {}\n",
        contents.records, contents.cluster_revision, contents.applications_revision
    ));
    text.push_str(&format!("  servers at that time: {}\n", manifest.servers.join(", ")));
    text.push_str(&format!("Restored into {} it is a new cluster of one server:\n", dir.display()));
    text.push_str("  - what was written after it was saved is lost\n");
    text.push_str(
        "  - all servers of the old cluster are forgotten: stop them, empty their data folders, and join them again\n",
    );
    text.push_str(&what_follows());
    text
}

/// The same whatever a cluster is made of.
fn what_follows() -> String {
    format!(
        "  - revisions go on {REVISIONS_SKIPPED} higher, so that everyone who watches reads everything anew\n  - nodes, tokens and kubeconfigs stay good; nodes come back by themselves where the server is at its old address\n"
    )
}

/// `2026-11-25T12:00:00Z (3h ago)`
fn age(taken_at: &str) -> String {
    let Ok(at) = taken_at.parse::<Timestamp>() else { return taken_at.to_owned() };
    let seconds = Timestamp::now().as_second() - at.as_second();
    let (count, unit) = match seconds {
        ..60 => return format!("{taken_at} (just now)"),
        60..3_600 => (seconds / 60, "min"),
        3_600..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{taken_at} ({count} {unit} ago)")
}

fn confirm() -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("nobody is there to be asked; --yes restores without asking");
    }
    let mut err = std::io::stderr().lock();
    err.write_all(b"Restore it? [y/N] ").and_then(|()| err.flush()).context("asking")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context("asking")?;
    if !matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        bail!("nothing was restored");
    }
    Ok(())
}

fn making(path: &Path) -> String {
    format!("making {}", path.display())
}

/// For its owner alone: what it will hold are secrets.
fn make_folder(path: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| making(path))
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).with_context(|| making(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_folder_is_restored_into() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(&folder.path().join("none")).unwrap();
        check_folder(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join(UNFINISHED)).unwrap();
        check_folder(folder.path()).unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        let refused = check_folder(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("(store)") && refused.contains("--data-dir"), "{refused}");
    }

    #[test]
    fn an_age_is_said_in_one_word() {
        assert_eq!(age("2026-01-01"), "2026-01-01");
        assert!(age("2020-01-01T00:00:00Z").ends_with(" days ago)"));
    }
}
