//! Conditions in CEL: whether a webhook wants to see a request that its rules match.

use std::rc::Rc;

use atoll_api::cel::admission::{Input, MatchConditions};
use atoll_api::cel::authorizer::{Authorize, Decision as Answer, Question};
use serde_json::Value;

use super::super::AdmissionRequest;
use super::super::matching::Matched;
use super::review;
use crate::authz::{Attributes, Authorizer, Decision};
use crate::core::Core;
use crate::status::Status;
use crate::tokens::{account_groups, account_user};
use crate::user::UserInfo;

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

/// The authorizer of the server, asked about the user of the request or a service account.
struct Answering<'a> {
    authorizer: &'a dyn Authorizer,
    user: &'a UserInfo,
}

impl Authorize for Answering<'_> {
    fn authorize(&self, question: &Question) -> Answer {
        let account = question.account.as_ref().map(|(namespace, name)| {
            UserInfo::authenticated(account_user(namespace, name), account_groups(namespace))
        });
        let path = question.path.as_deref().unwrap_or("");
        let attributes = Attributes {
            verb: &question.verb,
            resource_request: question.path.is_none(),
            group: &question.group,
            // As upstream: any version.
            version: "*",
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            field_selector: &question.field_selector,
            label_selector: &question.label_selector,
            ..Attributes::empty(account.as_ref().unwrap_or(self.user), path)
        };
        let (allowed, reason) = match self.authorizer.authorize(&attributes) {
            Decision::Allow { reason } => (true, reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => (false, reason),
        };
        Answer { allowed, reason, error: String::new() }
    }
}
