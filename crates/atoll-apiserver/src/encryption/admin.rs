//! `/atoll/v1/secrets`: how what is sealed stands, and a new key for it.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Response;
use serde_json::{Value, json};

use super::Encryption;
use super::rotation::{self, Stand};
use crate::body::Body;
use crate::core::Core;
use crate::extension::PlainRequest;
use crate::join::answer;
use crate::status::Status;

/// `GET /atoll/v1/secrets`
pub(crate) fn show<'a>(
    core: &'a Core,
    _: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move { answer(&stand(core, encryption(core)?).await?) }.boxed()
}

/// `POST /atoll/v1/secrets/rotate-key`
pub(crate) fn rotate<'a>(
    core: &'a Core,
    _: PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>> {
    async move {
        let encryption = encryption(core)?;
        rotation::begin(core, encryption).await?;
        answer(&stand(core, encryption).await?)
    }
    .boxed()
}

fn encryption(core: &Core) -> Result<&Encryption, Status> {
    core.config.encryption.as_deref().ok_or_else(|| {
        Status::bad_request("this server was started without keys to seal anything with")
    })
}

async fn stand(core: &Core, encryption: &Encryption) -> Result<Value, Status> {
    let stand = Stand::read(core).await?;
    let members = rotation::members(core);
    let servers: Vec<Value> = members
        .iter()
        .map(|name| match stand.said.get(name) {
            Some(said) => json!({"name": name, "keys": said.keys, "sealsWith": said.primary}),
            None => json!({"name": name, "keys": [], "sealsWith": ""}),
        })
        .collect();
    let rotation = stand.record.as_ref().map(|(_, record)| {
        json!({
            "key": record.id,
            "phase": record.phase,
            "startedAt": record.started_at,
            "rewritten": record.rewritten,
            "waitsFor": stand.missing(&members),
        })
    });
    Ok(json!({
        "key": encryption.ring.primary(),
        "resources": encryption.resources,
        "servers": servers,
        "rotation": rotation,
    }))
}
