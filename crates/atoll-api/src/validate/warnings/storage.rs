//! Warnings of volumes, claims, classes and nodes.

use serde_json::Value;

use super::{OLD_VOLUMES, fractional, node_selector_term, old_label};
use crate::access::Access as _;
use crate::field::Path;
use crate::kinds::storage::CLASS_ANNOTATION;

/// Plugins that volumes of their own have had; the rest only ever stood in pods.
const PLUGINS: [&str; 6] =
    ["cephfs", "photonPersistentDisk", "scaleIO", "storageos", "glusterfs", "rbd"];

pub(crate) fn volume(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = old_class(new);
    let (at, spec) = (Path::new("spec"), &new["spec"]);
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. \
             Instead, the recommended approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    let terms_at = at.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    let terms = spec["nodeAffinity"]["required"].items("nodeSelectorTerms");
    for (index, term) in terms.iter().enumerate() {
        node_selector_term(&terms_at.index(index), term, &mut warnings);
    }
    for plugin in PLUGINS.iter().filter(|plugin| spec.has(plugin)) {
        let text = OLD_VOLUMES.iter().find(|(kind, _)| kind == plugin);
        warnings.extend(text.map(|(_, text)| format!("{}: {text}", at.child(plugin))));
    }
    fractional(&at.child("capacity"), &spec["capacity"], &["storage"], &mut warnings);
    warnings
}

pub(crate) fn claim(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = old_class(new);
    claim_spec(&Path::new("spec"), &new["spec"], &mut warnings);
    warnings
}

/// The spec of a claim or of a template for one.
pub(crate) fn claim_spec(at: &Path, spec: &Value, warnings: &mut Vec<String>) {
    let at = at.child("resources");
    for field in ["requests", "limits"] {
        fractional(&at.child(field), &spec["resources"][field], &["storage"], warnings);
    }
}

fn old_class(object: &Value) -> Vec<String> {
    let there = object["metadata"]["annotations"].has(CLASS_ANNOTATION);
    let at = Path::new("metadata").child("annotations").key(CLASS_ANNOTATION);
    let text = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    there.then(|| format!("{at}: {text}")).into_iter().collect()
}

pub(crate) fn class(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, topology) in new.items("allowedTopologies").iter().enumerate() {
        let at = Path::new("allowedTopologies").index(index).child("matchLabelExpressions");
        for (index, expression) in topology.items("matchLabelExpressions").iter().enumerate() {
            if let Some(text) = old_label(expression.text("key")) {
                warnings.push(format!("{}: {text}", at.index(index).child("key")));
            }
        }
    }
    warnings
}

pub(crate) fn capacity(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    let (at, topology) = (Path::new("nodeTopology"), &new["nodeTopology"]);
    node_selector_term(&at, topology, &mut warnings);
    for (label, _) in topology.fields("matchLabels").into_iter().flatten() {
        if let Some(text) = old_label(label) {
            warnings.push(format!("{}: {text}", at.child("matchLabels").child(label)));
        }
    }
    warnings
}

pub(crate) fn node(new: &Value, _: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if new["spec"].has("configSource") {
        warnings.push("spec.configSource: the feature is removed".to_owned());
    }
    if !new["spec"].text("externalID").is_empty() {
        let text = "spec.externalID: this field is deprecated, and is unused by Kubernetes";
        warnings.push(text.to_owned());
    }
    warnings
}
