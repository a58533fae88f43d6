//! JSON to messages and back.

use std::fmt::Display;

use bytes::Bytes;
use prost::Message as _;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, SerializeOptions,
};
use serde_json::Value;
use tonic::Status;

/// Keys and values take a third more in base64, and names some.
pub(super) const fn bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max * 2
}

/// Larger ones are translated where they hold up nobody.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// Objects in one text. No request has so many that is not refused for its operations, and each
/// takes much more memory than its two characters.
const OBJECTS_MAX: usize = 16_384;

/// The message of the first JSON text; of none an empty one. Fields that it does not have are not
/// looked at.
pub(super) async fn message(json: Bytes, kind: MessageDescriptor) -> Result<Vec<u8>, Status> {
    apart(json.len(), move || read(&json, kind)).await
}

/// As etcd's gateway writes it: names as in the `.proto` files, nothing that is not set, whole
/// numbers of 64 bits as strings, bytes in base64.
pub(super) async fn text(message: Bytes, kind: MessageDescriptor) -> Result<Vec<u8>, Status> {
    apart(message.len(), move || write(message, kind)).await
}

async fn apart(
    bytes: usize,
    work: impl FnOnce() -> Result<Vec<u8>, Status> + Send + 'static,
) -> Result<Vec<u8>, Status> {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?
}

pub(super) fn read(json: &[u8], kind: MessageDescriptor) -> Result<Vec<u8>, Status> {
    if json.iter().filter(|byte| **byte == b'{').count() > OBJECTS_MAX {
        let name = kind.full_name();
        return Err(Status::invalid_argument(format!(
            "the body is no {name}: it has more than {OBJECTS_MAX} objects"
        )));
    }
    let refused = |error: &dyn Display, kind: &MessageDescriptor| {
        let name = kind.full_name();
        Status::invalid_argument(format!("the body is no {name}: {error}"))
    };
    let mut texts = serde_json::Deserializer::from_slice(json).into_iter::<Value>();
    let mut text = match texts.next() {
        None => return Ok(Vec::new()),
        Some(text) => text.map_err(|error| refused(&error, &kind))?,
    };
    keep_known(&mut text, &kind);
    let read = within(&text, &kind).map_err(|error| match culprit(&text, &kind) {
        Some(field) => refused(&format_args!("{field}: {error}"), &kind),
        None => refused(&error, &kind),
    });
    Ok(read?.encode_to_vec())
}

/// Unknown words of an enumeration are refused, as by a 3.5.
fn within(text: &Value, kind: &MessageDescriptor) -> Result<DynamicMessage, serde_json::Error> {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(kind.clone(), text, &options)
}

/// The field of a refused text that is refused by itself too.
fn culprit<'a>(text: &'a Value, kind: &MessageDescriptor) -> Option<&'a str> {
    let mut fields = text.as_object()?.iter();
    let is_refused = |(name, value): &(&String, &Value)| {
        within(&serde_json::json!({ name.as_str(): value }), kind).is_err()
    };
    fields.find(is_refused).map(|(name, _)| name.as_str())
}

/// Drops the fields that a message does not have, in it and in those within.
fn keep_known(text: &mut Value, kind: &MessageDescriptor) {
    let Value::Object(fields) = text else { return };
    fields.retain(|name, value| {
        let known = kind.get_field_by_name(name).or_else(|| kind.get_field_by_json_name(name));
        let Some(field) = known else { return false };
        if let Kind::Message(inner) = field.kind() {
            match value {
                Value::Array(items) => items.iter_mut().for_each(|item| keep_known(item, &inner)),
                one => keep_known(one, &inner),
            }
        }
        true
    });
}

pub(super) fn write(message: Bytes, kind: MessageDescriptor) -> Result<Vec<u8>, Status> {
    let internal = |error: String| Status::internal(format!("an answer cannot be shown: {error}"));
    let read =
        DynamicMessage::decode(kind, message).map_err(|error| internal(error.to_string()))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut out = Vec::new();
    let mut writer = serde_json::Serializer::new(&mut out);
    read.serialize_with_options(&mut writer, &options)
        .map_err(|error| internal(error.to_string()))?;
    Ok(out)
}
