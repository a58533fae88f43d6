//! What is answered for which name.

use std::net::IpAddr;

use super::*;
use crate::snapshot::Protocol;

fn port(name: &str, protocol: Protocol, port: u16) -> Port {
    Port { name: name.to_owned(), protocol, port }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        hostname: hostname.map(str::to_owned),
        ready,
        ports: vec![port("db", Protocol::Tcp, 5432)],
    }
}

fn zone() -> Zone {
    let service = |name: &str| Service {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        ..Service::default()
    };
    let web = Service {
        cluster_addresses: vec!["10.43.0.20".parse().unwrap()],
        ports: vec![port("http", Protocol::Tcp, 80), port("", Protocol::Udp, 81)],
        ..service("web")
    };
    let headless = Service {
        endpoints: vec![
            endpoint("10.42.1.2", Some("db-0"), true),
            endpoint("10.42.1.3", None, true),
            endpoint("10.42.1.4", Some("db-2"), false),
        ],
        ports: vec![port("db", Protocol::Tcp, 5432)],
        ..service("db")
    };
    let outside = Service { external_name: Some("example.com".to_owned()), ..service("outside") };
    let snapshot = Snapshot {
        namespaces: vec!["default".to_owned(), "empty".to_owned()],
        services: vec![web, headless, service("nobody"), outside],
        ..Snapshot::default()
    };
    Zone::new(&Name::from_ascii("cluster.local.").unwrap(), snapshot)
}

fn ask(name: &str, kind: RecordType) -> Outcome {
    zone().look_up(&Name::from_ascii(name).unwrap(), kind)
}

fn texts(outcome: Outcome) -> Vec<String> {
    match outcome {
        Outcome::Records { answers, .. } => {
            answers.iter().map(|record| record.data.to_string()).collect()
        }
        other => panic!("no records: {other:?}"),
    }
}

#[test]
fn a_service_has_its_address_in_any_case_of_letters() {
    for name in ["web.default.svc.cluster.local.", "WEB.Default.SVC.cluster.LOCAL."] {
        assert_eq!(texts(ask(name, RecordType::A)), ["10.43.0.20"]);
    }
}

#[test]
fn a_name_without_such_records_is_told_from_one_that_is_not() {
    for name in [
        "web.default.svc.cluster.local.",
        "default.svc.cluster.local.",
        "empty.svc.cluster.local.",
        "svc.cluster.local.",
        "cluster.local.",
        "_tcp.web.default.svc.cluster.local.",
        "_http._tcp.web.default.svc.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::AAAA), Outcome::NoData, "{name}");
    }
    for name in [
        "gone.default.svc.cluster.local.",
        "web.gone.svc.cluster.local.",
        "gone.svc.cluster.local.",
        "x.web.default.svc.cluster.local.",
        "nobody.default.svc.cluster.local.",
        "_ftp._tcp.web.default.svc.cluster.local.",
        "_http._udp.web.default.svc.cluster.local.",
        "a.b.c.web.default.svc.cluster.local.",
        "web.default.cluster.local.",
        "1-2-3-4.gone.pod.cluster.local.",
        "x.default.pod.cluster.local.",
    ] {
        assert_eq!(ask(name, RecordType::A), Outcome::NoName, "{name}");
    }
}

#[test]
fn foreign_names_are_for_the_upstreams() {
    for name in ["example.com.", "local.", "notcluster.local.", ".", "9.9.9.9.in-addr.arpa."] {
        assert_eq!(ask(name, RecordType::A), Outcome::Foreign, "{name}");
    }
}

#[test]
fn a_headless_service_has_its_ready_endpoints() {
    let name = "db.default.svc.cluster.local.";
    assert_eq!(texts(ask(name, RecordType::A)), ["10.42.1.2", "10.42.1.3"]);
    assert_eq!(texts(ask("db-0.db.default.svc.cluster.local.", RecordType::A)), ["10.42.1.2"]);
    assert_eq!(texts(ask("10-42-1-3.db.default.svc.cluster.local.", RecordType::A)), ["10.42.1.3"]);
    assert_eq!(ask("db-2.db.default.svc.cluster.local.", RecordType::A), Outcome::NoName);
}

#[test]
fn locations_name_the_port_and_the_target() {
    let located = texts(ask("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV));
    assert_eq!(located, ["0 100 80 web.default.svc.cluster.local."]);
    let located = texts(ask("_db._tcp.db.default.svc.cluster.local.", RecordType::SRV));
    assert_eq!(
        located,
        [
            "0 100 5432 db-0.db.default.svc.cluster.local.",
            "0 100 5432 10-42-1-3.db.default.svc.cluster.local."
        ]
    );
    assert_eq!(texts(ask("web.default.svc.cluster.local.", RecordType::SRV)).len(), 2);
}

#[test]
fn addresses_lead_back_to_names() {
    let back = texts(ask("20.0.43.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(back, ["web.default.svc.cluster.local."]);
    let back = texts(ask("2.1.42.10.in-addr.arpa.", RecordType::PTR));
    assert_eq!(back, ["db-0.db.default.svc.cluster.local."]);
    assert_eq!(ask("20.0.43.10.in-addr.arpa.", RecordType::A), Outcome::NoData);
}

#[test]
fn reverse_names_of_both_families_are_read() {
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(reverse::address_of(v6), Some("fd00::1".parse::<IpAddr>().unwrap()));
    for name in ["1.2.3.in-addr.arpa", "1.2.3.256.in-addr.arpa", "x.ip6.arpa", "in-addr.arpa"] {
        assert_eq!(reverse::address_of(name), None, "{name}");
    }
}

#[test]
fn other_names_of_the_specification_are_there() {
    assert_eq!(texts(ask("1-2-3-4.default.pod.cluster.local.", RecordType::A)), ["1.2.3.4"]);
    assert_eq!(texts(ask("dns-version.cluster.local.", RecordType::TXT)), ["1.1.0"]);
    assert_eq!(texts(ask("cluster.local.", RecordType::SOA)).len(), 1);
    let alias = ask("outside.default.svc.cluster.local.", RecordType::A);
    assert_eq!(alias, Outcome::Alias(Name::from_ascii("example.com.").unwrap()));
}

/// A slice for each port, as upstream makes them when ports differ.
#[test]
fn an_endpoint_in_several_slices_is_named_once() {
    let with_port = |address: &str, name: &str| Endpoint {
        ports: vec![port(name, Protocol::Tcp, 1)],
        ..endpoint(address, Some(&format!("h{}", &address[8..])), true)
    };
    let service = Service {
        namespace: "default".to_owned(),
        name: "two".to_owned(),
        endpoints: vec![
            with_port("10.42.1.2", "a"),
            with_port("10.42.1.3", "a"),
            with_port("10.42.1.2", "b"),
            with_port("10.42.1.3", "b"),
        ],
        ..Service::default()
    };
    let snapshot = Snapshot { services: vec![service], ..Snapshot::default() };
    let zone = Zone::new(&Name::from_ascii("cluster.local.").unwrap(), snapshot);
    let ask = |name: &str, kind| {
        zone.look_up(
            &Name::from_ascii(format!("{name}two.default.svc.cluster.local.")).unwrap(),
            kind,
        )
    };
    assert_eq!(texts(ask("", RecordType::A)), ["10.42.1.2", "10.42.1.3"]);
    let Outcome::Records { answers, additionals } = ask("_b._tcp.", RecordType::SRV) else {
        panic!("no records");
    };
    assert_eq!((answers.len(), additionals.len()), (2, 2));
    let Outcome::Records { answers, additionals } = ask("", RecordType::SRV) else {
        panic!("no records");
    };
    assert_eq!((answers.len(), additionals.len()), (2, 2));
}

#[test]
fn the_name_server_of_the_zone_has_an_address() {
    let zone = zone().served_at(vec!["10.43.0.10".parse().unwrap()]);
    let ask = |name: &str, kind| zone.look_up(&Name::from_ascii(name).unwrap(), kind);
    assert_eq!(texts(ask("cluster.local.", RecordType::NS)), ["ns.dns.cluster.local."]);
    assert_eq!(texts(ask("ns.dns.cluster.local.", RecordType::A)), ["10.43.0.10"]);
    for name in ["dns.cluster.local.", "ns.dns.cluster.local."] {
        assert_eq!(ask(name, RecordType::AAAA), Outcome::NoData);
    }
}
