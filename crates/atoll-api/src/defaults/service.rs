//! Services, but for what depends on the cluster (addresses, families, node ports).

use serde_json::{Value, json};

use super::{absent, each, empty, normalise, zero};
use crate::access::Access as _;

/// How long a client stays with its endpoint: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

pub(crate) fn service(service: &mut Value) {
    normalise(service);
    empty(service, "spec");
    absent(service, "status", json!({"loadBalancer": {}}));
    empty(&mut service["status"], "loadBalancer");
    let spec = &mut service["spec"];
    zero(spec, "sessionAffinity", "None");
    affinity(spec);
    zero(spec, "type", "ClusterIP");
    for port in each(spec, "ports") {
        zero(port, "protocol", "TCP");
        let number = port["port"].clone();
        zero(port, "targetPort", number);
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
        for ingress in each(&mut service["status"]["loadBalancer"], "ingress") {
            if ingress.has("ip") {
                absent(ingress, "ipMode", "VIP");
            }
        }
    }
}

fn affinity(spec: &mut Value) {
    match spec.text("sessionAffinity") {
        "None" => {
            if let Value::Object(fields) = spec {
                fields.remove("sessionAffinityConfig");
            }
        }
        "ClientIP" => {
            let seconds = spec["sessionAffinityConfig"]["clientIP"].int("timeoutSeconds");
            if seconds.is_none() {
                spec["sessionAffinityConfig"] =
                    json!({"clientIP": {"timeoutSeconds": AFFINITY_SECONDS}});
            }
        }
        _ => {}
    }
}
