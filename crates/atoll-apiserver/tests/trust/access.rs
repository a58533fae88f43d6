//! Certificates, RBAC and its words, impersonation, reviews.

use atoll_identity::Leaf;
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::client::{Caller, Cluster, Keys, now};

const HOUR: SignedDuration = SignedDuration::from_hours(1);

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn strangers_see_health_and_version_and_nothing_else() {
    let cluster = Cluster::start().await;
    let anyone = Caller::anonymous();
    for path in ["/version", "/livez", "/readyz"] {
        assert_eq!(cluster.call(&anyone, Method::GET, path, &Value::Null).await.0, 200, "{path}");
    }
    let (code, answer) = cluster.call(&anyone, Method::GET, "/api/v1/pods", &Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&answer),
        r#"pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group "" at the cluster scope"#
    );
    let (code, answer) = cluster.call(&anyone, Method::GET, "/metrics", &Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&answer),
        r#"forbidden: User "system:anonymous" cannot get path "/metrics""#
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn an_unprivileged_user_is_refused_in_upstreams_words_until_bound() {
    let cluster = Cluster::start().await;
    let (admin, jane) = (cluster.admin(), cluster.with_certificate("jane", &["dev"]));
    let path = "/api/v1/namespaces/default/configmaps";
    let (code, answer) = cluster.call(&jane, Method::GET, path, &Value::Null).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&answer),
        r#"configmaps is forbidden: User "jane" cannot list resource "configmaps" in API group "" in the namespace "default""#
    );
    assert_eq!(answer["reason"], "Forbidden");
    assert_eq!(answer["details"], json!({"kind": "configmaps"}));

    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "dev"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "dev"}],
    });
    let (code, answer) = cluster.call(&admin, Method::POST, bindings, &binding).await;
    assert_eq!(code, 201, "{answer}");
    cluster.server.core().registry.catch_up().await.unwrap();
    assert_eq!(cluster.call(&jane, Method::GET, path, &Value::Null).await.0, 200);
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(cluster.call(&jane, Method::GET, secrets, &Value::Null).await.0, 403);
    let elsewhere = "/api/v1/namespaces/kube-system/configmaps";
    assert_eq!(cluster.call(&jane, Method::GET, elsewhere, &Value::Null).await.0, 403);
    cluster.shutdown().await;
}

#[tokio::test]
async fn nobody_grants_more_than_they_have() {
    let cluster = Cluster::start().await;
    let (admin, jane) = (cluster.admin(), cluster.with_certificate("jane", &[]));
    let base = "/apis/rbac.authorization.k8s.io/v1";
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    });
    let bindings = format!("{base}/namespaces/default/rolebindings");
    assert_eq!(cluster.call(&admin, Method::POST, &bindings, &binding).await.0, 201);
    cluster.server.core().registry.catch_up().await.unwrap();
    let role = |verb: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": format!("r-{verb}")},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}],
        })
    };
    let roles = format!("{base}/namespaces/default/roles");
    let (code, answer) = cluster.call(&jane, Method::POST, &roles, &role("get")).await;
    assert_eq!(code, 201, "{answer}");
    let (code, answer) = cluster.call(&jane, Method::POST, &roles, &role("fly")).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&answer),
        "roles.rbac.authorization.k8s.io \"r-fly\" is forbidden: user \"jane\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not \
         currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"fly\"]}"
    );
    let mut to_all = binding.clone();
    to_all["metadata"]["name"] = json!("escalate");
    to_all["roleRef"]["name"] = json!("cluster-admin");
    assert_eq!(cluster.call(&jane, Method::POST, &bindings, &to_all).await.0, 403);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_opens_nothing() {
    let cluster = Cluster::start().await;
    let leaf = Leaf::client("admin", &["system:masters"], HOUR);
    let strangers = Keys::create();
    for authority in [&cluster.trust.kubelet, &cluster.trust.serving, &strangers.client] {
        let caller = Caller::of(authority.issue(&leaf, now()).unwrap());
        let answer = cluster.try_call(&caller, Method::GET, "/version", &Value::Null).await;
        assert!(answer.is_err(), "{authority:?}: {answer:?}");
    }
    // A serving certificate of the right authority is no client certificate.
    let serving = Leaf::serving("admin", &["x"], &[], HOUR);
    let caller = Caller::of(cluster.trust.client.issue(&serving, now()).unwrap());
    let answer = cluster.try_call(&caller, Method::GET, "/version", &Value::Null).await;
    assert!(answer.is_err(), "{answer:?}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn acting_as_another_takes_the_right_to() {
    let cluster = Cluster::start().await;
    let review = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let acting = cluster
        .admin()
        .header("impersonate-user", "jane")
        .header("impersonate-group", "dev")
        .header("impersonate-extra-example.com%2Fteam", "a");
    let (code, answer) = cluster.call(&acting, Method::POST, review, &body).await;
    assert_eq!(code, 201, "{answer}");
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "jane");
    assert_eq!(user["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(user["extra"]["example.com/team"], json!(["a"]));
    let jane = cluster.with_certificate("jane", &[]).header("impersonate-user", "kubernetes-admin");
    let (code, answer) = cluster.call(&jane, Method::POST, review, &body).await;
    assert_eq!(code, 403);
    assert_eq!(
        message(&answer),
        r#"users "kubernetes-admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn reviews_answer_what_the_authorizer_says() {
    let cluster = Cluster::start().await;
    let base = "/apis/authorization.k8s.io/v1";
    let attributes = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let ask = |kind: &str, spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let own = ask("SelfSubjectAccessReview", json!({"resourceAttributes": attributes}));
    let path = format!("{base}/selfsubjectaccessreviews");
    let jane = cluster.with_certificate("jane", &[]);
    let (code, answer) = cluster.call(&jane, Method::POST, &path, &own).await;
    assert_eq!((code, &answer["status"]["allowed"]), (201, &json!(false)), "{answer}");
    let (_, answer) = cluster.call(&cluster.admin(), Method::POST, &path, &own).await;
    assert_eq!(answer["status"]["allowed"], json!(true));

    let other = ask(
        "SubjectAccessReview",
        json!({"user": "system:kube-scheduler", "resourceAttributes": attributes}),
    );
    let path = format!("{base}/subjectaccessreviews");
    let (_, answer) = cluster.call(&cluster.admin(), Method::POST, &path, &other).await;
    assert_eq!(answer["status"]["allowed"], json!(true));
    assert_eq!(
        answer["status"]["reason"],
        r#"RBAC: allowed by ClusterRoleBinding "system:kube-scheduler" of ClusterRole "system:kube-scheduler" to User "system:kube-scheduler""#
    );
    assert_eq!(cluster.call(&jane, Method::POST, &path, &other).await.0, 403);

    let rules = ask("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let path = format!("{base}/selfsubjectrulesreviews");
    let (_, answer) = cluster.call(&jane, Method::POST, &path, &rules).await;
    assert_eq!(answer["status"]["incomplete"], json!(false));
    assert!(!answer["status"]["nonResourceRules"].as_array().unwrap().is_empty(), "{answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_restart_writes_no_built_in_role_again_and_gathers() {
    let dir = tempfile::tempdir().unwrap();
    let keys = Keys::create();
    let cluster = Cluster::start_in(dir.path(), keys.again()).await;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/admin";
    let (_, admin) = cluster.call(&cluster.admin(), Method::GET, path, &Value::Null).await;
    let rules = admin["rules"].as_array().map_or(0, Vec::len);
    assert!(rules > 15, "the role admin has gathered its rules before anyone is served");
    let all = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let (_, before) = cluster.call(&cluster.admin(), Method::GET, all, &Value::Null).await;
    cluster.shutdown().await;
    let cluster = Cluster::start_in(dir.path(), keys).await;
    let (_, after) = cluster.call(&cluster.admin(), Method::GET, all, &Value::Null).await;
    assert_eq!(before["items"], after["items"]);
    cluster.shutdown().await;
}
