//! Conditions in CEL: whether a webhook wants to see a request that its rules match.

use std::rc::Rc;

use atoll_api::cel::admission::{Input, MatchConditions};
use serde_json::Value;

use super::super::AdmissionRequest;
use super::super::answering::Answering;
use super::super::matching::Matched;
use super::review;
use crate::core::Core;
use crate::status::Status;

/// Whether all conditions hold. With `fails`, one that cannot be evaluated is the request's
/// failure; without, it does not hold.
pub(super) fn hold(
    conditions: &MatchConditions,
    core: &Core,
    request: &AdmissionRequest<'_>,
    matched: &Matched,
    object: Option<&Value>,
    fails: bool,
) -> Result<bool, Status> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let show = |object: Option<&Value>| match object {
        Some(object) => matched.show(request, object),
        None => Value::Null,
    };
    let (object, old) = (show(object), show(request.old));
    let described = review::describe(request, matched)?;
    let authorizer = Answering { authorizer: core.authorizer.as_ref(), user: request.user };
    let input = Input {
        object: &object,
        old_object: &old,
        request: &described,
        params: &Value::Null,
        namespace: &Value::Null,
        authorizer: Rc::new(authorizer),
    };
    let held = conditions.matches(&input, fails);
    held.map_err(|problem| Status::forbidden(request.row, request.name, problem))
}
