//! The level restricted: what a pod that asks for nothing special needs.

use serde_json::Value;

use super::baseline::{bad_seccomp, proc_mount_of_any, seccomp_fine};
use super::{
    Pod, Violation, containers, items, name_of, plural, quoted, setters, sorted, text, violation,
};

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// In the order of upstream's names.
const CHECKS: &[Check] = &[
    privilege_escalation,
    capabilities,
    proc_mount,
    volumes,
    run_as_non_root,
    run_as_user,
    seccomp,
];

pub(super) fn violations(pod: &Pod<'_>) -> Vec<Violation> {
    CHECKS.iter().filter_map(|check| check(pod)).collect()
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 8 || (pod.minor >= 25 && pod.is_windows()) {
        return None;
    }
    let names =
        pod.named(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 22 || (pod.minor >= 25 && pod.is_windows()) {
        return None;
    }
    let drops_all = |container: &Value| {
        let dropped = items(&container["securityContext"]["capabilities"], "drop");
        dropped.iter().any(|one| one == "ALL")
    };
    let keeps = pod.named(|container| !drops_all(container));
    let (names, added) = pod.bad(|container| {
        items(&container["securityContext"]["capabilities"], "add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|one| *one != "NET_BIND_SERVICE")
            .collect()
    });
    let mut details = Vec::new();
    if !keeps.is_empty() {
        let who = containers(&keeps);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !names.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&added)
        ));
    }
    if details.is_empty() {
        None
    } else {
        violation("unrestricted capabilities", details.join("; "))
    }
}

/// From 1.35 on baseline lets pods with users of their own go further; here they do not.
fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 { proc_mount_of_any(pod) } else { None }
}

const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn volumes(pod: &Pod<'_>) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), Vec::new());
    for volume in items(pod.spec, "volumes") {
        if VOLUMES.iter().any(|kind| volume[*kind].is_object()) {
            continue;
        }
        names.push(name_of(volume));
        let kind = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        kinds.push(kind.map_or("unknown", |(key, _)| key.as_str()));
    }
    if names.is_empty() {
        return None;
    }
    let kinds = sorted(kinds);
    violation(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        ),
    )
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if pod.minor >= 35 && pod.has_own_users() {
        return None;
    }
    let own = &pod.security()["runAsNonRoot"];
    let names = pod.named(|container| container["securityContext"]["runAsNonRoot"] == false);
    if let Some(who) = setters(*own == false, &names) {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.named(|container| !container["securityContext"]["runAsNonRoot"].is_boolean());
    if *own == true || silent.is_empty() {
        return None;
    }
    let who = containers(&silent);
    violation(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 23 || (pod.minor >= 35 && pod.has_own_users()) {
        return None;
    }
    let names = pod.named(|container| container["securityContext"]["runAsUser"] == 0);
    let who = setters(pod.security()["runAsUser"] == 0, &names)?;
    violation("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 19 || (pod.minor >= 25 && pod.is_windows()) {
        return None;
    }
    if let Some(found) = bad_seccomp(pod) {
        return Some(found);
    }
    let own = &pod.security()["seccompProfile"];
    let silent = pod.named(|container| !container["securityContext"]["seccompProfile"].is_object());
    if seccomp_fine(text(own, "type")) || silent.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
             \"Localhost\"",
            containers(&silent)
        ),
    )
}
