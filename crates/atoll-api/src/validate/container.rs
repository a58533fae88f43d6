//! Containers of every sort: regular, init, sidecar and ephemeral ones.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{env, faults, one_of, probe, resources, security, volume};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::kinds::pod::is_sidecar;
use crate::names;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const RESTART_RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const NOT_FOR_EPHEMERAL: [&str; 8] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What the containers of a pod share.
pub(crate) struct Surroundings<'a> {
    pub(crate) spec: &'a Value,
    pub(crate) volumes: Vec<&'a Value>,
}

impl Surroundings<'_> {
    pub(crate) fn regular(&self, at: &Path, errors: &mut Vec<Error>) {
        let containers = self.spec.items("containers");
        if containers.is_empty() {
            errors.push(at.required(""));
            return;
        }
        let mut seen = BTreeSet::new();
        for (index, container) in containers.iter().enumerate() {
            let at = at.index(index);
            self.common(&at, container, errors);
            let name = container.text("name");
            if !seen.insert(name) {
                errors.push(at.child("name").duplicate(name));
            }
            probe::container(&at, container, self.spec, errors);
            restart_policy(&at, container, errors);
        }
        host_port_conflicts(at, containers, errors);
    }

    pub(crate) fn init(&self, at: &Path, errors: &mut Vec<Error>) {
        let mut seen: BTreeSet<&str> =
            self.spec.items("containers").iter().map(|one| one.text("name")).collect();
        for (index, container) in self.spec.items("initContainers").iter().enumerate() {
            let list_at = at;
            let at = at.index(index);
            self.common(&at, container, errors);
            restart_policy(&at, container, errors);
            let name = container.text("name");
            if !seen.insert(name) {
                errors.push(at.child("name").duplicate(name));
            }
            host_port_conflicts(list_at, std::slice::from_ref(container), errors);
            if is_sidecar(container) {
                probe::container(&at, container, self.spec, errors);
                continue;
            }
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(field) {
                    let text = "may not be set for init containers without restartPolicy=Always";
                    errors.push(at.child(field).forbidden(text));
                }
            }
        }
    }

    pub(crate) fn ephemeral(&self, at: &Path, errors: &mut Vec<Error>) {
        let others: BTreeSet<&str> = ["containers", "initContainers"]
            .iter()
            .flat_map(|list| self.spec.items(list))
            .map(|container| container.text("name"))
            .collect();
        let mut seen = others.clone();
        for (index, container) in self.spec.items("ephemeralContainers").iter().enumerate() {
            let at = at.index(index);
            self.common(&at, container, errors);
            image_untrimmed(&at, container, errors);
            let name = container.text("name");
            if !seen.insert(name) {
                errors.push(at.child("name").duplicate(name));
            }
            let target = container.text("targetContainerName");
            if !target.is_empty() && !others.contains(target) {
                errors.push(at.child("targetContainerName").not_found(target));
            }
            not_for_ephemeral(&at, container, errors);
        }
    }

    fn common(&self, at: &Path, container: &Value, errors: &mut Vec<Error>) {
        match container.text("name") {
            "" => errors.push(at.child("name").required("")),
            name => faults(&at.child("name"), name, names::dns1123_label(name), errors),
        }
        if container.text("image").is_empty() {
            errors.push(at.child("image").required(""));
        }
        let policy = container.text("terminationMessagePolicy");
        let policies = ["File", "FallbackToLogsOnError"];
        one_of(&at.child("terminationMessagePolicy"), policy, &policies, "", errors);
        ports(&at.child("ports"), container.items("ports"), errors);
        env::variables(&at.child("env"), container.items("env"), errors);
        env::sources(&at.child("envFrom"), container.items("envFrom"), errors);
        self.mounts(&at.child("volumeMounts"), container, errors);
        self.devices(&at.child("volumeDevices"), container, errors);
        let pull = container.text("imagePullPolicy");
        one_of(&at.child("imagePullPolicy"), pull, &PULL_POLICIES, "", errors);
        let claims = self.spec.items("resourceClaims");
        resources::requirements(&at.child("resources"), &container["resources"], claims, errors);
        self.resize_policy(&at.child("resizePolicy"), container, errors);
        let host_users = self.spec.opt_flag("hostUsers").unwrap_or(true);
        let context = &container["securityContext"];
        security::container(&at.child("securityContext"), context, host_users, errors);
    }

    fn volume(&self, name: &str) -> Option<&Value> {
        self.volumes.iter().find(|volume| volume.text("name") == name).copied()
    }

    fn mounts(&self, at: &Path, container: &Value, errors: &mut Vec<Error>) {
        let devices = container.items("volumeDevices");
        let mut seen = BTreeSet::new();
        for (index, mount) in container.items("volumeMounts").iter().enumerate() {
            let list_at = at;
            let at = at.index(index);
            let (name, path) = (mount.text("name"), mount.text("mountPath"));
            if name.is_empty() {
                errors.push(at.child("name").required(""));
            }
            if self.volume(name).is_none() {
                errors.push(at.child("name").not_found(name));
            }
            if path.is_empty() {
                errors.push(at.child("mountPath").required(""));
            }
            if !seen.insert(path) {
                errors.push(at.child("mountPath").invalid(path, "must be unique"));
            }
            if devices.iter().any(|device| device.text("name") == name) {
                let text = "must not already exist in volumeDevices";
                errors.push(at.child("name").invalid(name, text));
            }
            if devices.iter().any(|device| device.text("devicePath") == path) {
                let text = "must not already exist as a path in volumeDevices";
                errors.push(at.child("mountPath").invalid(path, text));
            }
            sub_paths(list_at, &at, mount, errors);
            propagation(list_at, mount, container, errors);
        }
    }

    fn devices(&self, at: &Path, container: &Value, errors: &mut Vec<Error>) {
        let mounts = container.items("volumeMounts");
        let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
        for (index, device) in container.items("volumeDevices").iter().enumerate() {
            let at = at.index(index);
            let (name, path) = (device.text("name"), device.text("devicePath"));
            let (name_at, path_at) = (at.child("name"), at.child("devicePath"));
            if name.is_empty() {
                errors.push(name_at.required(""));
            } else if !names.insert(name) {
                errors.push(name_at.invalid(name, "must be unique"));
            }
            match self.volume(name) {
                None => errors.push(name_at.not_found(name)),
                Some(volume) if volume.has("persistentVolumeClaim") || volume.has("ephemeral") => {}
                Some(_) => errors.push(name_at.invalid(
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for \
                     block mode",
                )),
            }
            if path.is_empty() {
                errors.push(path_at.required(""));
            } else if path.split('/').any(|part| part == "..") {
                errors.push(path_at.invalid(path, "can not contain backsteps ('..')"));
            } else if !paths.insert(path) {
                errors.push(path_at.invalid(path, "must be unique"));
            }
            if mounts.iter().any(|mount| mount.text("name") == name) {
                errors.push(name_at.invalid(name, "must not already exist in volumeMounts"));
            }
        }
    }

    fn resize_policy(&self, at: &Path, container: &Value, errors: &mut Vec<Error>) {
        let never = self.spec.text("restartPolicy") == "Never";
        let mut seen = BTreeSet::new();
        for (index, policy) in container.items("resizePolicy").iter().enumerate() {
            let (resource, action) = (policy.text("resourceName"), policy.text("restartPolicy"));
            if !seen.insert(resource) {
                errors.push(at.index(index).duplicate(resource));
            }
            one_of(at, resource, &["cpu", "memory"], "", errors);
            one_of(at, action, &["NotRequired", "RestartContainer"], "", errors);
            if never && action != "NotRequired" {
                let text = "must be 'NotRequired' when `restartPolicy` is 'Never'";
                errors.push(at.invalid(action, text));
            }
        }
    }
}

/// Only pods mind blanks round an image's name; templates always had them.
pub(crate) fn image_untrimmed(at: &Path, container: &Value, errors: &mut Vec<Error>) {
    let image = container.text("image");
    if image.trim() != image {
        let text = "must not have leading or trailing whitespace";
        errors.push(at.child("image").invalid(image, text));
    }
}

fn not_for_ephemeral(at: &Path, container: &Value, errors: &mut Vec<Error>) {
    const TEXT: &str = "cannot be set for an Ephemeral Container";
    for field in NOT_FOR_EPHEMERAL {
        let set = match &container[field] {
            Value::Null => false,
            Value::Object(map) => !map.is_empty(),
            Value::Array(list) => !list.is_empty(),
            _ => true,
        };
        if set {
            errors.push(at.child(field).forbidden(TEXT));
        }
    }
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.text(field).is_empty() {
                let at = at.child("volumeMounts").index(index).child(field);
                errors.push(at.forbidden(TEXT));
            }
        }
    }
}

fn ports(at: &Path, ports: &[Value], errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                faults(&at.child("name"), name, wrong, errors);
            } else if !seen.insert(name) {
                errors.push(at.child("name").duplicate(name));
            }
        }
        let number = port.int("containerPort").unwrap_or(0);
        if number == 0 {
            errors.push(at.child("containerPort").required(""));
        } else if let Some(fault) = names::port_number(number) {
            errors.push(at.child("containerPort").invalid(number, fault));
        }
        let host = port.int("hostPort").unwrap_or(0);
        if host != 0
            && let Some(fault) = names::port_number(host)
        {
            errors.push(at.child("hostPort").invalid(host, fault));
        }
        one_of(&at.child("protocol"), port.text("protocol"), &PROTOCOLS, "", errors);
    }
}

fn host_port_conflicts(at: &Path, containers: &[Value], errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        for (port_index, port) in container.items("ports").iter().enumerate() {
            let number = port.int("hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if !seen.insert(key.clone()) {
                let at = at.index(index).child("ports").index(port_index).child("hostPort");
                errors.push(at.duplicate(key));
            }
        }
    }
}

fn sub_paths(list_at: &Path, at: &Path, mount: &Value, errors: &mut Vec<Error>) {
    let (path, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
    if !path.is_empty() {
        volume::descending_path(&list_at.child("subPath"), path, errors);
    }
    if !expression.is_empty() {
        if !path.is_empty() {
            let text = "subPathExpr and subPath are mutually exclusive";
            errors.push(at.child("subPathExpr").invalid(expression, text));
        }
        volume::descending_path(&list_at.child("subPathExpr"), expression, errors);
    }
}

fn propagation(at: &Path, mount: &Value, container: &Value, errors: &mut Vec<Error>) {
    let propagation = mount.opt_text("mountPropagation");
    if let Some(kind) = propagation {
        let at = at.child("mountPropagation");
        let supported = ["Bidirectional", "HostToContainer", "None"];
        if !supported.contains(&kind) {
            errors.push(at.not_supported(kind, &supported));
        }
        if kind == "Bidirectional" && !container["securityContext"].flag("privileged") {
            let text = "Bidirectional mount propagation is available only to privileged containers";
            errors.push(at.forbidden(text));
        }
    }
    let at = at.child("recursiveReadOnly");
    match mount.opt_text("recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.flag("readOnly") {
                errors.push(at.forbidden("may only be specified when readOnly is true"));
            }
            if propagation.is_some_and(|kind| kind != "None") {
                let text = "may only be specified when mountPropagation is None or not specified";
                errors.push(at.forbidden(text));
            }
        }
        Some(other) => {
            errors.push(at.not_supported(other, &["Disabled", "Enabled", "IfPossible"]));
        }
    }
}

fn restart_policy(at: &Path, container: &Value, errors: &mut Vec<Error>) {
    let rules = container.items("restartPolicyRules");
    let policy_at = at.child("restartPolicy");
    match container.opt_text("restartPolicy") {
        None if rules.is_empty() => return,
        None => {
            let text = "must specify restartPolicy when restart rules are used";
            errors.push(policy_at.required(text));
        }
        Some(policy) if !RESTART_POLICIES.contains(&policy) => {
            errors.push(policy_at.not_supported(policy, &RESTART_POLICIES));
        }
        Some(_) => {}
    }
    let at = at.child("restartPolicyRules");
    if rules.len() > RESTART_RULES_MAX {
        errors.push(at.too_long(RESTART_RULES_MAX));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = at.index(index);
        let action = rule.text("action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.push(at.child("action").not_supported(action, &["Restart"]));
        }
        let at = at.child("exitCodes");
        let codes = &rule["exitCodes"];
        if codes.is_null() {
            errors.push(at.required("must be specified"));
            continue;
        }
        let operator = codes.text("operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.push(at.child("operator").not_supported(operator, &["In", "NotIn"]));
        }
        if codes.items("values").len() > EXIT_CODES_MAX {
            errors.push(at.child("values").too_long(EXIT_CODES_MAX));
        }
    }
}
