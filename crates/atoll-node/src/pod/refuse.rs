//! Names the fields of a pod that this node cannot honour. Pure.
//!
//! The check lists what is known to work and refuses the rest, so that a field that is
//! new to Kubernetes is refused and not ignored.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::node::extended::is_extended;

#[path = "refuse/table.rs"]
mod table;

use table::{KINDS, Kind};

/// What containers can be given besides what others announce; a request of ephemeral-storage
/// is the scheduler's.
const LIMITS: &[&str] = &["cpu", "memory"];
const REQUESTS: &[&str] = &["cpu", "memory", "ephemeral-storage"];

/// Where a kernel with SELinux shows it.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// The sysctls that touch nothing outside the pod.
const SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The paths of the fields that cannot be honoured, in the order in which they stand.
#[must_use]
pub fn unsupported_fields(pod: &Pod) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(spec) = serde_json::to_value(&pod.spec) else { return vec!["spec".to_owned()] };
    look(&spec, "PodSpec", "spec", &spec, &mut found);
    for list in ["initContainers", "containers"] {
        for (i, container) in items(&spec[list]) {
            let path = format!("spec.{list}[{i}].resources");
            keys(&container["resources"]["limits"], &format!("{path}.limits"), LIMITS, &mut found);
            let requests = &container["resources"]["requests"];
            keys(requests, &format!("{path}.requests"), REQUESTS, &mut found);
        }
    }
    for (i, volume) in items(&spec["volumes"]) {
        if !matches!(volume["emptyDir"]["medium"].as_str(), None | Some("" | "Memory")) {
            found.push(format!("spec.volumes[{i}].emptyDir.medium"));
        }
    }
    found
}

/// Sysctls that are not on the safe list.
#[must_use]
pub fn forbidden_sysctls(pod: &Pod) -> Vec<String> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.and_then(|context| context.sysctls.as_ref());
    let names = sysctls.into_iter().flatten().map(|sysctl| sysctl.name.replace('/', "."));
    names.filter(|name| !SYSCTLS.contains(&name.as_str())).collect()
}

/// What stands in a value of this type, all the way down.
fn look(value: &Value, kind: &str, path: &str, pod: &Value, found: &mut Vec<String>) {
    let Some(kind) = KINDS.iter().find(|known| known.name == kind) else { return };
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        match kind.inner(key) {
            Some("") => {}
            Some(inner) => match value {
                Value::Array(items) => {
                    for (i, item) in items.iter().enumerate() {
                        look(item, inner, &format!("{path}[{i}]"), pod, found);
                    }
                }
                one => look(one, inner, &path, pod, found),
            },
            None if is_empty(value) || is_harmless(&path, key, value, pod) => {}
            None => found.push(path),
        }
    }
}

impl Kind {
    /// The type of what is in an honoured field.
    fn inner(&self, field: &str) -> Option<&'static str> {
        self.honoured.iter().find(|(name, _)| *name == field).map(|(_, inner)| *inner)
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

fn keys(object: &Value, path: &str, known: &[&str], found: &mut Vec<String>) {
    for key in object.as_object().into_iter().flat_map(serde_json::Map::keys) {
        let nothing = key.starts_with("hugepages-") && object[key] == "0";
        if !known.contains(&key.as_str()) && !is_extended(key) && !nothing {
            found.push(format!("{path}.{key}"));
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Whether a refused field asks for what the node does anyway.
fn is_harmless(path: &str, field: &str, value: &Value, pod: &Value) -> bool {
    match field {
        "recursiveReadOnly" => matches!(value.as_str(), Some("Disabled" | "IfPossible")),
        "supplementalGroupsPolicy" => value == "Merge",
        "hostUsers" => *value == Value::Bool(true),
        "os" => value["name"] == "linux",
        // The kernel here confines nothing by AppArmor, so that is what this asks for.
        "appArmorProfile" => value["type"] == "Unconfined",
        "seLinuxChangePolicy" => value == "Recursive",
        // Nobody looks at labels where there is no SELinux, as with other runtimes.
        "seLinuxOptions" => !std::path::Path::new(SELINUX).exists(),
        // For other nodes.
        "windowsOptions" => true,
        "restartPolicy" => is_own_policy(path, value, pod),
        _ => false,
    }
}

/// A sidecar's, or what the pod does anyway.
fn is_own_policy(path: &str, value: &Value, pod: &Value) -> bool {
    let of_pod = pod["restartPolicy"].as_str().unwrap_or("Always");
    match (path.starts_with("spec.initContainers"), of_pod) {
        (true, _) if value == "Always" => true,
        (true, "Always") => value == "OnFailure",
        _ => value == of_pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(spec: Value) -> Vec<String> {
        unsupported_fields(&serde_json::from_value(json!({ "spec": spec })).unwrap())
    }

    #[test]
    fn an_ordinary_pod_is_welcome() {
        let spec = json!({"restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "hostUsers": true, "os": {"name": "linux"},
            "securityContext": {"seLinuxChangePolicy": "Recursive",
                "windowsOptions": {"runAsUserName": "x"}},
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "i", "restartPolicy": "Always",
                "resources": {"limits": {"hugepages-2Mi": "0"}},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Disabled"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
        assert_eq!(fields(spec), Vec::<String>::new());
    }

    #[test]
    fn every_unknown_field_is_named_with_its_path() {
        let spec = json!({"runtimeClassName": "kata", "hostUsers": false,
            "containers": [{"name": "c", "volumeDevices": [{"name": "d", "devicePath": "/d"}],
                "resources": {"limits": {"nvidia.com/gpu": "1", "ephemeral-storage": "1Gi"}},
                "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}],
            "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]});
        let mut found = fields(spec);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.containers[0].resources.limits.ephemeral-storage",
                "spec.containers[0].securityContext.appArmorProfile",
                "spec.containers[0].volumeDevices",
                "spec.hostUsers",
                "spec.runtimeClassName",
                "spec.volumes[0].nfs",
            ]
        );
    }

    #[test]
    fn fields_deep_inside_are_looked_at() {
        let spec = json!({
            "initContainers": [{"name": "i", "restartPolicy": "Never"}],
            "containers": [{"name": "c", "restartPolicy": "Never",
                "env": [{"name": "E", "valueFrom": {"fileKeyRef": {"key": "k"}}}],
                "lifecycle": {"preStop": {"tcpSocket": {"port": 1}}},
                "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}],
            "volumes": [{"name": "v", "projected": {"sources":
                [{"clusterTrustBundle": {"path": "p"}}]}}]});
        let mut found = fields(spec);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.containers[0].env[0].valueFrom.fileKeyRef",
                "spec.containers[0].lifecycle.preStop.tcpSocket",
                "spec.containers[0].restartPolicy",
                "spec.containers[0].securityContext.appArmorProfile",
                "spec.initContainers[0].restartPolicy",
                "spec.volumes[0].projected.sources[0].clusterTrustBundle",
            ]
        );
    }

    #[test]
    fn every_field_of_the_schema_is_decided_upon() {
        use atoll_api::schema::{Type, by_name};
        fn object(ty: &Type) -> Option<&str> {
            match ty {
                Type::List(inner) | Type::Map(inner) => object(inner),
                other => other.definition().map(|definition| definition.short_name()),
            }
        }
        let mut left = vec!["PodSpec"];
        let mut seen: Vec<&str> = Vec::new();
        while let Some(name) = left.pop() {
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            let kind = KINDS.iter().find(|kind| kind.name == name).expect(name);
            let schema = by_name(&format!("io.k8s.api.core.v1.{name}")).expect(name).definition();
            let mut decided: Vec<&str> = kind.honoured.iter().map(|(field, _)| *field).collect();
            decided.extend(kind.refused);
            decided.sort_unstable();
            let known: Vec<&str> = schema.fields.iter().map(|field| field.name.as_ref()).collect();
            assert_eq!(decided, known, "the fields of {name}");
            for (field, inner) in kind.honoured {
                let ty = object(&schema.field(field).expect(field).ty);
                let left_to_others = ty.is_none_or(|ty| table::LEFT_TO_OTHERS.contains(&ty));
                if inner.is_empty() {
                    assert!(left_to_others, "{name}.{field} is to be looked into");
                } else {
                    assert_eq!(ty, Some(*inner), "the type of {name}.{field}");
                    left.push(inner);
                }
            }
        }
        assert_eq!(seen.len(), KINDS.len(), "types that no pod has");
    }

    #[test]
    fn only_safe_sysctls_pass() {
        let pod = serde_json::from_value(json!({"spec": {"containers": [], "securityContext":
            {"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"},
                {"name": "kernel.msgmax", "value": "1"}]}}}))
        .unwrap();
        assert_eq!(forbidden_sysctls(&pod), ["kernel.msgmax"]);
    }
}
