//! Parts of objects that are more than the object under other rules: scale, binding,
//! eviction, and whatever is answered without being stored.

pub(crate) mod binding;
mod eviction;
mod scale;

use atoll_api::kinds::Subresource;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use crate::call::Call;
use crate::create;
use crate::decode::{self, Expected, Incoming};
use crate::extension::VirtualCreate;
use crate::negotiate;
use crate::query::WriteOptions;
use crate::render::Answer;
use crate::status::Status;

type Handler = for<'a> fn(&'a Call) -> BoxFuture<'a, Result<Answer, Status>>;

/// Parts by name, whatever the resource.
static PARTS: &[(&str, Handler)] = &[
    ("scale", |call| scale::serve(call).boxed()),
    ("binding", |call| binding::serve(call).boxed()),
    ("eviction", |call| eviction::serve(call).boxed()),
];

/// Whether a part has a way of its own; the others are updates of the object.
pub(crate) fn is_own(part: &Subresource) -> bool {
    part.update.is_none() && part.name != "status"
}

pub(crate) async fn serve(call: &Call, part: &Subresource) -> Result<Answer, Status> {
    if let Some((_, handler)) = PARTS.iter().find(|(name, _)| *name == part.name) {
        return handler(call).await;
    }
    let handler = create::virtual_handler(call).ok_or_else(Status::no_resource)?;
    let options = call.query.write_options("CreateOptions")?;
    let incoming = decode(call, part, &options)?;
    let request = VirtualCreate {
        user: &call.user,
        namespace: call.namespace(),
        name: call.name(),
        object: incoming.object,
        dry_run: options.dry_run,
    };
    let object = handler(&call.core, request).await?;
    Ok(Answer::created(object).with_warnings(incoming.warnings))
}

/// The body as the kind of the part.
fn decode(call: &Call, part: &Subresource, options: &WriteOptions) -> Result<Incoming, Status> {
    let expected = Expected::of_part(&call.row, part);
    let format = negotiate::body_format(&call.headers)?;
    decode::object(&expected, &call.body, format, options.field_validation)
}

/// The part that this call is for.
fn part_of(call: &Call) -> Result<&Subresource, Status> {
    call.part.as_ref().ok_or_else(Status::no_resource)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}
