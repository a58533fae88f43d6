//! What a pod or a volume refers to by name.

use std::collections::HashSet;

use serde_json::Value;

use super::{RefKind, Target};

/// Everything that the node of this pod must read to run it.
pub(super) fn of_pod(pod: &Value, namespace: &str, name: &str) -> HashSet<Target> {
    let mut found = Found { namespace, targets: HashSet::new() };
    found.add(RefKind::Pod, Some(name));
    // A mirror pod stands for a file on the node: it must not become a way to read secrets.
    if pod["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_some() {
        return found.targets;
    }
    let spec = &pod["spec"];
    found.add(RefKind::ServiceAccount, spec["serviceAccountName"].as_str());
    for secret in list(&spec["imagePullSecrets"]) {
        found.add(RefKind::Secret, secret["name"].as_str());
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(&spec[field]) {
            found.container(container);
        }
    }
    for volume in list(&spec["volumes"]) {
        found.volume(volume, name);
    }
    found.targets
}

/// The node whose folder the volume is.
pub(super) fn folder_of(volume: &Value) -> Option<&str> {
    let made_by = volume["metadata"]["annotations"]["pv.kubernetes.io/provisioned-by"].as_str();
    if made_by != Some("atoll.dev/local") {
        return None;
    }
    let terms = list(&volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]);
    let [term] = terms else { return None };
    let [one] = list(&term["matchExpressions"]) else { return None };
    let [node] = list(&one["values"]) else { return None };
    let hostname = one["key"] == "kubernetes.io/hostname" && one["operator"] == "In";
    node.as_str().filter(|_| hostname)
}

/// Secrets that the node needs to mount a PersistentVolume for a claim of `namespace`.
pub(super) fn of_volume(volume: &Value, namespace: &str) -> Vec<Target> {
    let spec = &volume["spec"];
    let mut targets = Vec::new();
    let mut add = |reference: &Value| {
        if let Some(name) = reference["name"].as_str() {
            let own = reference["namespace"].as_str().unwrap_or(namespace);
            targets.push((RefKind::Secret, own.to_owned(), name.to_owned()));
        }
    };
    for source in ["cephfs", "rbd", "scaleIO", "iscsi", "flexVolume"] {
        add(&spec[source]["secretRef"]);
    }
    for field in ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"] {
        add(&spec["csi"][field]);
    }
    if let Some(name) = spec["azureFile"]["secretName"].as_str() {
        let own = spec["azureFile"]["secretNamespace"].as_str().unwrap_or(namespace);
        targets.push((RefKind::Secret, own.to_owned(), name.to_owned()));
    }
    targets
}

struct Found<'a> {
    namespace: &'a str,
    targets: HashSet<Target>,
}

impl Found<'_> {
    fn add(&mut self, kind: RefKind, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            self.targets.insert((kind, self.namespace.to_owned(), name.to_owned()));
        }
    }

    fn container(&mut self, container: &Value) {
        for source in list(&container["envFrom"]) {
            self.add(RefKind::ConfigMap, source["configMapRef"]["name"].as_str());
            self.add(RefKind::Secret, source["secretRef"]["name"].as_str());
        }
        for variable in list(&container["env"]) {
            let from = &variable["valueFrom"];
            self.add(RefKind::ConfigMap, from["configMapKeyRef"]["name"].as_str());
            self.add(RefKind::Secret, from["secretKeyRef"]["name"].as_str());
        }
    }

    fn volume(&mut self, volume: &Value, pod: &str) {
        self.add(RefKind::Secret, volume["secret"]["secretName"].as_str());
        self.add(RefKind::ConfigMap, volume["configMap"]["name"].as_str());
        self.add(
            RefKind::PersistentVolumeClaim,
            volume["persistentVolumeClaim"]["claimName"].as_str(),
        );
        if volume["ephemeral"].is_object()
            && let Some(name) = volume["name"].as_str()
        {
            self.add(RefKind::PersistentVolumeClaim, Some(&format!("{pod}-{name}")));
        }
        for source in list(&volume["projected"]["sources"]) {
            self.add(RefKind::Secret, source["secret"]["name"].as_str());
            self.add(RefKind::ConfigMap, source["configMap"]["name"].as_str());
        }
        for source in ["cephfs", "rbd", "scaleIO", "iscsi", "flexVolume", "storageos"] {
            self.add(RefKind::Secret, volume[source]["secretRef"]["name"].as_str());
        }
        self.add(RefKind::Secret, volume["csi"]["nodePublishSecretRef"]["name"].as_str());
        self.add(RefKind::Secret, volume["azureFile"]["secretName"].as_str());
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
