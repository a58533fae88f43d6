//! What objects get on their way in, and what is kept out.

use atoll_identity::{Leaf, new_request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::client::{Caller, Cluster};

const PODS: &str = "/api/v1/namespaces/default/pods";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn pod(spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    pod
}

async fn default_account(cluster: &Cluster) {
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    let path = "/api/v1/namespaces/default/serviceaccounts";
    let (code, answer) = cluster.call(&cluster.admin(), Method::POST, path, &account).await;
    assert_eq!(code, 201, "{answer}");
}

async fn create(cluster: &Cluster, caller: &Caller, path: &str, body: &Value) -> (u16, Value) {
    cluster.call(caller, Method::POST, path, body).await
}

#[tokio::test]
async fn a_pod_without_an_account_is_refused_in_upstreams_words() {
    let cluster = Cluster::start().await;
    let (code, answer) = create(&cluster, &cluster.admin(), PODS, &pod(json!({}))).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        r#"pods "p" is forbidden: error looking up service account default/default: serviceaccount "default" not found"#
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_pod_waits_for_the_account_of_a_new_namespace() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let body = pod(json!({}));
    let creating = create(&cluster, &admin, PODS, &body);
    let later = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        default_account(&cluster).await;
    };
    let ((code, answer), ()) = tokio::join!(creating, later);
    assert_eq!(code, 201, "{answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_pod_gets_account_token_tolerations_and_priority() {
    let cluster = Cluster::start().await;
    default_account(&cluster).await;
    let (code, answer) = create(&cluster, &cluster.admin(), PODS, &pod(json!({}))).await;
    assert_eq!(code, 201, "{answer}");
    let spec = &answer["spec"];
    assert_eq!(spec["serviceAccountName"], "default");
    assert_eq!(spec["serviceAccount"], "default");
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["preemptionPolicy"], "PreemptLowerPriority");
    let tolerations = spec["tolerations"].as_array().unwrap();
    assert_eq!(tolerations[0]["key"], "node.kubernetes.io/not-ready");
    assert_eq!(tolerations[1]["key"], "node.kubernetes.io/unreachable");
    assert!(tolerations.iter().all(|one| one["tolerationSeconds"] == 5), "{tolerations:?}");
    let volume = &spec["volumes"][0];
    assert!(volume["name"].as_str().unwrap().starts_with("kube-api-access-"));
    assert_eq!(volume["projected"]["defaultMode"], 420);
    assert_eq!(
        volume["projected"]["sources"],
        json!([
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {
                "name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }},
            {"downwardAPI": {"items": [{
                "path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ])
    );
    assert_eq!(
        spec["containers"][0]["volumeMounts"],
        json!([{
            "name": volume["name"], "readOnly": true,
            "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
        }])
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_pod_may_do_without_a_token_and_ask_for_a_priority() {
    let cluster = Cluster::start().await;
    default_account(&cluster).await;
    let admin = cluster.admin();
    let body = pod(
        json!({"automountServiceAccountToken": false, "priorityClassName": "system-node-critical"}),
    );
    let (code, answer) = create(&cluster, &admin, PODS, &body).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"].get("volumes"), None);
    assert_eq!(answer["spec"]["priority"], 2_000_001_000);
    let mut unknown = pod(json!({"priorityClassName": "none"}));
    unknown["metadata"]["name"] = json!("q");
    let (code, answer) = create(&cluster, &admin, PODS, &unknown).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        r#"pods "q" is forbidden: no PriorityClass with name none was found"#
    );
    // What the account says counts for pods that say nothing.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "quiet"}, "automountServiceAccountToken": false});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    assert_eq!(create(&cluster, &admin, accounts, &account).await.0, 201);
    for (account, said, mounted) in [
        ("quiet", Value::Null, false),
        ("quiet", json!(false), false),
        ("quiet", json!(true), true),
        ("default", Value::Null, true),
        ("default", json!(false), false),
        ("default", json!(true), true),
    ] {
        let mut spec = json!({"serviceAccountName": account});
        if !said.is_null() {
            spec["automountServiceAccountToken"] = said.clone();
        }
        let mut body = pod(spec);
        body["metadata"] = json!({"generateName": "mounts-"});
        let (code, answer) = create(&cluster, &admin, PODS, &body).await;
        assert_eq!(code, 201, "{answer}");
        let mounts = &answer["spec"]["containers"][0]["volumeMounts"];
        let there = mounts.to_string().contains("/var/run/secrets/kubernetes.io/serviceaccount");
        assert_eq!(there, mounted, "{account} {said}: {mounts}");
    }
    cluster.shutdown().await;
}

fn signing_request(name: &str, signer: &str, groups: &[&str]) -> Value {
    let leaf = Leaf::client(name, groups, SignedDuration::from_hours(1));
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": name.replace(':', "-")},
        "spec": {
            "request": STANDARD.encode(new_request(&leaf).unwrap().0),
            "signerName": signer,
            "usages": ["digital signature", "client auth"],
            "username": "somebody-else", "groups": ["system:masters"],
        },
    })
}

#[tokio::test]
async fn who_asks_for_a_certificate_is_written_down_by_the_server() {
    let cluster = Cluster::start().await;
    let node = cluster.with_certificate("system:node:node-1", &["system:nodes"]);
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let body = signing_request("system:node:node-1", signer, &["system:nodes"]);
    let (code, answer) = create(&cluster, &node, REQUESTS, &body).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["username"], "system:node:node-1");
    assert_eq!(answer["spec"]["groups"], json!(["system:nodes", "system:authenticated"]));
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_masters_group_is_not_to_be_had() {
    let cluster = Cluster::start().await;
    let signer = "kubernetes.io/kube-apiserver-client";
    let body = signing_request("eve", signer, &["system:masters"]);
    let (code, answer) = create(&cluster, &cluster.admin(), REQUESTS, &body).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "certificatesigningrequests.certificates.k8s.io \"eve\" is forbidden: use of \
         kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn approving_takes_the_right_to_the_signer() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let signer = "kubernetes.io/kube-apiserver-client";
    let (code, mut request) =
        create(&cluster, &admin, REQUESTS, &signing_request("jane", signer, &[])).await;
    assert_eq!(code, 201, "{request}");
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "approver"},
        "rules": [{
            "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests/approval"], "verbs": ["update"],
        }],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "joe"}],
    });
    let (code, answer) = create(&cluster, &admin, &format!("{rbac}/clusterroles"), &role).await;
    assert_eq!(code, 201, "{answer}");
    let path = format!("{rbac}/clusterrolebindings");
    assert_eq!(create(&cluster, &admin, &path, &binding).await.0, 201);
    cluster.server.core().registry.catch_up().await.unwrap();
    request["status"] = json!({"conditions": [{
        "type": "Approved", "status": "True", "reason": "r", "message": "m",
    }]});
    let approval = format!("{REQUESTS}/jane/approval");
    let joe = cluster.with_certificate("joe", &[]);
    let (code, answer) = cluster.call(&joe, Method::PUT, &approval, &request).await;
    assert_eq!(code, 403);
    assert_eq!(
        answer["message"],
        "certificatesigningrequests.certificates.k8s.io \"jane\" is forbidden: user not permitted \
         to approve requests with signerName \"kubernetes.io/kube-apiserver-client\""
    );
    let (code, answer) = cluster.call(&admin, Method::PUT, &approval, &request).await;
    assert_eq!(code, 200, "{answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_dry_run_goes_through_admission_too() {
    let cluster = Cluster::start().await;
    let path = format!("{PODS}?dryRun=All");
    let (code, _) = create(&cluster, &cluster.admin(), &path, &pod(json!({}))).await;
    assert_eq!(code, 403, "no account");
    default_account(&cluster).await;
    let (code, answer) = create(&cluster, &cluster.admin(), &path, &pod(json!({}))).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["serviceAccountName"], "default");
    let (code, _) =
        cluster.call(&cluster.admin(), Method::GET, &format!("{PODS}/p"), &Value::Null).await;
    assert_eq!(code, 404);
    cluster.shutdown().await;
}
