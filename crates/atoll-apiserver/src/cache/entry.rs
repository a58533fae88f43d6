//! One object in a cache: its bytes as they go over the wire, and what selectors look at.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use atoll_api::access::Access as _;
use atoll_api::kinds::ResourceInfo;
use atoll_api::proto;
use atoll_api::schema::Name;
use atoll_store::kv::Revision;
use bytes::Bytes;
use serde_json::Value;

use crate::status::Status;
use crate::storage;

/// An object of a cache. It never changes; a new revision is a new entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `namespace/name`, or the name of a cluster-scoped object.
    pub key: Box<str>,
    pub revision: Revision,
    /// The object in the stored version without apiVersion and kind, resourceVersion set:
    /// lists copy it, single objects get their kind put before it.
    pub json: Bytes,
    /// Sorted by key.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The selectable fields beyond name and namespace.
    pub fields: Box<[(Name, Box<str>)]>,
    /// The object's message in protobuf, once somebody asked for it.
    proto: OnceLock<Bytes>,
    /// The version in which `json` is, where that is not the one that the store keeps now.
    written: Option<Box<str>>,
    /// Forms in other versions that a webhook made; most objects need none.
    forms: OnceLock<Box<Forms>>,
}

/// Bytes of an object by version. Another entry begins without.
#[derive(Debug, Default)]
struct Forms(Mutex<Vec<(Name, Bytes)>>);

impl Clone for Forms {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// How the bytes of an entry become those of another version.
enum Form {
    /// They are.
    Same,
    /// Only the version's name changes, and what that version does not know goes.
    Renamed,
    Made(Bytes),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    pub kind: ChangeKind,
    pub revision: Revision,
    /// The object after the change; for a delete its last state, at the delete's revision.
    pub entry: Arc<Entry>,
    pub old: Option<Arc<Entry>>,
    /// The old object at the change's revision, for watchers out of whose selection it moved.
    left: OnceLock<Arc<Entry>>,
}

// === impl Entry ===

impl Entry {
    /// `object` is in the version of `row`, which is the stored one.
    pub(crate) fn new(
        row: &ResourceInfo,
        key: &str,
        revision: Revision,
        mut object: Value,
    ) -> Result<Self, Status> {
        storage::set_revision(&mut object, revision);
        let fields = row
            .selectable_fields(&object)
            .into_iter()
            .map(|(name, value)| (name, value.into_boxed_str()))
            .collect();
        let labels = object["metadata"]
            .fields("labels")
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or("").into()))
            .collect();
        let json = body(object)?;
        let proto = OnceLock::new();
        let (written, forms) = (None, OnceLock::new());
        Ok(Self { key: key.into(), revision, json, labels, fields, proto, written, forms })
    }

    /// Parsed from what the store keeps.
    pub(crate) fn decode(
        row: &ResourceInfo,
        key: &str,
        revision: Revision,
        value: &[u8],
    ) -> Result<Self, Status> {
        let mut object = storage::parse(value)?;
        let Some(custom) = &row.custom else { return Self::new(row, key, revision, object) };
        let version = custom.read_stored(&mut object);
        let other = version != row.version;
        if other && custom.webhook.is_none() {
            custom.converted(&mut object);
        }
        let mut entry = Self::new(row, key, revision, object)?;
        entry.written = (other && custom.webhook.is_some()).then(|| version.into());
        Ok(entry)
    }

    /// The version in which the bytes are.
    pub(crate) fn version<'a>(&'a self, row: &'a ResourceInfo) -> &'a str {
        self.written.as_deref().unwrap_or(&row.storage.version)
    }

    fn form(&self, row: &ResourceInfo) -> Result<Form, Status> {
        let Some(custom) = &row.custom else { return Ok(Form::Same) };
        if self.version(row) == row.version {
            return Ok(Form::Same);
        }
        if custom.webhook.is_none() {
            return Ok(Form::Renamed);
        }
        let made = self.made(&row.version).map(Form::Made);
        made.ok_or_else(|| Status::internal("an object was not converted before it was shown"))
    }

    /// The bytes in a version to which a webhook has converted the object.
    pub(crate) fn made(&self, version: &str) -> Option<Bytes> {
        let forms = self.forms.get()?.0.lock().unwrap_or_else(PoisonError::into_inner);
        forms.iter().find(|(own, _)| own == version).map(|(_, bytes)| bytes.clone())
    }

    /// Keeps what a webhook made.
    pub(crate) fn keep(&self, version: &Name, object: Value) -> Result<(), Status> {
        let bytes = body(object)?;
        let forms = self.forms.get_or_init(Box::default);
        let mut forms = forms.0.lock().unwrap_or_else(PoisonError::into_inner);
        forms.retain(|(own, _)| own != version);
        forms.push((version.clone(), bytes));
        Ok(())
    }

    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    pub fn name(&self) -> &str {
        self.key.rsplit_once('/').map_or(&self.key, |(_, name)| name)
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(own, _)| own.as_ref() == key).map(|(_, value)| value.as_ref())
    }

    /// The object as a tree, with the kind and version of the row that serves it.
    pub fn object(&self, row: &ResourceInfo) -> Result<Value, Status> {
        if let Form::Made(bytes) = self.form(row)? {
            let mut object = storage::parse(&bytes)?;
            storage::set_type(&mut object, &row.api_version(), &row.kind);
            return Ok(object);
        }
        let mut object = storage::parse(&self.json)?;
        if row.storage.from_storage.is_some() {
            let stored = &row.storage;
            let api_version = atoll_api::kinds::api_version(&stored.group, &stored.version);
            storage::set_type(&mut object, &api_version, &stored.kind);
        }
        storage::from_storage(row, &mut object);
        Ok(object)
    }

    /// The bytes of the object as the row serves it, without apiVersion and kind.
    pub fn json_for(&self, row: &ResourceInfo) -> Result<Bytes, Status> {
        match self.form(row)? {
            Form::Made(bytes) => return Ok(bytes),
            Form::Same if row.storage.from_storage.is_none() => return Ok(self.json.clone()),
            Form::Same | Form::Renamed => {}
        }
        body(self.object(row)?)
    }

    /// The message of the object as the row serves it, without envelope.
    pub fn proto_for(&self, row: &ResourceInfo) -> Result<Bytes, Status> {
        let stored = row.storage.from_storage.is_none();
        if let Some(message) = self.proto.get().filter(|_| stored) {
            return Ok(message.clone());
        }
        let schema = proto::carried(&row.api_version(), &row.kind);
        let schema = schema.ok_or_else(Status::not_acceptable)?;
        let message = proto::encode_message(schema, &self.object(row)?);
        let message = Bytes::from(message.map_err(Status::internal)?);
        if stored {
            return Ok(self.proto.get_or_init(|| message).clone());
        }
        Ok(message)
    }

    /// The same object at another revision.
    pub(crate) fn at_revision(&self, revision: Revision) -> Self {
        let mut entry = Self { proto: OnceLock::new(), forms: OnceLock::new(), ..self.clone() };
        entry.revision = revision;
        if let Ok(mut object) = storage::parse(&self.json) {
            storage::set_revision(&mut object, revision);
            if let Ok(json) = body(object) {
                entry.json = json;
            }
        }
        entry
    }
}

/// The object without apiVersion and kind.
pub(crate) fn body(mut object: Value) -> Result<Bytes, Status> {
    if let Value::Object(map) = &mut object {
        map.remove("apiVersion");
        map.remove("kind");
    }
    serde_json::to_vec(&object).map(Bytes::from).map_err(Status::internal)
}

// === impl Change ===

impl Change {
    pub(crate) fn new(
        kind: ChangeKind,
        revision: Revision,
        entry: Arc<Entry>,
        old: Option<Arc<Entry>>,
    ) -> Self {
        Self { kind, revision, entry, old, left: OnceLock::new() }
    }

    /// Bytes that this change keeps in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.entry.json.len() + 256
    }

    /// The old object at this change's revision.
    pub fn left(&self) -> Option<Arc<Entry>> {
        let old = self.old.as_ref()?;
        Some(self.left.get_or_init(|| Arc::new(old.at_revision(self.revision))).clone())
    }
}
