//! Objects in the store: their keys, and the few transactions that change them.
//!
//! An object stands as JSON at `/registry/<group>/<resource>/<namespace>/<name>` (`core` for
//! the group without a name). Its resourceVersion is the store's revision and never part of
//! the value.

use std::sync::Arc;

use atoll_api::kinds::ResourceInfo;
use atoll_store::kv::{
    Compare, CompareTarget, KeyRange, KeyValue, KvStore, LeaseId, Op, OpResult, PutRequest,
    RangeRequest, RangeResult, Relation, Revision, Txn,
};
use bytes::Bytes;
use serde_json::Value;

use crate::status::Status;

/// Everything of the API stands under this prefix.
pub const ROOT: &str = "/registry/";

/// The cluster's keyspace as objects.
#[derive(Clone)]
pub struct Storage {
    kv: Arc<dyn KvStore>,
}

/// An object as it stands in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    pub revision: Revision,
    pub value: Bytes,
}

/// Conditions and writes that go with an object's own into one transaction: allocations, the
/// namespace that must still be there.
#[derive(Debug, Clone, Default)]
pub struct Extra {
    pub compare: Vec<Compare>,
    pub ops: Vec<Op>,
    /// The lease that the object itself hangs on; 0 for none.
    pub lease: LeaseId,
}

/// What became of a write.
#[derive(Debug)]
pub enum Written {
    /// At this revision.
    Done(Revision),
    /// The object was not as expected; this is how it stands now.
    Changed(Option<Stored>),
    /// The object was as expected, something of [`Extra`] was not.
    Contended,
}

// === impl Extra ===

impl Extra {
    pub fn extend(&mut self, other: Self) {
        self.compare.extend(other.compare);
        self.ops.extend(other.ops);
    }

    /// The key must not exist; it is written with this value.
    pub fn claim(&mut self, key: String, value: String) {
        let key = Bytes::from(key);
        self.compare.push(absent(key.clone()));
        self.ops.push(put(key, Bytes::from(value)));
    }

    pub fn release(&mut self, key: String) {
        self.ops.push(Op::Delete { range: KeyRange::single(key), prev_kv: false });
    }

    /// The key must stand at this revision; it is written with this value.
    pub fn replace(&mut self, key: Bytes, revision: Revision, value: Bytes) {
        self.compare.push(at_revision(key.clone(), revision));
        self.ops.push(put(key, value));
    }

    /// The key must stand at this revision.
    pub fn require(&mut self, key: Bytes, revision: Revision) {
        self.compare.push(at_revision(key, revision));
    }
}

// === keys ===

/// `/registry/<group>/<resource>/`, under which all objects of a row stand.
pub fn prefix(row: &ResourceInfo) -> String {
    let group = if row.storage.group.is_empty() { "core" } else { &row.storage.group };
    format!("{ROOT}{group}/{}/", row.storage.resource)
}

/// What follows the prefix: `namespace/name`, or the name alone.
pub fn suffix(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

pub fn key(row: &ResourceInfo, namespace: &str, name: &str) -> Bytes {
    Bytes::from(format!("{}{}", prefix(row), suffix(namespace, name)))
}

// === impl Storage ===

impl Storage {
    pub fn new(kv: Arc<dyn KvStore>) -> Self {
        Self { kv }
    }

    pub fn kv(&self) -> &Arc<dyn KvStore> {
        &self.kv
    }

    /// The object as of every write acknowledged before the call.
    pub async fn get(
        &self,
        row: &ResourceInfo,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Stored>, Status> {
        let request = RangeRequest::new(KeyRange::single(key(row, namespace, name)));
        let answer = self.range(request).await?;
        Ok(answer.kvs.into_iter().next().map(Stored::from))
    }

    pub async fn range(&self, request: RangeRequest) -> Result<RangeResult, Status> {
        self.kv.range(request).await.map_err(|error| Status::store(&error))
    }

    /// The keyspace's revision, as of every write acknowledged before the call.
    pub async fn revision(&self) -> Result<Revision, Status> {
        let mut request = RangeRequest::new(KeyRange::single(ROOT));
        request.count_only = true;
        Ok(self.range(request).await?.revision)
    }

    pub async fn create(&self, key: Bytes, value: Bytes, extra: Extra) -> Result<Written, Status> {
        let own = absent(key.clone());
        let ops = vec![put_leased(key.clone(), value, extra.lease)];
        self.write(key, own, ops, extra, 0).await
    }

    pub async fn update(
        &self,
        key: Bytes,
        expected: Revision,
        value: Bytes,
        extra: Extra,
    ) -> Result<Written, Status> {
        let own = at_revision(key.clone(), expected);
        let ops = vec![put_leased(key.clone(), value, extra.lease)];
        self.write(key, own, ops, extra, expected).await
    }

    pub async fn delete(
        &self,
        key: Bytes,
        expected: Revision,
        extra: Extra,
    ) -> Result<Written, Status> {
        let own = at_revision(key.clone(), expected);
        let ops = vec![Op::Delete { range: KeyRange::single(key.clone()), prev_kv: false }];
        self.write(key, own, ops, extra, expected).await
    }

    async fn write(
        &self,
        key: Bytes,
        own: Compare,
        mut ops: Vec<Op>,
        extra: Extra,
        expected: Revision,
    ) -> Result<Written, Status> {
        let mut compare = vec![own];
        compare.extend(extra.compare);
        ops.extend(extra.ops);
        let look = Op::Range(RangeRequest::new(KeyRange::single(key)));
        let txn = Txn { compare, success: ops, failure: vec![look] };
        let answer = self.kv.txn(txn).await.map_err(|error| Status::store(&error))?;
        if answer.succeeded {
            return Ok(Written::Done(answer.revision));
        }
        let current = answer.responses.into_iter().find_map(|response| match response {
            OpResult::Range(range) => range.kvs.into_iter().next().map(Stored::from),
            _ => None,
        });
        if current.as_ref().map_or(0, |stored| stored.revision) == expected {
            return Ok(Written::Contended);
        }
        Ok(Written::Changed(current))
    }

    /// Writes what is missing of these keys, many in one transaction: for the objects that a
    /// cluster begins with.
    pub async fn ensure(&self, objects: Vec<(Bytes, Bytes)>) -> Result<(), Status> {
        for batch in objects.chunks(ENSURE_BATCH_MAX) {
            let success = batch
                .iter()
                .map(|(key, value)| {
                    Op::Txn(Box::new(Txn {
                        compare: vec![absent(key.clone())],
                        success: vec![put(key.clone(), value.clone())],
                        failure: Vec::new(),
                    }))
                })
                .collect();
            let txn = Txn { compare: Vec::new(), success, failure: Vec::new() };
            self.kv.txn(txn).await.map_err(|error| Status::store(&error))?;
        }
        Ok(())
    }
}

/// Objects that one transaction of [`Storage::ensure`] writes, below the store's limit of
/// operations.
const ENSURE_BATCH_MAX: usize = 60;

// === impl Stored ===

impl From<KeyValue> for Stored {
    fn from(kv: KeyValue) -> Self {
        Self { revision: kv.mod_revision, value: kv.value }
    }
}

impl Stored {
    /// The object as this row serves it, with kind and resourceVersion.
    pub fn object(&self, row: &ResourceInfo) -> Result<Value, Status> {
        let mut object = parse(&self.value)?;
        if let Some(custom) = &row.custom {
            custom.read_stored(&mut object);
        }
        from_storage(row, &mut object);
        set_revision(&mut object, self.revision);
        Ok(object)
    }
}

/// The object as the store keeps it.
pub fn encode(row: &ResourceInfo, object: &Value) -> Result<Bytes, Status> {
    let mut object = object.clone();
    if let Some(convert) = row.storage.to_storage {
        convert(&mut object);
    }
    set_type(
        &mut object,
        &atoll_api::kinds::api_version(&row.storage.group, &row.storage.version),
        &row.storage.kind,
    );
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    serde_json::to_vec(&object).map(Bytes::from).map_err(Status::internal)
}

pub fn parse(value: &[u8]) -> Result<Value, Status> {
    serde_json::from_slice(value)
        .map_err(|error| Status::internal(format!("an object in the store is not JSON: {error}")))
}

/// Turns a stored object into what this row serves.
pub fn from_storage(row: &ResourceInfo, object: &mut Value) {
    if let Some(convert) = row.storage.from_storage {
        convert(object);
    }
    set_type(object, &row.api_version(), &row.kind);
    if let Some(custom) = row.custom.as_ref().filter(|_| row.version != row.storage.version) {
        custom.converted(object);
    }
}

pub fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    if let Value::Object(map) = object {
        map.insert("apiVersion".to_owned(), Value::from(api_version));
        map.insert("kind".to_owned(), Value::from(kind));
    }
}

pub fn set_revision(object: &mut Value, revision: Revision) {
    atoll_api::kinds::metadata::of(object)
        .insert("resourceVersion".to_owned(), Value::from(revision.to_string()));
}

fn put(key: Bytes, value: Bytes) -> Op {
    put_leased(key, value, 0)
}

fn put_leased(key: Bytes, value: Bytes, lease: LeaseId) -> Op {
    Op::Put(PutRequest { key, value, lease, prev_kv: false })
}

fn absent(key: Bytes) -> Compare {
    Compare {
        range: KeyRange::single(key),
        relation: Relation::Equal,
        target: CompareTarget::Version(0),
    }
}

fn at_revision(key: Bytes, revision: Revision) -> Compare {
    Compare {
        range: KeyRange::single(key),
        relation: Relation::Equal,
        target: CompareTarget::ModRevision(revision),
    }
}
