//! Conversion between the versions of a custom resource, by name alone or by a webhook.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo, metadata};
use atoll_api::structural::CustomKind;
use bytes::Bytes;
use serde_json::{Value, json};

use crate::cache::Entry;
use crate::core::Core;
use crate::hook::Target;
use crate::status::Status;
use crate::storage::{self, Stored};

/// How long a webhook may take; upstream's number.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Objects of one review.
const REVIEW_OBJECTS_MAX: usize = 500;
/// Webhooks that are remembered; with more of them the oldest are set up again.
const TARGETS_MAX: usize = 256;

/// Webhooks that were called, by their configuration.
#[derive(Default)]
pub(crate) struct Conversions {
    targets: Mutex<HashMap<String, Arc<Target>>>,
}

impl Conversions {
    fn target(&self, config: &Value) -> Result<Arc<Target>, String> {
        let key = config.to_string();
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(target) = targets.get(&key) {
            return Ok(target.clone());
        }
        let target = Arc::new(Target::new(config).map_err(|error| error.to_string())?);
        if targets.len() >= TARGETS_MAX {
            targets.clear();
        }
        targets.insert(key, target.clone());
        Ok(target)
    }
}

/// A stored object in the version of a row.
pub(crate) async fn decode(
    core: &Core,
    row: &ResourceInfo,
    stored: &Stored,
) -> Result<Value, Status> {
    let Some((custom, webhook)) = webhook(row) else { return stored.object(row) };
    let mut object = storage::parse(&stored.value)?;
    let version = custom.read_stored(&mut object);
    if version != row.version {
        let converted = review(core, row, webhook, &row.api_version(), vec![object]).await?;
        object = converted.into_iter().next().unwrap_or_default();
        custom.converted(&mut object);
    }
    storage::set_type(&mut object, &row.api_version(), &row.kind);
    storage::set_revision(&mut object, stored.revision);
    Ok(object)
}

/// An object of a row as it is stored.
pub(crate) async fn encode(
    core: &Core,
    row: &ResourceInfo,
    object: &Value,
) -> Result<Bytes, Status> {
    let Some((_, webhook)) = webhook(row).filter(|_| row.version != row.storage.version) else {
        return storage::encode(row, object);
    };
    let wanted = kinds::api_version(&row.storage.group, &row.storage.version);
    let converted = review(core, row, webhook, &wanted, vec![object.clone()]).await?;
    storage::encode(row, &converted.into_iter().next().unwrap_or_default())
}

/// Has entries converted that are shown in another version than they are in.
pub(crate) async fn ready(
    core: &Core,
    row: &ResourceInfo,
    entries: &[Arc<Entry>],
) -> Result<(), Status> {
    let Some((custom, webhook)) = webhook(row) else { return Ok(()) };
    let wanted = row.api_version();
    let missing: Vec<&Arc<Entry>> = entries
        .iter()
        .filter(|entry| entry.version(row) != row.version && entry.made(&row.version).is_none())
        .collect();
    for some in missing.chunks(REVIEW_OBJECTS_MAX) {
        let mut objects = Vec::with_capacity(some.len());
        for entry in some {
            let mut object = storage::parse(&entry.json)?;
            let own = kinds::api_version(&row.group, entry.version(row));
            storage::set_type(&mut object, &own, &row.kind);
            objects.push(object);
        }
        let converted = review(core, row, webhook, &wanted, objects).await?;
        for (entry, mut object) in some.iter().zip(converted) {
            custom.converted(&mut object);
            entry.keep(&row.version, object)?;
        }
    }
    Ok(())
}

fn webhook(row: &ResourceInfo) -> Option<(&CustomKind, &Value)> {
    let custom = row.custom.as_deref()?;
    Some((custom, custom.webhook.as_deref()?))
}

/// Asks the webhook to convert objects; answers as many, in their order.
async fn review(
    core: &Core,
    row: &ResourceInfo,
    conversion: &Value,
    wanted: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let from = objects.first().map(|object| object.text("apiVersion").to_owned());
    let about = format!("conversion webhook for {}, Kind={}", from.unwrap_or_default(), row.kind);
    let fail = |why: String| Status::server_error(format!("{about} {why}"));
    let webhook = &conversion["webhook"];
    let versions = webhook.items("conversionReviewVersions");
    if !versions.iter().any(|version| version == "v1") {
        return Err(fail(
            "failed: no review version is known to both sides, v1 is here".to_owned(),
        ));
    }
    let uid = uuid::Uuid::new_v4().to_string();
    let body = json!({
        "kind": "ConversionReview",
        "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects},
    });
    let target = core.conversions.target(&webhook["clientConfig"]);
    let target = target.map_err(|why| fail(format!("failed: {why}")))?;
    let answer = core.hooks.post(&target, Bytes::from(body.to_string()), TIMEOUT).await;
    let answer = answer.map_err(|error| fail(format!("failed: {error}")))?;
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| fail(format!("failed: the answer is no JSON: {error}")))?;
    accept(&answer["response"], &uid, wanted, objects).map_err(fail)
}

/// The objects of an answer, if it is sound; their metadata is that of before but for labels
/// and annotations.
fn accept(
    response: &Value,
    uid: &str,
    wanted: &str,
    before: Vec<Value>,
) -> Result<Vec<Value>, String> {
    if response.text("uid") != uid {
        let found = response.text("uid");
        return Err(format!("returned: expected response.uid={uid:?}, got {found:?}"));
    }
    if response["result"].text("status") != "Success" {
        let message = response["result"].text("message");
        return Err(format!("failed: {message}"));
    }
    let converted = response.items("convertedObjects");
    if converted.len() != before.len() {
        let (found, expected) = (converted.len(), before.len());
        return Err(format!("returned {found} objects, expected {expected}"));
    }
    let pairs = converted.iter().zip(before);
    pairs.enumerate().map(|(index, (object, before))| one(index, object, &before, wanted)).collect()
}

fn one(index: usize, object: &Value, before: &Value, wanted: &str) -> Result<Value, String> {
    let bad =
        |why: String| Err(format!("returned invalid converted object at index {index}: {why}"));
    let version = object.text("apiVersion");
    if version != wanted {
        return bad(format!("invalid groupVersion (expected {wanted}, received {version})"));
    }
    let (kind, expected) = (object.text("kind"), before.text("kind"));
    if kind != expected {
        return bad(format!("invalid kind (expected {expected}, received {kind})"));
    }
    let (new, old) = (&object["metadata"], &before["metadata"]);
    if !new.is_object() {
        return bad("missing metadata".to_owned());
    }
    for field in ["name", "namespace", "uid"] {
        if new.text(field) != old.text(field) {
            return bad(format!("invalid metadata.{field}: it must not change"));
        }
    }
    let mut object = object.clone();
    let kept: Vec<(&str, Option<Value>)> =
        ["labels", "annotations"].map(|field| (field, new.get(field).cloned())).into();
    let own = metadata::of(&mut object);
    *own = old.as_object().cloned().unwrap_or_default();
    for (field, value) in kept {
        match value {
            Some(value) => own.insert(field.to_owned(), value),
            None => own.remove(field),
        };
    }
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str) -> Value {
        json!({"apiVersion": version, "kind": "X", "metadata": {"name": "a", "uid": "u"}})
    }

    #[test]
    fn an_answer_must_be_for_the_question() {
        let good = json!({"uid": "q", "result": {"status": "Success"},
            "convertedObjects": [object("x.io/v2")]});
        let ask = |answer: &Value| accept(answer, "q", "x.io/v2", vec![object("x.io/v1")]);
        assert_eq!(ask(&good), Ok(vec![object("x.io/v2")]));
        let mut other = good.clone();
        other["uid"] = json!("z");
        assert!(ask(&other).unwrap_err().contains("expected response.uid"));
        let mut failed = good.clone();
        failed["result"] = json!({"status": "Failed", "message": "no"});
        assert_eq!(ask(&failed), Err("failed: no".to_owned()));
        let mut renamed = good.clone();
        renamed["convertedObjects"][0]["metadata"]["name"] = json!("b");
        assert!(ask(&renamed).unwrap_err().contains("metadata.name"));
        let mut few = good;
        few["convertedObjects"] = json!([]);
        assert_eq!(ask(&few), Err("returned 0 objects, expected 1".to_owned()));
    }

    #[test]
    fn labels_may_change_and_other_metadata_may_not() {
        let mut made = object("x.io/v2");
        made["metadata"] = json!({"name": "a", "uid": "u", "labels": {"l": "1"}, "generation": 9});
        let made = one(0, &made, &object("x.io/v1"), "x.io/v2").unwrap();
        assert_eq!(made["metadata"], json!({"name": "a", "uid": "u", "labels": {"l": "1"}}));
    }
}
