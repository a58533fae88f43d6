//! What the API server reads of requests.

use atoll_api::apply::{self, FieldSet, Manager, Operation};
use atoll_api::cron;
use atoll_api::kinds::batch::indexes::Indexes;
use atoll_api::quantity::Quantity;
use atoll_api::selector::{FieldSelector, LabelSelector};
use atoll_api::{columns, names, patch, proto, schema, tree};
use serde_json::{Value, json};

use super::{parts, texts};
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target {
        name: "etcd_request",
        run: atoll_etcd::server::fuzz_request,
        seeds: atoll_etcd::server::fuzz_requests,
    },
    Target {
        name: "etcd_gateway",
        run: atoll_etcd::server::fuzz_gateway_body,
        seeds: atoll_etcd::server::fuzz_gateway_bodies,
    },
    Target {
        name: "etcd_connection",
        run: atoll_etcd::server::fuzz_connection,
        seeds: atoll_etcd::server::fuzz_connections,
    },
    Target {
        name: "etcd_marker",
        run: atoll_etcd::external::fuzz::marker,
        seeds: atoll_etcd::external::fuzz::markers,
    },
    Target {
        name: "etcd_version",
        run: atoll_etcd::external::fuzz::version,
        seeds: atoll_etcd::external::fuzz::versions,
    },
    Target { name: "json", run: json_tree, seeds: json_seeds },
    Target { name: "yaml", run: yaml_tree, seeds: yaml_seeds },
    Target { name: "protobuf", run: protobuf, seeds: protobuf_seeds },
    Target { name: "protobuf_encode", run: protobuf_encode, seeds: protobuf_encode_seeds },
    Target { name: "body", run: body, seeds: body_seeds },
    Target { name: "json_patch", run: json_patch, seeds: json_patch_seeds },
    Target { name: "merge_patch", run: merge_patch, seeds: merge_patch_seeds },
    Target { name: "strategic_patch", run: strategic_patch, seeds: strategic_seeds },
    Target { name: "apply", run: server_side_apply, seeds: apply_seeds },
    Target { name: "selectors", run: selectors, seeds: selector_seeds },
    Target { name: "quantity", run: quantity, seeds: quantity_seeds },
    Target { name: "times", run: times, seeds: time_seeds },
    Target { name: "names", run: check_names, seeds: name_seeds },
    Target { name: "schedule", run: schedule, seeds: schedule_seeds },
    Target { name: "indexes", run: indexes, seeds: index_seeds },
    Target { name: "headers", run: atoll_apiserver::fuzz::headers, seeds: header_seeds },
    Target { name: "request_line", run: request_line, seeds: request_line_seeds },
    Target { name: "continue_token", run: continue_token, seeds: continue_seeds },
];

const POD: &str = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","labels":{"app":"web"},
"creationTimestamp":"2026-01-02T03:04:05Z"},"spec":{"containers":[{"name":"c","image":"node:18",
"ports":[{"containerPort":80,"name":"http"}],"env":[{"name":"A","value":"1"}],
"resources":{"limits":{"cpu":"100m","memory":"64Mi"}}}]}}"#;

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [
                {"name": "a", "image": "a:1", "ports": [{"containerPort": 80}]},
                {"name": "b", "image": "b:1", "env": [{"name": "X", "value": "y"}]},
            ], "tolerations": [{"key": "k", "operator": "Exists"}]},
        }, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}}},
    })
}

fn definition(api_version: &str, kind: &str) -> Option<&'static schema::Definition> {
    schema::by_type(api_version, kind).map(schema::SchemaId::definition)
}

fn json_tree(input: &[u8]) {
    let Ok(read) = tree::from_json(input) else { return };
    let text = read.object.to_string();
    let again = tree::from_json(text.as_bytes()).map(|again| again.object);
    assert!(
        again.is_ok_and(|again| again == read.object) || has_float(&read.object),
        "what was read is not written alike"
    );
}

/// Reading a fraction is off by one in its last place now and then: serde_json is exact only
/// with its feature `float_roundtrip`.
fn has_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(map) => map.values().any(has_float),
        _ => false,
    }
}

fn json_seeds() -> Vec<Vec<u8>> {
    texts(&[
        POD,
        r#"[1,-2.5e3,"\u00e9\ud83d\ude00",null,true,{"a":1,"a":2}]"#,
        "18446744073709551616",
    ])
}

fn yaml_tree(input: &[u8]) {
    if let Ok(documents) = tree::from_yaml_all(input) {
        assert!(documents.len() <= input.len() + 1);
    }
    let Ok(read) = tree::from_yaml(input) else { return };
    let text = tree::to_yaml(&read.object);
    let again = tree::from_yaml(text.as_bytes()).map(|again| again.object);
    assert!(
        again.is_ok_and(|again| again == read.object) || has_float(&read.object),
        "what was read is not written alike: {text}"
    );
}

fn yaml_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  labels: {app: web, \"on\": 'yes'}\n\
         spec:\n  containers:\n  - name: c\n    image: node:18\n    args: [\"-c\", |\n      x\n      y\n    ]\n",
        "a: &x [1, 2]\nb: *x\nc: &y {d: *x}\ne: *y\n<<: *y\n",
        "- 0x1F\n- 0o17\n- 1_000\n- .inf\n- ~\n- 2026-01-02\n- !!str 1\n- >-\n  folded\n  text\n",
        "a: 1\n---\nb: 2\n...\n--- |\n text\n",
        "? [complex, key]\n: value\n\"\\u00e9\\n\": \"\\x41\"\n",
    ])
}

fn protobuf(input: &[u8]) {
    let Ok((_, object)) = proto::decode(input) else { return };
    let Ok(written) = proto::encode(&object) else { return };
    // Fields that are no pointers come back with their zero value, so bytes are compared.
    let again = proto::decode(&written).and_then(|(_, again)| proto::encode(&again));
    assert_eq!(again, Ok(written), "what was read is not written alike");
}

/// JSON that is written as protobuf: refused, or bytes that are read.
fn protobuf_encode(input: &[u8]) {
    let Ok(read) = tree::from_json(input) else { return };
    let Ok(written) = proto::encode(&read.object) else { return };
    let again = proto::decode(&written).and_then(|(_, again)| proto::encode(&again));
    assert_eq!(again, Ok(written), "what was written is not read alike");
}

fn protobuf_encode_seeds() -> Vec<Vec<u8>> {
    let read = |bytes: &Vec<u8>| proto::decode(bytes).ok().map(|(_, object)| object);
    let objects = protobuf_seeds();
    let mut seeds: Vec<Vec<u8>> =
        objects.iter().filter_map(read).map(|one| one.to_string().into_bytes()).collect();
    seeds.extend(texts(&[
        r#"{"apiVersion":"v1","kind":"PodList","metadata":{"remainingItemCount":1},"items":[{},null]}"#,
        r#"{"apiVersion":"v1","kind":"Status","code":404,"details":{"causes":[{"reason":"x"}]}}"#,
        r#"{"apiVersion":"apps/v1","kind":"ControllerRevision","data":{"a":[1,{"b":null}]}}"#,
    ]));
    seeds
}

fn protobuf_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let pod: Option<Value> = serde_json::from_str(POD).ok();
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-02T03:04:05.000006Z", "count": 3});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "targetPort": "http"}], "clusterIPs": ["10.0.0.1"]}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "data": {"a": "YQ=="}});
    for object in [pod, Some(deployment()), Some(event), Some(service), Some(secret)] {
        seeds.extend(object.and_then(|object| proto::encode(&object).ok()));
    }
    seeds
}

/// Row and format in the first two bytes.
fn body(input: &[u8]) {
    if let [row, format, rest @ ..] = input {
        atoll_apiserver::fuzz::body(usize::from(*row), *format, rest);
    }
}

fn body_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, row) in atoll_api::kinds::builtin().iter().enumerate() {
        let Ok(number) = u8::try_from(number) else { break };
        let mut object = match &*row.kind {
            "Pod" => serde_json::from_str(POD).unwrap_or_default(),
            "Deployment" | "ReplicaSet" => deployment(),
            _ => json!({"metadata": {"name": "a", "namespace": "b"}, "spec": {}, "status": {}}),
        };
        object["apiVersion"] = Value::from(row.api_version());
        object["kind"] = Value::from(&*row.kind);
        seeds.push([&[number, 0], object.to_string().as_bytes()].concat());
        if let Ok(encoded) = proto::encode(&object) {
            seeds.push([&[number, 2], encoded.as_slice()].concat());
        }
    }
    seeds
}

/// A document and a patch of it.
fn two_trees(input: &[u8]) -> Option<(Value, Value)> {
    let [document, patch] = parts::<2>(input)?;
    Some((tree::from_json(document).ok()?.object, tree::from_json(patch).ok()?.object))
}

fn pairs(list: &[(&str, &str)]) -> Vec<Vec<u8>> {
    list.iter().map(|(a, b)| format!("{a}\0{b}").into_bytes()).collect()
}

fn json_patch(input: &[u8]) {
    let Some((document, patch)) = two_trees(input) else { return };
    let mut patched = document.clone();
    if patch::json(&mut patched, &patch).is_err() {
        assert_eq!(patched, document, "a patch that failed changed something");
    }
}

fn json_patch_seeds() -> Vec<Vec<u8>> {
    pairs(&[
        (
            r#"{"a":[1,2,{"b~/c":3}]}"#,
            r#"[{"op":"test","path":"/a/0","value":1},{"op":"add","path":"/a/-","value":{"x":1}},
            {"op":"move","from":"/a/1","path":"/d"},{"op":"copy","from":"/a","path":"/e"}]"#,
        ),
        (r#"{"a":{}}"#, r#"[{"op":"replace","path":"/a","value":2},{"op":"remove","path":"/a"}]"#),
        (
            r#"{"a":[1]}"#,
            r#"[{"op":"copy","from":"","path":"/a/0"},{"op":"copy","from":"","path":"/a/0"}]"#,
        ),
    ])
}

fn merge_patch(input: &[u8]) {
    let Some((mut document, patch)) = two_trees(input) else { return };
    patch::merge(&mut document, &patch);
    let once = document.clone();
    patch::merge(&mut document, &patch);
    assert_eq!(once, document, "a merge patch twice is not the same as once");
}

fn merge_patch_seeds() -> Vec<Vec<u8>> {
    pairs(&[(r#"{"a":{"b":1,"c":[1]}}"#, r#"{"a":{"b":null,"d":{"e":2}},"f":[]}"#), ("1", "{}")])
}

fn strategic_patch(input: &[u8]) {
    let Some((mut document, patch)) = two_trees(input) else { return };
    let Some(definition) = definition("apps/v1", "Deployment") else { return };
    drop(patch::strategic(definition, &mut document, &patch));
}

fn strategic_seeds() -> Vec<Vec<u8>> {
    let document = deployment().to_string();
    let patches = [
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"b:2"},{"name":"a","$patch":"delete"}],
        "$setElementOrder/containers":[{"name":"b"},{"name":"a"}]}}}}"#,
        r#"{"metadata":{"finalizers":["x"],"$deleteFromPrimitiveList/finalizers":["y"],
        "$setElementOrder/finalizers":["x"]},"spec":{"strategy":{"$retainKeys":["type"],"type":"Recreate"}}}"#,
        r#"{"spec":{"template":{"spec":{"containers":[{"$patch":"replace"},{"name":"z"}],
        "tolerations":[{"key":"q"}]}},"$patch":"merge"}}"#,
    ];
    patches.iter().map(|patch| format!("{document}\0{patch}").into_bytes()).collect()
}

fn manager(name: &str) -> Manager {
    Manager {
        name: name.to_owned(),
        operation: Operation::Apply,
        api_version: "apps/v1".to_owned(),
        subresource: String::new(),
    }
}

fn server_side_apply(input: &[u8]) {
    const NOW: &str = "2026-01-02T03:04:05Z";
    let Some((live, config)) = two_trees(input) else { return };
    if let Some(set) = FieldSet::parse(&config) {
        assert_eq!(FieldSet::parse(&set.to_json()).as_ref(), Some(&set));
        drop(set.paths());
    }
    let Some(definition) = definition("apps/v1", "Deployment") else { return };
    // The server has checked what it stores, and refuses a configuration that is no object.
    let mut live = live;
    if schema::prune_and_check(definition, &mut live).is_err() || !config.is_object() {
        return;
    }
    let live = Some(&live);
    let first = apply::apply(definition, live, &config, &manager("a"), false, NOW);
    drop(apply::apply(definition, live, &config, &manager("b"), true, NOW));
    if let Ok(first) = first {
        let again = apply::apply(definition, Some(&first), &config, &manager("a"), false, NOW);
        assert_eq!(again, Ok(first), "applied twice is not the same as once");
    }
}

fn apply_seeds() -> Vec<Vec<u8>> {
    let Some(definition) = definition("apps/v1", "Deployment") else { return Vec::new() };
    let config = deployment();
    let applied =
        apply::apply(definition, None, &config, &manager("a"), false, "2026-01-01T00:00:00Z");
    let live = applied.unwrap_or_default().to_string();
    let mut seeds = vec![format!("{live}\0{config}").into_bytes()];
    for config in [
        r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"web"},"spec":{"replicas":2}}"#,
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"b","env":[{"name":"X"}]}]}}}}"#,
        r#"{"f:spec":{"f:template":{"k:{\"name\":\"b\"}":{".":{},"f:image":{}},"v:1":{},"i:3":{}}}}"#,
    ] {
        seeds.push(format!("{live}\0{config}").into_bytes());
    }
    seeds
}

fn selectors(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(selector) = LabelSelector::parse(text) {
        selector.matches(|_| Some("web"));
        selector.matches(|_| None);
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches(|_| "web");
    }
    if let Ok(object) = serde_json::from_slice(input) {
        drop(LabelSelector::from_object(&object));
    }
}

fn selector_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "app=web,tier in (a,b),!gone,x!=y,z notin (q),n>5,m<7,has",
        r"metadata.name=a\,b\=c,spec.nodeName!=n1,status.phase==Running",
        r#"{"matchLabels":{"a":"b"},"matchExpressions":[{"key":"c","operator":"In","values":["d"]}]}"#,
    ])
}

fn quantity(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(quantity) = Quantity::parse(text) else { return };
    let written = quantity.to_string();
    let again = Quantity::parse(&written).map(|again| (again.nanos(), again.to_string()));
    assert_eq!(again, Ok((quantity.nanos(), written)), "{text}");
    let numbers = (quantity.value(), quantity.milli());
    std::hint::black_box((numbers, quantity.is_zero(), quantity.is_negative()));
}

fn quantity_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "100m",
        "-1.5Gi",
        "1e3",
        "0.000000001",
        "9223372036854775807Ei",
        "1E-9",
        "+.5k",
        "12e+30n",
    ])
}

fn times(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    drop(columns::since(text, jiff::Timestamp::UNIX_EPOCH));
    for (kind, value) in [
        ("Pod", json!({"metadata": {"creationTimestamp": text}})),
        ("Event", json!({"eventTime": text, "metadata": {"deletionTimestamp": text}})),
    ] {
        let Some(definition) = definition("v1", kind) else { return };
        let mut object = value;
        if schema::prune_and_check(definition, &mut object).is_ok() {
            let once = object.clone();
            drop(schema::prune_and_check(definition, &mut object));
            assert_eq!(once, object, "a time in its final form changes again");
        }
    }
}

fn time_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.123456+23:59",
        "-009999-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "1h2m3.5s",
    ])
}

fn check_names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    for check in [
        names::dns1123_label,
        names::dns1123_subdomain,
        names::dns1035_label,
        names::wildcard_dns1123_subdomain,
        names::qualified_name,
        names::label_value,
        names::port_name,
        names::relaxed_env_var_name,
        names::config_map_key,
        names::percent,
        names::ip,
        names::cidr,
        names::path_segment,
    ] {
        check(text);
    }
}

fn name_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "a-b.c",
        "example.com/Name_1",
        "*.example.com",
        "25%",
        "10.0.0.0/8",
        "fd00::1%eth0",
        "A=B",
    ])
}

fn header_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
        "application/vnd.kubernetes.protobuf;q=0.9, */*;q=0.1",
        "application/apply-patch+yaml; charset=utf-8",
    ])
}

fn request_line(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        atoll_apiserver::fuzz::request_line(text);
    }
}

fn request_line_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "/api/v1/namespaces/a/pods/b/log?follow=true&tailLines=5&container=%63",
        "/apis/apps/v1/watch/deployments?labelSelector=a%3Db&fieldSelector=metadata.name%3Dx",
        "/api/v1/namespaces/a/pods/b/proxy/x//y/..?pretty=1&dryRun=All&dryRun=All&fieldManager=m",
        "/healthz?verbose",
    ])
}

fn continue_token(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        atoll_apiserver::fuzz::continue_token(text);
    }
}

fn continue_seeds() -> Vec<Vec<u8>> {
    // {"rv":12,"start":"a/b\u0000","v":"meta.k8s.io/v1"}
    texts(&["eyJydiI6MTIsInN0YXJ0IjoiYS9iXHUwMDAwIiwidiI6Im1ldGEuazhzLmlvL3YxIn0"])
}

/// A schedule's next start is later, and on a whole minute unless it counts from somewhere.
fn schedule(input: &[u8]) {
    let Some([text, zone, at]) = parts::<3>(input) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(schedule) = cron::Schedule::parse(text) else { return };
    let zone = std::str::from_utf8(zone).ok().and_then(cron::zone);
    let zone = zone.unwrap_or(jiff::tz::TimeZone::UTC);
    let seconds = at.iter().take(4).fold(0_i64, |sum, byte| sum << 8 | i64::from(*byte));
    let Ok(at) = jiff::Timestamp::from_second(seconds) else { return };
    if let Some(next) = schedule.next(at, &zone) {
        assert!(next > at, "{text} starts at {next}, which is not after {at}");
        assert!(text.contains("@every") || next.as_second() % 60 == 0, "{text}: {next}");
    }
}

fn schedule_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "*/5 0-6,12 1,15 jan-jun mon-fri\0Europe/Berlin\0\x65\x00\x00\x00",
        "@every 1h30m\0UTC\0\x10\x00\x00\x00",
        "0 2 29 2 *\0America/New_York\0\x70\x00\x00\x00",
        "TZ=Asia/Tokyo @daily\0\0\x01\x02\x03\x04",
        "@yearly\0Pacific/Apia\0zzzz",
    ])
}

/// What was read strictly is written alike, and reads the same.
fn indexes(input: &[u8]) {
    const COMPLETIONS: i32 = 10_000;
    let Ok(text) = std::str::from_utf8(input) else { return };
    let read = Indexes::read(text, COMPLETIONS);
    assert_eq!(Indexes::parse(&read.to_string(), COMPLETIONS), Ok(read.clone()));
    if let Ok(strict) = Indexes::parse(text, COMPLETIONS) {
        assert_eq!(strict, read);
    }
}

fn index_seeds() -> Vec<Vec<u8>> {
    texts(&["0-2,4,6-9", "1", "", "3,1", "0-9999", "-1", "+5"])
}
