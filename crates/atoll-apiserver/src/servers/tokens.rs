//! Tokens with which a server joins.
//!
//! They open the keys of the whole cluster, so their records are no Secrets: nobody who may write
//! Secrets can make one up. They stand outside of what the API serves, and only those whom RBAC
//! lets use the paths here (nobody but administrators, unless somebody says otherwise) make them.

use atoll_api::access::Access as _;
use atoll_identity::{JoinToken, TokenError, TokenRecord, TokenUse};
use atoll_store::kv::{KeyRange, RangeRequest};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::Body;
use crate::core::{Core, timestamp};
use crate::extension::PlainRequest;
use crate::join::{answer, life, refused};
use crate::status::Status;
use crate::storage::{self, Extra, Stored, Written};

const PLACE: &str = "/atoll/server-tokens/";
/// Attempts against another machine with the same token.
const ATTEMPTS_MAX: usize = 5;

/// `POST /atoll/v1/server-tokens`
pub(crate) fn create<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let life = life(&request.body)?;
        let trust = core.trust()?;
        core.servers_config()?;
        let expires_at = core
            .now()
            .checked_add(life)
            .map_err(|error| Status::internal(format!("the life of the token: {error}")))?;
        let authority = trust.serving.certificate_der();
        let (token, record) = JoinToken::create_for(TokenUse::Server, authority, expires_at)
            .map_err(Status::internal)?;
        sweep(core).await?;
        let value = to_value(&record).to_string();
        core.storage.create(key(&record.id), value.into(), Extra::default()).await?;
        tracing::info!(token = record.id, user = request.user.name, "server token made");
        let expires_at = timestamp(expires_at);
        answer(&json!({"token": token.reveal(), "expiresAt": expires_at}))
    }
    .boxed()
}

/// `GET /atoll/v1/server-tokens`
pub(crate) fn list<'a>(
    core: &'a Core,
    _request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let records = all(core).await?;
        let items = records.iter().map(|(_, record)| {
            json!({
                "id": record.id,
                "expiresAt": timestamp(record.expires_at),
                "usedBy": record.used_by.as_ref().map(|(name, _)| name),
            })
        });
        answer(&json!({ "items": items.collect::<Vec<Value>>() }))
    }
    .boxed()
}

/// `DELETE /atoll/v1/server-tokens/{id}`
pub(crate) fn revoke<'a>(
    core: &'a Core,
    request: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let id = request.head.uri.path().rsplit('/').next().unwrap_or_default();
        let records = all(core).await?;
        let Some((stored, record)) = records.iter().find(|(_, record)| record.id == id) else {
            return Err(Status::no_resource());
        };
        core.storage.delete(key(&record.id), stored.revision, Extra::default()).await?;
        answer(&json!({ "id": id }))
    }
    .boxed()
}

/// Checks the token and records its use, before anything is handed out for it. Returns whether
/// this very server has used it before: its first answer may have been lost.
pub(super) async fn take(
    core: &Core,
    token: &JoinToken,
    server: &str,
    key_fingerprint: &str,
) -> Result<bool, Status> {
    for _ in 0..ATTEMPTS_MAX {
        let (stored, mut record) = find(core, token).await?;
        if !record.take(server, key_fingerprint).map_err(|error| refused(&error))? {
            return Ok(true);
        }
        let value = to_value(&record).to_string();
        let written = core
            .storage
            .update(key(&record.id), stored.revision, value.into(), Extra::default())
            .await?;
        if let Written::Done(_) = written {
            return Ok(false);
        }
    }
    Err(Status::unavailable(format!("join token {} is being used, try again", token.id)))
}

/// The record of a token that is good.
pub(super) async fn find(core: &Core, token: &JoinToken) -> Result<(Stored, TokenRecord), Status> {
    let range = RangeRequest::new(KeyRange::single(key(&token.id)));
    let stored = core.storage.range(range).await?.kvs.into_iter().next().map(Stored::from);
    let record = stored.as_ref().and_then(|stored| from_value(&stored.value));
    token.check(record.as_ref(), core.now()).map_err(|error| refused(&error))?;
    stored.zip(record).ok_or_else(|| refused(&TokenError::Unknown { id: token.id.clone() }))
}

/// Deletes the records of tokens that expired.
async fn sweep(core: &Core) -> Result<(), Status> {
    for (stored, record) in all(core).await? {
        if record.expires_at <= core.now() {
            core.storage.delete(key(&record.id), stored.revision, Extra::default()).await?;
        }
    }
    Ok(())
}

async fn all(core: &Core) -> Result<Vec<(Stored, TokenRecord)>, Status> {
    let answer = core.storage.range(RangeRequest::new(KeyRange::prefix(PLACE))).await?;
    let read = answer.kvs.into_iter().map(Stored::from).filter_map(|stored| {
        let record = from_value(&stored.value)?;
        Some((stored, record))
    });
    Ok(read.collect())
}

fn key(id: &str) -> Bytes {
    Bytes::from(format!("{PLACE}{id}"))
}

fn to_value(record: &TokenRecord) -> Value {
    let mut value = json!({
        "id": record.id,
        "secretHash": record.secret_hash,
        "expiresAt": timestamp(record.expires_at),
    });
    if let Some((server, key)) = &record.used_by {
        value["usedByServer"] = json!(server);
        value["usedByKey"] = json!(key);
    }
    value
}

fn from_value(value: &[u8]) -> Option<TokenRecord> {
    let value = storage::parse(value).ok()?;
    let expires_at: Timestamp = value.text("expiresAt").parse().ok()?;
    let field = |name: &str| value.opt_text(name).map(str::to_owned);
    Some(TokenRecord {
        usage: TokenUse::Server,
        id: field("id")?,
        secret_hash: field("secretHash")?,
        expires_at,
        used_by: field("usedByServer").zip(field("usedByKey")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back() {
        let expires_at = Timestamp::from_second(1_000).unwrap();
        let made = JoinToken::create_for(TokenUse::Server, b"authority", expires_at);
        let (_, mut record) = made.unwrap();
        assert_eq!(from_value(to_value(&record).to_string().as_bytes()), Some(record.clone()));
        record.take("server-2", "key").unwrap();
        assert_eq!(from_value(to_value(&record).to_string().as_bytes()), Some(record));
        assert_eq!(from_value(b"{}"), None);
    }
}
