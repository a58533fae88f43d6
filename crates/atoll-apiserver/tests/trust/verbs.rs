//! RBAC for every kind: who may only read one object of one resource may do nothing else.

use std::collections::HashSet;

use atoll_api::kinds::{self, ResourceInfo};
use atoll_apiserver::{LocalService, UserInfo};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::Service as _;

use crate::client::Cluster;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn ask(user: &LocalService, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let media = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let answer = user.clone().call(request.body(Full::new(body)).unwrap()).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (code, serde_json::from_slice(&bytes).unwrap_or_default())
}

fn reader(row: &ResourceInfo) -> String {
    format!("reads-{}", row.qualified_resource())
}

/// A role for one verb on one resource, bound to a user of its own.
async fn allow_get(admin: &LocalService, row: &ResourceInfo) {
    let name = reader(row);
    let role = json!({"metadata": {"name": name}, "rules": [
        {"apiGroups": [row.group], "resources": [row.resource], "verbs": ["get"]},
    ]});
    let group = "rbac.authorization.k8s.io";
    let binding = json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
    });
    for (resource, object) in [("clusterroles", role), ("clusterrolebindings", binding)] {
        let path = format!("{RBAC}/{resource}");
        let (code, answer) = ask(admin, Method::POST, &path, &object).await;
        assert_eq!(code, 201, "{answer}");
    }
}

fn collection(row: &ResourceInfo) -> String {
    let group = if row.group.is_empty() { "api".to_owned() } else { format!("apis/{}", row.group) };
    let namespace = if row.namespaced() { "/namespaces/default" } else { "" };
    format!("/{group}/{}{namespace}/{}", row.version, row.resource)
}

/// Every other verb is refused, in upstream's words.
async fn refused(user: &LocalService, row: &ResourceInfo) {
    let (all, name) = (collection(row), reader(row));
    let one = format!("{all}/x");
    let tries = [
        (Method::GET, all.clone(), "list", ""),
        (Method::GET, format!("{all}?watch=1"), "watch", ""),
        (Method::POST, all.clone(), "create", ""),
        (Method::DELETE, all, "deletecollection", ""),
        (Method::PUT, one.clone(), "update", "x"),
        (Method::PATCH, one.clone(), "patch", "x"),
        (Method::DELETE, one, "delete", "x"),
    ];
    for (method, path, verb, object) in tries {
        if !row.allows(verb) {
            continue;
        }
        let (code, answer) = ask(user, method, &path, &json!({})).await;
        let quoted = if object.is_empty() { String::new() } else { format!(" \"{object}\"") };
        let place = match (row.namespaced(), &*row.resource, object) {
            (true, ..) => "in the namespace \"default\"",
            (false, "namespaces", "x") => "in the namespace \"x\"",
            _ => "at the cluster scope",
        };
        let expected = format!(
            "{}{quoted} is forbidden: User \"{name}\" cannot {verb} resource \"{}\" in API group \
             \"{}\" {place}",
            row.qualified_resource(),
            row.resource,
            row.group,
        );
        assert_eq!((code, answer["message"].as_str()), (403, Some(expected.as_str())), "{verb}");
        assert_eq!(answer["reason"], "Forbidden");
    }
}

/// The parts of an object are not the object.
async fn parts_refused(user: &LocalService, row: &ResourceInfo) {
    for part in row.subresources.iter().filter(|part| part.served) {
        let path = format!("{}/x/{}", collection(row), part.name);
        let method = if part.verbs.contains(&"get") { Method::GET } else { Method::POST };
        let (code, answer) = ask(user, method, &path, &Value::Null).await;
        let text = answer["message"].as_str().unwrap_or_default();
        let resource = format!("resource \"{}/{}\"", row.resource, part.name);
        assert!(code == 403 && text.contains(&resource), "{path}: {code} {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read_one_object_may_do_nothing_else() {
    let cluster = Cluster::start().await;
    let admin = cluster.server.local_service(UserInfo::authenticated("root", ["system:masters"]));
    let rows = || kinds::builtin().iter().filter(|row| row.served && row.allows("get"));
    let mut made = HashSet::new();
    for row in rows() {
        // Two versions of a resource have one rule.
        if made.insert(reader(row)) {
            allow_get(&admin, row).await;
        }
    }
    cluster.server.core().registry.catch_up().await.unwrap();
    let mut seen = 0;
    for row in rows() {
        let user = cluster.server.local_service(UserInfo::authenticated(reader(row), [""; 0]));
        let (code, answer) =
            ask(&user, Method::GET, &format!("{}/x", collection(row)), &Value::Null).await;
        assert_eq!(code, 404, "{}: {answer}", row.kind);
        refused(&user, row).await;
        parts_refused(&user, row).await;
        let other = if row.resource == "configmaps" { "secrets" } else { "configmaps" };
        let path = format!("/api/v1/namespaces/default/{other}/x");
        assert_eq!(ask(&user, Method::GET, &path, &Value::Null).await.0, 403, "{}", row.kind);
        seen += 1;
    }
    assert!(seen > 50, "only {seen} kinds");
    cluster.shutdown().await;
}
