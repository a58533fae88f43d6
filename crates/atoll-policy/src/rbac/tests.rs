//! Authorization by RBAC, escalation, and the words of refusals.

use serde_json::json;

use super::*;
use crate::{escalation_problem, forbidden};

fn ask<'a>(user: &'a str, verb: &'a str, resource: &'a str, namespace: &'a str) -> Request<'a> {
    Request {
        user,
        groups: &[],
        verb,
        resource_request: true,
        group: "",
        resource,
        subresource: "",
        namespace,
        name: "",
        path: "",
        field_selector: "",
    }
}

fn rbac() -> Rbac {
    let mut rbac = Rbac::default();
    rbac.apply(
        RbacKind::Role,
        &json!({"metadata": {"namespace": "team", "name": "reader"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"], "verbs": ["get"]},
        ]}),
    );
    rbac.apply(RbacKind::RoleBinding, &binding("RoleBinding", "reader", "User", "jane"));
    rbac
}

fn binding(_kind: &str, role: &str, subject: &str, name: &str) -> Value {
    json!({
        "metadata": {"namespace": "team", "name": "b"},
        "roleRef": {"kind": "Role", "name": role},
        "subjects": [{"kind": subject, "name": name}],
    })
}

fn allows(rbac: &Rbac, request: &Request<'_>) -> bool {
    matches!(rbac.authorize(request), Verdict::Allowed { .. })
}

#[test]
fn a_binding_counts_in_its_own_namespace_only() {
    let rbac = rbac();
    assert!(allows(&rbac, &ask("jane", "list", "pods", "team")));
    assert!(!allows(&rbac, &ask("jane", "list", "pods", "other")));
    assert!(!allows(&rbac, &ask("jane", "list", "pods", "")));
    assert!(!allows(&rbac, &ask("joe", "list", "pods", "team")));
    assert!(!allows(&rbac, &ask("jane", "delete", "pods", "team")));
}

#[test]
fn subresources_are_rights_of_their_own() {
    let rbac = rbac();
    let log = Request { subresource: "log", ..ask("jane", "get", "pods", "team") };
    assert!(!allows(&rbac, &log));
    let scale = Request { subresource: "scale", ..ask("jane", "get", "anything", "team") };
    assert!(allows(&rbac, &scale));
}

#[test]
fn a_rule_for_names_needs_the_name() {
    let rbac = rbac();
    assert!(allows(&rbac, &Request { name: "one", ..ask("jane", "get", "secrets", "team") }));
    assert!(!allows(&rbac, &Request { name: "two", ..ask("jane", "get", "secrets", "team") }));
    assert!(!allows(&rbac, &ask("jane", "get", "secrets", "team")));
}

#[test]
fn a_service_account_is_a_subject() {
    let mut rbac = rbac();
    rbac.apply(RbacKind::RoleBinding, &binding("RoleBinding", "reader", "ServiceAccount", "app"));
    assert!(allows(&rbac, &ask("system:serviceaccount:team:app", "get", "pods", "team")));
    assert!(!allows(&rbac, &ask("jane", "get", "pods", "team")), "the old subject is gone");
}

#[test]
fn a_deleted_binding_stops_counting() {
    let mut rbac = rbac();
    rbac.remove(RbacKind::RoleBinding, "team", "b");
    assert!(!allows(&rbac, &ask("jane", "list", "pods", "team")));
    assert!(rbac.by_user.is_empty());
}

#[test]
fn the_reason_names_binding_role_and_subject() {
    let Verdict::Allowed { reason } = rbac().authorize(&ask("jane", "list", "pods", "team")) else {
        panic!("refused")
    };
    assert_eq!(reason, r#"RBAC: allowed by RoleBinding "b/team" of Role "reader" to User "jane""#);
}

#[test]
fn a_missing_role_is_named() {
    let mut rbac = rbac();
    rbac.remove(RbacKind::Role, "team", "reader");
    let request = ask("jane", "list", "pods", "team");
    let Verdict::NoOpinion { reason } = rbac.authorize(&request) else { panic!("allowed") };
    assert_eq!(reason, r#"RBAC: role.rbac.authorization.k8s.io "reader" not found"#);
}

#[test]
fn refusals_use_upstreams_words() {
    let request = ask("u", "list", "configmaps", "default");
    assert_eq!(
        forbidden(&request, ""),
        r#"configmaps is forbidden: User "u" cannot list resource "configmaps" in API group "" in the namespace "default""#
    );
    let named = Request {
        group: "apps",
        name: "web",
        subresource: "scale",
        ..ask("u", "get", "deployments", "")
    };
    assert_eq!(
        forbidden(&named, "RBAC: x"),
        r#"deployments.apps "web" is forbidden: User "u" cannot get resource "deployments/scale" in API group "apps" at the cluster scope: RBAC: x"#
    );
    let path = Request { resource_request: false, path: "/metrics", ..ask("u", "get", "", "") };
    assert_eq!(forbidden(&path, ""), r#"forbidden: User "u" cannot get path "/metrics""#);
}

#[test]
fn nobody_grants_more_than_they_have() {
    let wanted = Rule::list(&json!({"rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "delete", "watch"]},
        {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
    ]}));
    let (owned, problems) = rbac().rules_for("jane", &[], "team");
    let groups = ["system:authenticated".to_owned()];
    let message = escalation_problem("jane", &groups, &owned, &wanted, &problems).unwrap();
    assert_eq!(
        message,
        "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC \
         permissions not currently held:\n\
         {APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\" \"watch\"]}\n\
         {NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}"
    );
    assert_eq!(escalation_problem("jane", &groups, &owned, &owned, &problems), None);
}

#[test]
fn a_right_to_one_name_is_no_right_to_all() {
    let owned = Rule::list(&json!({"rules": [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"], "verbs": ["get"]},
    ]}));
    let wanted = Rule::list(&json!({"rules": [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]},
    ]}));
    assert_eq!(crate::covers(&owned, &wanted).len(), 1);
    assert!(crate::covers(&wanted, &owned).is_empty());
}

#[test]
fn gathered_rules_follow_labels_at_once() {
    let mut rbac = Rbac::default();
    let gatherer = json!({
        "metadata": {"name": "all"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [
            {"key": "part", "operator": "In", "values": ["yes"]},
        ]}]},
    });
    let part = |label: &str| {
        json!({
            "metadata": {"name": "p", "labels": {"part": label}},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
        })
    };
    rbac.apply(RbacKind::ClusterRole, &gatherer);
    rbac.apply(RbacKind::ClusterRole, &part("yes"));
    assert_eq!(rbac.aggregate("all").unwrap().len(), 1);
    rbac.apply(RbacKind::ClusterRole, &part("no"));
    assert_eq!(rbac.aggregate("all").unwrap(), []);
}
