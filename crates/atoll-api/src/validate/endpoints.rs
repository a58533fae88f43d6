//! Endpoints and EndpointSlices: addresses that can be reached, ports, limits.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::{faults, immutable, one_of, same};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ADDRESS_TYPES: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
const SLICE_ENDPOINTS_MAX: usize = 1000;
const SLICE_ADDRESSES_MAX: usize = 100;
const SLICE_PORTS_MAX: usize = 20_000;
const ZONE_HINTS_MAX: usize = 8;

pub(crate) fn endpoints(endpoints: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    for (index, subset) in endpoints.items("subsets").iter().enumerate() {
        self::subset(&Path::new("subsets").index(index), subset, &mut errors);
    }
    errors
}

pub(crate) fn endpoints_update(new: &Value, old: &Value) -> Vec<Error> {
    if same(&new["subsets"], &old["subsets"]) {
        return Vec::new();
    }
    endpoints(new)
}

pub(crate) fn slice(slice: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let kind = slice.text("addressType");
    one_of(&Path::new("addressType"), kind, &ADDRESS_TYPES, "", &mut errors);
    let at = Path::new("endpoints");
    let endpoints = slice.items("endpoints");
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.push(at.too_many(endpoints.len(), SLICE_ENDPOINTS_MAX));
    } else {
        for (index, endpoint) in endpoints.iter().enumerate() {
            slice_endpoint(&at.index(index), endpoint, kind, &mut errors);
        }
    }
    slice_ports(&Path::new("ports"), slice.items("ports"), &mut errors);
    errors
}

pub(crate) fn slice_update(new: &Value, old: &Value) -> Vec<Error> {
    let mut errors = slice(new);
    let at = Path::new("addressType");
    immutable(&at, &new["addressType"], &old["addressType"], &mut errors);
    errors
}

/// An address that traffic can be sent to.
pub(crate) fn reachable_ip(at: &Path, address: &str, errors: &mut Vec<Error>) {
    let Ok(ip) = address.parse::<IpAddr>() else {
        errors.push(at.invalid(address, "must be a valid IP address"));
        return;
    };
    if ip.is_unspecified() {
        errors.push(at.invalid(address, format!("may not be unspecified ({address})")));
    }
    if ip.is_loopback() {
        let text = "may not be in the loopback range (127.0.0.0/8, ::1/128)";
        errors.push(at.invalid(address, text));
    }
    let (link_local, link_local_multicast) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), ip.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(ip) => {
            let first = ip.segments()[0];
            (first & 0xffc0 == 0xfe80, first & 0xff0f == 0xff02)
        }
    };
    if link_local {
        let text = "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
        errors.push(at.invalid(address, text));
    }
    if link_local_multicast {
        let text = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.push(at.invalid(address, text));
    }
}

fn subset(at: &Path, subset: &Value, errors: &mut Vec<Error>) {
    let lists = ["addresses", "notReadyAddresses"];
    if lists.iter().all(|list| subset.items(list).is_empty()) {
        errors.push(at.required("must specify `addresses` or `notReadyAddresses`"));
    }
    for list in lists {
        for (index, address) in subset.items(list).iter().enumerate() {
            self::address(&at.child(list).index(index), address, errors);
        }
    }
    let ports = subset.items("ports");
    for (index, port) in ports.iter().enumerate() {
        self::port(&at.child("ports").index(index), port, ports.len() > 1, errors);
    }
}

fn address(at: &Path, address: &Value, errors: &mut Vec<Error>) {
    let ip = address.text("ip");
    faults(&at.child("ip"), ip, names::ip(ip), errors);
    let hostname = address.text("hostname");
    if !hostname.is_empty() {
        faults(&at.child("hostname"), hostname, names::dns1123_label(hostname), errors);
    }
    if let Some(node) = address.opt_text("nodeName") {
        faults(&at.child("nodeName"), node, names::dns1123_subdomain(node), errors);
    }
    reachable_ip(&at.child("ip"), ip, errors);
}

fn port(at: &Path, port: &Value, name_required: bool, errors: &mut Vec<Error>) {
    let name = port.text("name");
    if !name.is_empty() {
        faults(&at.child("name"), name, names::dns1123_label(name), errors);
    } else if name_required {
        errors.push(at.child("name").required(""));
    }
    let number = port.int("port").unwrap_or(0);
    if let Some(fault) = names::port_number(number) {
        errors.push(at.child("port").invalid(number, fault));
    }
    one_of(&at.child("protocol"), port.text("protocol"), &PROTOCOLS, "", errors);
    if let Some(protocol) = port.opt_text("appProtocol") {
        faults(&at.child("appProtocol"), protocol, names::qualified_name(protocol), errors);
    }
}

fn slice_endpoint(at: &Path, endpoint: &Value, kind: &str, errors: &mut Vec<Error>) {
    let addresses = endpoint.items("addresses");
    let addresses_at = at.child("addresses");
    if addresses.is_empty() {
        errors.push(addresses_at.required("must contain at least 1 address"));
    } else if addresses.len() > SLICE_ADDRESSES_MAX {
        errors.push(addresses_at.too_many(addresses.len(), SLICE_ADDRESSES_MAX));
    }
    for (index, address) in addresses.iter().enumerate() {
        let address = address.as_str().unwrap_or("");
        slice_address(&addresses_at.index(index), address, kind, errors);
    }
    if let Some(node) = endpoint.opt_text("nodeName") {
        faults(&at.child("nodeName"), node, names::dns1123_subdomain(node), errors);
    }
    let topology = &endpoint["deprecatedTopology"];
    super::metadata::labels(&at.child("deprecatedTopology"), topology, errors);
    if let Some(hostname) = endpoint.opt_text("hostname") {
        faults(&at.child("hostname"), hostname, names::dns1123_label(hostname), errors);
    }
    zone_hints(&at.child("hints").child("forZones"), endpoint["hints"].items("forZones"), errors);
}

fn zone_hints(at: &Path, zones: &[Value], errors: &mut Vec<Error>) {
    if zones.len() > ZONE_HINTS_MAX {
        errors.push(at.too_many(zones.len(), ZONE_HINTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, zone) in zones.iter().enumerate() {
        let name = zone.text("name");
        let at = at.index(index).child("name");
        if !seen.insert(name) {
            errors.push(at.duplicate(name));
        }
        faults(&at, name, names::label_value(name), errors);
    }
}

fn slice_address(at: &Path, address: &str, kind: &str, errors: &mut Vec<Error>) {
    let ip = address.parse::<IpAddr>();
    match kind {
        "IPv4" => {
            if !ip.is_ok_and(|ip| ip.is_ipv4()) {
                errors.push(at.invalid(address, "must be a valid IPv4 address"));
                return;
            }
            reachable_ip(at, address, errors);
        }
        "IPv6" => {
            if !ip.is_ok_and(|ip| ip.is_ipv6()) {
                errors.push(at.invalid(address, "must be a valid IPv6 address"));
                return;
            }
            reachable_ip(at, address, errors);
        }
        "FQDN" => errors.extend(names::fully_qualified_domain(at, address)),
        _ => {}
    }
}

fn slice_ports(at: &Path, ports: &[Value], errors: &mut Vec<Error>) {
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(at.too_many(ports.len(), SLICE_PORTS_MAX));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let at = at.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            faults(&at.child("name"), name, names::dns1123_label(name), errors);
        }
        if !seen.insert(name) {
            errors.push(at.child("name").duplicate(name));
        }
        one_of(&at.child("protocol"), port.text("protocol"), &PROTOCOLS, "", errors);
        if let Some(number) = port.int("port")
            && let Some(fault) = names::port_number(number)
        {
            errors.push(at.child("port").invalid(number, fault));
        }
        if let Some(protocol) = port.opt_text("appProtocol") {
            faults(&at.child("appProtocol"), protocol, names::qualified_name(protocol), errors);
        }
    }
}
