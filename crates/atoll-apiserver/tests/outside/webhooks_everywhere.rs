//! Webhooks for more than ConfigMaps: custom resources, definitions, Pods, and what is connected
//! to; and configurations that change or go.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};
use crate::hooked::Hook;
use crate::webhooks::{GROUP, add, configure, reconfigure};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LAMPS: &str = "/apis/hooked.example.com/v1/namespaces/default/lamps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Lamps in two versions; with `knows` their data has these fields alone.
fn definition(knows: Option<&[&str]>) -> Value {
    let schema = match knows {
        Some(fields) => {
            let fields: serde_json::Map<_, _> =
                fields.iter().map(|one| ((*one).to_owned(), json!({"type": "string"}))).collect();
            json!({"type": "object", "properties": fields})
        }
        None => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
    };
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"data": schema}}}})
    };
    json!({
        "metadata": {"name": "lamps.hooked.example.com"},
        "spec": {
            "group": "hooked.example.com", "scope": "Namespaced",
            "names": {"plural": "lamps", "kind": "Lamp"},
            "versions": [version("v1", true), version("v2", false)],
        },
    })
}

async fn defined(api: &Api, definition: &Value) {
    api.create(DEFINITIONS, definition).await.ok();
    let begun = Instant::now();
    while api.get(LAMPS).await.code != 200 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn lamp(name: &str, holds: Value) -> Value {
    json!({"apiVersion": "hooked.example.com/v1", "kind": "Lamp",
        "metadata": {"name": name}, "data": holds})
}

/// A webhook for another group than the core's.
fn webhook_for(hook: &Hook, name: &str, operations: &[&str], rule: (&str, &str, &str)) -> Value {
    let mut webhook = hook.webhook(name, operations, rule.2);
    webhook["rules"][0]["apiGroups"] = json!([rule.0]);
    webhook["rules"][0]["apiVersions"] = json!([rule.1]);
    webhook
}

/// The first writes a field, the second another when the first is there.
fn stages(asked: &Value) -> Value {
    let lamp = &asked["object"]["data"];
    if lamp["start"] == "yes" && lamp.get("stage-1").is_none() {
        return add("/data/stage-1", json!("yes"));
    }
    if lamp["stage-1"] == "yes" {
        return add("/data/stage-2", json!("yes"));
    }
    json!({"allowed": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_changed_and_pruned_in_either_version() {
    let hook = Hook::start(stages).await;
    let rule = ("hooked.example.com", "v1", "lamps");
    let stage = |name: &str| vec![webhook_for(&hook, name, &["CREATE", "UPDATE"], rule)];
    for (knows, expected) in [
        (None, json!({"start": "yes", "stage-1": "yes", "stage-2": "yes"})),
        (Some(&["start", "stage-1", "more"][..]), json!({"start": "yes", "stage-1": "yes"})),
    ] {
        let api = Api::start().await;
        defined(&api, &definition(knows)).await;
        configure(&api, "mutating", "a", stage("first.example.com")).await;
        configure(&api, "mutating", "b", stage("second.example.com")).await;
        let made = api.create(LAMPS, &lamp("l", json!({"start": "yes"}))).await.ok();
        assert_eq!(made["data"], expected);
        // Another version is stored from now on; who is asked still sees his own.
        let mut other = api.get(&format!("{DEFINITIONS}/lamps.hooked.example.com")).await.ok();
        other["spec"]["versions"][0]["storage"] = json!(false);
        other["spec"]["versions"][1]["storage"] = json!(true);
        api.put(&format!("{DEFINITIONS}/lamps.hooked.example.com"), &other).await.ok();
        let newer = LAMPS.replace("/v1/", "/v2/");
        for place in [LAMPS, &newer] {
            api.merge(&format!("{place}/l"), &json!({"data": {"more": place}})).await.ok();
            let found = api.get(&format!("{LAMPS}/l")).await.ok();
            assert_eq!(found["data"]["more"], *place);
            let (_, asked) = hook.seen().pop().unwrap();
            assert_eq!(asked["object"]["apiVersion"], "hooked.example.com/v1");
            assert_eq!(asked["oldObject"]["apiVersion"], "hooked.example.com/v1");
        }
        api.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_and_their_definitions_are_refused() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| {
        let object = if asked["operation"] == "DELETE" { "oldObject" } else { "object" };
        let bad = asked[object]["data"]["bad"] == "yes"
            || asked[object]["metadata"]["labels"]["bad"] == "yes";
        json!({"allowed": !bad, "status": {"message": "the lamp contains unwanted data"}})
    })
    .await;
    defined(&api, &definition(None)).await;
    let rule = ("hooked.example.com", "v1", "lamps");
    let all = ["CREATE", "UPDATE", "DELETE"];
    let lamps = webhook_for(&hook, "lamps.example.com", &all, rule);
    let rule = ("apiextensions.k8s.io", "*", "customresourcedefinitions");
    let definitions = webhook_for(&hook, "definitions.example.com", &["CREATE"], rule);
    configure(&api, "validating", "v", vec![lamps, definitions]).await;
    let why = "the lamp contains unwanted data";
    let by =
        |name: &str| format!("admission webhook \"{name}.example.com\" denied the request: {why}");
    api.create(LAMPS, &lamp("l", json!({"bad": "yes"}))).await.fails(400, &by("lamps"));
    api.create(LAMPS, &lamp("l", json!({"bad": "no"}))).await.ok();
    let one = format!("{LAMPS}/l");
    api.merge(&one, &json!({"data": {"bad": "yes"}})).await.fails(400, &by("lamps"));
    // One that is bad already, made while nobody was asked, cannot be deleted before it is good.
    let path = format!("{GROUP}/validatingwebhookconfigurations/v");
    let kept = api.get(&path).await.ok()["webhooks"].clone();
    let mut deletes = kept[0].clone();
    deletes["rules"][0]["operations"] = json!(["DELETE"]);
    reconfigure(&api, &path, &deletes).await;
    api.merge(&one, &json!({"data": {"bad": "yes"}})).await.ok();
    api.delete(&one).await.fails(400, &by("lamps"));
    api.delete(LAMPS).await.fails(400, &by("lamps"));
    api.merge(&one, &json!({"data": {"bad": "no"}})).await.ok();
    api.delete(&one).await.ok();
    api.merge(&path, &json!({"webhooks": kept})).await.ok();
    api.get(path.rsplit_once('/').unwrap().0).await.ok();
    let mut bad = definition(None);
    bad["metadata"] = json!({"name": "bulbs.hooked.example.com", "labels": {"bad": "yes"}});
    bad["spec"]["names"] = json!({"plural": "bulbs", "kind": "Bulb"});
    api.create(DEFINITIONS, &bad).await.fails(400, &by("definitions"));
    bad["metadata"]["labels"] = json!({});
    api.create(DEFINITIONS, &bad).await.ok();
    api.shutdown().await;
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_completed_and_nobody_attaches_to_them() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| match asked["operation"].as_str() {
        Some("CONNECT") => json!({"allowed": asked["name"] != "closed", "status": {
            "message": "attaching to pod 'closed' is not allowed"}}),
        _ => add("/spec/initContainers", json!([{"name": "added", "image": "webhook-added"}])),
    })
    .await;
    let create = hook.webhook("pods.example.com", &["CREATE"], "pods");
    configure(&api, "mutating", "m", vec![create]).await;
    let attach = hook.webhook("attach.example.com", &["CONNECT"], "pods/attach");
    configure(&api, "validating", "v", vec![attach]).await;
    // What a webhook adds is completed like what a client writes.
    let made = api.create(PODS, &pod("closed")).await.ok();
    let added = &made["spec"]["initContainers"][0];
    for (field, value) in [
        ("imagePullPolicy", "Always"),
        ("terminationMessagePath", "/dev/termination-log"),
        ("terminationMessagePolicy", "File"),
    ] {
        assert_eq!(added[field], value, "{added}");
    }
    let url = format!("{PODS}/closed/attach?stdin=true&tty=1&container=c");
    api.create(&url, &Value::Null).await.fails(
        400,
        "admission webhook \"attach.example.com\" denied the request: attaching to pod 'closed' is \
         not allowed",
    );
    let (_, asked) = hook.seen().pop().unwrap();
    let options = json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true,
        "tty": true, "container": "c"});
    assert_eq!(asked["object"], options);
    assert_eq!((&asked["subResource"], &asked["name"]), (&json!("attach"), &json!("closed")));
    assert_eq!(asked["kind"], json!({"group": "", "version": "v1", "kind": "PodAttachOptions"}));
    // Others are asked about nothing.
    let before = hook.seen().len();
    api.create(&format!("{PODS}/closed/exec?command=a"), &Value::Null).await;
    assert_eq!(hook.seen().len(), before);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_maps_are_refused_but_where_nobody_looks() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| {
        let bad = asked["object"]["metadata"]["labels"]["bad"] == "yes";
        json!({"allowed": !bad, "status": {"message": "unwanted label"}})
    })
    .await;
    let named = |resource: &str| {
        let name = format!("{resource}.example.com");
        let mut webhook = hook.webhook(&name, &["CREATE", "UPDATE"], resource);
        webhook["namespaceSelector"] = json!({"matchExpressions": [
            {"key": "left-out", "operator": "NotIn", "values": ["yes"]}]});
        webhook
    };
    configure(&api, "validating", "v", vec![named("pods"), named("configmaps")]).await;
    let bad = |mut object: Value| {
        object["metadata"]["labels"] = json!({"bad": "yes"});
        object
    };
    let by = |resource: &str| {
        format!("admission webhook \"{resource}.example.com\" denied the request: unwanted label")
    };
    api.create(PODS, &bad(pod("p"))).await.fails(400, &by("pods"));
    api.create(CONFIG_MAPS, &bad(config_map("m"))).await.fails(400, &by("configmaps"));
    let made = api.create(CONFIG_MAPS, &config_map("m")).await.ok();
    let one = format!("{CONFIG_MAPS}/m");
    api.put(&one, &bad(made)).await.fails(400, &by("configmaps"));
    let label = json!({"metadata": {"labels": {"bad": "yes"}}});
    api.merge(&one, &label).await.fails(400, &by("configmaps"));
    let apart = json!({"metadata": {"name": "apart", "labels": {"left-out": "yes"}}});
    api.create("/api/v1/namespaces", &apart).await.ok();
    let there = "/api/v1/namespaces/apart/configmaps";
    api.create(there, &bad(config_map("m"))).await.ok();
    api.shutdown().await;
}

/// Both kinds of configurations: their rules count as soon as they are changed, and once they
/// are deleted, by their labels, nobody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_change_and_go_at_once() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| {
        let bad = asked["object"]["data"]["bad"] == "yes";
        if bad { json!({"allowed": false}) } else { add("/data/hooked", json!("yes")) }
    })
    .await;
    for kind in ["mutating", "validating"] {
        let path = format!("{GROUP}/{kind}webhookconfigurations");
        let mut webhook = hook.webhook("w.example.com", &["CREATE"], "configmaps");
        for name in ["w1", "w2"] {
            let labels = json!({"name": name, "labels": {"list": "yes"}});
            let named = json!({"metadata": labels, "webhooks": [webhook]});
            api.create(&path, &named).await.ok();
        }
        let listed = api.get(&format!("{path}?labelSelector=list=yes")).await.ok();
        assert_eq!(listed["items"].as_array().unwrap().len(), 2);
        let asked = async |name: &str| {
            let before = hook.seen().len();
            let mut object = config_map(name);
            object["data"]["bad"] = json!(if kind == "validating" { "yes" } else { "no" });
            let answer = api.create(CONFIG_MAPS, &object).await;
            drop(api.delete(&format!("{CONFIG_MAPS}/{name}")).await);
            let touched = answer.code == 400 || answer.body["data"].get("hooked").is_some();
            assert_eq!(touched, hook.seen().len() > before, "{kind}: {}", answer.body);
            touched
        };
        assert!(asked("first").await, "{kind}");
        webhook["rules"][0]["operations"] = json!(["UPDATE"]);
        for name in ["w1", "w2"] {
            let mut whole = api.get(&format!("{path}/{name}")).await.ok();
            whole["webhooks"] = json!([webhook]);
            api.put(&format!("{path}/{name}"), &whole).await.ok();
        }
        api.get(&path).await.ok();
        assert!(!asked("second").await, "{kind}: the rules were changed");
        webhook["rules"][0]["operations"] = json!(["CREATE"]);
        reconfigure(&api, &format!("{path}/w1"), &webhook).await;
        assert!(asked("third").await, "{kind}: the rules were patched");
        api.delete(&format!("{path}?labelSelector=list=yes")).await.ok();
        assert_eq!(api.get(&path).await.ok()["items"], json!([]));
        assert!(!asked("fourth").await, "{kind}: the configurations are gone");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_spare_what_they_name_from_being_changed() {
    let api = Api::start().await;
    let hook = Hook::start(|_| add("/data/hooked", json!("yes"))).await;
    let mut webhook = hook.webhook("c.example.com", &["CREATE", "UPDATE"], "configmaps");
    webhook["matchConditions"] = json!([
        {"name": "skip-me", "expression": "object.metadata.name != 'skip-me'"},
    ]);
    configure(&api, "mutating", "m", vec![webhook.clone()]).await;
    let hooked = async |name: &str| {
        let made = api.create(CONFIG_MAPS, &config_map(name)).await.ok();
        made["data"].get("hooked").is_some()
    };
    assert!(!hooked("skip-me").await);
    assert!(hooked("another").await);
    // Other conditions count at once.
    let path = format!("{GROUP}/mutatingwebhookconfigurations/m");
    webhook["matchConditions"] = json!([
        {"name": "only", "expression": "object.metadata.name == 'only'"},
    ]);
    reconfigure(&api, &path, &webhook).await;
    assert!(!hooked("third").await);
    assert!(hooked("only").await);
    api.shutdown().await;
}

/// Whoever wants to see everything does not see what configures webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn configurations_are_shown_to_nobody() {
    let api = Api::start().await;
    let hook = Hook::start(|_| json!({"allowed": false})).await;
    let everything = |name: &str| {
        let mut webhook = webhook_for(&hook, name, &["*"], ("*", "*", "*"));
        webhook["rules"][0]["scope"] = json!("Cluster");
        vec![webhook]
    };
    configure(&api, "mutating", "m", everything("m.example.com")).await;
    configure(&api, "validating", "v", everything("v.example.com")).await;
    for kind in ["mutating", "validating"] {
        let dummy = hook.webhook("dummy.example.com", &["CREATE"], "invalid");
        configure(&api, kind, "dummy", vec![dummy.clone()]).await;
        let path = format!("{GROUP}/{kind}webhookconfigurations/dummy");
        let found = api.get(&path).await.ok();
        assert_eq!(found["webhooks"].as_array().unwrap().len(), 1);
        assert_eq!(found["metadata"].get("labels"), None);
        api.delete(&path).await.ok();
    }
    assert_eq!(hook.seen().len(), 0);
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": "n"}}))
        .await
        .fails(400, "admission webhook \"m.example.com\" denied the request without explanation");
    api.shutdown().await;
}

/// An eviction is something that is created; of the delete behind it nobody is asked.
#[tokio::test(flavor = "multi_thread")]
async fn evictions_are_shown_as_what_they_are() {
    let api = Api::start().await;
    let hook = Hook::start(|asked| {
        let stays = asked["object"]["metadata"]["name"] == "stays";
        json!({"allowed": !stays, "status": {"message": "it stays"}})
    })
    .await;
    let every = hook.webhook("every.example.com", &["*"], "pods/eviction");
    let deletes = hook.webhook("deletes.example.com", &["DELETE"], "*/*");
    configure(&api, "validating", "v", vec![every, deletes]).await;
    for name in ["goes", "stays"] {
        api.create(PODS, &pod(name)).await.ok();
    }
    let evict = async |name: &str, version: &str| {
        let eviction = json!({"apiVersion": version, "kind": "Eviction", "metadata": {"name": name},
            "deleteOptions": {"gracePeriodSeconds": 0}});
        api.create(&format!("{PODS}/{name}/eviction"), &eviction).await
    };
    let words = "admission webhook \"every.example.com\" denied the request: it stays";
    evict("stays", "policy/v1").await.fails(400, words);
    // A body of the version that went is still one.
    assert_eq!(evict("goes", "policy/v1beta1").await.code, 201);
    assert_eq!(api.get(&format!("{PODS}/goes")).await.code, 404);
    let seen = hook.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let (path, asked) = &seen[1];
    assert!(path.starts_with("/every.example.com"), "{path}");
    assert_eq!(
        (&asked["operation"], &asked["subResource"]),
        (&json!("CREATE"), &json!("eviction"))
    );
    assert_eq!(asked["object"]["deleteOptions"]["gracePeriodSeconds"], 0);
    assert_eq!(
        (&asked["oldObject"], &asked["options"]["kind"]),
        (&Value::Null, &json!("CreateOptions"))
    );
    api.shutdown().await;
}
