//! One pod with every kind of volume that the agent writes, the same as another user, and pods
//! whose volumes cannot be had.

use super::{UPDATE_MAX, WITHIN, inside, prints};
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use serde_json::{Value, json};

/// Upstream's own number.
const MANY: usize = 50;

pub(crate) fn apply(cluster: &Cluster) {
    cluster.apply(include_str!("wide.yaml"));
}

pub(crate) fn check(cluster: &Cluster) {
    for pod in ["wide", "group"] {
        cluster.pod_becomes(pod, WITHIN, |pod| is_ready(pod).then_some(()));
    }
    config_maps(cluster);
    secrets(cluster);
    projected(cluster);
    downward(cluster);
    empty_dirs(cluster);
    another_user(cluster);
    sub_paths(cluster);
    expressions(cluster);
    optional(cluster);
    updates(cluster);
    csi(cluster);
    many(cluster);
}

/// The modes of files, as the container sees them.
fn modes(cluster: &Cluster, pod: &str, files: &str, expected: &str) {
    prints(cluster, pod, &format!("stat -L -c '%a %u:%g' {files}"), expected);
}

fn config_maps(cluster: &Cluster) {
    prints(cluster, "wide", "cat /map/one /map/two /map-again/path/to/two", "122");
    prints(cluster, "wide", "od -An -tx1 /map/raw", " ff 00 fe\n");
    modes(cluster, "wide", "/map/one /map-again/path/to/two", "644 0:0\n400 0:0\n");
}

fn secrets(cluster: &Cluster) {
    prints(cluster, "wide", "cat /secret/one /secret/two", "s1s2");
    prints(cluster, "wide", "cat /secret-again/one /secret-again/path/to/two", "s1s2");
    modes(
        cluster,
        "wide",
        "/secret/one /secret-again/one /secret-again/path/to/two",
        "400 0:0\n644 0:0\n400 0:0\n",
    );
}

fn projected(cluster: &Cluster) {
    prints(cluster, "wide", "cat /p-map/one /p-map/two", "12");
    prints(cluster, "wide", "cat /p-map-again/one /p-map-again/path/to/two", "12");
    prints(cluster, "wide", "cat /p-secret/one /p-secret/two", "s1s2");
    prints(cluster, "wide", "cat /p-secret-again/one /p-secret-again/path/to/two", "s1s2");
    for kind in ["map", "secret"] {
        let files = format!("/p-{kind}/one /p-{kind}-again/one /p-{kind}-again/path/to/two");
        modes(cluster, "wide", &files, "400 0:0\n644 0:0\n400 0:0\n");
    }
    prints(cluster, "wide", "cat /p-all/map /p-all/path/to/secret /p-all/name", "1s1wide");
    prints(cluster, "wide", "ls /p-all", "map\nname\npath\ntoken\n");
}

fn downward(cluster: &Cluster) {
    let node = cluster.json(&["nodes"])["items"][0]["status"]["allocatable"].clone();
    let amount = |name: &str| node[name].as_str().unwrap();
    let cpu: u64 = amount("cpu").parse().unwrap();
    let memory: u64 = amount("memory").trim_end_matches("Ki").parse().unwrap();
    for folder in ["/down", "/p-down"] {
        for (file, expected) in [
            ("name", "wide".to_owned()),
            ("labels", "app=\"wide\"".to_owned()),
            ("cpu-limit", "2".to_owned()),
            ("memory-limit", (64 << 20).to_string()),
            ("cpu-request", "1".to_owned()),
            ("memory-request", (32 << 20).to_string()),
            ("default-cpu", (cpu * 1000).to_string()),
            ("default-memory", (memory * 1024).to_string()),
        ] {
            prints(cluster, "wide", &format!("cat {folder}/{file}"), &expected);
        }
        let note = inside(cluster, "wide", &format!("cat {folder}/annotations")).ok();
        assert!(note.lines().any(|line| line == "note=\"first\""), "{note}");
        let files = format!("{folder}/name {folder}/memory-request");
        modes(cluster, "wide", &files, "440 0:0\n400 0:0\n");
    }
}

/// In both media, by root and by another user; what one container writes another one reads.
fn empty_dirs(cluster: &Cluster) {
    for (pod, owner, folders) in
        [("wide", "0:0", ["/default", "/memory"]), ("plain", "1000:1000", ["/empty", "/memory"])]
    {
        for folder in folders {
            modes(cluster, pod, folder, "777 0:0\n");
            for mode in ["644", "666", "777"] {
                let file = format!("{folder}/{mode}");
                let write = format!("umask 0; echo text > {file} && chmod {mode} {file}");
                prints(cluster, pod, &format!("{write} && cat {file}"), "text\n");
                modes(cluster, pod, &file, &format!("{mode} {owner}\n"));
            }
        }
        prints(cluster, pod, "stat -f -c %T /memory", "tmpfs\n");
    }
    let shared = cluster.kubectl(&["exec", "wide", "-c", "free", "--", "cat", "/default/644"]);
    assert_eq!(shared.ok(), "text\n");
}

fn another_user(cluster: &Cluster) {
    prints(cluster, "group", "id -u; cat /secret/one /p-secret/one", "1000\ns1s1");
    modes(cluster, "group", "/secret/one /p-secret/one", "440 0:1001\n440 0:1001\n");
    prints(cluster, "group", "cat /p-map/one /p-map/path/to/two", "12");
    modes(cluster, "group", "/memory", "2777 0:1001\n");
    prints(cluster, "group", "touch /memory/x && stat -c '%u:%g' /memory/x", "1000:1001\n");
}

fn sub_paths(cluster: &Cluster) {
    prints(cluster, "wide", "cat /sub/secret /sub/projected /sub/down", "s1s1wide");
    // Files that the image or the node has there already.
    prints(cluster, "wide", "cat /etc/resolv.conf", "1");
    let hosts = cluster.kubectl(&["exec", "wide", "-c", "free", "--", "cat", "/etc/hosts"]);
    assert_eq!(hosts.ok(), "2");
}

fn expressions(cluster: &Cluster) {
    for (pod, words) in [
        ("absolute", "error SubPath `/tmp` must not be an absolute path"),
        ("upwards", "unable to provision SubPath `..`: must not contain '..'"),
        ("mended", "missing value for NOTE"),
    ] {
        let waiting = cluster.pod_becomes(pod, WITHIN, |pod| {
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            (waiting["reason"] == "CreateContainerConfigError").then(|| waiting.clone())
        });
        assert_eq!(waiting["message"], words);
        cluster.event(pod, &format!("Failed: Error: {words}"));
    }
    cluster.kubectl(&["annotate", "pod", "mended", "path=one"]).ok();
    cluster.pod_becomes("mended", UPDATE_MAX, |pod| is_ready(pod).then_some(()));
    prints(cluster, "mended", "touch /whole/one/foo/x && ls /v", "x\n");
    // What it led to once is enough for the pod to go on and to go.
    cluster.kubectl(&["annotate", "pod", "mended", "path-"]).ok();
    assert!(is_ready(&cluster.json(&["pod", "mended"])));
    cluster.kubectl(&["delete", "pod", "mended", "absolute", "upwards", "--timeout=20s"]).ok();
}

/// Objects that a volume may lack go, change and come.
fn optional(cluster: &Cluster) {
    for kind in ["configmap", "secret"] {
        cluster.kubectl(&["delete", kind, "goes"]).ok();
        let create = if kind == "secret" { vec!["secret", "generic"] } else { vec![kind] };
        let word = if kind == "secret" { "secret" } else { "map" };
        let literal = format!("--from-literal=k={word}-new");
        cluster.kubectl(&[&["create"], &create[..], &["comes", literal.as_str()]].concat()).ok();
        let field = if kind == "secret" { "stringData" } else { "data" };
        let mut patch = json!({});
        patch[field]["k"] = format!("{word}-new").into();
        cluster.kubectl(&["patch", kind, "changes", "-p", &patch.to_string()]).ok();
    }
    let script = "for k in map secret; do ls /$k-goes; cat /$k-changes/k /$k-comes/k; done; \
                  cd /p-optional; ls; cat *";
    let new = "map-newmap-newsecret-newsecret-new";
    let files = "map-changes\nmap-comes\nsecret-changes\nsecret-comes\n";
    let expected = format!("{new}{files}{new}");
    eventually(UPDATE_MAX, "optional objects go, change and come", || {
        let found = inside(cluster, "wide", script).stdout;
        if found == expected { Ok(()) } else { Err(found) }
    });
}

fn updates(cluster: &Cluster) {
    cluster.kubectl(&["patch", "configmap", "words", "-p", r#"{"data":{"one":"new"}}"#]).ok();
    cluster.kubectl(&["label", "pod", "wide", "more=1"]).ok();
    cluster.kubectl(&["annotate", "--overwrite", "pod", "wide", "note=second"]).ok();
    let script = "cat /p-map/one /p-all/map; cat /down/labels /p-down/labels | grep -c more; \
                  cat /down/annotations /p-down/annotations | grep -c second";
    eventually(UPDATE_MAX, "changes arrive", || {
        let found = inside(cluster, "wide", script).stdout;
        if found == "newnew2\n2\n" { Ok(()) } else { Err(found) }
    });
}

/// The pod stands in the API as any other, and waits on its node for the driver.
fn csi(cluster: &Cluster) {
    let volumes = cluster.json(&["pod", "csi"])["spec"]["volumes"].clone();
    assert_eq!(volumes[0]["csi"], json!({"driver": "e2e.example.com"}));
    let expected = json!({"driver": "e2e.example.com", "fsType": "ext4", "readOnly": true});
    assert_eq!(volumes[1]["csi"], expected);
    cluster.event(
        "csi",
        "FailedMount: MountVolume.SetUp failed for volume \"a\" : kubernetes.io/csi: \
         mounter.SetUpAt failed to get CSI client: driver name e2e.example.com not found in the \
         list of registered CSI drivers",
    );
    let pod = cluster.json(&["pod", "csi"]);
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    assert_eq!(
        (&pod["status"]["phase"], &waiting["reason"]),
        (&Value::from("Pending"), &Value::from("ContainerCreating"),)
    );
    let patch = r#"{"metadata":{"annotations":{"patched":"true"}}}"#;
    cluster.kubectl(&["patch", "pod", "csi", "--type=merge", "-p", patch]).ok();
    assert_eq!(cluster.json(&["pod", "csi"])["metadata"]["annotations"]["patched"], "true");
    cluster.kubectl(&["delete", "pod", "csi", "--timeout=20s"]).ok();
}

/// Fifty volumes a pod, in five pods that start at once.
fn many(cluster: &Cluster) {
    let name = |index: usize| format!("many-{index}");
    let maps = (0..MANY).map(|index| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name(index)},
            "data": {"k": index.to_string()}})
    });
    let volumes: Vec<Value> = (0..MANY)
        .map(|index| json!({"name": name(index), "configMap": {"name": name(index)}}))
        .collect();
    let mounts: Vec<Value> = (0..MANY)
        .map(|index| json!({"name": name(index), "mountPath": format!("/many/{index}")}))
        .collect();
    let pods = json!({"apiVersion": "v1", "kind": "ReplicationController",
        "metadata": {"name": "many"}, "spec": {"replicas": 5, "selector": {"app": "many"},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": {
                "terminationGracePeriodSeconds": 1, "volumes": volumes,
                "containers": [{"name": "c", "image": "test.local/busybox:1",
                    "command": ["sleep", "1000"], "volumeMounts": mounts}]}}}});
    let items: Vec<Value> = maps.chain([pods]).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    cluster.apply(&list.to_string());
    let pods = cluster.pods_ready("app=many", 5, WITHIN);
    let expected: String = (0..MANY).map(|index| index.to_string()).collect();
    let script = format!("for i in $(seq 0 {}); do cat /many/$i/k; done", MANY - 1);
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        prints(cluster, name, &script, &expected);
        let events = cluster.events(name);
        assert!(!events.iter().any(|event| event.starts_with("FailedMount")), "{events:#?}");
    }
    cluster.kubectl(&["delete", "rc", "many", "--wait=false"]).ok();
}
