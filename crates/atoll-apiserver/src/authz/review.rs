//! Access reviews: the authorizer's answer as an object.

use std::collections::BTreeMap;

use atoll_api::access::Access as _;
use atoll_policy::Rule;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{Attributes, Authorizer, Decision};
use crate::core::Core;
use crate::extension::VirtualCreate;
use crate::status::Status;
use crate::user::UserInfo;

/// `SubjectAccessReview`: may that user do this.
pub fn subject<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    let VirtualCreate { mut object, .. } = request;
    let user = subject_of(&object["spec"]);
    object["status"] = answer(core.authorizer.as_ref(), &user, &object["spec"]);
    async move { Ok(object) }.boxed()
}

/// `SelfSubjectAccessReview`: may I do this.
pub fn own<'a>(core: &'a Core, request: VirtualCreate<'a>) -> BoxFuture<'a, Result<Value, Status>> {
    let VirtualCreate { user, mut object, .. } = request;
    object["status"] = answer(core.authorizer.as_ref(), user, &object["spec"]);
    async move { Ok(object) }.boxed()
}

/// `LocalSubjectAccessReview`: may that user do this in the namespace of the request.
pub fn local<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    let VirtualCreate { namespace, mut object, .. } = request;
    if object["spec"]["resourceAttributes"].text("namespace") != namespace {
        let message = "spec.resourceAttributes.namespace must match namespace";
        return async move { Err(Status::bad_request(message)) }.boxed();
    }
    let user = subject_of(&object["spec"]);
    object["status"] = answer(core.authorizer.as_ref(), &user, &object["spec"]);
    async move { Ok(object) }.boxed()
}

/// `SelfSubjectRulesReview`: what may I do in this namespace.
pub fn rules<'a>(
    core: &'a Core,
    request: VirtualCreate<'a>,
) -> BoxFuture<'a, Result<Value, Status>> {
    let VirtualCreate { user, mut object, .. } = request;
    let namespace = object["spec"].text("namespace").to_owned();
    if namespace.is_empty() {
        return async { Err(Status::bad_request("no namespace on request")) }.boxed();
    }
    let (rules, problems) = core.authorizer.rules(user, &namespace);
    let is_node = atoll_policy::node::node_of(&user.name, &user.groups).is_some();
    let pick = |paths: bool| -> Vec<Value> {
        rules
            .iter()
            .filter(|rule| rule.non_resource_urls.is_empty() != paths)
            .map(Rule::to_value)
            .collect()
    };
    object["status"] = json!({
        "resourceRules": pick(false),
        "nonResourceRules": pick(true),
        "incomplete": is_node || !problems.is_empty(),
    });
    if is_node {
        object["status"]["evaluationError"] =
            json!("node authorizer does not support user rule resolution");
    } else if !problems.is_empty() {
        object["status"]["evaluationError"] = json!(problems.join(", "));
    }
    async move { Ok(object) }.boxed()
}

fn subject_of(spec: &Value) -> UserInfo {
    UserInfo {
        name: spec.text("user").to_owned(),
        uid: spec.text("uid").to_owned(),
        groups: texts(spec.items("groups")),
        extra: extra(&spec["extra"]),
        sender: None,
    }
}

/// Reads `extra` of a user in an object.
pub(crate) fn extra(value: &Value) -> BTreeMap<String, Vec<String>> {
    value.as_object().map_or_else(BTreeMap::new, |map| {
        map.iter()
            .map(|(key, values)| {
                let values = values.as_array().map_or(&[][..], Vec::as_slice);
                (key.clone(), texts(values))
            })
            .collect()
    })
}

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn answer(authorizer: &dyn Authorizer, user: &UserInfo, spec: &Value) -> Value {
    let resource = &spec["resourceAttributes"];
    let attributes = if resource.is_object() {
        Attributes {
            version: resource.text("version"),
            subresource: resource.text("subresource"),
            namespace: resource.text("namespace"),
            name: resource.text("name"),
            field_selector: resource["fieldSelector"].text("rawSelector"),
            label_selector: resource["labelSelector"].text("rawSelector"),
            ..Attributes::resource(
                user,
                resource.text("verb"),
                resource.text("group"),
                resource.text("resource"),
            )
        }
    } else {
        let path = &spec["nonResourceAttributes"];
        Attributes {
            resource_request: false,
            path: path.text("path"),
            ..Attributes::resource(user, path.text("verb"), "", "")
        }
    };
    let (allowed, denied, reason) = match authorizer.authorize(&attributes) {
        Decision::Allow { reason } => (true, false, reason),
        Decision::Deny { reason } => (false, true, reason),
        Decision::NoOpinion { reason } => (false, false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if denied {
        status["denied"] = json!(true);
    }
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    status
}
