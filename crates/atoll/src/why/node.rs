//! Why a node takes no pods.

use super::Cause;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt as _;

pub fn cause(node: &Node) -> Option<Cause> {
    let name = node.name_any();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let find = |kind: &str| conditions.into_iter().flatten().find(|one| one.type_ == kind);
    let message = |kind: &str| find(kind).and_then(|one| one.message.clone()).unwrap_or_default();
    match find("Ready").map(|one| one.status.as_str()) {
        Some("True") => {}
        Some("Unknown") => {
            return Some(
                Cause::new("lost", format!("node {name} has stopped answering ({}).", message("Ready")))
                    .remedy("Check that the machine is up, that `atoll agent` runs there, and that it reaches the servers."),
            );
        }
        Some(_) => {
            return Some(Cause::new("NotReady", format!("node {name} says: {}", message("Ready"))));
        }
        None => return Some(Cause::new("NotReady", format!("node {name} has not reported yet."))),
    }
    for pressure in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
        if find(pressure).is_some_and(|one| one.status == "True") {
            return Some(Cause::new(
                pressure,
                format!("node {name} is short: {}", message(pressure)),
            ));
        }
    }
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    cordoned.then(|| {
        Cause::new("cordoned", format!("node {name} is cordoned and takes no new pods."))
            .remedy(format!("`kubectl uncordon {name}` opens it again."))
    })
}
