//! What an object counts for in a quota: upstream's evaluators for pods, services and claims,
//! and one of each for everything else.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::amounts::{self, Amounts, number};
use super::count_name;
use crate::access::Access as _;
use crate::kinds::storage;

const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Kinds of the core group that quotas also name without `count/`.
const LEGACY: [&str; 5] =
    ["configmaps", "replicationcontrollers", "resourcequotas", "secrets", "services"];
/// What must be stated by every container of a pod once it is limited.
const STATED: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// What one object counts for. Amounts of resources that no quota names do no harm.
#[must_use]
pub fn of(group: &str, resource: &str, object: &Value, now: Timestamp) -> Amounts {
    let mut used = Amounts::from([(count_name(resource, group), number(1))]);
    if !group.is_empty() {
        return used;
    }
    if LEGACY.contains(&resource) {
        used.insert(resource.to_owned(), number(1));
    }
    match resource {
        "pods" => pod(object, now, &mut used),
        "services" => service(object, &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        _ => {}
    }
    used
}

fn pod(pod: &Value, now: Timestamp, used: &mut Amounts) {
    if !counts(pod, now) {
        return;
    }
    used.insert("pods".to_owned(), number(1));
    let requests = amounts::of_pod(pod, "requests");
    used.extend(compute(&requests, &amounts::of_pod(pod, "limits")));
}

/// Finished pods use nothing, nor do those that should have been gone by now.
fn counts(pod: &Value, now: Timestamp) -> bool {
    if matches!(pod["status"].text("phase"), "Succeeded" | "Failed") {
        return false;
    }
    let own = &pod["metadata"];
    let Ok(at) = own.text("deletionTimestamp").parse::<Timestamp>() else { return true };
    let grace = own.int("deletionGracePeriodSeconds").unwrap_or(0);
    at.checked_add(SignedDuration::from_secs(grace)).is_ok_and(|end| now <= end)
}

/// When a pod that is going away stops to count although it is still there; `None` when it
/// counts as long as it is there.
#[must_use]
pub fn expires_at(pod: &Value) -> Option<Timestamp> {
    let own = &pod["metadata"];
    let at = own.text("deletionTimestamp").parse::<Timestamp>().ok()?;
    at.checked_add(SignedDuration::from_secs(own.int("deletionGracePeriodSeconds")?)).ok()
}

fn compute(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut used = Amounts::new();
    for name in COMPUTE {
        if let Some(amount) = requests.get(name) {
            used.insert(name.to_owned(), *amount);
            used.insert(format!("requests.{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            used.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        if name.starts_with("hugepages-") {
            used.insert(name.clone(), *amount);
            used.insert(format!("requests.{name}"), *amount);
        } else if is_extended(name) {
            used.insert(format!("requests.{name}"), *amount);
        }
    }
    used
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

fn service(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let ports = spec.items("ports");
    match spec.text("type") {
        "LoadBalancer" => {
            used.insert("services.loadbalancers".to_owned(), number(1));
            let count = if spec.opt_flag("allocateLoadBalancerNodePorts").unwrap_or(true) {
                ports.len()
            } else {
                ports.iter().filter(|port| port.int("nodePort").unwrap_or(0) != 0).count()
            };
            used.insert("services.nodeports".to_owned(), number(count));
        }
        "NodePort" => {
            used.insert("services.nodeports".to_owned(), number(ports.len()));
        }
        _ => {}
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    used.insert("persistentvolumeclaims".to_owned(), number(1));
    let class = storage::class_of(claim).filter(|class| !class.is_empty());
    let mut count = |name: &str, amount| {
        if let Some(class) = class {
            used.insert(format!("{class}{CLASS_SUFFIX}{name}"), amount);
        }
    };
    count("persistentvolumeclaims", number(1));
    let requested = amounts::read(&claim["spec"]["resources"]["requests"]);
    let allocated = amounts::read(&claim["status"]["allocatedResources"]);
    let larger = requested.get("storage").max(allocated.get("storage"));
    if let Some(size) = larger {
        count("requests.storage", *size);
        used.insert("requests.storage".to_owned(), *size);
    }
}

/// Which limited resources the containers of a new pod leave open, in upstream's words; `None`
/// when nothing is missing.
#[must_use]
pub fn missing(pod: &Value, limited: &[&String]) -> Option<String> {
    let required: Vec<&str> =
        limited.iter().map(|name| name.as_str()).filter(|name| STATED.contains(name)).collect();
    let spec = &pod["spec"];
    let whole = compute(
        &amounts::read(&spec["resources"]["requests"]),
        &amounts::read(&spec["resources"]["limits"]),
    );
    let mut open: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        for container in spec.items(list) {
            let resources = &container["resources"];
            let stated = compute(
                &amounts::read(&resources["requests"]),
                &amounts::read(&resources["limits"]),
            );
            for name in &required {
                if !stated.contains_key(*name) && !whole.contains_key(*name) {
                    open.entry(name).or_default().push(container.text("name"));
                }
            }
        }
    }
    let mut texts = Vec::new();
    for (name, mut containers) in open {
        containers.sort_unstable();
        texts.push(format!("{name} for: {}", containers.join(",")));
    }
    (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
}
