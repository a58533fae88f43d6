//! Security contexts: what a container may do and whom it runs as. Pure but for profiles.

use std::path::Path;

use atoll_container::{Seccomp, Security};
use k8s_openapi::api::core::v1::{Container, Pod, SeccompProfile};

use crate::pod::identity::PodId;

/// Whom the pod wants a container to run as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunAs {
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub non_root: bool,
    /// fsGroup and supplementalGroups.
    pub groups: Vec<u32>,
}

/// The container's own settings win over the pod's.
#[must_use]
pub fn run_as(pod: &Pod, container: &Container) -> RunAs {
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let number = |value: i64| u32::try_from(value).ok();
    let mut groups: Vec<u32> = of_pod
        .iter()
        .flat_map(|context| context.supplemental_groups.iter().flatten())
        .filter_map(|group| number(*group))
        .collect();
    groups.extend(of_pod.and_then(|context| context.fs_group).and_then(number));
    RunAs {
        user: own
            .and_then(|c| c.run_as_user)
            .or(of_pod.and_then(|c| c.run_as_user))
            .and_then(number),
        group: own
            .and_then(|c| c.run_as_group)
            .or(of_pod.and_then(|c| c.run_as_group))
            .and_then(number),
        non_root: own
            .and_then(|c| c.run_as_non_root)
            .or(of_pod.and_then(|c| c.run_as_non_root))
            .unwrap_or(false),
        groups,
    }
}

/// `image_user` is the image's own setting, as written there.
pub fn verify_non_root(
    run_as: &RunAs,
    image_user: &str,
    pod: &PodId,
    container: &str,
) -> Result<(), String> {
    if !run_as.non_root {
        return Ok(());
    }
    let whom = format!("(pod: \"{pod}\", container: {container})");
    match run_as.user {
        Some(0) => return Err(format!("container's runAsUser breaks non-root policy {whom}")),
        Some(_) => return Ok(()),
        None => {}
    }
    let name = image_user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(uid) if uid != 0 => Ok(()),
        Err(_a_name) if !name.is_empty() => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify \
             user is non-root {whom}"
        )),
        _ => Err(format!("container has runAsNonRoot and image will run as root {whom}")),
    }
}

/// `profiles` holds the files that `Localhost` profiles name.
/// `default` confines those that name no profile.
pub fn security(
    pod: &Pod,
    container: &Container,
    profiles: &Path,
    default: &Seccomp,
) -> Result<Security, String> {
    let own = container.security_context.clone().unwrap_or_default();
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let profile = own
        .seccomp_profile
        .as_ref()
        .or_else(|| of_pod.and_then(|context| context.seccomp_profile.as_ref()));
    let capabilities = own.capabilities.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    Ok(Security {
        privileged,
        capabilities_add: capabilities.add.unwrap_or_default(),
        capabilities_drop: capabilities.drop.unwrap_or_default(),
        seccomp: if privileged {
            Seccomp::Unconfined
        } else {
            seccomp(profile, profiles, default)?
        },
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        read_only_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    profiles: &Path,
    default: &Seccomp,
) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(default.clone()) };
    match profile.type_.as_str() {
        "RuntimeDefault" => Ok(Seccomp::RuntimeDefault),
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or_default();
            if name.is_empty() || name.starts_with('/') || name.split('/').any(|p| p == "..") {
                return Err(format!(
                    "seccomp profile \"{name}\" must be a path below the node's \
                                    seccomp folder"
                ));
            }
            let path = profiles.join(name);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                format!("cannot load seccomp profile \"{}\": {error}", path.display())
            })?;
            let value = serde_json::from_str(&text).map_err(|error| {
                format!("seccomp profile \"{}\" is not valid: {error}", path.display())
            })?;
            Ok(Seccomp::Profile(value))
        }
        other => Err(format!("unknown seccomp profile type \"{other}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id() -> PodId {
        PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() }
    }

    #[test]
    fn non_root_is_verified_before_anything_runs() {
        let wants = |user| RunAs { user, non_root: true, ..RunAs::default() };
        let check = |user, image| verify_non_root(&wants(user), image, &id(), "c");
        assert_eq!(check(Some(7), ""), Ok(()));
        assert_eq!(check(None, "1000:1000"), Ok(()));
        assert_eq!(
            check(None, "").unwrap_err(),
            "container has runAsNonRoot and image will run as root (pod: \"p_ns(u)\", container: c)"
        );
        assert!(check(None, "0").unwrap_err().contains("will run as root"));
        assert!(check(None, "node").unwrap_err().contains("non-numeric user (node)"));
        assert!(check(Some(0), "1000").unwrap_err().contains("breaks non-root policy"));
    }

    #[test]
    fn the_container_wins_over_the_pod() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [{"name": "c",
            "securityContext": {"runAsUser": 5, "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "Unconfined"}}}],
            "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3,
                "supplementalGroups": [4]}}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert_eq!(
            run_as(&pod, container),
            RunAs { user: Some(5), group: Some(2), non_root: false, groups: vec![4, 3] }
        );
        let profiles = Path::new("/nowhere");
        let default = Seccomp::RuntimeDefault;
        let security = security(&pod, container, profiles, &default).unwrap();
        assert!(security.no_new_privileges && !security.privileged);
        assert_eq!(security.seccomp, Seccomp::Unconfined);
        assert_eq!(security.capabilities_drop, ["ALL"]);
    }

    #[test]
    fn local_profiles_stay_in_their_folder() {
        let profile = |name: &str| SeccompProfile {
            type_: "Localhost".into(),
            localhost_profile: Some(name.into()),
        };
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("p.json"), "{\"defaultAction\":\"SCMP_ACT_ALLOW\"}")
            .unwrap();
        let of = |profile: Option<&SeccompProfile>, default| seccomp(profile, dir.path(), &default);
        let found = of(Some(&profile("p.json")), Seccomp::Unconfined);
        assert!(matches!(found, Ok(Seccomp::Profile(_))));
        for name in ["../p.json", "/etc/passwd", "", "gone.json"] {
            assert!(of(Some(&profile(name)), Seccomp::Unconfined).is_err(), "{name}");
        }
        for default in [Seccomp::Unconfined, Seccomp::RuntimeDefault] {
            assert_eq!(of(None, default.clone()), Ok(default));
        }
    }
}
