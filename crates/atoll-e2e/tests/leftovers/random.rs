//! Objects come and go while processes, nodes and the supervisor are killed, at random.
//!
//! `ATOLL_CYCLES` says how many steps (40), `ATOLL_SEED` which.

use super::as_before;
use atoll_e2e::{Cluster, eventually, is_root, system};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const CYCLES: u64 = 40;
const NODES: u32 = 3;
const NAMES: u64 = 6;

#[test]
fn random_cycles_leave_nothing() {
    if !is_root("leftovers") {
        return;
    }
    let cycles = number("ATOLL_CYCLES").unwrap_or(CYCLES);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("ATOLL_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("{cycles} cycles with ATOLL_SEED={seed}");
    let begun = Instant::now();
    let before = system::state();
    let mut cluster = Cluster::start(NODES);
    let empty = settled(&cluster);
    let mut chance = Chance(seed | 1);
    for cycle in 0..cycles {
        let what = step(&mut cluster, &mut chance);
        println!("{cycle:>4} at {:>5.1} s: {what}", begun.elapsed().as_secs_f32());
    }
    for index in 1..=NODES {
        cluster.chaos("heal", &format!("node-{index}"));
    }
    all_deleted(&cluster);
    eventually(Duration::from_secs(60), "the empty cluster is as it was", || {
        let difference = system::difference(&empty, &system::inside(&cluster.dir));
        if difference.is_empty() { Ok(()) } else { Err(difference.join("\n")) }
    });
    cluster.stop();
    as_before(&before);
    println!("{cycles} cycles took {:.0} s", begun.elapsed().as_secs_f32());
}

/// A cluster that has just begun may still be writing its first rules.
fn settled(cluster: &Cluster) -> BTreeSet<String> {
    let service = cluster.json(&["service", "kubernetes"]);
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    eventually(Duration::from_secs(20), "the new cluster settles", || {
        let first = system::inside(&cluster.dir);
        std::thread::sleep(Duration::from_millis(500));
        let second = system::inside(&cluster.dir);
        for index in 1..=NODES {
            let rules = format!("node-{index} rule:");
            if !second.iter().any(|line| line.starts_with(&rules) && line.contains(address)) {
                return Err(format!("node-{index} has no rule for {address}"));
            }
        }
        let difference = system::difference(&first, &second);
        if difference.is_empty() { Ok(second) } else { Err(difference.join("\n")) }
    })
}

fn all_deleted(cluster: &Cluster) {
    let kinds = "deployments,services,pods";
    cluster.kubectl(&["delete", kinds, "-l", "random", "--wait=false"]).ok();
    eventually(Duration::from_secs(90), "all pods are gone", || {
        let shown = cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]);
        if shown.stdout.is_empty() {
            return Ok(());
        }
        Err(format!("{}\n{}", shown.stdout, cluster.logs()))
    });
    eventually(Duration::from_secs(30), "all nodes are ready", || {
        let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).stdout;
        let ready = nodes.lines().filter(|line| line.contains(" Ready ")).count();
        if ready == NODES as usize { Ok(()) } else { Err(nodes) }
    });
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// The same numbers for the same seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn node(&mut self) -> String {
        format!("node-{}", 1 + self.below(u64::from(NODES)))
    }
}

/// One thing that happens; returns what.
fn step(cluster: &mut Cluster, chance: &mut Chance) -> String {
    let name = format!("random-{}", chance.below(NAMES));
    match chance.below(20) {
        0..5 => {
            let replicas = 1 + chance.below(4);
            apply(cluster, &deployment(&name, replicas));
            format!("apply deployment {name} with {replicas}")
        }
        5..8 => {
            apply(cluster, &pod(&name));
            format!("apply pod {name}")
        }
        8 => {
            let replicas = chance.below(5).to_string();
            let words = ["scale", "deployment", &name, "--replicas", &replicas];
            let found = cluster.kubectl(&words).code == 0;
            format!("scale {name} to {replicas}: {found}")
        }
        9 => {
            cluster.kubectl(&["delete", "deployment,service", &name, "--wait=false"]);
            format!("delete deployment {name}")
        }
        10 => {
            cluster.kubectl(&["delete", "pod", &name, "--wait=false"]);
            format!("delete pod {name}")
        }
        11 => {
            cluster.kubectl(&["delete", "pods", "-l", "random", "--force", "--grace-period=0"]);
            "delete all pods with force".to_owned()
        }
        12 | 13 => kill(cluster, chance, "agent --join"),
        14 => kill(cluster, chance, "shim"),
        15 => kill(cluster, chance, "hello"),
        16 => {
            let server = kill(cluster, chance, "server --data-dir");
            let dns = kill(cluster, chance, "dns --listen");
            format!("{server}; {dns}")
        }
        17 => {
            cluster.kill();
            cluster.launch();
            "kill -9 the supervisor and start it again".to_owned()
        }
        18 => {
            let node = chance.node();
            let action = if node == "node-1" || chance.below(2) == 0 { "isolate" } else { "kill" };
            cluster.chaos(action, &node);
            format!("chaos {action} {node}")
        }
        _ => {
            let node = chance.node();
            cluster.chaos("heal", &node);
            format!("chaos heal {node}")
        }
    }
}

fn apply(cluster: &Cluster, manifest: &str) {
    // A pod of the same name that is being deleted refuses; that is one of the things
    // that happen.
    cluster.kubectl_with(&["apply", "-f", "-"], manifest);
}

fn deployment(name: &str, replicas: u64) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{random: "1"}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}, random: "1"}}}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: hello
        image: atoll.local/hello
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
        volumeMounts: [{{name: scratch, mountPath: /scratch}}]
      volumes: [{{name: scratch, emptyDir: {{medium: Memory}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, labels: {{random: "1"}}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

fn pod(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{random: "1"}}}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - {{name: first, image: atoll.local/hello, command: [/atoll, --version]}}
  containers:
  - {{name: one, image: atoll.local/hello, env: [{{name: PORT, value: "8081"}}]}}
  - {{name: two, image: atoll.local/hello, env: [{{name: PORT, value: "8082"}}]}}
"#
    )
}

/// Kills one of the cluster's processes of a role with -9.
fn kill(cluster: &Cluster, chance: &mut Chance, role: &str) -> String {
    let dir = cluster.dir.canonicalize().unwrap().display().to_string();
    let id = cluster.id();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let text = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&text).replace('\0', " ");
        let of_cluster = words.starts_with(&dir) || in_cgroup_of(&entry.path(), &id);
        if of_cluster && words.contains(&format!("atoll {role}")) {
            found.push(pid);
        }
    }
    if found.is_empty() {
        return format!("no {role} to kill");
    }
    found.sort_unstable();
    let chosen = usize::try_from(chance.below(found.len() as u64)).unwrap();
    let killed = kill_process(Pid::from_raw(found[chosen]).unwrap(), Signal::KILL);
    format!("kill -9 {role}: {killed:?}")
}

fn in_cgroup_of(process: &Path, id: &str) -> bool {
    let text = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
    text.contains(&format!("/atoll/{id}-"))
}
