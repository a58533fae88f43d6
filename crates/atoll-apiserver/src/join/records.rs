//! What the cluster keeps of join tokens: Secrets in kube-system that hold a hash.

use atoll_api::access::Access as _;
use atoll_api::kinds::{self, ResourceInfo};
use atoll_identity::{JoinToken, TokenError, TokenRecord, TokenUse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::refused;
use crate::core::{Core, timestamp};
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra, Written};

const NAMESPACE: &str = "kube-system";
const NAME_PREFIX: &str = "atoll-join-token-";
const KIND: &str = "atoll.dev/join-token";
/// Attempts against another machine with the same token.
const ATTEMPTS_MAX: usize = 5;

fn row() -> Result<&'static ResourceInfo, Status> {
    kinds::find("", "v1", "secrets").ok_or_else(Status::no_resource)
}

pub(super) async fn add(core: &Core, record: &TokenRecord) -> Result<(), Status> {
    let row = row()?;
    let name = format!("{NAME_PREFIX}{}", record.id);
    let mut secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": KIND,
    });
    write(record, &mut secret);
    let secret = initial::complete(core, row, NAMESPACE, &name, secret);
    let key = storage::key(row, NAMESPACE, &name);
    let value = storage::encode(row, &secret)?;
    match core.storage.create(key, value, Extra::default()).await? {
        Written::Done(_) => Ok(()),
        Written::Changed(_) | Written::Contended => Err(Status::already_exists(row, &name)),
    }
}

/// Checks the token and records its use, before anything is issued for it.
pub(super) async fn take(
    core: &Core,
    token: &JoinToken,
    node: &str,
    key_fingerprint: &str,
) -> Result<(), Status> {
    let row = row()?;
    let name = format!("{NAME_PREFIX}{}", token.id);
    for _ in 0..ATTEMPTS_MAX {
        let stored = core.storage.get(row, NAMESPACE, &name).await?;
        let mut secret = match &stored {
            Some(stored) => stored.object(row)?,
            None => Value::Null,
        };
        let mut record = read(&secret);
        token.check(record.as_ref(), core.now()).map_err(|error| refused(&error))?;
        let (Some(record), Some(stored)) = (&mut record, stored) else {
            return Err(refused(&TokenError::Unknown { id: token.id.clone() }));
        };
        if !record.take(node, key_fingerprint).map_err(|error| refused(&error))? {
            return Ok(());
        }
        write(record, &mut secret);
        let key = storage::key(row, NAMESPACE, &name);
        let value = storage::encode(row, &secret)?;
        let written = core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(_) = written {
            return Ok(());
        }
    }
    Err(Status::modified(row, &name))
}

/// Whether this very node with this very key has used the token before.
pub(super) async fn was_taken_by(
    core: &Core,
    token: &JoinToken,
    node: &str,
    key_fingerprint: &str,
) -> Result<bool, Status> {
    let row = row()?;
    let name = format!("{NAME_PREFIX}{}", token.id);
    let Some(stored) = core.storage.get(row, NAMESPACE, &name).await? else { return Ok(false) };
    let record = read(&stored.object(row)?);
    let used = record.and_then(|record| record.used_by);
    Ok(used.is_some_and(|(by, key)| by == node && key == key_fingerprint))
}

/// Deletes the records of tokens that expired.
pub(super) async fn sweep(core: &Core) -> Result<(), Status> {
    let row = row()?;
    let Some(cache) = core.registry.cache(row) else { return Ok(()) };
    for entry in cache.list(NAMESPACE) {
        if !entry.name().starts_with(NAME_PREFIX) {
            continue;
        }
        let expired =
            read(&entry.object(row)?).is_some_and(|record| record.expires_at <= core.now());
        if expired {
            let key = storage::key(row, NAMESPACE, entry.name());
            core.storage.delete(key, entry.revision, Extra::default()).await?;
        }
    }
    Ok(())
}

fn write(record: &TokenRecord, secret: &mut Value) {
    let mut fields = json!({
        "id": STANDARD.encode(&record.id),
        "secret-hash": STANDARD.encode(&record.secret_hash),
        "expiration": STANDARD.encode(timestamp(record.expires_at)),
    });
    if let Some((node, key)) = &record.used_by {
        fields["used-by-node"] = json!(STANDARD.encode(node));
        fields["used-by-key"] = json!(STANDARD.encode(key));
    }
    secret["data"] = fields;
}

fn read(secret: &Value) -> Option<TokenRecord> {
    if secret.text("type") != KIND {
        return None;
    }
    let field = |name: &str| {
        let bytes = STANDARD.decode(secret["data"].opt_text(name)?).ok()?;
        String::from_utf8(bytes).ok()
    };
    let expires_at: Timestamp = field("expiration")?.parse().ok()?;
    Some(TokenRecord {
        usage: TokenUse::Agent,
        id: field("id")?,
        secret_hash: field("secret-hash")?,
        expires_at,
        used_by: field("used-by-node").zip(field("used-by-key")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_secret() {
        let expires_at = Timestamp::from_second(1_000).unwrap();
        let (_, mut record) = JoinToken::create(b"authority", expires_at).unwrap();
        let mut secret = json!({"type": KIND});
        write(&record, &mut secret);
        assert_eq!(read(&secret), Some(record.clone()));
        record.take("node-2", "key").unwrap();
        write(&record, &mut secret);
        assert_eq!(read(&secret), Some(record));
        secret["type"] = json!("Opaque");
        assert_eq!(read(&secret), None);
    }
}
