//! What a container finds around it: variables, names, addresses, limits, confinement.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready, eventually, http};
use serde_json::{Value, json};
use std::{fs, net::SocketAddr};

const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;

pub(crate) fn apply(cluster: &Cluster) {
    for node in ["node-1", "node-2"] {
        let dir = cluster.dir.join(node).join("seccomp");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("nomkdir.json"), PROFILE).unwrap();
    }
    cluster.apply(include_str!("surroundings.yaml"));
}

pub(crate) fn check(cluster: &Cluster) {
    for pod in ["env", "dns", "host", "port", "confined"] {
        cluster.pod_becomes(pod, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    variables(cluster);
    names(cluster);
    host_namespaces(cluster);
    host_port(cluster);
    limits(cluster);
    confinement(cluster);
    account(cluster);
}

/// The account's token, authority and namespace are files, and the token opens the API.
fn account(cluster: &Cluster) {
    let file = |name: &str| {
        inside(cluster, "env", &format!("cat /var/run/secrets/kubernetes.io/serviceaccount/{name}"))
    };
    assert_eq!(file("namespace"), "default");
    let published = cluster.json(&["configmap", "kube-root-ca.crt"]);
    assert_eq!(file("ca.crt"), published["data"]["ca.crt"].as_str().unwrap());
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
        "spec": { "token": file("token") } });
    let create = ["create", "-f", "-", "-o", "json"];
    let review = cluster.kubectl_with(&create, &review.to_string()).ok();
    let review: Value = serde_json::from_str(&review).unwrap();
    let user = &review["status"]["user"];
    assert_eq!(user["username"], "system:serviceaccount:default:default", "{review}");
    let name = &user["extra"]["authentication.kubernetes.io/pod-name"];
    assert_eq!(name, &json!(["env"]), "{review}");
}

fn logs(cluster: &Cluster, pod: &str, container: &str) -> Vec<String> {
    // Ready says that it runs, not that it has spoken.
    eventually(HOUR_GLASS, &format!("{pod}/{container} says something"), || {
        let text = cluster.kubectl(&["logs", pod, "-c", container]).ok();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() > 1 { Ok(lines) } else { Err(text) }
    })
}

fn inside(cluster: &Cluster, pod: &str, script: &str) -> String {
    cluster.kubectl(&["exec", pod, "--", "sh", "-c", script]).ok()
}

fn variables(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "env"]);
    let ip = pod["status"]["podIP"].as_str().unwrap();
    let node = pod["spec"]["nodeName"].as_str().unwrap();
    let service = cluster.json(&["service", "my-svc"]);
    let service = service["spec"]["clusterIP"].as_str().unwrap();
    let lines = logs(cluster, "env", "c");
    for wanted in [
        "A=a",
        "B=b-a-v",
        "CM=v",
        "CPU=250",
        "HOSTNAME=hh",
        "K_UP=1",
        "K_k=v",
        "LBL=env",
        "CPU_ASKED=100",
        "MEM=10",
        "MEM_MAX=20971520",
        "POD=env",
        "SA=default",
        "SEC=hidden",
        "MY_SVC_SERVICE_PORT_WEB=80",
        "KUBERNETES_SERVICE_PORT=443",
        &format!("IP={ip}"),
        &format!("NODE={node}"),
        &format!("MY_SVC_SERVICE_HOST={service}"),
        &format!("MY_SVC_PORT_80_TCP=tcp://{service}:80"),
        &format!("args a-$(A)-$(NOPE) {service}"),
    ] {
        assert!(lines.iter().any(|line| line == wanted), "{wanted} is not in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.starts_with("OPT=")), "optional and not there");
    let waiting = cluster.pod_becomes("noenv", HOUR_GLASS, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "CreateContainerConfigError").then(|| waiting.clone())
    });
    assert_eq!(waiting["message"], "couldn't find key gone in Secret default/secret");
}

fn names(cluster: &Cluster) {
    let ip = cluster.json(&["pod", "env"])["status"]["podIP"].as_str().unwrap().to_owned();
    let hosts = inside(cluster, "env", "cat /etc/hosts");
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    let own = format!("{ip}\thh.sub.default.svc.cluster.local\thh\n");
    let aliases = "\n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n";
    assert!(hosts.ends_with(&format!("{own}{aliases}")), "{hosts}");
    let resolver = inside(cluster, "env", "cat /etc/resolv.conf");
    let lines: Vec<&str> = resolver.lines().collect();
    assert!(
        lines[0].starts_with("search default.svc.cluster.local svc.cluster.local cluster.local")
    );
    assert!(lines[0].ends_with(" my.dom"), "{resolver}");
    assert_eq!(lines[2..], ["nameserver 9.9.9.9", "options ndots:2 edns0"]);
    assert_eq!(logs(cluster, "dns", "c"), ["search only.this", "nameserver 1.1.1.1"]);
    let found =
        inside(cluster, "env", "hostname; hostname -f; nslookup hh.sub.default.svc.cluster.local");
    assert!(found.starts_with("hh\nhh.sub.default.svc.cluster.local\n"), "{found}");
    assert!(found.contains(&format!("Address: {ip}\n")), "{found}");
    let read = "cd /proc/sys; cat net/ipv4/ip_unprivileged_port_start kernel/shm_rmid_forced";
    assert_eq!(inside(cluster, "env", read), "100\n1\n");
}

fn host_namespaces(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "host"]);
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
    let node = pod["spec"]["nodeName"].as_str().unwrap();
    let own =
        |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
    let expected = ["# Kubernetes-managed hosts file (host network).", &own("ipc"), &own("pid")];
    assert_eq!(logs(cluster, "host", "c"), [&[node], &expected[..]].concat());
}

fn host_port(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "port"]);
    let ip = pod["status"]["hostIP"].as_str().unwrap().parse().unwrap();
    let answer = http::get(SocketAddr::new(ip, 18099), "/").unwrap();
    assert!(answer.starts_with("hello from port on "), "{answer}");
}

fn limits(cluster: &Cluster) {
    let v2 = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max";
    let v1 = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us \
              /sys/fs/cgroup/cpu/cpu.shares";
    let read = inside(cluster, "env", &format!("{v2} 2>/dev/null || {v1}"));
    let wanted = [format!("{}\n25000 100000\n", 20 << 20), format!("{}\n25000\n102\n", 20 << 20)];
    assert!(wanted.contains(&read), "{read}");
    let classes =
        ["env", "dns"].map(|pod| cluster.json(&["pod", pod])["status"]["qosClass"].clone());
    assert_eq!(classes, ["Burstable", "BestEffort"]);
    let lift = "for f in $(find /sys/fs/cgroup -name memory.max -o -name memory.limit_in_bytes); do \
                echo 1000000000 > $f && echo lifted; done 2>/dev/null; true";
    assert_eq!(inside(cluster, "env", lift), "");
}

/// Standard output only, which a container's own order is kept of.
fn confinement(cluster: &Cluster) {
    let said = |container: &str| -> Vec<String> {
        let mut lines = logs(cluster, "confined", container);
        lines.retain(|line| !line.contains(": can't "));
        lines
    };
    let default = said("default");
    let capabilities = ["CapEff:\t00000000a80425fb", "CapEff:\t00000000a00425fb"];
    assert!(capabilities.contains(&default[0].as_str()), "{default:?}");
    let rest =
        ["NoNewPrivs:\t0", "Seccomp:\t0", "uid=0(root) gid=0(root) groups=0(root)", "no", "0"];
    assert_eq!(default[1..], rest);
    let tight = said("tight");
    let expected = [
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "uid=1000(app) gid=77 groups=77,2000(extra)",
        "no",
    ];
    assert_eq!(tight, expected);
    assert_eq!(said("privileged"), ["NoNewPrivs:\t0", "Seccomp:\t0", "mounted"]);
    assert_eq!(said("unconfined"), ["NoNewPrivs:\t0", "Seccomp:\t0"]);
    assert_eq!(said("local"), ["Seccomp:\t2", "no"]);
}
