//! The quality of service that a pod's requests and limits come to.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::access::Access as _;
use crate::kinds::amount;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
#[must_use]
pub fn class(pod: &Value) -> &'static str {
    let spec = &pod["spec"];
    let mut total = Total { every_container_limited: true, ..Total::default() };
    if spec["resources"].has("requests") || spec["resources"].has("limits") {
        // Resources of the pod as a whole overrule those of its containers.
        total.add(&spec["resources"]);
    } else {
        for field in ["containers", "initContainers"] {
            for container in spec.items(field) {
                total.add(&container["resources"]);
            }
        }
    }
    total.class()
}

#[derive(Default)]
struct Total {
    requests: BTreeMap<&'static str, i128>,
    limits: BTreeMap<&'static str, i128>,
    every_container_limited: bool,
}

impl Total {
    fn add(&mut self, resources: &Value) {
        let positive = |kind: &str, resource: &str| {
            resources[kind].opt_text(resource).and_then(amount::parse).filter(|some| *some > 0)
        };
        for resource in COMPUTE {
            if let Some(request) = positive("requests", resource) {
                *self.requests.entry(resource).or_default() += request;
            }
            match positive("limits", resource) {
                Some(limit) => *self.limits.entry(resource).or_default() += limit,
                None => self.every_container_limited = false,
            }
        }
    }

    fn class(&self) -> &'static str {
        if self.requests.is_empty() && self.limits.is_empty() {
            return "BestEffort";
        }
        if self.every_container_limited && self.requests == self.limits {
            "Guaranteed"
        } else {
            "Burstable"
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(resources: &[Value]) -> Value {
        let containers: Vec<Value> =
            resources.iter().map(|one| json!({"name": "c", "resources": one})).collect();
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn equal_requests_and_limits_everywhere_are_guaranteed() {
        let all = json!({"requests": {"cpu": "1000m", "memory": "1Gi"},
                         "limits": {"cpu": "1", "memory": "1024Mi"}});
        assert_eq!(class(&pod(&[all.clone(), all.clone()])), "Guaranteed");
        assert_eq!(class(&pod(&[all, json!({})])), "Burstable");
    }

    #[test]
    fn nothing_asked_is_best_effort() {
        assert_eq!(class(&pod(&[json!({}), json!({"requests": {"cpu": "0"}})])), "BestEffort");
        assert_eq!(class(&pod(&[json!({"limits": {"cpu": "1"}})])), "Burstable");
    }
}
