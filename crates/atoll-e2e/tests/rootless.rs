//! `atoll dev` as an ordinary user: pods are processes of his, shut in where the machine
//! lets him make namespaces.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster,
    cluster::{binary, free_port, run, workspace},
    eventually,
    http::get,
    image, is_root,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::{Command, Stdio},
    time::Duration,
};

const WITHIN: Duration = Duration::from_secs(60);

/// Becomes a user with the folder of the test as home, and a program that he may read.
const USER: &str = r#"
for last; do :; done
home=${last%/*}
cp --remove-destination "$1" "$home/atoll" && chmod 755 "$home/atoll"
[ "$(id -u)" = 0 ] || { shift; exec "$home/atoll" "$@"; }
chown 65534:65534 "$home" "$home/atoll"
shift
exec setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME="$home" PATH="$PATH" \
    "$home/atoll" "$@"
"#;

/// The same inside a user namespace that allows no others.
const CONFINED: &str = r#"
for last; do :; done
home=${last%/*}
cp --remove-destination "$1" "$home/atoll" && chmod 755 "$home/atoll"
chown 65534:65534 "$home" "$home/atoll"
chmod 755 "$home"
shift
main=$$
here=$(readlink /proc/self/ns/user)
(
    while [ "$(readlink "/proc/$main/ns/user")" = "$here" ]; do sleep 0.05; done
    echo "0 0 65537" > "/proc/$main/uid_map"
    echo "0 0 65537" > "/proc/$main/gid_map"
    touch "$home/mapped"
) > /dev/null &
export HOME="$home"
exec unshare --user sh -c 'until [ -e "$HOME/mapped" ]; do sleep 0.05; done
    exec sh -c "echo 0 > /proc/sys/user/max_user_namespaces &&
        exec setpriv --reuid=65534 --regid=65534 --clear-groups \"\$@\"" sh "$@"' \
    sh "$home/atoll" "$@"
"#;

fn start(script: &str) -> Cluster {
    Cluster::start_under(&["sh", "-c", script, "sh"], 1)
}

/// A tool of the program's own, as the user who runs the cluster.
fn as_user(cluster: &Cluster, arguments: &[&str]) -> String {
    let home = cluster.dir.parent().unwrap();
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(home.join("atoll")).args(arguments).env("HOME", home);
    run(command, "").ok()
}

fn container(pod: &Value, name: &str) -> Value {
    let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["name"] == name).unwrap_or_default()
}

fn ids(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| container(pod, "hello")["containerID"].to_string()).collect()
}

/// The processes of all containers that run, and their shims.
fn processes(cluster: &Cluster) -> Vec<u64> {
    let dir = cluster.dir.display().to_string();
    let mut find = Command::new("find");
    find.args([&dir, "-name", "state.json"]);
    let mut pids = Vec::new();
    for path in run(find, "").ok().lines() {
        // One that has just ended takes its record along.
        let Ok(text) = std::fs::read(path) else { continue };
        let state: Value = serde_json::from_slice(&text).unwrap();
        pids.extend(["pid", "shim_pid"].iter().filter_map(|key| state[key].as_u64()));
    }
    pids.retain(|pid| is_there(*pid));
    pids
}

/// One that has ended and waits for its parent to notice is not.
fn is_there(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

/// Stops the cluster, and looks that none of its processes is left.
fn stop(cluster: &mut Cluster) {
    let pids = processes(cluster);
    assert!(!pids.is_empty());
    cluster.stop();
    let left: Vec<u64> = pids.into_iter().filter(|pid| is_there(*pid)).collect();
    assert!(left.is_empty(), "processes are left: {left:?}");
}

#[test]
fn pods_without_root() {
    let mut cluster = start(USER);
    let nodes = cluster.json(&["nodes", "-l", "atoll.dev/runtime=process"]);
    assert_eq!(nodes["items"].as_array().unwrap().len(), 1, "{nodes}");
    let said = std::fs::read_to_string(cluster.dir.with_extension("log")).unwrap();
    assert!(said.contains("Without root: one node"), "{said}");
    hello(&cluster);
    image_with_volumes(&cluster);
    command_of_the_node(&cluster);
    refused(&cluster);
    failing_starts_wait(&cluster);
    survives(&mut cluster);
    let known = cluster.json(&["pods", "-A"]).to_string();
    stop(&mut cluster);
    assert!(!cluster.dir.join("node-1/run").exists());
    for pod in std::fs::read_dir(cluster.dir.join("node-1/pods")).unwrap().flatten() {
        let uid = pod.file_name().into_string().unwrap();
        assert!(known.contains(&uid), "{uid} is of no pod that there is");
    }
}

fn hello(cluster: &Cluster) {
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    let pods = cluster.pods_ready("app=hello", 5, WITHIN);
    let version = cluster.kubectl(&["exec", "deployment/hello", "--", "/atoll", "--version"]).ok();
    assert!(version.starts_with("atoll "), "{version}");
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    let logs = cluster.kubectl(&["logs", name]).ok();
    assert!(logs.starts_with(&format!("hello from {name} version 1 on port 2")), "{logs}");
    let events = cluster.events(name);
    let limits = "LimitsNotEnforced: this node runs without root and does not enforce \
                  spec.containers[0].resources.limits.memory";
    assert!(events.iter().any(|event| event == limits), "{events:?}");
    forwarded(cluster, &format!("pod/{name}"), 8080, &format!("hello from {name} on node-1"));
    forwarded(cluster, "service/hello", 80, "hello from hello-");
    assert_eq!(cluster.atoll(&["why", "deployment/hello"]).ok(), "deployment/hello is well.\n");
    let why = cluster.atoll(&["why", "service/hello"]).ok();
    assert!(why.contains("without root"), "{why}");
}

/// `kubectl port-forward` leads to the pod, wherever its port is on the node.
fn forwarded(cluster: &Cluster, target: &str, port: u16, answer: &str) {
    let local = free_port();
    let mut forward = Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig())
        .args(["port-forward", target, &format!("{local}:{port}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], local));
    let body = eventually(WITHIN, "the forwarded port answers", || get(address, "/"));
    forward.kill().unwrap();
    forward.wait().unwrap();
    assert!(body.starts_with(answer), "{body}");
}

/// An image of several layers' worth of trouble, as another user, with every kind of volume.
fn image_with_volumes(cluster: &Cluster) {
    let archive = cluster.dir.parent().unwrap().join("image.tar");
    std::fs::write(&archive, image::archive("test.local/box:1", json!({"User": "app"}))).unwrap();
    let dir = cluster.dir.display().to_string();
    as_user(cluster, &["image", "import", "--data-dir", &dir, archive.to_str().unwrap()]);
    cluster.apply(IMAGE_POD);
    let pod = cluster.pod_becomes("volumes", WITHIN, |pod| {
        let exit = &container(pod, "once")["state"]["terminated"];
        let ready = container(pod, "server")["ready"] == json!(true);
        (ready && !exit.is_null()).then(|| pod.clone())
    });
    let exit = &container(&pod, "once")["state"]["terminated"];
    assert_eq!((exit["exitCode"].as_i64(), exit["message"].as_str()), (Some(3), Some("bye\n")));
    let logs = cluster.kubectl(&["logs", "volumes", "-c", "once"]).ok();
    assert!(logs.contains("uid=4321 gid=77"), "{logs}");
    assert!(logs.contains("/x: Read-only file system"), "{logs}");
    assert!(logs.contains("CapBnd:\t0000000000000000"), "{logs}");
    assert!(logs.contains("\nvolumes\n"), "{logs}");
    let inside = |script: &str| {
        cluster.kubectl(&["exec", "volumes", "-c", "server", "--", "sh", "-c", script])
    };
    let shown = inside("id -un; pwd; cat /share/init /conf/a /deep/one /secret/pw /info/name");
    assert_eq!(shown.ok(), "app\n/work/here\ninit 1000\nfrom the mapfrom the mapxyzzyvolumes");
    assert!(inside("touch /conf/b").fails().contains("Read-only file system"));
    assert!(inside("cat /var/run/secrets/kubernetes.io/serviceaccount/token").ok().len() > 100);
    assert!(inside("ls /home /root").fails().contains("No such file"));
    let port = inside("echo $PORT").ok();
    forwarded(cluster, "pod/volumes", 80, "from the map");
    assert_ne!(port.trim(), "80");
    // Live update.
    cluster.kubectl(&["patch", "configmap", "conf", "-p", r#"{"data":{"a":"changed"}}"#]).ok();
    eventually(Duration::from_secs(90), "the volume changes", || {
        let now = inside("cat /conf/a").stdout;
        if now == "changed" { Ok(()) } else { Err(now) }
    });
}

const IMAGE_POD: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: from the map}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {pw: xyzzy}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: test.local/box:1
    command: [sh, -c, 'echo init $(id -u) > /share/init']
    volumeMounts: [{name: share, mountPath: /share}]
  containers:
  - name: server
    image: test.local/box:1
    command: [sh, -c, 'cp /conf/a /tmp/index.html; exec httpd -f -h /tmp -p $PORT']
    workingDir: /work/here
    ports: [{containerPort: 80}]
    livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
    readinessProbe: {exec: {command: [cat, /share/init]}, periodSeconds: 1}
    volumeMounts:
    - {name: share, mountPath: /share}
    - {name: conf, mountPath: /conf}
    - {name: conf, mountPath: /deep/one, subPath: a}
    - {name: secret, mountPath: /secret}
    - {name: info, mountPath: /info}
  - name: once
    image: test.local/box:1
    command: [sh, -c, 'id; touch /x; grep CapBnd /proc/self/status; hostname; echo bye > /dev/termination-log; exit 3']
    securityContext:
      readOnlyRootFilesystem: true
      allowPrivilegeEscalation: false
      runAsUser: 4321
      runAsGroup: 77
      capabilities: {drop: [ALL]}
  volumes:
  - {name: share, emptyDir: {}}
  - {name: conf, configMap: {name: conf}}
  - {name: secret, secret: {secretName: secret}}
  - name: info
    downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}}]}
"#;

/// `atoll.local/host`: the node's own files and programs, with mounts where there is no
/// directory, and without the keys of the cluster.
fn command_of_the_node(cluster: &Cluster) {
    cluster.apply(NODE_POD);
    cluster.pod_becomes("native", WITHIN, |pod| {
        (container(pod, "c")["ready"] == json!(true)).then_some(())
    });
    let inside = |script: &str| cluster.kubectl(&["exec", "native", "--", "sh", "-c", script]).ok();
    assert_eq!(inside("cat /conf/a /etc/atoll-test/a; hostname"), "changedchangednative\n");
    assert_eq!(inside("cat /etc/debian_version"), {
        std::fs::read_to_string("/etc/debian_version").unwrap()
    });
    assert_eq!(inside(&format!("ls {}", cluster.dir.display())), "");
    assert_eq!(inside("ps -o pid= -C sleep | wc -l").trim(), "1");
    let local = cluster.dir.parent().unwrap().join("copied");
    cluster.kubectl(&["cp", "native:/etc/debian_version", local.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(local).unwrap(), inside("cat /etc/debian_version"));
    let terminal =
        format!("kubectl --kubeconfig {} exec -it native -- tty", cluster.kubeconfig().display());
    let mut script = Command::new("script");
    script.args(["-qec", &terminal, "/dev/null"]);
    let shown = run(script, "").ok();
    assert!(shown.contains("/dev/pts/0"), "{shown}");
}

const NODE_POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: native}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: atoll.local/host
    command: [sleep, '7243']
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: conf, mountPath: /etc/atoll-test}
  volumes: [{name: conf, configMap: {name: conf}}]
"#;

fn refused(cluster: &Cluster) {
    cluster.apply(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: refused}\nspec: {containers: [{name: c, \
         image: atoll.local/hello, securityContext: {privileged: true}}]}",
    );
    let why = "this node does not support spec.containers[0].securityContext.privileged";
    cluster.event("refused", &format!("UnsupportedPodSpec: {why}"));
    let status = cluster.pod_becomes("refused", WITHIN, |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
    });
    assert_eq!(status["reason"], "UnsupportedPodSpec", "{status}");
    assert!(status["message"].as_str().unwrap().ends_with(why), "{status}");
}

/// A command that fails between its creation and its start backs off like any other.
fn failing_starts_wait(cluster: &Cluster) {
    cluster.apply(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: failing}\nspec: {containers: [{name: c, \
         image: atoll.local/host, command: [\"true\"], workingDir: /etc/passwd}]}",
    );
    cluster.pod_becomes("failing", WITHIN, |pod| {
        let waits = &container(pod, "c")["state"]["waiting"]["reason"];
        (waits == "CrashLoopBackOff").then_some(())
    });
    let pod = cluster.json(&["pod", "failing"]);
    let restarts = container(&pod, "c")["restartCount"].as_i64().unwrap();
    assert!(restarts <= 2, "{restarts} restarts");
    cluster.kubectl(&["delete", "pod", "failing", "--now"]).ok();
}

/// The agent and the supervisor killed: no process ends, and all are found again.
fn survives(cluster: &mut Cluster) {
    let before = cluster.pods_ready("app=hello", 5, WITHIN);
    let pids = processes(cluster);
    let agent = cluster.dir.join("node-1").display().to_string();
    let mut find = Command::new("pgrep");
    find.args(["-f", &format!("atoll agent .*--data-dir {agent}")]);
    let pid = run(find, "").ok().trim().to_owned();
    let mut kill = Command::new("kill");
    kill.args(["-9", &pid]);
    run(kill, "").ok();
    eventually(WITHIN, "the next agent runs commands", || {
        let out = cluster.kubectl(&["exec", "deployment/hello", "--", "/atoll", "--version"]);
        if out.code == 0 { Ok(()) } else { Err(out.stderr) }
    });
    assert!(pids.iter().all(|pid| is_there(*pid)), "{pids:?}");
    cluster.kill();
    assert!(pids.iter().all(|pid| is_there(*pid)), "{pids:?}");
    cluster.launch();
    let after = cluster.pods_ready("app=hello", 5, WITHIN);
    assert_eq!(ids(&before), ids(&after));
    assert!(after.iter().all(|pod| container(pod, "hello")["restartCount"] == 0));
    assert!(pids.iter().all(|pid| is_there(*pid)), "{pids:?}");
}

#[test]
fn pods_where_no_namespaces_are_allowed() {
    if !is_root("rootless") {
        return;
    }
    let mut cluster = start(CONFINED);
    let said = std::fs::read_to_string(cluster.dir.with_extension("log")).unwrap();
    assert!(said.contains("does not let you make namespaces (user namespaces: "), "{said}");
    let manifest = workspace().join("examples/hello.yaml");
    cluster.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
    let pods = cluster.pods_ready("app=hello", 5, WITHIN);
    let version = cluster.kubectl(&["exec", "deployment/hello", "--", "/atoll", "--version"]).ok();
    assert!(version.starts_with("atoll "), "{version}");
    let events = cluster.events(pods[0]["metadata"]["name"].as_str().unwrap());
    assert!(events.iter().any(|event| event.starts_with("TokenNotMounted: ")), "{events:?}");
    cluster.apply(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: wish}\nspec: {containers: [{name: c, \
         image: nginx, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, \
         emptyDir: {}}]}",
    );
    cluster.event(
        "wish",
        "UnsupportedPodSpec: this node does not support spec.containers[0].image, \
         spec.containers[0].volumeMounts[0]",
    );
    leaves_nothing_running(&cluster);
    stop(&mut cluster);
}

/// What a command of the node has put into the background ends with it.
fn leaves_nothing_running(cluster: &Cluster) {
    cluster.apply(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: daemon}\nspec: {restartPolicy: Never, \
         containers: [{name: c, image: atoll.local/host, command: [sh, -c, 'setsid sh -c \
         \"sleep 7244 & sleep 7244\" & echo $$; sleep 7244']}]}",
    );
    cluster
        .pod_becomes("daemon", WITHIN, |pod| (pod["status"]["phase"] == "Running").then_some(()));
    let count = || {
        let mut find = Command::new("pgrep");
        find.args(["-fc", "^sleep 7244"]);
        run(find, "").stdout.trim().to_owned()
    };
    eventually(WITHIN, "three run", || if count() == "3" { Ok(()) } else { Err(count()) });
    cluster.kubectl(&["delete", "pod", "daemon", "--now"]).ok();
    assert_eq!(count(), "0");
}

#[test]
fn more_nodes_need_root() {
    let folder = tempfile::Builder::new().prefix("atoll-e2e-").tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", USER, "sh"]).arg(binary()).args(["dev", "--nodes", "3", "--port"]);
    command.arg(free_port().to_string()).arg("--data-dir").arg(folder.path().join("data"));
    let why = run(command, "").fails();
    assert!(why.contains("3 nodes need root"), "{why}");
    assert!(why.contains("--nodes 1"), "{why}");
}
