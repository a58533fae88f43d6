//! Ingress, NetworkPolicy, ServiceCIDR, IPAddress, RuntimeClass and claims to devices: what is
//! filled in, what is refused and in which words.

#![allow(clippy::unwrap_used, reason = "helpers of tests count as tests")]

use atoll_api::kinds;
use serde_json::{Value, json};

const NETWORKING: &str = "networking.k8s.io";

fn prepared(group: &str, kind: &str, mut object: Value) -> Value {
    let row = kinds::find_kind(group, "v1", kind).unwrap();
    object["metadata"]["name"] = json!(if kind == "IPAddress" { "10.0.0.1" } else { "x" });
    if row.namespaced() {
        object["metadata"]["namespace"] = json!("default");
    }
    row.hooks.default.unwrap()(&mut object);
    row.prepare_create(&mut object);
    object
}

fn create(group: &str, kind: &str, object: Value) -> Vec<String> {
    let row = kinds::find_kind(group, "v1", kind).unwrap();
    let object = prepared(group, kind, object);
    row.validate_create(&object).iter().map(ToString::to_string).collect()
}

fn update(group: &str, kind: &str, new: Value, old: Value) -> Vec<String> {
    let row = kinds::find_kind(group, "v1", kind).unwrap();
    let (mut new, mut old) = (prepared(group, kind, new), prepared(group, kind, old));
    for object in [&mut new, &mut old] {
        object["metadata"]["resourceVersion"] = json!("1");
    }
    row.prepare_update(&mut new, &old);
    row.validate_update(&new, &old).iter().map(ToString::to_string).collect()
}

fn ingress(path: Value) -> Value {
    json!({"spec": {"rules": [{"host": "a.example", "http": {"paths": [path]}}]}})
}

fn backend() -> Value {
    json!({"service": {"name": "web", "port": {"number": 80}}})
}

#[test]
fn an_ingress_needs_rules_or_a_default() {
    assert_eq!(
        create(NETWORKING, "Ingress", json!({"spec": {}})),
        ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]
    );
    assert_eq!(
        create(NETWORKING, "Ingress", json!({"spec": {"defaultBackend": backend()}})),
        [""; 0]
    );
}

#[test]
fn paths_of_an_ingress_are_checked_by_their_type() {
    let at = "spec.rules[0].http.paths[0]";
    let cases = [
        (json!({"path": "/", "pathType": "Prefix", "backend": backend()}), vec![]),
        (
            json!({"path": "/", "backend": backend()}),
            vec![format!("{at}.pathType: Required value: pathType must be specified")],
        ),
        (
            json!({"path": "a", "pathType": "Exact", "backend": backend()}),
            vec![format!("{at}.path: Invalid value: \"a\": must be an absolute path")],
        ),
        (
            json!({"path": "/a/../b", "pathType": "Prefix", "backend": backend()}),
            vec![format!("{at}.path: Invalid value: \"/a/../b\": must not contain '/../'")],
        ),
        (
            json!({"path": "/", "pathType": "Suffix", "backend": backend()}),
            vec![format!(
                "{at}.pathType: Unsupported value: \"Suffix\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""
            )],
        ),
        (
            json!({"path": "/", "pathType": "Prefix", "backend": {}}),
            vec![format!(
                "{at}.backend: Invalid value: \"\": resource or service backend is required"
            )],
        ),
        (
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web"}}}),
            vec![format!("{at}.backend: Required value: port name or number is required")],
        ),
        (
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 70000}}}}),
            vec![format!(
                "{at}.backend.service.port.number: Invalid value: 70000: must be between 1 and 65535, inclusive"
            )],
        ),
    ];
    for (path, wanted) in cases {
        assert_eq!(create(NETWORKING, "Ingress", ingress(path)), wanted);
    }
}

#[test]
fn the_host_of_an_ingress_is_a_name() {
    let spec = json!({"spec": {"rules": [{"host": "10.0.0.1"}]}});
    assert_eq!(
        create(NETWORKING, "Ingress", spec),
        ["spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"]
    );
    let wild = json!({"spec": {"rules": [{"host": "*.example"}]}});
    assert_eq!(create(NETWORKING, "Ingress", wild), [""; 0]);
}

#[test]
fn the_controller_of_a_class_stays() {
    let class = |controller: &str| json!({"spec": {"controller": controller}});
    assert_eq!(create(NETWORKING, "IngressClass", class("a.b/c")), [""; 0]);
    assert_eq!(
        create(NETWORKING, "IngressClass", class("plain")),
        [
            "spec.controller: Invalid value: \"plain\": must be a domain-prefixed path (such as \"acme.io/foo\")"
        ]
    );
    assert_eq!(
        update(NETWORKING, "IngressClass", class("a.b/d"), class("a.b/c")),
        ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]
    );
}

#[test]
fn a_network_policy_covers_what_it_has_rules_for() {
    let both = prepared(NETWORKING, "NetworkPolicy", json!({"spec": {"egress": [{}]}}));
    assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    let one = prepared(NETWORKING, "NetworkPolicy", json!({"spec": {}}));
    assert_eq!(one["spec"]["policyTypes"], json!(["Ingress"]));
    assert_eq!(one["metadata"]["generation"], 1);
}

#[test]
fn peers_and_ports_of_a_network_policy_are_checked() {
    let policy = |rule: Value| json!({"spec": {"ingress": [rule]}});
    let at = "spec.ingress[0]";
    let cases = [
        (json!({"from": [{}]}), format!("{at}.from[0]: Required value: must specify a peer")),
        (
            json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}),
            format!("{at}.from[0]: Forbidden: may not specify both ipBlock and another peer"),
        ),
        (
            json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}),
            format!(
                "{at}.from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`"
            ),
        ),
        (
            json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["::/1"]}}]}),
            format!(
                "{at}.from[0].ipBlock.except[0]: Invalid value: \"::/1\": must be a strict subset of `cidr`"
            ),
        ),
        (
            json!({"ports": [{"endPort": 5}]}),
            format!(
                "{at}.ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified"
            ),
        ),
        (
            json!({"ports": [{"port": 80, "endPort": 70}]}),
            format!(
                "{at}.ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`"
            ),
        ),
        (
            json!({"ports": [{"port": 80, "protocol": "ICMP"}]}),
            format!(
                "{at}.ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\""
            ),
        ),
    ];
    for (rule, wanted) in cases {
        assert_eq!(create(NETWORKING, "NetworkPolicy", policy(rule)), [wanted]);
    }
    let good = json!({"from": [{"ipBlock": {"cidr": "::/0", "except": ["2001:db8::/32"]}}], "ports": [{"port": "http"}]});
    assert_eq!(create(NETWORKING, "NetworkPolicy", policy(good)), [""; 0]);
}

#[test]
fn a_service_cidr_only_grows_by_the_other_family() {
    let cidrs = |list: Value| json!({"spec": {"cidrs": list}});
    assert_eq!(
        create(NETWORKING, "ServiceCIDR", cidrs(json!(["10.96.0.0/16", "fd00::/64"]))),
        [""; 0]
    );
    let cases = [
        (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
        (
            json!(["10.96.0.1/16"]),
            "spec.cidrs[0]: Invalid value: \"10.96.0.1/16\": must not have bits set beyond the prefix length",
        ),
        (
            json!(["10.0.0.0/16", "10.1.0.0/16"]),
            "spec.cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ),
    ];
    for (list, wanted) in cases {
        assert_eq!(create(NETWORKING, "ServiceCIDR", cidrs(list)), [wanted]);
    }
    let old = || cidrs(json!(["10.96.0.0/16"]));
    assert_eq!(
        update(NETWORKING, "ServiceCIDR", cidrs(json!(["10.97.0.0/16"])), old()),
        ["spec.cidrs[0]: Invalid value: \"10.97.0.0/16\": field is immutable"]
    );
    assert_eq!(
        update(NETWORKING, "ServiceCIDR", cidrs(json!(["10.96.0.0/16", "fd00::/64"])), old()),
        [""; 0]
    );
}

#[test]
fn an_address_belongs_to_somebody() {
    assert_eq!(
        create(NETWORKING, "IPAddress", json!({"spec": {}})),
        ["spec.parentRef: Required value"]
    );
    let parent = |name: &str| json!({"spec": {"parentRef": {"resource": "services", "name": name, "namespace": "default"}}});
    assert_eq!(create(NETWORKING, "IPAddress", parent("a")), [""; 0]);
    assert_eq!(update(NETWORKING, "IPAddress", parent("b"), parent("a")).len(), 1);
    let row = kinds::find_kind(NETWORKING, "v1", "IPAddress").unwrap();
    for name in ["a", "010.0.0.1", "2001:DB8::1"] {
        assert!(!(row.name_rule)(name, false).is_empty(), "{name}");
    }
}

#[test]
fn a_runtime_class_keeps_its_handler() {
    let class = |handler: &str| json!({"handler": handler});
    assert_eq!(create("node.k8s.io", "RuntimeClass", class("crun")), [""; 0]);
    assert_eq!(create("node.k8s.io", "RuntimeClass", class("Crun")).len(), 1);
    assert_eq!(
        update("node.k8s.io", "RuntimeClass", class("runc"), class("crun")),
        ["handler: Invalid value: \"runc\": field is immutable"]
    );
}

#[test]
fn a_claim_to_devices_asks_in_one_way() {
    let claim = |request: Value| json!({"spec": {"devices": {"requests": [request]}}});
    let made = prepared(
        "resource.k8s.io",
        "ResourceClaim",
        claim(json!({"name": "a", "exactly": {"deviceClassName": "gpu"}})),
    );
    assert_eq!(made["spec"]["devices"]["requests"][0]["exactly"]["allocationMode"], "ExactCount");
    assert_eq!(made["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
    let at = "spec.devices.requests[0]";
    let cases = [
        (
            json!({"name": "a"}),
            format!(
                "{at}: Required value: exactly one of `exactly` or `firstAvailable` is required"
            ),
        ),
        (
            json!({"name": "a", "exactly": {}}),
            format!("{at}.exactly.deviceClassName: Required value"),
        ),
        (
            json!({"name": "a", "exactly": {"deviceClassName": "gpu", "allocationMode": "All", "count": 2}}),
            format!(
                "{at}.exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'"
            ),
        ),
    ];
    for (request, wanted) in cases {
        assert_eq!(create("resource.k8s.io", "ResourceClaim", claim(request)), [wanted]);
    }
    let one = || claim(json!({"name": "a", "exactly": {"deviceClassName": "gpu"}}));
    let other = claim(json!({"name": "b", "exactly": {"deviceClassName": "gpu"}}));
    let errors = update("resource.k8s.io", "ResourceClaim", other, one());
    assert!(errors.len() == 1 && errors[0].ends_with("field is immutable"), "{errors:?}");
}
