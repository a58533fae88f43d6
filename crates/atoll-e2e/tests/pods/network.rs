//! Pods and Services over two nodes: datagrams, names, types that change, slices by hand,
//! affinity, ports of nodes.

mod ports;
mod retyped;

use super::HOUR_GLASS;
use atoll_e2e::{
    Cluster,
    cluster::is_ready,
    eventually,
    http::{Origin, datagram, get_from},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

const NODES: [&str; 2] = ["node-1", "node-2"];
const WEBS: [&str; 2] = ["web-a", "web-b"];

pub(crate) fn apply(cluster: &Cluster) {
    cluster.apply(include_str!("network.yaml"));
    ports::apply(cluster);
}

pub(crate) fn check(cluster: &Cluster) {
    for pod in WEBS.into_iter().chain(["client"]) {
        cluster.pod_becomes(pod, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    directly(cluster);
    ports_and_protocols(cluster);
    names(cluster);
    retyped::check(cluster);
    slices_by_hand(cluster);
    affinity(cluster);
    ports::check(cluster);
    endpoints_come_and_go(cluster);
    many_at_once(cluster);
}

fn pod_ip(cluster: &Cluster, pod: &str) -> IpAddr {
    let pod = cluster.json(&["pod", pod]);
    pod["status"]["podIP"].as_str().unwrap().parse().unwrap()
}

fn node_ip(cluster: &Cluster, node: &str) -> IpAddr {
    let node = cluster.json(&["node", node]);
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let own = addresses.iter().find(|one| one["type"] == "InternalIP").unwrap();
    own["address"].as_str().unwrap().parse().unwrap()
}

/// What a shell in the pod `client` says.
fn client(cluster: &Cluster, script: &str) -> Result<String, String> {
    let said = cluster.kubectl(&["exec", "client", "--", "sh", "-c", script]);
    if said.code == 0 { Ok(said.stdout) } else { Err(format!("{}{}", said.stdout, said.stderr)) }
}

/// The pod that answers.
fn who(answer: &str) -> Result<String, String> {
    let name = answer.strip_prefix("hello from ").and_then(|rest| rest.split(' ').next());
    name.map(str::to_owned).ok_or_else(|| answer.to_owned())
}

/// Waits until a URL, asked for by `client`, is answered by this pod.
fn answers(cluster: &Cluster, url: &str, pod: &str) {
    eventually(HOUR_GLASS, &format!("{pod} answers {url}"), || {
        let found = who(&client(cluster, &format!("timeout 2 wget -qO- {url}"))?)?;
        if found == pod { Ok(()) } else { Err(found) }
    });
}

/// Waits until asking brings every one of these pods, and no other.
fn all_answer(what: &str, pods: &[&str], ask: impl Fn() -> Result<String, String>) {
    eventually(HOUR_GLASS, &format!("{pods:?} answer {what}"), || {
        let found = (0..20).map(|_| who(&ask()?)).collect::<Result<BTreeSet<String>, String>>()?;
        let alike = found.iter().map(String::as_str).eq(pods.iter().copied());
        if alike { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// From a pod and from both nodes to pods on both nodes, over TCP and UDP.
fn directly(cluster: &Cluster) {
    let mut origins = NODES.map(|node| Origin::Namespace(cluster.netns(node))).to_vec();
    origins.push(Origin::Namespace(cluster.pod_netns("client")));
    for pod in WEBS {
        let address = SocketAddr::new(pod_ip(cluster, pod), 8080);
        for from in &origins {
            let answers = [get_from(from, address, "/"), datagram(from, address)];
            assert_eq!(answers.map(|own| who(&own.unwrap()).unwrap()), [pod, pod], "{from:?}");
        }
        answers(cluster, &format!("http://{address}/"), pod);
    }
}

/// Two named ports that different pods have, and one number for two protocols.
fn ports_and_protocols(cluster: &Cluster) {
    answers(cluster, "http://named:80/", "web-a");
    answers(cluster, "http://named:81/", "web-b");
    let address = SocketAddr::new(cluster.service_ip("twice"), 80);
    let from = Origin::Namespace(cluster.pod_netns("client"));
    all_answer("TCP", &WEBS, || get_from(&from, address, "/"));
    all_answer("UDP", &WEBS, || datagram(&from, address));
    let slices = cluster.json(&["endpointslices", "-l", "kubernetes.io/service-name=twice"]);
    let ports = slices["items"][0]["ports"].as_array().unwrap();
    let mut ports: Vec<String> =
        ports.iter().map(|port| format!("{}/{}", port["port"], port["protocol"])).collect();
    ports.sort();
    assert_eq!(ports, ["8080/\"TCP\"", "8080/\"UDP\""]);
    // What is not asked for any more is not answered.
    let rest = json!([{ "name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP" }]);
    let patch = json!([{ "op": "replace", "path": "/spec/ports", "value": rest }]).to_string();
    cluster.kubectl(&["patch", "service/twice", "--type=json", "-p", &patch]).ok();
    eventually(HOUR_GLASS, "TCP is refused", || match get_from(&from, address, "/") {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    who(&datagram(&from, address).unwrap()).unwrap();
}

/// The name under which an address is looked up.
fn reverse(address: IpAddr) -> String {
    let text = address.to_string();
    let parts: Vec<&str> = text.rsplit('.').collect();
    format!("{}.in-addr.arpa", parts.join("."))
}

/// Asked for by a pod: short names, ports, the way back, and the cluster itself.
fn names(cluster: &Cluster) {
    for name in ["named", "named.default", "named.default.svc", "named.default.svc.cluster.local"] {
        answers(cluster, &format!("http://{name}/"), "web-a");
    }
    let asked =
        |kind: &str, name: &str| client(cluster, &format!("nslookup -type={kind} {name}")).unwrap();
    let service = cluster.service_ip("named");
    let pods = WEBS.map(|pod| pod_ip(cluster, pod));
    let local = "default.svc.cluster.local";
    for (kind, name, wanted) in [
        ("a", format!("kubernetes.{local}"), cluster.service_ip("kubernetes").to_string()),
        ("a", format!("named.{local}"), service.to_string()),
        ("a", format!("lonely.{local}"), pods[0].to_string()),
        ("a", format!("lonely.{local}"), pods[1].to_string()),
        ("srv", format!("_a._tcp.named.{local}"), format!("80 named.{local}")),
        ("srv", format!("_http._tcp.lonely.{local}"), "8080 ".to_owned()),
        ("ptr", reverse(service), format!("named.{local}")),
        ("ptr", reverse(pods[1]), format!("lonely.{local}")),
    ] {
        let said = asked(kind, &name);
        assert!(said.contains(&wanted), "{kind} {name}: {said} without {wanted}");
    }
}

fn slice(name: &str, port: &Value, addresses: &[IpAddr]) -> String {
    let endpoints: Vec<Value> = addresses.iter().map(|ip| json!({ "addresses": [ip] })).collect();
    let labels = json!({ "kubernetes.io/service-name": "hand",
        "endpointslice.kubernetes.io/managed-by": "by-hand" });
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": name, "labels": labels }, "addressType": "IPv4",
        "ports": [port], "endpoints": endpoints })
    .to_string()
}

/// A Service without a selector, whose endpoints stand in several slices.
fn slices_by_hand(cluster: &Cluster) {
    let [a, b] = WEBS.map(|pod| pod_ip(cluster, pod));
    let apply = |name: &str, port: &Value, addresses: &[IpAddr]| {
        cluster.apply(&slice(name, port, addresses));
    };
    // A port in each.
    apply("hand-1", &json!({ "name": "a", "port": 8080 }), &[a]);
    apply("hand-2", &json!({ "name": "b", "port": 8081 }), &[b]);
    answers(cluster, "http://hand:80/", "web-a");
    answers(cluster, "http://hand:81/", "web-b");
    // One port in both, by different numbers.
    apply("hand-3", &json!({ "name": "a", "port": 8081 }), &[b]);
    let ask = |port| move || client(cluster, &format!("timeout 2 wget -qO- http://hand:{port}/"));
    all_answer("port 80", &WEBS, ask(80));
    // Two addresses in one.
    apply("hand-2", &json!({ "name": "b", "port": 8081 }), &[a, b]);
    all_answer("port 81", &WEBS, ask(81));
    cluster.kubectl(&["delete", "endpointslice", "hand-1"]).ok();
    all_answer("port 80", &["web-b"], ask(80));
    cluster.kubectl(&["delete", "endpointslice", "hand-2", "hand-3"]).ok();
    cluster.kubectl(&["delete", "service", "hand"]).ok();
}

/// ClientIP by both addresses of a Service, switched off and on again, and its time.
fn affinity(cluster: &Cluster) {
    let service = cluster.json(&["service", "sticky"]);
    let port = u16::try_from(service["spec"]["ports"][0]["nodePort"].as_u64().unwrap()).unwrap();
    let pod = Origin::Namespace(cluster.pod_netns("client"));
    let node = Origin::Namespace(cluster.netns("node-1"));
    let inside = (pod, SocketAddr::new(cluster.service_ip("sticky"), 80));
    let outside = (node, SocketAddr::new(node_ip(cluster, "node-2"), port));
    let patch = |spec: Value| {
        let patch = json!({ "spec": spec }).to_string();
        cluster.kubectl(&["patch", "service/sticky", "--type=merge", "-p", &patch]).ok();
    };
    let both = |what: &str, pods: &dyn Fn(&Origin, SocketAddr) -> Result<(), String>| {
        for (from, address) in [&inside, &outside] {
            eventually(HOUR_GLASS, &format!("{what} at {address}"), || pods(from, *address));
        }
    };
    let found = |from: &Origin, address: SocketAddr| {
        (0..20).map(|_| who(&get_from(from, address, "/")?)).collect::<Result<BTreeSet<_>, _>>()
    };
    let one = |from: &Origin, address: SocketAddr| match found(from, address)? {
        pods if pods.len() == 1 => Ok(()),
        pods => Err(format!("{pods:?}")),
    };
    let two = |from: &Origin, address: SocketAddr| match found(from, address)? {
        pods if pods.len() == 2 => Ok(()),
        pods => Err(format!("{pods:?}")),
    };
    both("one pod for one client", &one);
    patch(json!({ "sessionAffinity": "None" }));
    both("any pod for any client", &two);
    patch(json!({ "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 1 } } }));
    both("one pod again", &one);
    // A client that has been away for longer than that may be led elsewhere.
    let (from, address) = &inside;
    let mut seen = BTreeSet::new();
    eventually(HOUR_GLASS, "its time ends", || {
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        seen.insert(who(&get_from(from, *address, "/")?)?);
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

/// A Service follows its pods; what nobody answers is refused.
fn endpoints_come_and_go(cluster: &Cluster) {
    let listed = cluster.json(&["services", "-A"]);
    let all = listed["items"].as_array().unwrap();
    let places: BTreeSet<&str> =
        all.iter().filter_map(|one| one["metadata"]["namespace"].as_str()).collect();
    assert!(places.contains("default") && all.len() > 5, "{places:?}");

    let ask = || client(cluster, "timeout 2 wget -qO- http://sticky/");
    let patch = r#"{"spec":{"sessionAffinity":"None"}}"#;
    cluster.kubectl(&["patch", "service/sticky", "-p", patch]).ok();
    all_answer("sticky", &WEBS, ask);
    cluster.kubectl(&["delete", "pod", "web-a"]).ok();
    all_answer("sticky", &["web-b"], ask);
    cluster.kubectl(&["delete", "pod", "web-b"]).ok();
    eventually(HOUR_GLASS, "nobody is left", || match ask() {
        Err(error) if error.contains("refused") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // One that never had a pod has its objects all the same, and they go with it.
    let objects = ["endpoints/nobody", "endpointslices -l kubernetes.io/service-name=nobody"];
    let found = || {
        objects.map(|what| {
            let words: Vec<&str> = "get -o name".split(' ').chain(what.split(' ')).collect();
            cluster.kubectl(&words).stdout.lines().count()
        })
    };
    assert_eq!(found(), [1, 1]);
    cluster.kubectl(&["delete", "service", "nobody"]).ok();
    eventually(HOUR_GLASS, "they are gone", || match found() {
        [0, 0] => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// Two hundred Services at once: each has its endpoint soon, and all go in one request.
fn many_at_once(cluster: &Cluster) {
    const COUNT: usize = 200;
    let services: Vec<Value> = (0..COUNT)
        .map(|number| {
            json!({ "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": format!("many-{number}"), "labels": { "many": "yes" } },
                "spec": { "selector": { "app": "client" }, "ports": [{ "port": 80 }] } })
        })
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": services }).to_string();
    let begun = std::time::Instant::now();
    cluster.kubectl_with(&["create", "-f", "-"], &list).ok();
    let created = begun.elapsed();
    let slices = |ready: &str| {
        let found = cluster.kubectl(&["get", "endpointslices", "-l", "many=yes", "-o", "json"]);
        let found: Value = serde_json::from_str(&found.ok()).unwrap();
        let slices = found["items"].as_array().cloned().unwrap();
        slices.iter().filter(|slice| slice["endpoints"].to_string().contains(ready)).count()
    };
    eventually(HOUR_GLASS, "every Service has its endpoint", || match slices("addresses") {
        COUNT => Ok(()),
        some => Err(format!("{some} have")),
    });
    println!("{COUNT} services in {created:?}, endpoints of all after {:?}", begun.elapsed());
    let path = "/api/v1/namespaces/default/services?labelSelector=many%3Dyes";
    cluster.kubectl(&["delete", "--raw", path]).ok();
    eventually(HOUR_GLASS, "their slices go with them", || match slices("") {
        0 => Ok(()),
        some => Err(format!("{some} are left")),
    });
}
