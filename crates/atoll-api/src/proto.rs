//! Kubernetes' protobuf: the envelope, and objects in both directions.
//!
//! Objects are transcoded along the schema table; this is no general protobuf library.
//! Absent and zero values are told apart exactly where Go tells them apart (pointers).

mod decode;
mod encode;
mod frame;
mod plan;
mod wire;

use serde_json::Value;

use crate::schema::{self, SchemaId};

pub use decode::{decode, decode_message};
pub use encode::{encode, encode_message};
pub use frame::{List, watch_frame};

/// Stands before every message.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Nesting of messages; deeper ones are an attack.
pub const DEPTH_MAX: usize = 120;

/// Go's zero time in Unix seconds.
const ZERO_TIME_SECONDS: i64 = -62_135_596_800;

/// What the envelope says about its message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApiVersionKind {
    pub api_version: String,
    pub kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    NoMagic,
    #[error("proto: {what} at byte {at}")]
    Malformed { what: &'static str, at: usize },
    #[error("proto: {what} in field {path}")]
    Field { what: String, path: String },
    #[error("no kind {kind:?} is registered for version {api_version:?} in protobuf")]
    UnknownKind { api_version: String, kind: String },
    #[error("proto: messages nested more than {DEPTH_MAX} levels deep")]
    TooDeep,
}

/// Splits an envelope into the type it names and the message.
///
/// # Errors
///
/// When it is no envelope, or its content is encoded in some other way.
pub fn open(bytes: &[u8]) -> Result<(ApiVersionKind, &[u8]), ProtoError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
    let mut named = ApiVersionKind::default();
    let mut raw: &[u8] = &[];
    let mut reader = wire::Reader::new(body);
    while let Some((number, value)) = reader.next()? {
        match number {
            1 => {
                let mut reader = wire::Reader::new(value.bytes(&reader)?);
                while let Some((number, value)) = reader.next()? {
                    let text = value.text(&reader)?;
                    match number {
                        1 => named.api_version = text.to_owned(),
                        2 => named.kind = text.to_owned(),
                        _ => {}
                    }
                }
            }
            2 => raw = value.bytes(&reader)?,
            _ => {}
        }
    }
    Ok((named, raw))
}

/// Puts a message into an envelope.
#[must_use]
pub fn seal(named: &ApiVersionKind, message: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    wire::put_bytes(&mut meta, 1, named.api_version.as_bytes());
    wire::put_bytes(&mut meta, 2, named.kind.as_bytes());
    let mut out = MAGIC.to_vec();
    wire::put_bytes(&mut out, 1, &meta);
    wire::put_bytes(&mut out, 2, message);
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    out
}

/// The schema of a kind that protobuf can carry; a Table, for one, it cannot.
fn in_protobuf(named: &ApiVersionKind) -> Result<SchemaId, ProtoError> {
    carried(&named.api_version, &named.kind).ok_or_else(|| ProtoError::UnknownKind {
        api_version: named.api_version.clone(),
        kind: named.kind.clone(),
    })
}

/// The schema of a built-in kind, when protobuf can carry it.
#[must_use]
pub fn carried(api_version: &str, kind: &str) -> Option<SchemaId> {
    schema::by_type(api_version, kind).filter(|id| !plan::of(*id).is_empty())
}

fn text_of(object: &Value, field: &str) -> String {
    object.get(field).and_then(Value::as_str).unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests;
