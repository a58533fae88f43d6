//! Nobody hands out rights that they do not have themselves.

use atoll_api::access::Access as _;
use atoll_api::kinds;
use atoll_policy::rbac::RoleRef;
use atoll_policy::{Rule, escalation_problem};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::{AdmissionRequest, Operation};
use crate::authz::{Attributes, Decision};
use crate::core::Core;
use crate::status::Status;
use crate::user::MASTERS;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks roles and bindings that are created or changed.
pub(super) fn check<'a>(
    core: &'a Core,
    request: &'a AdmissionRequest<'a>,
    object: &'a Value,
) -> BoxFuture<'a, Result<(), Status>> {
    let checked = decide(core, request, object);
    async move { checked }.boxed()
}

fn decide(core: &Core, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let changes = matches!(request.operation, Operation::Create | Operation::Update);
    if request.row.group != GROUP || !changes || request.user.in_group(MASTERS) {
        return Ok(());
    }
    match &*request.row.resource {
        "roles" | "clusterroles" => role(core, request, object),
        "rolebindings" | "clusterrolebindings" => binding(core, request, object),
        _ => Ok(()),
    }
}

fn role(core: &Core, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let gathers = |object: &Value| object["aggregationRule"].clone();
    let unchanged = request.old.is_some_and(|old| {
        Rule::list(old) == Rule::list(object) && gathers(old) == gathers(object)
    });
    if unchanged || has_verb(core, request, "escalate", &request.row.resource, request.name) {
        return Ok(());
    }
    let mut rules = Rule::list(object);
    if object.has("aggregationRule") {
        // What will be gathered is not known: it takes the right to everything.
        rules.extend(everything());
    }
    confirm(core, request, &rules)
}

fn binding(core: &Core, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    let unchanged = request.old.is_some_and(|old| {
        old["subjects"] == object["subjects"] && old["roleRef"] == object["roleRef"]
    });
    let role = RoleRef::of(object);
    let resource = if role.cluster { "clusterroles" } else { "roles" };
    if unchanged || has_verb(core, request, "bind", resource, &role.name) {
        return Ok(());
    }
    let rules =
        core.authorizer.role(&role, request.namespace).map_err(|problem| {
            match kinds::find(GROUP, "v1", resource) {
                Some(row) => Status::not_found(row, &role.name),
                None => Status::internal(problem),
            }
        })?;
    confirm(core, request, &rules)
}

fn has_verb(
    core: &Core,
    request: &AdmissionRequest<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        version: "*",
        namespace: request.namespace,
        name,
        ..Attributes::resource(request.user, verb, GROUP, resource)
    };
    matches!(core.authorizer.authorize(&attributes), Decision::Allow { .. })
}

fn confirm(core: &Core, request: &AdmissionRequest<'_>, rules: &[Rule]) -> Result<(), Status> {
    let user = request.user;
    let (owned, unresolved) = core.authorizer.rules(user, request.namespace);
    match escalation_problem(&user.name, &user.groups, &owned, rules, &unresolved) {
        None => Ok(()),
        Some(problem) => Err(Status::forbidden(request.row, request.name, problem)),
    }
}

fn everything() -> [Rule; 2] {
    let all = || vec!["*".to_owned()];
    [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ]
}
