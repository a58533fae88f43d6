//! `pods/binding` and `bindings`: put a pod on a node, once.

use atoll_api::kinds;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::StatusCode;
use serde_json::Value;

use super::{decode, part_of, text};
use crate::admission::{self, Operation};
use crate::call::Call;
use crate::core::Core;
use crate::extension::VirtualCreate;
use crate::initial;
use crate::render::Answer;
use crate::status::{self, Status};
use crate::storage::{self, Extra, Written};
use crate::turns::Attempts;

pub(super) async fn serve(call: &Call) -> Result<Answer, Status> {
    let options = call.query.write_options("CreateOptions")?;
    let mut incoming = decode(call, part_of(call)?, &options)?;
    let name = text(&incoming.object, "/metadata/name");
    if !name.is_empty() && name != call.name() {
        return Err(Status::bad_request("name in URL does not match name in Binding object"));
    }
    let request = call.admission(Operation::Create, call.name(), None, options.dry_run);
    admission::admit(&call.core, &request, &mut incoming.object).await?;
    admission::validate(&call.core, &request, &incoming.object).await?;
    let (namespace, name) = (call.namespace(), call.name());
    bind(&call.core, namespace, name, &incoming.object, options.dry_run).await?;
    let mut answer = Answer::ok(status::plain_success(201)).with_warnings(incoming.warnings);
    answer.code = StatusCode::CREATED;
    Ok(answer)
}

/// `bindings`, the way of old clients: the object names the pod.
pub(crate) fn create<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    async move {
        let name = text(&request.object, "/metadata/name").to_owned();
        if name.is_empty() {
            return Err(Status::bad_request("metadata.name: Required value"));
        }
        bind(core, request.namespace, &name, &request.object, request.dry_run).await?;
        Ok(status::plain_success(201))
    }
    .boxed()
}

async fn bind(
    core: &Core,
    namespace: &str,
    name: &str,
    binding: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let row = initial::row("", "pods")?;
    let mut attempts = Attempts::on(core, row, namespace, name);
    while attempts.next().await {
        let stored = core.storage.get(row, namespace, name).await?;
        let stored = stored.ok_or_else(|| Status::not_found(row, name))?;
        let mut pod = stored.object(row)?;
        assign(core, &mut pod, binding)?;
        if dry_run {
            return Ok(());
        }
        let key = storage::key(row, namespace, name);
        let value = storage::encode(row, &pod)?;
        let written = core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(_) = written {
            return Ok(());
        }
    }
    Err(Status::modified(row, name))
}

fn assign(core: &Core, pod: &mut Value, binding: &Value) -> Result<(), Status> {
    let row = initial::row("", "pods")?;
    let name = text(pod, "/metadata/name").to_owned();
    let conflict = |why: String| Status::conflict_of_part(row, "binding", &name, why);
    let node = text(binding, "/target/name");
    if node.is_empty() {
        return Err(Status::bad_request("target.name: Required value"));
    }
    let uid = text(binding, "/metadata/uid");
    if !uid.is_empty() && uid != text(pod, "/metadata/uid") {
        let own = text(pod, "/metadata/uid");
        return Err(conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {own}"
        )));
    }
    kinds::pod::bind(pod, binding, &core.now_text()).map_err(conflict)
}
