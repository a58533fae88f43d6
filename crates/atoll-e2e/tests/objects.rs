//! Objects through kubectl against a one-node cluster: what a first hour with it does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, is_root};

#[test]
fn kubectl_creates_shows_changes_and_deletes() {
    if !is_root("objects") {
        return;
    }
    let cluster = Cluster::start(1);
    namespaces_and_config_maps(&cluster);
    conflicts_and_refusals(&cluster);
    server_side_apply(&cluster);
    watches(&cluster);
}

fn namespaces_and_config_maps(cluster: &Cluster) {
    let created = cluster.kubectl(&["create", "namespace", "shop"]).ok();
    assert_eq!(created, "namespace/shop created\n");
    let created = cluster
        .kubectl(&["-n", "shop", "create", "configmap", "colours", "--from-literal=sky=blue"])
        .ok();
    assert_eq!(created, "configmap/colours created\n");
    let sky =
        cluster.kubectl(&["-n", "shop", "get", "cm", "colours", "-o", "jsonpath={.data.sky}"]).ok();
    assert_eq!(sky, "blue");
    let table = cluster.kubectl(&["-n", "shop", "get", "cm", "colours", "--no-headers"]).ok();
    assert!(table.starts_with("colours   1"), "{table}");
    cluster.kubectl(&["-n", "shop", "label", "cm", "colours", "team=paint"]).ok();
    let found =
        cluster.kubectl(&["-n", "shop", "get", "cm", "-l", "team=paint", "-o", "name"]).ok();
    assert_eq!(found, "configmap/colours\n");
    cluster
        .kubectl(&[
            "-n",
            "shop",
            "patch",
            "cm",
            "colours",
            "--type=json",
            "-p",
            r#"[{"op":"add","path":"/data/sea","value":"green"}]"#,
        ])
        .ok();
    let described = cluster.kubectl(&["-n", "shop", "describe", "cm", "colours"]).ok();
    assert!(described.contains("green") && described.contains("team=paint"), "{described}");
    cluster.kubectl(&["delete", "namespace", "shop", "--timeout=60s"]).ok();
    let gone = cluster.kubectl(&["get", "namespace", "shop"]).fails();
    assert!(gone.contains(r#"namespaces "shop" not found"#), "{gone}");
}

fn conflicts_and_refusals(cluster: &Cluster) {
    cluster.kubectl(&["create", "configmap", "one"]).ok();
    let again = cluster.kubectl(&["create", "configmap", "one"]).fails();
    assert!(again.contains(r#"configmaps "one" already exists"#), "{again}");
    let manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: -1, foo: 1}\n";
    let refused = cluster.kubectl_with(&["apply", "-f", "-"], manifest).fails();
    assert!(refused.contains(r#"unknown field "spec.foo""#), "{refused}");
    let manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Bad_Name}\n";
    let refused = cluster.kubectl_with(&["create", "-f", "-"], manifest).fails();
    assert!(refused.contains("a lowercase RFC 1123 subdomain must consist of"), "{refused}");
    let refused = cluster.kubectl(&["--as=nobody", "get", "secrets"]).fails();
    assert!(
        refused.contains(r#"User "nobody" cannot list resource "secrets" in API group "" in the namespace "default""#),
        "{refused}"
    );
}

fn server_side_apply(cluster: &Cluster) {
    let manifest = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: owned}}\ndata: {{key: {value}}}\n"
        )
    };
    let apply = |manager: &str, value: &str, more: &[&str]| {
        let manager = format!("--field-manager={manager}");
        let mut arguments = vec!["apply", "--server-side", &manager, "-f", "-"];
        arguments.extend(more);
        cluster.kubectl_with(&arguments, &manifest(value))
    };
    assert_eq!(apply("first", "a", &[]).ok(), "configmap/owned serverside-applied\n");
    let conflict = apply("second", "b", &[]).fails();
    assert!(
        conflict.contains("conflict with \"first\"") && conflict.contains(".data.key"),
        "{conflict}"
    );
    apply("second", "b", &["--force-conflicts"]).ok();
    let object = cluster.json(&["configmap", "owned", "--show-managed-fields"]);
    assert_eq!(object["data"]["key"], "b");
    let managers: Vec<&str> = object["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["manager"].as_str().unwrap())
        .collect();
    assert!(managers.contains(&"second"), "{managers:?}");
}

fn watches(cluster: &Cluster) {
    let reader = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            cluster.kubectl(&["get", "configmaps", "-w", "-o", "name", "--request-timeout=8s"])
        });
        std::thread::scope(|_| {
            for index in 0..3 {
                let name = format!("watched-{index}");
                cluster.kubectl(&["create", "configmap", &name]).ok();
            }
        });
        reader.join().unwrap()
    });
    for index in 0..3 {
        assert!(reader.stdout.contains(&format!("configmap/watched-{index}")), "{}", reader.stdout);
    }
}
