//! Volumes of kind `image`: pulled as a container's image is, mounted once for the pod, and
//! shown to its containers read-only.
//!
//! Each image of a volume has a folder of its own: where a tag has moved on, a container that
//! starts again gets what it means now, and others keep what they have.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atoll_image::{ImageInfo, MountDirs};
use k8s_openapi::api::core::v1::{Container, ImageVolumeSource, Pod, Secret};

use crate::config::Config;
use crate::context::Context;
use crate::pod::image::{self, PullFailure, Wanted, with_sources};

/// Folder of a pod, with a folder for each volume and in that one for each image.
const FOLDER: &str = "image-volumes";

/// The images that a container mounts, by the names of their volumes.
pub fn of<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> impl Iterator<Item = (&'a str, &'a ImageVolumeSource)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    volumes.filter_map(move |volume| {
        let is_mounted = mounts.iter().any(|mount| mount.name == volume.name);
        Some((volume.name.as_str(), volume.image.as_ref().filter(|_| is_mounted)?))
    })
}

/// Pulls or finds what the container is to see: an image for each volume.
pub async fn pull(
    cx: &Context,
    pod: &Pod,
    container: &Container,
    secrets: &BTreeMap<String, Secret>,
) -> Result<BTreeMap<String, ImageInfo>, PullFailure> {
    let mut images = BTreeMap::new();
    for (volume, source) in of(pod, container) {
        let image = source.reference.as_deref().unwrap_or_default();
        let policy = image::policy(source.pull_policy.as_deref(), image);
        let wanted = Wanted { image, policy, container: None };
        images.insert(volume.to_owned(), image::ensure(cx, pod, &wanted, secrets).await?);
    }
    Ok(images)
}

/// Mounts the images; the root of each volume. What is mounted already stays.
pub async fn mount(
    cx: &Context,
    uid: &str,
    images: &BTreeMap<String, ImageInfo>,
) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut roots = BTreeMap::new();
    for (volume, image) in images {
        let dirs = dirs(&cx.config.pod_dir(uid).join(FOLDER).join(volume), image);
        cx.images.mount(image, &dirs).await.map_err(|error| with_sources(&error))?;
        roots.insert(volume.clone(), dirs.rootfs);
    }
    Ok(roots)
}

fn dirs(volume: &Path, image: &ImageInfo) -> MountDirs {
    let dir = volume.join(image.digest.replace(':', "-"));
    MountDirs { rootfs: dir.join("rootfs"), upper: dir.join("upper"), work: dir.join("work") }
}

/// What is, or was, mounted for the volumes of one pod.
pub fn roots(pod_dir: &Path) -> impl Iterator<Item = PathBuf> {
    list(pod_dir.join(FOLDER)).flat_map(list).map(|image| image.join("rootfs"))
}

/// Digests of the images that volumes of this node show.
pub fn digests(config: &Config) -> impl Iterator<Item = String> {
    let images = list(config.pods_dir()).flat_map(|pod| list(pod.join(FOLDER))).flat_map(list);
    images.filter_map(|image| Some(image.file_name()?.to_str()?.replacen('-', ":", 1)))
}

fn list(dir: PathBuf) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_the_container_mounts_is_wanted() {
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "volumeMounts": [
                {"name": "a", "mountPath": "/a"}, {"name": "a", "mountPath": "/b"},
                {"name": "e", "mountPath": "/e"}]}],
            "volumes": [{"name": "a", "image": {"reference": "x:1"}}, {"name": "e", "emptyDir": {}},
                {"name": "b", "image": {"reference": "y:1"}}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let names: Vec<&str> = of(&pod, container).map(|(name, _)| name).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn mounted_images_are_found_by_their_folders() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("image-volumes/v/sha256-ab/rootfs")).unwrap();
        let found: Vec<PathBuf> = roots(root.path()).collect();
        assert_eq!(found, [root.path().join("image-volumes/v/sha256-ab/rootfs")]);
    }
}
