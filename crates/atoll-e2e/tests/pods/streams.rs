//! exec, attach, cp and port-forward by kubectl, over WebSocket and over SPDY.

use super::HOUR_GLASS;
use atoll_e2e::{
    Cluster, Output,
    cluster::{is_ready, run},
    eventually, http,
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

/// What turns WebSocket off in kubectl.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

/// More than any buffer on the way holds.
const LARGE_BYTES: usize = 6 << 20;

pub(crate) fn check(cluster: &Cluster, host: &Path) {
    for pod in ["io", "port"] {
        cluster.pod_becomes(pod, HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    }
    for environment in [&[][..], &SPDY] {
        let kubectl = Kubectl { cluster, environment };
        commands(&kubectl);
        terminals(&kubectl);
        attaches(&kubectl);
        copies(&kubectl, host);
        forwards(&kubectl);
    }
    once(&Kubectl { cluster, environment: &[] });
}

struct Kubectl<'a> {
    cluster: &'a Cluster,
    environment: &'a [(&'a str, &'a str)],
}

impl Kubectl<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.cluster.kubeconfig()).args(arguments);
        command.envs(self.environment.iter().copied());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        run(self.command(arguments), input)
    }
}

fn commands(kubectl: &Kubectl<'_>) {
    let script = "id -u; echo $E; pwd; echo err >&2; exit 42";
    let output = kubectl.run(&["exec", "io", "-c", "c", "--", "sh", "-c", script], "");
    assert_eq!((output.code, output.stdout.as_str()), (42, "1000\nenvval\n/tmp\n"));
    assert_eq!(output.stderr, "err\ncommand terminated with exit code 42\n");
    let large = "0123456789abcde\n".repeat(LARGE_BYTES / 16);
    let output = kubectl.run(&["exec", "-i", "io", "-c", "c", "--", "cat"], &large);
    assert!(output.clone().ok() == large, "{} bytes came back", output.stdout.len());
    let missing = kubectl.run(&["exec", "io", "-c", "c", "--", "/nope"], "").fails();
    let words = "error: Internal error occurred: error executing command in container: ";
    assert!(missing.starts_with(words), "{missing}");
    assert!(missing.ends_with("exec: \"/nope\": stat /nope: no such file or directory\n"));
    let unknown = kubectl.run(&["exec", "io", "-c", "none", "--", "true"], "").fails();
    assert!(unknown.contains("container none is not valid for pod io"), "{unknown}");
}

/// `script` gives kubectl a terminal of this size.
fn terminals(kubectl: &Kubectl<'_>) {
    let config = kubectl.cluster.kubeconfig().display().to_string();
    let exec = format!(
        "kubectl --kubeconfig {config} exec -it io -c t -- sh -c 'sleep 1; stty size; tty; exit 7'"
    );
    let mut command = Command::new("script");
    command.args(["-qec", &format!("stty cols 91 rows 33; {exec}"), "/dev/null"]);
    command.envs(kubectl.environment.iter().copied());
    // Its input stays open while kubectl runs.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let input = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("33 91\r\n/dev/pts/"), "{text}");
    assert!(text.contains("command terminated with exit code 7"), "{text}");
}

fn attaches(kubectl: &Kubectl<'_>) {
    let mut command = kubectl.command(&["attach", "-q", "-i", "io", "-c", "c"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::io::Write::write_all(&mut input, b"line\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got line");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The first client's end is the end of the container's input.
fn once(kubectl: &Kubectl<'_>) {
    let mut command = kubectl.command(&["attach", "-q", "-i", "io", "-c", "once"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::io::Write::write_all(&mut input, b"word\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "word");
    drop(input);
    eventually(HOUR_GLASS, "its input has ended", || {
        let processes = kubectl.run(&["exec", "io", "-c", "once", "--", "ps"], "").ok();
        if processes.contains(" cat") { Err(processes) } else { Ok(()) }
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

fn copies(kubectl: &Kubectl<'_>, host: &Path) {
    let (there, back) = (host.join("there"), host.join("back"));
    let bytes: Vec<u8> = (0..251).cycle().take(LARGE_BYTES).collect();
    fs::write(&there, &bytes).unwrap();
    kubectl.run(&["cp", there.to_str().unwrap(), "io:/tmp/f", "-c", "c"], "").ok();
    kubectl.run(&["cp", "io:/tmp/f", back.to_str().unwrap(), "-c", "c"], "").ok();
    assert!(fs::read(&back).unwrap() == bytes, "the copy differs");
    fs::remove_file(back).unwrap();
}

fn forwards(kubectl: &Kubectl<'_>) {
    for (target, port) in [("pod/port", ":8080"), ("service/port", ":81")] {
        let mut command = kubectl.command(&["port-forward", target, port]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        let local = line.strip_prefix("Forwarding from 127.0.0.1:").expect(&line);
        let local: u16 = local.split(' ').next().unwrap().parse().unwrap();
        for _ in 0..3 {
            let answer = http::get(SocketAddr::from(([127, 0, 0, 1], local)), "/").unwrap();
            assert!(answer.starts_with("hello from port on "), "{answer}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
