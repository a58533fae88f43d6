//! The ways in which somebody ends `atoll dev`, and what it does in them.

use super::as_before;
use atoll_e2e::{
    Cluster,
    cluster::{binary, free_port, run},
    eventually, is_root, system,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers: [{name: one, image: atoll.local/hello}]
";

const STUBBORN: &str = "
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  terminationGracePeriodSeconds: 30
  containers:
  - {name: one, image: atoll.local/hello, lifecycle: {preStop: {sleep: {seconds: 30}}}}
";

/// Starts it with everything that it says in one pipe.
fn dev(dir: &Path, wrapper: &[&str]) -> Child {
    let program = binary().display().to_string();
    let mut words: Vec<&str> = wrapper.to_vec();
    words.push(&program);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["dev", "--nodes", "2", "--port", &free_port().to_string()]);
    command.arg("--data-dir").arg(dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn until_ready(child: &mut Child) -> BufReader<std::process::ChildStdout> {
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert!(line.starts_with("Ready"), "{line}");
    lines
}

#[test]
fn every_signal_at_any_time_ends_it_cleanly() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    for delay_ms in [30, 120, 300, 600] {
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut child = dev(&dir, &[]);
            std::thread::sleep(Duration::from_millis(delay_ms));
            send(&child, signal);
            let status = child.wait().unwrap();
            // Before the program has begun to listen to signals they end it as any other.
            assert!(status.success() || delay_ms == 30, "{signal:?} after {delay_ms} ms: {status}");
        }
    }
    as_before(&before);
}

#[test]
fn a_second_signal_does_not_wait_for_grace_periods() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let mut cluster = Cluster::start(1);
    cluster.kubectl_with(&["apply", "-f", "-"], STUBBORN).ok();
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/stubborn", "--timeout=30s"]).ok();
    let pid = Pid::from_raw(cluster.pid()).unwrap();
    let begun = Instant::now();
    kill_process(pid, Signal::INT).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert!(Path::new("/proc").join(cluster.pid().to_string()).exists(), "it waits for the pod");
    kill_process(pid, Signal::INT).unwrap();
    cluster.stop();
    assert!(begun.elapsed() < Duration::from_secs(12), "it took {:?}", begun.elapsed());
    as_before(&before);
}

#[test]
fn a_reader_that_goes_away_and_nohup_do_not_end_it() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    // As in `atoll dev 2>&1 | head -1`: the pipe closes after one line.
    let mut child = dev(&dir, &["sh", "-c", "exec \"$@\" 2>&1", "sh"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    drop(lines);
    let kubeconfig = dir.join("kubeconfig");
    let nodes = || {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&kubeconfig).args(["get", "nodes", "--no-headers"]);
        let shown = run(command, "");
        if shown.stdout.matches(" Ready").count() == 2 { Ok(()) } else { Err(format!("{shown:?}")) }
    };
    eventually(Duration::from_secs(60), "it runs on", nodes);
    send(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());

    let mut child = dev(&dir, &["nohup"]);
    until_ready(&mut child);
    send(&child, Signal::HUP);
    std::thread::sleep(Duration::from_secs(1));
    nodes().unwrap();
    // A successor waits for one that is stopping.
    send(&child, Signal::TERM);
    std::thread::sleep(Duration::from_millis(50));
    let mut next = dev(&dir, &[]);
    until_ready(&mut next);
    assert!(child.wait().unwrap().success());
    send(&next, Signal::INT);
    assert!(next.wait().unwrap().success());
    as_before(&before);
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let parent = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("dev").args(arguments).arg("--data-dir").arg(parent.path().join("data"));
        run(command, "").fails()
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let said = refused(&["--port", &port]);
    assert!(said.contains("choose another with --port: Address already in use"), "{said}");
    for count in ["0", "100000", "-1", "x"] {
        let said = refused(&[&format!("--nodes={count}")]);
        assert!(said.contains("invalid value") && said.contains("--nodes"), "{said}");
    }
    as_before(&before);
}

#[test]
fn long_and_odd_folders_work_and_two_clusters_do_not_meet() {
    if !is_root("leftovers") {
        return;
    }
    let before = system::state();
    let parent = tempfile::tempdir().unwrap();
    let long = parent.path().join("x".repeat(120)).join("data");
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    let odd = parent.path().join("with space, colon: and 'quote'");
    std::fs::create_dir(parent.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", parent.path().join("link")).unwrap();
    let mut first = Cluster::start_in(&long, 2);
    let mut second = Cluster::start_in(&odd, 1);
    let mut third = Cluster::start_in(&parent.path().join("link/data"), 1);
    for (cluster, count) in [(&first, 2), (&second, 1), (&third, 1)] {
        let nodes = cluster.json(&["nodes"]);
        assert_eq!(nodes["items"].as_array().unwrap().len(), count);
        cluster.kubectl_with(&["apply", "-f", "-"], POD).ok();
        cluster.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]).ok();
    }
    first.chaos("isolate", "node-2");
    second.chaos("isolate", "node-1");
    second.stop();
    third.json(&["nodes"]);
    first.chaos("heal", "node-2");
    first.stop();
    third.stop();
    as_before(&before);
}
