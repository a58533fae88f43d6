//! What is refused, and in which words: upstream's, for clients and people match them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};

use crate::client::{Answer, Api, CONFIG_MAPS, JSON, MERGE, STRATEGIC, config_map};

const JSON_PATCH: &str = "application/json-patch+json";
const APPLY: &str = "application/apply-patch+yaml";

fn message(answer: &Answer) -> &str {
    answer.body["message"].as_str().or(answer.body.as_str()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_no_numbers_or_versions() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let get = async |query: &str| api.get(&format!("{CONFIG_MAPS}{query}")).await;
    get("?limit=abc").await.fails(400, "strconv.ParseInt: parsing \"abc\": invalid syntax");
    get("?timeoutSeconds=99999999999999999999&watch=1")
        .await
        .fails(400, "strconv.ParseInt: parsing \"99999999999999999999\": value out of range");
    let why =
        "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    get("?resourceVersion=x").await.fails(400, &format!("invalid resource version: {why}"));
    get("?resourceVersion=x&watch=1")
        .await
        .fails(422, &format!("configmaps \"\" is invalid: {why}"));
    get("/a?resourceVersion=x").await.fails(500, why);
    let future = get("?resourceVersion=9000000").await;
    assert_eq!((future.code, &future.body["reason"]), (504, &json!("Timeout")));
    assert!(
        message(&future).starts_with("Timeout: Too large resource version: 9000000, current: ")
    );
    assert_eq!(future.body["details"]["retryAfterSeconds"], 1);
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(future.headers["retry-after"], "1");
    // Unlimited, as upstream's; and what it does not know it does not mind.
    assert_eq!(get("?limit=-5&whatever=1").await.ok()["items"].as_array().unwrap().len(), 1);
    get("?resourceVersionMatch=Exact").await.fails(
        422,
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: \
         resourceVersionMatch is forbidden unless resourceVersion is provided",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn continue_tokens_that_lead_nowhere() {
    let api = Api::start().await;
    let get = async |token: &str| api.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await;
    let token = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let start = "invalid continue token: continue key is not valid";
    get("%21").await.fails(400, &format!("{start}: illegal base64 data at input byte 0"));
    get(&token(json!({"v": "v9", "rv": 1, "start": "a"})))
        .await
        .fails(400, &format!("{start}: server does not recognize this encoded version v9"));
    get(&token(json!({"v": "meta.k8s.io/v1", "rv": 0, "start": "a"}))).await.fails(
        400,
        &format!("{start}: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"),
    );
    get(&token(json!({"v": "meta.k8s.io/v1", "rv": 5})))
        .await
        .fails(400, &format!("{start}: encoded start key empty (version meta.k8s.io/v1)"));
    for way in ["../secrets/x", "a/../../b"] {
        get(&token(json!({"v": "meta.k8s.io/v1", "rv": 5, "start": way})))
            .await
            .fails(400, &format!("{start}: {way}"));
    }
    let far = get(&token(json!({"v": "meta.k8s.io/v1", "rv": 9_000_000, "start": "a"}))).await;
    assert_eq!(far.code, 504, "{}", far.body);
    let good = token(json!({"v": "meta.k8s.io/v1", "rv": 5, "start": "a"}));
    api.get(&format!("{CONFIG_MAPS}?resourceVersion=5&continue={good}"))
        .await
        .fails(400, "specifying resource version is not allowed when using continue");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_outlives_the_history_of_its_first_page() {
    let api = Api::start().await;
    for index in 0..4 {
        api.create(CONFIG_MAPS, &config_map(&format!("c{index}"))).await.ok();
    }
    let first = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    let (token, revision) = (&first["metadata"]["continue"], &first["metadata"]["resourceVersion"]);
    api.create(CONFIG_MAPS, &config_map("c9")).await.ok();
    let core = api.server.core();
    let now = core.registry.catch_up().await.unwrap();
    core.storage.kv().compact(now).await.unwrap();
    let page =
        |token: &Value| format!("{CONFIG_MAPS}?limit=2&continue={}", token.as_str().unwrap());
    let expired = api.get(&page(token)).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")));
    assert!(message(&expired).starts_with(
        "The provided continue parameter is too old to display a consistent list result. You can \
         start a new list without the continue parameter, or use the continue token in this response"
    ));
    let rest = api.get(&page(&expired.body["metadata"]["continue"])).await.ok();
    let names: Vec<&Value> =
        rest["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["c2", "c3"]);
    // Upstream's store forgets after five minutes; a token ends then, whatever ours knows.
    let begun = async |since: i64| {
        let page = api.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
        let token = page["metadata"]["continue"].as_str().unwrap();
        let mut token: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
        token["since"] = json!(token["since"].as_i64().unwrap() - since);
        json!(URL_SAFE_NO_PAD.encode(token.to_string()))
    };
    api.get(&page(&begun(290).await)).await.ok();
    let expired = api.get(&page(&begun(310).await)).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")));
    api.get(&page(&expired.body["metadata"]["continue"])).await.ok();
    let exact = format!(
        "{CONFIG_MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
        revision.as_str().unwrap()
    );
    api.get(&exact).await.fails(410, "The resourceVersion for the provided list is too old.");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_do_not_exist() {
    let api = Api::start().await;
    let create =
        async |query: &str| api.create(&format!("{CONFIG_MAPS}?{query}"), &config_map("a")).await;
    let start = "CreateOptions.meta.k8s.io \"\" is invalid:";
    create("dryRun=Some").await.fails(
        422,
        &format!("{start} dryRun: Unsupported value: [\"Some\"]: supported values: \"All\""),
    );
    create("fieldValidation=Perhaps").await.fails(
        422,
        &format!(
            "{start} fieldValidation: Unsupported value: \"Perhaps\": supported values: \"\", \
             \"Ignore\", \"Strict\", \"Warn\""
        ),
    );
    create(&format!("fieldManager={}", "m".repeat(129)))
        .await
        .fails(422, &format!("{start} fieldManager: Too long: may not be more than 128 bytes"));
    create("fieldManager=a%07b").await.fails(
        422,
        &format!("{start} fieldManager: Invalid value: \"a\\ab\": invalid character U+0007 (at position 1)"),
    );
    create("").await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let delete = async |options: Value| api.delete_with(&one, &options).await;
    delete(json!({"propagationPolicy": "Sideways"})).await.fails(
        422,
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \
         \"Sideways\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
    );
    let stale = delete(json!({"preconditions": {"resourceVersion": "1"}})).await;
    assert_eq!(stale.code, 409);
    assert!(message(&stale).contains("the ResourceVersion in the precondition (1) does not match"));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_that_are_wrong() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let raw = async |kind: &str, body: &str, query: &str| {
        let headers = [("content-type", kind)];
        api.send(Method::PATCH, &format!("{one}{query}"), &headers, body.to_owned()).await
    };
    let missing = r#"[{"op":"remove","path":"/data/none"}]"#;
    raw(JSON_PATCH, missing, "")
        .await
        .fails(422, "the server rejected our request due to an error in our request");
    let wrong = raw(MERGE, r#"{"data":{"a":1}}"#, "").await;
    assert_eq!(wrong.code, 422, "{}", wrong.body);
    let text = message(&wrong);
    assert!(text.starts_with(" \"\" is invalid: patch: Invalid value: \"{"), "{text}");
    assert!(
        text.ends_with(
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string"
        ),
        "{text}"
    );
    // Merged strategically it does not come by JSON.
    for (patch, why) in [
        (r#"{"metadata":{"labels":"invalid"}}"#, "cannot restore map from string"),
        (r#"{"metadata":{"finalizers":{"a":"b"}}}"#, "cannot restore slice from map"),
        (r#"{"immutable":"yes"}"#, "unrecognized type: bool"),
        (r#"{"data":{"a":1}}"#, "cannot convert int64 to string"),
    ] {
        let wrong = raw(STRATEGIC, patch, "").await;
        assert!(wrong.code == 422 && message(&wrong).ends_with(why), "{patch}: {}", wrong.body);
    }
    let strict = raw(STRATEGIC, r#"{"spec":1}"#, "?fieldValidation=Strict").await;
    strict.fails(
        422,
        " \"\" is invalid: patch: Invalid value: \"map[spec:1]\": strict decoding error: unknown field \
         \"spec\"",
    );
    for kind in [JSON_PATCH, MERGE, STRATEGIC] {
        assert_eq!(raw(kind, "{", "").await.code, 400, "{kind}");
    }
    raw(APPLY, "{}", "").await.fails(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for \
         apply patch",
    );
    raw(MERGE, "{}", "?force=true").await.fails(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for \
         non-apply patch",
    );
    raw("application/json", "{}", "").await.fails(
        415,
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, \
         application/strategic-merge-patch+json, application/apply-patch+yaml",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_deep_too_large_or_too_long() {
    let api = Api::start().await;
    let post = async |body: String| api.send(Method::POST, CONFIG_MAPS, &[JSON], body).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(post(deep).await.code, 400);
    let deep = format!("{{\"metadata\":{}1{}}}", "{\"a\":".repeat(20_000), "}".repeat(20_000));
    assert_eq!(post(deep).await.code, 400);
    let huge = r#"{"metadata":{"name":"n","generation":1e400},"data":{}}"#;
    assert_eq!(post(huge.to_owned()).await.code, 400);
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    post(large).await.fails(413, "Request entity too large: limit is 3145728");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_not_written() {
    let api = Api::start().await;
    let get = async |accept: &str| {
        api.send(Method::GET, CONFIG_MAPS, &[("accept", accept)], String::new()).await
    };
    let answer = get("application/cbor").await;
    assert_eq!(answer.code, 406);
    assert!(message(&answer).starts_with("406: Not Acceptable\n\nAvailable representations: "));
    let both = get("application/cbor,application/json").await;
    assert_eq!(both.headers["content-type"], "application/json");
    assert_eq!(both.ok()["kind"], "ConfigMapList");
    // What stands nowhere has no Table.
    let review = json!({"spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let table = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let types = "only the following media types are accepted: application/json, \
                 application/yaml, application/vnd.kubernetes.protobuf";
    api.send(Method::POST, path, &[JSON, table], review.to_string()).await.fails(406, types);
    // A form that is none, or none of this.
    for form in ["as=PartialObjectMetadata;v=v1alpha1;g=meta.k8s.io", "as=Table;v=v1;g=bad"] {
        get(&format!("application/json;{form}")).await.fails(406, types);
    }
    let form = |kind: &str| format!("application/json;as={kind};v=v1;g=meta.k8s.io");
    let words = "you requested PartialObjectMetadata, but the requested object is a list \
                 (*core.ConfigMapList)";
    get(&form("PartialObjectMetadata")).await.fails(406, words);
    let one = async |path: &str, kind: &str| {
        api.send(Method::GET, path, &[("accept", &form(kind))], String::new()).await
    };
    let words = "you requested PartialObjectMetadataList, but the requested object is not a list \
                 (*core.Namespace)";
    one("/api/v1/namespaces/default", "PartialObjectMetadataList").await.fails(406, words);
    let words = "Unable to convert to Table as requested: includeObject: Invalid value: \
                 \"all\": must be 'Metadata', 'Object', 'None', or empty";
    one(&format!("{CONFIG_MAPS}?includeObject=all"), "Table").await.fails(400, words);
    let words = "strconv.ParseInt: parsing \"abc\": invalid syntax";
    one(&format!("{CONFIG_MAPS}?timeoutSeconds=abc"), "Table").await.fails(400, words);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn places_that_do_not_exist() {
    let api = Api::start().await;
    let no_resource = "the server could not find the requested resource";
    for path in [
        "/api/v1/namespaces/default/nothings",
        "/api/v1/namespaces/default/configmaps/a/status",
        "/api/v1/configmaps/a",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/namespaces/default/namespaces/kube-system",
        "/api/v1//pods",
    ] {
        api.get(path).await.fails(404, no_resource);
    }
    for path in ["/apis/none.example/v1/things", "/none", "/apis/none.example"] {
        let answer = api.get(path).await;
        assert_eq!((answer.code, message(&answer)), (404, "404 page not found\n"), "{path}");
    }
    let refused = "the server does not allow this method on the requested resource";
    api.send(Method::PUT, CONFIG_MAPS, &[JSON], "{}").await.fails(405, refused);
    api.send(Method::POST, &format!("{CONFIG_MAPS}/a"), &[JSON], "{}").await.fails(405, refused);
    api.send(Method::OPTIONS, CONFIG_MAPS, &[], "").await.fails(405, refused);
    let watched = "/api/v1/watch/namespaces/default/configmaps";
    api.send(Method::POST, watched, &[JSON], "{}").await.fails(405, refused);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_is_compressed_for_those_who_take_it() {
    use std::io::Read as _;

    let api = Api::start().await;
    let mut object = config_map("large");
    object["data"]["a"] = json!("x".repeat(200 * 1024));
    api.create(CONFIG_MAPS, &object).await.ok();
    let gzip = [("accept-encoding", "deflate, gzip")];
    let request = http::Request::builder().uri(CONFIG_MAPS).header(gzip[0].0, gzip[0].1);
    let response = api.response(request.body(http_body_util::Full::default()).unwrap()).await;
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert!(bytes.len() < 20 * 1024, "{}", bytes.len());
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    // Not the list's version: the server writes what it needs meanwhile.
    let plain = api.get(CONFIG_MAPS).await.ok();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["items"], plain["items"]);
    let small = api.send(Method::GET, "/api/v1/namespaces", &gzip, "").await;
    assert!(small.headers.get("content-encoding").is_none());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replicas_of_a_scale_have_an_owner() {
    let api = Api::start().await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    api.create(&format!("{all}?fieldManager=maker"), &deployment).await.ok();
    let scale = |replicas: i32| {
        json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d"},
               "spec": {"replicas": replicas}})
    };
    let apply = async |query: &str, config: &Value| {
        api.patch(&format!("{all}/d/scale?fieldManager=scaler{query}"), APPLY, config).await
    };
    apply("", &scale(3)).await.fails(
        409,
        "Apply failed with 1 conflict: conflict with \"maker\" using apps/v1: .spec.replicas",
    );
    let forced = apply("&force=true", &scale(3)).await.ok();
    assert_eq!((&forced["kind"], &forced["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    assert_eq!(apply("", &scale(4)).await.ok()["spec"]["replicas"], 4);
    let stored = api.get(&format!("{all}/d")).await.ok();
    let own = stored["metadata"]["managedFields"].as_array().unwrap();
    let own = own.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((&own["subresource"], &own["operation"]), (&json!("scale"), &json!("Apply")));
    assert_eq!(own["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
    let mut wrong = scale(5);
    wrong["spec"]["foo"] = json!(1);
    apply("", &wrong).await.fails(
        500,
        "failed to create typed patch object (default/d; autoscaling/v1, Kind=Scale): .spec.foo: \
         field not declared in schema",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_out_of_date_and_say_so() {
    let api = Api::start().await;
    let answer = api.get("/api/v1/namespaces/default/endpoints").await;
    assert_eq!(
        answer.warnings(),
        ["299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\""]
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_room_says_so_and_takes_deletes() {
    let api = Api::start_on(|store| store.cluster.quota_bytes = 2 << 20, |_| {}).await;
    let big = |number: usize| {
        let data = json!({ "a": "x".repeat(150_000) });
        json!({ "metadata": { "name": format!("big-{number}") }, "data": data })
    };
    let mut made = 0;
    let refused = loop {
        let answer = api.create(CONFIG_MAPS, &big(made)).await;
        if answer.code != 201 {
            break answer;
        }
        made += 1;
        assert!(made < 20, "it is never full");
    };
    assert_eq!((refused.code, &refused.body["reason"]), (507, &json!("InsufficientStorage")));
    let why = message(&refused);
    assert!(why.starts_with("the cluster's store takes nothing more: "), "{why}");
    assert!(why.contains("of 2097152 bytes are taken; delete what nobody needs"), "{why}");
    let metrics = api.get("/metrics").await;
    let full = "atoll_store_no_space{keyspace=\"cluster\"} 1";
    assert!(metrics.body.as_str().unwrap().contains(full), "{}", metrics.body);
    for number in 0..made {
        api.delete(&format!("{CONFIG_MAPS}/big-{number}")).await.ok();
    }
    // What compaction by time does a little later.
    let kv = api.store.keyspace(atoll_store::Keyspace::Cluster);
    let revision = kv.status().await.unwrap().revision;
    kv.compact(revision).await.unwrap();
    while kv.status().await.unwrap().no_space {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    api.create(CONFIG_MAPS, &big(0)).await.ok();
    api.shutdown().await;
}
