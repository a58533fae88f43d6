//! Objects that are accepted although something in them does nothing.

use serde_json::{Value, json};

use super::{pod, storage, workload};

fn of_pod(metadata: Value, spec: Value) -> Vec<String> {
    pod(&json!({"metadata": metadata, "spec": spec}), None)
}

#[test]
fn old_annotations_are_named_where_no_field_replaces_them() {
    let annotations = json!({"annotations": {
        "seccomp.security.alpha.kubernetes.io/pod": "x",
        "container.seccomp.security.alpha.kubernetes.io/c": "x",
        "container.apparmor.security.beta.kubernetes.io/c": "unconfined"}});
    let plain = json!({"containers": [{"name": "c"}]});
    let instead = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let seccomp = [
        format!("metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: {instead}"),
        format!(
            "metadata.annotations[container.seccomp.security.alpha.kubernetes.io/c]: {instead}"
        ),
    ];
    let made = of_pod(annotations.clone(), plain.clone());
    assert_eq!(made[..2], seccomp);
    assert_eq!(
        made[2..],
        [
            "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since \
          v1.30; use the \"appArmorProfile\" field instead"
        ]
    );
    let context = json!({"seccompProfile": {}, "appArmorProfile": {}});
    let fields = json!({"securityContext": context,
        "containers": [{"name": "c", "securityContext": context}]});
    assert_eq!(of_pod(annotations.clone(), fields), [""; 0]);
    let set = json!({"spec": {"template": {"metadata": annotations, "spec": plain}}});
    assert!(workload(&set, None)[0].starts_with("spec.template.metadata.annotations["));
}

#[test]
fn ports_that_are_in_each_others_way() {
    let of = |ports: Value| {
        let containers: Vec<Value> = ports
            .as_array()
            .unwrap()
            .iter()
            .map(|port| {
                let mut port = port.clone();
                port["protocol"] = json!("TCP");
                json!({"name": "c", "ports": [port]})
            })
            .collect();
        of_pod(json!({}), json!({"containers": containers}))
    };
    let (one, other) = ("spec.containers[1].ports[0]", "spec.containers[0].ports[0]");
    let clash = |what: &str| [format!("{one}: {what} port definition with {other}")];
    let port = |host: i64, ip: &str| json!({"containerPort": 80, "hostPort": host, "hostIP": ip});
    assert_eq!(of(json!([{"containerPort": 80}, {"containerPort": 80}])), clash("duplicate"));
    assert_eq!(of(json!([port(80, ""), {"containerPort": 80}])), clash("overlapping"));
    assert_eq!(of(json!([port(80, ""), port(80, "10.0.0.1")])), clash("dangerously ambiguous"));
    assert_eq!(of(json!([port(80, ""), port(81, "")])), [""; 0]);
    assert_eq!(
        of(json!([port(0, "10.0.0.1")])),
        [format!(
            "{other}: hostIP set without hostPort: {{Name: HostPort:0 ContainerPort:80 \
             Protocol:TCP HostIP:10.0.0.1}}"
        )]
    );
    let named = |number: i64| json!({"name": "web", "containerPort": number});
    assert_eq!(
        of(json!([named(80), named(81)])),
        [format!(
            "{one}: duplicate port name \"web\" with {other}, services and probes that select \
             ports by name will use {other}"
        )]
    );
}

#[test]
fn other_fields_of_pods() {
    assert_eq!(
        of_pod(json!({}), json!({"terminationGracePeriodSeconds": -1})),
        [
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be \
          treated as 1"
        ]
    );
    let term =
        json!({"matchExpressions": [{"key": "beta.kubernetes.io/os", "operator": "Exists"}]});
    let affinity = json!({
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]},
            "preferredDuringSchedulingIgnoredDuringExecution": [{"preference": term}]},
        "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"podAffinityTerm": {}}]}});
    let made = of_pod(json!({}), json!({"affinity": affinity}));
    assert_eq!(made.len(), 4, "{made:?}");
    assert_eq!(
        made[0],
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution\
         .nodeSelectorTerms[0].matchExpressions[0].key: beta.kubernetes.io/os is deprecated since \
         v1.14; use \"kubernetes.io/os\" instead"
    );
    assert_eq!(
        made[3],
        "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0]\
         .podAffinityTerm.labelSelector: a null labelSelector results in matching no pod"
    );
    let claim = json!({"spec": {"resources": {"requests": {"storage": "1500m"}}}});
    let volumes = json!({"volumes": [{"ephemeral": {"volumeClaimTemplate": claim}}],
        "overhead": {"memory": "1m"}});
    assert_eq!(
        of_pod(json!({}), volumes),
        [
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: \
          fractional byte value \"1500m\" is invalid, must be an integer",
            "spec.overhead[memory]: fractional byte value \"1m\" is invalid, must be an integer"
        ]
    );
}

#[test]
fn volumes_claims_classes_and_nodes() {
    let volume = json!({"spec": {"capacity": {"storage": "1m"}, "rbd": {}}});
    assert_eq!(
        storage::volume(&volume, None),
        [
            "spec.rbd: deprecated in v1.28, non-functional in v1.31+",
            "spec.capacity[storage]: fractional byte value \"1m\" is invalid, must be an integer"
        ]
    );
    let claim = json!({"spec": {"resources": {"requests": {"storage": "1500m"}}}});
    assert_eq!(
        storage::claim(&claim, None),
        [
            "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an \
          integer"
        ]
    );
    let zone = "failure-domain.beta.kubernetes.io/zone";
    let topology = json!({"matchLabelExpressions": [{"key": zone}]});
    let instead = "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead";
    assert_eq!(
        storage::class(&json!({"allowedTopologies": [topology]}), None),
        [format!("allowedTopologies[0].matchLabelExpressions[0].key: {instead}")]
    );
    let capacity = json!({"nodeTopology": {"matchLabels": {zone: "a"}}});
    let made = storage::capacity(&capacity, None);
    assert_eq!(made, [format!("nodeTopology.matchLabels.{zone}: {instead}")]);
    assert_eq!(storage::node(&json!({"spec": {"externalID": "x"}}), None).len(), 1);
}
