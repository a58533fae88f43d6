//! Names the fields of a pod that this node cannot honour. Pure.
//!
//! The check lists what is known to work and refuses the rest, so that a field that is
//! new to Kubernetes is refused and not ignored.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

const SPEC: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "restartPolicy",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];
const POD_SECURITY: &[&str] = &[
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
    "supplementalGroups",
    "sysctls",
];
const CONTAINER: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeMounts",
    "workingDir",
];
const SECURITY: &[&str] = &[
    "allowPrivilegeEscalation",
    "capabilities",
    "privileged",
    "procMount",
    "readOnlyRootFilesystem",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
];
const MOUNT: &[&str] =
    &["mountPath", "mountPropagation", "name", "readOnly", "subPath", "subPathExpr"];
const VOLUME: &[&str] =
    &["configMap", "downwardAPI", "emptyDir", "hostPath", "name", "projected", "secret"];
const PROJECTION: &[&str] = &["configMap", "downwardAPI", "secret", "serviceAccountToken"];
const VALUE_FROM: &[&str] = &["configMapKeyRef", "fieldRef", "resourceFieldRef", "secretKeyRef"];
const RESOURCE: &[&str] = &["cpu", "memory"];

/// Values that mean what the node does anyway, by the field's last name.
const HARMLESS: &[(&str, &[&str])] = &[
    ("recursiveReadOnly", &["Disabled"]),
    ("supplementalGroupsPolicy", &["Merge"]),
    ("hostUsers", &["true"]),
    ("shareProcessNamespace", &["false"]),
];

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
    keys(&spec, "spec", SPEC, &mut found);
    if spec.pointer("/os/name").and_then(Value::as_str) == Some("linux") {
        found.retain(|field| field != "spec.os");
    }
    security(&spec["securityContext"], "spec.securityContext", POD_SECURITY, &mut found);
    volumes(&spec["volumes"], &mut found);
    for list in ["initContainers", "containers"] {
        for (i, container) in items(&spec[list]) {
            let path = format!("spec.{list}[{i}]");
            check_container(container, &path, list == "initContainers", &mut found);
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

fn check_container(container: &Value, path: &str, init: bool, found: &mut Vec<String>) {
    keys(container, path, CONTAINER, found);
    if init && container["restartPolicy"] == "Always" {
        found.retain(|field| *field != format!("{path}.restartPolicy"));
    }
    security(&container["securityContext"], &format!("{path}.securityContext"), SECURITY, found);
    let resources = format!("{path}.resources");
    keys(&container["resources"], &resources, &["limits", "requests"], found);
    keys(&container["resources"]["limits"], &format!("{resources}.limits"), RESOURCE, found);
    let requests = &["cpu", "memory", "ephemeral-storage"];
    keys(&container["resources"]["requests"], &format!("{resources}.requests"), requests, found);
    for (i, mount) in items(&container["volumeMounts"]) {
        keys(mount, &format!("{path}.volumeMounts[{i}]"), MOUNT, found);
    }
    for (i, variable) in items(&container["env"]) {
        keys(&variable["valueFrom"], &format!("{path}.env[{i}].valueFrom"), VALUE_FROM, found);
    }
}

fn security(context: &Value, path: &str, known: &[&str], found: &mut Vec<String>) {
    keys(context, path, known, found);
    // The kernel here confines nothing by AppArmor, so that is what "Unconfined" asks for.
    if context["appArmorProfile"]["type"] == "Unconfined" {
        found.retain(|field| *field != format!("{path}.appArmorProfile"));
    }
}

fn volumes(volumes: &Value, found: &mut Vec<String>) {
    for (i, volume) in items(volumes) {
        let path = format!("spec.volumes[{i}]");
        keys(volume, &path, VOLUME, found);
        if !matches!(volume["emptyDir"]["medium"].as_str(), None | Some("" | "Memory")) {
            found.push(format!("{path}.emptyDir.medium"));
        }
        for (k, source) in items(&volume["projected"]["sources"]) {
            keys(source, &format!("{path}.projected.sources[{k}]"), PROJECTION, found);
        }
    }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

fn keys(object: &Value, path: &str, known: &[&str], found: &mut Vec<String>) {
    for (key, value) in object.as_object().into_iter().flatten() {
        if !known.contains(&key.as_str()) && !is_empty(value) && !is_harmless(key, value) {
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

fn is_harmless(key: &str, value: &Value) -> bool {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    HARMLESS.iter().any(|(name, values)| *name == key && values.contains(&text.as_str()))
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
            "hostUsers": true, "securityContext": {}, "os": {"name": "linux"},
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "initContainers": [{"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c", "image": "i", "resources": {},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Disabled"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}]}],
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}]});
        assert_eq!(fields(spec), Vec::<String>::new());
    }

    #[test]
    fn every_unknown_field_is_named_with_its_path() {
        let spec = json!({"runtimeClassName": "kata", "shareProcessNamespace": true,
            "hostUsers": false,
            "containers": [{"name": "c", "volumeDevices": [{"name": "d", "devicePath": "/d"}],
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "securityContext": {"seLinuxOptions": {"level": "s0"}}}],
            "volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]});
        let mut found = fields(spec);
        found.sort();
        assert_eq!(
            found,
            [
                "spec.containers[0].resources.limits.nvidia.com/gpu",
                "spec.containers[0].securityContext.seLinuxOptions",
                "spec.containers[0].volumeDevices",
                "spec.hostUsers",
                "spec.runtimeClassName",
                "spec.shareProcessNamespace",
                "spec.volumes[0].nfs",
            ]
        );
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
