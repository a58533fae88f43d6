//! NetworkPolicy: who may speak to whom.

use std::net::IpAddr;

use serde_json::Value;

use super::{faults, label_selector};
use crate::access::Access as _;
use crate::field::{Error, Path};
use crate::names;

const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

pub(crate) fn create(policy: &Value) -> Vec<Error> {
    spec(&policy["spec"], &[])
}

pub(crate) fn update(new: &Value, old: &Value) -> Vec<Error> {
    spec(&new["spec"], &blocks(&old["spec"]))
}

/// Every network that a policy names: an update may keep what would be refused today.
fn blocks(spec: &Value) -> Vec<&str> {
    let peers = [("ingress", "from"), ("egress", "to")].into_iter().flat_map(|(rules, peers)| {
        spec.items(rules).iter().flat_map(move |rule| rule.items(peers))
    });
    let mut all = Vec::new();
    for peer in peers {
        all.push(peer["ipBlock"].text("cidr"));
        all.extend(peer["ipBlock"].items("except").iter().filter_map(Value::as_str));
    }
    all
}

fn spec(spec: &Value, known: &[&str]) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("spec");
    label_selector(&at.child("podSelector"), &spec["podSelector"], &mut errors);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in spec.items(rules).iter().enumerate() {
            let at = at.child(rules).index(index);
            for (index, port) in rule.items("ports").iter().enumerate() {
                self::port(&at.child("ports").index(index), port, &mut errors);
            }
            for (index, peer) in rule.items(peers).iter().enumerate() {
                self::peer(&at.child(peers).index(index), peer, known, &mut errors);
            }
        }
    }
    let (types, at) = (spec.items("policyTypes"), at.child("policyTypes"));
    if types.len() > TYPES.len() {
        let text = "may not specify more than two policyTypes";
        errors.push(at.invalid(Value::from(types), text));
        return errors;
    }
    for (index, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or("");
        if !TYPES.contains(&kind) {
            errors.push(at.index(index).not_supported(kind, &TYPES));
        }
    }
    errors
}

fn port(at: &Path, port: &Value, errors: &mut Vec<Error>) {
    if let Some(protocol) = port.opt_text("protocol")
        && !PROTOCOLS.contains(&protocol)
    {
        errors.push(at.child("protocol").not_supported(protocol, &PROTOCOLS));
    }
    let (end, end_at) = (port.int("endPort"), at.child("endPort"));
    match (&port["port"], end) {
        (Value::Null, Some(end)) => {
            errors.push(end_at.invalid(end, "may not be specified when `port` is not specified"));
        }
        (Value::String(name), end) => {
            if let Some(end) = end {
                let text = "may not be specified when `port` is non-numeric";
                errors.push(end_at.invalid(end, text));
            }
            faults(&at.child("port"), name, names::port_name(name), errors);
        }
        (Value::Number(number), end) => {
            let number = number.as_i64().unwrap_or(0);
            if let Some(fault) = names::port_number(number) {
                errors.push(at.child("port").invalid(number, fault));
            }
            if let Some(end) = end {
                end_port(&end_at, number, end, errors);
            }
        }
        _ => {}
    }
}

fn end_port(at: &Path, start: i64, end: i64, errors: &mut Vec<Error>) {
    if end < start {
        errors.push(at.invalid(end, "must be greater than or equal to `port`"));
    }
    if let Some(fault) = names::port_number(end) {
        errors.push(at.invalid(end, fault));
    }
}

fn peer(at: &Path, peer: &Value, known: &[&str], errors: &mut Vec<Error>) {
    let mut peers = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if peer.has(selector) {
            peers += 1;
            label_selector(&at.child(selector), &peer[selector], errors);
        }
    }
    if peer.has("ipBlock") {
        block(&at.child("ipBlock"), &peer["ipBlock"], known, errors);
        if peers > 0 {
            errors.push(at.forbidden("may not specify both ipBlock and another peer"));
        }
    } else if peers == 0 {
        errors.push(at.required("must specify a peer"));
    }
}

fn block(at: &Path, block: &Value, known: &[&str], errors: &mut Vec<Error>) {
    let cidr = block.text("cidr");
    if cidr.is_empty() {
        errors.push(at.child("cidr").required(""));
        return;
    }
    if !known.contains(&cidr) {
        faults(&at.child("cidr"), cidr, names::cidr(cidr), errors);
    }
    let Some(outer) = Network::parse(cidr) else { return };
    for (index, except) in block.items("except").iter().enumerate() {
        let (at, except) = (at.child("except").index(index), except.as_str().unwrap_or(""));
        if !known.contains(&except) {
            faults(&at, except, names::cidr(except), errors);
        }
        if Network::parse(except).is_some_and(|inner| !outer.strictly_contains(&inner)) {
            errors.push(at.invalid(except, "must be a strict subset of `cidr`"));
        }
    }
}

/// An address and the length of its prefix.
#[derive(Debug, Clone, Copy)]
struct Network {
    address: u128,
    bits: u32,
    prefix: u32,
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let (address, bits) = match address.parse().ok()? {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), u32::BITS),
            IpAddr::V6(ip) => (ip.to_bits(), u128::BITS),
        };
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= bits)?;
        Some(Self { address, bits, prefix })
    }

    fn strictly_contains(&self, other: &Self) -> bool {
        let shift = self.bits - self.prefix;
        let head = |address: u128| address.checked_shr(shift).unwrap_or(0);
        self.bits == other.bits
            && self.prefix < other.prefix
            && head(self.address) == head(other.address)
    }
}
