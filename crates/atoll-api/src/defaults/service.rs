//! Services, but for what depends on the cluster (addresses, families, node ports).

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, within, zero};
use crate::access::Access as _;

/// How long a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(crate) fn service(service: &mut Value) {
    normalise(service);
    empty(service, "spec");
    absent(service, "status", json!({"loadBalancer": {}}));
    within(service, "status", |status| empty(status, "loadBalancer"));
    within(service, "spec", spec);
    if service["spec"].text("type") == "LoadBalancer" {
        within(service, "status", |status| {
            within(status, "loadBalancer", |balancer| {
                each(balancer, "ingress").for_each(ingress);
            });
        });
    }
}

fn spec(spec: &mut Value) {
    zero(spec, "sessionAffinity", "None");
    affinity(spec);
    zero(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        zero(port, "protocol", "TCP");
        if port.has("port") {
            let number = port["port"].clone();
            zero(port, "targetPort", number);
        }
    }
    let kind = spec.text("type").to_owned();
    let from_outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !spec.items("externalIPs").is_empty());
    if from_outside {
        zero(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        absent(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        absent(spec, "allocateLoadBalancerNodePorts", true);
    }
}

fn ingress(ingress: &mut Value) {
    if ingress.has("ip") {
        absent(ingress, "ipMode", "VIP");
    }
}

fn affinity(spec: &mut Value) {
    let Value::Object(fields) = spec else { return };
    match fields.get("sessionAffinity").and_then(Value::as_str) {
        Some("None") => {
            fields.remove("sessionAffinityConfig");
        }
        Some("ClientIP") => {
            let config = fields.get("sessionAffinityConfig").unwrap_or(&Value::Null);
            if config["clientIP"].int("timeoutSeconds").is_none() {
                let config = json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
                fields.insert("sessionAffinityConfig".to_owned(), config);
            }
        }
        _ => {}
    }
}
