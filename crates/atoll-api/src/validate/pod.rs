//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{Surroundings, image_untrimmed};
use super::{affinity, faults, metadata, one_of, plain, resources, security, volume};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const RESTART_POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const NAMESERVERS_MAX: usize = 3;
const SEARCH_PATHS_MAX: usize = 32;
const SEARCH_LENGTH_MAX: usize = 2048;
const HOSTNAME_LENGTH_MAX: usize = 64;
const DEADLINE_SECONDS_MAX: i64 = i32::MAX as i64;

/// Gives what is wrong with a name.
type Rule = fn(&str) -> Vec<String>;

/// Checks a new pod.
pub(crate) fn create(pod: &Value) -> Vec<Error> {
    let mut errors = pod_rules(pod);
    let at = Path::new("spec");
    let pod_spec = &pod["spec"];
    if !pod_spec.items("ephemeralContainers").is_empty() {
        errors.push(at.child("ephemeralContainers").forbidden("cannot be set on create"));
    }
    let gated = !pod_spec.items("schedulingGates").is_empty();
    if gated && !pod_spec.text("nodeName").is_empty() {
        let text = "cannot be set until all schedulingGates have been cleared";
        errors.push(at.child("nodeName").forbidden(text));
    }
    errors
}

/// The rules that hold for a pod at any time.
pub(crate) fn pod_rules(pod: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    let pod_spec = &pod["spec"];
    spec(&at, pod_spec, Some(pod["metadata"].text("name")), &mut errors);
    if pod_spec.text("serviceAccountName").is_empty() {
        for (index, volume) in pod_spec.items("volumes").iter().enumerate() {
            for (source_index, source) in volume["projected"].items("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = at.child("volumes").index(index).child("projected");
                    let at = at.child("sources").index(source_index);
                    let text = "must not be specified when serviceAccountName is not set";
                    errors.push(at.child("serviceAccountToken").forbidden(text));
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (index, container) in pod_spec.items(list).iter().enumerate() {
            image_untrimmed(&at.child(list).index(index), container, &mut errors);
        }
    }
    errors
}

/// Checks the template of a workload.
pub(crate) fn template(at: &Path, template: &Value, errors: &mut Vec<Error>) {
    let meta = &template["metadata"];
    metadata::labels(&at.child("labels"), &meta["labels"], errors);
    metadata::annotations(&at.child("annotations"), &meta["annotations"], errors);
    spec(&at.child("spec"), &template["spec"], None, errors);
    if !template["spec"].items("ephemeralContainers").is_empty() {
        let at = at.child("spec").child("ephemeralContainers");
        errors.push(at.forbidden("ephemeral containers not allowed in pod template"));
    }
}

/// Checks a pod's spec; `pod` is the pod's name, absent for a template.
pub(crate) fn spec(at: &Path, spec: &Value, pod: Option<&str>, errors: &mut Vec<Error>) {
    if !spec.has("terminationGracePeriodSeconds") {
        errors.push(at.child("terminationGracePeriodSeconds").required(""));
    }
    let volumes =
        volume::volumes(&at.child("volumes"), spec.items("volumes"), pod.unwrap_or(""), errors);
    let around = Surroundings { spec, volumes };
    claims(&at.child("resourceClaims"), spec.items("resourceClaims"), errors);
    around.regular(&at.child("containers"), errors);
    around.init(&at.child("initContainers"), errors);
    around.ephemeral(&at.child("ephemeralContainers"), errors);
    if spec.has("resources") {
        resources::pod_requirements(&at.child("resources"), &spec["resources"], errors);
    }
    host_network_ports(at, spec, pod.is_some(), errors);
    let policy = spec.text("restartPolicy");
    one_of(&at.child("restartPolicy"), policy, &RESTART_POLICIES, "", errors);
    one_of(&at.child("dnsPolicy"), spec.text("dnsPolicy"), &DNS_POLICIES, "", errors);
    metadata::labels(&at.child("nodeSelector"), &spec["nodeSelector"], errors);
    security::pod(&at.child("securityContext"), spec, errors);
    affinity::affinity(&at.child("affinity"), &spec["affinity"], errors);
    dns(&at.child("dnsConfig"), spec, errors);
    gates(at, spec, errors);
    let spread_at = at.child("topologySpreadConstraints");
    affinity::spread(&spread_at, spec.items("topologySpreadConstraints"), errors);
    host_users(at, spec, errors);
    names_and_numbers(at, spec, errors);
    affinity::tolerations(&at.child("tolerations"), spec.items("tolerations"), errors);
    host_aliases(&at.child("hostAliases"), spec.items("hostAliases"), errors);
    system(at, spec, errors);
    file_key_volumes(at, spec, errors);
}

fn claims(at: &Path, claims: &[Value], errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, claim) in claims.iter().enumerate() {
        let at = at.index(index);
        let name = claim.text("name");
        if !seen.insert(name) {
            errors.push(at.child("name").duplicate(name));
        }
        if name.is_empty() {
            errors.push(at.child("name").required(""));
        } else {
            faults(&at.child("name"), name, names::dns1123_label(name), errors);
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"];
        match sources.iter().filter(|source| claim.has(source)).count() {
            0 => {
                let text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.push(at.invalid(claim.clone(), text));
            }
            1 => {}
            _ => {
                let text = "at most one of `resourceClaimName` or `resourceClaimTemplateName` \
                            may be specified";
                errors.push(at.invalid(claim.clone(), text));
            }
        }
        for source in sources {
            if let Some(name) = claim.opt_text(source) {
                faults(&at.child(source), name, names::dns1123_subdomain(name), errors);
            }
        }
    }
}

/// On the host's network a container listens on the host's port; templates may leave it open.
fn host_network_ports(at: &Path, spec: &Value, is_pod: bool, errors: &mut Vec<Error>) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (index, container) in spec.items("containers").iter().enumerate() {
        for (port_index, port) in container.items("ports").iter().enumerate() {
            let host = port.int("hostPort").unwrap_or(0);
            if (is_pod || host != 0) && host != port.int("containerPort").unwrap_or(0) {
                let at = at.child("containers").index(index).child("ports").index(port_index);
                let text = "must match `containerPort` when `hostNetwork` is true";
                errors.push(at.child("hostPort").invalid(host, text));
            }
        }
    }
}

fn dns(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let config = &spec["dnsConfig"];
    let nameservers = config.items("nameservers");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            errors.push(at.required("must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if nameservers.is_empty() {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(at.child("nameservers").required(text));
            return;
        }
    }
    let servers_at = at.child("nameservers");
    if nameservers.len() > NAMESERVERS_MAX {
        let text = format!("must not have more than {NAMESERVERS_MAX} nameservers");
        errors.push(servers_at.invalid(nameservers, text));
    }
    for (index, server) in nameservers.iter().enumerate() {
        let server = server.as_str().unwrap_or("");
        faults(&servers_at.index(index), server, names::ip(server), errors);
    }
    searches(&at.child("searches"), config.items("searches"), errors);
    for (index, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.push(at.child("options").index(index).required("must not be empty"));
        }
    }
}

fn searches(at: &Path, searches: &[Value], errors: &mut Vec<Error>) {
    if searches.len() > SEARCH_PATHS_MAX {
        let text = format!("must not have more than {SEARCH_PATHS_MAX} search paths");
        errors.push(at.invalid(searches, text));
    }
    let texts: Vec<&str> = searches.iter().filter_map(Value::as_str).collect();
    if texts.join(" ").len() > SEARCH_LENGTH_MAX {
        let text = format!(
            "must not have more than {SEARCH_LENGTH_MAX} characters (including spaces) in the \
             search list"
        );
        errors.push(at.invalid(searches, text));
    }
    for (index, search) in texts.iter().enumerate().filter(|(_, search)| **search != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        let wrong = names::dns1123_subdomain_with_underscore(search);
        faults(&at.index(index), search, wrong, errors);
    }
}

fn gates(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    for (index, gate) in spec.items("readinessGates").iter().enumerate() {
        let kind = gate.text("conditionType");
        let at = at.child("readinessGates").index(index).child("conditionType");
        faults(&at, kind, names::qualified_name(kind), errors);
    }
    let mut seen = BTreeSet::new();
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        let at = at.child("schedulingGates").index(index);
        faults(&at, name, names::qualified_name(name), errors);
        if !seen.insert(name) {
            errors.push(at.duplicate(name));
        }
    }
}

fn host_users(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    const TEXT: &str = "when `hostUsers` is false";
    if spec.opt_flag("hostUsers").unwrap_or(true) {
        return;
    }
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec.flag(field) {
            errors.push(at.child(shown).forbidden(TEXT));
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in spec.items(list).iter().enumerate() {
            if !container.items("volumeDevices").is_empty() {
                let at = at.child(list).index(index);
                errors.push(at.child("volumeDevices").forbidden(TEXT));
            }
        }
    }
}

fn names_and_numbers(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    if let Some(name) = spec.opt_text("hostnameOverride") {
        hostname_override(&at.child("hostnameOverride"), name, spec, errors);
    }
    let rules: [(&str, Rule); 6] = [
        ("serviceAccountName", names::dns1123_subdomain),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("priorityClassName", names::dns1123_subdomain),
        ("runtimeClassName", names::dns1123_subdomain),
    ];
    for (field, rule) in rules {
        let value = spec.text(field);
        if !value.is_empty() {
            faults(&at.child(field), value, rule(value), errors);
        }
    }
    if let Some(seconds) = spec.int("activeDeadlineSeconds")
        && !(1..=DEADLINE_SECONDS_MAX).contains(&seconds)
    {
        let text = format!("must be between 1 and {DEADLINE_SECONDS_MAX}, inclusive");
        errors.push(at.child("activeDeadlineSeconds").invalid(seconds, text));
    }
    if let Some(policy) = spec.opt_text("preemptionPolicy") {
        plain::preemption_policy(&at.child("preemptionPolicy"), policy, errors);
    }
    for (resource, amount) in spec.fields("overhead").into_iter().flatten() {
        resources::amount(&at.child("overhead").key(resource), resource, amount, errors);
    }
}

fn hostname_override(at: &Path, name: &str, spec: &Value, errors: &mut Vec<Error>) {
    for (field, text) in [
        ("setHostnameAsFQDN", "may not be specified when setHostnameAsFQDN is true"),
        ("hostNetwork", "may not be specified when hostNetwork is true"),
    ] {
        if spec.flag(field) {
            errors.push(at.forbidden(text));
        }
    }
    if name.len() > HOSTNAME_LENGTH_MAX {
        errors.push(at.too_long(HOSTNAME_LENGTH_MAX));
    }
    faults(at, name, names::dns1123_subdomain(name), errors);
}

fn host_aliases(at: &Path, aliases: &[Value], errors: &mut Vec<Error>) {
    for (index, alias) in aliases.iter().enumerate() {
        let at = at.index(index);
        let ip = alias.text("ip");
        faults(&at.child("ip"), ip, names::ip(ip), errors);
        for (name_index, name) in alias.items("hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let at = at.child("hostnames").index(name_index);
            faults(&at, name, names::dns1123_subdomain(name), errors);
        }
    }
}

fn system(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    if !spec.has("os") {
        return;
    }
    let name = spec["os"].text("name");
    if name.is_empty() {
        errors.push(at.child("os").child("name").required(""));
    } else if !matches!(name, "linux" | "windows") {
        errors.push(at.child("os").not_supported(name, &["linux", "windows"]));
    } else if name == "linux" && spec["securityContext"].has("windowsOptions") {
        let at = at.child("securityContext").child("windowsOptions");
        errors.push(at.forbidden("windows options cannot be set for a linux pod"));
    }
}

/// Files that set variables must lie in an emptyDir.
fn file_key_volumes(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (index, container) in spec.items(list).iter().enumerate() {
            for (variable_index, variable) in container.items("env").iter().enumerate() {
                let reference = &variable["valueFrom"]["fileKeyRef"];
                if reference.is_null() {
                    continue;
                }
                let at = at.child(list).index(index).child("env").index(variable_index);
                let at = at.child("valueFrom").child("fileKeyRef").child("volumeName");
                let name = reference.text("volumeName");
                match spec.items("volumes").iter().find(|volume| volume.text("name") == name) {
                    None => errors.push(at.not_found(name)),
                    Some(volume) if !volume.has("emptyDir") => {
                        errors.push(at.invalid(name, "referenced volume must be of type emptyDir"))
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
