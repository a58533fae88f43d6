//! Names the fields of a pod that a node without root cannot honour. Pure.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SecurityContext, Volume, VolumeMount};

use crate::pod::identity::all_containers;
use crate::pod::spec::DEFAULT_MESSAGE_PATH;

/// Where a pod finds its token; mounted into every pod that does not decline it.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the machine allows.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Pods can have files and mounts of their own.
    pub isolation: bool,
    /// The user who runs the node.
    pub uid: u32,
    pub gid: u32,
    /// Images that are programs of the node; others need isolation.
    pub programs: Vec<String>,
}

/// The paths of the fields for which the pod is refused.
#[must_use]
pub fn unsupported_fields(pod: &Pod, allowed: &Allowed) -> Vec<String> {
    let mut found = Vec::new();
    let Some(spec) = &pod.spec else { return found };
    of_pod(spec, &mut found);
    if !allowed.isolation {
        of_open_pod(spec, allowed, &mut found);
    }
    let mut counts = std::collections::BTreeMap::new();
    for (list, container) in all_containers(spec) {
        let index = counts.entry(list).or_insert(0);
        let path = format!("spec.{list}[{index}]");
        *index += 1;
        of_container(container, &path, &mut found);
        if !allowed.isolation {
            of_open_container(spec, container, &path, allowed, &mut found);
        }
    }
    found
}

fn note(found: &mut Vec<String>, path: String, is_set: bool) {
    if is_set {
        found.push(path);
    }
}

fn of_pod(spec: &PodSpec, found: &mut Vec<String>) {
    let context = spec.security_context.clone().unwrap_or_default();
    let is_set = |groups: &Option<Vec<i64>>| groups.as_ref().is_some_and(|list| !list.is_empty());
    for (name, is_set) in [
        ("shareProcessNamespace", spec.share_process_namespace == Some(true)),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        ("securityContext.fsGroup", context.fs_group.is_some()),
        ("securityContext.supplementalGroups", is_set(&context.supplemental_groups)),
        ("securityContext.sysctls", context.sysctls.is_some_and(|list| !list.is_empty())),
        (
            "securityContext.seccompProfile",
            context.seccomp_profile.is_some_and(|profile| profile.type_ == "Localhost"),
        ),
    ] {
        note(found, format!("spec.{name}"), is_set);
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let medium = volume.empty_dir.as_ref().and_then(|dir| dir.medium.as_deref());
        let is_memory = medium == Some("Memory");
        note(found, format!("spec.volumes[{index}].emptyDir.medium"), is_memory);
        // Only containers can mount images there, each its own.
        note(found, format!("spec.volumes[{index}].image"), volume.image.is_some());
    }
}

fn of_container(container: &Container, path: &str, found: &mut Vec<String>) {
    let context = container.security_context.clone().unwrap_or_default();
    let added = context.capabilities.as_ref().and_then(|own| own.add.as_ref());
    for (name, is_set) in [
        ("privileged", context.privileged == Some(true)),
        ("capabilities.add", added.is_some_and(|list| !list.is_empty())),
        ("procMount", context.proc_mount.as_deref() == Some("Unmasked")),
        (
            "seccompProfile",
            context.seccomp_profile.is_some_and(|profile| profile.type_ == "Localhost"),
        ),
    ] {
        note(found, format!("{path}.securityContext.{name}"), is_set);
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let is_set = mount.mount_propagation.as_deref() == Some("Bidirectional");
        note(found, format!("{path}.volumeMounts[{index}].mountPropagation"), is_set);
    }
}

/// What needs files of its own.
fn of_open_pod(spec: &PodSpec, allowed: &Allowed, found: &mut Vec<String>) {
    let context = spec.security_context.clone().unwrap_or_default();
    let other = |wanted: Option<i64>, own: u32| wanted.is_some_and(|id| id != i64::from(own));
    for (name, is_set) in [
        ("hostAliases", spec.host_aliases.as_ref().is_some_and(|list| !list.is_empty())),
        ("dnsConfig", spec.dns_config.is_some()),
        ("dnsPolicy", spec.dns_policy.as_deref() == Some("None")),
        ("securityContext.runAsUser", other(context.run_as_user, allowed.uid)),
        ("securityContext.runAsGroup", other(context.run_as_group, allowed.gid)),
    ] {
        note(found, format!("spec.{name}"), is_set);
    }
}

fn of_open_container(
    spec: &PodSpec,
    container: &Container,
    path: &str,
    allowed: &Allowed,
    found: &mut Vec<String>,
) {
    let image = container.image.as_deref().unwrap_or_default();
    let is_program = allowed.programs.iter().any(|name| is_tag_of(image, name));
    note(found, format!("{path}.image"), !is_program);
    let message_path = container.termination_message_path.as_deref().unwrap_or_default();
    let is_set = !message_path.is_empty() && message_path != DEFAULT_MESSAGE_PATH;
    note(found, format!("{path}.terminationMessagePath"), is_set);
    let context: SecurityContext = container.security_context.clone().unwrap_or_default();
    let other = |wanted: Option<i64>, own: u32| wanted.is_some_and(|id| id != i64::from(own));
    for (name, is_set) in [
        ("readOnlyRootFilesystem", context.read_only_root_filesystem == Some(true)),
        ("runAsUser", other(context.run_as_user, allowed.uid)),
        ("runAsGroup", other(context.run_as_group, allowed.gid)),
    ] {
        note(found, format!("{path}.securityContext.{name}"), is_set);
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        note(found, format!("{path}.volumeMounts[{index}]"), !is_token(spec, mount));
    }
}

fn is_tag_of(image: &str, name: &str) -> bool {
    let rest = image.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':') || rest.starts_with('@'))
}

/// Nobody asked for it: admission gives it to every pod.
fn is_token(spec: &PodSpec, mount: &VolumeMount) -> bool {
    let is_projected = |volume: &Volume| volume.name == mount.name && volume.projected.is_some();
    mount.mount_path == TOKEN_PATH && spec.volumes.iter().flatten().any(is_projected)
}

/// What the pod runs without, for an event each: reason and message.
#[must_use]
pub fn shortcomings(pod: &Pod, isolation: bool) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Some(spec) = &pod.spec else { return found };
    let limits = limits(spec);
    if !limits.is_empty() {
        let fields = limits.join(", ");
        found.push((
            "LimitsNotEnforced",
            format!("this node runs without root and does not enforce {fields}"),
        ));
    }
    let has_token = |container: &Container| {
        container.volume_mounts.iter().flatten().any(|mount| is_token(spec, mount))
    };
    if !isolation && all_containers(spec).any(|(_, container)| has_token(container)) {
        found.push((
            "TokenNotMounted",
            format!(
                "this machine does not let a user make mounts, so there is nothing at \
                 {TOKEN_PATH}; with automountServiceAccountToken: false it is not expected there"
            ),
        ));
    }
    if !crate::pod::identity::uses_host_network(pod)
        && spec.dns_policy.as_deref().is_none_or(|policy| policy == "ClusterFirst")
    {
        found.push(("MissingClusterDNS", missing_dns(pod)));
    }
    found
}

/// The kubelet's words.
fn missing_dns(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    format!(
        "pod: \"{name}_{namespace}({uid})\". kubelet does not have ClusterDNS IP configured and \
         cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy."
    )
}

fn limits(spec: &PodSpec) -> Vec<String> {
    let mut fields = Vec::new();
    let mut counts = std::collections::BTreeMap::new();
    for (list, container) in all_containers(spec) {
        let index = counts.entry(list).or_insert(0);
        let resources = container.resources.as_ref();
        let names = resources.and_then(|own| own.limits.as_ref()).into_iter().flatten();
        fields
            .extend(names.map(|(name, _)| format!("spec.{list}[{index}].resources.limits.{name}")));
        *index += 1;
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn allowed(isolation: bool) -> Allowed {
        let programs = vec!["atoll.local/hello".to_owned()];
        Allowed { isolation, uid: 1000, gid: 1000, programs }
    }

    fn fields(spec: Value, isolation: bool) -> Vec<String> {
        let pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        unsupported_fields(&pod, &allowed(isolation))
    }

    fn token() -> (Value, Value) {
        let mount = json!({"name": "kube-api-access-x", "mountPath": TOKEN_PATH});
        (mount, json!({"name": "kube-api-access-x", "projected": {"sources": []}}))
    }

    #[test]
    fn an_ordinary_pod_is_welcome_where_there_are_namespaces() {
        let (mount, volume) = token();
        let spec = json!({"volumes": [volume, {"name": "v", "emptyDir": {}}],
            "securityContext": {"runAsUser": 5},
            "containers": [{"name": "c", "image": "registry/x", "resources": {
                "limits": {"memory": "1Gi"}}, "securityContext": {
                "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [mount, {"name": "v", "mountPath": "/v"}]}]});
        assert_eq!(fields(spec.clone(), true), Vec::<String>::new());
        let open = fields(spec, false);
        let expected = [
            "spec.securityContext.runAsUser",
            "spec.containers[0].image",
            "spec.containers[0].securityContext.readOnlyRootFilesystem",
            "spec.containers[0].volumeMounts[1]",
        ];
        assert_eq!(open, expected);
    }

    #[test]
    fn what_needs_root_is_refused_everywhere() {
        let spec = json!({"hostPID": true, "securityContext": {"fsGroup": 1},
            "initContainers": [{"name": "i", "image": "atoll.local/hello:1"}],
            "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}],
            "containers": [{"name": "c", "image": "atoll.local/hello", "securityContext":
                {"privileged": true, "capabilities": {"add": ["NET_ADMIN"]}}}]});
        let expected = [
            "spec.hostPID",
            "spec.securityContext.fsGroup",
            "spec.volumes[0].emptyDir.medium",
            "spec.containers[0].securityContext.privileged",
            "spec.containers[0].securityContext.capabilities.add",
        ];
        assert_eq!(fields(spec.clone(), true), expected);
        assert_eq!(fields(spec, false), expected);
    }

    #[test]
    fn what_a_pod_runs_without_is_told() {
        let (mount, volume) = token();
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n",
            "uid": "u"}, "spec": {"volumes": [volume], "containers": [{"name": "c",
            "volumeMounts": [mount], "resources": {"limits": {"cpu": "1"}}}]}}))
        .unwrap();
        let told = shortcomings(&pod, false);
        let reasons: Vec<&str> = told.iter().map(|(reason, _)| *reason).collect();
        assert_eq!(reasons, ["LimitsNotEnforced", "TokenNotMounted", "MissingClusterDNS"]);
        assert!(told[0].1.ends_with("spec.containers[0].resources.limits.cpu"), "{}", told[0].1);
        assert!(told[2].1.starts_with("pod: \"p_n(u)\". kubelet does not have ClusterDNS"));
        assert_eq!(shortcomings(&pod, true).len(), 2);
    }
}
