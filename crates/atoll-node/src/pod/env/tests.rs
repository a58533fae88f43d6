//! Variables as a container would find them.

use serde_json::{Value, json};

use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn resolve_all(container: Value, pod_extra: Value) -> Result<BTreeMap<String, String>, EnvError> {
    let mut spec = json!({"containers": [container], "nodeName": "node-1",
        "serviceAccountName": "default"});
    spec.as_object_mut().unwrap().extend(pod_extra.as_object().unwrap().clone());
    let pod: Pod = of(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u",
        "labels": {"app": "web"}, "annotations": {"a": "x\ny"}}, "spec": spec}));
    let service = |name: &str, space: &str, ip: &str| {
        std::sync::Arc::new(of::<Service>(json!({"metadata": {"name": name, "namespace": space},
            "spec": {"clusterIP": ip, "ports": [{"name": "http", "port": 80}]}})))
    };
    let services = [
        service("kubernetes", "default", "10.43.0.1"),
        service("my-db", "ns", "10.43.0.9"),
        service("headless", "ns", "None"),
        service("other", "elsewhere", "10.43.0.8"),
    ];
    let maps = [("m".to_owned(), of(json!({"data": {"key": "value"}})))].into();
    let secrets = [("s".to_owned(), of(json!({"data": {"pw": "aHVudGVyMg=="}})))].into();
    let around = Surroundings {
        pod: &pod,
        pod_ip: Some("10.42.0.5"),
        host_ip: "10.41.0.1",
        node_name: "node-1",
        allocatable_cpu_milli: 2000,
        allocatable_memory: 1 << 30,
        allocatable_disk: 9 << 30,
        config_maps: &maps,
        secrets: &secrets,
        services: &services,
    };
    let container = &pod.spec.as_ref().unwrap().containers[0];
    environment(container, &around).map(|env| env.into_iter().collect())
}

#[test]
fn every_source_is_resolved() {
    let env = resolve_all(
        json!({"name": "c", "resources": {"limits": {"cpu": "1500m"}},
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
        "env": [
            {"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(NOPE)-$$(A)-$(MY_DB_SERVICE_HOST)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "DISK", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1Gi"}}},
            {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            {"name": "MAYBE", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}}]}),
        json!({}),
    )
    .unwrap();
    for (name, value) in [
        ("P_key", "value"),
        ("pw", "hunter2"),
        ("B", "1-$(NOPE)-$(A)-10.43.0.9"),
        ("IP", "10.42.0.5"),
        ("APP", "web"),
        ("CPU", "2"),
        ("MEM", "1024"),
        ("DISK", "9"),
        ("PW", "hunter2"),
        ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ("MY_DB_PORT_80_TCP_ADDR", "10.43.0.9"),
        ("MY_DB_PORT", "tcp://10.43.0.9:80"),
        ("MY_DB_SERVICE_PORT_HTTP", "80"),
    ] {
        assert_eq!(env.get(name).map(String::as_str), Some(value), "{name}");
    }
    for name in ["MAYBE", "HEADLESS_SERVICE_HOST", "OTHER_SERVICE_HOST"] {
        assert!(!env.contains_key(name), "{name}");
    }
}

#[test]
fn without_service_links_only_the_api_is_announced() {
    let env = resolve_all(json!({"name": "c"}), json!({"enableServiceLinks": false})).unwrap();
    assert!(env.contains_key("KUBERNETES_SERVICE_HOST") && !env.contains_key("MY_DB_SERVICE_HOST"));
}

#[test]
fn what_is_missing_is_named_as_the_kubelet_does() {
    let missing = |from: Value| {
        resolve_all(json!({"name": "c", "env": [{"name": "X", "valueFrom": from}]}), json!({}))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        missing(json!({"configMapKeyRef": {"name": "gone", "key": "k"}})),
        "configmap \"gone\" not found"
    );
    assert_eq!(
        missing(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
        "couldn't find key k in Secret ns/s"
    );
}

#[test]
fn texts_are_quoted_as_go_does() {
    assert_eq!(go_quote("a\"b\\c\n\u{1}\u{e9}'"), "\"a\\\"b\\\\c\\n\\x01\u{e9}'\"");
}

#[test]
fn expansion_leaves_what_it_does_not_know() {
    let lookup = |name: &str| (name == "A").then(|| "x".to_owned());
    for (text, expected) in
        [("$(A)", "x"), ("$(B)", "$(B)"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")]
    {
        assert_eq!(expand(text, lookup), expected);
    }
}
