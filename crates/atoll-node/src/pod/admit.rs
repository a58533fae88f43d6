//! Whether this node has room for a pod, decided once before its first container. Pure.

use k8s_openapi::api::core::v1::Pod;

use crate::amount;
use crate::pod::refuse;

/// What the node offers pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    pub cpu_milli: i64,
    pub memory_bytes: i64,
    pub pods: i64,
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
    let checks = [
        ("pods", 1, count, room.pods),
        ("cpu", amount::pod_request(pod, "cpu"), used("cpu"), room.cpu_milli),
        ("memory", amount::pod_request(pod, "memory"), used("memory"), room.memory_bytes),
    ];
    let (name, requested, used, capacity) = checks
        .into_iter()
        .find(|(_, requested, used, capacity)| *requested > 0 && used + requested > *capacity)?;
    Some(Refusal {
        reason: format!("OutOf{name}"),
        message: format!(
            "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, \
             capacity: {capacity}"
        ),
    })
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
        let room = Room { cpu_milli: 1000, memory_bytes: 1 << 30, pods: 2 };
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
}
