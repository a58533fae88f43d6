//! A cluster is saved while it goes on, lost, and comes back; a file that is not whole never does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{
    Cluster, Output,
    cluster::{binary, run},
    eventually, is_root,
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const READY: Duration = Duration::from_secs(90);

fn atoll(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments);
    run(command, "")
}

fn tool(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    run(command, "").ok()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn secret(path: &Path, content: &str) {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).unwrap().write_all(content.as_bytes()).unwrap();
}

#[test]
fn a_cluster_comes_back_from_its_backup() {
    if !is_root("backup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (backup, passphrase) = (at("one.atoll"), at("passphrase"));
    secret(&passphrase, "correct horse battery staple\n");
    let mut cluster = Cluster::start(1);
    cluster.hello();
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    sealed_secret(&cluster);
    let account = cluster.kubectl(&["create", "token", "default"]).ok();
    let join = cluster.atoll(&["token", "create"]).ok();
    let node = uid(&cluster, &["node", "node-1"]);
    let certificate = fs::read(cluster.dir.join("node-1/agent/client.crt")).unwrap();

    let saved = cluster.atoll(&[
        "backup",
        text(&backup),
        "--passphrase-file",
        text(&passphrase),
        "--output",
        "json",
    ]);
    let saved: Value = serde_json::from_str(&saved.ok()).unwrap();
    let mode = fs::metadata(&backup).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    cluster.kubectl(&["create", "configmap", "lost", "--from-literal=a=1"]).ok();
    let seen = cluster.json(&["configmap", "lost"])["metadata"]["resourceVersion"].clone();
    refusals(&cluster, folder.path());

    cluster.stop();
    let server = cluster.dir.join("server");
    fs::remove_dir_all(&server).unwrap();
    let restore = [
        "restore",
        text(&backup),
        "--data-dir",
        text(&server),
        "--passphrase-file",
        text(&passphrase),
    ];
    // Nobody answers, and nothing is restored.
    let asked = atoll(&restore);
    assert!(asked.stdout.contains("  - what was written after it was saved is lost\n"));
    assert!(asked.fails().contains("--yes"));
    assert!(!server.exists());
    let said = atoll(&[&restore[..], &["--yes"]].concat()).ok();
    let revision = saved["clusterRevision"].as_i64().unwrap();
    assert!(said.contains(&format!("objects at revision {revision},")), "{said}");
    assert!(said.contains(saved["clusterId"].as_str().unwrap()), "{said}");

    cluster.launch();
    cluster.node_ready("node-1", READY);
    cluster.pods_ready("app=hello", 5, READY);
    cluster.kubectl(&["get", "configmap", "kept"]).ok();
    assert!(cluster.kubectl(&["get", "configmap", "lost"]).fails().contains("not found"));
    assert_eq!(opened(&cluster), SECRET);
    cluster.atoll(&["secrets", "rotate-key"]).ok();
    assert_eq!(opened(&cluster), SECRET);
    // The node is who it was, by the certificate that it had.
    assert_eq!(uid(&cluster, &["node", "node-1"]), node);
    let now = fs::read(cluster.dir.join("node-1/agent/client.crt")).unwrap();
    assert!(now == certificate, "the node joined anew");
    tokens_stay_good(&cluster, &account, &join);
    // Who has seen what is lost learns that it has to read anew.
    let watch = format!(
        "/api/v1/configmaps?watch=1&timeoutSeconds=5&resourceVersion={}",
        seen.as_str().unwrap()
    );
    let told = cluster.kubectl(&["get", "--raw", &watch]);
    let told = format!("{}{}", told.stdout, told.stderr);
    assert!(told.contains("\"code\":410") && told.contains("too old resource version"), "{told}");
    cluster.kubectl(&["create", "configmap", "new", "--from-literal=a=1"]).ok();
    let new = cluster.json(&["configmap", "new"])["metadata"]["resourceVersion"].clone();
    assert!(new.as_str().unwrap().parse::<i64>().unwrap() > revision + 1_000_000_000);
}

/// The first from the backup, the others by the ordinary join.
#[test]
fn three_servers_come_back_from_a_backup() {
    if !is_root("backup") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (backup, passphrase) = (folder.path().join("three.atoll"), folder.path().join("key"));
    secret(&passphrase, "correct horse battery staple\n");
    let key = ["--passphrase-file", text(&passphrase)];
    let mut cluster = Cluster::start_servers(3, 3);
    cluster.kubectl(&["create", "configmap", "kept", "--from-literal=a=1"]).ok();
    sealed_secret(&cluster);
    cluster.atoll(&[&["backup", text(&backup)], &key[..]].concat()).ok();
    cluster.kubectl(&["create", "configmap", "lost", "--from-literal=a=1"]).ok();
    cluster.stop();
    let folders = ["server", "server-2", "server-3"].map(|name| cluster.dir.join(name));
    folders.iter().for_each(|folder| fs::remove_dir_all(folder).unwrap());
    // Its folder is lost, too: what the cluster knows of the node is no longer there.
    fs::remove_dir_all(cluster.dir.join("node-3")).unwrap();
    let restore = ["restore", text(&backup), "--data-dir", text(&folders[0]), "--yes"];
    let looked = atoll(&[&restore[..], &key, &["--dry-run"]].concat()).ok();
    assert!(looked.ends_with("Nothing was changed.\n") && !folders[0].exists(), "{looked}");
    atoll(&[&restore[..], &key].concat()).ok();

    cluster.launch();
    let voters = eventually(READY, "three servers with a vote", || {
        let all = cluster.atoll(&["member", "list", "-o", "json"]).ok();
        let all: Value = serde_json::from_str(&all).unwrap();
        let members = all["members"].as_array().unwrap().iter();
        let voters = members.filter(|one| one["isLearner"] == false).count();
        if voters == 3 { Ok(voters) } else { Err(all.to_string()) }
    });
    assert_eq!(voters, 3);
    for node in ["node-1", "node-2", "node-3"] {
        cluster.node_ready(node, READY);
    }
    cluster.kubectl(&["get", "configmap", "kept"]).ok();
    assert!(cluster.kubectl(&["get", "configmap", "lost"]).fails().contains("not found"));
    // All of them hold it: it is there without the one that was restored.
    cluster.chaos("kill", "node-1");
    eventually(READY, "the two that joined go on", || {
        let got = cluster.kubectl(&["get", "configmap", "kept"]);
        if got.code == 0 { Ok(()) } else { Err(got.stderr) }
    });
    assert_eq!(opened(&cluster), SECRET);
}

const SECRET: &str = "c3dvcmRmaXNo";

/// With a key that is not the first of the cluster.
fn sealed_secret(cluster: &Cluster) {
    cluster.atoll(&["secrets", "rotate-key"]).ok();
    cluster.kubectl(&["create", "secret", "generic", "word", "--from-literal=is=swordfish"]).ok();
}

fn opened(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", "secret", "word", "-o", "jsonpath={.data.is}"]).ok()
}

fn tokens_stay_good(cluster: &Cluster, account: &str, join: &str) {
    let mut review = Command::new("kubectl");
    let port = format!("--server=https://127.0.0.1:{}", cluster.port);
    review.args([&port, "--insecure-skip-tls-verify", "--kubeconfig=/dev/null"]);
    review.args(["auth", "whoami", "-o", "name", "--token", account.trim()]);
    let who = run(review, "");
    assert_eq!(who.code, 0, "{}", who.stderr);
    let id = join.trim().split('.').nth(2).unwrap();
    assert!(cluster.atoll(&["token", "list"]).ok().contains(id));
}

fn uid(cluster: &Cluster, what: &[&str]) -> String {
    cluster.json(what)["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// Everything that is refused, with the reason, and leaves nothing behind.
fn refusals(cluster: &Cluster, folder: &Path) {
    let at = |name: &str| folder.join(name);
    let (backup, passphrase) = (at("one.atoll"), at("passphrase"));
    let again = ["backup", text(&backup), "--passphrase-file", text(&passphrase)];
    assert!(cluster.atoll(&again).fails().contains("is there already"));
    let denied = cluster.kubectl(&[
        "create",
        "--raw",
        "/atoll/v1/backup",
        "-f",
        "/dev/null",
        "--as=system:serviceaccount:default:default",
    ]);
    assert!(denied.fails().contains("forbidden"));

    let good = fs::read(&backup).unwrap();
    let damaged = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(at(name), bytes).unwrap();
        name.to_owned()
    };
    let middle = good.len() / 2;
    let cases = [
        (damaged("flipped", &|bytes| bytes[middle] ^= 1), "passphrase", "damaged"),
        (damaged("cut", &|bytes| bytes.truncate(middle)), "passphrase", "cut short"),
        (damaged("tiny", &|bytes| bytes.truncate(30)), "passphrase", "cut short"),
        (damaged("longer", &|bytes| bytes.push(0)), "passphrase", "damaged"),
        (damaged("other", &|bytes| bytes[0] ^= 1), "passphrase", "encrypted file"),
        ("one.atoll".to_owned(), "wrong", "the passphrase is wrong"),
    ];
    secret(&at("wrong"), "correct horse battery stable\n");
    for (file, passphrase, reason) in cases {
        refused(&at(&file), ("--passphrase-file", &at(passphrase)), &at("new"), reason);
        assert!(!at("new").exists(), "{file}");
    }
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/file"), "x").unwrap();
    let passphrase = ("--passphrase-file", &*passphrase);
    refused(&backup, passphrase, &at("full"), "holds something already (file)");
    small_disk(&backup, passphrase, &at("small"));
    of_another_version(cluster, folder);
}

fn refused(file: &Path, key: (&str, &Path), dir: &Path, reason: &str) {
    let restore = ["restore", text(file), "--yes", "--data-dir", text(dir), key.0, text(key.1)];
    let said = atoll(&restore).fails();
    assert!(said.contains(reason), "{said}");
}

/// A restore that finds no room leaves the folder as it was.
fn small_disk(backup: &Path, key: (&str, &Path), dir: &Path) {
    let mounted = Mounted::tmpfs(dir, "256k");
    refused(backup, key, &mounted.0, "No space left on device");
    assert_eq!(fs::read_dir(&mounted.0).unwrap().count(), 0);
}

/// With a key of age's own, and age to open and close the file.
fn of_another_version(cluster: &Cluster, folder: &Path) {
    let at = |name: &str| folder.join(name);
    let (key, keyed) = (at("key"), at("keyed"));
    tool("age-keygen", &["-o", text(&key)]);
    let recipient = tool("age-keygen", &["-y", text(&key)]);
    let recipient = recipient.trim();
    let named = at("keyed.atoll");
    cluster.atoll(&["backup", text(&named), "--recipient", recipient]).ok();
    let (plain, newer) = (at("plain"), at("newer.atoll"));
    tool("age", &["-d", "-i", text(&key), "-o", text(&plain), text(&named)]);
    let mut bytes = fs::read(&plain).unwrap();
    assert!(bytes.starts_with(b"ATBACKUP"));
    bytes[8] += 1;
    fs::write(&plain, bytes).unwrap();
    tool("age", &["-r", recipient, "-o", text(&newer), text(&plain)]);
    let identity = ("--identity", &*key);
    refused(&newer, identity, &at("new"), "version 2; this release reads version 1");
    refused(&named, ("--passphrase-file", &at("passphrase")), &at("new"), "for a key");
    let restore = ["restore", text(&named), "--yes", "--data-dir", text(&keyed)];
    atoll(&[&restore[..], &["--identity", text(&key)]].concat()).ok();
    assert!(at("keyed/keys/serving-ca.key").exists());
}

struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(dir: &Path, size: &str) -> Self {
        fs::create_dir(dir).unwrap();
        tool("mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "none", text(dir)]);
        Self(dir.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        tool("umount", &[text(&self.0)]);
    }
}
