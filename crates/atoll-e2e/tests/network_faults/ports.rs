//! A port that another pod, another Service or another program has.

use atoll_e2e::{
    Cluster,
    cluster::{binary, run},
    eventually,
    http::get,
    is_root,
};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(20);
const HOST_PORT: u16 = 8_099;
const NODE_PORT: u16 = 30_123;

#[test]
fn ports_that_are_taken() {
    if !is_root("network_faults") {
        return;
    }
    let cluster = Cluster::start(2);
    two_pods_with_one_port(&cluster);
    one_port_for_two_services(&cluster);
    a_program_has_the_ports(&cluster);
    the_port_of_the_api(&cluster);
}

fn pod(name: &str, more: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "c", "image": "atoll.local/hello",
                "ports": [{ "containerPort": 8080, "hostPort": HOST_PORT }] }],
        },
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn apply(cluster: &Cluster, object: &Value) {
    cluster.apply(&object.to_string());
}

/// The scheduler gives each node one of them; whoever goes past it is refused by the kubelet.
fn two_pods_with_one_port(cluster: &Cluster) {
    for name in ["one", "two", "three"] {
        apply(cluster, &pod(name, &json!({})));
    }
    for name in ["one", "two"] {
        let ready = ["wait", "--for=condition=Ready", "--timeout=30s"];
        cluster.kubectl(&[&ready[..], &["pod", name]].concat()).ok();
        let address = node_address(cluster, name);
        eventually(SOON, "the port answers", || get(SocketAddr::new(address, HOST_PORT), "/"));
    }
    cluster.pod_becomes("three", SOON, |pod| {
        let conditions = pod["status"]["conditions"].as_array()?;
        let said = conditions.iter().find(|one| one["type"] == "PodScheduled")?;
        (said["reason"] == "Unschedulable").then(|| {
            assert_eq!(
                said["message"],
                "0/2 nodes are available: 2 node(s) didn't have free ports for the requested pod \
                 ports. preemption: 0/2 nodes are available: 2 No preemption victims found for \
                 incoming pod."
            );
        })
    });
    let why = cluster.atoll(&["why", "pod/three"]).ok();
    assert!(why.contains("the same hostPort on every node"), "{why}");

    apply(cluster, &pod("bound", &json!({ "nodeName": "node-2" })));
    cluster.pod_becomes("bound", SOON, |pod| (pod["status"]["phase"] == "Failed").then_some(()));
    let bound = cluster.json(&["pod", "bound"]);
    let words =
        "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
    assert_eq!(bound["status"]["reason"], "NodePorts");
    assert_eq!(bound["status"]["message"], format!("Pod was rejected: {words}"));
    cluster.event("bound", &format!("NodePorts: {words}"));

    // A port that is free again goes to who waited for it.
    cluster.kubectl(&["delete", "pod", "one", "bound"]).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/three", "--timeout=30s"]).ok();
    cluster.kubectl(&["delete", "pod", "two", "three"]).ok();
}

fn node_address(cluster: &Cluster, pod: &str) -> IpAddr {
    let pod = cluster.json(&["pod", pod]);
    pod["status"]["hostIP"].as_str().unwrap().parse().unwrap()
}

fn one_port_for_two_services(cluster: &Cluster) {
    let port = format!("--node-port={NODE_PORT}");
    let create = |name: &str, port: &str| {
        cluster.kubectl(&["create", "service", "nodeport", name, "--tcp=80:8080", port])
    };
    create("first", &port).ok();
    let said = create("second", &port).fails();
    let words = format!(
        "Service \"second\" is invalid: spec.ports[0].nodePort: Invalid value: {NODE_PORT}: \
         provided port is already allocated"
    );
    assert!(said.contains(&words), "{said}");
    let said = create("second", "--node-port=80").fails();
    let words = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert!(said.contains(words), "{said}");
    cluster.kubectl(&["delete", "service", "first"]).ok();
    create("second", &port).ok();
    cluster.kubectl(&["delete", "service", "second"]).ok();
}

/// A program that listens on a port of node-2.
struct Holder(Child);

impl Holder {
    fn start(cluster: &Cluster, port: u16) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", cluster.netns("node-2").display()));
        command.args(["python3", "-m", "http.server", &port.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let holder = Self(command.spawn().unwrap());
        eventually(SOON, "the port is taken", || inside(cluster, port));
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Asks a port on the loopback of node-2.
fn inside(cluster: &Cluster, port: u16) -> Result<String, String> {
    let mut curl = Command::new("nsenter");
    curl.arg(format!("--net={}", cluster.netns("node-2").display()));
    curl.args(["curl", "-sS", "--max-time", "2", &format!("http://127.0.0.1:{port}/")]);
    let answer = run(curl, "");
    if answer.code == 0 { Ok(answer.stdout) } else { Err(answer.stderr) }
}

/// As upstream: rules of a Service and of a hostPort come before whatever listens there. On the
/// loopback only a hostPort does (portmap does so too; kube-proxy's nftables mode leaves
/// NodePorts out). A pod on the node's own network finds the port taken and says so.
fn a_program_has_the_ports(cluster: &Cluster) {
    let on_host_port = Holder::start(cluster, HOST_PORT);
    let on_node_port = Holder::start(cluster, NODE_PORT);
    apply(cluster, &pod("shown", &json!({ "nodeName": "node-2" })));
    cluster.kubectl(&["label", "pod", "shown", "app=shown"]).ok();
    let ports = format!("--node-port={NODE_PORT}");
    cluster.kubectl(&["create", "service", "nodeport", "shown", "--tcp=80:8080", &ports]).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/shown", "--timeout=30s"]).ok();
    let address = node_address(cluster, "shown");
    let of_the_pod = |body: String| {
        if body.starts_with("hello from shown") { Ok(()) } else { Err(body) }
    };
    for port in [HOST_PORT, NODE_PORT] {
        eventually(SOON, "the pod answers on the port", || {
            of_the_pod(get(SocketAddr::new(address, port), "/")?)
        });
    }
    eventually(SOON, "the pod answers on the loopback", || of_the_pod(inside(cluster, HOST_PORT)?));
    let own = inside(cluster, NODE_PORT).unwrap();
    assert!(own.contains("<html"), "the program keeps its loopback: {own}");
    cluster.kubectl(&["delete", "pod,service", "shown"]).ok();

    let mut direct = pod("direct", &json!({ "nodeName": "node-2", "hostNetwork": true }));
    direct["spec"]["containers"][0]["ports"] = json!([{ "containerPort": HOST_PORT }]);
    direct["spec"]["containers"][0]["env"] =
        json!([{ "name": "PORT", "value": HOST_PORT.to_string() }]);
    apply(cluster, &direct);
    cluster.pod_becomes("direct", SOON, |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "CrashLoopBackOff").then_some(())
    });
    let said = cluster.kubectl(&["logs", "direct", "--previous"]).ok();
    let words = format!("listening on port {HOST_PORT}: Address already in use");
    assert!(said.contains(&words), "{said}");
    // It gets the port as soon as the port is free.
    drop((on_host_port, on_node_port));
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/direct", "--timeout=40s"]).ok();
    cluster.kubectl(&["delete", "pod", "direct"]).ok();
}

/// Says who has it, and what to do.
fn the_port_of_the_api(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    for (port, pid) in [
        (holder.local_addr().unwrap().port(), std::process::id()),
        (cluster.port, u32::try_from(cluster.pid()).unwrap()),
    ] {
        let mut command = Command::new(binary());
        command.arg("dev").arg("--data-dir").arg(folder.path().join("data"));
        command.args(["--port", &port.to_string()]);
        let said = run(command, "").fails();
        let held = format!("listening on 127.0.0.1:{port}; process {pid} (");
        assert!(said.contains(&held), "{said}");
        assert!(said.contains("choose another with --port"), "{said}");
        assert!(said.contains("Address already in use"), "{said}");
    }
}
