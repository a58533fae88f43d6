//! Join tokens at the join endpoint.

use atoll_identity::{Leaf, PeerIdentity, new_request};
use http::Method;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::client::{Caller, Cluster};

async fn token(cluster: &Cluster, body: Value) -> String {
    let path = "/atoll/v1/join-tokens";
    let (code, answer) = cluster.call(&cluster.admin(), Method::POST, path, &body).await;
    assert_eq!(code, 200, "{answer}");
    answer["token"].as_str().unwrap().to_owned()
}

fn request() -> String {
    let leaf = Leaf::client("whatever", &["system:masters"], SignedDuration::from_hours(1));
    new_request(&leaf).unwrap().0
}

async fn join(cluster: &Cluster, token: &str, node: &str, request: &str) -> (u16, Value) {
    let body = json!({"node": node, "clientRequest": request, "addresses": ["10.41.0.2"]});
    cluster.call(&Caller::bearer(token), Method::POST, "/atoll/v1/join", &body).await
}

#[tokio::test]
async fn a_token_makes_one_machine_a_node() {
    let cluster = Cluster::start().await;
    let (token, csr) = (token(&cluster, Value::Null).await, request());
    let (code, answer) = join(&cluster, &token, "node-2", &csr).await;
    assert_eq!(code, 200, "{answer}");
    let client = answer["clientCertificate"].as_str().unwrap();
    let peer = PeerIdentity::from_pem(client).unwrap();
    assert_eq!(peer.common_name, "system:node:node-2");
    assert_eq!(peer.organizations, ["system:nodes"], "the names are ours, not the request's");
    assert_eq!(
        answer["servingAuthority"].as_str().unwrap(),
        cluster.trust.serving.certificate_pem()
    );

    // The answer may get lost: the same machine may ask again, another may not.
    assert_eq!(join(&cluster, &token, "node-2", &csr).await.0, 200);
    let (code, answer) = join(&cluster, &token, "node-3", &request()).await;
    assert_eq!(code, 403);
    assert!(
        answer["message"].as_str().unwrap().contains(r#"was already used by node "node-2""#),
        "{answer}"
    );
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_token_of_another_cluster_is_told_so() {
    let (one, two) = (Cluster::start().await, Cluster::start().await);
    let token = token(&one, Value::Null).await;
    let (code, answer) = join(&two, &token, "node-2", &request()).await;
    assert_eq!(code, 403);
    assert!(answer["message"].as_str().unwrap().contains("is for another cluster"), "{answer}");
    one.shutdown().await;
    two.shutdown().await;
}

#[tokio::test]
async fn an_expired_an_unknown_and_a_mangled_token_are_refused() {
    let cluster = Cluster::start().await;
    let short = token(&cluster, json!({"ttlSeconds": 1})).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let (code, answer) = join(&cluster, &short, "node-2", &request()).await;
    assert_eq!(code, 403);
    assert!(answer["message"].as_str().unwrap().contains("expired at"), "{answer}");

    let good = token(&cluster, Value::Null).await;
    let guessed = format!("{}{}", &good[..good.len() - 4], "0000");
    let (_, answer) = join(&cluster, &guessed, "node-2", &request()).await;
    assert!(answer["message"].as_str().unwrap().contains("is not known here"), "{answer}");
    let (code, answer) = join(&cluster, "hello", "node-2", &request()).await;
    assert!(code == 401 || code == 403, "{answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_join_token_is_no_user() {
    let cluster = Cluster::start().await;
    let token = token(&cluster, Value::Null).await;
    let caller = Caller::bearer(&token);
    let (code, answer) = cluster.call(&caller, Method::GET, "/api/v1/nodes", &Value::Null).await;
    assert_eq!(code, 403, "{answer}");
    let jane = cluster.with_certificate("jane", &[]);
    let (code, _) = cluster.call(&jane, Method::POST, "/atoll/v1/join-tokens", &Value::Null).await;
    assert_eq!(code, 403, "only administrators make tokens");
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_secret_is_not_in_the_store() {
    let cluster = Cluster::start().await;
    let token = token(&cluster, Value::Null).await;
    let secret = token.rsplit('.').next().unwrap();
    let path = "/api/v1/namespaces/kube-system/secrets";
    let (_, answer) = cluster.call(&cluster.admin(), Method::GET, path, &Value::Null).await;
    assert_eq!(answer["items"].as_array().unwrap().len(), 1);
    let text = answer.to_string();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(secret);
    assert!(!text.contains(secret) && !text.contains(&encoded));
    cluster.shutdown().await;
}
