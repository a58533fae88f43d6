//! Whether this node has room for a pod, decided once before its first container. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Pod};

use crate::amount;
use crate::network::HostPort;
use crate::pod::refuse;
use crate::pod::sandbox::host_ports;

const NODE_AFFINITY: &str = "NodeAffinity";
const TAINT_TOLERATION: &str = "TaintToleration";

/// What the node offers pods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub pods: i64,
    /// Resources that others have announced; one that is not among them is nobody's here.
    pub extended: BTreeMap<String, i64>,
}

/// Why a pod is refused; becomes its status' reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: String,
    pub message: String,
}

impl Refusal {
    /// As the pod's status says it; the event does without the first words.
    #[must_use]
    pub fn rejected(self) -> Refusal {
        let message = format!("Pod was rejected: {}", self.message);
        Refusal { message, ..self }
    }
}

/// Pods for another operating system, which need no closer look.
#[must_use]
pub fn other_system(pod: &Pod) -> Option<Refusal> {
    const OWN: &str = "linux";
    let labels = pod.metadata.labels.as_ref();
    if labels.and_then(|labels| labels.get("kubernetes.io/os")).is_some_and(|os| os != OWN) {
        return Some(Refusal {
            reason: "PodOSSelectorNodeLabelDoesNotMatch".to_owned(),
            message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node \
                      label"
                .to_owned(),
        });
    }
    let os = pod.spec.as_ref().and_then(|spec| spec.os.as_ref());
    os.filter(|os| os.name != OWN).map(|_| Refusal {
        reason: "PodOSNotSupported".to_owned(),
        message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
    })
}

/// Whether it is for what the node's object says that a pod is refused; what is known of that may
/// be old.
#[must_use]
pub fn is_of_node(refusal: &Refusal) -> bool {
    [NODE_AFFINITY, TAINT_TOLERATION].contains(&refusal.reason.as_str())
}

/// A predicate of the scheduler's that fails.
fn failed(predicate: &str, why: &str) -> Refusal {
    let message = format!("Predicate {predicate} failed: {why}");
    Refusal { reason: predicate.to_owned(), message }
}

/// `others` are the pods that hold resources here already. Whoever names this node in a pod's
/// spec goes past the scheduler, so all that it looks at is looked at here.
#[must_use]
pub fn admit(pod: &Pod, others: &[&Pod], room: &Room, node: Option<&Node>) -> Option<Refusal> {
    let unfit = |fits: fn(&Pod, &Node) -> bool| node.is_some_and(|node| !fits(pod, node));
    let refusal = lacks_room(pod, others, room);
    if refusal.is_some() {
        return refusal;
    }
    if unfit(atoll_scheduler::admits_labels) {
        return Some(failed(NODE_AFFINITY, "node(s) didn't match Pod's node affinity/selector"));
    }
    let wanted = host_ports(pod);
    let held: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    if wanted.iter().any(|port| held.iter().any(|other| conflict(port, other))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Some(failed("NodePorts", why));
    }
    let why = "node(s) had taints that the pod didn't tolerate";
    unfit(atoll_scheduler::admits_taints).then(|| failed(TAINT_TOLERATION, why))
}

fn lacks_room(pod: &Pod, others: &[&Pod], room: &Room) -> Option<Refusal> {
    let forbidden = refuse::forbidden_sysctls(pod);
    if let Some(name) = forbidden.first() {
        return Some(Refusal {
            reason: "SysctlForbidden".to_owned(),
            message: format!("forbidden sysctl: \"{name}\" not allowlisted"),
        });
    }
    let count = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let used = |name| others.iter().map(|pod| amount::pod_request(pod, name)).sum::<i64>();
    let own = [("cpu", room.cpu_milli), ("memory", room.memory_bytes)];
    let announced = room.extended.iter().map(|(name, amount)| (name.as_str(), *amount));
    let by_name = own.into_iter().chain(announced);
    let lacking = std::iter::once(("pods", 1, count, room.pods))
        .chain(by_name.map(|(name, all)| (name, amount::pod_request(pod, name), used(name), all)))
        .find(|(_, requested, used, capacity)| *requested > 0 && used + requested > *capacity);
    lacking.map(|(name, requested, used, capacity)| Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        ),
    })
}

fn conflict(one: &HostPort, other: &HostPort) -> bool {
    let all = |port: &HostPort| port.host_ip.is_none_or(|ip: IpAddr| ip.is_unspecified());
    let same_address = all(one) || all(other) || one.host_ip == other.host_ip;
    one.host_port == other.host_port && one.udp == other.udp && same_address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    #[test]
    fn refuses_with_the_kubelets_words() {
        let room = Room { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 2, ..Room::default() };
        let (small, large) = (pod("600m"), pod("500m"));
        assert_eq!(admit(&small, &[], &room, None), None);
        let refusal = admit(&large, &[&small], &room, None).unwrap();
        assert_eq!(refusal.reason, "OutOfcpu");
        assert_eq!(
            refusal.message,
            "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"
        );
        let tiny = pod("1m");
        assert_eq!(admit(&tiny, &[&tiny, &tiny], &room, None).unwrap().reason, "OutOfpods");
    }

    #[test]
    fn announced_resources_run_out_too_and_unknown_ones_are_not_asked_for() {
        let pod = |name: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [
                {"name": "c", "resources": {"limits": {name: "2"}}}]}}))
            .unwrap()
        };
        let extended = BTreeMap::from([("example.com/foo".to_owned(), 3)]);
        let room = Room { pods: 9, extended, ..Room::default() };
        let foo = pod("example.com/foo");
        assert_eq!(admit(&foo, &[], &room, None), None);
        let refusal = admit(&foo, &[&foo], &room, None).unwrap();
        assert_eq!(refusal.reason, "OutOfexample.com/foo");
        assert_eq!(
            refusal.message,
            "Node didn't have enough resource: example.com/foo, requested: 2, used: 2, capacity: 3"
        );
        let bar = pod("example.com/bar");
        assert_eq!(admit(&bar, &[&bar, &bar], &room, None), None);
    }

    #[test]
    fn a_port_of_the_node_belongs_to_one_pod() {
        let room = Room { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 9, ..Room::default() };
        let pod = |ip: &str, protocol: &str, number: u16| -> Pod {
            serde_json::from_value(
                serde_json::json!({"spec": {"containers": [{"name": "c", "ports": [
                {"containerPort": 80, "hostPort": number, "hostIP": ip, "protocol": protocol}]}]}}),
            )
            .unwrap()
        };
        let held = pod("127.0.0.1", "TCP", 8080);
        for free in [
            pod("127.0.0.1", "TCP", 8081),
            pod("127.0.0.1", "UDP", 8080),
            pod("10.0.0.1", "TCP", 8080),
        ] {
            assert_eq!(admit(&free, &[&held], &room, None), None);
        }
        for taken in [pod("127.0.0.1", "TCP", 8080), pod("0.0.0.0", "TCP", 8080)] {
            let refusal = admit(&taken, &[&held], &room, None).unwrap();
            assert_eq!(refusal.reason, "NodePorts");
            assert_eq!(
                refusal.message,
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            );
        }
    }
    #[test]
    fn the_labels_and_taints_of_the_node_count_for_whoever_names_it() {
        let room = Room { pods: 9, ..Room::default() };
        let node: Node = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "k", "value": "v", "effect": "NoExecute"},
                {"key": "new", "effect": "NoSchedule"}]}}))
        .unwrap();
        let said = |spec: serde_json::Value| {
            let pod = serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
            admit(&pod, &[], &room, Some(&node)).map(|refusal| {
                assert!(is_of_node(&refusal));
                refusal.message
            })
        };
        let tolerations = serde_json::json!([{"key": "k", "operator": "Exists"}]);
        let on = |disk: &str| {
            serde_json::json!({"containers": [], "nodeSelector": {"disk": disk},
                "tolerations": tolerations})
        };
        assert_eq!(said(on("ssd")), None);
        let words = "Predicate NodeAffinity failed: node(s) didn't match Pod's node \
                     affinity/selector";
        assert_eq!(said(on("hdd")).as_deref(), Some(words));
        let words = "Predicate TaintToleration failed: node(s) had taints that the pod didn't \
                     tolerate";
        assert_eq!(said(serde_json::json!({"containers": []})).as_deref(), Some(words));
    }

    #[test]
    fn pods_for_another_system_are_refused() {
        let reason = |pod: serde_json::Value| {
            other_system(&serde_json::from_value(pod).unwrap()).map(|refusal| refusal.reason)
        };
        let os = |name: &str| serde_json::json!({"spec": {"containers": [], "os": {"name": name}}});
        assert_eq!(reason(os("windows")).as_deref(), Some("PodOSNotSupported"));
        assert_eq!(reason(os("linux")), None);
        let label = serde_json::json!({"metadata": {"labels": {"kubernetes.io/os": "windows"}}});
        assert_eq!(reason(label).as_deref(), Some("PodOSSelectorNodeLabelDoesNotMatch"));
    }
}
