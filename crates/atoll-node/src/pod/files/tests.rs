//! The three files as a program in a pod would read them.

use serde_json::json;

use super::*;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "ns"}, "spec": spec}))
        .unwrap()
}

fn resolv(spec: serde_json::Value) -> String {
    let node = "search corp.example\nnameserver 192.0.2.1\noptions edns0\n";
    resolv_conf(&pod(spec), "10.43.0.10".parse().ok(), "cluster.local", node)
}

#[test]
fn hosts_name_the_pod() {
    let plain = pod(json!({"containers": []}));
    let text = hosts(&plain, &names(&plain, "n", "cluster.local"), Some("10.42.0.5"), "");
    assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    assert!(text.ends_with("10.42.0.5\tweb-1\n"));
    let sub = pod(json!({"containers": [], "hostname": "h", "subdomain": "s",
        "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["a", "b"]}]}));
    let text = hosts(&sub, &names(&sub, "n", "cluster.local"), Some("10.42.0.5"), "");
    assert!(text.contains("10.42.0.5\th.s.ns.svc.cluster.local\th\n"), "{text}");
    assert!(text.ends_with("\n# Entries added by HostAliases.\n192.0.2.9\ta\tb\n"));
    let host = pod(json!({"containers": [], "hostNetwork": true}));
    let text = hosts(&host, &names(&host, "n", "cluster.local"), None, "127.0.0.1 localhost\n");
    assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
}

#[test]
fn dns_policies() {
    assert_eq!(
        resolv(json!({"containers": []})),
        "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
         nameserver 10.43.0.10\noptions ndots:5\n"
    );
    let node = "search corp.example\nnameserver 192.0.2.1\noptions edns0\n";
    assert_eq!(resolv(json!({"containers": [], "dnsPolicy": "Default"})), node);
    assert_eq!(resolv(json!({"containers": [], "hostNetwork": true})), node);
    let own = json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
        "nameservers": ["1.1.1.1"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}]}});
    assert_eq!(resolv(own), "search x\nnameserver 1.1.1.1\noptions ndots:2\n");
}

#[test]
fn long_names_are_cut_to_a_valid_hostname() {
    let mut long = pod(json!({"containers": []}));
    long.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(20)));
    assert_eq!(names(&long, "n", "c").hostname, "a".repeat(62));
}

#[test]
fn the_end_of_a_message_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("message");
    std::fs::write(&path, "0123456789").unwrap();
    assert_eq!(last_bytes(&path, 4).unwrap(), b"6789");
    assert_eq!(last_bytes(&path, 40).unwrap(), b"0123456789");
    // A huge one costs no more memory.
    std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(last_bytes(&path, 4).unwrap(), b"\0\0\0\0");
}
