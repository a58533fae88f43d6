//! Admission webhooks, asked by a real server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};
use crate::hooked::{Hook, patched};

pub(crate) const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

pub(crate) async fn configure(api: &Api, kind: &str, name: &str, webhooks: Vec<Value>) {
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    api.create(&path, &json!({"metadata": {"name": name}, "webhooks": webhooks})).await.ok();
    // The caches follow the store by themselves.
    let path = format!("{path}?watch=1&resourceVersion=0&fieldSelector=metadata.name={name}");
    let mut watch = api.watch(&path, "application/json").await;
    watch.step().await;
}

/// Replaces the webhooks of a configuration, and waits until the caches know.
pub(crate) async fn reconfigure(api: &Api, path: &str, webhook: &Value) {
    api.merge(path, &json!({ "webhooks": [webhook] })).await.ok();
    // A consistent list waits for them.
    api.get(path.rsplit_once('/').unwrap().0).await.ok();
}

pub(crate) fn add(path: &str, value: Value) -> Value {
    patched(&json!([{"op": "add", "path": path, "value": value}]))
}

/// Upstream's words for a request that takes longer than its client has patience, and for times
/// that are none.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_how_long_its_request_may_take() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": true, "sleep": 2})).await;
    let webhook = hook.webhook("a.example.com", &["CREATE"], "configmaps");
    configure(&api, "validating", "m", vec![webhook]).await;
    let path = format!("{CONFIG_MAPS}?timeout=100ms");
    let why =
        "Timeout: request did not complete within requested timeout - context deadline exceeded";
    api.create(&path, &config_map("x")).await.fails(504, why);
    for path in ["/version", CONFIG_MAPS] {
        api.get(&format!("{path}?timeout=invalid")).await.fails(
            400,
            "invalid timeout specified in the request URL - time: invalid duration \"invalid\"",
        );
        for timeout in ["0s", "10h", "-1s", ""] {
            api.get(&format!("{path}?timeout={timeout}")).await.ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_changes_what_is_created() {
    let api = Api::start().await;
    let hook = Hook::start(|_| add("/data/hooked", json!("yes"))).await;
    let webhook = hook.webhook("a.example.com", &["CREATE"], "configmaps");
    configure(&api, "mutating", "m", vec![webhook]).await;
    let made = api.create(&format!("{CONFIG_MAPS}?fieldManager=me"), &config_map("x")).await.ok();
    assert_eq!(made["data"], json!({"a": "1", "hooked": "yes"}));
    let (path, asked) = hook.seen().remove(0);
    assert_eq!(path, "/a.example.com?timeout=10s");
    for (field, value) in [
        ("kind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("resource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("requestKind", json!({"group": "", "version": "v1", "kind": "ConfigMap"})),
        ("requestResource", json!({"group": "", "version": "v1", "resource": "configmaps"})),
        ("name", json!("x")),
        ("namespace", json!("default")),
        ("operation", json!("CREATE")),
        ("oldObject", Value::Null),
        ("dryRun", json!(false)),
        (
            "options",
            json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"}),
        ),
    ] {
        assert_eq!(asked[field], value, "{field}");
    }
    assert_eq!(asked["userInfo"]["username"], "admin");
    assert_eq!(asked["object"]["data"], json!({"a": "1"}));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_refuses_in_its_words() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| match asked["name"].as_str() {
        Some("plain") => json!({"allowed": false}),
        Some("warned") => json!({"allowed": true, "warnings": ["think again"]}),
        _ => json!({"allowed": false, "status": {
            "code": 403, "reason": "Forbidden", "message": "not on Fridays",
        }}),
    })
    .await;
    let webhook = hook.webhook("v.example.com", &["CREATE", "DELETE"], "configmaps");
    configure(&api, "validating", "v", vec![webhook]).await;
    let by = "admission webhook \"v.example.com\" denied the request";
    let refused = api.create(CONFIG_MAPS, &config_map("x")).await;
    let status = refused.fails(403, &format!("{by}: not on Fridays"));
    assert_eq!(status["reason"], "Forbidden");
    api.create(CONFIG_MAPS, &config_map("plain"))
        .await
        .fails(400, &format!("{by} without explanation"));
    let warned = api.create(CONFIG_MAPS, &config_map("warned")).await;
    assert_eq!((warned.code, warned.warnings()), (201, vec!["299 - \"think again\""]));
    // A delete shows the old object only.
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 7});
    api.delete_with(&format!("{CONFIG_MAPS}/warned"), &options).await.ok();
    let (_, asked) = hook.seen().pop().unwrap();
    assert_eq!(asked["operation"], "DELETE");
    assert_eq!((&asked["object"], &asked["oldObject"]["data"]), (&Value::Null, &json!({"a": "1"})));
    assert_eq!(
        asked["options"],
        json!({
            "kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "gracePeriodSeconds": 7,
        })
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_asked_fails_or_is_passed_over() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": true, "sleep": 30})).await;
    let mut slow = hook.webhook("slow.example.com", &["CREATE"], "configmaps");
    slow["timeoutSeconds"] = json!(1);
    configure(&api, "mutating", "m", vec![slow.clone()]).await;
    let url = format!("https://localhost:{}/slow.example.com?timeout=1s", hook.address.port());
    api.create(CONFIG_MAPS, &config_map("x")).await.fails(
        500,
        &format!(
            "Internal error occurred: failed calling webhook \"slow.example.com\": failed to call \
             webhook: Post \"{url}\": context deadline exceeded"
        ),
    );
    let path = format!("{GROUP}/mutatingwebhookconfigurations/m");
    slow["failurePolicy"] = json!("Ignore");
    reconfigure(&api, &path, &slow).await;
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    let mut nowhere = hook.webhook("n.example.com", &["CREATE"], "configmaps");
    nowhere["clientConfig"] = json!({"service": {"namespace": "default", "name": "gone"}});
    reconfigure(&api, &path, &nowhere).await;
    api.create(CONFIG_MAPS, &config_map("y")).await.fails(
        500,
        "Internal error occurred: failed calling webhook \"n.example.com\": failed to call \
         webhook: Post \"https://gone.default.svc:443/?timeout=10s\": service \"gone\" not found",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_followed_to_its_pods() {
    let api = Api::start().await;
    let hook = Hook::start(|_| add("/data/hooked", json!("yes"))).await;
    let service = json!({"metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}});
    api.create("/api/v1/namespaces/default/services", &service).await.ok();
    let mut webhook = hook.webhook("s.example.com", &["CREATE"], "configmaps");
    let place = json!({"namespace": "default", "name": "hook", "path": "/p"});
    webhook["clientConfig"] = json!({"service": place, "caBundle": hook.bundle});
    configure(&api, "mutating", "m", vec![webhook]).await;
    api.create(CONFIG_MAPS, &config_map("x")).await.fails(
        500,
        "Internal error occurred: failed calling webhook \"s.example.com\": failed to call \
         webhook: Post \"https://hook.default.svc:443/p?timeout=10s\": no endpoints available for \
         service \"hook\"",
    );
    let slice = json!({
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": hook.address.port()}],
    });
    // Slices may not have addresses of loopback; what stands in the store is what counts.
    put(
        &api,
        "discovery.k8s.io/endpointslices/default/hook-1",
        "discovery.k8s.io/v1",
        "EndpointSlice",
        slice,
    )
    .await;
    let made = eventually(&api, "x").await;
    assert_eq!(made["data"]["hooked"], "yes");
    api.shutdown().await;
}

/// Writes an object past the API.
pub(crate) async fn put(api: &Api, key: &str, api_version: &str, kind: &str, mut object: Value) {
    use atoll_store::kv::{Op, PutRequest, Txn};
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    object["metadata"]["namespace"] = json!("default");
    let key = format!("/registry/{key}").into();
    let put = PutRequest { key, value: object.to_string().into(), lease: 0, prev_kv: false };
    let txn = Txn { compare: Vec::new(), success: vec![Op::Put(put)], failure: Vec::new() };
    api.server.core().storage.kv().txn(txn).await.unwrap();
}

async fn eventually(api: &Api, name: &str) -> Value {
    for _ in 0..100 {
        let answer = api.create(CONFIG_MAPS, &config_map(name)).await;
        if answer.code == 201 {
            return answer.ok();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no success within five seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_are_for_those_without_side_effects() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let mut webhook = hook.webhook("d.example.com", &["*"], "configmaps");
    webhook["sideEffects"] = json!("NoneOnDryRun");
    configure(&api, "validating", "v", vec![webhook.clone()]).await;
    api.create(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("x")).await.ok();
    assert_eq!(hook.seen().pop().unwrap().1["dryRun"], true);
    // Stored by a release that still took it.
    webhook["sideEffects"] = json!("Some");
    let old = json!({"metadata": {"name": "v2"}, "webhooks": [webhook]});
    let key = "admissionregistration.k8s.io/validatingwebhookconfigurations/v2";
    let version = "admissionregistration.k8s.io/v1";
    put(&api, key, version, "ValidatingWebhookConfiguration", old).await;
    api.server.core().registry.catch_up().await.unwrap();
    api.create(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("x"))
        .await
        .fails(400, "admission webhook \"d.example.com\" does not support dry run");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_one_is_asked_again_where_it_wants_to_be() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| {
        let count = asked["object"]["data"].as_object().map_or(0, serde_json::Map::len);
        add(&format!("/data/k{count}"), json!("1"))
    })
    .await;
    let mut first = hook.webhook("first.example.com", &["CREATE"], "configmaps");
    first["reinvocationPolicy"] = json!("IfNeeded");
    let second = hook.webhook("second.example.com", &["CREATE"], "configmaps");
    // Configurations go by name, whatever came first.
    configure(&api, "mutating", "b", vec![second]).await;
    configure(&api, "mutating", "a", vec![first]).await;
    let made = api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    assert_eq!(made["data"], json!({"a": "1", "k1": "1", "k2": "1", "k3": "1"}));
    let paths: Vec<String> = hook.seen().into_iter().map(|(path, _)| path).collect();
    let path = |name: &str| format!("/{name}.example.com?timeout=10s");
    assert_eq!(paths, [path("first"), path("second"), path("first")]);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_and_other_versions_count() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let mut picky = hook.webhook("p.example.com", &["CREATE", "UPDATE"], "configmaps");
    picky["objectSelector"] = json!({"matchLabels": {"watched": "yes"}});
    let mut scales = hook.webhook("scale.example.com", &["UPDATE"], "deployments/scale");
    scales["rules"][0]["apiGroups"] = json!(["apps"]);
    configure(&api, "validating", "v", vec![picky, scales]).await;
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    assert_eq!(hook.seen().len(), 0);
    let label = json!({"metadata": {"labels": {"watched": "yes"}}});
    api.merge(&format!("{CONFIG_MAPS}/x"), &label).await.ok();
    let (_, asked) = hook.seen().remove(0);
    assert_eq!(asked["options"]["kind"], "UpdateOptions");
    assert_eq!(asked["oldObject"]["metadata"].get("labels"), None);
    let deployment = json!({"metadata": {"name": "d"}, "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    api.create(deployments, &deployment).await.ok();
    let scale = json!({"spec": {"replicas": 3}});
    api.merge(&format!("{deployments}/d/scale"), &scale).await.ok();
    let (_, asked) = hook.seen().pop().unwrap();
    assert_eq!(asked["subResource"], "scale");
    assert_eq!(asked["kind"]["kind"], "Scale");
    assert_eq!(
        (&asked["object"]["kind"], &asked["object"]["spec"]["replicas"]),
        (&json!("Scale"), &json!(3))
    );
    // Nobody is shown what configures himself.
    let all = hook.webhook("all.example.com", &["*"], "*/*");
    configure(&api, "validating", "all", vec![all]).await;
    let before = hook.seen().len();
    let path = format!("{GROUP}/validatingwebhookconfigurations/all");
    api.delete(&path).await.ok();
    assert_eq!(hook.seen().len(), before);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_older_review_works_too() {
    let api = Api::start().await;
    let hook = Hook::start(|_| add("/data/hooked", json!("yes"))).await;
    let mut webhook = hook.webhook("o.example.com", &["CREATE"], "configmaps");
    webhook["admissionReviewVersions"] = json!(["v9", "v1beta1", "v1"]);
    configure(&api, "mutating", "m", vec![webhook]).await;
    let made = api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    assert_eq!(made["data"]["hooked"], "yes");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_made_is_validated() {
    let api = Api::start().await;
    let hook = Hook::start(|_| add("/metadata/labels", json!({"a": "not valid!"}))).await;
    let webhook = hook.webhook("l.example.com", &["CREATE"], "configmaps");
    configure(&api, "mutating", "m", vec![webhook]).await;
    let refused = api.create(CONFIG_MAPS, &config_map("x")).await;
    assert_eq!(refused.code, 422);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_decide_who_is_asked() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": true})).await;
    let mut webhook = hook.webhook("c.example.com", &["CREATE"], "configmaps");
    webhook["matchConditions"] = json!([
        {"name": "name", "expression": "object.metadata.name.startsWith('x')"},
        {"name": "who", "expression": "request.userInfo.username == 'admin'"},
    ]);
    configure(&api, "validating", "v", vec![webhook.clone()]).await;
    api.create(CONFIG_MAPS, &config_map("y")).await.ok();
    assert_eq!(hook.seen().len(), 0);
    api.create(CONFIG_MAPS, &config_map("x")).await.ok();
    assert_eq!(hook.seen().len(), 1);
    webhook["matchConditions"] =
        json!([{"name": "broken", "expression": "object.nothing.at.all == 1"}]);
    let path = format!("{GROUP}/validatingwebhookconfigurations/v");
    api.merge(&path, &json!({"webhooks": [webhook]})).await.ok();
    api.server.core().registry.catch_up().await.unwrap();
    let refused = api.create(CONFIG_MAPS, &config_map("z")).await;
    assert_eq!(refused.code, 403, "{}", refused.body);
    api.shutdown().await;
}
