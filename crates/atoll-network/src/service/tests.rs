//! What a port becomes, and what a change of it touches.

use super::diff::Ledger;
use super::plan::{ElementKey, plan};
use super::*;
use crate::Error;

fn port(key: &str, last: u8, endpoints: u8) -> ServicePort {
    ServicePort {
        key: key.to_owned(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_addresses: vec![Ipv4Addr::new(10, 43, 0, last)],
        external_addresses: Vec::new(),
        node_port: None,
        endpoints: (0..endpoints)
            .map(|number| Endpoint {
                address: SocketAddrV4::new(Ipv4Addr::new(10, 42, 1, number), 8080),
                local: number == 0,
            })
            .collect(),
        affinity: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
    }
}

fn sets(port: &ServicePort) -> Vec<Set> {
    plan(port).unwrap().into_iter().map(|(key, _)| key.set).collect()
}

#[test]
fn a_headless_service_needs_no_rules() {
    let mut headless = port("a", 1, 3);
    headless.cluster_addresses.clear();
    assert!(plan(&headless).unwrap().is_empty());
}

#[test]
fn without_endpoints_it_is_refused_and_nothing_else() {
    assert_eq!(sets(&port("a", 1, 0)), [Set::ClusterAddresses, Set::Rejected]);
}

#[test]
fn only_the_local_list_is_used_where_traffic_stays_local() {
    let mut local = port("a", 1, 3);
    local.internal_policy = TrafficPolicy::Local;
    let picks: Vec<_> = plan(&local)
        .unwrap()
        .into_iter()
        .filter_map(|(_, value)| match value {
            Value::Pick(chain) => Some(chain.endpoints),
            _ => None,
        })
        .collect();
    assert_eq!(picks, [1, 1]);
}

#[test]
fn another_endpoint_changes_few_elements() {
    let mut ledger = Ledger::of(vec![port("a", 1, 4), port("b", 2, 4)]).unwrap();
    let (difference, stale) = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]).unwrap();
    assert_eq!((difference.delete.len(), difference.add.len()), (2, 3));
    assert!(stale.is_empty(), "TCP flows are left alone");
    let again = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]).unwrap().0;
    assert!(again.is_empty());
}

#[test]
fn set_and_removed_leaves_nothing() {
    let mut ledger = Ledger::default();
    let added = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]).unwrap().0;
    let removed = ledger.change(vec![ServiceChange::Remove("a".to_owned())]).unwrap().0;
    let sorted = |mut keys: Vec<ElementKey>| {
        keys.sort();
        keys
    };
    let keys = added.add.into_iter().map(|(key, _)| key).collect();
    assert_eq!(sorted(removed.delete), sorted(keys));
    assert!(ledger.all().is_empty());
}

#[test]
fn the_first_keeps_an_address_that_two_claim() {
    let mut ledger = Ledger::of(vec![port("a", 1, 2)]).unwrap();
    let before = ledger.all().add.len();
    let (second, _) = ledger.change(vec![ServiceChange::Set(port("b", 1, 3))]).unwrap();
    assert!(second.add.iter().all(|(key, _)| key.set == Set::Endpoints), "{second:?}");
    let (left, _) = ledger.change(vec![ServiceChange::Remove("a".to_owned())]).unwrap();
    assert!(left.add.iter().any(|(key, _)| key.set == Set::Inside), "b gets the address now");
    assert!(ledger.all().add.len() > before);
}

#[test]
fn ports_of_one_address_share_it() {
    let mut other = port("b", 1, 2);
    other.port = 443;
    let mut ledger = Ledger::of(vec![port("a", 1, 2), other]).unwrap();
    let (removed, _) = ledger.change(vec![ServiceChange::Remove("a".to_owned())]).unwrap();
    assert!(removed.delete.iter().all(|key| key.set != Set::ClusterAddresses));
}

#[test]
fn a_udp_port_tells_which_flows_may_stay() {
    let udp = |endpoints| ServicePort { protocol: Protocol::Udp, ..port("a", 1, endpoints) };
    let mut ledger = Ledger::of(vec![udp(3)]).unwrap();
    let (_, stale) = ledger.change(vec![ServiceChange::Set(udp(1))]).unwrap();
    assert_eq!(stale.len(), 1);
    assert_eq!(stale[0].endpoints.len(), 1);
    let (_, stale) = ledger.change(vec![ServiceChange::Remove("a".to_owned())]).unwrap();
    assert!(stale[0].endpoints.is_empty() && !stale[0].addresses.is_empty());
}

#[test]
fn what_cannot_be_served_is_named() {
    let mut long = port("default/a:x", 1, 1);
    long.affinity = Some(Duration::from_secs(86_401));
    let error = plan(&long).unwrap_err();
    assert!(matches!(&error, Error::AffinityTooLong { key } if key == "default/a:x"));
}
