//! From a call to the verb that answers it.

use bytes::Bytes;
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;

use crate::body::Body;
use crate::call::Call;
use crate::render::{self, Answer};
use crate::status::Status;
use crate::{computed, create, delete, list, metrics_api, part, patch, update, watch};

/// With the answer to a stale read of a server that cannot know better.
const STALE: &str =
    "this server does not see a majority of the servers: what it shows may be stale";

/// Answers a request for an object, a collection or a part of an object.
pub(crate) async fn serve(
    call: Call,
    upgrade: Option<OnUpgrade>,
) -> Result<Response<Body>, Status> {
    let verb = call.info.verb;
    let allowed = match &call.part {
        Some(part) => part.verbs.contains(&verb),
        // POST is for collections, PUT and PATCH are for objects.
        None => {
            let on_collection = call.name().is_empty();
            let fits = match verb {
                "create" => on_collection,
                "update" | "patch" => !on_collection,
                _ => true,
            };
            // Whoever holds an object of a kind that goes can still let it go.
            let ends = call.row.is_ending() && matches!(verb, "update" | "patch");
            fits && (ends || call.row.allows(verb))
        }
    };
    if !allowed && verb == "create" && call.part.is_none() && call.row.is_ending() {
        return Err(Status::definition_ends(&call.row));
    }
    if !allowed {
        return Err(Status::method_not_allowed());
    }
    if let Some(part) = &call.part
        && part::is_own(part)
    {
        return respond(&call, part::serve(&call, part).await?);
    }
    if metrics_api::is(&call.row) {
        return bytes(&call, metrics_api::serve(&call).await?);
    }
    if let Some(objects) = computed::of(&call.row) {
        return bytes(&call, computed::read(&call, objects)?);
    }
    match verb {
        "get" => bytes(&call, list::get(&call).await?),
        "list" => bytes(&call, list::list(&call).await?),
        "watch" => watch::watch(call, upgrade).await,
        "create" => respond(&call, create::create(&call).await?),
        "update" => respond(&call, update::update(&call).await?),
        "patch" => respond(&call, patch::patch(&call).await?),
        "delete" => respond(&call, delete::delete(&call).await?),
        "deletecollection" => respond(&call, delete::collection(&call).await?),
        _ => Err(Status::method_not_allowed()),
    }
}

fn bytes(call: &Call, bytes: Bytes) -> Result<Response<Body>, Status> {
    let mut response = render::response(call.accept, StatusCode::OK, bytes);
    if call.query.text("resourceVersion") == "0" && call.core.is_cut_off() {
        render::add_warnings(&mut response, &[STALE.to_owned()]);
    }
    Ok(response)
}

fn respond(call: &Call, answer: Answer) -> Result<Response<Body>, Status> {
    let view = call.view();
    let bytes = view.encode(&view.object(answer.object))?;
    let mut response = render::response(call.accept, answer.code, bytes);
    render::add_warnings(&mut response, &answer.warnings);
    Ok(response)
}
