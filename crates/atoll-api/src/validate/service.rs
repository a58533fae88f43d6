//! Services: type, ports, addresses, affinity, traffic policies.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Value, json};

use super::{endpoints, faults, metadata, one_of, probe};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const FAMILY_POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
const DISTRIBUTIONS: [&str; 3] = ["PreferClose", "PreferSameZone", "PreferSameNode"];
/// A client stays with its endpoint for a day at most.
const AFFINITY_SECONDS_MAX: i64 = 86_400;
const UNCHANGED: &str = "may not change once set";

pub(crate) fn create(service: &Value) -> Vec<Error> {
    check(service, None)
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (is, was) = (&new["spec"], &old["spec"]);
    let at = Path::new("spec");
    let addressed = |spec: &Value| spec.text("type") != "ExternalName";
    if addressed(is) && addressed(was) {
        kept_addresses(&at, is, was, &mut errors);
        kept_families(&at, is, was, &mut errors);
    }
    let balanced = |spec: &Value| spec.text("type") == "LoadBalancer";
    if balanced(is) && balanced(was) && is["loadBalancerClass"] != was["loadBalancerClass"] {
        let value = is["loadBalancerClass"].clone();
        errors.push(at.child("loadBalancerClass").invalid(value, UNCHANGED));
    }
    let (port, before) = (&is["healthCheckNodePort"], &was["healthCheckNodePort"]);
    if checks_health(is) && checks_health(was) && port != before {
        errors.push(at.child("healthCheckNodePort").forbidden(super::IMMUTABLE));
    }
    errors.extend(check(new, Some(old)));
    errors
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status").child("loadBalancer").child("ingress");
    let ingress = new["status"]["loadBalancer"].items("ingress");
    if new["spec"].text("type") != "LoadBalancer" && !ingress.is_empty() {
        errors.push(at.forbidden("may only be used when `spec.type` is 'LoadBalancer'"));
        return errors;
    }
    for (index, one) in ingress.iter().enumerate() {
        ingress_point(&at.index(index), one, &mut errors);
    }
    errors
}

fn check(service: &Value, old: Option<&Value>) -> Vec<Error> {
    let mut errors = Vec::new();
    let spec = &service["spec"];
    let at = Path::new("spec");
    let kind = spec.text("type");
    let ports = spec.items("ports");
    if ports.is_empty() && !headless(spec) && kind != "ExternalName" {
        errors.push(at.child("ports").required(""));
    }
    by_type(&at, spec, &mut errors);
    self::ports(&at.child("ports"), spec, &mut errors);
    metadata::labels(&at.child("selector"), &spec["selector"], &mut errors);
    session_affinity(&at, spec, &mut errors);
    if kind != "ExternalName" {
        addresses(&at, spec, &mut errors);
    }
    external_ips(&at.child("externalIPs"), spec, old, &mut errors);
    one_of(&at.child("type"), kind, &TYPES, "", &mut errors);
    port_duplicates(&at.child("ports"), spec, &mut errors);
    load_balancer(&at, spec, &mut errors);
    traffic(&at, spec, &mut errors);
    errors
}

fn headless(spec: &Value) -> bool {
    matches!(spec.items("clusterIPs"), [only] if only == "None")
}

/// Whether clients outside the cluster reach it.
fn from_outside(spec: &Value) -> bool {
    matches!(spec.text("type"), "LoadBalancer" | "NodePort")
        || (spec.text("type") == "ClusterIP" && !spec.items("externalIPs").is_empty())
}

fn checks_health(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

fn by_type(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    match spec.text("type") {
        kind @ ("LoadBalancer" | "NodePort") if headless(spec) => {
            let text = format!("may not be set to 'None' for {kind} services");
            errors.push(at.child("clusterIPs").index(0).invalid("None", text));
        }
        "ExternalName" => {
            const TEXT: &str = "may not be set for ExternalName services";
            for field in ["clusterIPs", "ipFamilies"] {
                if !spec.items(field).is_empty() {
                    errors.push(at.child(field).forbidden(TEXT));
                }
            }
            if spec.has("ipFamilyPolicy") {
                errors.push(at.child("ipFamilyPolicy").forbidden(TEXT));
            }
            let name = spec.text("externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            let at = at.child("externalName");
            if name.is_empty() {
                errors.push(at.required(""));
            } else {
                faults(&at, name, names::dns1123_subdomain(name), errors);
            }
        }
        _ => {}
    }
}

fn ports(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let ports = spec.items("ports");
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            faults(&at.child("name"), name, names::dns1123_label(name), errors);
            if !seen.insert(name) {
                errors.push(at.child("name").duplicate(name));
            }
        } else if ports.len() > 1 {
            errors.push(at.child("name").required(""));
        }
        let number = port.int("port").unwrap_or(0);
        if let Some(fault) = names::port_number(number) {
            errors.push(at.child("port").invalid(number, fault));
        }
        one_of(&at.child("protocol"), port.text("protocol"), &PROTOCOLS, "", errors);
        probe::port(&at.child("targetPort"), &port["targetPort"], errors);
        if let Some(protocol) = port.opt_text("appProtocol") {
            faults(&at.child("appProtocol"), protocol, names::qualified_name(protocol), errors);
        }
    }
}

fn port_duplicates(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let cluster_only = spec.text("type") == "ClusterIP";
    let (mut node_ports, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in spec.items("ports").iter().enumerate() {
        let at = at.index(index);
        let protocol = port.text("protocol");
        let node_port = port.int("nodePort").unwrap_or(0);
        if node_port != 0 {
            if cluster_only {
                let text = "may not be used when `type` is 'ClusterIP'";
                errors.push(at.child("nodePort").forbidden(text));
            }
            if !node_ports.insert((protocol, node_port)) {
                errors.push(at.child("nodePort").duplicate(node_port));
            }
        }
        let number = port.int("port").unwrap_or(0);
        if !ports.insert((protocol, number)) {
            // The Go type is printed whole, with its other fields empty.
            errors.push(at.duplicate(json!({
                "Name": "", "Protocol": protocol, "AppProtocol": null, "Port": number,
                "TargetPort": 0, "NodePort": 0,
            })));
        }
    }
}

fn session_affinity(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let affinity = spec.text("sessionAffinity");
    one_of(&at.child("sessionAffinity"), affinity, &["ClientIP", "None"], "", errors);
    let config = &spec["sessionAffinityConfig"];
    let at = at.child("sessionAffinityConfig");
    match affinity {
        "ClientIP" => match config["clientIP"].int("timeoutSeconds") {
            None => errors.push(at.required("when session affinity type is ClientIP")),
            Some(seconds) if !(1..=AFFINITY_SECONDS_MAX).contains(&seconds) => {
                let at = at.child("clientIP").child("timeoutSeconds");
                let text = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
                errors.push(at.invalid(seconds, text));
            }
            Some(_) => {}
        },
        "None" if !config.is_null() => {
            errors.push(at.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn addresses(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let ips = spec.items("clusterIPs");
    let ips_at = at.child("clusterIPs");
    first_address(&ips_at, spec, errors);
    families(at, spec, errors);
    let mut wrong = false;
    for (index, ip) in ips.iter().enumerate() {
        let ip = ip.as_str().unwrap_or("");
        if index == 0 && ip == "None" {
            if ips.len() > 1 {
                wrong = true;
                errors.push(ips_at.invalid(ips, "'None' must be the first and only value"));
            }
            continue;
        }
        let ip_faults = names::ip(ip);
        wrong |= !ip_faults.is_empty();
        faults(&ips_at.index(index), ip, ip_faults, errors);
    }
    if ips.len() > 2 {
        errors.push(ips_at.invalid(ips, "may only hold up to 2 values"));
    }
    if wrong {
        return;
    }
    let is_v6 = |ip: &Value| ip.as_str().unwrap_or("").contains(':');
    if ips.len() > 1 && is_v6(&ips[0]) == is_v6(&ips[1]) {
        let text = "may specify no more than one IP for each IP family";
        errors.push(ips_at.invalid(ips, text));
    }
    if headless(spec) {
        return;
    }
    for (index, (ip, family)) in ips.iter().zip(spec.items("ipFamilies")).enumerate() {
        let family = family.as_str().unwrap_or("");
        if FAMILIES.contains(&family) && (family == "IPv6") != is_v6(ip) {
            let text = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(ips_at.index(index).invalid(ip.clone(), text));
        }
    }
}

fn first_address(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let ips = spec.items("clusterIPs");
    match (spec.text("clusterIP"), ips.first()) {
        ("", Some(_)) => {
            errors.push(at.invalid(ips, "must be empty when `clusterIP` is not specified"));
        }
        ("", None) => {}
        (_, None) => errors.push(at.required("")),
        (ip, Some(first)) if first != ip => {
            errors.push(at.invalid(ips, "first value must match `clusterIP`"));
        }
        _ => {}
    }
}

fn families(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let at_families = at.child("ipFamilies");
    let mut seen = BTreeSet::new();
    for (index, family) in spec.items("ipFamilies").iter().enumerate() {
        let family = family.as_str().unwrap_or("");
        let at = at_families.index(index);
        if !FAMILIES.contains(&family) {
            errors.push(at.not_supported(family, &FAMILIES));
        }
        if !seen.insert(family) {
            errors.push(at.duplicate(family));
        }
    }
    if let Some(policy) = spec.opt_text("ipFamilyPolicy")
        && !FAMILY_POLICIES.contains(&policy)
    {
        errors.push(at.child("ipFamilyPolicy").not_supported(policy, &FAMILY_POLICIES));
    }
}

fn external_ips(at: &Path, spec: &Value, old: Option<&Value>, errors: &mut Vec<Error>) {
    let before = old.map_or(&[][..], |old| old["spec"].items("externalIPs"));
    for (index, ip) in spec.items("externalIPs").iter().enumerate() {
        let at = at.index(index);
        let text = ip.as_str().unwrap_or("");
        if text.parse::<IpAddr>().is_err() && !before.contains(ip) {
            faults(&at, text, names::ip(text), errors);
        } else {
            endpoints::reachable_ip(&at, text, errors);
        }
    }
}

fn load_balancer(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = spec.text("type") == "LoadBalancer";
    let ranges = spec.items("loadBalancerSourceRanges");
    let ranges_at = at.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balanced {
        errors.push(ranges_at.forbidden(ONLY));
    }
    for (index, range) in ranges.iter().enumerate() {
        let range = range.as_str().unwrap_or("").trim();
        faults(&ranges_at.index(index), range, names::cidr(range), errors);
    }
    if spec.has("allocateLoadBalancerNodePorts") && !balanced {
        errors.push(at.child("allocateLoadBalancerNodePorts").forbidden(ONLY));
    }
    if let Some(class) = spec.opt_text("loadBalancerClass") {
        let at = at.child("loadBalancerClass");
        if balanced {
            faults(&at, class, names::qualified_name(class), errors);
        } else {
            errors.push(at.forbidden(ONLY));
        }
    }
}

fn traffic(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let external = spec.text("externalTrafficPolicy");
    let external_at = at.child("externalTrafficPolicy");
    if from_outside(spec) {
        one_of(&external_at, external, &["Cluster", "Local"], "", errors);
    } else if !external.is_empty() {
        let text = "may only be set for externally-accessible services";
        errors.push(external_at.invalid(external, text));
    }
    let health = spec.int("healthCheckNodePort").unwrap_or(0);
    if health != 0 {
        let at = at.child("healthCheckNodePort");
        if !checks_health(spec) {
            let text = "may only be set when `type` is 'LoadBalancer' and \
                        `externalTrafficPolicy` is 'Local'";
            errors.push(at.invalid(health, text));
        } else if let Some(fault) = names::port_number(health) {
            errors.push(at.invalid(health, fault));
        }
    }
    if spec.text("type") != "ExternalName" || spec.has("internalTrafficPolicy") {
        let internal = spec.text("internalTrafficPolicy");
        let at = at.child("internalTrafficPolicy");
        one_of(&at, internal, &["Cluster", "Local"], "", errors);
    }
    if let Some(distribution) = spec.opt_text("trafficDistribution")
        && !DISTRIBUTIONS.contains(&distribution)
    {
        let at = at.child("trafficDistribution");
        errors.push(at.not_supported(distribution, &DISTRIBUTIONS));
    }
}

fn kept_addresses(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    if headless(is) && headless(was) {
        return;
    }
    let at_ips = at.child("clusterIPs");
    let (ips, before) = (is.items("clusterIPs"), was.items("clusterIPs"));
    if ips.len() == before.len() {
        for (index, _) in ips.iter().zip(before).enumerate().filter(|(_, (is, was))| is != was) {
            errors.push(at_ips.index(index).invalid(ips, UNCHANGED));
        }
        return;
    }
    let first_at = at_ips.index(0);
    if ips.is_empty() {
        errors.push(first_at.invalid(ips, "primary clusterIP can not be unset"));
        return;
    }
    if !before.is_empty() && ips[0] != before[0] {
        errors.push(first_at.invalid(ips, UNCHANGED));
    }
    if ips.len() < before.len() && is.text("ipFamilyPolicy") != "SingleStack" {
        let text = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.push(at.child("ipFamilyPolicy").invalid(is["ipFamilyPolicy"].clone(), text));
    }
}

fn kept_families(at: &Path, is: &Value, was: &Value, errors: &mut Vec<Error>) {
    if headless(is) || headless(was) {
        return;
    }
    let at_first = at.child("ipFamilies").index(0);
    let (families, before) = (is.items("ipFamilies"), was.items("ipFamilies"));
    if let (Some(first), Some(was_first)) = (families.first(), before.first())
        && first != was_first
    {
        errors.push(at_first.invalid(families, UNCHANGED));
    }
    if families.len() == 1 && before.len() > 1 && is.text("ipFamilyPolicy") != "SingleStack" {
        let text = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.push(at.child("ipFamilyPolicy").invalid(is["ipFamilyPolicy"].clone(), text));
    }
}

fn ingress_point(at: &Path, point: &Value, errors: &mut Vec<Error>) {
    let ip = point.text("ip");
    if !ip.is_empty() {
        faults(&at.child("ip"), ip, names::ip(ip), errors);
    }
    let mode_at = at.child("ipMode");
    match point.opt_text("ipMode") {
        None if !ip.is_empty() => {
            errors.push(mode_at.required("must be specified when `ip` is set"));
        }
        Some(_) if ip.is_empty() => {
            errors.push(mode_at.forbidden("may not be specified when `ip` is not set"));
        }
        Some(mode) if !matches!(mode, "Proxy" | "VIP") => {
            errors.push(mode_at.not_supported(mode, &["Proxy", "VIP"]));
        }
        _ => {}
    }
    let hostname = point.text("hostname");
    if !hostname.is_empty() {
        let at = at.child("hostname");
        faults(&at, hostname, names::dns1123_subdomain(hostname), errors);
        if hostname.parse::<IpAddr>().is_ok() {
            errors.push(at.invalid(hostname, "must be a DNS name, not an IP address"));
        }
    }
}
