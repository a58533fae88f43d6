//! What a pod asks for, and what a node has: resource name → amount.
//!
//! CPU is in thousandths of a core, everything else in its own unit.

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod},
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
    effective(pod, &|container| held(pod, container))
}

/// What a container asks for, or more while it still holds more: until its node has resized it.
/// What the node will never give does not count (KEP-1287).
fn held(pod: &Pod, container: &Container) -> Amounts {
    let requests = container.resources.as_ref().and_then(|one| one.requests.as_ref());
    let own = requests.map(parse).unwrap_or_default();
    let known = statuses(pod).find(|status| status.name == container.name);
    let Some(actual) = known.and_then(|known| known.resources.as_ref()) else { return own };
    let mut held = actual.requests.as_ref().map(parse).unwrap_or_default();
    let allocated = known.and_then(|known| known.allocated_resources.as_ref());
    raise(&mut held, &allocated.map(parse).unwrap_or_default());
    if !is_infeasible(pod) {
        raise(&mut held, &own);
    }
    held
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.iter();
    status.flat_map(|one| {
        let sidecars = one.init_container_statuses.iter().flatten();
        one.container_statuses.iter().flatten().chain(sidecars)
    })
}

fn is_infeasible(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|one| one.conditions.iter().flatten());
    conditions.into_iter().any(|condition| {
        condition.type_ == "PodResizePending" && condition.reason.as_deref() == Some("Infeasible")
    })
}

/// Whether two states of a pod of one generation hold the same.
pub(crate) fn same_held(one: &Pod, other: &Pod) -> bool {
    fn of(pod: &Pod) -> impl Iterator<Item = impl PartialEq + '_> {
        statuses(pod).map(|status| (&status.name, &status.resources, &status.allocated_resources))
    }
    of(one).eq(of(other)) && is_infeasible(one) == is_infeasible(other)
}

/// As [`requested`], with amounts assumed for containers that state none.
pub(crate) fn requested_or_assumed(pod: &Pod) -> Amounts {
    effective(pod, &|container| {
        let mut amounts = held(pod, container);
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
    fn a_container_counts_for_the_more_of_what_it_asks_and_what_it_holds() {
        let held = |pending: Value| {
            let status = json!({ "name": "c", "allocatedResources": { "cpu": "300m" },
                "resources": { "requests": { "cpu": "200m" } } });
            let pod = json!({ "spec": { "containers": [container("1")] },
                "status": { "containerStatuses": [status], "conditions": [pending] } });
            requested(&serde_json::from_value(pod).unwrap())["cpu"]
        };
        let pending = |reason: &str| json!({ "type": "PodResizePending", "status": "True", "reason": reason });
        assert_eq!(held(pending("Deferred")), 1_000);
        assert_eq!(held(pending("Infeasible")), 300);
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
