//! Discovery and OpenAPI, against upstream's own documents.

use serde_json::Value;

use crate::client::{Api, oracle};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn aggregated(api: &Api, path: &str) -> Value {
    let headers = [("accept", AGGREGATED)];
    let answer = api.send(http::Method::GET, path, &headers, "").await;
    assert_eq!(answer.headers["content-type"], AGGREGATED);
    answer.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn served_resources_are_described_as_upstream_describes_them() {
    let Some(dir) = oracle("discovery") else { return };
    let text = std::fs::read_to_string(dir.join("aggregated_v2.json")).unwrap();
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let api = Api::start().await;
    let ours = aggregated(&api, "/apis").await;
    let mut compared = 0;
    for (group, version, resource) in resources(&ours) {
        // Upstream has it from a server of its own.
        if group == "metrics.k8s.io" {
            continue;
        }
        let upstream = resources(&theirs)
            .into_iter()
            .find(|(g, v, own)| {
                *g == group && *v == version && own["resource"] == resource["resource"]
            })
            .unwrap_or_else(|| panic!("upstream has no {resource} in {group}"));
        for field in
            ["responseKind", "scope", "singularResource", "verbs", "shortNames", "categories"]
        {
            assert_eq!(resource.get(field), upstream.2.get(field), "{field} of {resource}");
        }
        compared += 1;
    }
    assert!(compared > 15, "only {compared}");
    api.shutdown().await;
}

fn resources(document: &Value) -> Vec<(String, String, &Value)> {
    let mut found = Vec::new();
    for group in document["items"].as_array().unwrap() {
        for version in group["versions"].as_array().unwrap() {
            for resource in version["resources"].as_array().unwrap() {
                let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
                found.push((text(&group["metadata"]["name"]), text(&version["version"]), resource));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_core_group_has_every_resource_and_subresource_of_upstream() {
    let Some(dir) = oracle("discovery") else { return };
    let text = std::fs::read_to_string(dir.join("api__v1.json")).unwrap();
    let theirs: Value = serde_json::from_str(&text).unwrap();
    let api = Api::start().await;
    let ours = api.get("/api/v1").await.ok();
    let known = ours["resources"].as_array().unwrap();
    for wanted in theirs["resources"].as_array().unwrap() {
        let found = known.iter().find(|one| one["name"] == wanted["name"]);
        let found = found.unwrap_or_else(|| panic!("{} is not served", wanted["name"]));
        for field in ["kind", "group", "version", "namespaced", "verbs", "shortNames", "categories"]
        {
            assert_eq!(found.get(field), wanted.get(field), "{field} of {}", wanted["name"]);
        }
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_document_is_not_sent_again() {
    let api = Api::start().await;
    let accept = ("accept", AGGREGATED);
    let first = api.send(http::Method::GET, "/apis", &[accept], "").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let headers = [accept, ("if-none-match", tag.as_str())];
    let again = api.send(http::Method::GET, "/apis", &headers, "").await;
    assert_eq!(again.code, 304);
    api.shutdown().await;
}

/// kubectl validates on its own unless PATCH lists the parameter; every reference must lead
/// somewhere, or it falls back to the older form.
#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_are_whole() {
    let api = Api::start().await;
    let index = api.get("/openapi/v3").await.ok();
    for (place, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        let answer = api.get(url).await;
        assert_eq!(answer.headers["cache-control"], "public, immutable", "{place}");
        let document = answer.ok();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        for reference in references {
            let name = reference.trim_start_matches("#/components/schemas/");
            assert!(schemas.contains_key(name), "{place}: {reference} leads nowhere");
        }
        for (name, schema) in schemas {
            let is_kind = schema.get("x-kubernetes-group-version-kind").is_some();
            // Envelopes and questions, of which the table of descriptions has nothing.
            let is_plain = ["List", "Options", "WatchEvent"].iter().any(|end| name.ends_with(end));
            let described = schema["description"].is_string() || is_plain;
            assert!(described || !is_kind, "{place}: nothing is said of {name}");
        }
    }
    let apps = api.get("/openapi/v3/apis/apps/v1").await.ok();
    let path = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
    let patch = &apps["paths"][path]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(parameters.iter().any(|one| one["name"] == "fieldValidation"));
    let spec = &apps["components"]["schemas"]["io.k8s.api.apps.v1.DeploymentSpec"];
    assert!(spec["properties"]["replicas"]["description"].is_string());
    let core = api.get("/openapi/v3/api/v1").await.ok();
    let values = |schema: &str, field: &str| {
        core["components"]["schemas"][format!("io.k8s.api.core.v1.{schema}")]["properties"][field]
            .clone()
    };
    let policies = serde_json::json!(["Always", "Never", "OnFailure"]);
    assert_eq!(values("PodSpec", "restartPolicy")["enum"], policies);
    let modes = values("PersistentVolumeClaimSpec", "accessModes");
    assert_eq!(modes["items"]["enum"][0], "ReadOnlyMany");
    let metrics = api.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.ok();
    let path = "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}";
    assert_eq!(metrics["paths"][path]["get"]["x-kubernetes-action"], "get");
    api.shutdown().await;
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                found.push(reference.clone());
            }
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| collect_references(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_say_so_in_upstreams_words() {
    let api = Api::start().await;
    let answer = api.get("/apis/nothing.example/v1/things").await;
    assert_eq!((answer.code, answer.body), (404, Value::from("404 page not found\n")));
    let missing = "the server could not find the requested resource";
    api.get("/api/v1/things").await.fails(404, missing);
    let no = "the server does not allow this method on the requested resource";
    api.put("/api/v1/namespaces", &serde_json::json!({})).await.fails(405, no);
    for path in ["/readyz", "/livez", "/healthz", "/readyz/etcd"] {
        assert_eq!(api.get(path).await.body, Value::from("ok"), "{path}");
    }
    assert_eq!(api.get("/version").await.ok()["minor"], "36");
    let metrics = api.get("/metrics").await.body;
    assert!(metrics.as_str().unwrap().contains("apiserver_request_total{code=\"404\""));
    api.shutdown().await;
}
