//! `kubectl logs` in all its forms; rotation, compression, a flood.

use super::HOUR_GLASS;
use atoll_e2e::{Cluster, cluster::is_ready, eventually};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

/// Far more than an agent needs, in a debug build, and far less than a flood is.
const AGENT_BYTES_MAX: u64 = 200 << 20;

pub(crate) fn check(cluster: &Cluster) {
    cluster.pod_becomes("talk", HOUR_GLASS, |pod| {
        let restarted = pod["status"]["containerStatuses"][0]["restartCount"] == 1;
        (restarted && is_ready(pod)).then_some(())
    });
    words(cluster);
    over_websocket(cluster);
    of_the_node(cluster);
    refusals(cluster);
    rotation(cluster);
    flood(cluster);
}

fn logs(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.kubectl(&[&["logs"], arguments].concat()).ok()
}

fn words(cluster: &Cluster) {
    let all = "a0\na1\na2\na3\na4\n";
    assert_eq!(logs(cluster, &["talk"]), all);
    assert_eq!(logs(cluster, &["talk", "--previous"]), all);
    assert_eq!(logs(cluster, &["talk", "--tail=2"]), "a3\na4\n");
    assert_eq!(logs(cluster, &["talk", "--tail=0"]), "");
    assert_eq!(logs(cluster, &["talk", "--limit-bytes=4"]), "a0\na");
    assert_eq!(logs(cluster, &["talk", "-c", "ini"]), "from init\n");
    assert_eq!(logs(cluster, &["talk", "--since=1h"]), all);
    assert_eq!(logs(cluster, &["talk", "--since-time=2099-01-01T00:00:00Z"]), "");
    let every = logs(cluster, &["talk", "--all-containers", "--prefix"]);
    for line in ["[pod/talk/ini] from init", "[pod/talk/a] a0", "[pod/talk/b] b"] {
        assert!(every.lines().any(|one| one == line), "{every}");
    }
    let stamped = logs(cluster, &["talk", "--timestamps", "--tail=1"]);
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(time.parse::<jiff::Timestamp>().is_ok() && text == "a4\n", "{stamped}");
    let pod = cluster.json(&["pod", "talk"]);
    let (uid, node) = (&pod["metadata"]["uid"], pod["spec"]["nodeName"].as_str().unwrap());
    let dir = format!("default_talk_{}", uid.as_str().unwrap());
    let file = cluster.dir.join(node).join("logs").join(dir).join("b/0.log");
    let line = fs::read_to_string(&file).unwrap();
    let mut parts = line.trim_end().split(' ');
    assert!(parts.next().unwrap().parse::<jiff::Timestamp>().is_ok(), "{line}");
    assert_eq!(parts.collect::<Vec<_>>(), ["stdout", "F", "b"]);
}

fn over_websocket(cluster: &Cluster) {
    let path = "/api/v1/namespaces/default/pods/talk/log?container=a";
    let log: Vec<u8> = messages(cluster, path, 0x82).concat();
    assert_eq!(String::from_utf8_lossy(&log), "a0\na1\na2\na3\na4\n");
    let path = "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Dtalk";
    let events = messages(cluster, path, 0x81);
    let [event] = events.as_slice() else { panic!("{events:?}") };
    let event: serde_json::Value = serde_json::from_slice(event).unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["metadata"]["name"]),
        (&"ADDED".into(), &"talk".into())
    );
}

/// What comes over a WebSocket, by `kubectl proxy`, which passes the upgrade on and brings the
/// certificates.
fn messages(cluster: &Cluster, path: &str, kind: u8) -> Vec<Vec<u8>> {
    let mut proxy = Command::new("kubectl");
    proxy.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["proxy", "--port=0"]);
    let mut proxy = proxy.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().rsplit(' ').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(HOUR_GLASS)).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: binary.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let (head, mut frames) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    let mut all = Vec::new();
    while let [first, length, rest @ ..] = frames
        && *first == kind
    {
        let (length, rest) = match (length, rest) {
            (126, [high, low, rest @ ..]) => (u16::from_be_bytes([*high, *low]).into(), rest),
            (short, rest) => (usize::from(*short), rest),
        };
        let (piece, left) = rest.split_at(length);
        all.push(piece.to_vec());
        frames = left;
    }
    assert_eq!(frames, [0x88, 0x02, 0x03, 0xe8], "it says that it ends");
    all
}

/// What else a node's own API tells, by way of the server.
fn of_the_node(cluster: &Cluster) {
    let pod = cluster.json(&["pod", "talk"]);
    let (node, uid) = (pod["spec"]["nodeName"].as_str().unwrap(), &pod["metadata"]["uid"]);
    let at = |path: &str| format!("/api/v1/nodes/{node}/proxy/{path}");
    let get = |path: &str| cluster.kubectl(&["get", "--raw", &at(path)]).ok();
    assert!(get("logs/").contains("<a href=\"pods/\">pods/</a>"));
    let file = format!("logs/pods/default_talk_{}/b/0.log", uid.as_str().unwrap());
    assert!(get(&file).ends_with(" stdout F b\n"));
    let running: serde_json::Value = serde_json::from_str(&get("runningpods/")).unwrap();
    let pods = running["items"].as_array().unwrap();
    assert!(pods.iter().any(|one| one["metadata"]["uid"] == *uid), "{running}");
    let config: serde_json::Value = serde_json::from_str(&get("configz")).unwrap();
    assert_eq!(config["kubeletconfig"]["maxPods"], 110);
    assert_eq!(get("healthz/ping"), "ok");
    let run = at("run/default/talk/a?cmd=echo%20two%20words");
    let said = cluster.kubectl_with(&["create", "--raw", &run, "-f", "-"], "").ok();
    assert_eq!(said, "two words\n");
    let lease = cluster.json(&["lease", node, "--namespace=kube-node-lease"]);
    let owner = &lease["metadata"]["ownerReferences"][0];
    let uid = &cluster.json(&["node", node])["metadata"]["uid"];
    assert_eq!((&owner["kind"], &owner["uid"]), (&"Node".into(), uid), "{lease}");
}

fn refusals(cluster: &Cluster) {
    let fails = |arguments: &[&str]| cluster.kubectl(&[&["logs"], arguments].concat()).fails();
    let bad = "Error from server (BadRequest): ";
    let previous = fails(&["talk", "-c", "b", "--previous"]);
    let words = "previous terminated container \"b\" in pod \"talk\" not found\n";
    assert_eq!(previous, format!("{bad}{words}"));
    let unpulled = eventually(HOUR_GLASS, "the pull backs off", || {
        let text = fails(&["unpulled"]);
        if text.contains("trying and failing") { Ok(text) } else { Err(text) }
    });
    let words = "container \"c\" in pod \"unpulled\" is waiting to start: trying and failing to \
                 pull image\n";
    assert_eq!(unpulled, format!("{bad}{words}"));
    let unknown = fails(&["talk", "-c", "none"]);
    assert_eq!(unknown, "error: container none is not valid for pod talk\n");
    let path = "/api/v1/namespaces/default/pods/talk/log?container=a&limitBytes=0";
    let invalid = cluster.kubectl(&["get", "--raw", path]).fails();
    let words = "limitBytes: Invalid value: 0: must be greater than 0";
    assert!(invalid.contains(words), "{invalid}");
}

fn files(cluster: &Cluster, pod: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for node in ["node-1", "node-2"] {
        for entry in fs::read_dir(cluster.dir.join(node).join("logs")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&format!("default_{pod}_")) {
                let dir = fs::read_dir(entry.path().join("c")).into_iter().flatten().flatten();
                found.extend(dir.map(|entry| entry.path()));
            }
        }
    }
    found.sort();
    found
}

/// What a follower reads over several rotations is whole and in order.
fn rotation(cluster: &Cluster) {
    cluster.pod_becomes("rotates", HOUR_GLASS, |pod| is_ready(pod).then_some(()));
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(cluster.kubeconfig()).args(["logs", "-f", "rotates"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    cluster.kubectl(&["exec", "rotates", "--", "touch", "/tmp/go"]).ok();
    let mut last = 0_u64;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line == "END" {
            break;
        }
        let number: u64 = line.trim_start_matches('0').parse().unwrap();
        assert_eq!(number, last + 1, "lines are lost or come twice");
        last = number;
    }
    assert_eq!(last, 260_000);
    child.kill().unwrap();
    child.wait().unwrap();
    let names = eventually(HOUR_GLASS, "older files are compressed", || {
        let names: Vec<String> = files(cluster, "rotates")
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        let compressed = names.iter().filter(|name| name.ends_with(".gz")).count();
        // The one being written, the newest of those put aside, and the others.
        if compressed + 2 == names.len() && compressed > 1 {
            Ok(names)
        } else {
            Err(format!("{names:?}"))
        }
    });
    assert!(names.len() <= 5, "{names:?}");
    let text = logs(cluster, &["rotates"]);
    assert!(text.ends_with("END\n") && text.lines().count() > 100_000);
    let tail = logs(cluster, &["rotates", "--tail=100000"]);
    assert_eq!(tail.lines().count(), 100_000);
}

fn flood(cluster: &Cluster) {
    eventually(Duration::from_secs(60), "the flood ends", || {
        let tail = logs(cluster, &["flood", "--tail=1"]);
        if tail == "END\n" { Ok(()) } else { Err(tail) }
    });
    let sizes: Vec<u64> =
        files(cluster, "flood").iter().map(|path| path.metadata().map_or(0, |m| m.len())).collect();
    assert!(sizes.iter().all(|size| *size <= 11 << 20), "{sizes:?}");
    assert!(sizes.iter().sum::<u64>() < 64 << 20, "{sizes:?}");
    for (pid, bytes) in agents(cluster) {
        assert!(bytes < AGENT_BYTES_MAX, "agent {pid} has {bytes} bytes in memory");
    }
}

/// The agents' process ids, with the memory that each has.
pub(crate) fn agents(cluster: &Cluster) -> Vec<(i32, u64)> {
    let dir = cluster.dir.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
        let command = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        if command.contains("\0agent\0") && command.contains(&dir) {
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            found.push((pid, kib.unwrap_or(0_u64) << 10));
        }
    }
    found
}
