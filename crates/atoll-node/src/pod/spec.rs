//! Translates a container of a pod into what the runtime understands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use atoll_container::{
    ContainerKey, ContainerSpec, LogSpec, Mount, MountSource, NamespaceMode, Namespaces, Process,
    Propagation, Resources, Root, Seccomp, Stdio, User,
};
use atoll_image::{ImageInfo, Reference};
use k8s_openapi::api::core::v1::{Container, Pod, Volume, VolumeMount};
use rand::RngCore;

use crate::amount;
use crate::config::Config;
use crate::network::PodSandbox;
use crate::pod::env;
use crate::pod::files::{Names, PodFiles};
use crate::pod::identity::PodId;
use crate::pod::qos::{Qos, oom_score_adj};
use crate::pod::resize;
use crate::pod::security;
use crate::pod::track::label;
use crate::volume::{Dirs, subpath};

pub const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";

/// Everything that a container is made of.
pub struct Parts<'a> {
    pub config: &'a Config,
    pub pod: &'a Pod,
    pub id: &'a PodId,
    pub container: &'a Container,
    pub key: ContainerKey,
    pub sandbox: &'a PodSandbox,
    pub names: &'a Names,
    pub image: &'a ImageInfo,
    pub rootfs: PathBuf,
    pub root: Root,
    pub user: User,
    /// The variables that the pod sets.
    pub env: Vec<(String, String)>,
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// The namespace of another container's processes, for one that is to see them.
    pub processes: Option<PathBuf>,
    pub memory_capacity: i64,
    /// The container has files of its own.
    pub isolation: bool,
}

/// The directories of one run's root file system.
#[must_use]
pub fn rootfs_dir(config: &Config, key: &ContainerKey) -> PathBuf {
    config.pod_dir(&key.sandbox).join("rootfs").join(&key.name).join(key.attempt.to_string())
}

/// The folder of a container's log files.
#[must_use]
pub fn log_dir(config: &Config, id: &PodId, container: &str) -> PathBuf {
    pod_log_dir(config, id).join(container)
}

#[must_use]
pub fn pod_log_dir(config: &Config, id: &PodId) -> PathBuf {
    config.logs_dir().join(format!("{}_{}_{}", id.namespace, id.name, id.uid))
}

/// Where a run leaves its last words.
#[must_use]
pub fn message_file(pods_dir: &Path, key: &ContainerKey) -> PathBuf {
    let name = format!("{}.{}", key.name, key.attempt);
    pods_dir.join(&key.sandbox).join("messages").join(name)
}

/// The container for the runtime. An error is the message of CreateContainerConfigError.
pub fn build(parts: Parts<'_>) -> Result<ContainerSpec, String> {
    let Parts { config, pod, id, container, .. } = &parts;
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let profiles = config.root.join("seccomp");
    let default =
        if config.seccomp_default { Seccomp::RuntimeDefault } else { Seccomp::Unconfined };
    let security = security::security(pod, container, &profiles, &default)?;
    let env = full_env(&parts);
    let process = Process {
        args: command(container, parts.image, &env)?,
        cwd: working_dir(container, parts.image),
        user: parts.user.clone(),
        tty: container.tty.unwrap_or(false),
        env,
    };
    let mode =
        |path: &Option<PathBuf>| path.clone().map_or(NamespaceMode::Host, NamespaceMode::Path);
    let host_pid = spec.host_pid.unwrap_or(false);
    // One a run: clearing up after an old run must not reach the new one.
    let run = format!("{}.{}", container.name, parts.key.attempt);
    let cgroup = format!("{}/{run}", Qos::of(spec).cgroup(&id.uid));
    let log = log_dir(config, id, &container.name).join(format!("{}.log", parts.key.attempt));
    Ok(ContainerSpec {
        sandbox: parts.key.sandbox.clone(),
        name: parts.key.name.clone(),
        attempt: parts.key.attempt,
        id: new_id(),
        labels: labels(&parts),
        rootfs: parts.rootfs.clone(),
        root: parts.root.clone(),
        process,
        stdio: Stdio {
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
        },
        mounts: if parts.isolation { mounts(&parts)? } else { Vec::new() },
        devices: Vec::new(),
        namespaces: Namespaces {
            net: mode(&parts.sandbox.net),
            ipc: mode(&parts.sandbox.ipc),
            uts: if config.containers { mode(&parts.sandbox.uts) } else { NamespaceMode::New },
            pid: match &parts.processes {
                _ if host_pid => NamespaceMode::Host,
                Some(path) => NamespaceMode::Path(path.clone()),
                None => NamespaceMode::New,
            },
        },
        // Without root there is no sandbox whose name it could share.
        hostname: (!config.containers).then(|| parts.names.hostname.clone()),
        sysctls: BTreeMap::new(),
        security,
        cgroup,
        resources: if config.containers {
            amount::cgroup_values(container)
        } else {
            Resources::default()
        },
        oom_score_adj: Some(oom_score_adj(pod, container, parts.memory_capacity)),
        log: LogSpec::new(log),
    })
}

fn new_id() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn labels(parts: &Parts<'_>) -> BTreeMap<String, String> {
    let container = parts.container;
    // An image may come from several registries: the one that the pod names counts.
    let name = container.image.as_deref().and_then(|image| image.parse::<Reference>().ok());
    let own = name.map(|name| format!("{}@", name.name())).unwrap_or_default();
    let digests = &parts.image.repo_digests;
    let image_id = digests
        .iter()
        .find(|digest| !own.is_empty() && digest.starts_with(&own))
        .or(digests.first())
        .unwrap_or(&parts.image.digest);
    let resources = serde_json::to_string(&resize::own(container)).unwrap_or_default();
    let mut labels = BTreeMap::from([
        (label::IMAGE.to_owned(), container.image.clone().unwrap_or_default()),
        (label::IMAGE_ID.to_owned(), image_id.clone()),
        (label::IMAGE_DIGEST.to_owned(), parts.image.digest.clone()),
        (label::RESOURCES.to_owned(), resources),
        (label::POD_NAME.to_owned(), parts.id.name.clone()),
        (label::POD_NAMESPACE.to_owned(), parts.id.namespace.clone()),
    ]);
    let wanted = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone());
    if let Some(signal) = wanted.or_else(|| parts.image.config.stop_signal.clone()) {
        labels.insert(label::STOP_SIGNAL.to_owned(), signal);
    }
    if let Some(policy) = &container.termination_message_policy {
        labels.insert(label::MESSAGE_POLICY.to_owned(), policy.clone());
    }
    labels
}

/// The image's variables first, so that the pod's win.
fn full_env(parts: &Parts<'_>) -> Vec<(String, String)> {
    let mut env = vec![("HOSTNAME".to_owned(), parts.names.hostname.clone())];
    if parts.container.tty.unwrap_or(false) {
        env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    env.extend(parts.image.config.env.iter().cloned());
    env.extend(parts.env.iter().cloned());
    let mut seen = std::collections::BTreeSet::new();
    let mut last: Vec<_> =
        env.into_iter().rev().filter(|(name, _)| seen.insert(name.clone())).collect();
    last.reverse();
    last
}

/// `command` replaces the entrypoint and drops the image's arguments; `args` replaces
/// those only.
fn command(
    container: &Container,
    image: &ImageInfo,
    env: &[(String, String)],
) -> Result<Vec<String>, String> {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand = |list: &[String]| -> Vec<String> {
        list.iter().map(|text| env::expand(text, lookup)).collect()
    };
    let own = container.command.as_deref().unwrap_or_default();
    let args = container.args.as_deref().unwrap_or_default();
    let mut all = if own.is_empty() { image.config.entrypoint.clone() } else { expand(own) };
    if args.is_empty() {
        if own.is_empty() {
            all.extend(image.config.cmd.iter().cloned());
        }
    } else {
        all.extend(expand(args));
    }
    if all.is_empty() { Err("no command specified".to_owned()) } else { Ok(all) }
}

fn working_dir(container: &Container, image: &ImageInfo) -> String {
    let own = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    own.unwrap_or(&image.config.working_dir).to_owned()
}

fn mounts(parts: &Parts<'_>) -> Result<Vec<Mount>, String> {
    let container = parts.container;
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    let mut mounts = Vec::new();
    for (i, mount) in wanted.iter().enumerate() {
        mounts.push(volume_mount(parts, i, mount)?);
    }
    let files = PodFiles::of(&parts.config.pod_dir(&parts.id.uid));
    for (path, file) in [
        ("/etc/hosts", files.hosts),
        ("/etc/resolv.conf", files.resolv_conf),
        ("/etc/hostname", files.hostname),
    ] {
        // A container that brings its own keeps it.
        if !mounts.iter().any(|mount| mount.destination == Path::new(path)) {
            mounts.push(bind(file, path.into(), false, Propagation::None));
        }
    }
    let message_path = container.termination_message_path.as_deref().filter(|p| !p.is_empty());
    let message_path = message_path.unwrap_or(DEFAULT_MESSAGE_PATH);
    let file = message_file(&parts.config.pods_dir(), &parts.key);
    mounts.push(bind(file, message_path.into(), false, Propagation::None));
    // A mount must come after the one that it stands in.
    mounts.sort_by_key(|mount| mount.destination.components().count());
    Ok(mounts)
}

fn bind(path: PathBuf, destination: PathBuf, read_only: bool, propagation: Propagation) -> Mount {
    let source = MountSource::Bind { path, propagation };
    Mount { source, destination, read_only, no_exec: false }
}

fn volume_mount(parts: &Parts<'_>, index: usize, mount: &VolumeMount) -> Result<Mount, String> {
    let volume = parts
        .volumes
        .get(&mount.name)
        .ok_or_else(|| format!("volume \"{}\" is not mounted", mount.name))?;
    let is_image = is_image(parts.pod, &mount.name);
    let source = match sub_path(mount, &parts.env)? {
        None => volume.clone(),
        Some(sub) => {
            let dirs = Dirs::of(&parts.config.pod_dir(&parts.id.uid));
            let at = dirs.subpaths().join(format!("{}.{index}", parts.container.name));
            let found = if !parts.config.containers {
                subpath::find(volume, &sub)
            } else if is_image {
                subpath::pin_existing(volume, &sub, &at)
            } else {
                subpath::pin(volume, &sub, &at)
            };
            found.map_err(|error| {
                format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {error}",
                    mount.name, parts.container.name
                )
            })?
        }
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Propagation::HostToContainer,
        Some("Bidirectional") => Propagation::Bidirectional,
        _ => Propagation::None,
    };
    let read_only = mount.read_only.unwrap_or(false) || is_read_only(parts.pod, &mount.name);
    let destination = Path::new("/").join(&mount.mount_path);
    let bind = bind(source, destination, read_only || is_image, propagation);
    Ok(Mount { no_exec: is_image, ..bind })
}

/// The path inside the volume, in the words in which upstream refuses one.
fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let expression = mount.sub_path_expr.as_deref().filter(|template| !template.is_empty());
    let Some(template) = expression else {
        return Ok(mount.sub_path.clone().filter(|path| !path.is_empty()));
    };
    let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
    let path = env::expand(template, |name| {
        let value = env.iter().rfind(|(n, _)| n == name).map(|(_, value)| value.clone());
        if value.as_ref().is_none_or(String::is_empty) {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing = missing.into_inner();
    if !missing.is_empty() {
        let names: Vec<String> = missing.into_iter().collect();
        return Err(format!("missing value for {}", names.join(", ")));
    }
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(Some(path).filter(|path| !path.is_empty()))
}

fn volume<'a>(pod: &'a Pod, name: &str) -> Option<&'a Volume> {
    pod.spec.as_ref()?.volumes.as_ref()?.iter().find(|volume| volume.name == name)
}

fn is_image(pod: &Pod, name: &str) -> bool {
    volume(pod, name).is_some_and(|volume| volume.image.is_some())
}

/// Volumes whose files the agent writes are read-only for everybody else, and claims where the
/// pod says so.
fn is_read_only(pod: &Pod, name: &str) -> bool {
    volume(pod, name).is_some_and(|v| {
        v.config_map.is_some()
            || v.secret.is_some()
            || v.projected.is_some()
            || v.downward_api.is_some()
            || v.persistent_volume_claim.as_ref().is_some_and(|claim| claim.read_only == Some(true))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image() -> ImageInfo {
        serde_json::from_value(json!({"digest": "sha256:a", "config_digest": "sha256:b",
            "tags": [], "repo_digests": [], "layers": [], "size_bytes": 1, "builtin": false,
            "config": {"entrypoint": ["/entry"], "cmd": ["cmd"], "env": [], "user": "",
                "working_dir": "/work", "stop_signal": null, "exposed_ports": [], "volumes": [],
                "labels": {}}}))
        .unwrap()
    }

    fn args(extra: serde_json::Value) -> Vec<String> {
        let mut value = json!({"name": "c"});
        value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let env = [("A".to_owned(), "1".to_owned())];
        command(&serde_json::from_value(value).unwrap(), &image(), &env).unwrap()
    }

    #[test]
    fn command_and_args_replace_as_upstream() {
        assert_eq!(args(json!({})), ["/entry", "cmd"]);
        assert_eq!(args(json!({"args": ["x"]})), ["/entry", "x"]);
        assert_eq!(args(json!({"command": ["/own"]})), ["/own"]);
        assert_eq!(args(json!({"command": ["/own"], "args": ["$(A)"]})), ["/own", "1"]);
    }

    #[test]
    fn sub_paths_are_refused_in_upstreams_words() {
        let path = |expression: &str| {
            let mount = json!({"name": "v", "mountPath": "/v", "subPathExpr": expression});
            let env = [("UP", ".."), ("ABS", "/tmp"), ("EMPTY", ""), ("A", "a")];
            let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
            sub_path(&serde_json::from_value(mount).unwrap(), &env)
        };
        assert_eq!(path("$(A)/x"), Ok(Some("a/x".to_owned())));
        assert_eq!(path("$(NONE)/$(EMPTY)/$(A)"), Err("missing value for EMPTY, NONE".to_owned()));
        let words = "error SubPath `/tmp` must not be an absolute path";
        assert_eq!(path("$(ABS)"), Err(words.to_owned()));
        let words = "unable to provision SubPath `a/..`: must not contain '..'";
        assert_eq!(path("$(A)/$(UP)"), Err(words.to_owned()));
    }

    #[test]
    fn ids_have_64_hex_digits() {
        let id = new_id();
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(id, new_id());
    }
}
