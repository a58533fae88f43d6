//! What goes over the wire, against the real program: protobuf to a client that knows only
//! lengths, and client-go's metrics and proxies.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and says why it skips"
)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use atoll_e2e::{Cluster, Output, cluster, eventually, is_root};

const POD: &str = "looked-at";

/// A tool that `scripts/prepare test` installs; elsewhere the test says that it is not there.
fn tool(path: &str) -> Option<PathBuf> {
    let tool = cluster::workspace().join(".tools/clients").join(path);
    if tool.exists() {
        return Some(tool);
    }
    let missing = format!("{} is not there, run `scripts/prepare test`", tool.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    println!("skipped: {missing}");
    None
}

fn cluster_with_pod() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.kubectl(&["run", POD, "--image=atoll.local/hello", "--port=8080"]).ok();
    let ready = format!("pod/{POD}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=60s"]).ok();
    cluster
}

#[test]
fn gos_client_reads_metrics_and_goes_through_a_nodes_proxy() {
    if !is_root("wire") {
        return;
    }
    let server = "kubernetes-mcp-server-linux-amd64";
    let Some(server) = tool(&format!("mcp/node_modules/{server}/bin/{server}")) else { return };
    let cluster = cluster_with_pod();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/go_client.py");
    let mut command = Command::new("python3");
    command.arg(script).env("CLIENTS_MCP", server).env("CLIENTS_POD", POD);
    command.env("KUBECONFIG", cluster.kubeconfig()).env("HOME", cluster.dir.parent().unwrap());
    let said = cluster::run(command, "");
    assert_eq!(said.code, 0, "{}\n{}\n{}", said.stdout, said.stderr, cluster.logs());
    assert!(said.stdout.ends_with("everything held\n"), "{}", said.stdout);
}

/// curl by way of `kubectl proxy`, which passes headers on as they are.
fn curl(port: u16, arguments: &[&str], path: &str) -> Output {
    let mut command = Command::new("curl");
    command.args(["-s", "-i", "--max-time", "10"]).args(arguments);
    command.arg(format!("http://127.0.0.1:{port}{path}"));
    cluster::run(command, "")
}

#[test]
fn pods_and_services_are_reached_through_kubectl_proxy() {
    if !is_root("wire") {
        return;
    }
    let cluster = cluster_with_pod();
    cluster
        .kubectl(&["expose", "pod", POD, "--name=front", "--port=80", "--target-port=8080"])
        .ok();
    let port = cluster::free_port();
    let mut proxy = Command::new("kubectl");
    proxy.arg("--kubeconfig").arg(cluster.kubeconfig());
    let mut proxy = proxy.args(["proxy", "--port", &port.to_string()]).spawn().unwrap();
    let root = "/api/v1/namespaces/default";
    eventually(Duration::from_secs(30), "the Service through the proxy", || {
        let answer = curl(port, &[], &format!("{root}/services/front/proxy/")).stdout;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    });
    let pod = curl(port, &[], &format!("{root}/pods/{POD}:8080/proxy/")).stdout;
    assert!(pod.starts_with("HTTP/1.1 200"), "{pod}");
    // Without its slash a page's own links would lead astray.
    let moved = curl(port, &[], &format!("{root}/pods/{POD}/proxy")).stdout;
    assert!(moved.starts_with("HTTP/1.1 301"), "{moved}");
    assert!(moved.to_lowercase().contains("location: "), "{moved}");
    let refused = curl(port, &[], &format!("{root}/pods/{POD}:9/proxy/")).stdout;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("error trying to reach service: dial tcp"), "{refused}");
    let protobuf = ["-H", "Accept: application/vnd.kubernetes.protobuf", "-o", "-"];
    let list = curl(port, &protobuf, &format!("{root}/pods")).stdout;
    assert!(list.to_lowercase().contains("content-type: application/vnd.kubernetes.protobuf"));
    assert!(list.contains("k8s\0") && list.contains("PodList"), "{list}");
    proxy.kill().unwrap();
    proxy.wait().unwrap();
}
