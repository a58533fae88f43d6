//! Why a pod is not running and ready.

use super::{Cause, image};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Event, Pod, PodCondition};
use kube::ResourceExt as _;

/// Restarts after which a program that ends by itself counts as one that keeps ending.
const RESTARTS_TELLING: i32 = 1;

pub fn cause(pod: &Pod, events: &[Event]) -> Option<Cause> {
    let name = pod.name_any();
    let status = pod.status.as_ref();
    if let Some(cause) = ended(pod) {
        return Some(cause);
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(terminating(pod));
    }
    let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if bound.is_none_or(str::is_empty) {
        return Some(unplaced(pod));
    }
    let init = status.and_then(|status| status.init_container_statuses.as_deref());
    let main = status.and_then(|status| status.container_statuses.as_deref());
    let statuses = init.unwrap_or_default().iter().chain(main.unwrap_or_default());
    let found = statuses.filter_map(|status| container(pod, status, events)).next();
    if found.is_some() {
        return found;
    }
    if let Some(event) = events.iter().rev().find(|event| is_start_failure(event)) {
        let message = event.message.clone().unwrap_or_default();
        return Some(Cause::new("Pending", format!("pod {name} cannot start: {message}")));
    }
    if is_ready(pod) {
        return None;
    }
    Some(not_ready(pod, events))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|one| one.type_ == kind)
}

fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|one| one.status == "True")
}

fn ended(pod: &Pod) -> Option<Cause> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    match status.phase.as_deref()? {
        "Succeeded" => None,
        "Failed" => {
            let reason = status.reason.clone().unwrap_or_else(|| "Failed".into());
            let message = status.message.clone().unwrap_or_else(|| failed_containers(pod));
            Some(Cause::new(&reason, format!("pod {name} failed: {message}")))
        }
        _ => None,
    }
}

fn failed_containers(pod: &Pod) -> String {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let failed = statuses.filter_map(|status| {
        let terminated = status.state.as_ref()?.terminated.as_ref()?;
        (terminated.exit_code != 0)
            .then(|| format!("container {} ended with code {}", status.name, terminated.exit_code))
    });
    failed.collect::<Vec<_>>().join(", ")
}

fn terminating(pod: &Pod) -> Cause {
    let name = pod.name_any();
    if let Some(finalizers) = pod.metadata.finalizers.as_ref().filter(|list| !list.is_empty()) {
        let held = finalizers.join(", ");
        let sentence = format!("pod {name} is deleted, and its finalizers hold it: {held}.");
        return Cause::new("Terminating", sentence)
            .remedy("Whoever set them has to remove them when its work is done.");
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    Cause::new(
        "Terminating",
        format!(
            "pod {name} is being stopped; node {node} has yet to say that its containers are gone."
        ),
    )
    .remedy(format!(
        "If node {node} is lost for good, delete the Node object and the pod goes with it."
    ))
}

fn unplaced(pod: &Pod) -> Cause {
    let name = pod.name_any();
    let scheduled = condition(pod, "PodScheduled");
    match scheduled.and_then(|one| one.message.as_deref()) {
        Some(message) => {
            let cause = Cause::new("Pending", format!("no node can take pod {name}: {message}"));
            match placement_remedy(message) {
                Some(remedy) => cause.remedy(remedy),
                None => cause,
            }
        }
        None => Cause::new("Pending", format!("pod {name} waits for the scheduler.")),
    }
}

fn placement_remedy(message: &str) -> Option<&'static str> {
    const REMEDIES: &[(&str, &str)] = &[
        ("Insufficient", "Lower the pod's resource requests, or add a node."),
        ("Too many pods", "Add a node, or delete pods that are not needed."),
        (
            "untolerated taint",
            "Add a toleration to the pod, or remove the taint from a node (`kubectl describe node` lists it).",
        ),
        ("were unschedulable", "A node is cordoned: `kubectl uncordon NODE` opens it again."),
        (
            "node affinity/selector",
            "Change the pod's nodeSelector or affinity, or label a node to match.",
        ),
        (
            "anti-affinity",
            "There are fewer nodes than pods that may not stand together; add a node or relax the rule.",
        ),
        (
            "free ports",
            "Another pod has the same hostPort on every node; use a Service instead of a hostPort.",
        ),
        ("no nodes available", "No node has joined yet; `kubectl get nodes` lists them."),
    ];
    REMEDIES.iter().find(|(part, _)| message.contains(part)).map(|(_, remedy)| *remedy)
}

fn container(pod: &Pod, status: &ContainerStatus, events: &[Event]) -> Option<Cause> {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    let message = waiting.and_then(|waiting| waiting.message.clone()).unwrap_or_default();
    match reason {
        "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
            Some(image::cause(pod, status, reason, &message, events))
        }
        "CrashLoopBackOff" => Some(crash(pod, status)),
        "RunContainerError" => Some(image::cannot_run(pod, status, reason, &message)),
        "CreateContainerConfigError" | "CreateContainerError" | "PostStartHookError" => {
            let sentence = format!("container {} cannot be made: {message}", status.name);
            Some(Cause::new(reason, sentence))
        }
        _ => {
            let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
            let keeps_ending = status.restart_count >= RESTARTS_TELLING && terminated.is_some();
            keeps_ending.then(|| crash(pod, status))
        }
    }
}

pub(super) fn spec_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}

fn crash(pod: &Pod, status: &ContainerStatus) -> Cause {
    const STATE: &str = "CrashLoopBackOff";
    let name = &status.name;
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref())
        .or_else(|| status.state.as_ref().and_then(|state| state.terminated.as_ref()));
    let Some(last) = last else {
        return Cause::new(STATE, format!("container {name} keeps ending."));
    };
    if last.reason.as_deref() == Some("StartError") {
        let message = last.message.clone().unwrap_or_default();
        return image::cannot_run(pod, status, STATE, &message);
    }
    let spec = spec_of(pod, name);
    let no_command = spec.is_some_and(|one| one.command.is_none() && one.args.is_none());
    let image = spec.and_then(|one| one.image.clone()).unwrap_or_else(|| status.image.clone());
    match (last.reason.as_deref(), last.exit_code) {
        (Some("OOMKilled"), _) => {
            let limit = spec
                .and_then(|one| one.resources.as_ref()?.limits.as_ref()?.get("memory"))
                .map_or_else(|| "the node's memory".to_owned(), |limit| format!("its limit of {}", limit.0));
            Cause::new(STATE, format!("container {name} was killed because it used more than {limit}."))
                .remedy("Raise resources.limits.memory, or make the program use less.")
        }
        (_, 0) if no_command => {
            let place = container_path(pod, name);
            Cause::new(STATE, format!(
                "container {name} does nothing: the manifest gives it no command, and the default command of {image} ends at once with code 0, as interactive programs (a shell, node, python) do without a terminal."
            ))
            .remedy(format!("Add to {place} the line with what it is to run, such as: command: [\"node\", \"server.js\"]"))
        }
        (_, 0) => Cause::new(STATE, format!(
            "container {name} ends by itself with code 0, and restartPolicy Always starts it again."
        ))
        .remedy("Run a program that stays, or use a Job for work that ends."),
        (_, code) => {
            let said = last.message.as_deref().map(str::trim).filter(|text| !text.is_empty());
            let said = said.map(|text| format!(" It said: {text}")).unwrap_or_default();
            let signal = match last.signal {
                Some(signal) => format!("signal {signal}"),
                None if code > 128 => format!("signal {}", code - 128),
                None => format!("code {code}"),
            };
            Cause::new(STATE, format!("container {name} keeps ending with {signal}.{said}"))
                .remedy(format!("Its last words: `atoll logs {} -c {name} --previous`.", pod.name_any()))
        }
    }
}

/// Where in the manifest the container stands, for a pod of a workload or one of its own.
pub(super) fn container_path(pod: &Pod, name: &str) -> String {
    let spec = pod.spec.as_ref();
    let position = |list: &[Container]| list.iter().position(|one| one.name == name);
    let root = if pod.owner_references().is_empty() { "spec" } else { "spec.template.spec" };
    let init = spec.and_then(|spec| position(spec.init_containers.as_deref()?));
    match init {
        Some(index) => format!("{root}.initContainers[{index}]"),
        None => {
            let index = spec.and_then(|spec| position(&spec.containers));
            format!("{root}.containers[{}]", index.unwrap_or(0))
        }
    }
}

fn is_start_failure(event: &Event) -> bool {
    matches!(
        event.reason.as_deref(),
        Some("FailedMount" | "FailedCreatePodSandBox" | "UnsupportedPodSpec" | "FailedScheduling")
    )
}

fn not_ready(pod: &Pod, events: &[Event]) -> Cause {
    let name = pod.name_any();
    if let Some(event) = events.iter().rev().find(|one| one.reason.as_deref() == Some("Unhealthy"))
    {
        let message = event.message.clone().unwrap_or_default();
        return Cause::new("NotReady", format!("pod {name} runs but its probe fails: {message}"))
            .remedy("Check the probe's path and port, and that the program listens on all addresses, not on 127.0.0.1.");
    }
    let message = condition(pod, "Ready").and_then(|one| one.message.clone());
    let phase = pod.status.as_ref().and_then(|one| one.phase.clone()).unwrap_or_default();
    let state = if phase == "Running" { "NotReady" } else { "Pending" };
    match message {
        Some(message) => Cause::new(state, format!("pod {name} is not ready yet: {message}.")),
        None => Cause::new(state, format!("pod {name} is being started.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(container: Value, status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "web-1", "ownerReferences": [
                { "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u" },
            ] },
            "spec": { "nodeName": "node-1", "containers": [container] },
            "status": { "phase": "Running", "containerStatuses": [status] },
        }))
        .unwrap()
    }

    fn crashed(last: Value) -> Value {
        json!({
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": last },
        })
    }

    #[test]
    fn an_image_whose_default_command_ends_at_once_is_explained_with_the_line_to_add() {
        let pod = pod(
            json!({ "name": "c", "image": "node:18-alpine" }),
            crashed(json!({ "exitCode": 0, "reason": "Completed" })),
        );
        let cause = cause(&pod, &[]).unwrap();
        assert_eq!(cause.state, "CrashLoopBackOff");
        assert!(cause.sentence.contains("node:18-alpine"), "{}", cause.sentence);
        let remedy = cause.remedy.unwrap();
        assert!(remedy.contains("spec.template.spec.containers[0]") && remedy.contains("command:"));
    }

    #[test]
    fn memory_is_named_with_its_limit() {
        let pod = pod(
            json!({ "name": "c", "resources": { "limits": { "memory": "64Mi" } } }),
            crashed(json!({ "exitCode": 137, "reason": "OOMKilled" })),
        );
        assert!(cause(&pod, &[]).unwrap().sentence.contains("limit of 64Mi"));
    }

    #[test]
    fn a_pod_that_no_node_takes_says_the_schedulers_words() {
        let mut pending = pod(json!({ "name": "c" }), crashed(json!({ "exitCode": 0 })));
        pending.spec.as_mut().unwrap().node_name = None;
        pending.status = serde_json::from_value(json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False",
            "message": "0/3 nodes are available: 3 Insufficient cpu.",
        }] }))
        .unwrap();
        let cause = cause(&pending, &[]).unwrap();
        assert!(cause.sentence.contains("3 Insufficient cpu") && cause.remedy.is_some());
    }
}
