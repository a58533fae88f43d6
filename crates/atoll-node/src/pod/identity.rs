//! Names of pods and the short cuts through their optional fields.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::pod::ephemeral;

/// A pod's names. Its text is the kubelet's: `name_namespace(uid)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

impl PodId {
    /// `None` for an object that never came from an API server.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<PodId> {
        Some(PodId {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
        })
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}({})", self.name, self.namespace, self.uid)
    }
}

/// An init container that keeps running beside the others.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What becomes of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    #[must_use]
    pub fn of(spec: &PodSpec) -> RestartPolicy {
        match spec.restart_policy.as_deref() {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        }
    }

    #[must_use]
    pub fn restarts(self, exit_code: i32) -> bool {
        match self {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
    }
}

/// Whether the API says that this pod is finished for good.
#[must_use]
pub fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// All containers of a pod with the path by which events name them.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|c| ("initContainers", c));
    init.chain(spec.containers.iter().map(|c| ("containers", c)))
}

/// The container of that name, wherever it stands; an ephemeral one in the form of others.
#[must_use]
pub fn find_container<'a>(
    spec: &'a PodSpec,
    name: &str,
) -> Option<(&'static str, Cow<'a, Container>)> {
    let lasting = all_containers(spec).find(|(_, c)| c.name == name);
    match lasting {
        Some((list, container)) => Some((list, Cow::Borrowed(container))),
        None => Some((ephemeral::LIST, Cow::Owned(ephemeral::find(spec, name)?))),
    }
}

#[must_use]
pub fn uses_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}
