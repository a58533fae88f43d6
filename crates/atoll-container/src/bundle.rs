//! Turns a [`ContainerSpec`] into the OCI runtime specification that libcontainer reads.
//!
//! What is written here is what a container gets by default: mounts, masked paths,
//! capabilities and the seccomp profile are those that containerd gives.

mod capability;
mod seccomp;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;
use crate::runtime::CgroupVersion;
use crate::shim::Spread;
use crate::spec::{
    ContainerSpec, Mount, MountSource, NamespaceMode, Process, Propagation, Resources, Seccomp,
};

pub(crate) use capability::{all as all_capabilities, granted, number};
pub(crate) use seccomp::compile as compile_filter;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `/dev/shm` of a container that shares none, and of a sandbox that names no size.
pub(crate) const SHM_BYTES: u64 = 64 << 20;

const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What the machine and the sandbox add to a container's own wishes.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) cgroup_version: CgroupVersion,
    /// Absolute below each hierarchy's root.
    pub(crate) cgroup: &'a str,
    /// The sandbox's shared memory, when the container joins its IPC namespace.
    pub(crate) shm: Option<&'a Path>,
    pub(crate) oom_score_adj: Option<i32>,
    /// Where a container sees the hierarchies of cgroup v1. libcontainer binds them
    /// writable whatever their options say, and whoever writes there lifts its own limits.
    pub(crate) hierarchies: &'a [PathBuf],
}

/// The runtime specification as JSON.
pub(crate) fn config(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Value, Error> {
    check(spec)?;
    let mut root = json!({
        "ociVersion": "1.0.2",
        "process": process(spec, around),
        "root": { "path": spec.rootfs, "readonly": spec.security.read_only_rootfs },
        "mounts": mounts(spec, around),
        "linux": linux(spec, around)?,
    });
    if let (NamespaceMode::New, Some(hostname)) = (&spec.namespaces.uts, &spec.hostname) {
        root["hostname"] = json!(hostname);
    }
    Ok(root)
}

pub(crate) fn check(spec: &ContainerSpec) -> Result<(), Error> {
    let invalid = |field, value: &str, reason: &str| Error::InvalidSpec {
        field,
        value: value.to_owned(),
        reason: reason.to_owned(),
    };
    if spec.process.args.first().is_none_or(String::is_empty) {
        return Err(invalid("command", "", "no command specified"));
    }
    let nul = |text: &str| text.contains('\0');
    if let Some(arg) = spec.process.args.iter().find(|a| nul(a)) {
        return Err(invalid("args", arg, "it contains a NUL byte"));
    }
    if let Some((name, _)) = spec
        .process
        .env
        .iter()
        .find(|(name, value)| name.is_empty() || name.contains('=') || nul(name) || nul(value))
    {
        return Err(invalid("env", name, "a name must not be empty or contain '='"));
    }
    if !spec.process.cwd.is_empty() && !spec.process.cwd.starts_with('/') {
        return Err(invalid("workingDir", &spec.process.cwd, "it must be an absolute path"));
    }
    for mount in &spec.mounts {
        let text = mount.destination.to_string_lossy();
        if !mount.destination.is_absolute() || mount.destination == Path::new("/") {
            return Err(invalid("mountPath", &text, "it must be absolute and not /"));
        }
    }
    Ok(())
}

/// `env` in the specification's form; `PATH` is there in any case, as programs (and
/// libcontainer) count on it.
pub(crate) fn environment(process: &Process) -> Vec<String> {
    let mut lines: Vec<String> = Vec::with_capacity(process.env.len() + 1);
    if !process.env.iter().any(|(name, _)| name == "PATH") {
        lines.push(format!("PATH={DEFAULT_PATH}"));
    }
    for (index, (name, value)) in process.env.iter().enumerate() {
        let later = &process.env[index + 1..];
        if !later.iter().any(|(other, _)| other == name) {
            lines.push(format!("{name}={value}"));
        }
    }
    if process.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
        lines.push("TERM=xterm".to_owned());
    }
    lines
}

fn process(spec: &ContainerSpec, around: &Surroundings<'_>) -> Value {
    let process = &spec.process;
    let capabilities = granted(&spec.security);
    let mut early = capabilities.clone();
    if lends_admin(spec, &capabilities) {
        early.push(FILTER_CAPABILITY);
    }
    let cwd = if process.cwd.is_empty() { "/" } else { &process.cwd };
    let mut value = json!({
        "terminal": process.tty,
        "user": {
            "uid": process.user.uid,
            "gid": process.user.gid,
            "additionalGids": process.user.groups(),
        },
        "args": process.args,
        "env": environment(process),
        "cwd": cwd,
        "capabilities": {
            "bounding": capabilities,
            "effective": early,
            "permitted": early,
            "inheritable": [],
            "ambient": [],
        },
    });
    // libcontainer looks at whether the field is there, not at its value.
    if spec.security.no_new_privileges {
        value["noNewPrivileges"] = json!(true);
    }
    if let Some(score) = around.oom_score_adj {
        value["oomScoreAdj"] = json!(score);
    }
    value
}

/// What loading a filter takes without `no_new_privs`. It is lent until the shim has
/// loaded the filter, just before the command: never in the bounding set, so no command
/// ever holds it.
const FILTER_CAPABILITY: &str = "CAP_SYS_ADMIN";

fn lends_admin(spec: &ContainerSpec, granted: &[&str]) -> bool {
    has_default_filter(spec)
        && !spec.security.no_new_privileges
        && !granted.contains(&FILTER_CAPABILITY)
}

fn has_default_filter(spec: &ContainerSpec) -> bool {
    !spec.security.privileged && spec.security.seccomp == Seccomp::RuntimeDefault
}

/// The system call filter that the shim loads.
#[derive(Debug)]
pub(crate) struct FilterPlan {
    /// Names the filter: containers with the same capabilities share it.
    pub(crate) capabilities: Vec<&'static str>,
    /// `CAP_SYS_ADMIN` was lent for loading it.
    pub(crate) lent_admin: bool,
}

/// `None` when the container has no filter, or brings its own.
pub(crate) fn filter_plan(spec: &ContainerSpec) -> Option<FilterPlan> {
    let capabilities = granted(&spec.security);
    let lent_admin = lends_admin(spec, &capabilities);
    has_default_filter(spec).then_some(FilterPlan { capabilities, lent_admin })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn mounts(spec: &ContainerSpec, around: &Surroundings<'_>) -> Vec<Value> {
    let sys_mode = if spec.security.privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys_mode]),
    ];
    list.extend(cgroup_mounts(spec, around, sys_mode));
    if !spec.mounts.iter().any(|m| m.destination == Path::new("/dev/shm")) {
        list.push(shm(around.shm));
    }
    // Parents first, whatever the order in the specification.
    let mut own: Vec<&Mount> = spec.mounts.iter().collect();
    own.sort_by_key(|m| m.destination.components().count());
    list.extend(own.into_iter().map(own_mount));
    list
}

/// What a container sees of its cgroup. In a namespace of processes that is not its own
/// libcontainer looks on v1 for a process of the node by a number of the namespace, and fails
/// where there is none: there the hierarchies are bound one by one, as it would.
fn cgroup_mounts(spec: &ContainerSpec, around: &Surroundings<'_>, mode: &str) -> Vec<Value> {
    const AT: &str = "/sys/fs/cgroup";
    let quiet = ["nosuid", "noexec", "nodev"];
    let joins = matches!(spec.namespaces.pid, NamespaceMode::Path(_));
    if around.cgroup_version == CgroupVersion::V2 || !joins {
        let options = [&quiet[..], &["relatime", mode]].concat();
        return vec![mount(AT, "cgroup", "cgroup", &options)];
    }
    let options = [&quiet[..], &["mode=755", "size=4k"]].concat();
    let mut list = vec![mount(AT, "tmpfs", "tmpfs", &options)];
    for hierarchy in around.hierarchies {
        let Some(name) = hierarchy.file_name().filter(|name| *name != "systemd") else { continue };
        let source = hierarchy.join(around.cgroup.trim_start_matches('/'));
        let options = [&["rbind", "rprivate"], &quiet[..], &[mode]].concat();
        let destination = Path::new(AT).join(name);
        list.push(json!({
            "destination": destination, "type": "bind", "source": source, "options": options,
        }));
    }
    list
}

fn shm(shared: Option<&Path>) -> Value {
    match shared {
        Some(path) => json!({
            "destination": "/dev/shm", "type": "bind", "source": path,
            "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev"],
        }),
        None => {
            let size = format!("size={SHM_BYTES}");
            let options = ["nosuid", "noexec", "nodev", "mode=1777", &size];
            mount("/dev/shm", "tmpfs", "shm", &options)
        }
    }
}

fn own_mount(wish: &Mount) -> Value {
    let mode = if wish.read_only { "ro" } else { "rw" };
    match &wish.source {
        MountSource::Bind { path, propagation } => {
            let propagation = match propagation {
                Propagation::None => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            };
            let mut options = vec!["rbind", propagation, mode];
            if wish.no_exec {
                options.push("noexec");
            }
            json!({
                "destination": wish.destination, "type": "bind", "source": path,
                "options": options,
            })
        }
        MountSource::Tmpfs { size_bytes, mode: bits } => {
            let mut options = vec![
                mode.to_owned(),
                "nosuid".to_owned(),
                "nodev".to_owned(),
                format!("mode={bits:o}"),
            ];
            if wish.no_exec {
                options.push("noexec".to_owned());
            }
            if *size_bytes > 0 {
                options.push(format!("size={size_bytes}"));
            }
            json!({
                "destination": wish.destination, "type": "tmpfs", "source": "tmpfs",
                "options": options,
            })
        }
    }
}

fn linux(spec: &ContainerSpec, around: &Surroundings<'_>) -> Result<Value, Error> {
    let (nodes, rules) = devices(spec)?;
    let mut value = json!({
        "namespaces": namespaces(spec, around.cgroup_version),
        "cgroupsPath": around.cgroup,
        "resources": resources(&spec.resources, &rules),
        "devices": nodes,
        "sysctl": spec.sysctls,
        "rootfsPropagation": root_propagation(spec),
    });
    if !spec.security.privileged {
        let mut read_only: Vec<&Path> = around.hierarchies.iter().map(PathBuf::as_path).collect();
        if !spec.security.unmasked_proc {
            value["maskedPaths"] = json!(MASKED_PATHS);
            read_only.extend(READONLY_PATHS.iter().map(Path::new));
        }
        value["readonlyPaths"] = json!(read_only);
    }
    match &spec.security.seccomp {
        _ if spec.security.privileged => {}
        Seccomp::Unconfined => {}
        // Compiled once by the agent, and loaded by the shim.
        Seccomp::RuntimeDefault => {}
        Seccomp::Profile(profile) => value["seccomp"] = profile.clone(),
    }
    Ok(value)
}

/// libcontainer knows one propagation for all mounts: the widest that one of them asks for.
fn root_propagation(spec: &ContainerSpec) -> &'static str {
    let asks = |wanted: Propagation| {
        spec.mounts.iter().any(|mount| {
            matches!(mount.source, MountSource::Bind { propagation, .. } if propagation == wanted)
        })
    };
    if asks(Propagation::Bidirectional) {
        "shared"
    } else if asks(Propagation::HostToContainer) {
        "slave"
    } else {
        "private"
    }
}

/// What each volume asks for, where that is too wide for one of them.
pub(crate) fn parted(spec: &ContainerSpec) -> Vec<Spread> {
    if root_propagation(spec) == "private" {
        return Vec::new();
    }
    let volumes = spec.mounts.iter().filter_map(|mount| match mount.source {
        MountSource::Bind { propagation, .. } => {
            Some(Spread { path: mount.destination.clone(), propagation })
        }
        MountSource::Tmpfs { .. } => None,
    });
    volumes.collect()
}

fn namespaces(spec: &ContainerSpec, cgroup_version: CgroupVersion) -> Vec<Value> {
    let mut list = vec![json!({ "type": "mount" })];
    // On v1 the hierarchies are shown as they are, as other runtimes do.
    if cgroup_version == CgroupVersion::V2 && !spec.security.privileged {
        list.push(json!({ "type": "cgroup" }));
    }
    for (kind, mode) in [
        ("network", &spec.namespaces.net),
        ("ipc", &spec.namespaces.ipc),
        ("uts", &spec.namespaces.uts),
        ("pid", &spec.namespaces.pid),
    ] {
        match mode {
            NamespaceMode::Host => {}
            NamespaceMode::New => list.push(json!({ "type": kind })),
            NamespaceMode::Path(path) => list.push(json!({ "type": kind, "path": path })),
        }
    }
    list
}

fn resources(wish: &Resources, device_rules: &[Value]) -> Value {
    let mut cpu = json!({});
    for (key, number) in [
        ("shares", wish.cpu_shares.map(Value::from)),
        ("quota", wish.cpu_quota_us.map(Value::from)),
        ("period", wish.cpu_period_us.map(Value::from)),
        ("cpus", wish.cpuset_cpus.clone().map(Value::from)),
    ] {
        if let Some(number) = number {
            cpu[key] = number;
        }
    }
    let mut value = json!({ "devices": device_rules, "cpu": cpu });
    if let Some(limit) = wish.memory_limit_bytes {
        // Equal limits: no swap.
        value["memory"] = json!({ "limit": limit, "swap": limit });
    }
    if let Some(limit) = wish.pids_limit {
        value["pids"] = json!({ "limit": limit });
    }
    value
}

/// Device nodes to make, and what the device cgroup allows.
fn devices(spec: &ContainerSpec) -> Result<(Vec<Value>, Vec<Value>), Error> {
    if spec.security.privileged {
        let mut nodes = Vec::new();
        host_devices(Path::new("/dev"), &mut nodes);
        return Ok((nodes, vec![json!({ "allow": true, "access": "rwm" })]));
    }
    let mut nodes = Vec::new();
    let mut rules = vec![json!({ "allow": false, "access": "rwm" })];
    for device in &spec.devices {
        let stat = rustix::fs::stat(&device.host_path).map_err(|e| Error::Io {
            what: "looking at the device",
            path: device.host_path.clone(),
            source: e.into(),
        })?;
        let Some(kind) = device_kind(stat.st_mode) else {
            return Err(Error::InvalidSpec {
                field: "device",
                value: device.host_path.display().to_string(),
                reason: "it is no device node".to_owned(),
            });
        };
        nodes.push(node(&device.container_path, kind, &stat));
        rules.push(json!({
            "allow": true, "type": kind, "access": device.permissions,
            "major": rustix::fs::major(stat.st_rdev), "minor": rustix::fs::minor(stat.st_rdev),
        }));
    }
    Ok((nodes, rules))
}

fn device_kind(mode: u32) -> Option<&'static str> {
    match rustix::fs::FileType::from_raw_mode(mode) {
        rustix::fs::FileType::CharacterDevice => Some("c"),
        rustix::fs::FileType::BlockDevice => Some("b"),
        _ => None,
    }
}

fn node(path: &Path, kind: &str, stat: &rustix::fs::Stat) -> Value {
    json!({
        "path": path, "type": kind, "fileMode": stat.st_mode & 0o777,
        "major": rustix::fs::major(stat.st_rdev), "minor": rustix::fs::minor(stat.st_rdev),
        "uid": stat.st_uid, "gid": stat.st_gid,
    })
}

/// Directories below `/dev` that every container has its own of.
const OWN_DEV: &[&str] = &["pts", "shm", "mqueue", "fd", "hugepages", ".lxc"];

/// Nodes that libcontainer makes anyway.
const DEFAULT_DEV: &[&str] =
    &["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"];

fn host_devices(dir: &Path, nodes: &mut Vec<Value>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        let path: PathBuf = entry.path();
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let Ok(stat) = rustix::fs::lstat(&path) else { continue };
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::Directory if !OWN_DEV.contains(&name.as_ref()) => {
                host_devices(&path, nodes);
            }
            _ if DEFAULT_DEV.contains(&name.as_ref()) => {}
            _ => {
                if let Some(kind) = device_kind(stat.st_mode) {
                    nodes.push(node(&path, kind, &stat));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
