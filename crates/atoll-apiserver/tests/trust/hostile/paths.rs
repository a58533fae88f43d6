//! Paths that try to lead elsewhere: whoever may read ConfigMaps reads nothing else by them.

use http::Method;
use serde_json::json;

use super::{Bounds, MAPS, codes, raw, still_serves};
use crate::client::{Caller, Cluster};

const HIDDEN: &str = "b25seSBmb3IgYWRtaW5z";

/// A cluster with a Secret, and somebody who may read the ConfigMaps of one namespace.
async fn world() -> (Cluster, Caller) {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let secret = json!({"metadata": {"name": "s"}, "data": {"hidden": HIDDEN}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(cluster.call(&admin, Method::POST, secrets, &secret).await.0, 201);
    let base = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "maps"}, "rules": [{"apiGroups": [""],
        "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]});
    let group = "rbac.authorization.k8s.io";
    let binding = json!({"metadata": {"name": "maps"},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "maps"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": "jane"}]});
    for (resource, object) in [("roles", role), ("rolebindings", binding)] {
        let path = format!("{base}/{resource}");
        assert_eq!(cluster.call(&admin, Method::POST, &path, &object).await.0, 201);
    }
    cluster.server.core().registry.catch_up().await.unwrap();
    let jane = cluster.with_certificate("jane", &[]);
    (cluster, jane)
}

/// Sends a request line as it is.
async fn get(cluster: &Cluster, caller: &Caller, target: &[u8]) -> String {
    let line = [b"GET ", target, b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"].concat();
    raw(cluster, caller, &line).await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_leads_to_what_is_hidden() {
    let (cluster, jane) = world().await;
    let own = get(&cluster, &jane, MAPS.as_bytes()).await;
    assert_eq!(codes(&own), [200], "{own}");
    let all = get(&cluster, &cluster.admin(), b"/api/v1/namespaces/default/secrets/s").await;
    assert!(all.contains(HIDDEN), "{all}");
    let tricks: &[&[u8]] = &[
        b"/api/v1/namespaces/default/configmaps/../secrets/s",
        b"/api/v1/namespaces/default/configmaps/..%2fsecrets%2fs",
        b"/api/v1/namespaces/default/configmaps/%2e%2e/secrets/s",
        b"/api/v1/namespaces/default/configmaps/%252e%252e%252fsecrets/s",
        b"/api/v1/namespaces/default/configmaps%2f..%2fsecrets/s",
        b"/api/v1/namespaces/default%2fsecrets/s",
        b"/api/v1/namespaces/default%2fsecrets%2fs",
        b"/api/v1/namespaces/default//secrets/s",
        b"//api/v1/namespaces/default/secrets/s",
        b"/./api/v1/namespaces/default/secrets/s",
        b"/healthz/../api/v1/namespaces/default/secrets/s",
        b"/readyz/%2e%2e/api/v1/namespaces/default/secrets/s",
        b"/version/../../api/v1/secrets",
        b"/api/v1/namespaces/default/configmaps/x%00/../../secrets/s",
        b"/api/v1/namespaces/default/secrets%00/s",
        b"/api/v1/namespaces/default/secrets/s%00",
        b"/api/v1/namespaces/default/secrets/s%2500",
        b"/api/v1/namespaces/default/secrets;configmaps/s",
        b"/api/v1/namespaces/default/secrets\\s",
        b"/api/v1/namespaces/default/SECRETS/s",
        b"/api/v1/namespaces/default/secrets/s/",
        b"/api/v1/namespaces/default/secrets/s?resource=configmaps",
        b"/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Ds",
        b"/api/v1/watch/namespaces/default/secrets/s",
        b"/api/v1/configmaps/..%2fsecrets",
        b"/registry/core/secrets/default/s",
        b"/api/v1/namespaces/default/secrets/%ff%fe",
        b"/api/v1/namespaces/default/secrets/%c0%ae%c0%ae",
        b"/api/v1/namespaces/default/configmaps/%zz",
        b"/api/v1/namespaces/default/configmaps/%",
        b"http://elsewhere/api/v1/namespaces/default/secrets/s",
        b"http://x@y/api/v1/namespaces/default/secrets/s",
        b"*",
        b"elsewhere:443",
    ];
    for trick in tricks {
        let shown = String::from_utf8_lossy(trick).into_owned();
        let bounds = Bounds::begin(&shown);
        let answer = get(&cluster, &jane, trick).await;
        assert!(!answer.contains(HIDDEN), "{shown}: {answer}");
        let codes = codes(&answer);
        assert!(matches!(codes[..], [400 | 403 | 404 | 405]), "{shown}: {codes:?} {answer}");
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_path_is_no_request() {
    let (cluster, jane) = world().await;
    let long = format!("/api/v1/namespaces/{}/configmaps", "x".repeat(200_000));
    let slashes = "/".repeat(60_000);
    let query = format!("{MAPS}?{}", "a=b&".repeat(15_000));
    let targets: [(&[u8], &[u16]); 8] = [
        (b"/api/v1/namespaces/default/configmaps/\xff\xfe", &[400]),
        (b"/api/v1/namespaces/default/configmaps/\x00", &[400]),
        (b"/api/v1 /namespaces", &[400]),
        (b"api/v1", &[400, 404]),
        (b"", &[400]),
        (long.as_bytes(), &[414, 431]),
        (slashes.as_bytes(), &[403, 404]),
        (query.as_bytes(), &[200]),
    ];
    for (target, expected) in targets {
        let shown = String::from_utf8_lossy(target.get(..60).unwrap_or(target)).into_owned();
        let bounds = Bounds::begin(&shown);
        let answer = get(&cluster, &jane, target).await;
        let codes = codes(&answer);
        let fits = matches!(codes[..], [code] if expected.contains(&code));
        assert!(fits, "{shown}: {codes:?} {}", answer.get(..500).unwrap_or(&answer));
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}
