//! Quality-of-service classes, and what follows from them for cgroups and the OOM killer.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::amount;
use crate::pod::identity::{all_containers, is_sidecar};

/// Pods of this priority and above count as critical to the node.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;
const GUARANTEED_ADJ: i32 = -997;
const BEST_EFFORT_ADJ: i32 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    #[must_use]
    pub fn of(spec: &PodSpec) -> Qos {
        let (mut any, mut guaranteed) = (false, true);
        for (_, container) in all_containers(spec) {
            let resources = container.resources.as_ref();
            for name in ["cpu", "memory"] {
                let limit = amount::limit(resources, name).filter(|n| *n > 0);
                let request = amount::request(resources, name).filter(|n| *n > 0);
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && limit == request;
            }
        }
        match (any, guaranteed) {
            (false, _) => Qos::BestEffort,
            (true, true) => Qos::Guaranteed,
            (true, false) => Qos::Burstable,
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Qos::Guaranteed => "Guaranteed",
            Qos::Burstable => "Burstable",
            Qos::BestEffort => "BestEffort",
        }
    }

    /// The pod's cgroup below the node's root.
    #[must_use]
    pub fn cgroup(self, uid: &str) -> String {
        match self {
            Qos::Guaranteed => format!("pod{uid}"),
            Qos::Burstable => format!("burstable/pod{uid}"),
            Qos::BestEffort => format!("besteffort/pod{uid}"),
        }
    }
}

/// How willingly the kernel kills the container when memory runs out.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i32 {
    let Some(spec) = &pod.spec else { return BEST_EFFORT_ADJ };
    if spec.priority.is_some_and(|priority| priority >= CRITICAL_PRIORITY) {
        return GUARANTEED_ADJ;
    }
    match Qos::of(spec) {
        Qos::Guaranteed => GUARANTEED_ADJ,
        Qos::BestEffort => BEST_EFFORT_ADJ,
        Qos::Burstable => {
            let own = burstable_adj(container, memory_capacity);
            if is_sidecar(container) {
                // A sidecar must not be killed before the containers that it serves.
                spec.containers
                    .iter()
                    .map(|c| burstable_adj(c, memory_capacity))
                    .fold(own, i32::min)
            } else {
                own
            }
        }
    }
}

fn burstable_adj(container: &Container, memory_capacity: i64) -> i32 {
    let request = amount::request(container.resources.as_ref(), "memory").unwrap_or(0);
    let share = i128::from(request) * 1000 / i128::from(memory_capacity.max(1));
    i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": containers}})).unwrap()
    }

    #[test]
    fn classes_follow_requests_and_limits() {
        let full = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let some = serde_json::json!({"requests": {"cpu": "1"}});
        let class = |c| Qos::of(pod(c).spec.as_ref().unwrap());
        assert_eq!(class(serde_json::json!([{"name": "a"}])), Qos::BestEffort);
        assert_eq!(class(serde_json::json!([{"name": "a", "resources": full}])), Qos::Guaranteed);
        assert_eq!(
            class(serde_json::json!([{"name": "a", "resources": full}, {"name": "b"}])),
            Qos::Burstable
        );
        assert_eq!(class(serde_json::json!([{"name": "a", "resources": some}])), Qos::Burstable);
    }

    #[test]
    fn oom_scores_follow_the_request() {
        let capacity = 4_i64 << 30;
        let p = pod(serde_json::json!([
            {"name": "a", "resources": {"requests": {"memory": "2Gi"}}}, {"name": "b"}]));
        let adj = |i: usize| oom_score_adj(&p, &p.spec.as_ref().unwrap().containers[i], capacity);
        assert_eq!((adj(0), adj(1)), (500, 999));
    }
}
