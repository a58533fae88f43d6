//! Long ways: between kubectl and the API, and between a node and its server.

use crate::Table;
use atoll_e2e::{
    Cluster, eventually,
    forwarder::{End, Forwarder},
    http::Origin,
    image::import_busybox,
    is_root,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::sleep,
    time::{Duration, Instant},
};

/// Each way.
const DELAY: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(20);
const API: u16 = 6443;
const KUBELET: u16 = 10_250;

const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  nodeName: node-2
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: test.local/busybox:1
    command: [sh, -c, "i=0; while true; do i=$((i+1)); echo line $i; sleep 1; done"]
"#;

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// kubectl, as long as it runs, and what it prints line by line.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(cluster: &Cluster, server: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["--server", server]);
        command.args(arguments).env("HOME", cluster.dir.parent().unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                sender.send(line).ok();
            }
        });
        Self { child, lines }
    }

    /// Reads on until a line has these words.
    #[track_caller]
    fn says(&self, words: &str) -> String {
        let deadline = Instant::now() + SOON;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(words) => return line,
                Ok(line) => before.push(line),
                Err(why) => panic!("{words:?}: {why}; before: {before:?}"),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn kubectl_works_far_away() {
    if !is_root("network_faults") {
        return;
    }
    let cluster = Cluster::start(2);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let to = End { place: Origin::Host, address: local(cluster.port) };
    let from = End { place: Origin::Host, address: local(0) };
    let forwarder = Forwarder::start(from, to, DELAY);
    let server = format!("https://{}", forwarder.address);
    let far = |arguments: &[&str]| {
        let mut all = vec!["--server", server.as_str()];
        all.extend(arguments);
        cluster.kubectl(&all)
    };
    let watch = Running::start(&cluster, &server, &["get", "pods", "--watch"]);
    cluster.apply(TALKER);
    watch.says("Running");
    let begun = Instant::now();
    let nodes = far(&["get", "nodes", "--no-headers"]).ok();
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    assert!(begun.elapsed() >= DELAY * 3, "{:?}", begun.elapsed());

    let mut logs = Running::start(&cluster, &server, &["logs", "-f", "talker"]);
    let first = logs.says("line ");
    assert_eq!(first, "line 1");
    // What is written from now on comes as well.
    logs.says("line 8");
    let asked = ["exec", "-i", "talker", "--", "sh", "-c", "read a; echo got $a; exit 7"];
    let mut exec = Running::start(&cluster, &server, &asked);
    exec.child.stdin.take().unwrap().write_all(b"word\n").unwrap();
    exec.says("got word");
    assert_eq!(exec.child.wait().unwrap().code(), Some(7));

    far(&["delete", "pod", "talker"]).ok();
    watch.says("Terminating");
    eventually(SOON, "the logs end with the pod", || match logs.child.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("they go on".to_owned()),
    });
    assert!(forwarder.taken() > 5, "{}", forwarder.taken());
}

/// 200 ms each way, between the agent of node-2 and the server on node-1, whoever asks.
struct Far {
    _tables: [Table; 2],
    to_server: Forwarder,
    to_node: Forwarder,
}

impl Far {
    fn new(cluster: &Cluster) -> Self {
        let (server, node) = (address(cluster, "node-1"), address(cluster, "node-2"));
        let place = |node: &str| Origin::Namespace(cluster.netns(node));
        let end = |node: &str, address| End { place: place(node), address };
        let to_server = end("node-1", SocketAddr::new(server.into(), API));
        let to_node = end("node-2", SocketAddr::new(node.into(), KUBELET));
        let to_server = Forwarder::start(end("node-2", local(0)), to_server, DELAY);
        let to_node = Forwarder::start(end("node-1", local(0)), to_node, DELAY);
        let redirect = |node, address, port, to: u16| {
            let rules = format!(
                "chain out {{\n type nat hook output priority -110\n \
                 ip daddr {address} tcp dport {port} counter redirect to :{to}\n }}"
            );
            Table::add(cluster.netns(node), "e2e_far", &rules)
        };
        let tables = [
            redirect("node-2", server, API, to_server.address.port()),
            redirect("node-1", node, KUBELET, to_node.address.port()),
        ];
        Self { _tables: tables, to_server, to_node }
    }
}

fn address(cluster: &Cluster, node: &str) -> Ipv4Addr {
    let node = cluster.json(&["node", node]);
    let addresses = node["status"]["addresses"].as_array().unwrap();
    let internal = addresses.iter().find(|one| one["type"] == "InternalIP").unwrap();
    internal["address"].as_str().unwrap().parse().unwrap()
}

#[test]
fn a_node_far_away_stays_ready() {
    if !is_root("network_faults") {
        return;
    }
    let cluster = Cluster::start(2);
    import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let far = Far::new(&cluster);
    // Connections that it has do not move.
    for pid in cluster.pids("agent --join").into_iter().chain(cluster.pids("server --data-dir")) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    eventually(SOON, "the agent goes the long way", || match far.to_server.taken() {
        0 => Err("no connection".to_owned()),
        _ => Ok(()),
    });
    cluster.node_ready("node-2", SOON);
    cluster.apply(TALKER);
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/talker", "--timeout=30s"]).ok();
    let health = cluster.node_health();
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(12) {
        assert_eq!(cluster.node_health(), health, "it was taken for lost");
        sleep(Duration::from_millis(500));
    }
    let begun = Instant::now();
    assert_eq!(cluster.kubectl(&["exec", "talker", "--", "echo", "here"]).ok(), "here\n");
    assert!(begun.elapsed() >= DELAY * 2, "{:?}", begun.elapsed());
    assert!(cluster.kubectl(&["logs", "talker", "--tail=1"]).ok().starts_with("line "));
    assert!(far.to_node.taken() > 0, "the server went another way");
    // Far away is not lost; lost is lost. The forwarder would take the server's call.
    drop(far);
    cluster.chaos("kill", "node-2");
    eventually(Duration::from_secs(6), "the node is lost", || {
        let node = cluster.kubectl(&["get", "node", "node-2", "--no-headers"]).ok();
        if node.contains("NotReady") { Ok(()) } else { Err(node) }
    });
}
