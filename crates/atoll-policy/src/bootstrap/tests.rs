//! The built-in objects as a whole: unique, resolvable, stable.

use std::collections::HashSet;

use super::*;
use crate::Request;
use crate::rbac::{Rbac, RoleRef, Verdict};
use crate::reconcile::{Step, reconcile};

fn loaded() -> Rbac {
    let mut rbac = Rbac::default();
    for (kind, object) in objects() {
        rbac.apply(kind, &object);
    }
    rbac
}

fn request<'a>(user: &'a str, groups: &'a [String], verb: &'a str) -> Request<'a> {
    Request {
        user,
        groups,
        verb,
        resource_request: true,
        group: "",
        resource: "",
        subresource: "",
        namespace: "",
        name: "",
        path: "",
        field_selector: "",
    }
}

fn allowed(request: &Request<'_>) -> bool {
    matches!(loaded().authorize(request), Verdict::Allowed { .. })
}

#[test]
fn names_are_unique_and_every_role_is_there() {
    let mut seen = HashSet::new();
    let rbac = loaded();
    for (kind, object) in objects() {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
        assert!(seen.insert((kind.resource(), namespace.clone(), name.clone())), "{name} twice");
        if object.get("roleRef").is_some() {
            let role = RoleRef::of(&object);
            assert!(rbac.rules(&role, &namespace).is_ok(), "{name} binds {role:?}");
        }
    }
}

#[test]
fn stored_built_ins_need_no_rewrite() {
    for (_, object) in objects() {
        assert_eq!(reconcile(&object, &object), None);
    }
}

#[test]
fn a_gathered_role_that_was_filled_needs_no_rewrite() {
    let rbac = loaded();
    let (_, mut admin) =
        objects().into_iter().find(|(_, o)| o["metadata"]["name"] == "admin").unwrap();
    let expected = admin.clone();
    let rules = rbac.aggregate("admin").unwrap();
    assert!(rules.len() > 15);
    admin["rules"] = rules.iter().map(Rule::to_value).collect();
    assert_eq!(reconcile(&expected, &admin), None);
}

#[test]
fn lost_rules_come_back_and_added_ones_stay() {
    let (_, expected) =
        objects().into_iter().find(|(_, o)| o["metadata"]["name"] == "system:node").unwrap();
    let mut stored = expected.clone();
    stored["rules"] = json!([{"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]}]);
    let Some(Step::Update(new)) = reconcile(&expected, &stored) else { panic!("no update") };
    assert_eq!(new["rules"][0], stored["rules"][0]);
    assert!(crate::covers(&Rule::list(&new), &Rule::list(&expected)).is_empty());
}

#[test]
fn an_object_marked_false_is_left_alone() {
    let (_, expected) = objects().swap_remove(0);
    let mut stored = expected.clone();
    stored["rules"] = json!([]);
    stored["metadata"]["annotations"][AUTOUPDATE] = json!("false");
    assert_eq!(reconcile(&expected, &stored), None);
}

#[test]
fn strangers_see_health_and_version_only() {
    let groups = ["system:unauthenticated".to_owned()];
    let path = |path| Request {
        resource_request: false,
        path,
        ..request("system:anonymous", &groups, "get")
    };
    assert!(allowed(&path("/version")));
    assert!(allowed(&path("/livez")));
    assert!(!allowed(&path("/api")));
    assert!(!allowed(&path("/metrics")));
    let pods = Request { resource: "pods", ..request("system:anonymous", &groups, "list") };
    assert!(!allowed(&pods));
}

#[test]
fn masters_may_do_everything() {
    let groups = ["system:masters".to_owned()];
    let escalate = Request {
        group: "rbac.authorization.k8s.io",
        resource: "clusterroles",
        ..request("admin", &groups, "escalate")
    };
    assert!(allowed(&escalate));
}

#[test]
fn a_view_of_a_namespace_shows_pods_but_no_secrets() {
    let mut rbac = loaded();
    rbac.apply(
        RbacKind::RoleBinding,
        &json!({
            "metadata": {"name": "v", "namespace": "team"},
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [{"kind": "User", "name": "jane"}],
        }),
    );
    let ask = |resource, namespace| {
        let request = Request { resource, namespace, ..request("jane", &[], "list") };
        matches!(rbac.authorize(&request), Verdict::Allowed { .. })
    };
    assert!(ask("pods", "team"));
    assert!(!ask("pods", "other"));
    assert!(!ask("pods", ""));
    assert!(!ask("secrets", "team"));
}

/// User, verb, group, resource: what the parts of this program ask for today.
const OWN_REQUESTS: &[(&str, &str, &str, &str)] = &[
    ("kube-controller-manager", "watch", "apps", "deployments"),
    ("kube-controller-manager", "list", "", "endpoints"),
    ("kube-scheduler", "watch", "", "namespaces"),
    ("kube-scheduler", "list", "apps", "replicasets"),
    ("kube-scheduler", "create", "", "pods/binding"),
    ("kube-scheduler", "patch", "", "pods/status"),
    ("kube-scheduler", "create", "events.k8s.io", "events"),
    ("deployment-controller", "patch", "apps", "deployments"),
    ("deployment-controller", "patch", "apps", "deployments/status"),
    ("deployment-controller", "patch", "apps", "replicasets"),
    ("replicaset-controller", "patch", "apps", "replicasets/status"),
    ("replicaset-controller", "create", "", "pods"),
    ("replicaset-controller", "delete", "", "pods"),
    ("replicaset-controller", "patch", "", "pods"),
    ("replication-controller", "patch", "", "replicationcontrollers/status"),
    ("replication-controller", "get", "", "replicationcontrollers"),
    ("replication-controller", "create", "", "pods"),
    ("statefulset-controller", "get", "apps", "statefulsets"),
    ("statefulset-controller", "patch", "apps", "statefulsets/status"),
    ("statefulset-controller", "create", "apps", "controllerrevisions"),
    ("statefulset-controller", "patch", "apps", "controllerrevisions"),
    ("statefulset-controller", "delete", "", "pods"),
    ("statefulset-controller", "patch", "", "pods"),
    ("statefulset-controller", "create", "", "persistentvolumeclaims"),
    ("statefulset-controller", "patch", "", "persistentvolumeclaims"),
    ("daemon-set-controller", "get", "apps", "daemonsets"),
    ("daemon-set-controller", "patch", "apps", "daemonsets/status"),
    ("daemon-set-controller", "delete", "apps", "controllerrevisions"),
    ("daemon-set-controller", "create", "", "pods"),
    ("daemon-set-controller", "patch", "", "pods"),
    ("endpointslice-controller", "update", "discovery.k8s.io", "endpointslices"),
    ("endpoint-controller", "update", "", "endpoints"),
    ("generic-garbage-collector", "patch", "any.group", "anything"),
    ("namespace-controller", "patch", "", "namespaces/status"),
    ("namespace-controller", "update", "", "namespaces/finalize"),
    ("namespace-controller", "deletecollection", "apps", "deployments"),
    ("node-controller", "patch", "", "nodes"),
    ("node-controller", "patch", "", "nodes/status"),
    ("node-controller", "patch", "", "pods/status"),
    ("node-controller", "delete", "", "pods"),
    ("node-controller", "watch", "coordination.k8s.io", "leases"),
    ("service-account-controller", "create", "", "serviceaccounts"),
    ("root-ca-cert-publisher", "create", "", "configmaps"),
    ("root-ca-cert-publisher", "patch", "", "configmaps"),
    (
        "certificate-controller",
        "update",
        "certificates.k8s.io",
        "certificatesigningrequests/status",
    ),
    (
        "certificate-controller",
        "update",
        "certificates.k8s.io",
        "certificatesigningrequests/approval",
    ),
];

#[test]
fn our_own_parts_may_do_what_they_do() {
    let rbac = loaded();
    for (part, verb, group, resource) in OWN_REQUESTS {
        let user = match *part {
            "kube-controller-manager" | "kube-scheduler" => format!("system:{part}"),
            account => format!("system:serviceaccount:kube-system:{account}"),
        };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let request = Request {
            group,
            resource,
            subresource,
            namespace: "team",
            ..request(&user, &[], verb)
        };
        let verdict = rbac.authorize(&request);
        assert!(
            matches!(verdict, Verdict::Allowed { .. }),
            "{part} {verb} {resource}: {verdict:?}"
        );
    }
}

#[test]
fn agents_see_what_they_route_and_resolve() {
    let rbac = loaded();
    let groups = ["system:nodes".to_owned(), "system:authenticated".to_owned()];
    for (group, resource) in [
        ("", "nodes"),
        ("", "services"),
        ("", "namespaces"),
        ("discovery.k8s.io", "endpointslices"),
    ] {
        for verb in ["list", "watch"] {
            let request = Request { group, resource, ..request("system:node:n", &groups, verb) };
            let verdict = rbac.authorize(&request);
            assert!(matches!(verdict, Verdict::Allowed { .. }), "{verb} {resource}: {verdict:?}");
        }
    }
}
