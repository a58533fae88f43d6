//! A pod's resources changed while it runs: what it asks for, what this node has allocated to it,
//! and what its containers have. Pure.
//!
//! A pod of the agent has in its spec what was allocated, whatever the API's object asks for.

use std::collections::BTreeMap;

use atoll_container::Resources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Serialize;

use crate::amount;
use crate::pod::admit::{Room, admit};
use crate::pod::identity::is_sidecar;

/// The node will never have that much.
pub const INFEASIBLE: &str = "Infeasible";
/// Other pods have it now.
pub const DEFERRED: &str = "Deferred";
/// No limit, as cgroups have it.
const UNLIMITED: i64 = -1;

/// Why a resize that is asked for is not being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub reason: &'static str,
    pub message: String,
    pub generation: Option<i64>,
}

/// A resize that was allocated and is not done yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Why the last try failed.
    pub error: Option<String>,
    pub generation: Option<i64>,
}

/// The containers that can be resized: all but those that run before the others.
pub fn resizable(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| is_sidecar(c));
    sidecars.chain(&spec.containers)
}

/// What a container's spec gives it.
#[must_use]
pub fn own(container: &Container) -> ResourceRequirements {
    let mut resources = container.resources.clone().unwrap_or_default();
    resources.limits.take_if(|list| list.is_empty());
    resources.requests.take_if(|list| list.is_empty());
    resources
}

/// Whether the pod asks for something else than was allocated to it.
#[must_use]
pub fn is_asked_for(pod: &Pod, allocated: &Pod) -> bool {
    let all = |pod: &Pod| -> BTreeMap<String, ResourceRequirements> {
        let containers = pod.spec.iter().flat_map(resizable);
        containers.map(|container| (container.name.clone(), own(container))).collect()
    };
    all(pod) != all(allocated) || has_whole(pod) != has_whole(allocated)
}

/// Whether the pod as a whole asks for something, beside its containers.
fn has_whole(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.resources.is_some())
}

/// The pod with what was allocated to it instead of what it asks for.
#[must_use]
pub fn with_allocation(pod: &Pod, allocated: &Pod) -> Pod {
    let mut pod = pod.clone();
    let known: BTreeMap<&str, &Container> = allocated
        .spec
        .iter()
        .flat_map(resizable)
        .map(|container| (container.name.as_str(), container))
        .collect();
    let lists = pod.spec.iter_mut().flat_map(|spec| {
        let sidecars = spec.init_containers.iter_mut().flatten().filter(|c| is_sidecar(c));
        sidecars.chain(&mut spec.containers)
    });
    for container in lists {
        if let Some(known) = known.get(container.name.as_str()) {
            container.resources.clone_from(&known.resources);
        }
    }
    if let Some(spec) = pod.spec.as_mut() {
        spec.resources = allocated.spec.as_ref().and_then(|known| known.resources.clone());
    }
    pod
}

/// Whether the node can give the pod what it asks for; `others` are those that hold resources.
#[must_use]
pub fn refusal(pod: &Pod, others: &[&Pod], room: &Room) -> Option<Pending> {
    let generation = pod.metadata.generation;
    let pending = |reason, message| Some(Pending { reason, message, generation });
    if has_whole(pod) {
        let message = "this node does not support spec.resources of a pod".to_owned();
        return pending(INFEASIBLE, message);
    }
    let all = [("memory", room.memory_bytes), ("cpu", room.cpu_milli)];
    for (name, capacity) in all {
        let requested = amount::pod_request(pod, name);
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, \
                 capacity: {capacity}"
            );
            return pending(INFEASIBLE, message);
        }
    }
    admit(pod, others, room, None).and_then(|refusal| pending(DEFERRED, refusal.message))
}

/// Whether a container that has `has` must be restarted to get what its spec gives it.
#[must_use]
pub fn needs_restart(container: &Container, has: &ResourceRequirements) -> bool {
    let wants = own(container);
    let changed = |name: &str| {
        let amount = |list: &Option<BTreeMap<String, Quantity>>| {
            list.as_ref().and_then(|list| list.get(name)).and_then(amount::milli)
        };
        amount(&wants.requests) != amount(&has.requests)
            || amount(&wants.limits) != amount(&has.limits)
    };
    let policies = container.resize_policy.iter().flatten();
    policies
        .into_iter()
        .any(|policy| policy.restart_policy == "RestartContainer" && changed(&policy.resource_name))
}

/// What an agent that starts takes a container to have that was made with `made`: what changes
/// without a restart has been changed, or will be at once.
#[must_use]
pub fn adopted(container: &Container, made: Option<&ResourceRequirements>) -> ResourceRequirements {
    match made {
        Some(made) if needs_restart(container, made) => made.clone(),
        _ => own(container),
    }
}

/// The container with other resources.
#[must_use]
pub fn with(container: &Container, resources: &ResourceRequirements) -> Container {
    Container { resources: Some(resources.clone()), ..container.clone() }
}

/// Limits of the pod as a whole under which its containers can have those of before and those of
/// after; `before` is `None` when it is not known.
#[must_use]
pub fn loosened(before: Option<&Resources>, after: &Resources) -> Resources {
    let larger = |get: fn(&Resources) -> Option<i64>| match (before.map(get), get(after)) {
        (Some(Some(before)), Some(after)) if before >= 0 && after >= 0 => Some(before.max(after)),
        (Some(None), None) => None,
        (_, None) => before.map(|_| UNLIMITED),
        (_, Some(_)) => Some(UNLIMITED),
    };
    let cpu_quota_us = larger(|one| one.cpu_quota_us);
    Resources {
        cpu_shares: after.cpu_shares,
        cpu_quota_us,
        cpu_period_us: cpu_quota_us
            .and(after.cpu_period_us.or(before.and_then(|one| one.cpu_period_us))),
        memory_limit_bytes: larger(|one| one.memory_limit_bytes),
        ..after.clone()
    }
}

/// A memory limit that would come down onto what is in use; the kernel would kill for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squeeze {
    /// `None` for the pod as a whole.
    pub container: Option<String>,
    pub limit: i64,
    pub used: i64,
}

/// Upstream's words for limits that cannot come down yet.
#[must_use]
pub fn too_tight(all: &[Squeeze]) -> Option<String> {
    let one = |squeeze: &Squeeze| {
        let Squeeze { container, limit, used } = squeeze;
        let whose =
            container.as_ref().map_or("pod".to_owned(), |name| format!("container {name:?}"));
        format!("attempting to set {whose} memory limit ({limit}) below current usage ({used})")
    };
    let texts: Vec<String> = all.iter().map(one).collect();
    match texts.as_slice() {
        [] => None,
        [one] => Some(format!("cannot decrease memory limits: {one}")),
        more => Some(format!("cannot decrease memory limits: [{}]", more.join(", "))),
    }
}

/// The text of an event about a resize.
#[must_use]
pub fn event(what: &str, pod: &Pod, generation: Option<i64>, error: Option<&str>) -> String {
    #[derive(Serialize)]
    struct One<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<One<'a>>,
        containers: Vec<One<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<&'a str>,
    }
    let Some(spec) = &pod.spec else { return what.to_owned() };
    fn one(container: &Container) -> One<'_> {
        One { name: &container.name, resources: own(container) }
    }
    let all = All {
        init_containers: spec.init_containers.iter().flatten().map(one).collect(),
        containers: spec.containers.iter().map(one).collect(),
        generation: generation.unwrap_or_default(),
        error,
    };
    match serde_json::to_string(&all) {
        Ok(text) => format!("{what}: {text}"),
        Err(_) => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    fn pod(cpu: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": {
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": cpu}}}],
            "containers": [{"name": "c", "image": cpu,
                "resources": {"requests": {"cpu": cpu}, "limits": {}}}]}}))
        .unwrap()
    }

    #[test]
    fn the_allocation_stands_and_all_else_is_the_apis() {
        let (asked, allocated) = (pod("2"), pod("1"));
        assert!(is_asked_for(&asked, &allocated) && !is_asked_for(&asked, &asked));
        let mut spec = with_allocation(&asked, &allocated).spec.unwrap();
        let own = spec.containers.remove(0);
        assert_eq!(amount::request(own.resources.as_ref(), "cpu"), Some(1000));
        assert_eq!(own.image.as_deref(), Some("2"));
        let first = &spec.init_containers.unwrap()[0];
        assert_eq!(amount::request(first.resources.as_ref(), "cpu"), Some(2000));
    }

    #[test]
    fn what_cannot_be_given_is_deferred_or_infeasible() {
        let room = Room { cpu_milli: 2000, memory_bytes: 1, pods: 9, ..Room::default() };
        assert_eq!(refusal(&pod("2"), &[], &room), None);
        let infeasible = refusal(&pod("2001m"), &[], &room).unwrap();
        assert_eq!((infeasible.reason, infeasible.generation), (INFEASIBLE, Some(3)));
        assert_eq!(
            infeasible.message,
            "Node didn't have enough capacity: cpu, requested: 2001, capacity: 2000"
        );
        let deferred = refusal(&pod("1500m"), &[&pod("1")], &room).unwrap();
        assert_eq!(deferred.reason, DEFERRED);
        assert_eq!(
            deferred.message,
            "Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"
        );
    }

    #[test]
    fn a_container_restarts_for_what_its_policy_names() {
        let wants = |cpu: &str, memory: &str| {
            container(json!({"name": "c",
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"},
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"}],
                "resources": {"requests": {"cpu": cpu, "memory": memory}}}))
        };
        let has = own(&wants("1", "1Gi"));
        assert!(!needs_restart(&wants("2", "1Gi"), &has));
        assert!(needs_restart(&wants("1", "2Gi"), &has));
        // An agent that starts asks for the restart again, and for nothing else.
        assert_eq!(adopted(&wants("1", "2Gi"), Some(&has)), has);
        let more = wants("2", "1Gi");
        assert_eq!(adopted(&more, Some(&has)), own(&more));
        assert_eq!(adopted(&more, None), own(&more));
    }

    #[test]
    fn both_sets_of_limits_fit_below_a_loosened_pod() {
        let limits = |quota, memory| Resources {
            cpu_quota_us: quota,
            memory_limit_bytes: memory,
            ..Resources::default()
        };
        let (before, after) = (limits(Some(5), Some(9)), limits(Some(7), Some(8)));
        assert_eq!(loosened(Some(&before), &after), limits(Some(7), Some(9)));
        assert_eq!(loosened(None, &after), limits(Some(-1), Some(-1)));
        let added = loosened(Some(&limits(None, None)), &limits(Some(7), None));
        assert_eq!(added, limits(Some(-1), None));
    }

    #[test]
    fn memory_in_use_is_named_with_whose_it_is() {
        let squeeze = |container: Option<&str>| Squeeze {
            container: container.map(str::to_owned),
            limit: 10,
            used: 20,
        };
        assert_eq!(too_tight(&[]), None);
        assert_eq!(
            too_tight(&[squeeze(None), squeeze(Some("c"))]).unwrap(),
            "cannot decrease memory limits: [attempting to set pod memory limit (10) below current \
             usage (20), attempting to set container \"c\" memory limit (10) below current usage (20)]"
        );
    }

    #[test]
    fn events_say_what_every_container_gets() {
        assert_eq!(
            event("Pod resize started", &pod("1"), Some(3), None),
            "Pod resize started: {\"initContainers\":[{\"name\":\"i\",\"resources\":{\"requests\":\
             {\"cpu\":\"1\"}}}],\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":\
             {\"cpu\":\"1\"}}}],\"generation\":3}"
        );
    }
}
