//! The cluster's names, indexed from a snapshot: a pure function of a question.
//!
//! Records are not stored but made when asked for, so a large cluster costs little.

mod reverse;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::snapshot::{Endpoint, Port, Service, Snapshot};

/// As in Kubernetes' DNS specification: short, since endpoints come and go.
pub(crate) const TTL_SECONDS: u32 = 5;

/// The version of Kubernetes' DNS specification that is followed.
const SPECIFICATION: &str = "1.1.0";

/// What is known of a question.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name exists, without such records.
    NoData,
    NoName,
    /// Another name answers for this one.
    Alias(Name),
    /// Not a name of the cluster.
    Foreign,
}

#[derive(Debug)]
pub(crate) struct Zone {
    domain: Name,
    /// The domain in lower case with a leading dot, without a trailing one.
    suffix: String,
    namespaces: HashSet<String>,
    services: HashMap<String, Service>,
    reverse: HashMap<IpAddr, Vec<Name>>,
    /// Where this zone is served: the addresses of its name server.
    servers: Vec<IpAddr>,
}

impl Zone {
    pub(crate) fn new(domain: &Name, snapshot: Snapshot) -> Self {
        let text = plain(domain);
        let mut namespaces: HashSet<_> = snapshot.namespaces.into_iter().collect();
        let mut services = HashMap::new();
        for service in snapshot.services {
            namespaces.insert(service.namespace.clone());
            services.insert(format!("{}.{}", service.name, service.namespace), service);
        }
        let mut zone = Self {
            domain: domain.clone(),
            suffix: format!(".{text}"),
            namespaces,
            services,
            reverse: HashMap::new(),
            servers: Vec::new(),
        };
        zone.reverse = zone.index_reverse();
        zone
    }

    pub(crate) fn served_at(self, servers: Vec<IpAddr>) -> Self {
        Self { servers, ..self }
    }

    pub(crate) fn look_up(&self, name: &Name, kind: RecordType) -> Outcome {
        let text = plain(name);
        if let Some(address) = reverse::address_of(&text) {
            return self.pointer(name, address, kind);
        }
        if text == self.suffix[1..] {
            return self.apex(name, kind);
        }
        let Some(inner) = text.strip_suffix(&self.suffix) else {
            return Outcome::Foreign;
        };
        let mut labels: Vec<&str> = inner.split('.').collect();
        match labels.pop() {
            Some("svc") => self.service(name, &labels, kind),
            Some("pod") => self.sandbox(name, &labels, kind),
            Some("dns") if labels.is_empty() => Outcome::NoData,
            Some("dns") if labels == ["ns"] => records(name, &self.servers, kind),
            Some("dns-version") if labels.is_empty() => match kind {
                RecordType::TXT => only(name, RData::TXT(TXT::new(vec![SPECIFICATION.to_owned()]))),
                _ => Outcome::NoData,
            },
            _ => Outcome::NoName,
        }
    }

    /// For the authority section of answers without records.
    pub(crate) fn authority(&self) -> Record {
        Record::from_rdata(self.domain.clone(), TTL_SECONDS, RData::SOA(self.start()))
    }

    fn start(&self) -> SOA {
        let server = self.below("ns.dns").unwrap_or_else(|| self.domain.clone());
        let master = self.below("hostmaster").unwrap_or_else(|| self.domain.clone());
        let minimum = TTL_SECONDS;
        SOA::new(server, master, 1, 7200, 1800, 86_400, minimum)
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Outcome {
        match kind {
            RecordType::SOA => only(name, RData::SOA(self.start())),
            RecordType::NS => match self.below("ns.dns") {
                Some(server) => only(name, RData::NS(NS(server))),
                None => Outcome::NoData,
            },
            _ => Outcome::NoData,
        }
    }

    fn service(&self, name: &Name, labels: &[&str], kind: RecordType) -> Outcome {
        let (rest, found) = match labels {
            [] => return Outcome::NoData,
            [namespace] => {
                return if self.namespaces.contains(*namespace) {
                    Outcome::NoData
                } else {
                    Outcome::NoName
                };
            }
            [rest @ .., service, namespace] => {
                (rest, self.services.get(&format!("{service}.{namespace}")))
            }
        };
        let Some(service) = found else {
            return Outcome::NoName;
        };
        match rest {
            [] => self.whole(name, service, kind),
            [hostname] if !hostname.starts_with('_') => endpoint(name, service, hostname, kind),
            [protocol] => under(service, |port| is_protocol(port, protocol)),
            [port, protocol] => self.port(name, service, port, protocol, kind),
            _ => Outcome::NoName,
        }
    }

    /// The service's own name.
    fn whole(&self, name: &Name, service: &Service, kind: RecordType) -> Outcome {
        if let Some(external) = &service.external_name {
            return match Name::from_ascii(external) {
                Ok(mut target) => {
                    target.set_fqdn(true);
                    Outcome::Alias(target)
                }
                Err(_not_a_name) => Outcome::NoData,
            };
        }
        if kind == RecordType::SRV {
            return self.locations(name, service, |_| true);
        }
        let addresses: Vec<IpAddr> = if service.cluster_addresses.is_empty() {
            // An endpoint stands in several slices when its ports differ.
            let mut seen = HashSet::new();
            published(service)
                .map(|endpoint| endpoint.address)
                .filter(|address| seen.insert(*address))
                .collect()
        } else {
            service.cluster_addresses.clone()
        };
        if addresses.is_empty() {
            // A headless service without endpoints: as CoreDNS has it.
            return Outcome::NoName;
        }
        records(name, &addresses, kind)
    }

    fn port(
        &self,
        name: &Name,
        service: &Service,
        port: &str,
        protocol: &str,
        kind: RecordType,
    ) -> Outcome {
        let Some(port) = port.strip_prefix('_') else {
            return Outcome::NoName;
        };
        let chosen =
            |found: &Port| found.name.eq_ignore_ascii_case(port) && is_protocol(found, protocol);
        match (under(service, chosen), kind) {
            (Outcome::NoData, RecordType::SRV) => self.locations(name, service, chosen),
            (outcome, _) => outcome,
        }
    }

    /// SRV records, with the addresses they lead to.
    fn locations(&self, name: &Name, service: &Service, chosen: impl Fn(&Port) -> bool) -> Outcome {
        let base = format!("{}.{}.svc", service.name, service.namespace);
        let mut answers = Vec::new();
        let mut additionals = Vec::new();
        let mut add = |target: &Name, ports: &[Port], addresses: &[IpAddr]| {
            let mut any = false;
            for port in ports.iter().filter(|port| chosen(port)) {
                let location =
                    record(name, RData::SRV(SRV::new(0, 100, port.port, target.clone())));
                if !answers.contains(&location) {
                    answers.push(location);
                }
                any = true;
            }
            for address in addresses.iter().filter(|_| any) {
                let address = address_record(target, *address);
                if !additionals.contains(&address) {
                    additionals.push(address);
                }
            }
        };
        if service.cluster_addresses.is_empty() {
            for endpoint in published(service) {
                let Some(target) = self.below(&format!("{}.{base}", hostname(endpoint))) else {
                    continue;
                };
                add(&target, &endpoint.ports, &[endpoint.address]);
            }
        } else if let Some(target) = self.below(&base) {
            add(&target, &service.ports, &service.cluster_addresses);
        }
        if answers.is_empty() {
            return Outcome::NoData;
        }
        Outcome::Records { answers, additionals }
    }

    /// `1-2-3-4.namespace.pod`: the address is in the name.
    fn sandbox(&self, name: &Name, labels: &[&str], kind: RecordType) -> Outcome {
        match labels {
            [] => Outcome::NoData,
            [namespace] if self.namespaces.contains(*namespace) => Outcome::NoData,
            [dashed, namespace] if self.namespaces.contains(*namespace) => match undashed(dashed) {
                Some(address) => records(name, &[address], kind),
                None => Outcome::NoName,
            },
            _ => Outcome::NoName,
        }
    }

    fn pointer(&self, name: &Name, address: IpAddr, kind: RecordType) -> Outcome {
        match self.reverse.get(&address) {
            None => Outcome::Foreign,
            Some(names) if kind == RecordType::PTR => Outcome::Records {
                answers: names.iter().map(|to| record(name, RData::PTR(PTR(to.clone())))).collect(),
                additionals: Vec::new(),
            },
            Some(_) => Outcome::NoData,
        }
    }

    fn index_reverse(&self) -> HashMap<IpAddr, Vec<Name>> {
        let mut index: HashMap<IpAddr, Vec<Name>> = HashMap::new();
        for service in self.services.values() {
            let base = format!("{}.{}.svc", service.name, service.namespace);
            for address in &service.cluster_addresses {
                index.entry(*address).or_default().extend(self.below(&base));
            }
            if service.cluster_addresses.is_empty() {
                for endpoint in published(service) {
                    let name = self.below(&format!("{}.{base}", hostname(endpoint)));
                    index.entry(endpoint.address).or_default().extend(name);
                }
            }
        }
        index
    }

    fn below(&self, prefix: &str) -> Option<Name> {
        Name::from_ascii(prefix).ok()?.append_domain(&self.domain).ok()
    }
}

/// Lower case, without the last dot.
pub(crate) fn plain(name: &Name) -> String {
    let mut text = name.to_ascii();
    text.make_ascii_lowercase();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn published(service: &Service) -> impl Iterator<Item = &Endpoint> {
    service.endpoints.iter().filter(|endpoint| endpoint.ready || service.publish_not_ready)
}

fn endpoint(name: &Name, service: &Service, wanted: &str, kind: RecordType) -> Outcome {
    if !service.cluster_addresses.is_empty() {
        return Outcome::NoName;
    }
    let found: Vec<_> = published(service)
        .filter(|endpoint| hostname(endpoint).eq_ignore_ascii_case(wanted))
        .map(|endpoint| endpoint.address)
        .collect();
    if found.is_empty() { Outcome::NoName } else { records(name, &found, kind) }
}

/// Whether names below the service exist for any port that is chosen.
fn under(service: &Service, chosen: impl Fn(&Port) -> bool) -> Outcome {
    let of_endpoints = published(service).flat_map(|endpoint| &endpoint.ports);
    if service.ports.iter().chain(of_endpoints).any(chosen) {
        Outcome::NoData
    } else {
        Outcome::NoName
    }
}

fn is_protocol(port: &Port, label: &str) -> bool {
    label.strip_prefix('_').is_some_and(|label| label == port.protocol.label())
}

fn hostname(endpoint: &Endpoint) -> String {
    endpoint
        .hostname
        .clone()
        .unwrap_or_else(|| endpoint.address.to_string().replace(['.', ':'], "-"))
}

fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse().ok().map(IpAddr::V4);
    v4.or_else(|| label.replace('-', ":").parse().ok().map(IpAddr::V6))
}

fn records(name: &Name, addresses: &[IpAddr], kind: RecordType) -> Outcome {
    let answers: Vec<_> = addresses
        .iter()
        .filter(|address| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            RecordType::ANY => true,
            _ => false,
        })
        .map(|address| address_record(name, *address))
        .collect();
    if answers.is_empty() {
        return Outcome::NoData;
    }
    Outcome::Records { answers, additionals: Vec::new() }
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    record(
        name,
        match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        },
    )
}

fn record(name: &Name, content: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECONDS, content)
}

fn only(name: &Name, content: RData) -> Outcome {
    Outcome::Records { answers: vec![record(name, content)], additionals: Vec::new() }
}

#[cfg(test)]
mod tests;
