//! Servers and agents started by hand, without `atoll dev`, and the tokens between them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{cluster::run, eventually, is_root, lab::Lab};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Stdio, time::Duration};

const SOON: Duration = Duration::from_secs(30);

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  containers: [{name: one, image: atoll.local/hello}]
";

/// The process that has the lock of a node's name server, and whether it lives.
fn name_server(folder: &Path) -> Result<i32, String> {
    let text = std::fs::read_to_string(folder.join("dns/lock")).map_err(|e| e.to_string())?;
    let pid: i32 =
        text.trim().parse().map_err(|error| format!("the lock holds {text:?}: {error}"))?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    if line.contains(" dns --listen ") { Ok(pid) } else { Err(format!("{pid} is {line:?}")) }
}

fn resolve(lab: &Lab, k: u32) -> Result<String, String> {
    let mut dig = lab.inside(k, "dig");
    dig.args(["+short", "+time=1", "+tries=1"]);
    dig.args(["@10.43.0.10", "kubernetes.default.svc.cluster.local"]);
    let answer = run(dig, "");
    if answer.stdout.trim() == "10.43.0.1" { Ok(answer.stdout) } else { Err(format!("{answer:?}")) }
}

#[test]
fn a_node_joins_by_hand_and_has_names() {
    if !is_root("join") {
        return;
    }
    let mut lab = Lab::new(1, 2);
    let (server, node) = (lab.dir("server"), lab.dir("node"));
    let run_dir = lab.dir("run");
    lab.start(
        1,
        "server.log",
        &["server", "--data-dir", server.to_str().unwrap(), "--advertise", "10.251.1.1"],
    );
    eventually(SOON, "the server is ready", || {
        let answer = lab.kubectl(&["get", "--raw", "/readyz"]);
        if answer.code == 0 { Ok(()) } else { Err(lab.log("server.log")) }
    });
    let token = lab.atoll(&["token", "create"]).ok();
    let token_file = lab.dir("token");
    std::fs::write(&token_file, &token).unwrap();
    let words = [
        "agent",
        "--join",
        "https://10.251.1.1:6443",
        "--token-file",
        token_file.to_str().unwrap(),
        "--name",
        "by-hand",
        "--data-dir",
        node.to_str().unwrap(),
        "--run-dir",
        run_dir.to_str().unwrap(),
    ];
    let agent = lab.start(2, "agent.log", &words);
    ready(&lab, "by-hand");
    let key = std::fs::metadata(node.join("agent/client.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    runs_a_pod(&lab);
    eventually(SOON, "names are found", || resolve(&lab, 2));
    let names = name_server(&node).unwrap();

    // It outlives an agent that is killed, and the next one adopts it.
    lab.signal(agent, Signal::KILL);
    resolve(&lab, 2).unwrap();
    let agent = lab.start(2, "agent.log", &words);
    eventually(SOON, "it is adopted", || {
        let log = lab.log("agent.log");
        if log.contains("the node's name server is adopted") { Ok(()) } else { Err(log) }
    });
    ready(&lab, "by-hand");
    assert_eq!(name_server(&node).unwrap(), names);

    // One that dies is started again.
    kill_process(Pid::from_raw(names).unwrap(), Signal::KILL).unwrap();
    eventually(SOON, "another one answers", || {
        let other = name_server(&node)?;
        if other == names { Err("still the same".to_owned()) } else { resolve(&lab, 2) }
    });
    let names = name_server(&node).unwrap();

    // It goes with an agent that is told to end.
    lab.signal(agent, Signal::TERM);
    assert!(!Path::new("/proc").join(names.to_string()).exists(), "{names} is left");
    lab.kubectl(&["delete", "pod", "one", "--force", "--grace-period=0"]).ok();
}

fn ready(lab: &Lab, node: &str) {
    eventually(SOON, "the node is ready", || {
        let nodes = lab.kubectl(&["get", "nodes", "--no-headers"]);
        let found =
            nodes.stdout.lines().any(|line| line.starts_with(node) && line.contains(" Ready"));
        if found { Ok(()) } else { Err(format!("{nodes:?}\n{}", lab.log("agent.log"))) }
    });
}

fn runs_a_pod(lab: &Lab) {
    eventually(SOON, "the pod is created", || {
        let created = lab.kubectl_with(&["apply", "-f", "-"], POD);
        if created.code == 0 { Ok(()) } else { Err(created.stderr) }
    });
    lab.kubectl(&["wait", "--for=condition=Ready", "pod/one", "--timeout=30s"]).ok();
    let said = lab.kubectl(&["exec", "one", "--", "/atoll", "--version"]).ok();
    assert!(said.starts_with("atoll "), "{said}");
}

#[test]
fn tokens_that_do_not_fit_are_refused_with_a_reason() {
    if !is_root("join") {
        return;
    }
    let mut lab = Lab::new(2, 3);
    let (server, other) = (lab.dir("server"), lab.dir("other"));
    lab.start(
        1,
        "server.log",
        &["server", "--data-dir", server.to_str().unwrap(), "--advertise", "10.251.2.1"],
    );
    lab.start(
        3,
        "other.log",
        &["server", "--data-dir", other.to_str().unwrap(), "--advertise", "10.251.2.3"],
    );
    eventually(SOON, "the servers are ready", || {
        let first = lab.kubectl(&["get", "--raw", "/readyz"]);
        let second = lab.log("other.log").contains("serving");
        if first.code == 0 && second { Ok(()) } else { Err(lab.log("server.log")) }
    });
    let join = |url: &str, token: &str, name: &str| {
        let mut command = lab.command(2, &["agent", "--join", url, "--name", name]);
        command.arg("--data-dir").arg(lab.dir(name)).arg("--run-dir").arg(lab.dir("run"));
        command.env("ATOLL_TOKEN", token);
        run(command, "").fails()
    };
    let url = "https://10.251.2.1:6443";
    let token = lab.atoll(&["token", "create", "--ttl", "1h"]).ok();
    let token = token.trim();

    let said = join(url, "", "empty");
    assert!(said.contains("make a token on a server with `atoll token create`"), "{said}");
    let said = join(url, "K10abc::server:secret", "garbage");
    assert!(said.contains("this is not a join token; it must look like atoll1."), "{said}");
    let said = join("https://10.251.2.3:6443", token, "elsewhere");
    assert!(said.contains("is for another cluster"), "{said}");
    assert!(!said.contains("InvalidCertificate"), "{said}");
    let said = join("https://10.251.2.1:9", token, "nobody");
    assert!(said.contains("10.251.2.1:9 is not reached; check"), "{said}");
    let said = join("10.251.2.1:6443", token, "no-url");
    assert!(said.contains("is not a URL such as https://10.0.0.1:6443"), "{said}");
    let mut changed = token.to_owned();
    changed.replace_range(changed.len() - 4.., "0000");
    let said = join(url, &changed, "guessed");
    assert!(said.contains("is not known here; create one with `atoll token create`"), "{said}");

    let short = lab.atoll(&["token", "create", "--ttl", "1s"]).ok();
    std::thread::sleep(Duration::from_millis(1_200));
    let said = join(url, short.trim(), "late");
    assert!(said.contains("expired at"), "{said}");
    listed_and_revoked(&lab, token, &join);
    used_once(&lab, &join);
}

type Join<'a> = dyn Fn(&str, &str, &str) -> String + 'a;

fn listed_and_revoked(lab: &Lab, token: &str, join: &Join<'_>) {
    let id = token.split('.').nth(2).unwrap();
    let listed = lab.atoll(&["token", "list"]).ok();
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap();
    assert!(line.contains("can be used"), "{listed}");
    assert!(!listed.contains(token.rsplit('.').next().unwrap()), "{listed}");
    let items: Value =
        serde_json::from_str(&lab.atoll(&["token", "list", "-o", "json"]).ok()).unwrap();
    assert!(items.as_array().unwrap().iter().any(|item| item["id"] == id), "{items}");
    let revoked = lab.atoll(&["token", "revoke", id]).ok();
    assert_eq!(revoked, format!("join token {id} revoked\n"));
    let said = join("https://10.251.2.1:6443", token, "revoked");
    assert!(said.contains("is not known here"), "{said}");
    let said = lab.atoll(&["token", "revoke", id]).fails();
    assert!(said.contains(&format!("there is no join token {id}")), "{said}");
    let said = lab.atoll(&["token", "create", "--ttl", "soon"]).fails();
    assert!(said.contains("is not a duration such as 30m, 24h or 7d"), "{said}");
    let said = lab.atoll(&["token", "create", "--ttl", "400d"]).fails();
    assert!(said.contains("ttlSeconds must be between 1 and"), "{said}");
}

/// The port of the kubelet is taken, so the agent ends once it has joined.
fn used_once(lab: &Lab, join: &Join<'_>) {
    let url = "https://10.251.2.1:6443";
    let token = lab.atoll(&["token", "create"]).ok();
    let token = token.trim();
    let mut holder = lab.inside(2, "python3");
    holder.args(["-m", "http.server", "10250"]);
    holder.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut holder = holder.spawn().unwrap();
    eventually(SOON, "the port is taken", || {
        let mut sockets = lab.inside(2, "ss");
        sockets.args(["-ltnH", "sport", "=", ":10250"]);
        let shown = run(sockets, "").stdout;
        if shown.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
    let said = join(url, token, "first");
    assert!(said.contains("10250") && said.contains("Address already in use"), "{said}");
    let said = join(url, token, "second");
    assert!(said.contains("was already used by node \"first\""), "{said}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    let left = name_server(&lab.dir("first"));
    assert!(left.is_err(), "the name server of a node that does not run: {left:?}");
}

/// The API's port of a server in the lab.
fn url(net: u32, k: u32) -> String {
    format!("https://10.251.{net}.{k}:6443")
}

fn start_server(lab: &mut Lab, net: u32, k: u32, more: &[&str]) -> usize {
    let name = format!("server-{k}");
    let folder = if k == 1 { lab.dir("server") } else { lab.dir(&name) };
    let advertise = format!("10.251.{net}.{k}");
    let mut words = vec!["server", "--data-dir", folder.to_str().unwrap(), "--name", &name];
    words.extend(["--advertise", &advertise]);
    words.extend(more);
    lab.start(k, &format!("{name}.log"), &words)
}

fn members(lab: &Lab) -> Vec<Value> {
    let listed = lab.atoll(&["member", "list", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
    listed["members"].as_array().cloned().unwrap_or_default()
}

fn voters(lab: &Lab, count: usize) {
    eventually(SOON, &format!("{count} servers have a vote"), || {
        let members = members(lab);
        let voters = members.iter().filter(|one| one["isLearner"] == false).count();
        if voters == count && members.len() == count {
            return Ok(());
        }
        Err(format!("{members:?}\n{}\n{}", lab.log("server-1.log"), lab.log("server-2.log")))
    });
}

#[test]
fn servers_join_by_hand_and_leave() {
    if !is_root("join") {
        return;
    }
    let mut lab = Lab::new(3, 4);
    start_server(&mut lab, 3, 1, &[]);
    voters(&lab, 1);
    server_tokens_are_another_thing(&lab);
    let sockets = run(
        {
            let mut ss = lab.inside(1, "ss");
            ss.args(["-ltnH"]);
            ss
        },
        "",
    )
    .stdout;
    assert!(!sockets.contains(":2380"), "nobody has joined yet: {sockets}");

    let token = lab.atoll(&["token", "create", "--usage", "server"]).ok();
    let token = token.trim().to_owned();
    let joining = ["--join", &url(3, 1), "--token", &token];
    let second = start_server(&mut lab, 3, 2, &joining);
    voters(&lab, 2);
    for key in ["client-ca.key", "serving-ca.key", "peer-ca.key", "service-account.key"] {
        let path = lab.dir("server-2").join("keys").join(key);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
        let first = std::fs::read(lab.dir("server/keys").join(key)).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), first, "{key}");
    }
    let listed = lab.atoll(&["token", "list"]).ok();
    let line = listed.lines().find(|line| line.contains("server-2")).unwrap();
    assert!(line.contains(" server ") && line.contains("used by server-2"), "{listed}");

    // The same token does not open it again, and names are taken once.
    let refused = refused_server(&lab, 3, "server-3", &token);
    assert!(refused.contains("was already used by node \"server-2\""), "{refused}");
    let fresh = lab.atoll(&["token", "create", "--usage", "server"]).ok();
    let refused = refused_server(&lab, 3, "server-2", fresh.trim());
    assert!(refused.contains("a server called \"server-2\" is part of the cluster"), "{refused}");
    let joining = ["--join", &url(3, 1), "--token", fresh.trim()];
    start_server(&mut lab, 3, 3, &joining);
    voters(&lab, 3);

    // A restart needs neither token nor --join; one that is given is not needed.
    lab.signal(second, Signal::KILL);
    let second = start_server(&mut lab, 3, 2, &["--join", &url(3, 1)]);
    eventually(SOON, "it is back", || {
        let log = lab.log("server-2.log");
        let is_there = members(&lab).iter().filter(|one| one["isThere"] == true).count() == 3;
        if is_there && log.contains("is a member already") { Ok(()) } else { Err(log) }
    });
    leaves(&mut lab, second);
}

/// A member that is taken out says so and ends; the others go on.
fn leaves(lab: &mut Lab, second: usize) {
    let removed = lab.atoll(&["member", "remove", "server-2"]).ok();
    assert_eq!(removed, "member/server-2 removed\n");
    let ended = lab.processes[second].wait().unwrap();
    assert!(!ended.success());
    let log = lab.log("server-2.log");
    assert!(log.contains("this server was removed from the cluster"), "{log}");
    voters(lab, 2);
    let refused = lab.atoll(&["member", "remove", "nobody"]).fails();
    assert!(refused.contains("no server is called \"nobody\""), "{refused}");
    lab.kubectl(&["create", "configmap", "after"]).ok();
}

fn server_tokens_are_another_thing(lab: &Lab) {
    let server = lab.atoll(&["token", "create", "--usage", "server"]).ok();
    let server = server.trim();
    assert!(server.starts_with("atoll1-server."), "{server}");
    let agent = lab.atoll(&["token", "create"]).ok();
    let refused = refused_server(lab, 3, "server-9", agent.trim());
    assert!(refused.contains("lets a node join, not a server"), "{refused}");
    // A beginning that was rewritten changes nothing.
    let rewritten = agent.trim().replace("atoll1.", "atoll1-server.");
    let refused = refused_server(lab, 3, "server-9", &rewritten);
    assert!(refused.contains("is not known here"), "{refused}");
    let mut command = lab.command(2, &["agent", "--join", &url(3, 1), "--name", "sly"]);
    command.arg("--data-dir").arg(lab.dir("sly")).arg("--run-dir").arg(lab.dir("run"));
    let refused = run(
        {
            command.args(["--token", server]);
            command
        },
        "",
    )
    .fails();
    assert!(refused.contains("lets a server join, not a node"), "{refused}");
    let id = server.split('.').nth(2).unwrap();
    assert_eq!(lab.atoll(&["token", "revoke", id]).ok(), format!("join token {id} revoked\n"));
    let refused = refused_server(lab, 3, "server-9", server);
    assert!(refused.contains("is not known here"), "{refused}");
    let refused = refused_server(lab, 3, "server-9", "");
    assert!(refused.contains("`atoll token create --usage server`"), "{refused}");
}

/// A server that is not let in, in the fourth namespace; what it says.
fn refused_server(lab: &Lab, net: u32, name: &str, token: &str) -> String {
    let folder = lab.dir(&format!("refused-{name}"));
    let mut command = lab.command(4, &["server", "--join", &url(net, 1), "--name", name]);
    command.arg("--data-dir").arg(&folder).env("ATOLL_TOKEN", token);
    run(command, "").fails()
}
