//! A pod's namespaces, network and own files; and how all of it goes away.

use std::path::PathBuf;

use atoll_container::{NamespaceMode, Resources, SandboxSpec};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::amount;
use crate::context::Context;
use crate::network::{HostPort, PodSandbox};
use crate::pod::files::{self, PodFiles};
use crate::pod::identity::{PodId, all_containers, uses_host_network};
use crate::pod::image::with_sources;
use crate::pod::image_volume;
use crate::pod::qos::Qos;
use crate::rootless::ports::PodPorts;
use crate::volume;

/// A sandbox, and whether this call made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensured {
    pub sandbox: PodSandbox,
    pub created: bool,
}

/// Makes what is missing, with these limits of the whole pod. The error is the message of
/// FailedCreatePodSandBox.
pub async fn ensure(
    cx: &Context,
    pod: &Pod,
    id: &PodId,
    limits: &Resources,
) -> Result<Ensured, String> {
    let dir = cx.config.pod_dir(&id.uid);
    tokio::fs::create_dir_all(&dir)
        .await
        .map_err(|error| format!("creating {}: {error}", dir.display()))?;
    let names = files::names(pod, &cx.config.node_name, &cx.config.cluster_domain);
    let own = sandbox_spec(pod, id, names.hostname.clone());
    let spec = SandboxSpec { resources: limits.clone(), ..own };
    let made = cx.runtime.ensure_sandbox(&spec).await.map_err(|error| with_sources(&error))?;
    let (ip, ports) = match &made.net {
        Some(netns) => {
            let ports = host_ports(pod);
            let ip = match cx.network.attach(&id.uid, netns, &ports).await {
                Ok(ip) => ip.to_string(),
                Err(error) => return Err(unmade(cx, id, made.created, with_sources(&error)).await),
            };
            (ip, PodPorts::default())
        }
        None => {
            let ports = cx.network.ports(&id.uid, pod).await;
            (cx.config.node_ip.to_string(), ports.map_err(|error| with_sources(&error))?)
        }
    };
    write_files(cx, pod, &names, &ip, &PodFiles::of(&dir)).await?;
    let sandbox = PodSandbox { net: made.net, ipc: made.ipc, uts: made.uts, ip, ports };
    Ok(Ensured { sandbox, created: made.created })
}

/// A new sandbox that nothing came of is made anew next time: that it is new must not be
/// forgotten.
async fn unmade(cx: &Context, id: &PodId, created: bool, why: String) -> String {
    if created && let Err(error) = cx.runtime.halt_sandbox(&id.uid).await {
        tracing::warn!(pod = %id, %error, "a sandbox without a network stays");
    }
    why
}

/// The specification with the limits that follow from the pod.
pub(super) fn sandbox_spec(pod: &Pod, id: &PodId, hostname: String) -> SandboxSpec {
    let spec = pod.spec.as_ref();
    let mode = |host: bool| if host { NamespaceMode::Host } else { NamespaceMode::New };
    let context = spec.and_then(|spec| spec.security_context.as_ref());
    let sysctls = context.iter().flat_map(|context| context.sysctls.iter().flatten());
    SandboxSpec {
        uid: id.uid.clone(),
        hostname,
        net: mode(uses_host_network(pod)),
        ipc: mode(spec.and_then(|spec| spec.host_ipc).unwrap_or(false)),
        uts: NamespaceMode::New,
        shared_processes: shares_processes(pod),
        cgroup: spec.map(|spec| Qos::of(spec).cgroup(&id.uid)).unwrap_or_default(),
        resources: amount::pod_cgroup_values(pod),
        shm_bytes: 0,
        sysctls: sysctls
            .map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone()))
            .collect(),
    }
}

/// The namespace of the processes of all containers, where the pod asks for one: found, or
/// made anew when its first process has ended.
pub(super) async fn shared_processes(
    cx: &Context,
    pod: &Pod,
    id: &PodId,
) -> Result<Option<PathBuf>, String> {
    if !shares_processes(pod) {
        return Ok(None);
    }
    let names = files::names(pod, &cx.config.node_name, &cx.config.cluster_domain);
    let own = sandbox_spec(pod, id, names.hostname);
    let spec = SandboxSpec { resources: Resources::default(), ..own };
    let made = cx.runtime.ensure_sandbox(&spec).await;
    made.map(|made| made.pid).map_err(|error| with_sources(&error))
}

fn shares_processes(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.share_process_namespace).unwrap_or(false)
}

/// The node's ports that lead to this pod.
#[must_use]
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ports = all_containers(spec).flat_map(|(_, c): (_, &Container)| c.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: u16::try_from(port.host_port?).ok().filter(|p| *p > 0)?,
                container_port: u16::try_from(port.container_port).ok()?,
                udp: port.protocol.as_deref() == Some("UDP"),
            })
        })
        .collect()
}

async fn write_files(
    cx: &Context,
    pod: &Pod,
    names: &files::Names,
    ip: &str,
    paths: &PodFiles,
) -> Result<(), String> {
    let node_hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let node_resolv = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let dns = cx.config.containers.then_some(cx.config.cluster_dns);
    let resolv = files::resolv_conf(pod, dns, &cx.config.cluster_domain, &node_resolv);
    let texts = [
        (&paths.hosts, files::hosts(pod, names, Some(ip), &node_hosts)),
        (&paths.resolv_conf, resolv),
        (&paths.hostname, format!("{}\n", names.hostname)),
    ];
    for (path, text) in texts {
        files::write_if_changed(path, &text)
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    Ok(())
}

/// What is left of a pod that has been taken down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    Logs,
    /// All that it has on disk.
    Everything,
}

/// Takes away what the pod has in the system. The containers must have ended.
pub async fn tear_down(cx: &Context, id: &PodId, leave: Leave) -> Result<(), String> {
    let removed = match leave {
        Leave::Logs => cx.runtime.remove_sandbox(&id.uid).await,
        Leave::Everything => cx.runtime.halt_sandbox(&id.uid).await,
    };
    removed.map_err(|error| with_sources(&error))?;
    cx.network.detach(&id.uid).await.map_err(|error| with_sources(&error))?;
    let dir = cx.config.pod_dir(&id.uid);
    for rootfs in rootfs_dirs(&dir).into_iter().chain(image_volume::roots(&dir)) {
        cx.images.unmount(&rootfs).await.map_err(|error| with_sources(&error))?;
    }
    cx.tokens.forget(&id.uid);
    tokio::task::spawn_blocking(move || {
        volume::unmount_below(&dir)
            .map_err(|error| format!("unmounting below {}: {error}", dir.display()))?;
        if leave != Leave::Logs {
            return Ok(());
        }
        atoll_image::remove_tree(&dir)
            .map_err(|error| format!("removing {}: {error}", dir.display()))
    })
    .await
    .map_err(|error| error.to_string())?
}

/// Root file systems below a pod's folder, mounted or not.
fn rootfs_dirs(pod_dir: &std::path::Path) -> Vec<PathBuf> {
    let list = |dir: PathBuf| {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
    };
    list(pod_dir.join("rootfs"))
        .flat_map(list)
        .map(|attempt| attempt.join("rootfs"))
        .filter(|rootfs| rootfs.exists())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_ports_are_those_with_a_host_port() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 53,
                "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"}]}]}}))
        .unwrap();
        let ports = host_ports(&pod);
        assert_eq!(ports.len(), 1);
        assert!(ports[0].udp && ports[0].host_port == 5353 && ports[0].container_port == 53);
    }
}
