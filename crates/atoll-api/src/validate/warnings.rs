//! Warnings: what is accepted although it is probably not what was meant.

mod ports;
pub(crate) mod storage;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::access::Access as _;
use crate::field::{Path, quote};
use crate::kinds::amount::{UNIT, parse};

const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const OLD_VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// Resources that are counted in bytes.
const BYTES: [&str; 2] = ["memory", "ephemeral-storage"];
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];
/// Annotations that fields of a security context have replaced: of the pod, of the container
/// whose name follows, the field, and what has become of it.
const PROFILES: [(&str, &str, &str, &str); 2] = [
    (
        "seccomp.security.alpha.kubernetes.io/pod",
        "container.seccomp.security.alpha.kubernetes.io/",
        "seccompProfile",
        "non-functional in v1.27+; use the \"seccompProfile\" field instead",
    ),
    (
        "",
        "container.apparmor.security.beta.kubernetes.io/",
        "appArmorProfile",
        "deprecated since v1.30; use the \"appArmorProfile\" field instead",
    ),
];

/// Pods are changed by machines, which read no warnings.
pub(crate) fn pod(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_some() {
        return warnings;
    }
    pod_like(&Path::root(), new, &mut warnings);
    warnings
}

/// A template that stays as it is was warned of before.
pub(crate) fn workload(new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_some_and(|old| old["spec"]["template"] == new["spec"]["template"]) {
        return warnings;
    }
    let at = Path::new("spec").child("template");
    pod_like(&at, &new["spec"]["template"], &mut warnings);
    warnings
}

pub(crate) fn service(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = &new["spec"];
    let old_hints = "service.kubernetes.io/topology-aware-hints";
    if new["metadata"]["annotations"].has(old_hints) {
        warnings.push(format!(
            "annotation {old_hints} is deprecated, please use service.kubernetes.io/topology-mode \
             instead"
        ));
    }
    if spec.text("type") == "ClusterIP" && spec.text("clusterIP") == "None" {
        if !spec.text("loadBalancerIP").is_empty() {
            warnings.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !spec.items("externalIPs").is_empty() {
            warnings.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    let external = spec.text("type") == "ExternalName";
    if external && !spec.items("externalIPs").is_empty() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external && !spec.text("externalName").is_empty() {
        let text = "spec.externalName is ignored when spec.type is not \"ExternalName\"";
        warnings.push(text.to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        let text =
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"";
        warnings.push(text.to_owned());
    }
    warnings
}

pub(crate) fn pod_like(at: &Path, pod: &Value, warnings: &mut Vec<String>) {
    let spec = &pod["spec"];
    let spec_at = at.child("spec");
    for (key, _) in spec.fields("nodeSelector").into_iter().flatten() {
        if let Some(text) = old_label(key) {
            warnings.push(format!("{}: {text}", spec_at.child("nodeSelector").key(key)));
        }
    }
    let affinity_at = spec_at.child("affinity").child("nodeAffinity");
    node_affinity(&affinity_at, &spec["affinity"]["nodeAffinity"], warnings);
    for (index, constraint) in spec.items("topologySpreadConstraints").iter().enumerate() {
        let at = spec_at.child("topologySpreadConstraints").index(index);
        let key = constraint.text("topologyKey");
        if let Some(text) = old_label(key) {
            warnings.push(format!("{}: {key} is {text}", at.child("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            let at = at.child("labelSelector");
            warnings.push(format!("{at}: a null labelSelector results in matching no pod"));
        }
    }
    for (key, text) in OLD_ANNOTATIONS {
        if pod["metadata"]["annotations"].has(key) {
            let at = at.child("metadata").child("annotations").key(key);
            warnings.push(format!("{at}: {text}"));
        }
    }
    volumes(&spec_at.child("volumes"), spec, warnings);
    repeats(&spec_at, spec, "hostAliases", "ip", warnings);
    repeats(&spec_at, spec, "imagePullSecrets", "name", warnings);
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            let at = spec_at.child("imagePullSecrets").index(index).child("name");
            warnings.push(format!("{at}: invalid empty name \"\""));
        }
    }
    fractional(&spec_at.child("overhead"), &spec["overhead"], &BYTES, warnings);
    let containers = containers(&spec_at, spec);
    profiles(at, pod, &containers, warnings);
    for (at, container) in &containers {
        self::container(at, container, warnings);
    }
    ports::warn(&containers, warnings);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let at = spec_at.child("terminationGracePeriodSeconds");
        let text = "must be >= 0; negative values are invalid and will be treated as 1";
        warnings.push(format!("{at}: {text}"));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = spec_at.child("affinity").child(kind);
        pod_affinity(&at, &spec["affinity"][kind], warnings);
    }
}

fn volumes(at: &Path, spec: &Value, warnings: &mut Vec<String>) {
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let at = at.index(index);
        for (kind, text) in OLD_VOLUMES {
            if volume.has(kind) {
                warnings.push(format!("{}: {text}", at.child(kind)));
            }
        }
        let at = at.child("ephemeral").child("volumeClaimTemplate").child("spec");
        let claim = &volume["ephemeral"]["volumeClaimTemplate"]["spec"];
        storage::claim_spec(&at, claim, warnings);
    }
}

fn containers<'a>(at: &Path, spec: &'a Value) -> Vec<(Path, &'a Value)> {
    let lists = ["initContainers", "containers", "ephemeralContainers"].into_iter();
    let all = lists.flat_map(|list| {
        let at = at.child(list);
        spec.items(list).iter().enumerate().map(move |(index, one)| (at.index(index), one))
    });
    all.collect()
}

fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|(_, text)| *text)
}

fn node_selector_term(at: &Path, term: &Value, warnings: &mut Vec<String>) {
    for (index, expression) in term.items("matchExpressions").iter().enumerate() {
        let key = expression.text("key");
        if let Some(text) = old_label(key) {
            let at = at.child("matchExpressions").index(index).child("key");
            warnings.push(format!("{at}: {key} is {text}"));
        }
    }
}

fn node_affinity(at: &Path, affinity: &Value, warnings: &mut Vec<String>) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = affinity[required].items("nodeSelectorTerms");
    let terms_at = at.child(required).child("nodeSelectorTerms");
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(&terms_at.index(index), term, warnings);
    }
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    for (index, term) in affinity.items(preferred).iter().enumerate() {
        let at = at.child(preferred).index(index).child("preference");
        node_selector_term(&at, &term["preference"], warnings);
    }
}

fn pod_affinity(at: &Path, affinity: &Value, warnings: &mut Vec<String>) {
    let lists = [
        ("requiredDuringSchedulingIgnoredDuringExecution", None),
        ("preferredDuringSchedulingIgnoredDuringExecution", Some("podAffinityTerm")),
    ];
    for (list, inner) in lists {
        for (index, term) in affinity.items(list).iter().enumerate() {
            let at = at.child(list).index(index);
            let (at, term) =
                inner.map_or((at.clone(), term), |inner| (at.child(inner), &term[inner]));
            if !term.has("labelSelector") {
                let at = at.child("labelSelector");
                warnings.push(format!("{at}: a null labelSelector results in matching no pod"));
            }
        }
    }
}

/// Annotations that say what a field says now, where the field says nothing.
fn profiles(at: &Path, pod: &Value, containers: &[(Path, &Value)], warnings: &mut Vec<String>) {
    let annotations = &pod["metadata"]["annotations"];
    let at = at.child("metadata").child("annotations");
    let mut warn = |key: &str, text: &str| {
        if annotations.has(key) {
            warnings.push(format!("{}: {text}", at.key(key)));
        }
    };
    for (of_pod, of_container, field, text) in PROFILES {
        let stated = pod["spec"]["securityContext"].has(field);
        if !of_pod.is_empty() && !stated {
            warn(of_pod, text);
        }
        for (_, container) in containers {
            // A profile of the pod is its containers' for AppArmor alone.
            let inherits = of_pod.is_empty() && stated;
            if !inherits && !container["securityContext"].has(field) {
                warn(&format!("{of_container}{}", container.text("name")), text);
            }
        }
    }
}

/// Bytes do not come in parts.
fn fractional(at: &Path, amounts: &Value, names: &[&str], warnings: &mut Vec<String>) {
    for name in names {
        let Some(text) = amounts.opt_text(name) else { continue };
        if parse(text).is_some_and(|amount| amount % UNIT != 0) {
            warnings.push(format!(
                "{}: fractional byte value {} is invalid, must be an integer",
                at.key(name),
                quote(text)
            ));
        }
    }
}

fn repeats(at: &Path, spec: &Value, list: &str, field: &str, warnings: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in spec.items(list).iter().enumerate() {
        let value = item.text(field);
        if !seen.insert(value) {
            let at = at.child(list).index(index).child(field);
            warnings.push(format!("{at}: duplicate {field} {}", quote(value)));
        }
    }
}

fn container(at: &Path, container: &Value, warnings: &mut Vec<String>) {
    for resource in BYTES {
        for field in ["limits", "requests"] {
            let at = at.child("resources").child(field);
            fractional(&at, &container["resources"][field], &[resource], warnings);
        }
    }
    let mut seen = BTreeSet::new();
    for (index, variable) in container.items("env").iter().enumerate() {
        let name = variable.text("name");
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        let value = variable.text("value");
        if variable.has("valueFrom") || value == reference || !value.contains(&reference) {
            let at = at.child("env").index(index);
            warnings.push(format!(
                "{at}: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
}
