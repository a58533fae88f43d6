//! The ConfigMap by which servers behind this one know whom to believe.

use std::sync::Arc;

use atoll_api::access::Access as _;
use serde_json::{Value, json};

use crate::core::Core;
use crate::initial;
use crate::status::Status;
use crate::storage::{self, Extra};
use crate::trust::{KUBELET_CLIENT, Trust};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";

/// Writes it, and writes it again when somebody changes or deletes it.
pub(crate) async fn keep(core: Arc<Core>) {
    let Some(trust) = core.config.trust.clone() else { return };
    let Some(cache) = core.registry.objects("", "configmaps") else { return };
    let wanted = contents(&trust);
    let mut changes = cache.subscribe();
    loop {
        changes.mark_unchanged();
        let there = cache.get(NAMESPACE, NAME);
        let same = there.is_some_and(|entry| {
            storage::parse(&entry.json).is_ok_and(|object| holds(&object, &wanted))
        });
        if !same && let Err(error) = write(&core, &wanted).await {
            tracing::warn!(%error, "{NAME} could not be written, will retry");
        }
        let changed = tokio::select! {
            () = core.stop.cancelled() => return,
            changed = changes.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// The certificate with which this server calls others is the one that it shows to kubelets:
/// nobody else can have one of that name signed by that authority.
fn contents(trust: &Trust) -> Value {
    json!({
        "client-ca-file": trust.client.certificate_pem(),
        "requestheader-allowed-names": json!([KUBELET_CLIENT]).to_string(),
        "requestheader-client-ca-file": trust.kubelet.certificate_pem(),
        "requestheader-extra-headers-prefix": json!(["X-Remote-Extra-"]).to_string(),
        "requestheader-group-headers": json!(["X-Remote-Group"]).to_string(),
        "requestheader-uid-headers": json!(["X-Remote-Uid"]).to_string(),
        "requestheader-username-headers": json!(["X-Remote-User"]).to_string(),
    })
}

fn holds(object: &Value, wanted: &Value) -> bool {
    let Some(wanted) = wanted.as_object() else { return false };
    wanted.iter().all(|(key, value)| object["data"].get(key) == Some(value))
}

async fn write(core: &Core, wanted: &Value) -> Result<(), Status> {
    let row = initial::row("", "configmaps")?;
    let key = storage::key(row, NAMESPACE, NAME);
    let Some(stored) = core.storage.get(row, NAMESPACE, NAME).await? else {
        let object = initial::complete(core, row, NAMESPACE, NAME, json!({"data": wanted}));
        let value = storage::encode(row, &object)?;
        return core.storage.create(key, value, Extra::default()).await.map(drop);
    };
    let mut object = stored.object(row)?;
    let mut contents = object.fields("data").cloned().unwrap_or_default();
    for (field, value) in wanted.as_object().into_iter().flatten() {
        contents.insert(field.clone(), value.clone());
    }
    object["data"] = Value::Object(contents);
    let value = storage::encode(row, &object)?;
    core.storage.update(key, stored.revision, value, Extra::default()).await.map(drop)
}
