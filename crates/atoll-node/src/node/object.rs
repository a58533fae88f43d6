//! The Node object as this machine fills it. Pure.

use std::collections::BTreeMap;

use atoll_image::ImageInfo;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::config::Config;
use crate::machine::Machine;
use crate::node::extended;

/// The version of Kubernetes whose kubelet this agent stands in for.
const KUBELET_VERSION: &str = "v1.36.0";
/// Images listed in the status, the largest first.
const IMAGES_MAX: usize = 50;

/// What makes the node ready or not, and under pressure or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why pods cannot be run yet; `None` when all is well.
    pub not_ready: Option<String>,
    pub memory_pressure: bool,
    pub disk_pressure: bool,
    pub pid_pressure: bool,
}

#[must_use]
pub fn node(config: &Config, machine: &Machine) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels(config, machine)),
            ..ObjectMeta::default()
        },
        spec: config.own_pod_cidr.as_ref().map(|cidr| NodeSpec {
            pod_cidr: Some(cidr.clone()),
            pod_cidrs: Some(vec![cidr.clone()]),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

#[must_use]
pub fn labels(config: &Config, machine: &Machine) -> BTreeMap<String, String> {
    let runtime = if config.containers { "oci" } else { "process" };
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), machine.architecture.clone()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), machine.architecture.clone()),
        ("atoll.dev/runtime".to_owned(), runtime.to_owned()),
    ]);
    labels.extend(config.labels.clone());
    labels
}

/// The whole status; times of conditions are kept from `old` while they do not change.
#[must_use]
pub fn status(
    config: &Config,
    machine: &Machine,
    health: &Health,
    images: &[ImageInfo],
    old: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let address = |kind: &str, address: String| NodeAddress { type_: kind.to_owned(), address };
    let mut allocatable =
        resources(machine, machine.allocatable_memory(), machine.allocatable_disk());
    // Only allocatable: their capacity is the word of those who announced them.
    allocatable.extend(old.map(extended::announced).unwrap_or_default());
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", config.node_ip.to_string()),
            address("Hostname", config.node_name.clone()),
        ]),
        capacity: Some(resources(machine, machine.memory_bytes, machine.disk_bytes)),
        allocatable: Some(allocatable),
        conditions: Some(conditions(health, old, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.kubelet_listen.port().into() }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: machine.architecture.clone(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("atoll://{}", config.version),
            kernel_version: machine.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            swap: None,
            system_uuid: machine.machine_id.clone(),
        }),
        images: Some(container_images(images)),
        ..NodeStatus::default()
    }
}

fn resources(machine: &Machine, memory: i64, disk: i64) -> BTreeMap<String, Quantity> {
    let entry = |name: &str, text: String| (name.to_owned(), Quantity(text));
    BTreeMap::from([
        entry("cpu", machine.cpus.to_string()),
        entry("memory", format!("{}Ki", memory / 1024)),
        entry("ephemeral-storage", format!("{}Ki", disk / 1024)),
        entry("pods", machine.max_pods.to_string()),
        entry("hugepages-1Gi", "0".to_owned()),
        entry("hugepages-2Mi", "0".to_owned()),
    ])
}

fn container_images(images: &[ImageInfo]) -> Vec<ContainerImage> {
    let mut sorted: Vec<&ImageInfo> = images.iter().collect();
    sorted.sort_by_key(|image| std::cmp::Reverse(image.size_bytes));
    sorted
        .into_iter()
        .take(IMAGES_MAX)
        .map(|image| ContainerImage {
            names: Some(image.repo_digests.iter().chain(&image.tags).cloned().collect()),
            size_bytes: i64::try_from(image.size_bytes).ok(),
        })
        .collect()
}

fn conditions(health: &Health, old: Option<&NodeStatus>, now: Timestamp) -> Vec<NodeCondition> {
    let pressure = |kind, holds: bool, yes: [&str; 2], no: [&str; 2]| {
        let [reason, message] = if holds { yes } else { no };
        (kind, holds, reason.to_owned(), message.to_owned())
    };
    let ready = match &health.not_ready {
        None => {
            ("Ready", true, "KubeletReady".to_owned(), "kubelet is posting ready status".into())
        }
        Some(why) => ("Ready", false, "KubeletNotReady".to_owned(), why.clone()),
    };
    let all = [
        pressure(
            "MemoryPressure",
            health.memory_pressure,
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            health.disk_pressure,
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressure(
            "PIDPressure",
            health.pid_pressure,
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ready,
    ];
    all.into_iter()
        .map(|(kind, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let before = old
                .and_then(|old| old.conditions.as_ref())
                .and_then(|list| list.iter().find(|c| c.type_ == kind && c.status == status));
            let since = before.and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason),
                message: Some(message),
                last_heartbeat_time: Some(seconds(now)),
                last_transition_time: Some(since.unwrap_or_else(|| seconds(now))),
            }
        })
        .collect()
}

fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Whether two statuses say the same but for the time at which they were written.
#[must_use]
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    bare(a) == bare(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_have_the_kubelets_words_and_keep_their_times() {
        let (early, late) =
            (Timestamp::from_second(1).unwrap(), Timestamp::from_second(9).unwrap());
        let old = NodeStatus {
            conditions: Some(conditions(&Health::default(), None, early)),
            ..NodeStatus::default()
        };
        let health = Health { not_ready: Some("no network".into()), ..Health::default() };
        let now = conditions(&health, Some(&old), late);
        let ready = now.iter().find(|c| c.type_ == "Ready").unwrap();
        assert_eq!(ready.reason.as_deref(), Some("KubeletNotReady"));
        assert_eq!(ready.last_transition_time.as_ref().unwrap().0, late);
        let memory = now.iter().find(|c| c.type_ == "MemoryPressure").unwrap();
        assert_eq!(memory.message.as_deref(), Some("kubelet has sufficient memory available"));
        assert_eq!(memory.last_transition_time.as_ref().unwrap().0, early);
    }
}
