//! ServiceAccount tokens: requested, used, reviewed, and what ends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use atoll_apiserver::config::Clock;
use http::Method;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::client::{Caller, Cluster};

async fn account(cluster: &Cluster) {
    let body = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app"}});
    let path = "/api/v1/namespaces/default/serviceaccounts";
    let (code, answer) = cluster.call(&cluster.admin(), Method::POST, path, &body).await;
    assert_eq!(code, 201, "{answer}");
}

async fn request(cluster: &Cluster, caller: &Caller, spec: Value) -> (u16, Value) {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
    });
    let path = "/api/v1/namespaces/default/serviceaccounts/app/token";
    cluster.call(caller, Method::POST, path, &body).await
}

async fn whoami(cluster: &Cluster, token: &str) -> (u16, Value) {
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    cluster.call(&Caller::bearer(token), Method::POST, path, &body).await
}

#[tokio::test]
async fn a_token_is_its_account_until_the_account_goes() {
    let cluster = Cluster::start().await;
    account(&cluster).await;
    let (code, answer) = request(&cluster, &cluster.admin(), json!({})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["spec"]["expirationSeconds"], 3600);
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let (code, answer) = whoami(&cluster, &token).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["status"]["userInfo"]["username"], "system:serviceaccount:default:app");

    let path = "/api/v1/namespaces/default/serviceaccounts/app";
    let (code, _) = cluster.call(&cluster.admin(), Method::DELETE, path, &Value::Null).await;
    assert_eq!(code, 200);
    cluster.server.core().registry.catch_up().await.unwrap();
    assert_eq!(whoami(&cluster, &token).await.0, 401);
    // A namesake does not inherit.
    account(&cluster).await;
    assert_eq!(whoami(&cluster, &token).await.0, 401);
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_bad_token_is_refused_and_not_taken_for_anonymous() {
    let cluster = Cluster::start().await;
    for token in ["hello", "a.b.c"] {
        let caller = Caller::bearer(token);
        let (code, answer) = cluster.call(&caller, Method::GET, "/version", &Value::Null).await;
        assert_eq!((code, &answer["message"]), (401, &json!("Unauthorized")), "{token:?}");
    }
    cluster.shutdown().await;
}

/// The machine's clock, some seconds ahead.
struct Ahead(AtomicI64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_token_ends_with_its_time() {
    let ahead = Arc::new(Ahead(AtomicI64::new(0)));
    let clock = ahead.clone();
    let cluster = Cluster::start_with(|config| config.clock = clock).await;
    account(&cluster).await;
    let spec = json!({"expirationSeconds": 600});
    let (_, answer) = request(&cluster, &cluster.admin(), spec).await;
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    for (seconds, expected) in [(0, 201), (590, 201), (700, 401), (1_000_000, 401)] {
        ahead.0.store(seconds, Ordering::Relaxed);
        let (code, answer) = whoami(&cluster, &token).await;
        assert_eq!(code, expected, "{seconds}: {answer}");
    }
    // Nor is one good long before it was given; clocks are set back a little now and then.
    ahead.0.store(-1_000_000, Ordering::Relaxed);
    assert_eq!(whoami(&cluster, &token).await.0, 401);
    // Another signature, another header, and none at all.
    ahead.0.store(0, Ordering::Relaxed);
    let parts: Vec<&str> = token.split('.').collect();
    let unsigned = "eyJhbGciOiJub25lIn0";
    for forged in [
        format!("{}.{}.", unsigned, parts[1]),
        format!("{}.{}.{}", unsigned, parts[1], parts[2]),
        format!("{}.{}.{}x", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[0], parts[2]),
        format!("{token}.{token}"),
        "x".repeat(8_000),
    ] {
        assert_eq!(whoami(&cluster, &forged).await.0, 401, "{forged}");
    }
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_token_for_others_is_not_for_us() {
    let cluster = Cluster::start().await;
    account(&cluster).await;
    let spec = json!({"audiences": ["vault"]});
    let (_, answer) = request(&cluster, &cluster.admin(), spec).await;
    let token = answer["status"]["token"].as_str().unwrap();
    assert_eq!(whoami(&cluster, token).await.0, 401);

    let review = |audiences: Value| {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        })
    };
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let admin = cluster.admin();
    let (code, answer) =
        cluster.call(&admin, Method::POST, path, &review(json!(["vault", "x"]))).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["status"]["authenticated"], json!(true));
    assert_eq!(answer["status"]["audiences"], json!(["vault"]));
    let (_, answer) = cluster.call(&admin, Method::POST, path, &review(json!([]))).await;
    assert_eq!(answer["status"].get("authenticated"), None);
    assert!(answer["status"]["error"].as_str().unwrap().contains("audiences"), "{answer}");
    cluster.shutdown().await;
}

#[tokio::test]
async fn a_short_token_and_a_missing_pod_are_refused() {
    let cluster = Cluster::start().await;
    account(&cluster).await;
    let admin = cluster.admin();
    let (code, answer) = request(&cluster, &admin, json!({"expirationSeconds": 10})).await;
    assert_eq!(code, 422, "{answer}");
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("may not specify a duration less than 10 minutes"),
        "{answer}"
    );
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "none"}});
    let (code, answer) = request(&cluster, &admin, bound).await;
    assert_eq!((code, &answer["message"]), (404, &json!("pods \"none\" not found")));
    cluster.shutdown().await;
}

#[tokio::test]
async fn the_public_key_is_published_to_accounts() {
    let cluster = Cluster::start().await;
    account(&cluster).await;
    let (_, answer) = request(&cluster, &cluster.admin(), json!({})).await;
    let caller = Caller::bearer(answer["status"]["token"].as_str().unwrap());
    let path = "/.well-known/openid-configuration";
    let (code, document) = cluster.call(&caller, Method::GET, path, &Value::Null).await;
    assert_eq!(code, 200, "{document}");
    assert_eq!(document["issuer"], "https://kubernetes.default.svc.cluster.local");
    let (_, keys) = cluster.call(&caller, Method::GET, "/openid/v1/jwks", &Value::Null).await;
    assert_eq!(keys["keys"][0]["alg"], "ES256");
    let (code, _) =
        cluster.call(&Caller::anonymous(), Method::GET, "/openid/v1/jwks", &Value::Null).await;
    assert_eq!(code, 403);
    cluster.shutdown().await;
}
