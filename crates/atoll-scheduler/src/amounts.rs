//! What a pod asks for, and what a node has: resource name → amount.
//!
//! CPU is in thousandths of a core, everything else in its own unit.

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

pub(crate) type Amounts = BTreeMap<String, i64>;

/// CPU that a pod without a request counts for when nodes are compared, so that many such
/// pods still spread (kube-scheduler's DefaultMilliCPURequest).
const CPU_UNSTATED_MILLI: i64 = 100;
/// The same for memory.
const MEMORY_UNSTATED_BYTES: i64 = 200 * 1024 * 1024;

pub(crate) fn parse(quantities: &BTreeMap<String, Quantity>) -> Amounts {
    quantities
        .iter()
        .filter_map(|(name, quantity)| {
            let quantity: atoll_api::quantity::Quantity = quantity.0.parse().ok()?;
            let amount = if name == "cpu" { quantity.milli() } else { quantity.value() };
            Some((name.clone(), amount))
        })
        .collect()
}

pub(crate) fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_insert(0);
        *sum = sum.saturating_add(*amount);
    }
}

pub(crate) fn subtract(total: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        if let Some(sum) = total.get_mut(name) {
            *sum = sum.saturating_sub(*amount);
        }
    }
}

/// The pod's effective request: its containers and sidecars together, or the init
/// container that asks for most on top of the sidecars started before it, whichever is
/// more; plus the overhead of its RuntimeClass (KEP-753).
pub(crate) fn requested(pod: &Pod) -> Amounts {
    effective(pod, &|container| {
        let requests = container.resources.as_ref().and_then(|one| one.requests.as_ref());
        requests.map(parse).unwrap_or_default()
    })
}

/// As [`requested`], with amounts assumed for containers that state none.
pub(crate) fn requested_or_assumed(pod: &Pod) -> Amounts {
    effective(pod, &|container| {
        let requests = container.resources.as_ref().and_then(|one| one.requests.as_ref());
        let mut amounts = requests.map(parse).unwrap_or_default();
        amounts.entry("cpu".into()).or_insert(CPU_UNSTATED_MILLI);
        amounts.entry("memory".into()).or_insert(MEMORY_UNSTATED_BYTES);
        amounts
    })
}

fn effective(pod: &Pod, of: &dyn Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = pod.spec.as_ref() else { return Amounts::new() };
    let mut running = Amounts::new();
    for container in &spec.containers {
        add(&mut running, &of(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let mut now = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut peak, &now);
    }
    add(&mut running, &sidecars);
    raise(&mut running, &peak);
    if let Some(overhead) = &spec.overhead {
        add(&mut running, &parse(overhead));
    }
    running
}

fn raise(total: &mut Amounts, at_least: &Amounts) {
    for (name, amount) in at_least {
        let known = total.entry(name.clone()).or_insert(0);
        *known = (*known).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str) -> Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu } } })
    }

    fn cpu(spec: Value) -> i64 {
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        requested(&pod)["cpu"]
    }

    #[test]
    fn containers_add_up_and_init_containers_do_not() {
        let spec = json!({ "containers": [container("100m"), container("200m")],
                           "initContainers": [container("250m"), container("50m")] });
        assert_eq!(cpu(spec), 300);
    }

    #[test]
    fn a_large_init_container_decides() {
        let spec = json!({ "containers": [container("100m")], "initContainers": [container("2")] });
        assert_eq!(cpu(spec), 2_000);
    }

    #[test]
    fn sidecars_run_beside_later_init_containers_and_the_rest() {
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({ "containers": [container("100m")],
                           "initContainers": [sidecar, container("500m")] });
        assert_eq!(cpu(spec), 600);
    }
}
