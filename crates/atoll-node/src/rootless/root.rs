//! What a container of a node without root sees as `/`, and whom it runs as.

use std::path::{Path, PathBuf};

use atoll_container::{Root, User};
use atoll_image::{ImageInfo, MountDirs};

use crate::context::Context;
use crate::pod::image::with_sources;
use crate::pod::security::RunAs;

/// Lends the image's layers to the container, which mounts them itself.
pub async fn root(cx: &Context, image: &ImageInfo, dirs: &MountDirs) -> Result<Root, String> {
    let lower = cx.images.lend(image, dirs).await.map_err(|error| with_sources(&error))?;
    let hidden = cx.config.rootless.hidden.clone();
    let is_node = lower.iter().any(|layer| layer == Path::new("/"));
    if is_node {
        return Ok(Root::Node { hidden, programs: None });
    }
    if !cx.runtime.capabilities().isolation {
        // Only programs of the node get here: other images have been refused.
        return Ok(Root::Node { hidden, programs: lower.first().cloned() });
    }
    Ok(Root::Layers { lower, upper: dirs.upper.clone(), work: dirs.work.clone() })
}

/// Numbers for the user: the pod's word first, then the image's. Of the node's own files
/// he is the user who runs the node.
pub fn user(cx: &Context, root: &Root, image_user: &str, run_as: &RunAs) -> Result<User, String> {
    let (uid, gid) = own_ids();
    let Root::Layers { lower, .. } = root else {
        let isolation = cx.runtime.capabilities().isolation;
        return Ok(User {
            uid: run_as.user.filter(|_| isolation).unwrap_or(uid),
            gid: run_as.group.filter(|_| isolation).unwrap_or(gid),
            additional_gids: Vec::new(),
        });
    };
    let wanted = run_as.user.map_or_else(|| image_user.to_owned(), |uid| uid.to_string());
    let found = atoll_image::resolve_user(&names_in(lower), &wanted)
        .map_err(|error| with_sources(&error))?;
    // Groups that the image lists its user in cannot be had: a namespace has one group.
    let gid = run_as.group.unwrap_or(found.gid);
    Ok(User { uid: found.uid, gid, additional_gids: Vec::new() })
}

/// The user and group who run the node.
#[must_use]
pub fn own_ids() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The topmost layer that names users.
fn names_in(lower: &[PathBuf]) -> PathBuf {
    let has_names = |layer: &&PathBuf| layer.join("etc/passwd").exists();
    let found = lower.iter().rev().find(has_names).or(lower.last());
    found.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_those_of_the_topmost_layer_that_has_any() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> =
            ["a", "b", "c"].iter().map(|name| dir.path().join(name)).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        assert_eq!(names_in(&layers), layers[2]);
        std::fs::write(layers[0].join("etc/passwd"), "").unwrap();
        std::fs::write(layers[1].join("etc/passwd"), "").unwrap();
        assert_eq!(names_in(&layers), layers[1]);
    }
}
