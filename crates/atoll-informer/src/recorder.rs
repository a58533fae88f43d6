//! Writes Events about objects, repeated ones as a count, as client-go's recorder does.
//!
//! Recording never waits: a full queue drops the event, since an event is a remark and
//! not state.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use std::collections::HashMap;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// Events waiting to be written. More are dropped.
const QUEUE_MAX: usize = 1_024;
/// Distinct events remembered for counting; beyond it the memory starts anew, so that a
/// repeated event may appear twice.
const REMEMBERED_MAX: usize = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Subject {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Remark {
    subject: Subject,
    kind: EventType,
    reason: String,
    message: String,
}

struct Known {
    name: String,
    count: i32,
}

/// A handle; clones write to the same queue.
#[derive(Clone)]
pub struct Recorder {
    remarks: mpsc::Sender<(Remark, Timestamp)>,
}

impl Recorder {
    /// `component` is what `kubectl describe` shows under From. `host` is the node's name
    /// for a node's own events.
    pub fn start(
        client: Client,
        component: &str,
        host: Option<&str>,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (remarks, queue) = mpsc::channel(QUEUE_MAX);
        let source =
            EventSource { component: Some(component.to_owned()), host: host.map(Into::into) };
        let writer = Writer { client, source, known: HashMap::new() };
        tasks.spawn(writer.run(queue, stop));
        Self { remarks }
    }

    pub fn normal<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, message: String) {
        self.record(object, EventType::Normal, reason, message, None);
    }

    pub fn warning<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        reason: &str,
        message: String,
    ) {
        self.record(object, EventType::Warning, reason, message, None);
    }

    /// `field_path` names the part of the object, such as `spec.containers{web}`.
    pub fn record<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        message: String,
        field_path: Option<String>,
    ) {
        let subject = Subject {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            field_path,
        };
        self.send(Remark { subject, kind, reason: reason.to_owned(), message });
    }
}

impl Recorder {
    /// Warns of an object of which no more is known than a reference to it.
    pub fn warning_of(&self, object: ObjectReference, reason: &str, message: String) {
        let subject = Subject {
            api_version: object.api_version.unwrap_or_default(),
            kind: object.kind.unwrap_or_default(),
            namespace: object.namespace.unwrap_or_default(),
            name: object.name.unwrap_or_default(),
            uid: object.uid.unwrap_or_default(),
            field_path: object.field_path,
        };
        self.send(Remark { subject, kind: EventType::Warning, reason: reason.to_owned(), message });
    }

    fn send(&self, remark: Remark) {
        let reason = remark.reason.clone();
        if self.remarks.try_send((remark, Timestamp::now())).is_err() {
            debug!(reason, "event dropped: the queue is full or closed");
        }
    }
}

struct Writer {
    client: Client,
    source: EventSource,
    known: HashMap<Remark, Known>,
}

impl Writer {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<(Remark, Timestamp)>,
        stop: CancellationToken,
    ) {
        loop {
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = queue.recv() => next,
            };
            let Some((remark, at)) = next else { return };
            let (object, reason) = (remark.subject.name.clone(), remark.reason.clone());
            match self.write(remark, at).await {
                Ok(()) => {}
                // A namespace that is going takes no events, and nobody would read them.
                Err(kube::Error::Api(status)) if is_namespace_going(&status) => {
                    debug!(%object, reason, message = status.message, "event refused");
                }
                Err(error) => warn!(%object, reason, %error, "event not written"),
            }
        }
    }

    async fn write(&mut self, remark: Remark, at: Timestamp) -> Result<(), kube::Error> {
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        if let Some(known) = self.known.get_mut(&remark) {
            let api = events(&self.client, &remark.subject);
            let patch = serde_json::json!({ "count": known.count + 1, "lastTimestamp": Time(at) });
            match api.patch(&known.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(_) => {
                    known.count += 1;
                    return Ok(());
                }
                // It has expired or been deleted: begin anew.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let name = self.create(&remark, at).await?;
        if self.known.len() >= REMEMBERED_MAX {
            self.known.clear();
        }
        self.known.insert(remark, Known { name, count: 1 });
        Ok(())
    }

    async fn create(&self, remark: &Remark, at: Timestamp) -> Result<String, kube::Error> {
        let subject = &remark.subject;
        let event = Event {
            metadata: ObjectMeta {
                // As client-go names them; a generateName may not end in a dot.
                name: Some(format!("{}.{:x}", subject.name, Timestamp::now().as_nanosecond())),
                namespace: Some(event_namespace(subject).to_owned()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some(subject.api_version.clone()),
                kind: Some(subject.kind.clone()),
                name: Some(subject.name.clone()),
                namespace: (!subject.namespace.is_empty()).then(|| subject.namespace.clone()),
                uid: Some(subject.uid.clone()),
                field_path: subject.field_path.clone(),
                resource_version: None,
            },
            type_: Some(format!("{:?}", remark.kind)),
            reason: Some(remark.reason.clone()),
            message: Some(remark.message.clone()),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            first_timestamp: Some(Time(at)),
            last_timestamp: Some(Time(at)),
            count: Some(1),
            ..Event::default()
        };
        let created = events(&self.client, subject).create(&PostParams::default(), &event).await?;
        Ok(created.name_any())
    }
}

fn is_namespace_going(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn events(client: &Client, subject: &Subject) -> Api<Event> {
    Api::namespaced(client.clone(), event_namespace(subject))
}

/// Events about objects without a namespace stand in `default`, as upstream's do.
fn event_namespace(subject: &Subject) -> &str {
    if subject.namespace.is_empty() { "default" } else { &subject.namespace }
}
