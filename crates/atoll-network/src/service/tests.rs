//! What a port becomes, and what a change of it touches.

use super::diff::Ledger;
use super::plan::{ElementKey, Reach, plan};
use super::*;

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
    plan(port).into_iter().map(|element| element.key.set).collect()
}

#[test]
fn a_headless_service_needs_no_rules() {
    let mut headless = port("a", 1, 3);
    headless.cluster_addresses.clear();
    assert!(plan(&headless).is_empty());
}

#[test]
fn without_endpoints_it_is_refused_and_nothing_else() {
    assert_eq!(sets(&port("a", 1, 0)), [Set::ClusterAddresses, Set::Rejected(Front::Address)]);
}

#[test]
fn only_the_local_list_is_used_where_traffic_stays_local() {
    let mut local = port("a", 1, 3);
    local.internal_policy = TrafficPolicy::Local;
    let plan = plan(&local);
    let picks: Vec<_> = plan.iter().filter_map(|element| element.value.chain()).collect();
    assert_eq!(picks.iter().map(|chain| chain.endpoints).collect::<Vec<_>>(), [1, 1]);
    let all = Set::Endpoints(Front::Address, Reach::All);
    assert!(plan.iter().all(|element| element.key.set != all));
}

#[test]
fn another_endpoint_changes_few_elements() {
    let mut ledger = Ledger::of(vec![port("a", 1, 4), port("b", 2, 4)]);
    let (difference, stale) = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]);
    assert_eq!((difference.delete.len(), difference.add.len()), (2, 3));
    assert!(stale.is_empty(), "TCP flows are left alone");
    let again = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]).0;
    assert!(again.is_empty());
}

#[test]
fn set_and_removed_leaves_nothing() {
    let mut ledger = Ledger::default();
    let added = ledger.change(vec![ServiceChange::Set(port("a", 1, 5))]).0;
    let removed = ledger.change(vec![ServiceChange::Remove("a".to_owned())]).0;
    let sorted = |mut keys: Vec<ElementKey>| {
        keys.sort();
        keys
    };
    let keys = |of: Vec<(ElementKey, Value)>| sorted(of.into_iter().map(|(key, _)| key).collect());
    assert_eq!(keys(removed.delete), keys(added.add));
    assert!(ledger.all().is_empty());
}

/// Where the connections to the port's first address go, by what stands in the tables.
fn led_to(ledger: &Ledger, last: u8) -> Vec<SocketAddrV4> {
    let all: std::collections::HashMap<_, _> = ledger.all().add.into_iter().collect();
    let elements = plan(&port("any", last, 255));
    let of = |set: Set| elements.iter().map(|e| e.key).filter(move |key| key.set == set);
    let front = of(Set::Fronts(Side::Inside, Front::Address)).next().unwrap();
    let picked = all.get(&front).and_then(|value| value.chain()).map_or(0, |c| c.endpoints);
    of(Set::Endpoints(Front::Address, Reach::All))
        .take(picked as usize)
        .map(|key| match all[&key] {
            Value::Endpoint(to) => to,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn with_endpoints_in(net: u8, mut port: ServicePort) -> ServicePort {
    for endpoint in &mut port.endpoints {
        let [.., last] = endpoint.address.ip().octets();
        endpoint.address.set_ip(Ipv4Addr::new(10, 42, net, last));
    }
    port
}

#[test]
fn the_first_keeps_an_address_that_two_claim_whatever_becomes_of_it() {
    let first = |endpoints| port("a", 1, endpoints);
    let second = with_endpoints_in(9, port("b", 1, 3));
    let addresses = |port: &ServicePort| -> Vec<_> {
        port.endpoints.iter().map(|endpoint| endpoint.address).collect()
    };
    let mut ledger = Ledger::of(vec![first(2)]);
    ledger.change(vec![ServiceChange::Set(second.clone())]);
    for endpoints in [2, 4, 1] {
        ledger.change(vec![ServiceChange::Set(first(endpoints))]);
        assert_eq!(led_to(&ledger, 1), addresses(&first(endpoints)));
    }
    ledger.change(vec![ServiceChange::Remove("a".to_owned())]);
    assert_eq!(led_to(&ledger, 1), addresses(&second), "b gets the address now");
}

#[test]
fn an_external_address_takes_none_of_the_clusters_own() {
    let mut thief = with_endpoints_in(9, port("a", 7, 3));
    thief.external_addresses = vec![Ipv4Addr::new(10, 43, 0, 1)];
    let honest = port("b", 1, 2);
    let ledger = Ledger::of(vec![thief, honest.clone()]);
    let to: Vec<_> = honest.endpoints.iter().map(|endpoint| endpoint.address).collect();
    assert_eq!(led_to(&ledger, 1), to);
}

#[test]
fn ports_of_one_address_share_it() {
    let mut other = port("b", 1, 2);
    other.port = 443;
    let mut ledger = Ledger::of(vec![port("a", 1, 2), other]);
    let (removed, _) = ledger.change(vec![ServiceChange::Remove("a".to_owned())]);
    assert!(removed.delete.iter().all(|(key, _)| key.set != Set::ClusterAddresses));
}

#[test]
fn a_udp_port_tells_which_flows_may_stay() {
    let udp = |endpoints| ServicePort { protocol: Protocol::Udp, ..port("a", 1, endpoints) };
    let mut ledger = Ledger::of(vec![udp(3)]);
    let (_, stale) = ledger.change(vec![ServiceChange::Set(udp(1))]);
    assert_eq!(stale.len(), 1);
    assert_eq!(stale[0].endpoints.len(), 1);
    let (_, stale) = ledger.change(vec![ServiceChange::Remove("a".to_owned())]);
    assert!(stale[0].endpoints.is_empty() && !stale[0].addresses.is_empty());
}

#[test]
fn a_udp_port_gives_up_the_flows_to_where_it_is_no_longer_served() {
    let udp = |last, node_port| ServicePort {
        protocol: Protocol::Udp,
        node_port: Some(node_port),
        ..port("a", last, 2)
    };
    let mut ledger = Ledger::of(vec![udp(1, 30_001)]);
    let (_, stale) = ledger.change(vec![ServiceChange::Set(udp(2, 30_002))]);
    let [kept, former] = stale.as_slice() else { panic!("{stale:?}") };
    assert_eq!((kept.node_port, kept.endpoints.len()), (Some(30_002), 2));
    assert_eq!((former.node_port, former.endpoints.len()), (Some(30_001), 0));
    assert_eq!(former.addresses, [Ipv4Addr::new(10, 43, 0, 1)].into());
}

#[test]
fn what_is_out_of_bounds_is_served_as_far_as_it_can_be() {
    let mut long = port("default/a:x", 1, 1);
    long.affinity = Some(Duration::from_secs(86_401));
    let chain = plan(&long).iter().find_map(|element| element.value.chain()).unwrap();
    assert_eq!(chain.affinity.map(|affinity| affinity.seconds), Some(86_400));
    let mut many = port("default/a:x", 1, 0);
    many.endpoints = (0..70_000u32)
        .map(|number| Endpoint {
            address: SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 + number), 80),
            local: false,
        })
        .collect();
    let chain = plan(&many).iter().find_map(|element| element.value.chain()).unwrap();
    assert_eq!(chain.endpoints, 65_536);
}
