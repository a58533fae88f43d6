//! Writes a pod's status to the API, only when it changed, the newest only.
//!
//! It runs beside the pod's task so that an API server that is away delays nothing.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::pod::identity::PodId;
use crate::pod::status::{RESIZE_IN_PROGRESS, RESIZE_PENDING};

const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Conditions of this node's that go again.
const PASSING: [&str; 2] = [RESIZE_PENDING, RESIZE_IN_PROGRESS];
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the API is to say.
#[derive(Debug, Clone, Default)]
struct Wanted {
    version: u64,
    status: Option<Arc<PodStatus>>,
    /// What somebody else made of it: the object's resourceVersion and status.
    seen: Option<(String, Arc<PodStatus>)>,
    /// The pod is gone from this node: its object goes too.
    delete: bool,
}

/// The pod task's handle. The writer ends when this is dropped and all is written.
pub struct StatusWriter {
    wanted: watch::Sender<Wanted>,
    written: watch::Receiver<u64>,
}

impl StatusWriter {
    /// `known` is the status that the API has.
    pub fn start(
        client: &Client,
        id: PodId,
        known: Option<Arc<PodStatus>>,
        tasks: &tokio_util::task::TaskTracker,
        stop: CancellationToken,
    ) -> StatusWriter {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (sender, written) = watch::channel(0);
        let api = Api::namespaced(client.clone(), &id.namespace);
        let known = known.unwrap_or_default();
        let writer = Writer { api, id, known, seen: String::new() };
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = writer.run(receiver, sender) => {}
            }
        });
        StatusWriter { wanted, written }
    }

    pub fn set(&self, status: &Arc<PodStatus>) {
        self.wanted.send_if_modified(|wanted| {
            if wanted.status.as_ref() == Some(status) {
                return false;
            }
            wanted.version += 1;
            wanted.status = Some(status.clone());
            true
        });
    }

    /// The object as the API shows it. Where it contradicts what is wanted it is written
    /// again: a node that was lost finds its pods marked as not ready when it is back.
    pub fn seen(&self, object: &Pod) {
        let Some(status) = &object.status else { return };
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        self.wanted.send_if_modified(|wanted| {
            let is_known = wanted.seen.as_ref().is_some_and(|(known, _)| *known == version);
            let agrees = wanted.status.as_ref().is_none_or(|own| !contradicts(status, own));
            if is_known || agrees {
                return false;
            }
            wanted.version += 1;
            wanted.seen = Some((version, Arc::new(status.clone())));
            true
        });
    }

    /// Removes the object once the last status is written.
    pub fn delete(&self) {
        self.wanted.send_modify(|wanted| {
            wanted.version += 1;
            wanted.delete = true;
        });
    }

    /// A future that is done when everything wanted so far is written, or can never be
    /// (the object is gone).
    pub fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let version = self.wanted.borrow().version;
        let mut written = self.written.clone();
        async move {
            if written.wait_for(|done| *done >= version).await.is_err() {
                tracing::trace!("status writer has ended");
            }
        }
    }
}

struct Writer {
    api: Api<Pod>,
    id: PodId,
    known: Arc<PodStatus>,
    /// The last version of the object that contradicted.
    seen: String,
}

impl Writer {
    async fn run(mut self, mut wanted: watch::Receiver<Wanted>, written: watch::Sender<u64>) {
        let mut delay = RETRY_FIRST;
        loop {
            let now = wanted.borrow_and_update().clone();
            // Boxed: while nothing is to be written nothing of it takes room.
            match Box::pin(self.write(&now)).await {
                Ok(going_on) => {
                    delay = RETRY_FIRST;
                    written.send_replace(now.version);
                    if !going_on {
                        written.send_replace(u64::MAX);
                        return;
                    }
                    if wanted.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(pod = %self.id, %error, "pod status not written; will retry");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        changed = wanted.changed() => {
                            if changed.is_err() {
                                tokio::time::sleep(delay).await;
                            }
                        }
                    }
                    delay = RETRY_MAX.min(delay * 2);
                }
            }
        }
    }

    /// Returns whether there may be more to write.
    async fn write(&mut self, wanted: &Wanted) -> Result<bool, kube::Error> {
        if let Some((version, status)) = &wanted.seen
            && *version != self.seen
        {
            self.seen.clone_from(version);
            self.known = status.clone();
        }
        if let Some(status) = &wanted.status
            && let Some(patch) = patch(&self.id, &self.known, status)
        {
            let patch = Patch::Strategic(patch);
            match self.api.patch_status(&self.id.name, &PatchParams::default(), &patch).await {
                Ok(_) => self.known = status.clone(),
                Err(error) => return self.after(error).await,
            }
        }
        if !wanted.delete {
            return Ok(true);
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.id.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self.api.delete(&self.id.name, &params).await {
            Ok(_) => Ok(false),
            Err(error) => self.after(error).await,
        }
    }

    /// Whether it was refused because the object is gone. A conflict may also be a write of
    /// somebody else's at the same moment: then the object is still this one, and the write
    /// is tried again.
    async fn after(&self, error: kube::Error) -> Result<bool, kube::Error> {
        match &error {
            kube::Error::Api(status) if status.code == 404 => Ok(false),
            kube::Error::Api(status) if status.code == 409 => {
                let found = self.api.get_opt(&self.id.name).await?;
                let uid = found.and_then(|pod| pod.metadata.uid);
                if uid.as_deref() == Some(&self.id.uid) { Err(error) } else { Ok(false) }
            }
            _ => Err(error),
        }
    }
}

/// Whether a condition that this node writes has another value in the API.
fn contradicts(shown: &PodStatus, own: &PodStatus) -> bool {
    own.conditions.iter().flatten().any(|condition| {
        let shown = shown.conditions.iter().flatten().find(|one| one.type_ == condition.type_);
        shown.is_some_and(|shown| shown.status != condition.status)
    })
}

/// The strategic merge patch from one status to the other; `None` when they are equal in
/// all that this node owns. The UID in it makes it fail on a namesake.
fn patch(id: &PodId, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let fields = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old_fields, mut new_fields) = (fields(old), fields(new));
    let own = |status: &PodStatus, of: &PodStatus| {
        let known: Vec<_> = of.conditions.iter().flatten().map(|c| c.type_.clone()).collect();
        let mut kept: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| known.contains(&c.type_) || PASSING.contains(&c.type_.as_str()))
            .cloned()
            .collect();
        kept.sort_by(|a, b| a.type_.cmp(&b.type_));
        for condition in &mut kept {
            // Which generation was looked at is no news by itself.
            condition.observed_generation = None;
            condition.last_probe_time = None;
        }
        kept
    };
    let same_conditions = own(old, new) == own(new, new);
    for name in
        ["reason", "message", "podIP", "podIPs", "initContainerStatuses", "containerStatuses"]
    {
        if old_fields.contains_key(name) && !new_fields.contains_key(name) {
            new_fields.insert(name.to_owned(), Value::Null);
        }
    }
    if let Some(Value::Array(conditions)) = new_fields.get_mut("conditions") {
        conditions.iter_mut().for_each(whole_condition);
        let has = |status: &PodStatus, kind: &str| {
            status.conditions.iter().flatten().any(|condition| condition.type_ == kind)
        };
        let over = PASSING.into_iter().filter(|kind| has(old, kind) && !has(new, kind));
        conditions.extend(over.map(|kind| json!({ "$patch": "delete", "type": kind })));
    }
    let same_fields = new_fields
        .iter()
        .filter(|(name, _)| *name != "conditions")
        .all(|(name, value)| old_fields.get(name).unwrap_or(&Value::Null) == value);
    if same_fields && same_conditions {
        return None;
    }
    for name in ["podIPs", "hostIPs"] {
        take_back(name, &old_fields, &mut new_fields);
    }
    Some(json!({ "metadata": { "uid": id.uid }, "status": new_fields }))
}

/// The API merges addresses by themselves: one that is no more has to be taken back, or a
/// pod whose sandbox is new would have two, which is refused.
fn take_back(
    name: &str,
    old: &serde_json::Map<String, Value>,
    new: &mut serde_json::Map<String, Value>,
) {
    let Some(Value::Array(now)) = new.get_mut(name) else { return };
    let known: Vec<Value> = now.iter().map(|address| address["ip"].clone()).collect();
    for address in old.get(name).and_then(Value::as_array).into_iter().flatten() {
        if !known.contains(&address["ip"]) {
            now.push(json!({ "$patch": "delete", "ip": address["ip"] }));
        }
    }
}

/// The API merges a condition into the one of its type: what is not there any more has to
/// be taken back by name.
fn whole_condition(condition: &mut Value) {
    if let Value::Object(fields) = condition {
        for name in ["reason", "message"] {
            fields.entry(name).or_insert(Value::Null);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn id() -> PodId {
        PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() }
    }

    #[test]
    fn an_address_that_is_no_more_is_taken_back() {
        let of = |ip: &str| status(json!({ "podIP": ip, "podIPs": [{ "ip": ip }] }));
        let patch = patch(&id(), &of("10.0.0.1"), &of("10.0.0.2")).unwrap();
        assert_eq!(
            patch["status"]["podIPs"],
            json!([{ "ip": "10.0.0.2" }, { "$patch": "delete", "ip": "10.0.0.1" }])
        );
    }

    #[test]
    fn nothing_is_written_when_nothing_of_ours_changed() {
        let old = status(json!({"phase": "Running", "conditions": [
            {"type": "theirs", "status": "True"}, {"type": "Ready", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}]}));
        assert_eq!(patch(&id(), &old, &new), None);
    }

    #[test]
    fn what_is_gone_is_taken_back() {
        let old = status(json!({"phase": "Running", "podIP": "10.42.0.1"}));
        let new = status(json!({"phase": "Failed"}));
        let patch = patch(&id(), &old, &new).unwrap();
        assert_eq!(patch["status"]["podIP"], Value::Null);
        assert_eq!(
            (&patch["status"]["phase"], &patch["metadata"]["uid"]),
            (&json!("Failed"), &json!("u"))
        );
    }

    #[test]
    fn a_condition_takes_back_its_reason() {
        let old = status(json!({"conditions": [{"type": "Ready", "status": "False",
            "reason": "ContainersNotReady", "message": "containers with unready status: [c]"}]}));
        let new = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let condition = &patch(&id(), &old, &new).unwrap()["status"]["conditions"][0];
        let null = Some(&Value::Null);
        assert_eq!((condition.get("reason"), condition.get("message")), (null, null));
    }

    #[test]
    fn a_resize_that_is_done_is_taken_back() {
        let ready = json!({"type": "Ready", "status": "True"});
        let resize = json!({"type": "PodResizeInProgress", "status": "True"});
        let old = status(json!({"conditions": [ready.clone(), resize]}));
        let patch = patch(&id(), &old, &status(json!({"conditions": [ready]}))).unwrap();
        assert_eq!(
            patch["status"]["conditions"][1],
            json!({"$patch": "delete", "type": "PodResizeInProgress"})
        );
    }

    #[test]
    fn what_others_make_of_a_condition_is_seen_once() {
        let of = |ready: &str| status(json!({"conditions": [{"type": "Ready", "status": ready}]}));
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (_, written) = watch::channel(0);
        let writer = StatusWriter { wanted, written };
        let object = |version: &str, ready: &str| Pod {
            metadata: kube::api::ObjectMeta {
                resource_version: Some(version.to_owned()),
                ..Default::default()
            },
            status: Some(of(ready)),
            ..Default::default()
        };
        writer.set(&Arc::new(of("True")));
        let version = || receiver.borrow().version;
        let before = version();
        writer.seen(&object("7", "True"));
        assert_eq!(version(), before);
        writer.seen(&object("8", "False"));
        writer.seen(&object("8", "False"));
        assert_eq!(version(), before + 1);
        let (_, shown) = receiver.borrow().seen.clone().unwrap();
        assert!(patch(&id(), &shown, &of("True")).is_some());
    }

    #[test]
    fn a_changed_condition_is_news() {
        let of = |ready: &str| status(json!({"conditions": [{"type": "Ready", "status": ready}]}));
        assert!(patch(&id(), &of("True"), &of("False")).is_some());
    }
}
