//! What goes over the wire, against the real program: protobuf to a client that knows only
//! lengths, and client-go's metrics and proxies.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and says why it skips"
)]

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use atoll_e2e::{Cluster, Output, cluster, eventually, image::import_busybox, is_root};
use serde_json::json;

const POD: &str = "looked-at";
const ROOT: &str = "/api/v1/namespaces/default";

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

/// Something that runs beside the test and ends with it.
struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `kubectl proxy`, and what it says when it serves.
fn proxy(cluster: &Cluster, flag: &str) -> (Beside, String) {
    let mut proxy = Command::new("kubectl");
    proxy.arg("--kubeconfig").arg(cluster.kubeconfig());
    let mut proxy = proxy.args(["proxy", flag]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).unwrap();
    (Beside(proxy), said.trim().to_owned())
}

#[test]
fn pods_and_services_are_reached_through_kubectl_proxy() {
    if !is_root("wire") {
        return;
    }
    let cluster = cluster_with_pod();
    import_busybox(&cluster, "test.local/busybox:1", json!({ "Cmd": ["sh"] }));
    cluster.apply(include_str!("wire/pages.yaml"));
    cluster
        .kubectl(&["expose", "pod", POD, "--name=front", "--port=80", "--target-port=8080"])
        .ok();
    let (_proxy, said) = proxy(&cluster, "--port=0");
    let port = said.rsplit(':').next().unwrap().parse().unwrap();
    eventually(Duration::from_secs(30), "the Service through the proxy", || {
        let answer = curl(port, &[], &format!("{ROOT}/services/front/proxy/")).stdout;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    });
    let pod = curl(port, &[], &format!("{ROOT}/pods/{POD}:8080/proxy/")).stdout;
    assert!(pod.starts_with("HTTP/1.1 200"), "{pod}");
    // Without its slash a page's own links would lead astray.
    let moved = curl(port, &[], &format!("{ROOT}/pods/{POD}/proxy")).stdout;
    assert!(moved.starts_with("HTTP/1.1 301"), "{moved}");
    assert!(moved.to_lowercase().contains("location: "), "{moved}");
    let refused = curl(port, &[], &format!("{ROOT}/pods/{POD}:9/proxy/")).stdout;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("error trying to reach service: dial tcp"), "{refused}");
    let protobuf = ["-H", "Accept: application/vnd.kubernetes.protobuf", "-o", "-"];
    let list = curl(port, &protobuf, &format!("{ROOT}/pods")).stdout;
    assert!(list.to_lowercase().contains("content-type: application/vnd.kubernetes.protobuf"));
    assert!(list.contains("k8s\0") && list.contains("PodList"), "{list}");
    every_method(&cluster, port);
    links_in_pages(&cluster, port);
    by_a_socket(&cluster);
}

/// Whatever is asked of a pod or a Service is asked of it so.
fn every_method(cluster: &Cluster, port: u16) {
    for through in [format!("pods/{POD}"), "services/front".to_owned()] {
        for method in ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"] {
            let how = if method == "HEAD" { ["-I", "-s"] } else { ["-X", method] };
            let query = format!("method={method}&by={through}");
            let path = format!("{ROOT}/{through}/proxy/json?{query}");
            let answer = curl(port, &how, &path).stdout;
            assert!(answer.starts_with("HTTP/1.1 200"), "{method} {path}: {answer}");
            assert_eq!(answer.contains(POD), method != "HEAD", "{method} {path}: {answer}");
            // Without a path, too, but for those that are led to one.
            let answer = curl(port, &how, &format!("{ROOT}/{through}/proxy?{query}")).stdout;
            let led = matches!(method, "GET" | "HEAD");
            let wanted = if led { "HTTP/1.1 301" } else { "HTTP/1.1 200" };
            assert!(answer.starts_with(wanted), "{method} {through}: {answer}");
            for path in if led { &["/json"][..] } else { &["/json", "/"] } {
                let line = format!("{method} {path}?{query} 200");
                eventually(Duration::from_secs(10), &format!("the pod saw {line}"), || {
                    let log = cluster.kubectl(&["logs", POD]).ok();
                    if log.contains(&line) { Ok(()) } else { Err(log) }
                });
            }
        }
    }
}

/// As upstream's conformance test has them: links lead through the proxy, and every way to name
/// a port leads to it, in clear and over TLS.
fn links_in_pages(cluster: &Cluster, port: u16) {
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/pages", "--timeout=60s"]).ok();
    let folder = tempfile::tempdir().unwrap();
    let _tls = over_tls(cluster, folder.path());
    let link = |place: &str, path: &str| format!("<a href=\"{ROOT}/{place}/proxy{path}\">test</a>");
    let mut wanted: Vec<(String, String)> = [
        ("services/pages:portname1", "foo"),
        ("services/http:pages:portname1", "foo"),
        ("services/pages:portname2", "bar"),
        ("services/http:pages:portname2", "bar"),
        ("services/https:pages:tlsportname1", "tls baz"),
        ("services/https:pages:tlsportname2", "tls qux"),
        ("pods/pages:160", "foo"),
        ("pods/http:pages:160", "foo"),
        ("pods/pages:162", "bar"),
        ("pods/http:pages:162", "bar"),
        ("pods/https:pages:460", "tls baz"),
        ("pods/https:pages:462", "tls qux"),
    ]
    .map(|(place, text)| (place.to_owned(), text.to_owned()))
    .to_vec();
    for (place, path) in [
        ("pods/pages", "/rewriteme"),
        ("pods/pages:1080", "/rewriteme"),
        ("pods/http:pages:1080", "/rewriteme"),
        ("pods/https:pages:443", "/tlsrewriteme"),
    ] {
        wanted.push((place.to_owned(), link(place, path)));
    }
    for (place, text) in wanted {
        // The server of TLS has just been started.
        eventually(Duration::from_secs(20), &format!("{place} says {text}"), || {
            let answer = curl(port, &[], &format!("{ROOT}/{place}/proxy/")).stdout;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
            if body == Some(text.as_str()) { Ok(()) } else { Err(answer) }
        });
    }
}

/// A server of TLS in the network of the pod, by a certificate that nobody knows.
fn over_tls(cluster: &Cluster, folder: &Path) -> Beside {
    let (key, file) = (folder.join("key.pem"), folder.join("all.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=x"]);
    let certificate = cluster::run(
        {
            openssl.arg("-keyout").arg(&key);
            openssl
        },
        "",
    )
    .ok();
    let key = std::fs::read_to_string(key).unwrap();
    std::fs::write(&file, format!("{key}{certificate}")).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/pages.py");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", cluster.pod_netns("pages").display()));
    command.arg("/usr/bin/python3").arg(script).arg(file);
    command.args(["443=<a href=\"/tlsrewriteme\">test</a>", "460=tls baz", "462=tls qux"]);
    Beside(command.spawn().unwrap())
}

fn by_a_socket(cluster: &Cluster) {
    let socket = cluster.dir.with_extension("sock");
    let (_proxy, said) = proxy(cluster, &format!("--unix-socket={}", socket.display()));
    assert_eq!(said, format!("Starting to serve on {}", socket.display()));
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", "10", "--unix-socket"]).arg(socket);
    let answer = cluster::run(
        {
            command.arg("http://localhost/api/");
            command
        },
        "",
    )
    .ok();
    assert!(
        answer.contains("\"kind\": \"APIVersions\"") || answer.contains("\"kind\":\"APIVersions\""),
        "{answer}"
    );
}
