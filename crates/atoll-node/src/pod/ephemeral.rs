//! Ephemeral containers: they come while the pod runs, start once, and never again.
//!
//! To the runtime they are containers like others; neither the pod's phase nor its readiness
//! depends on them.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Pod, PodSpec};

use crate::pod::track::{Track, Tracks};

/// The list in which they stand, as events name it.
pub const LIST: &str = "ephemeralContainers";

/// An ephemeral container in the form of others: all of its fields but the target are theirs.
fn as_container(ephemeral: &EphemeralContainer) -> Option<Container> {
    serde_json::from_value(serde_json::to_value(ephemeral).ok()?).ok()
}

/// All of a pod, as containers.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = Container> + '_ {
    spec.ephemeral_containers.iter().flatten().filter_map(as_container)
}

#[must_use]
pub fn find(spec: &PodSpec, name: &str) -> Option<Container> {
    let mut all = spec.ephemeral_containers.iter().flatten();
    all.find(|one| one.name == name).and_then(as_container)
}

/// The container whose processes it sees.
#[must_use]
pub fn target<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a str> {
    let mut all = spec.ephemeral_containers.iter().flatten();
    let target = all.find(|one| one.name == name)?.target_container_name.as_deref();
    target.filter(|target| !target.is_empty())
}

/// Those that have never run.
#[must_use]
pub fn to_start(spec: &PodSpec, tracks: &Tracks) -> Vec<String> {
    let all = spec.ephemeral_containers.iter().flatten();
    let new = all.filter(|one| tracks.get(&one.name).is_none_or(|track| !has_run(track)));
    new.map(|one| one.name.clone()).collect()
}

fn has_run(track: &Track) -> bool {
    track.starting || track.current.is_some() || track.previous.is_some() || track.restart_floor > 0
}

/// Its record is gone, but the API knows that it has run.
#[must_use]
pub fn only_known_to_the_api(track: &Track) -> bool {
    track.current.is_none() && track.previous.is_none() && track.restart_floor > 0
}

/// What the API says of it.
#[must_use]
pub fn known_status(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    let statuses = pod.status.iter().flat_map(|s| s.ephemeral_container_statuses.iter().flatten());
    statuses.into_iter().find(|status| status.name == name).cloned()
}

/// The pod with this container and no other, for checks of what a node can give.
#[must_use]
pub fn alone(pod: &Pod, container: &Container) -> Pod {
    let mut pod = pod.clone();
    if let Some(spec) = &mut pod.spec {
        spec.containers = vec![container.clone()];
        spec.init_containers = None;
        spec.ephemeral_containers = None;
    }
    pod
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec() -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "app", "image": "i"}],
            "ephemeralContainers": [{"name": "debug", "image": "tools", "stdin": true,
                "targetContainerName": "app", "command": ["sh"]}]}))
        .unwrap()
    }

    #[test]
    fn it_has_the_fields_of_a_container_and_a_target() {
        let debug = find(&spec(), "debug").unwrap();
        assert_eq!((debug.image.as_deref(), debug.stdin), (Some("tools"), Some(true)));
        assert_eq!(target(&spec(), "debug"), Some("app"));
        assert!(find(&spec(), "app").is_none());
    }

    #[test]
    fn it_starts_once() {
        let mut tracks = Tracks::new();
        assert_eq!(to_start(&spec(), &tracks), ["debug"]);
        let known = Track { restart_floor: 1, ..Track::default() };
        tracks.insert("debug".to_owned(), known);
        assert!(to_start(&spec(), &tracks).is_empty());
    }
}
