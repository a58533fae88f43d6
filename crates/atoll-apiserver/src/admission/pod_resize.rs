//! The plugin `PodResizeValidator`: a pod cannot grow beyond what its node has for pods.

use atoll_api::access::Access as _;
use atoll_api::kinds::quota::amounts::{self, Amounts};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;

pub(super) fn check<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        let resized = request.operation == Operation::Update && request.subresource == "resize";
        if !resized || !request.row.group.is_empty() || request.row.resource != "pods" {
            return Ok(());
        }
        let node = pod["spec"].text("nodeName");
        let generation = |pod: &Value| pod["metadata"].int("generation");
        if node.is_empty() || request.old.is_some_and(|old| generation(old) == generation(pod)) {
            return Ok(());
        }
        check_node(core, request, pod, node).await
    }
    .boxed()
}

async fn check_node(
    core: &Core,
    request: &AdmissionRequest<'_>,
    pod: &Value,
    name: &str,
) -> Result<(), Status> {
    let refuse = |why: String| Status::forbidden(request.row, request.name, why);
    let row = crate::initial::row("", "nodes")?;
    let Some(stored) = core.storage.get(row, "", name).await? else {
        return Err(refuse(format!("node {name:?} not found")));
    };
    let node = stored.object(row)?;
    let allocatable = amounts::read(&node["status"]["allocatable"]);
    if let Some(why) = too_large(&amounts::of_spec(&pod["spec"], "requests"), &allocatable) {
        return Err(refuse(why).cause("NodeCapacity", "", ""));
    }
    let system = node["metadata"]["labels"].text("kubernetes.io/os");
    if system == "linux" {
        return Ok(());
    }
    let why = format!("pod resize is only supported on linux nodes, node {name:?} is {system:?}");
    Err(refuse(why).cause("UnsupportedPlatform", "", ""))
}

fn too_large(requested: &Amounts, allocatable: &Amounts) -> Option<String> {
    let number = |amounts: &Amounts, name: &str| {
        let amount = amounts.get(name);
        amount.map_or(0, |one| if name == "cpu" { one.milli() } else { one.value() })
    };
    let lacking: Vec<String> = ["cpu", "memory"]
        .into_iter()
        .map(|name| (name, number(requested, name), number(allocatable, name)))
        .filter(|(_, requested, allocatable)| requested > allocatable)
        .map(|(name, requested, allocatable)| {
            format!("{name}, requested: {requested}, allocatable: {allocatable}")
        })
        .collect();
    (!lacking.is_empty())
        .then(|| format!("Node didn't have enough allocatable resources: {}", lacking.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_too_large_is_named_with_what_there_is() {
        let read = |cpu: &str, memory: &str| amounts::read(&json!({"cpu": cpu, "memory": memory}));
        let node = read("2", "1Gi");
        assert_eq!(too_large(&read("2", "1Gi"), &node), None);
        assert_eq!(
            too_large(&read("2001m", "2Gi"), &node).unwrap(),
            "Node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: \
             2000; memory, requested: 2147483648, allocatable: 1073741824"
        );
    }
}
