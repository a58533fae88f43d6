//! Lists and watch events put together from messages that are there already.
//!
//! A cache keeps the message of each object; nothing of it is looked at again here.

use serde_json::Value;

use super::wire::put_bytes;
use super::{ApiVersionKind, ProtoError, encode_message, seal};
use crate::schema::{self, SchemaId};

/// A list that is being written.
#[derive(Debug)]
pub struct List {
    named: ApiVersionKind,
    body: Vec<u8>,
}

/// The number of `items` in every list type.
const ITEMS: u32 = 2;

impl List {
    /// `meta` is the list's metadata as in JSON, `bytes` what its items take, about.
    ///
    /// # Errors
    ///
    /// When the metadata does not fit its schema.
    pub fn new(
        api_version: &str,
        kind: &str,
        meta: &Value,
        bytes: usize,
    ) -> Result<Self, ProtoError> {
        let meta = encode_message(list_meta()?, meta)?;
        let mut body = Vec::with_capacity(meta.len() + bytes + 16);
        put_bytes(&mut body, 1, &meta);
        let named = ApiVersionKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
        Ok(Self { named, body })
    }

    /// Appends the message of one item.
    pub fn push(&mut self, message: &[u8]) {
        put_bytes(&mut self.body, ITEMS, message);
    }

    /// The list in its envelope.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        seal(&self.named, &self.body)
    }
}

fn list_meta() -> Result<SchemaId, ProtoError> {
    let id = schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    id.ok_or_else(|| ProtoError::UnknownKind {
        api_version: "meta.k8s.io/v1".to_owned(),
        kind: "ListMeta".to_owned(),
    })
}

/// One event of a watch, as it stands in the stream: its length in four bytes, and a bare
/// `WatchEvent` whose object is an envelope.
#[must_use]
pub fn watch_frame(kind: &str, envelope: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(envelope.len() + 6);
    put_bytes(&mut raw, 1, envelope);
    let mut out = Vec::with_capacity(raw.len() + kind.len() + 16);
    out.extend_from_slice(&[0; 4]);
    put_bytes(&mut out, 1, kind.as_bytes());
    put_bytes(&mut out, 2, &raw);
    // Objects have at most a few MiB.
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}
