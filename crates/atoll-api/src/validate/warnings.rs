//! Warnings: what is accepted although it is probably not what was meant.

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

const OLD_LABELS: [(&str, &str, &str); 5] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "v1.17", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "v1.17", "topology.kubernetes.io/zone"),
    ("beta.kubernetes.io/instance-type", "v1.17", "node.kubernetes.io/instance-type"),
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
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        for (kind, text) in OLD_VOLUMES {
            if volume.has(kind) {
                let at = spec_at.child("volumes").index(index).child(kind);
                warnings.push(format!("{at}: {text}"));
            }
        }
    }
    repeats(&spec_at, spec, "hostAliases", "ip", warnings);
    repeats(&spec_at, spec, "imagePullSecrets", "name", warnings);
    for (index, secret) in spec.items("imagePullSecrets").iter().enumerate() {
        if secret.text("name").is_empty() {
            let at = spec_at.child("imagePullSecrets").index(index).child("name");
            warnings.push(format!("{at}: invalid empty name \"\""));
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in spec.items(list).iter().enumerate() {
            self::container(&spec_at.child(list).index(index), container, warnings);
        }
    }
}

fn old_label(key: &str) -> Option<String> {
    let (_, since, instead) = OLD_LABELS.iter().find(|(old, _, _)| *old == key)?;
    Some(format!("deprecated since {since}; use \"{instead}\" instead"))
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
    for resource in ["memory", "ephemeral-storage"] {
        for field in ["limits", "requests"] {
            let Some(text) = container["resources"][field].opt_text(resource) else { continue };
            if parse(text).is_some_and(|amount| amount % UNIT != 0) {
                let at = at.child("resources").child(field).key(resource);
                warnings.push(format!(
                    "{at}: fractional byte value {} is invalid, must be an integer",
                    quote(text)
                ));
            }
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
