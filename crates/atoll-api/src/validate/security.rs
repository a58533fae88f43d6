//! Security contexts of pods and containers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::volume;
use crate::access::Access as _;
use crate::field::{Error, Path};

/// Users and groups of Linux as runtimes take them.
const ID_MAX: i64 = i32::MAX as i64;
const SYSCTL_LENGTH_MAX: usize = 253;
const PROFILE_PATH_LENGTH_MAX: usize = 4095;
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// Checks the security context of a pod. In objects, host namespaces stand in the spec itself.
pub(crate) fn pod(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let context = &spec["securityContext"];
    if context.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&at.child(field), context.int(field), errors);
    }
    for (index, group) in context.items("supplementalGroups").iter().enumerate() {
        id(&at.child("supplementalGroups").index(index), group.as_i64(), errors);
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(at.child("shareProcessNamespace").invalid(true, text));
    }
    sysctls(&at.child("sysctls"), spec, errors);
    let choices: [(&str, &[&str]); 3] = [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ];
    for (field, allowed) in choices {
        if let Some(value) = context.opt_text(field)
            && !allowed.contains(&value)
        {
            errors.push(at.child(field).not_supported(value, allowed));
        }
    }
    seccomp(&at.child("seccompProfile"), &context["seccompProfile"], errors);
    app_armor(&at.child("appArmorProfile"), &context["appArmorProfile"], errors);
}

/// Checks the security context of a container.
pub(crate) fn container(at: &Path, context: &Value, host_users: bool, errors: &mut Vec<Error>) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(&at.child(field), context.int(field), errors);
    }
    if let Some(mount) = context.opt_text("procMount") {
        let at = at.child("procMount");
        if !matches!(mount, "Default" | "Unmasked") {
            errors.push(at.not_supported(mount, &["Default", "Unmasked"]));
        }
        if host_users && mount == "Unmasked" {
            errors.push(at.invalid(mount, "`hostUsers` must be false to use `Unmasked`"));
        }
    }
    seccomp(&at.child("seccompProfile"), &context["seccompProfile"], errors);
    if context.opt_flag("allowPrivilegeEscalation") == Some(false) {
        if context.flag("privileged") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.push(at.invalid(context.clone(), text));
        }
        if context["capabilities"].items("add").iter().any(|one| one == "CAP_SYS_ADMIN") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` \
                        CAP_SYS_ADMIN";
            errors.push(at.invalid(context.clone(), text));
        }
    }
    app_armor(&at.child("appArmorProfile"), &context["appArmorProfile"], errors);
}

fn id(at: &Path, id: Option<i64>, errors: &mut Vec<Error>) {
    if let Some(id) = id
        && !(0..=ID_MAX).contains(&id)
    {
        errors.push(at.invalid(id, format!("must be between 0 and {ID_MAX}, inclusive")));
    }
}

fn seccomp(at: &Path, profile: &Value, errors: &mut Vec<Error>) {
    if profile.is_null() {
        return;
    }
    let kind = profile.text("type");
    if kind.is_empty() {
        errors.push(at.child("type").required("type is required when seccompProfile is set"));
    } else if !PROFILE_TYPES.contains(&kind) {
        errors.push(at.child("type").not_supported(kind, &PROFILE_TYPES));
    }
    let path_at = at.child("localhostProfile");
    match (kind, profile.opt_text("localhostProfile")) {
        ("Localhost", None) => {
            errors.push(path_at.required("must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(path)) => volume::descending_path(&path_at, path, errors),
        (_, Some(_)) => {
            let text = "can only be set when seccomp type is Localhost";
            errors.push(path_at.invalid(profile.clone(), text));
        }
        (_, None) => {}
    }
}

fn app_armor(at: &Path, profile: &Value, errors: &mut Vec<Error>) {
    if profile.is_null() {
        return;
    }
    let name = profile.opt_text("localhostProfile");
    let name_at = at.child("localhostProfile");
    match profile.text("type") {
        "Localhost" => match name {
            None | Some("") => {
                errors.push(name_at.required("must be set when AppArmor type is Localhost"));
            }
            Some(name) if name.trim() != name => {
                errors.push(name_at.invalid(name, "must not be padded with whitespace"));
            }
            Some(name) if name.len() > PROFILE_PATH_LENGTH_MAX => {
                errors.push(name_at.too_long(PROFILE_PATH_LENGTH_MAX));
            }
            Some(_) => {}
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = name {
                let text = "can only be set when AppArmor type is Localhost";
                errors.push(name_at.invalid(name, text));
            }
        }
        "" => {
            let text = "type is required when appArmorProfile is set";
            errors.push(at.child("type").required(text));
        }
        kind => errors.push(at.child("type").not_supported(kind, &PROFILE_TYPES)),
    }
}

fn sysctls(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in spec["securityContext"].items("sysctls").iter().enumerate() {
        let at = at.index(index).child("name");
        let name = sysctl.text("name");
        if name.is_empty() {
            errors.push(at.required(""));
        } else if !is_sysctl(name) {
            errors.push(at.invalid(
                name,
                format!(
                    "must have at most {SYSCTL_LENGTH_MAX} characters and match regex \
                     ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$"
                ),
            ));
        } else if !seen.insert(name) {
            errors.push(at.duplicate(name));
        }
        let dotted = name.replace('/', ".");
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.push(at.invalid(name, "may not be specified when 'hostNetwork' is true"));
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if spec.flag("hostIPC") && of_ipc.iter().any(|prefix| dotted.starts_with(prefix)) {
            errors.push(at.invalid(name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let segment = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || matches!(byte, b'-' | b'_'))
    };
    name.len() <= SYSCTL_LENGTH_MAX && name.split(['.', '/']).all(segment)
}
