//! `atoll get|apply|delete|…` against kubectl: the same words, the same output.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, Output, cluster::workspace, eventually, is_root};
use std::time::Duration;

#[test]
fn the_command_line_says_what_kubectl_says() {
    if !is_root("cli") {
        return;
    }
    let cluster = Cluster::start(1);
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
    cluster.kubectl(&["create", "namespace", "empty"]).ok();
    eventually(Duration::from_secs(10), "the namespace has its ServiceAccount", || {
        let found = cluster.kubectl(&["-n", "empty", "get", "sa", "default"]);
        if found.code == 0 { Ok(()) } else { Err(found.stderr) }
    });
    shown_alike(&cluster);
    refused_alike(&cluster);
    changed_alike(&cluster);
    manifests(&cluster);
    rollouts(&cluster);
    kubeconfigs(&cluster);
}

/// Ages differ from one second to the next, and with them the widths of columns.
fn plain(text: &str) -> String {
    let is_age = |word: &str| {
        word.len() > 1
            && word.ends_with(['s', 'm', 'h', 'd'])
            && word.starts_with(|first: char| first.is_ascii_digit())
            && word.chars().all(|letter| letter.is_ascii_digit() || "smhd".contains(letter))
    };
    let lines = text.lines().map(|line| {
        let words = line.split_whitespace().map(|word| if is_age(word) { "AGE" } else { word });
        words.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn alike(cluster: &Cluster, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let (theirs, ours) = (cluster.kubectl(&words), cluster.atoll(&words));
    let seen = |output: &Output| (plain(&output.stdout), plain(&output.stderr), output.code);
    assert_eq!(seen(&ours), seen(&theirs), "atoll {command}");
}

/// Byte for byte.
#[track_caller]
fn same(cluster: &Cluster, command: &[&str]) {
    let (theirs, ours) = (cluster.kubectl(command), cluster.atoll(command));
    assert_eq!(ours.stdout, theirs.stdout, "atoll {command:?}: {}", ours.stderr);
}

fn shown_alike(cluster: &Cluster) {
    for kind in [
        "pods",
        "deploy",
        "rs",
        "svc",
        "nodes",
        "cm",
        "secrets",
        "sa",
        "ns",
        "endpointslices",
        "endpoints",
        "leases",
        "csr",
        "roles",
        "clusterroles",
        "clusterrolebindings",
        "pc",
        "all",
    ] {
        alike(cluster, &format!("get {kind}"));
        alike(cluster, &format!("get {kind} -A -o wide"));
        alike(cluster, &format!("get {kind} -o name"));
    }
    for command in [
        "get pods -l app=hello --no-headers",
        "get pods -l app=hello --no-headers=true",
        "get pods --field-selector=status.phase=Running",
        "get pods --show-labels",
        "get pods -L app",
        "get pods --sort-by=.metadata.name",
        "get pods,svc",
        "get deployment/hello service/hello",
        "get svc hello kubernetes",
        "get deployments.v1.apps hello",
        "get pods -n empty",
        "get pods --ignore-not-found nope",
        "get pods -l app=none",
    ] {
        alike(cluster, command);
    }
    for object in
        ["deployment/hello", "service/hello", "node/node-1", "clusterrole/admin", "ns/default"]
    {
        same(cluster, &["get", object, "-o", "yaml"]);
        same(cluster, &["get", object, "-o", "json"]);
    }
    same(cluster, &["get", "clusterroles", "-o", "yaml"]);
    for template in [
        "{.items[*].metadata.name}",
        r#"{range .items[*]}{.metadata.name}{"\t"}{.spec.nodeName}{"\n"}{end}"#,
        r#"{.items[?(@.status.phase=="Running")].status.podIP}"#,
        "{.items[0].metadata.labels}",
    ] {
        same(cluster, &["get", "pods", "-o", &format!("jsonpath={template}")]);
    }
    let columns = "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[*].image";
    same(cluster, &["get", "pods", "-o", columns]);
}

fn refused_alike(cluster: &Cluster) {
    for command in [
        "get pods nope",
        "get pods nope other",
        "get nope",
        "get pods nope -n empty",
        "get pods hello -A",
        "delete pod nope",
        "delete pod nope --ignore-not-found",
        "delete pods",
        "apply -f /no/such/file.yaml",
        "scale deployment nope --replicas=1",
        "scale deployment/hello --replicas=5 --current-replicas=9",
        "rollout status deployment/nope",
        "rollout undo deployment/hello --to-revision=7",
        "rollout resume deployment/hello",
        "logs nope",
        "exec nope -- ls",
        "exec deployment/hello -c nope -- ls",
    ] {
        alike(cluster, command);
    }
}

/// The same command by kubectl and by us, one after the other.
fn changed_alike(cluster: &Cluster) {
    for command in [
        "scale deployment hello --replicas=4",
        "scale deployment/hello --replicas=5",
        "rollout pause deployment/hello",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        let theirs = cluster.kubectl(&words).ok();
        if command.contains("pause") {
            let again = cluster.atoll(&words).fails();
            assert!(again.contains("deployments.apps \"hello\" is already paused"), "{again}");
            let held = cluster.atoll(&["rollout", "restart", "deployment/hello"]).fails();
            assert!(held.contains("can't restart paused deployment"), "{held}");
            cluster.atoll(&["rollout", "resume", "deployment", "hello"]).ok();
        } else {
            assert_eq!(cluster.atoll(&words).ok(), theirs);
        }
    }
    cluster.pods_ready("app=hello", 5, Duration::from_secs(60));
    for name in ["one", "two"] {
        cluster.kubectl(&["create", "configmap", name]).ok();
    }
    let theirs = cluster.kubectl(&["delete", "configmap", "one"]).ok();
    let ours = cluster.atoll(&["delete", "configmap", "two", "--wait=false"]).ok();
    assert_eq!(ours.replace("two", "one"), theirs);
    let version = cluster.atoll(&["exec", "deployment/hello", "--", "/atoll", "--version"]);
    assert!(version.stdout.starts_with("atoll "), "{version:?}");
    let failed = cluster.atoll(&["exec", "deployment/hello", "--", "/atoll", "no-such-command"]);
    assert_eq!(failed.code, 2, "{failed:?}");
    let log = cluster.atoll(&["logs", "deployment/hello", "--tail=1", "--timestamps"]);
    assert_eq!(log.stdout.lines().count(), 1, "{log:?}");
    assert!(log.stderr.starts_with("Found 5 pods, using pod/hello-"), "{log:?}");
    selected_logs(cluster);
}

/// kubectl reads the pods in no order.
fn selected_logs(cluster: &Cluster) {
    alike(cluster, "logs -l app=nothing");
    alike(cluster, "logs -f -l app=hello --max-log-requests=2");
    let both = cluster.atoll(&["logs", "some-pod", "-l", "app=hello"]).fails();
    assert!(both.contains("only a selector (-l) or a POD name is allowed"), "{both}");
    let first = ["logs", "-l", "app=hello", "--tail=-1"];
    let greetings = |text: String| {
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| line.contains("hello from"))
            .map(ToOwned::to_owned)
            .collect();
        lines.sort();
        lines
    };
    let ours = greetings(cluster.atoll(&first).ok());
    assert_eq!(ours, greetings(cluster.kubectl(&first).ok()));
    assert_eq!(ours.len(), 5, "{ours:?}");
    let last = cluster.atoll(&["logs", "-l", "app=hello", "--tail=1"]).ok();
    assert_eq!(last.lines().count(), 5, "{last}");
}

fn manifests(cluster: &Cluster) {
    let folder = cluster.dir.parent().unwrap().join("manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let map = |name: &str, value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{key: {value}}}\n"
        )
    };
    let two = file("a.yaml", &format!("{}---\n{}", map("m1", "a"), map("m2", "a")));
    let apply = |path: &str| cluster.atoll(&["apply", "-f", path]);
    assert_eq!(apply(&two).ok(), "configmap/m1 created\nconfigmap/m2 created\n");
    assert_eq!(apply(&two).ok(), "configmap/m1 unchanged\nconfigmap/m2 unchanged\n");
    file("a.yaml", &format!("{}---\n{}", map("m1", "a"), map("m2", "b")));
    let whole = folder.display().to_string();
    assert_eq!(apply(&whole).ok(), "configmap/m1 unchanged\nconfigmap/m2 configured\n");

    let bad = folder.join("bad");
    std::fs::create_dir_all(&bad).unwrap();
    let bad = |text: &str| {
        std::fs::write(bad.join("bad.yaml"), text).unwrap();
        apply(&bad.join("bad.yaml").display().to_string()).fails()
    };
    let said = bad("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\ndata:\n  a: b\n c: d\n");
    assert!(said.contains("bad.yaml") && said.contains("line "), "{said}");
    let said = bad("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\nfoo: 1\n");
    assert!(said.starts_with("Error from server") && said.contains("foo"), "{said}");
    let said = bad("apiVersion: v9\nkind: Thing\nmetadata: {name: x}\n");
    assert!(said.contains("no matches for kind \"Thing\" in version \"v9\""), "{said}");
    let said = bad("kind: Thing\nmetadata: {name: x}\n");
    assert!(said.contains("error validating data: apiVersion not set"), "{said}");
    let said = bad("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: nope}\n");
    assert!(said.contains("Error from server (NotFound): error when creating"), "{said}");
    assert!(said.trim_end().ends_with("namespaces \"nope\" not found"), "{said}");

    let deep = folder.join("deep");
    std::fs::create_dir_all(deep.join("below")).unwrap();
    file("deep/m3.yaml", &map("m3", "a"));
    file("deep/below/m4.yaml", &map("m4", "a"));
    let deep = deep.display().to_string();
    assert_eq!(apply(&deep).ok(), "configmap/m3 created\n");
    let all = cluster.atoll(&["apply", "-R", "-f", &deep]).ok();
    assert_eq!(all, "configmap/m4 created\nconfigmap/m3 unchanged\n");
    alike(cluster, &format!("get -o name -R -f {deep}"));
    let deleted = cluster.atoll(&["delete", "-R", "-f", &deep]).ok();
    assert_eq!(deleted, "configmap \"m4\" deleted\nconfigmap \"m3\" deleted\n");

    let deleted = cluster.atoll(&["delete", "-f", &two]).ok();
    assert_eq!(deleted, "configmap \"m1\" deleted\nconfigmap \"m2\" deleted\n");
    let gone = cluster.atoll(&["delete", "-f", &two, "--ignore-not-found"]).ok();
    assert_eq!(gone, "");
}

fn rollouts(cluster: &Cluster) {
    let set = ["set", "env", "deployment/hello", "VERSION=2"];
    cluster.kubectl(&set).ok();
    let status = cluster.atoll(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    assert!(status.ends_with("deployment \"hello\" successfully rolled out\n"), "{status}");
    alike(cluster, "rollout history deployment/hello");
    alike(cluster, "rollout status deployment hello");
    let undone = cluster.atoll(&["rollout", "undo", "deployment/hello"]).ok();
    assert_eq!(undone, "deployment.apps/hello rolled back\n");
    cluster.kubectl(&["rollout", "status", "deployment/hello", "--timeout=60s"]).ok();
    alike(cluster, "rollout history deployment/hello");
    let events = cluster.atoll(&["events", "--for", "deployment/hello"]).ok();
    assert!(
        events.contains("Deployment/hello") && events.contains("ScalingReplicaSet"),
        "{events}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = cluster.atoll(&["completions", shell]).ok();
        assert!(script.contains("rollout") && script.contains("field-selector"), "{shell}");
    }
}

fn kubeconfigs(cluster: &Cluster) {
    let real = cluster.kubeconfig().display().to_string();
    let run = |environment: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new(atoll_e2e::cluster::binary());
        command.args(arguments).env("KUBECONFIG", environment);
        atoll_e2e::cluster::run(command, "")
    };
    let empty = cluster.dir.parent().unwrap().join("other-kubeconfig");
    std::fs::write(&empty, "apiVersion: v1\nkind: Config\n").unwrap();
    let list = format!("{}:/no/such/file:{real}", empty.display());
    run(&list, &["get", "nodes"]).ok();
    let said = run("/no/such/file", &["get", "nodes"]).fails();
    assert_eq!(said.matches("/no/such/file").count(), 1, "{said}");
    let said = run(&real, &["get", "nodes", "--context=nope"]).fails();
    assert!(said.contains("context was not found for specified context: nope"), "{said}");
    let said = run(&real, &["get", "nodes", "--kubeconfig=/no/such/file"]).fails();
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
}

/// Who waits for the kubeconfig, and not for what `atoll dev` prints, has a cluster as well.
#[test]
fn the_kubeconfig_of_a_new_folder_appears_with_ready_nodes() {
    if !is_root("cli") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("data");
    let kubeconfig = dir.join("kubeconfig");
    let mut dev = std::process::Command::new(atoll_e2e::cluster::binary())
        .args(["dev", "--nodes", "2", "--port", &atoll_e2e::cluster::free_port().to_string()])
        .arg("--data-dir")
        .arg(&dir)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(30), "the kubeconfig appears", || {
        if kubeconfig.exists() { Ok(()) } else { Err("it is not there".to_owned()) }
    });
    let nodes = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .args(["get", "nodes", "--no-headers"])
        .output();
    let pid = rustix::process::Pid::from_child(&dev);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(dev.wait().unwrap().success());
    let nodes = String::from_utf8(nodes.unwrap().stdout).unwrap();
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
}
