//! The level baseline: nothing that is known to lead out of a pod.

use serde_json::Value;

use super::{
    Pod, Violation, containers, items, name_of, plural, quoted, setters, sorted, text, violation,
};

type Check = fn(&Pod<'_>) -> Option<Violation>;

/// In the order of upstream's names, which is that of the messages.
const CHECKS: &[Check] = &[
    app_armor,
    capabilities,
    host_namespaces,
    host_paths,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    selinux,
    seccomp,
    sysctls,
    windows_host_process,
];

/// Those that the level restricted has a stricter one for, and since which version.
const OVERRIDDEN: &[(Check, u32)] =
    &[(capabilities, 22), (host_paths, 0), (proc_mount, 35), (seccomp, 19)];

pub(super) fn violations(pod: &Pod<'_>, restricted: bool) -> Vec<Violation> {
    let applies = |check: &&Check| {
        let stricter = OVERRIDDEN.iter().find(|(other, _)| std::ptr::fn_addr_eq(**check, *other));
        !restricted || stricter.is_none_or(|(_, since)| pod.minor < *since)
    };
    CHECKS.iter().filter(applies).filter_map(|check| check(pod)).collect()
}

fn app_armor(pod: &Pod<'_>) -> Option<Violation> {
    let bad_profile = |security: &'_ Value| -> bool {
        let profile = &security["appArmorProfile"];
        profile.is_object() && !matches!(text(profile, "type"), "RuntimeDefault" | "Localhost")
    };
    let own = bad_profile(pod.security());
    let names = pod.named(|container| bad_profile(&container["securityContext"]));
    let mut values: Vec<&str> = pod
        .containers()
        .map(|container| &container["securityContext"])
        .chain(std::iter::once(pod.security()))
        .filter(|security| bad_profile(security))
        .map(|security| text(&security["appArmorProfile"], "type"))
        .collect();
    values = sorted(values);
    let mut annotations: Vec<String> = pod.metadata["annotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(_, value)| {
            !value.is_empty() && *value != "runtime/default" && !value.starts_with("localhost/")
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut parts: Vec<String> = setters(own, &names).into_iter().collect();
    if !annotations.is_empty() {
        parts.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    if parts.is_empty() {
        return None;
    }
    let mut all: Vec<String> = values.into_iter().map(str::to_owned).collect();
    all.extend(annotations);
    violation(
        plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len()),
        format!("{} must not set AppArmor profile type to {}", parts.join(" and "), quoted(&all)),
    )
}

/// What Docker gives by default.
const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn capabilities(pod: &Pod<'_>) -> Option<Violation> {
    let (names, added) = pod.bad(|container| {
        items(&container["securityContext"]["capabilities"], "add")
            .iter()
            .filter_map(Value::as_str)
            .filter(|one| !CAPABILITIES.contains(one))
            .collect()
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers(&names),
            quoted(&added)
        ),
    )
}

fn host_namespaces(pod: &Pod<'_>) -> Option<Violation> {
    let set: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec[*field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    if set.is_empty() { None } else { violation("host namespaces", set.join(", ")) }
}

fn host_paths(pod: &Pod<'_>) -> Option<Violation> {
    let names: Vec<&str> = items(pod.spec, "volumes")
        .iter()
        .filter(|volume| volume["hostPath"].is_object())
        .map(name_of)
        .collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("volume", "volumes", names.len());
    violation("hostPath volumes", format!("{what} {}", quoted(&names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<Violation> {
    let mut ports: Vec<String> = Vec::new();
    let mut names = Vec::new();
    for container in pod.containers() {
        let own = items(container, "ports").iter().filter_map(|port| port["hostPort"].as_i64());
        let own: Vec<String> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        if !own.is_empty() {
            names.push(name_of(container));
            ports.extend(own);
        }
    }
    if names.is_empty() {
        return None;
    }
    ports.sort();
    ports.dedup();
    violation(
        "hostPort",
        format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("hostPort", "hostPorts", ports.len()),
            ports.join(", ")
        ),
    )
}

/// Probes of other hosts make the node ask what the pod cannot reach.
fn host_probes(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 34 {
        return None;
    }
    let hosts = |handler: &'_ Value| -> Vec<String> {
        ["httpGet", "tcpSocket"]
            .into_iter()
            .map(|kind| text(&handler[kind], "host").to_owned())
            .filter(|host| !host.is_empty())
            .collect()
    };
    let (mut names, mut forbidden) = (Vec::new(), Vec::new());
    for container in pod.containers() {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|one| &container[one]);
        let lifecycle = ["postStart", "preStop"].map(|one| &container["lifecycle"][one]);
        let own: Vec<String> = probes.into_iter().chain(lifecycle).flat_map(hosts).collect();
        if !own.is_empty() {
            names.push(name_of(container));
            forbidden.extend(own);
        }
    }
    if names.is_empty() {
        return None;
    }
    names = sorted(names);
    forbidden.sort();
    forbidden.dedup();
    violation(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            containers(&names),
            plural("uses", "use", names.len()),
            plural("probe or lifecycle host", "probe or lifecycle hosts", forbidden.len()),
            quoted(&forbidden)
        ),
    )
}

fn privileged(pod: &Pod<'_>) -> Option<Violation> {
    let names = pod.named(|container| container["securityContext"]["privileged"] == true);
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.privileged=true", containers(&names));
    violation("privileged", detail)
}

/// Of a user namespace of its own a pod may see all of `/proc`.
fn proc_mount(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor >= 35 && pod.has_own_users() {
        return None;
    }
    proc_mount_of_any(pod)
}

pub(super) fn proc_mount_of_any(pod: &Pod<'_>) -> Option<Violation> {
    let (names, kinds) = pod.bad(|container| {
        let kind = text(&container["securityContext"], "procMount");
        if matches!(kind, "" | "Default") { Vec::new() } else { vec![kind] }
    });
    if names.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!(
            "{} must not set securityContext.procMount to {}",
            containers(&names),
            quoted(&kinds)
        ),
    )
}

fn selinux(pod: &Pod<'_>) -> Option<Violation> {
    let fine = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (pod.minor >= 31 && kind == "container_engine_t")
    };
    let bad = |security: &Value| {
        let options = &security["seLinuxOptions"];
        options.is_object()
            && (!fine(text(options, "type"))
                || !text(options, "user").is_empty()
                || !text(options, "role").is_empty())
    };
    let names = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(bad(pod.security()), &names)?;
    let all: Vec<&Value> = pod
        .containers()
        .map(|container| &container["securityContext"]["seLinuxOptions"])
        .chain(std::iter::once(&pod.security()["seLinuxOptions"]))
        .filter(|options| options.is_object())
        .collect();
    let kinds: Vec<&str> =
        all.iter().map(|one| text(one, "type")).filter(|one| !fine(one)).collect();
    let kinds = sorted(kinds);
    let mut what = Vec::new();
    if !kinds.is_empty() {
        what.push(format!("{} {}", plural("type", "types", kinds.len()), quoted(&kinds)));
    }
    for field in ["user", "role"] {
        if all.iter().any(|one| !text(one, field).is_empty()) {
            what.push(format!("{field} may not be set"));
        }
    }
    let what = what.join("; ");
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {what}"),
    )
}

pub(super) fn seccomp_fine(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

fn seccomp(pod: &Pod<'_>) -> Option<Violation> {
    if pod.minor < 19 {
        return seccomp_annotations(pod);
    }
    bad_seccomp(pod)
}

/// Profiles that are stated and not allowed.
pub(super) fn bad_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |security: &Value| {
        let profile = &security["seccompProfile"];
        profile.is_object() && !seccomp_fine(text(profile, "type"))
    };
    let names = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(bad(pod.security()), &names)?;
    let kinds: Vec<&str> = pod
        .containers()
        .map(|container| &container["securityContext"])
        .chain(std::iter::once(pod.security()))
        .filter(|security| bad(security))
        .map(|security| text(&security["seccompProfile"], "type"))
        .collect();
    let kinds = quoted(&sorted(kinds));
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {kinds}");
    violation("seccompProfile", detail)
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    let annotations = &pod.metadata["annotations"];
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(
        pod.containers().map(|container| {
            format!("container.seccomp.security.alpha.kubernetes.io/{}", name_of(container))
        }),
    );
    let fine = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let mut found: Vec<String> = keys
        .filter_map(|key| {
            let value = annotations.get(&key).and_then(Value::as_str)?;
            (!fine(value)).then(|| format!("{key}={value:?}"))
        })
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        return None;
    }
    let what = plural("annotation", "annotations", found.len());
    violation("seccompProfile", format!("forbidden {what} {}", found.join(", ")))
}

/// Those of a pod's own namespaces, and since when they count as such.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: &Pod<'_>) -> Option<Violation> {
    let fine = |name: &str| SYSCTLS.iter().any(|(own, since)| *own == name && pod.minor >= *since);
    let names: Vec<&str> =
        items(pod.security(), "sysctls").iter().map(name_of).filter(|one| !fine(one)).collect();
    if names.is_empty() { None } else { violation("forbidden sysctls", names.join(", ")) }
}

fn windows_host_process(pod: &Pod<'_>) -> Option<Violation> {
    let bad = |security: &Value| security["windowsOptions"]["hostProcess"] == true;
    let names = pod.named(|container| bad(&container["securityContext"]));
    let who = setters(bad(pod.security()), &names)?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    violation("hostProcess", detail)
}
