//! Ways around authorization that must lead nowhere.

use atoll_api::kinds;
use http::Method;
use serde_json::{Value, json};

use crate::client::{Caller, Cluster};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

/// Gives `jane` these rules in the namespace `default`.
async fn grant(cluster: &Cluster, rules: Value) -> Caller {
    let admin = cluster.admin();
    let role = json!({"metadata": {"name": "jane"}, "rules": rules});
    let path = format!("{RBAC}/namespaces/default/roles");
    assert_eq!(cluster.call(&admin, Method::POST, &path, &role).await.0, 201);
    let binding = json!({
        "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jane"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let path = format!("{RBAC}/namespaces/default/rolebindings");
    assert_eq!(cluster.call(&admin, Method::POST, &path, &binding).await.0, 201);
    cluster.server.core().registry.catch_up().await.unwrap();
    cluster.with_certificate("jane", &[])
}

#[tokio::test]
async fn the_master_of_a_namespace_is_nobody_outside_of_it() {
    let cluster = Cluster::start().await;
    let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let jane = grant(&cluster, all).await;
    for path in [
        "/api/v1/namespaces/default/namespaces/kube-system".to_owned(),
        "/api/v1/namespaces/default/namespaces".to_owned(),
        "/api/v1/namespaces/default/nodes".to_owned(),
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles/cluster-admin"
            .to_owned(),
        "/apis/certificates.k8s.io/v1/namespaces/default/certificatesigningrequests".to_owned(),
    ] {
        let (code, answer) = cluster.call(&jane, Method::GET, &path, &Value::Null).await;
        assert_eq!(code, 404, "{path}: {answer}");
    }
    for path in [
        "/api/v1/namespaces/default%2F..%2Fkube-system/secrets",
        "/api/v1/namespaces/default/../kube-system/secrets",
        "/api/v1/namespaces/kube-system%2Fsecrets",
        "/api/v1/secrets",
        "/api/v1//secrets",
    ] {
        let (code, answer) = cluster.call(&jane, Method::GET, path, &Value::Null).await;
        assert!(matches!(code, 403 | 404), "{path}: {code} {answer}");
    }
    let kept = "/api/v1/namespaces/kube-public";
    let through = "/api/v1/namespaces/default/namespaces/kube-public";
    assert_eq!(cluster.call(&jane, Method::DELETE, through, &Value::Null).await.0, 404);
    assert_eq!(cluster.call(&cluster.admin(), Method::GET, kept, &Value::Null).await.0, 200);
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_right_to_one_name_shows_one_object() {
    let cluster = Cluster::start().await;
    let rule = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"],
                       "resourceNames": ["mine"]}]);
    let jane = grant(&cluster, rule).await;
    let all = "/api/v1/namespaces/default/configmaps";
    for name in ["mine", "theirs"] {
        let object = json!({"metadata": {"name": name}});
        assert_eq!(cluster.call(&cluster.admin(), Method::POST, all, &object).await.0, 201);
    }
    let (code, list) = cluster
        .call(&jane, Method::GET, &format!("{all}?fieldSelector=metadata.name=mine"), &Value::Null)
        .await;
    assert_eq!((code, list["items"].as_array().map(Vec::len)), (200, Some(1)));
    // The old form of a watch, which ends by itself.
    let path = "/api/v1/watch/namespaces/default/configmaps/mine?timeoutSeconds=1";
    let (code, events) = cluster.call(&jane, Method::GET, path, &Value::Null).await;
    let text = events.to_string();
    assert!(code == 200 && text.contains("mine") && !text.contains("theirs"), "{code} {text}");
    let selected = format!("{all}?fieldSelector=metadata.name=mine");
    let (code, _) = cluster.call(&jane, Method::DELETE, &selected, &Value::Null).await;
    assert_eq!(code, 403, "a name selects no collection to delete");
    cluster.shutdown().await;
}

#[tokio::test]
async fn who_may_patch_may_not_create() {
    let cluster = Cluster::start().await;
    let rule = json!([{"apiGroups": ["", "coordination.k8s.io"],
                       "resources": ["configmaps", "leases"], "verbs": ["patch", "update", "get"]}]);
    let jane = grant(&cluster, rule).await;
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}});
    let path = "/api/v1/namespaces/default/configmaps/new?fieldManager=jane";
    let apply = jane.clone().content_type("application/apply-patch+yaml");
    let (code, answer) = cluster.call(&apply, Method::PATCH, path, &config).await;
    assert_eq!(code, 403, "{answer}");
    assert_eq!(
        message(&answer),
        "configmaps \"new\" is forbidden: User \"jane\" cannot create resource \"configmaps\" in API \
         group \"\" in the namespace \"default\""
    );
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                       "metadata": {"name": "new", "namespace": "default"}, "spec": {}});
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/new";
    let (code, answer) = cluster.call(&jane, Method::PUT, path, &lease).await;
    assert!(matches!(code, 403 | 404), "{code} {answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn nobody_without_rights_does_anything_to_any_kind() {
    let cluster = Cluster::start().await;
    let jane = cluster.with_certificate("jane", &[]);
    let object = json!({"metadata": {"name": "x"}});
    // These answer everyone about themselves.
    let open = ["selfsubjectreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];
    let rows = kinds::builtin().iter().filter(|row| row.served && !open.contains(&&*row.resource));
    for row in rows {
        let root =
            if row.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", row.group) };
        let space = if row.namespaced() { "/namespaces/default" } else { "" };
        let all = format!("{root}/{}{space}/{}", row.version, row.resource);
        let one = format!("{all}/x");
        let mut asked = vec![
            (Method::POST, all.clone(), "create"),
            (Method::GET, all.clone(), "list"),
            (Method::GET, format!("{all}?watch=1"), "watch"),
            (Method::DELETE, all.clone(), "deletecollection"),
            (Method::GET, one.clone(), "get"),
            (Method::PUT, one.clone(), "update"),
            (Method::PATCH, one.clone(), "patch"),
            (Method::DELETE, one.clone(), "delete"),
        ];
        asked.extend(
            row.subresources
                .iter()
                .filter(|part| part.served)
                .map(|part| (Method::GET, format!("{one}/{}", part.name), "get")),
        );
        for (method, path, verb) in asked {
            let (code, answer) = cluster.call(&jane, method, &path, &object).await;
            assert_eq!(code, 403, "{verb} {path}: {answer}");
            let words = format!("User \"jane\" cannot {verb} resource \"{}", row.resource);
            assert!(message(&answer).contains(&words), "{path}: {answer}");
        }
    }
    cluster.shutdown().await;
}
