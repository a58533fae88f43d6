//! Client libraries that nobody here wrote, against a real cluster: Python's, Node's, Helm's and
//! Go's, and the cluster tests that kube's crates bring along.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block, and says why it skips"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use atoll_e2e::{Cluster, Output, cluster, eventually, image, is_root};
use serde_json::{Value, json};

/// The pod that clients look into.
const POD: &str = "looked-into";

/// A tool that `scripts/prepare test` installs; elsewhere the test says that it is not there.
fn tool(test: &str, path: &str) -> Option<PathBuf> {
    let tool = cluster::workspace().join(".tools/clients").join(path);
    if tool.exists() {
        return Some(tool);
    }
    let missing = format!("{test}: {} is not there, run `scripts/prepare test`", tool.display());
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    println!("skipped: {missing}");
    None
}

fn cluster_with_pod() -> Cluster {
    let cluster = Cluster::start(1);
    cluster.kubectl(&["run", POD, "--image=atoll.local/hello"]).ok();
    let ready = format!("pod/{POD}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=60s"]).ok();
    // Its log has a line for those who follow it.
    eventually(Duration::from_secs(20), "an answer of the pod", || {
        let pod = cluster.json(&["pod", POD]);
        let ip = pod["status"]["podIP"].as_str().ok_or("no address")?;
        let address = format!("{ip}:8080").parse().map_err(|error| format!("{error}"))?;
        atoll_e2e::http::get(address, "/").map(drop)
    });
    cluster
}

fn against(cluster: &Cluster, mut command: Command) -> Output {
    command.env("KUBECONFIG", cluster.kubeconfig()).env("CLIENTS_POD", POD);
    command.env("HOME", cluster.dir.parent().unwrap());
    cluster::run(command, "")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

#[test]
fn the_python_client_finds_what_it_expects() {
    if !is_root("clients") {
        return;
    }
    let Some(python) = tool("python", "venv/bin/python") else { return };
    let cluster = cluster_with_pod();
    let mut command = Command::new(&python);
    command.arg(script("python_client.py"));
    let said = against(&cluster, command).ok();
    assert!(said.contains("everything held"), "{said}");
    an_api_server_behind_the_api(&cluster, &python);
}

/// It is a program of its own, and knows of the cluster what the documentation of Kubernetes says.
fn an_api_server_behind_the_api(cluster: &Cluster, python: &Path) {
    let mut command = Command::new(python);
    command.arg(script("extension_server.py"));
    let said = against(cluster, command).ok();
    assert!(said.contains("everything held"), "{said}");
}

#[test]
fn the_node_client_finds_what_it_expects() {
    if !is_root("clients") {
        return;
    }
    let Some(modules) = tool("node", "node/node_modules/@kubernetes/client-node") else { return };
    let cluster = cluster_with_pod();
    let mut command = Command::new("node");
    command.arg(script("node_client.mjs"));
    command.env("CLIENTS_MODULES", modules.ancestors().nth(3).unwrap());
    let said = against(&cluster, command).ok();
    assert!(said.contains("everything held"), "{said}");
}

/// An informer's cache and a list agree after many changes, with the server killed in the middle.
#[test]
fn the_node_clients_informer_survives_a_server() {
    if !is_root("clients") {
        return;
    }
    let Some(modules) = tool("node", "node/node_modules/@kubernetes/client-node") else { return };
    let cluster = Cluster::start(1);
    let marker = cluster.dir.with_extension("half");
    let mut command = Command::new("node");
    command.arg(script("node_churn.mjs")).env("CLIENTS_MARKER", &marker);
    command.env("CLIENTS_MODULES", modules.ancestors().nth(3).unwrap());
    let said = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually(Duration::from_secs(120), "half of the changes", || {
                if marker.exists() { Ok(()) } else { Err("not yet".to_owned()) }
            });
            for pid in cluster.pids("server") {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        });
        against(&cluster, command).ok()
    });
    println!("{said}");
    assert!(said.contains("everything held"), "{said}");
}

#[test]
fn helm_and_gos_client_find_what_they_expect() {
    if !is_root("clients") {
        return;
    }
    let server = "kubernetes-mcp-server-linux-amd64";
    let Some(server) = tool("mcp", &format!("mcp/node_modules/{server}/bin/{server}")) else {
        return;
    };
    let Some(python) = tool("python", "venv/bin/python") else { return };
    let cluster = Cluster::start(1);
    image::import_busybox(&cluster, "test.local/busybox:1", json!({"Cmd": ["sh"]}));
    let mut command = Command::new(python);
    command.arg(script("mcp_client.py")).env("CLIENTS_MCP", server);
    let said = against(&cluster, command).ok();
    assert!(said.contains("everything held"), "{said}");
}

/// Tests that no server passes which is as new as this one, and what they end with: three define a
/// custom kind by `apiextensions.k8s.io/v1beta1`, which Kubernetes has not served since v1.22, and
/// one compares two objects of a class that has no comparison.
const OF_OLD: [(&str, &str); 4] = [
    ("test_async_namespaced_custom_resources", "ResourceNotFoundError"),
    ("test_cache_decoder_resource_and_subresource", "AssertionError: False is not true"),
    ("test_cluster_custom_resources", "ResourceNotFoundError"),
    ("test_namespaced_custom_resources", "ResourceNotFoundError"),
];

#[test]
fn the_python_clients_own_dynamic_tests_pass() {
    if !is_root("clients") {
        return;
    }
    let Some(python) = tool("python", "venv/bin/python") else { return };
    let cluster = Cluster::start(1);
    let mut command = Command::new(python);
    command.arg(script("python_dynamic.py"));
    let output = against(&cluster, command);
    let lines: Vec<&str> = output.stdout.lines().collect();
    let failed = lines.iter().filter_map(|line| line.strip_prefix("failed ")?.split_once(' '));
    let failed: BTreeMap<&str, &str> = failed.collect();
    let expected: BTreeMap<&str, &str> = OF_OLD.into_iter().collect();
    let names = |tests: &BTreeMap<&str, &str>| tests.keys().map(ToString::to_string).collect();
    let (found, known): (Vec<String>, Vec<String>) = (names(&failed), names(&expected));
    assert_eq!(found, known, "{}\n{}", output.stdout, output.stderr);
    for (test, why) in failed {
        assert!(why.contains(expected[test]), "{test}: {why}");
    }
    assert_eq!(lines.last(), Some(&"ran 20"), "{}", output.stdout);
}

/// Tests of kube's crates that there are at least: a build without them proves nothing.
const TESTS_MIN: usize = 26;

#[test]
fn the_cluster_tests_of_kubes_crates_pass() {
    if !is_root("clients") {
        return;
    }
    let source = kube_workspace();
    // Built first: it takes longer than everything else, and needs no cluster.
    let built = cluster::run(kube_tests(&source, &["--no-run"]), "");
    assert_eq!(built.code, 0, "{}", built.stderr);
    let cluster = Cluster::start(1);
    image::import_busybox(&cluster, "busybox:stable", json!({"Cmd": ["sh"]}));
    let arguments = ["--no-fail-fast", "--", "--ignored", "--test-threads=1"];
    let output = against(&cluster, kube_tests(&source, &arguments));
    let ended = |word: &str| -> BTreeSet<&str> {
        let lines = output.stdout.lines().filter_map(|line| line.strip_prefix("test "));
        lines.filter_map(|line| line.strip_suffix(&format!(" ... {word}"))).collect()
    };
    let (passed, failed) = (ended("ok"), ended("FAILED"));
    assert_eq!(failed, BTreeSet::new(), "{}\n{}\n{}", output.stdout, output.stderr, cluster.logs());
    assert!(passed.len() >= TESTS_MIN, "{passed:?}");
}

const CRATES: [&str; 3] = ["kube-client", "kube", "kube-runtime"];

/// What the published manifests leave out: their tests use the crates through `kube`.
const DEV_DEPENDENCY: &str = r#"

[dev-dependencies.kube]
path = "../kube"
version = "5"
default-features = false
features = ["derive", "client", "runtime", "ws", "jsonpatch", "rustls-tls", "aws-lc-rs"]
"#;

const MANIFEST: &str = r#"[workspace]
resolver = "2"
members = ["kube-client", "kube", "kube-runtime"]
[patch.crates-io]
kube-client = { path = "kube-client" }
kube = { path = "kube" }
kube-runtime = { path = "kube-runtime" }
[profile.dev]
debug = 0
incremental = false
"#;

/// Copies of the crates' sources out of cargo's cache, as a workspace of their own. It stays,
/// so that a second run builds nothing.
fn kube_workspace() -> PathBuf {
    let root = cluster::workspace();
    let folder = root.join("target/kube-tests/source");
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--format-version", "1", "--locked"]).current_dir(&root);
    let metadata: Value = serde_json::from_str(&cluster::run(metadata, "").ok()).unwrap();
    fs::create_dir_all(&folder).unwrap();
    for name in CRATES {
        let packages = metadata["packages"].as_array().unwrap();
        let own = packages.iter().find(|package| package["name"] == name).unwrap();
        let manifest = Path::new(own["manifest_path"].as_str().unwrap());
        let copy = folder.join(name);
        if copy.join("Cargo.toml").exists() {
            continue;
        }
        copy_folder(manifest.parent().unwrap(), &copy);
        let mut text = fs::read_to_string(manifest).unwrap();
        if name != "kube" {
            text.push_str(DEV_DEPENDENCY);
        }
        fs::write(copy.join("Cargo.toml"), text).unwrap();
    }
    fs::write(folder.join("Cargo.toml"), MANIFEST).unwrap();
    if !folder.join("Cargo.lock").exists() {
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    }
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.file_name() != "Cargo.lock" {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn kube_tests(source: &Path, arguments: &[&str]) -> Command {
    let features = [
        "kube-client/client,kube-client/rustls-tls,kube-client/ws,kube-client/jsonpatch",
        "kube-client/config,kube-client/aws-lc-rs",
        "kube/derive,kube/runtime,kube/ws,kube/rustls-tls,kube/jsonpatch",
    ];
    let mut command = Command::new("cargo");
    command.arg("test").args(["-p", CRATES[0], "-p", CRATES[1], "-p", CRATES[2], "--lib"]);
    command.args(["--features", &features.join(",")]).args(arguments);
    command.current_dir(source).env("CARGO_TARGET_DIR", source.join("../build"));
    // Where cargo and rustup have their things, whatever the tests take for a home.
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
        let own = std::env::var_os(name).map(PathBuf::from);
        command.env(name, own.unwrap_or_else(|| home.join(folder)));
    }
    command
}
