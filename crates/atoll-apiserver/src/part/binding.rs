//! `pods/binding`: puts a pod on a node, once.

use atoll_api::kinds;
use http::StatusCode;
use serde_json::Value;

use super::{decode, part_of, text};
use crate::admission::{self, Operation};
use crate::call::Call;
use crate::render::Answer;
use crate::status::{self, Status};
use crate::storage::{self, Extra, Written};
use crate::update::ATTEMPTS_MAX;

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
    for _ in 0..ATTEMPTS_MAX {
        let stored = call.core.storage.get(&call.row, call.namespace(), call.name()).await?;
        let stored = stored.ok_or_else(|| call.not_found())?;
        let mut pod = call.decode(&stored).await?;
        assign(call, &mut pod, &incoming.object)?;
        if options.dry_run {
            break;
        }
        let key = storage::key(&call.row, call.namespace(), call.name());
        let value = call.encode(&pod).await?;
        let written =
            call.core.storage.update(key, stored.revision, value, Extra::default()).await?;
        if let Written::Done(_) = written {
            break;
        }
    }
    let mut answer = Answer::ok(status::plain_success(201)).with_warnings(incoming.warnings);
    answer.code = StatusCode::CREATED;
    Ok(answer)
}

fn assign(call: &Call, pod: &mut Value, binding: &Value) -> Result<(), Status> {
    let conflict = |why: String| Status::conflict_of_part(&call.row, "binding", call.name(), why);
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
    kinds::pod::bind(pod, binding, &call.core.now_text()).map_err(conflict)
}
