//! Three servers: the leader dies, a follower dies, one is cut off, all are killed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]
#![allow(clippy::print_stdout, reason = "what was measured is worth reading")]

use atoll_e2e::{
    Cluster, Output,
    cluster::{binary, free_port, run},
    eventually,
    http::{Load, Origin, Shot, get},
    is_root,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

const MINORITY: &str = "this server sees 1 of 3 servers, a majority is 2";
/// The longest that writes may stand still when the leader dies.
const WRITES_RESUME_MAX: Duration = Duration::from_secs(5);
/// As when any node dies: until its pods are out of the endpoints. 2.5 s is usual; a debug build on
/// a loaded machine takes longer.
const DATA_PATH_MAX: Duration = Duration::from_secs(4);
/// How long a server that was just cut off may leave somebody without an answer: until it knows
/// that it does not lead, and some more for an election that could come.
const REFUSAL_MAX: Duration = Duration::from_secs(6);

#[test]
fn three_servers_outlive_the_death_of_any_one() {
    if !is_root("servers") {
        return;
    }
    let mut cluster = Cluster::start_servers(3, 5);
    let address = cluster.hello();
    let health = cluster.node_health();
    assert_eq!(live_servers(&cluster).len(), 3);
    everything_is_well(&cluster);
    another_is_asked_to_lead(&cluster);
    what_one_is_told_all_do(&cluster);
    let secrets = secrets(&cluster);

    let first = leader(&cluster);
    dies_under_load(&cluster, address, &first);
    let second = leader(&cluster);
    assert_ne!(first, second);
    eventually(Duration::from_secs(10), "its endpoint is gone", || {
        let live = live_servers(&cluster);
        if live.len() == 2 { Ok(()) } else { Err(format!("{live:?}")) }
    });
    unwell_without(&cluster, &first);
    a_new_key_waits_for(&cluster, &first);
    assert_eq!(open_secrets(&cluster), secrets);
    cluster.chaos("heal", &first);
    cluster.node_ready(&first, Duration::from_secs(30));
    eventually(Duration::from_secs(20), "it is a server again", || {
        let live = live_servers(&cluster);
        if live.len() == 3 { Ok(()) } else { Err(format!("{live:?}")) }
    });

    the_new_key_is_the_only_one(&cluster);
    assert_eq!(open_secrets(&cluster), secrets);
    a_minority_refuses_in_words(&cluster, &second);
    let after = cluster.node_health();
    let lost = |node: &String| *node != first && *node != second;
    for (node, since) in health.iter().filter(|(node, _)| lost(node)) {
        let logs = cluster.logs();
        assert_eq!(after.get(node), Some(since), "{node} was lost in between\n{logs}");
    }
    a_node_goes_round_by_way_of_a_follower(&cluster);
    one_that_stands_still_is_passed_over(&cluster);
    all_are_killed(&mut cluster);
    cluster.stop();
}

fn members(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.atoll(&["member", "list", "-o", "json"]).ok()).unwrap()
}

fn leader(cluster: &Cluster) -> String {
    eventually(Duration::from_secs(10), "a server leads", || {
        let members = members(cluster);
        members["leader"].as_str().map(ToOwned::to_owned).ok_or_else(|| members.to_string())
    })
}

/// The endpoints by which pods reach the API.
fn live_servers(cluster: &Cluster) -> BTreeSet<String> {
    let slice = cluster.json(&["endpointslice", "kubernetes"]);
    let endpoints = slice["endpoints"].as_array().cloned().unwrap_or_default();
    endpoints.iter().filter_map(|one| Some(one["addresses"][0].as_str()?.to_owned())).collect()
}

fn everything_is_well(cluster: &Cluster) {
    let said = eventually(Duration::from_secs(20), "everything is well", || {
        let said = cluster.atoll(&["check"]);
        if said.code == 0 { Ok(said.stdout) } else { Err(said.stdout) }
    });
    assert!(said.contains("Everything is well."), "{said}");
    let said = cluster.atoll(&["check", "--output", "json"]).ok();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["store"]["leader"], leader(cluster));
    assert_eq!(said["servers"].as_array().unwrap().len(), 3, "{said}");
    let certificates = said["servers"][0]["machine"]["certificates"].as_array().unwrap();
    let names: Vec<_> = certificates.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["peer authority", "etcd authority", "peer of the other servers"], "{said}");
    let dir = cluster.dir.display().to_string();
    cluster.atoll(&["check", "--data-dir", &dir]).ok();
}

/// As before the maintenance of a machine.
fn another_is_asked_to_lead(cluster: &Cluster) {
    let other = if leader(cluster) == "node-3" { "node-2" } else { "node-3" };
    let said = cluster.atoll(&["member", "lead", other]).ok();
    assert_eq!(said.trim(), format!("member/{other} is asked to lead"));
    eventually(Duration::from_secs(10), "it leads", || {
        let leader = leader(cluster);
        if leader == other { Ok(()) } else { Err(leader) }
    });
    let said = cluster.atoll(&["member", "promote", other]).ok();
    assert_eq!(said.trim(), format!("member/{other} has a vote"));
    for action in ["lead", "promote"] {
        let refused = cluster.atoll(&["member", action, "node-9"]).fails();
        assert!(refused.contains("node-9"), "{refused}");
    }
}

fn unwell_without(cluster: &Cluster, dead: &str) {
    let said = cluster.atoll(&["check"]);
    assert_eq!(said.code, 1, "{said:?}");
    for expected in [
        format!("server/{dead}: it does not answer at https://"),
        format!("node/{dead}: it is not ready"),
    ] {
        assert!(said.stdout.contains(&expected), "{expected}: {}", said.stdout);
    }
    // The two that are left need each other.
    let other = leader(cluster);
    let refused = cluster.atoll(&["member", "remove", &other]).fails();
    assert!(refused.contains("of which 1 are there now, and 2 are needed"), "{refused}");
}

fn dies_under_load(cluster: &Cluster, address: SocketAddr, leader: &str) {
    let writes = Writes::start(cluster, 50);
    let load = Load::start_patient(&Origin::Host, address, "/", 200, 64, Duration::from_secs(1));
    let begun = Instant::now();
    sleep(Duration::from_secs(2));
    // It dies while a new key for Secrets goes round.
    cluster.kubectl(&ROTATE).ok();
    cluster.chaos("kill", leader);
    let killed = begun.elapsed();
    cluster.ready_elsewhere("app=hello", leader, 5, Duration::from_secs(30));
    sleep(Duration::from_secs(2));
    let shots = load.stop();
    let failed: Vec<&Shot> = shots.iter().filter(|shot| shot.result.is_err()).collect();
    let last = failed.iter().map(|shot| shot.at).max().unwrap_or_default();
    println!(
        "{} of {} requests failed, the last {last:?}; killed at {killed:?}",
        failed.len(),
        shots.len()
    );
    assert!(last < killed + DATA_PATH_MAX, "requests failed until {last:?}, killed at {killed:?}");
    let (acknowledged, asked, gap) = writes.stop();
    println!("{} of {asked} writes acknowledged, the longest pause {gap:?}", acknowledged.len());
    assert!(gap < WRITES_RESUME_MAX, "writes stood still for {gap:?}");
    let names = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    let there: BTreeSet<&str> =
        names.lines().filter_map(|name| name.strip_prefix("configmap/")).collect();
    let lost: Vec<&String> =
        acknowledged.iter().filter(|name| !there.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

/// Creates ConfigMaps at a steady rate, through `kubectl proxy`, which keeps connections as
/// clients do.
struct Writes {
    proxy: Child,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    done: Arc<Mutex<Vec<(Instant, String)>>>,
    /// How many were tried.
    number: Arc<AtomicUsize>,
}

const WRITERS: u32 = 25;

impl Writes {
    fn start(cluster: &Cluster, per_second: u32) -> Self {
        let port = free_port();
        let mut proxy = Command::new("kubectl");
        proxy.arg("--kubeconfig").arg(cluster.kubeconfig());
        proxy
            .args(["proxy", "--accept-hosts", ".*", "--port", &port.to_string()])
            .stdout(Stdio::null());
        let proxy = proxy.spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(Duration::from_secs(10), "the proxy answers", || get(address, "/version"));
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let number = Arc::new(AtomicUsize::new(0));
        let gap = Duration::from_secs(1) * WRITERS / per_second;
        let workers = (0..WRITERS).map(|index| {
            let (stop, done, number) = (stop.clone(), done.clone(), number.clone());
            std::thread::spawn(move || {
                sleep(gap * index / WRITERS);
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let name = format!("w-{}", number.fetch_add(1, Ordering::Relaxed));
                    if create(address, &name).is_ok() {
                        done.lock().unwrap().push((Instant::now(), name));
                    }
                    sleep(gap.saturating_sub(begun.elapsed()));
                }
            })
        });
        Self { proxy, workers: workers.collect(), stop, done, number }
    }

    /// What was acknowledged, of how many, and the longest time without an acknowledgement.
    fn stop(mut self) -> (Vec<String>, usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.join().unwrap();
        }
        self.proxy.kill().unwrap();
        self.proxy.wait().unwrap();
        let mut done = std::mem::take(&mut *self.done.lock().unwrap());
        done.sort();
        let pauses = done.windows(2).map(|pair| pair[1].0.duration_since(pair[0].0));
        let longest = pauses.max().unwrap_or(Duration::MAX);
        let names = done.into_iter().map(|(_, name)| name).collect();
        (names, self.number.load(Ordering::Relaxed), longest)
    }
}

fn create(address: SocketAddr, name: &str) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let patience = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address, patience).map_err(text)?;
    stream.set_read_timeout(Some(patience)).map_err(text)?;
    let object = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"written":"here"}}}}}}"#
    );
    let request = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{object}",
        object.len()
    );
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(text)?;
    if answer.starts_with("HTTP/1.1 201") { Ok(()) } else { Err(answer) }
}

/// kubectl that asks this one server, from inside of its own node.
fn at<'a>(cluster: &'a Cluster, server: &str) -> impl Fn(&[&str]) -> Output + use<'a> {
    let members = members(cluster);
    let members = members["members"].as_array().unwrap();
    let url = members.iter().find(|one| one["name"] == server).unwrap();
    let url = format!("--server={}", url["clientUrls"][0].as_str().unwrap());
    let netns = format!("--net={}", cluster.netns(server).display());
    move |arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args([&netns, "kubectl", &url, "--kubeconfig"]).arg(cluster.kubeconfig());
        command.args(arguments);
        run(command, "")
    }
}

const POLICY: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: few-lights}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [harbour.example.com], apiVersions: ["*"], operations: [CREATE], resources: [lanterns]}
  validations: [{expression: object.spec.lights < 9, message: too bright}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: few-lights}
spec: {policyName: few-lights, validationActions: [Deny]}
"#;

/// A definition and a policy that one server was told of hold on the others at once.
fn what_one_is_told_all_do(cluster: &Cluster) {
    let doors = ["node-1", "node-2", "node-3"].map(|name| at(cluster, name));
    let path = "/apis/harbour.example.com/v1/namespaces/default/lanterns";
    cluster.apply(include_str!("clients/chart/crds/lanterns.yaml"));
    let begun = Instant::now();
    for door in &doors {
        eventually(Duration::from_secs(5), "the definition is served", || {
            let got = door(&["get", "--raw", path]);
            if got.code == 0 { Ok(()) } else { Err(got.stderr) }
        });
    }
    println!("a definition was served by three servers after {:?}", begun.elapsed());
    cluster.apply(POLICY);
    let bright = cluster.dir.with_extension("bright.json");
    let lantern = r#"{"apiVersion": "harbour.example.com/v1", "kind": "Lantern",
        "metadata": {"generateName": "l-"}, "spec": {"lights": 9}}"#;
    std::fs::write(&bright, lantern).unwrap();
    let create = ["create", "-f", bright.to_str().unwrap(), "--dry-run=server"];
    let begun = Instant::now();
    for door in &doors {
        eventually(Duration::from_secs(5), "the policy holds", || {
            let tried = door(&create);
            if tried.stderr.contains("too bright") { Ok(()) } else { Err(format!("{tried:?}")) }
        });
    }
    println!("a policy held on three servers after {:?}", begun.elapsed());
}

const SECRETS: usize = 300;

/// Makes many, and gives what they hold.
fn secrets(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let secret = |number| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"s-{number}"}},"stringData":{{"n":"{number}"}}}}"#
        )
    };
    let all: Vec<String> = (0..SECRETS).map(secret).collect();
    let list = format!(r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#, all.join(","));
    cluster.kubectl_with(&["create", "-f", "-"], &list).ok();
    let open = open_secrets(cluster);
    assert_eq!(open.len(), SECRETS);
    open
}

fn open_secrets(cluster: &Cluster) -> BTreeSet<(String, String)> {
    let list = cluster.json(&["secrets"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items.map(|one| (text(&one["metadata"]["name"]), text(&one["data"]["n"]))).collect()
}

fn sealing(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.atoll(&["secrets", "status", "-o", "json"]).ok()).unwrap()
}

const ROTATE: [&str; 5] = ["create", "--raw", "/atoll/v1/secrets/rotate-key", "-f", "/dev/null"];

fn a_new_key_waits_for(cluster: &Cluster, dead: &str) {
    eventually(Duration::from_secs(20), "the others wait for the one that is dead", || {
        let stand = sealing(cluster);
        if stand["rotation"].is_null() {
            // It was done before the server died.
            cluster.kubectl(&ROTATE);
        }
        let waits = stand["rotation"]["waitsFor"] == serde_json::json!([dead]);
        if waits { Ok(()) } else { Err(stand.to_string()) }
    });
    let said = cluster.atoll(&["secrets", "status"]).ok();
    assert!(said.contains(&format!("(waiting for {dead})")), "{said}");
}

fn the_new_key_is_the_only_one(cluster: &Cluster) {
    let said = cluster.atoll(&["secrets", "rotate-key"]).ok();
    assert!(said.ends_with("is in use, the former ones are dropped\n"), "{said}");
    let stand = sealing(cluster);
    let servers = stand["servers"].as_array().unwrap();
    assert_eq!((servers.len(), &stand["rotation"]), (3, &Value::Null), "{stand}");
    for server in servers {
        assert_eq!(server["keys"], serde_json::json!([stand["key"]]), "{stand}");
    }
}

/// Isolates a server and asks it from inside of its own node.
fn a_minority_refuses_in_words(cluster: &Cluster, server: &str) {
    cluster.kubectl(&["create", "configmap", "known", "--from-literal=a=b"]).ok();
    let inside = at(cluster, server);
    cluster.chaos("isolate", server);
    // It led, and has the write in its log before it knows that nobody else will.
    let begun = Instant::now();
    let unknown = inside(&["create", "configmap", "never"]).fails();
    println!("a write to a leader that was just cut off: {unknown} after {:?}", begun.elapsed());
    assert!(
        unknown.contains("the write may have happened") || unknown.contains(MINORITY),
        "{unknown}"
    );
    assert!(begun.elapsed() < REFUSAL_MAX, "{:?}", begun.elapsed());
    eventually(Duration::from_secs(15), "the others go on", || {
        let made = cluster.kubectl(&["create", "configmap", "later"]);
        if made.code == 0 { Ok(()) } else { Err(made.stderr) }
    });
    let begun = Instant::now();
    let refused = inside(&["create", "configmap", "never"]).fails();
    assert!(refused.contains(MINORITY), "{refused}");
    assert!(begun.elapsed() < REFUSAL_MAX, "{:?}", begun.elapsed());
    let refused = inside(&["get", "configmap", "known"]).fails();
    assert!(refused.contains("ServiceUnavailable") && refused.contains(MINORITY), "{refused}");
    let refused = inside(&["get", "--raw", "/readyz"]).fails();
    assert!(refused.contains(MINORITY), "{refused}");
    let path = "/api/v1/namespaces/default/configmaps/known?resourceVersion=0";
    let stale = inside(&["get", "--raw", path]);
    assert!(stale.stderr.contains("what it shows may be stale"), "{stale:?}");
    assert!(stale.ok().contains(r#""a":"b""#));
    cluster.chaos("heal", server);
    cluster.node_ready(server, Duration::from_secs(30));
    eventually(Duration::from_secs(20), "it knows what happened meanwhile", || {
        let seen = inside(&["get", "configmap", "later"]);
        if seen.code == 0 { Ok(()) } else { Err(seen.stderr) }
    });
    let seen = cluster.kubectl(&["get", "configmap", "never"]);
    assert!(seen.fails().contains("NotFound"), "what was refused was done");
}

/// A node that reaches servers, but not the one that leads and judges.
fn a_node_goes_round_by_way_of_a_follower(cluster: &Cluster) {
    let health = cluster.node_health();
    let leader = leader(cluster);
    let members = members(cluster);
    let members = members["members"].as_array().unwrap();
    let url = members.iter().find(|one| one["name"] == leader.as_str()).unwrap();
    let url = url["clientUrls"][0].as_str().unwrap();
    let address = url.trim_start_matches("https://").split(':').next().unwrap();
    let rules = format!(
        "table ip cut {{
            chain in {{ type filter hook prerouting priority -400; ip saddr {address} drop; }}
            chain out {{ type filter hook output priority -400; ip daddr {address} drop; }}
        }}"
    );
    let in_node = |words: &[&str], input: &str| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", cluster.netns("node-5").display())).args(words);
        run(command, input).ok();
    };
    in_node(&["nft", "-f", "-"], &rules);
    // Three times what a silent node has.
    sleep(Duration::from_secs(6));
    let meanwhile = cluster.node_health();
    in_node(&["nft", "delete", "table", "ip", "cut"], "");
    assert_eq!(meanwhile, health, "{}", cluster.logs());
}

/// Its process stands still, and its sockets go on accepting.
fn one_that_stands_still_is_passed_over(cluster: &Cluster) {
    let health = cluster.node_health();
    let stopped = leader(cluster);
    let pid = Pid::from_raw(server_pid(cluster, &stopped)).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let begun = Instant::now();
    let made = cluster.kubectl(&["create", "configmap", "meanwhile", "--request-timeout=10s"]);
    println!("a write while {stopped} stands still took {:?}", begun.elapsed());
    sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    kill_process(pid, Signal::CONT).unwrap();
    made.ok();
    cluster.kubectl(&["get", "configmap", "meanwhile"]).ok();
    eventually(Duration::from_secs(20), "it is a server again", || {
        let live = live_servers(cluster);
        if live.len() == 3 { Ok(()) } else { Err(format!("{live:?}")) }
    });
    assert_eq!(cluster.node_health(), health, "{}", cluster.logs());
}

fn server_pid(cluster: &Cluster, node: &str) -> i32 {
    let name = format!("--name\0{node}\0");
    let of_node = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&name)
    };
    cluster.pids("server --data-dir").into_iter().find(of_node).unwrap()
}

/// kill -9 of every server and of the supervisor at once.
fn all_are_killed(cluster: &mut Cluster) {
    let servers = cluster.pids("server --data-dir");
    assert_eq!(servers.len(), 3);
    cluster.kill();
    for pid in servers {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
    }
    assert!(binary().exists());
    cluster.launch();
    cluster.kubectl(&["get", "configmap", "known", "later"]).ok();
    cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
    assert_eq!(live_servers(cluster).len(), 3);
}
