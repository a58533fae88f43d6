//! Compiled system call filters, one for each set of capabilities that was asked for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::bundle;
use crate::error::Error;

#[derive(Debug)]
pub(crate) struct Filters {
    dir: PathBuf,
    known: Mutex<HashMap<Vec<&'static str>, PathBuf>>,
}

impl Filters {
    pub(crate) fn new(run: &Path) -> Filters {
        Filters { dir: run.join("seccomp"), known: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn get(&self, capabilities: &[&'static str]) -> Result<PathBuf, Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = known.get(capabilities).filter(|path| path.exists()) {
            return Ok(path.clone());
        }
        let bytes = bundle::compile_filter(capabilities).map_err(|error| Error::InvalidSpec {
            field: "seccompProfile",
            value: "RuntimeDefault".to_owned(),
            reason: error.to_string(),
        })?;
        fs::create_dir_all(&self.dir).map_err(|source| Error::Io {
            what: "creating",
            path: self.dir.clone(),
            source,
        })?;
        // By content: shims of another version of this program keep theirs.
        let path = self.dir.join(format!("{}.bpf", crate::file::short_hash(&bytes)));
        crate::file::write_atomic(&path, &bytes)?;
        known.insert(capabilities.to_vec(), path.clone());
        Ok(path)
    }
}
