//! `atoll backup`: asks a server for everything and writes it to a file, encrypted.

use super::{document, lock, progress::Progress, size};
use crate::{
    cli::Output,
    client::{connect::Connection, get::print_document, output},
};
use anyhow::{Context as _, Result, bail};
use atoll_backup::{
    age::{Lock, Sealer},
    archive::{Manifest, Reader},
};
use atoll_store::restore::{Contents, SnapshotCheck};
use futures::{AsyncBufRead, AsyncBufReadExt as _};
use http::Request;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
};

/// Save the whole cluster to a file, while it goes on
///
/// The file holds every object (Secrets too), the applications' keys, and the keys of the
/// cluster's authorities; it is always encrypted, with a passphrase or for keys of age
/// (https://age-encryption.org). `atoll restore` makes a cluster of it again.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The file to write; it must not be there yet
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Encrypt for the owner of this public key (age1…); may be given several times
    #[arg(long, value_name = "KEY", conflicts_with = "passphrase_file")]
    recipient: Vec<String>,
    /// Encrypt with the passphrase in this file's first line, instead of asking for one
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// The folder of a dev cluster or server whose kubeconfig is used
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print what was saved as a document
    #[arg(short, long)]
    output: Option<Output>,
}

pub async fn run(connection: &Connection, backup: &Backup) -> Result<()> {
    let file = Partial::create(&backup.file)?;
    let lock = lock::to_lock(&backup.recipient, backup.passphrase_file.as_deref())?;
    let request = Request::post("/atoll/v1/backup")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Vec::new())
        .context("building a request")?;
    let stream = connection.client.request_stream(request).await?;
    let mut saved = Saved::begin(file, &lock)?;
    saved.take(stream).await?;
    let (manifest, contents, bytes) = saved.finish()?;
    if let Some(format) = backup.output {
        let mut document = document(&manifest, &contents, bytes);
        document["file"] = backup.file.display().to_string().into();
        return print_document(&document, format == Output::Yaml);
    }
    output::line(&format!(
        "cluster {} saved to {} ({}): objects at revision {}, applications' keys at revision {}",
        manifest.cluster_id,
        backup.file.display(),
        size(bytes),
        contents.cluster_revision,
        contents.applications_revision
    ));
    Ok(())
}

/// A backup on its way to a file. What goes in is checked, so that a stream that was cut never
/// passes for a backup.
struct Saved {
    file: Partial,
    sealer: Sealer,
    sealed: Vec<u8>,
    bytes: u64,
    reader: Reader,
    check: SnapshotCheck,
}

impl Saved {
    fn begin(file: Partial, lock: &Lock) -> Result<Self> {
        let (sealer, sealed) = Sealer::new(lock).context("encrypting the backup")?;
        let (reader, check) = (Reader::new(), SnapshotCheck::default());
        Ok(Self { file, sealer, sealed, bytes: 0, reader, check })
    }

    async fn take(&mut self, stream: impl AsyncBufRead) -> Result<()> {
        let mut stream = pin!(stream);
        let mut progress = Progress::new("saved", None);
        loop {
            let bytes = stream
                .fill_buf()
                .await
                .context("the server broke the backup off; nothing was saved")?;
            if bytes.is_empty() {
                return Ok(());
            }
            let length = bytes.len();
            let snapshot = self.reader.push(bytes).context("what the server sends is no backup")?;
            self.check.push(snapshot).context("what the server sends is no backup")?;
            self.sealer.push(bytes, &mut self.sealed).context("encrypting the backup")?;
            self.write()?;
            progress.add(length);
            stream.as_mut().consume(length);
        }
    }

    fn write(&mut self) -> Result<()> {
        self.bytes += self.sealed.len() as u64;
        self.file.write(&self.sealed)?;
        self.sealed.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<(Manifest, Contents, u64)> {
        let cut = "the server sent only a part; nothing was saved";
        let manifest = std::mem::take(&mut self.reader).finish().context(cut)?;
        let contents = std::mem::take(&mut self.check).finish().context(cut)?;
        let mut last = Vec::new();
        let Self { sealer, file, .. } = self;
        sealer.finish(&mut last).context("encrypting the backup")?;
        file.write(&last)?;
        let bytes = self.bytes + last.len() as u64;
        file.finish()?;
        Ok((manifest, contents, bytes))
    }
}

/// The file under a name of its own until it is whole.
struct Partial {
    file: File,
    partial: PathBuf,
    path: PathBuf,
    /// Cleared when nothing is left to be removed.
    remove: bool,
}

impl Partial {
    fn create(path: &Path) -> Result<Self> {
        if path.symlink_metadata().is_ok() {
            bail!(
                "{} is there already; a backup overwrites nothing: choose another name",
                path.display()
            );
        }
        let name = path.file_name().context("the backup needs a file name")?.to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(Self { file, partial, path: path.to_owned(), remove: true })
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let written = (&self.file).write_all(bytes);
        written.with_context(|| format!("writing {}; nothing was saved", self.path.display()))
    }

    fn finish(mut self) -> Result<()> {
        let writing = || format!("writing {}", self.path.display());
        self.file.sync_all().with_context(writing)?;
        rename_to_new(&self.partial, &self.path).with_context(writing)?;
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = File::open(parent.unwrap_or(Path::new("."))).with_context(writing)?;
        self.remove = false;
        parent.sync_all().with_context(writing)
    }
}

/// A plain rename would replace what has come there meanwhile.
fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that knows no such rename; that nothing was there has been seen.
        Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(from, to),
        other => other.map_err(Into::into),
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.remove && std::fs::remove_file(&self.partial).is_err() {
            tracing::debug!("a part of a backup was gone already");
        }
    }
}
