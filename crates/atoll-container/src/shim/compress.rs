//! Compresses log files that were put aside.
//!
//! A forked child does it, so that the container's output goes on meanwhile and the memory
//! that it takes is gone afterwards.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::ForkResult;

use crate::spec::LogSpec;

pub(crate) const GZIP: &str = ".gz";
/// A compressed file that is not complete yet.
pub(crate) const UNFINISHED: &str = ".tmp";

/// Logs matter less than the container that writes them.
const NICE: i32 = 10;

#[derive(Debug, Default)]
pub(crate) struct Compressor {
    child: Option<i32>,
}

impl Compressor {
    /// All that was put aside but the newest, which may still be read to its end by those
    /// who follow it.
    pub(crate) fn start(&mut self, spec: &LogSpec) {
        if self.child.is_some() || waiting(spec).is_empty() {
            return;
        }
        #[allow(unsafe_code, reason = "a child of the single-threaded shim")]
        // SAFETY: the shim has one thread, so the child may do whatever its parent may.
        match unsafe { nix::unistd::fork() } {
            Ok(ForkResult::Parent { child }) => self.child = Some(child.as_raw()),
            Ok(ForkResult::Child) => {
                let code = i32::from(!compress_all(spec));
                #[allow(unsafe_code, reason = "the parent's exit handlers are not the child's")]
                // SAFETY: it ends the process at once.
                unsafe {
                    libc::_exit(code)
                }
            }
            Err(error) => super::complain(&format!("atoll shim: fork: {error}")),
        }
    }

    #[cfg(test)]
    pub(crate) fn wait(&mut self) {
        if let Some(child) = self.child.take() {
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
        }
    }

    /// Whether the child that has ended was ours.
    pub(crate) fn reaped(&mut self, pid: i32) -> bool {
        self.child.take_if(|child| *child == pid).is_some()
    }
}

/// What is to be compressed now.
fn waiting(spec: &LogSpec) -> Vec<PathBuf> {
    let mut files = super::log::put_aside(spec);
    files.pop();
    files.retain(|path| path.exists());
    files
}

/// Until nothing is left: more may come meanwhile. Returns whether all went well.
fn compress_all(spec: &LogSpec) -> bool {
    if let Err(error) = rustix::process::nice(NICE) {
        super::complain(&format!("atoll shim: nice: {error}"));
    }
    loop {
        let files = waiting(spec);
        if files.is_empty() {
            return true;
        }
        for path in files {
            match compress(&path) {
                Ok(()) => {}
                // Removed meanwhile, as the oldest.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    super::complain(&format!(
                        "atoll shim: compressing {}: {error}",
                        path.display()
                    ));
                    return false;
                }
            }
        }
    }
}

/// The file disappears only after the compressed one stands in its place.
fn compress(path: &Path) -> io::Result<()> {
    let unfinished = PathBuf::from(format!("{}{UNFINISHED}", path.display()));
    let mut from = File::open(path)?;
    let to = File::create(&unfinished)?;
    let mut encoder = flate2::write::GzEncoder::new(to, flate2::Compression::default());
    let done = io::copy(&mut from, &mut encoder).and_then(|_| encoder.finish());
    if let Err(error) = done {
        fs::remove_file(&unfinished)?;
        return Err(error);
    }
    let compressed = format!("{}{GZIP}", path.display());
    fs::rename(&unfinished, &compressed)?;
    let removed = fs::remove_file(path);
    if removed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        // It was removed as the oldest meanwhile: so is what came of it.
        fs::remove_file(compressed)?;
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_compressed_file_takes_the_place_of_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log.20260102-150405");
        fs::write(&path, "text\n".repeat(1000)).unwrap();
        compress(&path).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let file = File::open(dir.path().join("0.log.20260102-150405.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
        assert_eq!(text.len(), 5000);
        assert_eq!(compress(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
