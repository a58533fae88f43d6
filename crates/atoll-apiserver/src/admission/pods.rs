//! What pods get on their way in: an account and its token, tolerations, a priority.

use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::create::random_suffix;
use crate::status::Status;
use crate::tokens::objects::Objects;

/// Where every container finds its account.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_VOLUME: &str = "kube-api-access-";
/// Seven seconds above an hour mark a token that nobody asked for; see `tokens::request`.
const TOKEN_SECONDS: i64 = 3607;
/// How long a pod waits for its namespace's account `default`. Upstream tries for as long.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);
const MIRROR: &str = "kubernetes.io/config.mirror";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// Priorities that exist without an object.
const SYSTEM_PRIORITIES: [(&str, i64); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

fn is_new_pod(request: &AdmissionRequest<'_>) -> bool {
    request.operation == Operation::Create && is_pod(request)
}

/// A pod itself, and not a part of it.
fn is_pod(request: &AdmissionRequest<'_>) -> bool {
    request.row.group.is_empty() && request.row.resource == "pods" && request.subresource.is_empty()
}

/// Whether the pod only mirrors a file on a node.
pub(super) fn is_mirror(pod: &Value) -> bool {
    pod["metadata"]["annotations"].has(MIRROR)
}

/// The plugin `ServiceAccount`.
pub(super) fn service_account<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    async move {
        if !is_new_pod(request) {
            return Ok(());
        }
        if is_mirror(pod) {
            return check_mirror(request, pod);
        }
        give_account(core, request, pod).await
    }
    .boxed()
}

fn check_mirror(request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Status> {
    let spec = &pod["spec"];
    let refuse = |why: &str| Err(Status::forbidden(request.row, request.name, why));
    if !spec.text("serviceAccountName").is_empty() {
        return refuse("a mirror pod may not reference service accounts");
    }
    let secret = |volume: &Value| {
        volume.has("secret")
            || volume["projected"]
                .items("sources")
                .iter()
                .any(|source| source.has("secret") || source.has("serviceAccountToken"))
    };
    if spec.items("volumes").iter().any(secret) {
        return refuse("a mirror pod may not reference secrets");
    }
    Ok(())
}

async fn give_account(
    core: &Core,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), Status> {
    let mut name = pod["spec"].text("serviceAccountName").to_owned();
    if name.is_empty() {
        "default".clone_into(&mut name);
    }
    pod["spec"]["serviceAccountName"] = json!(name);
    pod["spec"]["serviceAccount"] = json!(name);
    let objects = Objects { registry: &core.registry, storage: &core.storage };
    let Some(account) = account(core, objects, request.namespace, &name).await? else {
        let namespace = request.namespace;
        let why = format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        );
        return Err(Status::forbidden(request.row, request.name, why));
    };
    let mount = pod["spec"]
        .opt_flag("automountServiceAccountToken")
        .or_else(|| account.opt_flag("automountServiceAccountToken"))
        .unwrap_or(true);
    if mount {
        mount_token(pod);
    }
    if pod["spec"].items("imagePullSecrets").is_empty()
        && !account.items("imagePullSecrets").is_empty()
    {
        pod["spec"]["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    Ok(())
}

/// The account; the one called `default` is waited for, since a controller makes it right
/// after its namespace.
async fn account(
    core: &Core,
    objects: Objects<'_>,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, Status> {
    let changes = core.registry.objects("", "serviceaccounts").map(|cache| cache.subscribe());
    let found = objects.get("serviceaccounts", namespace, name).await?;
    let Some(mut changes) = changes.filter(|_| found.is_none() && name == "default") else {
        return Ok(found);
    };
    let deadline = Instant::now() + ACCOUNT_WAIT;
    loop {
        let changed = tokio::time::timeout_at(deadline, changes.changed()).await;
        if !matches!(changed, Ok(Ok(()))) {
            return Ok(None);
        }
        let cache = core.registry.objects("", "serviceaccounts");
        if cache.is_some_and(|cache| cache.get(namespace, name).is_some()) {
            return objects.get("serviceaccounts", namespace, name).await;
        }
    }
}

/// Adds the volume with the token to the pod and to every container that does not mount
/// something at its place itself.
fn mount_token(pod: &mut Value) {
    let spec = &pod["spec"];
    let known = |volume: &&Value| volume.text("name").starts_with(TOKEN_VOLUME);
    let existing = spec.items("volumes").iter().find(known);
    let name = existing.map_or_else(
        || format!("{TOKEN_VOLUME}{}", random_suffix(5)),
        |volume| volume.text("name").to_owned(),
    );
    let exists = existing.is_some();
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(field).and_then(Value::as_array_mut);
        let Some(containers) = containers else { continue };
        for container in containers {
            let own = |mount: &Value| mount.text("mountPath") == TOKEN_PATH;
            if container.items("volumeMounts").iter().any(own) {
                continue;
            }
            push(
                container,
                "volumeMounts",
                json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}),
            );
            mounted = true;
        }
    }
    if mounted && !exists {
        push(&mut pod["spec"], "volumes", token_volume(&name));
    }
}

fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

fn push(object: &mut Value, field: &str, item: Value) {
    match object[field].as_array_mut() {
        Some(list) => list.push(item),
        None => object[field] = json!([item]),
    }
}

/// The plugin `DefaultTolerationSeconds`.
pub(super) fn default_tolerations<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    // On updates too: whoever replaces the list keeps what every pod tolerates.
    if is_pod(request) && matches!(request.operation, Operation::Create | Operation::Update) {
        let seconds =
            core.config.trust.as_ref().map_or(300, |trust| trust.default_toleration_seconds);
        for key in [NOT_READY, UNREACHABLE] {
            tolerate(pod, key, seconds);
        }
    }
    async { Ok(()) }.boxed()
}

fn tolerate(pod: &mut Value, key: &str, seconds: i64) {
    let covers = |toleration: &Value| {
        matches!(toleration.text("effect"), "" | "NoExecute")
            && (toleration.text("key") == key || toleration.text("key").is_empty())
    };
    if pod["spec"].items("tolerations").iter().any(covers) {
        return;
    }
    let toleration = json!({
        "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds,
    });
    push(&mut pod["spec"], "tolerations", toleration);
}

/// The plugin `Priority`.
pub(super) fn priority<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    pod: &'a mut Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let done = if is_new_pod(request) { set_priority(core, request, pod) } else { Ok(()) };
    if let Some(old) = request.old.filter(|_| is_pod(request)) {
        keep_priority(pod, old);
    }
    async move { done }.boxed()
}

/// An update that does not state what was computed keeps it.
fn keep_priority(pod: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if !pod["spec"].has(field) && old["spec"].has(field) {
            pod["spec"][field] = old["spec"][field].clone();
        }
    }
}

fn set_priority(
    core: &Core,
    request: &AdmissionRequest<'_>,
    pod: &mut Value,
) -> Result<(), Status> {
    let class = pod["spec"].text("priorityClassName").to_owned();
    let (value, policy) = if class.is_empty() {
        match default_class(core)? {
            Some(found) => {
                pod["spec"]["priorityClassName"] = json!(found.text("name_"));
                (found.int("value").unwrap_or(0), policy_of(&found))
            }
            None => (0, "PreemptLowerPriority".to_owned()),
        }
    } else {
        find_class(core, &class)?.ok_or_else(|| {
            let why = format!("no PriorityClass with name {class} was found");
            Status::forbidden(request.row, request.name, why)
        })?
    };
    if let Some(stated) = pod["spec"].int("priority")
        && stated != value
    {
        let why = format!(
            "the integer value of priority ({stated}) must not be provided in pod spec; priority \
             admission controller computed {value} from the given PriorityClass name"
        );
        return Err(Status::forbidden(request.row, request.name, why));
    }
    pod["spec"]["priority"] = json!(value);
    if !pod["spec"].has("preemptionPolicy") {
        pod["spec"]["preemptionPolicy"] = json!(policy);
    }
    Ok(())
}

fn policy_of(class: &Value) -> String {
    class.opt_text("preemptionPolicy").unwrap_or("PreemptLowerPriority").to_owned()
}

fn find_class(core: &Core, name: &str) -> Result<Option<(i64, String)>, Status> {
    if let Some((_, value)) = SYSTEM_PRIORITIES.iter().find(|(own, _)| *own == name) {
        return Ok(Some((*value, "PreemptLowerPriority".to_owned())));
    }
    let Some(row) = kinds::find("scheduling.k8s.io", "v1", "priorityclasses") else {
        return Ok(None);
    };
    let Some(entry) = core.registry.cache(row).and_then(|cache| cache.get("", name)) else {
        return Ok(None);
    };
    let class = entry.object(row)?;
    Ok(Some((class.int("value").unwrap_or(0), policy_of(&class))))
}

/// The class for pods that name none: of several the one with the lowest value.
fn default_class(core: &Core) -> Result<Option<Value>, Status> {
    let Some(row) = kinds::find("scheduling.k8s.io", "v1", "priorityclasses") else {
        return Ok(None);
    };
    let Some(cache) = core.registry.cache(row) else { return Ok(None) };
    let mut found: Option<Value> = None;
    for entry in cache.list("") {
        let mut class = entry.object(row)?;
        if !class.flag("globalDefault") {
            continue;
        }
        class["name_"] = json!(entry.name());
        let lower = |known: &Value| class.int("value") < known.int("value");
        if found.as_ref().is_none_or(lower) {
            found = Some(class);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_where_nothing_else_is() {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "i"}],
            "containers": [
                {"name": "a"},
                {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_PATH}]},
            ],
        }});
        mount_token(&mut pod);
        let volume = pod["spec"]["volumes"][0].text("name").to_owned();
        assert!(volume.starts_with("kube-api-access-") && volume.len() == 21, "{volume}");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["name"], json!(volume));
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"][0]["name"], json!(volume));
        assert_eq!(pod["spec"]["containers"][1].items("volumeMounts").len(), 1);
    }

    #[test]
    fn nothing_is_added_when_all_bring_their_own() {
        let mut pod = json!({"spec": {"containers": [
            {"name": "b", "volumeMounts": [{"name": "own", "mountPath": TOKEN_PATH}]},
        ]}});
        let before = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, before);
    }

    #[test]
    fn own_tolerations_win() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": NOT_READY, "operator": "Exists", "effect": "NoExecute"},
        ]}});
        tolerate(&mut pod, NOT_READY, 5);
        tolerate(&mut pod, UNREACHABLE, 5);
        let all = pod["spec"].items("tolerations");
        assert_eq!(all.len(), 2);
        assert_eq!(all[1]["key"], UNREACHABLE);
        assert_eq!(all[1]["tolerationSeconds"], 5);
        let mut daemon = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        tolerate(&mut daemon, NOT_READY, 5);
        assert_eq!(daemon["spec"].items("tolerations").len(), 1);
    }
}
