//! The desired pods on disk, so that an agent that starts without a server knows what to
//! keep running.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Version of the file's format.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    pods: Vec<&'a Pod>,
}

#[derive(Deserialize)]
struct Read {
    version: u32,
    pods: Vec<Pod>,
}

/// The pods of the last run; none when there was none.
pub fn load(path: &Path) -> Result<Vec<Arc<Pod>>, Error> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Io { what: "reading", path: path.into(), source }),
    };
    let read: Read = serde_json::from_slice(&bytes)
        .map_err(|source| Error::Checkpoint { path: path.into(), source })?;
    if read.version != VERSION {
        tracing::warn!(version = read.version, "pods of another version's file are not read");
        return Ok(Vec::new());
    }
    Ok(read.pods.into_iter().map(Arc::new).collect())
}

/// Replaces the file.
pub fn save(path: &Path, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let fail = |what, path: &Path, source| Error::Io { what, path: path.into(), source };
    let written = Written { version: VERSION, pods: pods.iter().map(AsRef::as_ref).collect() };
    let text = serde_json::to_vec(&written)
        .map_err(|source| Error::Checkpoint { path: path.into(), source })?;
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|source| fail("creating", dir, source))?;
    }
    let new: PathBuf = path.with_extension("json.new");
    std::fs::write(&new, text).map_err(|source| fail("writing", &new, source))?;
    std::fs::rename(&new, path).map_err(|source| fail("replacing", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent/pods.json");
        assert!(load(&path).unwrap().is_empty());
        let mut pod = Pod::default();
        pod.metadata.name = Some("p".into());
        save(&path, &[Arc::new(pod.clone())]).unwrap();
        assert_eq!(*load(&path).unwrap()[0], pod);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(load(&path), Err(Error::Checkpoint { .. })));
    }
}
