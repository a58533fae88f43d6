//! The roles and bindings that every cluster starts with: upstream's, and a few of ours.
//!
//! They are data; [`objects`] turns them into API objects, `reconcile` compares those with
//! what is stored.

mod cluster_roles;
mod controllers;

use serde_json::{Map, Value, json};

use crate::rbac::RbacKind;
use crate::reconcile::AUTOUPDATE;
use crate::rule::Rule;

const GROUP: &str = "rbac.authorization.k8s.io";
const CONTROLLER_PREFIX: &str = "system:controller:";

/// One rule; each text is a list of words. `-` is the core API group.
#[derive(Debug, Clone, Copy)]
enum Row {
    /// Verbs, API groups, resources.
    On(&'static str, &'static str, &'static str),
    /// The same, for these names only.
    Named(&'static str, &'static str, &'static str, &'static str),
    /// Verbs, paths.
    Path(&'static str, &'static str),
}

#[derive(Debug, Clone, Copy)]
struct RoleRow {
    name: &'static str,
    /// Of `admin`, `edit` and `view` those whose rules these become a part of.
    gathered_into: &'static str,
    /// The role is made of those gathered under this name.
    gathers: &'static str,
    rules: &'static [Row],
}

impl RoleRow {
    const fn new(name: &'static str, rules: &'static [Row]) -> Self {
        Self { name, gathered_into: "", gathers: "", rules }
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    User(&'static str),
    Group(&'static str),
    /// In kube-system.
    ServiceAccount(&'static str),
}

#[derive(Debug, Clone, Copy)]
struct BindingRow<'a> {
    name: &'static str,
    role: &'static str,
    subjects: &'a [Who],
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";
const EVENTS: Row = Row::On("create patch update", "- events.k8s.io", "events");

const LEADER_LOCKING: &[Row] = &[
    Row::On("create get list update watch", "coordination.k8s.io", "leases"),
    Row::On("create get list update watch", "coordination.k8s.io", "leasecandidates"),
];

/// Roles in kube-system, and who has them.
const SYSTEM_ROLES: &[(RoleRow, &str, &[Who])] = &[
    (
        RoleRow::new(
            "extension-apiserver-authentication-reader",
            &[Row::Named(READ, "-", "configmaps", "extension-apiserver-authentication")],
        ),
        "system::extension-apiserver-authentication-reader",
        &[Who::User("system:kube-controller-manager"), Who::User("system:kube-scheduler")],
    ),
    (
        RoleRow::new("system::leader-locking-kube-controller-manager", LEADER_LOCKING),
        "system::leader-locking-kube-controller-manager",
        &[
            Who::User("system:kube-controller-manager"),
            Who::ServiceAccount("kube-controller-manager"),
            Who::ServiceAccount("leader-election-controller"),
        ],
    ),
    (
        RoleRow::new("system::leader-locking-kube-scheduler", LEADER_LOCKING),
        "system::leader-locking-kube-scheduler",
        &[Who::User("system:kube-scheduler"), Who::ServiceAccount("kube-scheduler")],
    ),
];

/// Every built-in object with its kind, roles before the bindings that name them.
#[must_use]
pub fn objects() -> Vec<(RbacKind, Value)> {
    let mut all = Vec::new();
    for row in cluster_roles::ROLES.iter().chain(controllers::ROLES) {
        all.push((RbacKind::ClusterRole, role("ClusterRole", "", row)));
    }
    for row in cluster_roles::BINDINGS {
        let object = binding("ClusterRoleBinding", "", row, "ClusterRole");
        all.push((RbacKind::ClusterRoleBinding, object));
    }
    for row in controllers::ROLES {
        let account = row.name.strip_prefix(CONTROLLER_PREFIX).unwrap_or(row.name);
        let subjects = [Who::ServiceAccount(account)];
        let row = BindingRow { name: row.name, role: row.name, subjects: &subjects };
        let object = binding("ClusterRoleBinding", "", &row, "ClusterRole");
        all.push((RbacKind::ClusterRoleBinding, object));
    }
    for (row, binding_name, subjects) in SYSTEM_ROLES {
        all.push((RbacKind::Role, role("Role", "kube-system", row)));
        let row = BindingRow { name: binding_name, role: row.name, subjects };
        all.push((RbacKind::RoleBinding, binding("RoleBinding", "kube-system", &row, "Role")));
    }
    all
}

/// What every node may do whatever runs on it; the node authorizer narrows some of it.
#[must_use]
pub fn node_rules() -> Vec<Rule> {
    cluster_roles::NODE.iter().map(rule).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|word| if word == "-" { "" } else { word }.to_owned()).collect()
}

fn rule(row: &Row) -> Rule {
    match *row {
        Row::On(verbs, groups, resources) => Rule {
            verbs: words(verbs),
            api_groups: words(groups),
            resources: words(resources),
            ..Rule::default()
        },
        Row::Named(verbs, groups, resources, names) => {
            Rule { resource_names: words(names), ..rule(&Row::On(verbs, groups, resources)) }
        }
        Row::Path(verbs, paths) => {
            Rule { verbs: words(verbs), non_resource_urls: words(paths), ..Rule::default() }
        }
    }
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "annotations": {AUTOUPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = json!(namespace);
    }
    metadata
}

fn role(kind: &str, namespace: &str, row: &RoleRow) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(row.name, namespace),
    });
    let aggregate = |into: &str| format!("{GROUP}/aggregate-to-{into}");
    for into in row.gathered_into.split_whitespace() {
        object["metadata"]["labels"][aggregate(into)] = json!("true");
    }
    if row.gathers.is_empty() {
        let rules: Vec<Value> = row.rules.iter().map(|row| rule(row).to_value()).collect();
        object["rules"] = Value::from(rules);
    } else {
        let mut labels = Map::new();
        labels.insert(aggregate(row.gathers), json!("true"));
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": labels}]});
        object["rules"] = json!([]);
    }
    object
}

fn binding(kind: &str, namespace: &str, row: &BindingRow<'_>, role_kind: &str) -> Value {
    let subjects: Vec<Value> = row
        .subjects
        .iter()
        .map(|who| match who {
            Who::User(name) => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            Who::Group(name) => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            Who::ServiceAccount(name) => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
            }
        })
        .collect();
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": metadata(row.name, namespace),
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": row.role},
    });
    if !subjects.is_empty() {
        object["subjects"] = Value::from(subjects);
    }
    object
}

#[cfg(test)]
mod tests;
