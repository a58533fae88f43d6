//! Expressions that explode: patterns of schemas, and CEL.

use http::Method;
use serde_json::{Value, json};

use super::{Bounds, still_serves};
use crate::client::Cluster;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BOXES: &str = "/apis/patterns.example.com/v1/namespaces/default/boxes";

/// A definition whose `spec.text` has this schema beside its type.
fn definition(more: &Value) -> Value {
    let mut text = json!({"type": "string", "maxLength": 60_000});
    for (key, value) in more.as_object().unwrap() {
        text[key] = value.clone();
    }
    let spec = json!({"type": "object", "properties": {"text": text}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boxes.patterns.example.com"},
        "spec": {"group": "patterns.example.com", "scope": "Namespaced",
            "names": {"plural": "boxes", "kind": "Box"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema":
                {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]},
    })
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_that_would_be_huge_are_refused() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let rule = |rule: &str| json!({"x-kubernetes-validations": [{"rule": rule}]});
    let long = "(".repeat(5_000) + &")".repeat(5_000);
    for (what, more) in [
        ("a pattern of a million", json!({"pattern": "^((x{1,1000}){1,1000}){1,1000}$"})),
        ("a deep pattern", json!({"pattern": long})),
        ("classes by the thousand", json!({"pattern": "(\\p{L}{1,1000}){1,1000}"})),
        ("a rule's pattern", rule("self.matches('^((x{1,1000}){1,1000}){1,1000}$')")),
        ("a rule that is deep", rule(&format!("{}true{}", "(".repeat(1000), ")".repeat(1000)))),
    ] {
        let bounds = Bounds::begin(what);
        let made = definition(&more);
        let (code, answer) = cluster.call(&admin, Method::POST, DEFINITIONS, &made).await;
        assert_eq!(code, 422, "{what}: {answer}");
        assert!(message(&answer).contains("spec.versions[0].schema"), "{what}: {answer}");
        assert!(message(&answer).len() < 60_000, "{what}: {} bytes", message(&answer).len());
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_take_time_by_the_length_of_a_text_alone() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let more = json!({
        "pattern": "^(a+)+$",
        "x-kubernetes-validations": [{"rule": "self.matches('^(([a-z])+.)+[A-Z]?b?$')"}],
    });
    let (code, answer) = cluster.call(&admin, Method::POST, DEFINITIONS, &definition(&more)).await;
    assert_eq!(code, 201, "{answer}");
    let boxed = |text: &str| {
        json!({"apiVersion": "patterns.example.com/v1", "kind": "Box",
            "metadata": {"generateName": "b-"}, "spec": {"text": text}})
    };
    while cluster.call(&admin, Method::GET, BOXES, &Value::Null).await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let bad = format!("{}!", "a".repeat(50_000));
    for (text, expected) in [("a".repeat(50_000), 201), (bad, 422)] {
        let bounds = Bounds::begin(format!("a text of {} bytes", text.len()));
        let (code, answer) = cluster.call(&admin, Method::POST, BOXES, &boxed(&text)).await;
        assert_eq!(code, expected, "{}", message(&answer));
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// Numbers and selectors that are large in what they mean.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_and_selectors_are_bounded() {
    let cluster = Cluster::start().await;
    let admin = cluster.admin();
    let account = json!({"metadata": {"name": "default"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.call(&admin, Method::POST, accounts, &account).await;
    for amount in ["1e99999999", "1E-99999999", "9".repeat(100_000).as_str(), "0.00000000001Ei"] {
        let bounds = Bounds::begin(format!("the amount {}", amount.get(..10).unwrap_or(amount)));
        let pod = json!({"metadata": {"generateName": "p-"}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {"limits": {"memory": amount}}}]}});
        let path = "/api/v1/namespaces/default/pods";
        let (code, answer) = cluster.call(&admin, Method::POST, path, &pod).await;
        assert!(matches!(code, 201 | 400 | 422), "{code}: {answer}");
        bounds.hold();
    }
    let terms: Vec<String> = (0..1500).map(|number| format!("l{number}+in+(a,b)")).collect();
    let path = format!("{}?labelSelector={}", super::MAPS, terms.join(","));
    let bounds = Bounds::begin("a selector of 1500 terms");
    let (code, _) = cluster.call(&admin, Method::GET, &path, &Value::Null).await;
    assert_eq!(code, 200);
    bounds.hold();
    still_serves(&cluster).await;
    cluster.shutdown().await;
}
