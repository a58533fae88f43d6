//! Ingress, NetworkPolicy, and the addresses of Services.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, NAME, age, name, text};
use crate::access::Access as _;
use crate::kinds::scale::selector_text;

/// Hosts that the row of an Ingress names; of more it says how many there are.
const HOSTS_MAX: usize = 3;
/// Letters of addresses that upstream shows.
const ADDRESSES_LENGTH_MAX: usize = 16;

pub(crate) const INGRESS: &[Column] = &[
    NAME,
    text(
        "Class",
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
    text("Address", "Address is a list containing ingress points for the load-balancer"),
    text("Ports", "Ports of TLS configurations that open"),
    AGE,
];

pub(crate) const INGRESS_CLASS: &[Column] = &[
    NAME,
    text("Controller", "Controller that is responsible for handling this class"),
    text("Parameters", "A reference to a resource with additional parameters"),
    AGE,
];

pub(crate) const NETWORK_POLICY: &[Column] =
    &[NAME, text("Pod-Selector", "Selects the pods to which this policy applies."), AGE];

pub(crate) const SERVICE_CIDR: &[Column] = &[
    NAME,
    text("CIDRs", "CIDRs defines the IP blocks used to assign addresses to Services."),
    AGE,
];

pub(crate) const IP_ADDRESS: &[Column] = &[
    NAME,
    text("ParentRef", "ParentRef references the resource that an IPAddress is attached to."),
];

pub(crate) fn ingress(ingress: &Value, now: Timestamp) -> Vec<Value> {
    let spec = &ingress["spec"];
    let class = spec.opt_text("ingressClassName").unwrap_or("<none>");
    let ports = if spec.items("tls").is_empty() { "80" } else { "80, 443" };
    vec![
        name(ingress),
        json!(class),
        json!(hosts(spec.items("rules"))),
        json!(addresses(&ingress["status"]["loadBalancer"])),
        json!(ports),
        age(ingress, now),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let named: Vec<&str> =
        rules.iter().map(|rule| rule.text("host")).filter(|host| !host.is_empty()).collect();
    if named.is_empty() {
        return "*".to_owned();
    }
    let shown = named.iter().take(HOSTS_MAX).copied().collect::<Vec<_>>().join(",");
    // Upstream counts all rules here, those without a host too.
    if rules.len() > HOSTS_MAX && named.len() >= HOSTS_MAX {
        format!("{shown} + {} more...", rules.len() - HOSTS_MAX)
    } else {
        shown
    }
}

fn addresses(balancer: &Value) -> String {
    let points = balancer.items("ingress").iter();
    let mut all: Vec<&str> = points
        .map(|point| if point.has("ip") { point.text("ip") } else { point.text("hostname") })
        .filter(|address| !address.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    let text = all.join(",");
    match text.get(..ADDRESSES_LENGTH_MAX - 3) {
        Some(start) if text.len() > ADDRESSES_LENGTH_MAX => format!("{start}..."),
        _ => text,
    }
}

pub(crate) fn ingress_class(class: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = &class["spec"]["parameters"];
    let reference = if parameters.is_null() {
        "<none>".to_owned()
    } else {
        let kind = match parameters.opt_text("apiGroup") {
            Some(group) => format!("{}.{group}", parameters.text("kind")),
            None => parameters.text("kind").to_owned(),
        };
        format!("{kind}/{}", parameters.text("name"))
    };
    vec![name(class), json!(class["spec"].text("controller")), json!(reference), age(class, now)]
}

pub(crate) fn network_policy(policy: &Value, now: Timestamp) -> Vec<Value> {
    let selector = selector_text(&policy["spec"]["podSelector"]);
    let selector = if selector.is_empty() { "<none>".to_owned() } else { selector };
    vec![name(policy), json!(selector), age(policy, now)]
}

pub(crate) fn service_cidr(cidr: &Value, now: Timestamp) -> Vec<Value> {
    let blocks: Vec<&str> = cidr["spec"].items("cidrs").iter().filter_map(Value::as_str).collect();
    vec![name(cidr), json!(blocks.join(",")), age(cidr, now)]
}

pub(crate) fn ip_address(address: &Value, _: Timestamp) -> Vec<Value> {
    let parent = &address["spec"]["parentRef"];
    let reference = if parent.is_null() {
        "<none>".to_owned()
    } else {
        let parts = ["group", "resource", "namespace", "name"].map(|part| parent.text(part));
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
    };
    vec![name(address), json!(reference)]
}
