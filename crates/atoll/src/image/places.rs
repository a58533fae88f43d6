//! Where the images of a machine's nodes lie.

use crate::dev::data_dir;
use anyhow::{Context as _, Result, anyhow, bail};
use atoll_image::{Config, ImageStore};
use std::{
    fs::File,
    path::{Path, PathBuf},
};

/// The store of one node.
pub struct Place {
    pub node: String,
    root: PathBuf,
}

/// How a command reaches registries.
#[derive(Debug, Default)]
pub struct Registries {
    pub plain_http: Vec<String>,
    pub mirrors: Vec<(String, String)>,
}

impl Place {
    pub async fn open(&self, registries: &Registries) -> Result<ImageStore> {
        let mut config = Config::new(self.root.join("images"));
        config.registry.plain_http.clone_from(&registries.plain_http);
        for (registry, url) in &registries.mirrors {
            config.registry.mirrors.entry(registry.clone()).or_default().push(url.clone());
        }
        ImageStore::open(config)
            .await
            .map_err(|error| anyhow!("the images of {}: {}", self.node, error.in_full()))
    }

    /// A file without a name on the store's own disk.
    pub fn spool(&self) -> Result<File> {
        let folder = self.root.join("images");
        let context = || format!("keeping an archive in {}", folder.display());
        std::fs::create_dir_all(&folder).with_context(context)?;
        let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR;
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        let fd = rustix::fs::open(&folder, flags | rustix::fs::OFlags::CLOEXEC, mode)
            .with_context(context)?;
        Ok(File::from(fd))
    }
}

/// The nodes of a dev cluster's folder, or the one node whose folder it is.
pub fn find(named: Option<&Path>, wanted: Option<&str>) -> Result<Vec<Place>> {
    let folder = data_dir(named)?;
    let mut places = nodes_in(&folder);
    // The default is a dev cluster's; `atoll agent` keeps its own beside it.
    let beside = folder.parent().filter(|_| named.is_none());
    for alone in [Some(folder.as_path()), beside].into_iter().flatten() {
        if places.is_empty() && alone.join("images").is_dir() {
            places.push(Place { node: "this node".to_owned(), root: alone.to_owned() });
        }
    }
    if places.is_empty() {
        bail!("no node has its folder in {}; name another with --data-dir", folder.display());
    }
    places.sort_by_key(|place| (place.node.len(), place.node.clone()));
    if let Some(wanted) = wanted {
        let names: Vec<String> = places.iter().map(|place| place.node.clone()).collect();
        places.retain(|place| place.node == wanted);
        if places.is_empty() {
            let (folder, names) = (folder.display(), names.join(", "));
            bail!("there is no node {wanted} in {folder}, only {names}");
        }
    }
    Ok(places)
}

fn nodes_in(folder: &Path) -> Vec<Place> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
        .filter(|(name, path)| name.starts_with("node-") && path.is_dir())
        .map(|(node, root)| Place { node, root })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_in_the_order_of_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(find(Some(dir.path()), None).is_err(), "nothing is made where no node is");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for node in ["node-10", "node-2", "node-1"] {
            std::fs::create_dir(dir.path().join(node)).unwrap();
        }
        let names = |wanted| -> Vec<String> {
            find(Some(dir.path()), wanted).unwrap().into_iter().map(|place| place.node).collect()
        };
        assert_eq!(names(None), ["node-1", "node-2", "node-10"]);
        assert_eq!(names(Some("node-2")), ["node-2"]);
        let error = find(Some(dir.path()), Some("node-3")).err().unwrap().to_string();
        assert!(error.ends_with("only node-1, node-2, node-10"), "{error}");
    }
}
