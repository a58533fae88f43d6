//! Protobuf answers: the same objects as in JSON, byte by byte as Go would write them.

use atoll_api::proto;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, config_map};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Code, content type and bytes of an answer.
async fn ask(api: &Api, method: Method, path: &str, accept: &str) -> (u16, String, Bytes) {
    let request = Request::builder().method(method).uri(path).header("accept", accept);
    let response = api.response(request.body(Full::default()).unwrap()).await;
    let (head, body) = response.into_parts();
    let kind = head.headers["content-type"].to_str().unwrap().to_owned();
    (head.status.as_u16(), kind, body.collect().await.unwrap().to_bytes())
}

async fn protobuf(api: &Api, path: &str) -> Bytes {
    let (code, kind, bytes) = ask(api, Method::GET, path, PROTOBUF).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF), "{path}");
    bytes
}

/// The next frame of a watch.
async fn frame(body: &mut atoll_apiserver::body::Body, rest: &mut Vec<u8>) -> Value {
    loop {
        if let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if tail.len() >= length {
                let id = atoll_api::schema::by_type("v1", "WatchEvent").unwrap();
                let event = proto::decode_message(id, &tail[..length]).unwrap();
                rest.drain(..4 + length);
                return event;
            }
        }
        let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame());
        let frame = frame.await.expect("an event within ten seconds").expect("the watch goes on");
        rest.extend_from_slice(frame.unwrap().data_ref().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_and_a_list_are_those_of_json() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.create(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    let paths = [
        format!("{CONFIG_MAPS}/a"),
        "/api/v1/namespaces/default".to_owned(),
        CONFIG_MAPS.to_owned(),
        format!("{CONFIG_MAPS}?limit=2"),
        "/api/v1/namespaces".to_owned(),
        "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned(),
        "/api/v1/services".to_owned(),
        "/api/v1/namespaces/none/pods".to_owned(),
    ];
    for path in paths {
        // Twice: from the tree, and from what the cache kept of it.
        for _ in 0..2 {
            let json = api.get(&path).await.ok();
            let bytes = protobuf(&api, &path).await;
            assert_eq!(bytes, proto::encode(&json).unwrap(), "{path}");
        }
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_answered_in_protobuf_too() {
    let api = Api::start().await;
    let body = proto::encode(&config_map("p")).unwrap();
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let request = Request::builder().method(Method::POST).uri(CONFIG_MAPS);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let response = api.response(request.body(Full::from(body)).unwrap()).await;
    assert_eq!(response.status(), 201);
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let json = api.get(&format!("{CONFIG_MAPS}/p")).await.ok();
    assert_eq!(bytes, proto::encode(&json).unwrap());
    let (code, kind, bytes) =
        ask(&api, Method::DELETE, &format!("{CONFIG_MAPS}/p"), PROTOBUF).await;
    assert_eq!((code, kind.as_str()), (200, PROTOBUF));
    assert_eq!(proto::decode(&bytes).unwrap().1["status"], "Success");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_a_status_in_protobuf() {
    let api = Api::start().await;
    let (code, kind, bytes) =
        ask(&api, Method::GET, &format!("{CONFIG_MAPS}/none"), PROTOBUF).await;
    assert_eq!((code, kind.as_str()), (404, PROTOBUF));
    let status = proto::decode(&bytes).unwrap().1;
    assert_eq!(status["message"], "configmaps \"none\" not found");
    assert_eq!(status["details"]["kind"], "configmaps");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_json_and_metadata_is_protobuf() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let table = format!("{PROTOBUF};as=Table;v=v1;g=meta.k8s.io");
    assert_eq!(ask(&api, Method::GET, CONFIG_MAPS, &table).await.0, 406);
    let either = format!("{table},application/json");
    assert_eq!(ask(&api, Method::GET, CONFIG_MAPS, &either).await.1, "application/json");
    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;v=v1;g=meta.k8s.io");
    let (code, _, bytes) = ask(&api, Method::GET, CONFIG_MAPS, &partial).await;
    assert_eq!(code, 200);
    let list = proto::decode(&bytes).unwrap().1;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_frames_with_the_events_of_json() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let url = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
         allowWatchBookmarks=true"
    );
    let mut json = api.watch(&url, "application/json").await;
    let request = Request::builder().uri(&url).header("accept", PROTOBUF);
    let response = api.response(request.body(Full::default()).unwrap()).await;
    assert_eq!(response.headers()["content-type"], format!("{PROTOBUF};stream=watch"));
    let (mut body, mut rest) = (response.into_body(), Vec::new());
    api.merge(&format!("{CONFIG_MAPS}/a"), &json!({"data": {"b": "2"}})).await.ok();
    api.delete(&format!("{CONFIG_MAPS}/a")).await.ok();
    for kind in ["ADDED", "BOOKMARK", "MODIFIED", "DELETED"] {
        let expected = json.next().await.unwrap();
        let found = frame(&mut body, &mut rest).await;
        assert_eq!((&found["type"], &expected["type"]), (&json!(kind), &json!(kind)));
        let bytes = |event: &Value| proto::encode(&event["object"]).unwrap();
        assert_eq!(bytes(&found), bytes(&expected), "{kind}");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_too_old_says_so_in_protobuf() {
    let api = Api::start().await;
    let old = api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let revision = old["metadata"]["resourceVersion"].as_str().unwrap();
    let big = "x".repeat(1_000_000);
    for index in 0..10 {
        let patch = json!({"data": {"big": format!("{index}{big}")}});
        api.merge(&format!("{CONFIG_MAPS}/a"), &patch).await.ok();
    }
    // The cache has forgotten it once it has seen everything.
    api.get(CONFIG_MAPS).await.ok();
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let request = Request::builder().uri(&url).header("accept", PROTOBUF);
    let response = api.response(request.body(Full::default()).unwrap()).await;
    let event = frame(&mut response.into_body(), &mut Vec::new()).await;
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_of_a_watch_are_refused_in_upstreams_words() {
    let api = Api::start().await;
    let refused = |query: &str| format!("{CONFIG_MAPS}?watch=1&{query}");
    api.get(&refused("sendInitialEvents=true")).await.fails(
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
         sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
    api.get(&refused("resourceVersionMatch=Exact&resourceVersion=1")).await.fails(
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: [resourceVersionMatch: Forbidden: \
         resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided, \
         resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]",
    );
    let list = format!("{CONFIG_MAPS}?sendInitialEvents=true");
    api.get(&list).await.fails(
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: \
         sendInitialEvents is forbidden for list",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_initial_events_begins_after_what_was_there() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("before")).await.ok();
    let url =
        format!("{CONFIG_MAPS}?watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan");
    let mut watch = api.watch(&url, "application/json").await;
    api.create(CONFIG_MAPS, &config_map("after")).await.ok();
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "after".to_owned()));
    api.shutdown().await;
}

/// Every `$ref` in a document.
fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|one| references(one, found));
        }
        Value::Array(items) => items.iter().for_each(|one| references(one, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_v2_has_paths_whose_references_lead_somewhere() {
    let api = Api::start().await;
    let document = api.get("/openapi/v2").await.ok();
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let name =
            reference.strip_prefix("#/definitions/").unwrap_or_else(|| panic!("{reference}"));
        assert!(document["definitions"].get(name).is_some(), "{reference}");
    }
    let patch =
        &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedDeployment");
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| one["name"].as_str()).collect();
    assert!(names.contains(&Some("fieldValidation")) && names.contains(&Some("body")), "{names:?}");
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let Some(id) = operation["operationId"].as_str() else { continue };
            assert!(ids.insert(id.to_owned()), "{id} of {path} is there twice");
        }
    }
    assert!(ids.len() > 300, "{}", ids.len());
    let gnostic = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, _, bytes) = ask(&api, Method::GET, "/openapi/v2", gnostic).await;
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(code, 200);
    assert!(ids.iter().all(|id| text.contains(id.as_str())), "an operation is missing");
    api.shutdown().await;
}
