//! A custom resource by kubectl, from its definition to its end.

use serde_json::json;
use tokio::process::Command;

use crate::client::Api;
use crate::kubectl::Kubectl;

const WIDGET: &str = "
apiVersion: shop.example.com/v1
kind: Widget
metadata: {name: w}
spec: {size: 3, replicas: 1}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_custom_resources() {
    if Command::new("kubectl").arg("--help").output().await.is_err() {
        assert!(std::env::var_os("CI").is_none(), "kubectl is not here");
        println!("skipped: kubectl is not here");
        return;
    }
    let api = Api::start().await;
    let (address, _serving) = api.open().await;
    let server = format!("http://{address}");
    let kubectl = Kubectl { server, cache: tempfile::tempdir().unwrap() };

    let definition = super::widgets().to_string();
    let created = "customresourcedefinition.apiextensions.k8s.io/widgets.shop.example.com created";
    kubectl.ok(&["apply", "-f", "-"], &definition, created).await;
    let wait =
        ["wait", "--for=condition=Established", "crd/widgets.shop.example.com", "--timeout=5s"];
    kubectl.ok(&wait, "", "condition met").await;
    kubectl.ok(&["get", "crd"], "", "widgets.shop.example.com").await;
    kubectl.ok(&["apply", "-f", "-"], WIDGET, "widget.shop.example.com/w created").await;
    kubectl.ok(&["apply", "-f", "-"], WIDGET, "widget.shop.example.com/w unchanged").await;
    let larger = WIDGET.replace("size: 3", "size: 4");
    kubectl.ok(&["apply", "-f", "-"], &larger, "configured").await;
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    kubectl.ok(&apply, WIDGET, "serverside-applied").await;
    let (_, table) = kubectl.run(&["get", "wd"], "").await;
    let lines: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(json!(lines), json!([["NAME", "SIZE", "COLOR"], ["w", "3", "red"]]));
    kubectl.ok(&["explain", "widget.spec.size"], "", "How large.").await;
    kubectl.ok(&["explain", "widgets"], "", "A widget.").await;
    kubectl.ok(&["api-resources"], "", "shop.example.com/v1").await;
    let patch = r#"{"spec":{"size":5}}"#;
    kubectl.ok(&["patch", "widget", "w", "--type=merge", "-p", patch], "", "patched").await;
    let (success, text) = kubectl.run(&["patch", "widget", "w", "-p", patch], "").await;
    assert!(!success && text.contains("application/strategic-merge-patch+json"), "{text}");
    kubectl.ok(&["scale", "widget", "w", "--replicas=4"], "", "scaled").await;
    kubectl.ok(&["get", "widget", "w", "-o", "jsonpath={.spec.replicas}"], "", "4").await;
    let (success, text) = kubectl.run(&["apply", "-f", "-"], &WIDGET.replace("size", "sise")).await;
    assert!(!success && text.contains("unknown field \"spec.sise\""), "{text}");
    let (success, text) = kubectl.run(&["apply", "-f", "-"], &WIDGET.replace("3", "13")).await;
    assert!(!success && text.contains("thirteen is unlucky"), "{text}");
    kubectl.ok(&["delete", "crd", "widgets.shop.example.com"], "", "deleted").await;
    let (success, text) = kubectl.run(&["get", "widgets"], "").await;
    // It remembers what it discovered.
    assert!(!success && text.contains("could not find the requested resource"), "{text}");
    keeping(&kubectl).await;
    api.shutdown().await;
}

/// Definitions that keep unknown fields: in a part, in an embedded object, and everywhere.
async fn keeping(kubectl: &Kubectl) {
    let mut definition = super::fields::jars();
    definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
    definition["kind"] = json!("CustomResourceDefinition");
    kubectl.ok(&["create", "-f", "-"], &definition.to_string(), "created").await;
    let wait = ["wait", "--for=condition=Established", "crd/jars.fields.example.com"];
    kubectl.ok(&wait, "", "condition met").await;
    let jar = |version: &str, rest: &str| {
        format!(
            "apiVersion: fields.example.com/{version}\nkind: Jar\nmetadata: {{name: {version}}}\n{rest}"
        )
    };
    let embedded =
        "spec: {any: 1, kept: {apiVersion: v1, kind: X, metadata: {name: x}, more: {a: 1}}}";
    for (version, rest) in [("v1", embedded), ("v2", "spec: {any: [1]}\nmore: {b: 2}")] {
        let manifest = jar(version, rest);
        kubectl.ok(&["create", "-f", "-"], &manifest, "created").await;
        kubectl.ok(&["apply", "-f", "-"], &manifest, "configured").await;
        kubectl.ok(&["delete", "-f", "-"], &manifest, "deleted").await;
    }
    let (success, text) = kubectl.run(&["create", "-f", "-"], &jar("v1", "more: 1")).await;
    assert!(!success && text.contains("unknown field \"more\""), "{text}");
    let first = "--api-version=fields.example.com/v1";
    kubectl.ok(&["explain", "jars.spec", first], "", "Keeps what nobody knows.").await;
    kubectl.ok(&["explain", "jars.spec.kept", first], "", "Another object.").await;
    kubectl.ok(&["explain", "jars", "--api-version=fields.example.com/v2"], "", "KIND:").await;
}
