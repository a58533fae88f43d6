//! Whether this node has room for a pod, decided once before its first container. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use crate::amount;
use crate::network::HostPort;
use crate::pod::refuse;
use crate::pod::sandbox::host_ports;

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

/// `others` are the pods that hold resources here already.
#[must_use]
pub fn admit(pod: &Pod, others: &[&Pod], room: &Room) -> Option<Refusal> {
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
    if let Some((name, requested, used, capacity)) = lacking {
        return Some(Refusal {
            reason: format!("OutOf{name}"),
            message: format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
                 capacity: {capacity}"
            ),
        });
    }
    let wanted = host_ports(pod);
    let held: Vec<HostPort> = others.iter().flat_map(|other| host_ports(other)).collect();
    wanted.iter().any(|port| held.iter().any(|other| conflict(port, other))).then(|| Refusal {
        reason: "NodePorts".to_owned(),
        message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                  pod ports"
            .to_owned(),
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
        assert_eq!(admit(&small, &[], &room), None);
        let refusal = admit(&large, &[&small], &room).unwrap();
        assert_eq!(refusal.reason, "OutOfcpu");
        assert_eq!(
            refusal.message,
            "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"
        );
        let tiny = pod("1m");
        assert_eq!(admit(&tiny, &[&tiny, &tiny], &room).unwrap().reason, "OutOfpods");
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
        assert_eq!(admit(&foo, &[], &room), None);
        let refusal = admit(&foo, &[&foo], &room).unwrap();
        assert_eq!(refusal.reason, "OutOfexample.com/foo");
        assert_eq!(
            refusal.message,
            "Node didn't have enough resource: example.com/foo, requested: 2, used: 2, capacity: 3"
        );
        let bar = pod("example.com/bar");
        assert_eq!(admit(&bar, &[&bar, &bar], &room), None);
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
            assert_eq!(admit(&free, &[&held], &room), None);
        }
        for taken in [pod("127.0.0.1", "TCP", 8080), pod("0.0.0.0", "TCP", 8080)] {
            let refusal = admit(&taken, &[&held], &room).unwrap();
            assert_eq!(refusal.reason, "NodePorts");
            assert_eq!(
                refusal.message,
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
            );
        }
    }
}
