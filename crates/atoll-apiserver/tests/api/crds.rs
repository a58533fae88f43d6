//! Custom resources: from a definition to objects in every version, and back to nothing.

pub(crate) mod fields;
mod kubectl;
mod several;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Answer, Api, MERGE, STRATEGIC};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/shop.example.com/v1/namespaces/default/widgets";

fn schema() -> Value {
    json!({
        "type": "object",
        "description": "A widget.",
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "properties": {
                    "size": {"type": "integer", "minimum": 0, "maximum": 100, "description": "How large."},
                    "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
                    "replicas": {"type": "integer"},
                    "parts": {"type": "array", "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name"],
                        "items": {"type": "object", "required": ["name"], "properties": {
                            "name": {"type": "string"}, "weight": {"type": "integer"}}}},
                    "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                },
                "x-kubernetes-validations": [
                    {"rule": "self.size != 13", "message": "thirteen is unlucky"},
                    {"rule": "self.color == oldSelf.color", "message": "the color stays"},
                ],
            },
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"},
                "phase": {"type": "string"}}},
        },
    })
}

fn widgets() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.shop.example.com"},
        "spec": {
            "group": "shop.example.com",
            "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema()},
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                "selectableFields": [{"jsonPath": ".spec.color"}],
            }, {
                "name": "v1beta1", "served": true, "storage": false,
                "deprecated": true,
                "schema": {"openAPIV3Schema": {"type": "object",
                    "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "shop.example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// Asks until the answer is as it should be; it must be so within a second.
async fn soon(api: &Api, path: &str, fits: impl Fn(&Answer) -> bool) -> Answer {
    let begun = Instant::now();
    loop {
        let answer = api.get(path).await;
        if fits(&answer) {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{path}: {}", answer.body);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn defined(api: &Api) -> Duration {
    let begun = Instant::now();
    api.create(DEFINITIONS, &widgets()).await.ok();
    soon(api, WIDGETS, |answer| answer.code == 200).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_within_a_second_and_says_so() {
    let api = Api::start().await;
    let took = defined(&api).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    let crd = api.get(&format!("{DEFINITIONS}/widgets.shop.example.com")).await.ok();
    assert_eq!(crd["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(crd["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    let conditions = crd["status"]["conditions"].as_array().unwrap();
    let kinds: Vec<_> = conditions.iter().map(|one| (&one["type"], &one["status"])).collect();
    assert_eq!(json!(kinds), json!([["NamesAccepted", "True"], ["Established", "True"]]));
    let list = api.get("/apis/shop.example.com/v1").await.ok();
    let names: Vec<_> =
        list["resources"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(json!(names), json!(["widgets", "widgets/status", "widgets/scale"]));
    let group = api.get("/apis/shop.example.com").await.ok();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let accept = ("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let all = api.send(http::Method::GET, "/apis", &[accept], "").await.ok();
    let last = all["items"].as_array().unwrap().last().unwrap();
    assert_eq!(last["metadata"]["name"], "shop.example.com");
    assert_eq!(last["versions"][0]["resources"][0]["responseKind"]["kind"], "Widget");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_pruned_defaulted_and_judged() {
    let api = Api::start().await;
    defined(&api).await;
    let made = widget("a", json!({"size": 1, "foo": 1, "extra": {"any": {"thing": 1}}}));
    let made = api.create(WIDGETS, &made).await;
    assert!(made.warnings()[0].contains("unknown field \\\"spec.foo\\\""), "{:?}", made.warnings());
    let made = made.ok();
    assert_eq!(made["spec"], json!({"size": 1, "color": "red", "extra": {"any": {"thing": 1}}}));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["metadata"]["managedFields"][0]["apiVersion"], "shop.example.com/v1");
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    api.create(&strict, &widget("b", json!({"size": 1, "foo": 1}))).await.fails(
        400,
        "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown \
         field \"spec.foo\"",
    );
    for (spec, expected) in [
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 101}),
            "spec.size: Invalid value: 101: spec.size in body should be less than or equal to 100",
        ),
        (
            json!({"size": 1, "color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"red\", \"blue\"",
        ),
        (json!({"size": 13}), "spec: Invalid value: \"object\": thirteen is unlucky"),
        (
            json!({"size": 1, "parts": [{"name": "x"}, {"name": "x"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"x\"}",
        ),
    ] {
        let refused = api.create(WIDGETS, &widget("b", spec)).await;
        let message = refused.body["message"].as_str().unwrap().to_owned();
        assert_eq!(refused.code, 422, "{message}");
        assert!(message.starts_with("Widget.shop.example.com \"b\" is invalid: "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let at = format!("{WIDGETS}/a");
    let refused = api.merge(&at, &json!({"spec": {"color": "blue"}})).await;
    refused.fails(
        422,
        "Widget.shop.example.com \"a\" is invalid: spec: Invalid value: \"object\": the color stays",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_changed_in_every_way_but_one() {
    let api = Api::start().await;
    defined(&api).await;
    api.create(WIDGETS, &widget("a", json!({"size": 1, "replicas": 2}))).await.ok();
    let at = format!("{WIDGETS}/a");
    let merged = api.patch(&at, MERGE, &json!({"spec": {"size": 2}})).await.ok();
    assert_eq!(
        (&merged["spec"]["size"], &merged["metadata"]["generation"]),
        (&json!(2), &json!(2))
    );
    let refused = api.patch(&at, STRATEGIC, &json!({"spec": {"size": 3}})).await;
    assert_eq!((refused.code, &refused.body["reason"]), (415, &json!("UnsupportedMediaType")));
    let status =
        json!({"status": {"phase": "On", "replicas": 1, "selector": "a=b"}, "spec": {"size": 9}});
    let with_status = api.merge(&format!("{at}/status"), &status).await.ok();
    assert_eq!(with_status["spec"]["size"], 2);
    assert_eq!(with_status["status"]["phase"], "On");
    assert_eq!(with_status["metadata"]["generation"], 2);
    let without = api.merge(&at, &json!({"status": {"phase": "Off"}})).await.ok();
    assert_eq!(without["status"]["phase"], "On");
    let scale = api.get(&format!("{at}/scale")).await.ok();
    assert_eq!(scale["spec"]["replicas"], 2);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = api.send(http::Method::GET, &format!("{at}/scale"), &table, "").await.ok();
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let names: Vec<_> = columns.map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Name", "Desired", "Available", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(cells[1..3], [json!(2), json!(1)]);
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
    let scaled = api.merge(&format!("{at}/scale"), &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    assert_eq!(api.get(&at).await.ok()["spec"]["replicas"], 5);
    let mut stale = api.get(&at).await.ok();
    stale["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let refused = api.put(&at, &stale).await;
    assert_eq!(refused.code, 422, "{}", refused.body);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_knows_items_by_their_keys() {
    let api = Api::start().await;
    defined(&api).await;
    let at = format!("{WIDGETS}/a");
    let apply = async |manager: &str, spec: Value| {
        let path = format!("{at}?fieldManager={manager}");
        api.patch(&path, "application/apply-patch+yaml", &widget("a", spec)).await
    };
    apply("one", json!({"size": 1, "parts": [{"name": "x", "weight": 1}]})).await.ok();
    let both = apply("two", json!({"size": 1, "parts": [{"name": "y", "weight": 2}]})).await.ok();
    let names: Vec<_> =
        both["spec"]["parts"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
    assert_eq!(json!(names), json!(["x", "y"]));
    let owners = both["metadata"]["managedFields"].to_string();
    assert!(owners.contains("k:{\\\"name\\\":\\\"x\\\"}"), "{owners}");
    let conflict = apply("two", json!({"size": 2})).await;
    assert_eq!(conflict.code, 409, "{}", conflict.body);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_select_watch_and_print() {
    let api = Api::start().await;
    defined(&api).await;
    let mut watch = api.watch(&format!("{WIDGETS}?watch=1"), "application/json").await;
    api.create(WIDGETS, &widget("a", json!({"size": 1}))).await.ok();
    api.create(WIDGETS, &widget("b", json!({"size": 2, "color": "blue"}))).await.ok();
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "a".to_owned()));
    assert_eq!(watch.step().await, ("ADDED".to_owned(), "b".to_owned()));
    let label = json!({"metadata": {"labels": {"seen": "yes"}}});
    api.merge(&format!("{WIDGETS}/a"), &label).await.ok();
    assert_eq!(watch.step().await, ("MODIFIED".to_owned(), "a".to_owned()));
    let blue = api.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dblue")).await.ok();
    assert_eq!(blue["items"].as_array().unwrap().len(), 1);
    assert_eq!(blue["kind"], "WidgetList");
    let selected = format!("{WIDGETS}?watch=1&fieldSelector=spec.color%3Dblue");
    let mut blue = api.watch(&selected, "application/json").await;
    assert_eq!(blue.step().await, ("ADDED".to_owned(), "b".to_owned()));
    api.create(WIDGETS, &widget("c", json!({"size": 1}))).await.ok();
    api.create(WIDGETS, &widget("d", json!({"size": 1, "color": "blue"}))).await.ok();
    assert_eq!(blue.step().await, ("ADDED".to_owned(), "d".to_owned()));
    api.delete(&format!("{WIDGETS}/c")).await.ok();
    api.delete(&format!("{WIDGETS}/d")).await.ok();
    assert_eq!(blue.step().await, ("DELETED".to_owned(), "d".to_owned()));
    for (event, name) in [("ADDED", "c"), ("ADDED", "d"), ("DELETED", "c"), ("DELETED", "d")] {
        assert_eq!(watch.step().await, (event.to_owned(), name.to_owned()));
    }
    let unknown = api.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await;
    unknown.fails(400, "field label not supported: spec.size");
    let accept = ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table = api.send(http::Method::GET, WIDGETS, &[accept], "").await.ok();
    let columns: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(json!(columns), json!(["Name", "Size", "Color"]));
    assert_eq!(table["rows"][1]["cells"], json!(["b", 2, "blue"]));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_differ_by_name_and_by_what_they_know() {
    let api = Api::start().await;
    defined(&api).await;
    let old = WIDGETS.replace("/v1/", "/v1beta1/");
    let mut object = widget("a", json!({"size": 1, "unknown": true}));
    object["apiVersion"] = json!("shop.example.com/v1beta1");
    let made = api.create(&old, &object).await;
    let warned = made.warnings().iter().any(|text| text.contains("v1beta1 Widget is deprecated"));
    assert!(warned, "{:?}", made.warnings());
    made.ok();
    let new = api.get(&format!("{WIDGETS}/a")).await.ok();
    assert_eq!(new["apiVersion"], "shop.example.com/v1");
    // What the stored version does not know is gone, and its defaults are there.
    assert_eq!(new["spec"], json!({"size": 1, "color": "red"}));
    assert_eq!(api.get(&format!("{old}/a")).await.ok()["apiVersion"], "shop.example.com/v1beta1");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_explain_and_forget() {
    let api = Api::start().await;
    defined(&api).await;
    let place = "/openapi/v3/apis/shop.example.com/v1";
    let document = api.get(place).await.ok();
    let widget = &document["components"]["schemas"]["com.example.shop.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["description"], "How large.");
    assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(widget["properties"]["metadata"]["allOf"].is_array(), "{widget}");
    // No path has an operation that is none.
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            assert!(operation["responses"].is_object(), "{method} {path}: {operation}");
        }
    }
    let loose = api.get("/openapi/v3/apis/shop.example.com/v1beta1").await.ok();
    let loose = &loose["components"]["schemas"]["com.example.shop.v1beta1.Widget"];
    assert_eq!(loose["x-kubernetes-preserve-unknown-fields"], true, "{loose}");
    assert!(loose["properties"]["kind"].is_object(), "{loose}");
    let patch = &document["paths"]["/apis/shop.example.com/v1/namespaces/{namespace}/widgets/{name}"]
        ["patch"];
    let names: Vec<_> =
        patch["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!("fieldValidation")), "{names:?}");
    let second = api.get("/openapi/v2").await.ok();
    assert!(second["definitions"]["com.example.shop.v1.Widget"].is_object());
    assert!(second["definitions"]["com.example.shop.v1beta1.Widget"]["properties"].is_null());
    api.delete(&format!("{DEFINITIONS}/widgets.shop.example.com")).await.ok();
    soon(&api, place, |answer| answer.code == 404).await;
    let second = api.get("/openapi/v2").await.ok();
    assert!(second["definitions"]["com.example.shop.v1.Widget"].is_null());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_goes_with_its_objects() {
    let api = Api::start().await;
    defined(&api).await;
    api.create(WIDGETS, &widget("plain", json!({"size": 1}))).await.ok();
    let mut held = widget("held", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["x.io/wait"]);
    api.create(WIDGETS, &held).await.ok();
    let mut watch = api.watch(&format!("{WIDGETS}?watch=1"), "application/json").await;
    let at = format!("{DEFINITIONS}/widgets.shop.example.com");
    let going = api.delete(&at).await.ok();
    let finalizer = json!(["customresourcecleanup.apiextensions.k8s.io"]);
    assert_eq!(going["metadata"]["finalizers"], finalizer);
    soon(&api, &format!("{WIDGETS}/plain"), |answer| answer.code == 404).await;
    let refused = api.create(WIDGETS, &widget("late", json!({"size": 1}))).await;
    assert_eq!(refused.code, 405, "{}", refused.body);
    let crd = soon(&api, &at, |answer| {
        answer.body["status"]["conditions"].to_string().contains("InstanceDeletionInProgress")
    });
    crd.await;
    let stuck = api.get(&format!("{WIDGETS}/held")).await.ok();
    assert!(stuck["metadata"]["deletionTimestamp"].is_string());
    while watch.next().await.is_some() {}
    // Nothing comes any more, and what is there can be let go.
    let why = "create not allowed while custom resource definition is terminating";
    api.create(WIDGETS, &widget("late", json!({"size": 1}))).await.fails(405, why);
    let applied = format!("{WIDGETS}/late?fieldManager=me");
    let late = widget("late", json!({"size": 1}));
    let forbidden = format!("widgets.shop.example.com \"late\" is forbidden: {why}");
    api.patch(&applied, "application/apply-patch+yaml", &late).await.fails(403, &forbidden);
    let free = json!({"metadata": {"finalizers": null}});
    api.merge(&format!("{WIDGETS}/held"), &free).await.ok();
    soon(&api, &at, |answer| answer.code == 404).await;
    soon(&api, WIDGETS, |answer| answer.code == 404).await;
    defined(&api).await;
    assert_eq!(api.get(WIDGETS).await.ok()["items"], json!([]));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_reads_definitions_and_objects() {
    let api = Api::start().await;
    defined(&api).await;
    api.create(WIDGETS, &widget("a", json!({"size": 1}))).await.ok();
    let api = api.restart().await;
    assert_eq!(api.get(WIDGETS).await.ok()["items"][0]["metadata"]["name"], "a");
    let mut changed = api.get(&format!("{DEFINITIONS}/widgets.shop.example.com")).await.ok();
    changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["weight"] = json!({"type": "integer", "default": 7});
    api.put(&format!("{DEFINITIONS}/widgets.shop.example.com"), &changed).await.ok();
    // Defaults of a new schema are there for objects that were written before.
    let at = format!("{WIDGETS}/a");
    soon(&api, &at, |answer| answer.body["spec"]["weight"] == 7).await;
    api.shutdown().await;
}

/// Where the schema promises nothing the paths of the scale are still looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_scale_is_a_number_that_fits() {
    let api = Api::start().await;
    let mut crd = widgets();
    let version = &mut crd["spec"]["versions"][0];
    version["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    version["selectableFields"] = json!(null);
    api.create(DEFINITIONS, &crd).await.ok();
    soon(&api, WIDGETS, |answer| answer.code == 200).await;
    let refused = async |spec: Value, why: &str| {
        let answer = api.create(WIDGETS, &widget("w", spec)).await;
        let said = answer.body["message"].as_str().unwrap().to_owned();
        assert!(answer.code == 422 && said.contains(why), "{said}");
    };
    let large = "should be less than or equal to 2147483647";
    refused(json!({"replicas": 2_147_483_648_i64}), large).await;
    let text = ".spec.replicas accessor error: x is of the type string, expected int64";
    refused(json!({"replicas": "x"}), text).await;
    api.create(WIDGETS, &widget("w", json!({"replicas": 7}))).await.ok();
    // What comes says what it is, for no type does.
    let mut other = widget("x", json!({}));
    other["kind"] = json!("Gadget");
    let words = "Gadget.shop.example.com \"x\" is invalid: kind: Invalid value: \"Gadget\": must be \
                 Widget";
    api.create(WIDGETS, &other).await.fails(422, words);
    other["kind"] = json!(null);
    let answer = api.create(WIDGETS, &other).await;
    let said = answer.body["message"].as_str().unwrap();
    assert!(answer.code == 400 && said.contains("Object 'Kind' is missing in '{"), "{said}");
    let mut other = widget("x", json!({}));
    other["apiVersion"] = json!(null);
    let words = "the API version in the data () does not match the expected API version \
                 (shop.example.com/v1)";
    api.create(WIDGETS, &other).await.fails(400, words);
    // Items of a list say what they are: no type that a client knows does.
    let list = api.get(WIDGETS).await.ok();
    let item = &list["items"][0];
    assert_eq!(
        (&item["kind"], &item["apiVersion"]),
        (&json!("Widget"), &json!("shop.example.com/v1"))
    );
    let gone = api.delete(WIDGETS).await.ok();
    assert_eq!(gone["items"][0]["kind"], "Widget");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_definitions_are_refused() {
    let api = Api::start().await;
    let refuse = async |change: &dyn Fn(&mut Value), expected: &str| {
        let mut crd = widgets();
        change(&mut crd);
        let refused = api.create(DEFINITIONS, &crd).await;
        let message = refused.body["message"].as_str().unwrap_or("").to_owned();
        assert_eq!(refused.code, 422, "{}", refused.body);
        assert!(message.contains(expected), "{message}");
    };
    let at = "spec.versions[0].schema.openAPIV3Schema";
    refuse(&|crd| crd["metadata"]["name"] = json!("x.shop.example.com"),
        "metadata.name: Invalid value: \"x.shop.example.com\": must be spec.names.plural+\".\"+spec.group").await;
    refuse(
        &|crd| crd["spec"]["versions"][1]["storage"] = json!(true),
        "must have exactly one version marked as storage version",
    )
    .await;
    refuse(
        &|crd| crd["spec"]["scope"] = json!("World"),
        "spec.scope: Unsupported value: \"World\"",
    )
    .await;
    refuse(&|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["type"] = json!(null),
        &format!("{at}.properties[spec].type: Required value: must not be empty for specified object fields")).await;
    refuse(&|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["default"] = json!("x"),
        &format!("{at}.properties[spec].properties[size].default: Invalid value: \"string\"")).await;
    refuse(&|crd| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = json!("self.nothing > 1"),
        "undefined field 'nothing'").await;
    refuse(
        &|crd| {
            crd["spec"]["versions"][0]["subresources"]["scale"]["specReplicasPath"] =
                json!(".status.x")
        },
        "should be a json path under .spec",
    )
    .await;
    refuse(
        &|crd| crd["spec"]["conversion"] = json!({"strategy": "Webhook"}),
        "spec.conversion.webhook.clientConfig: Required value",
    )
    .await;
    api.shutdown().await;
}
