//! What a policy is shown of a request.

use std::borrow::Cow;
use std::rc::Rc;

use atoll_api::cel::admission::Input;
use serde_json::{Map, Value, json};

use super::super::answering::Answering;
use super::super::matching::{self, Matched};
use super::super::{AdmissionRequest, Operation};
use crate::core::Core;
use crate::status::Status;
use crate::user::UserInfo;

/// The objects of a request in the version that a policy matched.
pub(super) struct Shown<'a> {
    pub object: Cow<'a, Value>,
    old: Cow<'a, Value>,
    request: Value,
    namespace: Value,
}

/// On a delete there is no new object.
pub(super) fn new_object<'a>(
    request: &AdmissionRequest<'_>,
    object: &'a Value,
) -> Option<&'a Value> {
    (request.operation != Operation::Delete).then_some(object)
}

/// The namespace that a request is in; a namespace is in none.
pub(super) async fn namespace(
    core: &Core,
    request: &AdmissionRequest<'_>,
) -> Result<Value, Status> {
    if request.namespace.is_empty() || is_namespace(request) {
        return Ok(Value::Null);
    }
    match matching::namespace(core, request.namespace).await? {
        Some(mut namespace) => {
            trim_namespace(&mut namespace);
            Ok(namespace)
        }
        None => match crate::namespace::row() {
            Some(row) => Err(Status::not_found(row, request.namespace)),
            None => Err(Status::no_resource()),
        },
    }
}

fn is_namespace(request: &AdmissionRequest<'_>) -> bool {
    request.row.group.is_empty() && request.row.resource == "namespaces"
}

/// Policies do not see who manages or owns a namespace.
fn trim_namespace(namespace: &mut Value) {
    if let Some(metadata) = namespace.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        metadata.remove("ownerReferences");
    }
}

impl<'a> Shown<'a> {
    pub(super) fn new(
        request: &AdmissionRequest<'a>,
        matched: &Matched,
        object: &'a Value,
        namespace: Value,
    ) -> Self {
        let object = match new_object(request, object) {
            Some(object) => matched.view(request, object),
            None => Cow::Owned(Value::Null),
        };
        let old = match request.old {
            Some(old) => matched.view(request, old),
            None => Cow::Owned(Value::Null),
        };
        Self { object, old, request: describe(request, matched), namespace }
    }

    /// For one parameter, null for none. It is not to be held while anything is waited for.
    pub(super) fn input<'s>(
        &'s self,
        core: &'s Core,
        request: &AdmissionRequest<'s>,
        params: &'s Value,
    ) -> Input<'s> {
        let authorizer = core.authorizer.as_ref();
        Input {
            object: &self.object,
            old_object: &self.old,
            request: &self.request,
            params,
            namespace: &self.namespace,
            authorizer: Rc::new(Answering { authorizer, user: request.user }),
        }
    }
}

/// admission.k8s.io/v1 `AdmissionRequest` without objects and uid; what is empty is absent.
fn describe(request: &AdmissionRequest<'_>, matched: &Matched) -> Value {
    let asked = Matched::as_asked(request);
    let kind = |of: &Matched| json!({"group": of.kind.group, "version": of.kind.version, "kind": of.kind.kind});
    let resource = |of: &Matched| {
        let own = &of.resource;
        json!({"group": own.group, "version": own.version, "resource": own.resource})
    };
    let mut map = Map::new();
    map.insert("kind".to_owned(), kind(matched));
    map.insert("resource".to_owned(), resource(matched));
    map.insert("requestKind".to_owned(), kind(&asked));
    map.insert("requestResource".to_owned(), resource(&asked));
    map.insert("operation".to_owned(), json!(request.operation.as_str()));
    map.insert("userInfo".to_owned(), user_info(request.user));
    map.insert("dryRun".to_owned(), json!(request.dry_run));
    map.insert("options".to_owned(), request.options.clone());
    // A namespace has the namespace of itself.
    let namespace = if is_namespace(request) { request.name } else { request.namespace };
    for (field, text) in [
        ("subResource", request.subresource),
        ("requestSubResource", request.subresource),
        ("name", request.name),
        ("namespace", namespace),
    ] {
        if !text.is_empty() {
            map.insert(field.to_owned(), json!(text));
        }
    }
    Value::Object(map)
}

fn user_info(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.groups.is_empty() {
        value["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}
