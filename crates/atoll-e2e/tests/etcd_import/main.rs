//! `atoll etcd import` of snapshots that real etcds saved: afterwards both sides answer alike.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a test: what goes wrong here fails it, and it may block"
)]

#[path = "../etcdctl/servers.rs"]
mod servers;

use atoll_e2e::{
    Output,
    cluster::{binary, free_port, run},
    eventually,
};
use serde_json::Value;
use servers::{Programs, Release, start_etcd};
use std::{
    fs::{self, File},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const START_MAX: Duration = Duration::from_secs(60);
const ALL: [&str; 4] = ["get", "", "--prefix", "-w=json"];

/// A server of ours with an etcd API; ended when dropped.
struct Ours {
    child: Child,
    kubeconfig: PathBuf,
    endpoint: String,
    folder: tempfile::TempDir,
}

impl Ours {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("atoll-import-").tempdir().unwrap();
        let (api, etcd) = (free_port(), free_port());
        let server = folder.path().join("server");
        let log = folder.path().join("log");
        let child = Command::new(binary())
            .args(["server", "--name", "one", "--data-dir"])
            .arg(&server)
            .args(["--listen", &format!("127.0.0.1:{api}")])
            .args(["--etcd-listen", &format!("127.0.0.1:{etcd}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let kubeconfig = server.join("kubeconfig");
        let ours = Self { child, kubeconfig, endpoint: format!("127.0.0.1:{etcd}"), folder };
        eventually(START_MAX, "the server serves", || {
            let is_open = TcpStream::connect(&ours.endpoint).is_ok() && ours.kubeconfig.exists();
            if is_open { Ok(()) } else { Err(fs::read_to_string(&log).unwrap()) }
        });
        ours
    }

    fn import(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(["etcd", "import"]).args(arguments);
        command.env("KUBECONFIG", &self.kubeconfig);
        run(command, "")
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

struct Etcdctl<'a> {
    program: &'a Path,
    endpoint: &'a str,
}

impl Etcdctl<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(self.program);
        command.env("ETCDCTL_API", "3").args(["--endpoints", self.endpoint]).args(arguments);
        run(command, input)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(arguments).ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// All keys with everything that is known of them, and the revision.
    #[track_caller]
    fn everything(&self) -> (Value, Value, Value) {
        let all = self.json(&ALL);
        (all["kvs"].clone(), all["count"].clone(), all["header"]["revision"].clone())
    }
}

/// What an etcd comes to: overwritten and deleted keys, some of them compacted, transactions,
/// leases, large and odd values.
fn live_through(etcd: &Etcdctl<'_>) {
    for number in 0..120 {
        etcd.run(&["put", &format!("/app/{number:03}"), &format!("value {number}")]).ok();
    }
    etcd.run(&["del", "/app/01", "--prefix"]).ok();
    for number in (0..120).step_by(4) {
        etcd.run(&["put", &format!("/app/{number:03}"), "again"]).ok();
    }
    let revision = etcd.everything().2.as_i64().unwrap() - 20;
    etcd.run(&["compact", &revision.to_string()]).ok();
    let transaction = "version(\"/app/000\") > \"0\"\n\nput /txn/a 1\nput /txn/b 2\ndel /app/03 --prefix\n\nput /txn/no 1\n\n";
    let done = etcd.run_with(&["txn", "--interactive"], transaction).ok();
    assert!(done.contains("SUCCESS"), "{done}");
    for (id, ttl) in [("7f00000000000001", "3600"), ("7f00000000000002", "900")] {
        let granted = etcd.json(&["lease", "grant", ttl, "-w=json"]);
        let granted = format!("{:x}", granted["ID"].as_i64().unwrap());
        etcd.run(&["put", &format!("/leased/{id}"), "here", &format!("--lease={granted}")]).ok();
        etcd.run(&["put", "/leased/both", ttl, &format!("--lease={granted}")]).ok();
    }
    let large = "x".repeat(1_000_000);
    etcd.run_with(&["put", "/large/one"], &large).ok();
    etcd.run_with(&["put", "/large/two"], &large[..300_000]).ok();
    etcd.run(&["put", "/odd/ü\u{7f}", "\u{1}\n\t"]).ok();
    etcd.run(&["put", "/odd/empty", "--", ""]).ok();
    etcd.run(&["del", "/app/099"]).ok();
}

fn save(etcd: &Etcdctl<'_>, to: &Path) {
    etcd.run(&["snapshot", "save", to.to_str().unwrap()]).ok();
}

/// Id, granted seconds and keys of every lease.
fn leases(etcd: &Etcdctl<'_>) -> Vec<(i64, i64, Value)> {
    let all = etcd.json(&["lease", "list", "-w=json"]);
    let ids = all["leases"].as_array().cloned().unwrap_or_default();
    let mut leases: Vec<_> = ids
        .iter()
        .map(|lease| {
            let id = lease["id"].as_i64().or(lease["ID"].as_i64()).unwrap();
            let ask = ["lease", "timetolive", &format!("{id:x}"), "--keys", "-w=json"];
            let told = etcd.json(&ask);
            (id, told["granted-ttl"].as_i64().unwrap(), sorted(&told["keys"]))
        })
        .collect();
    leases.sort_by_key(|(id, _, _)| *id);
    leases
}

fn sorted(keys: &Value) -> Value {
    let mut keys: Vec<String> =
        keys.as_array().into_iter().flatten().map(ToString::to_string).collect();
    keys.sort();
    keys.into()
}

fn hash(etcd: &Etcdctl<'_>) -> (Value, Value) {
    let told = etcd.json(&["endpoint", "hashkv", "-w=json"]);
    let hash = &told[0]["HashKV"];
    (hash["hash"].clone(), hash["compact_revision"].clone())
}

#[track_caller]
fn alike(theirs: &Etcdctl<'_>, ours: &Etcdctl<'_>) {
    let (expected, found) = (theirs.everything(), ours.everything());
    assert!(expected.0.as_array().unwrap().len() > 90);
    assert_eq!(found, expected);
    assert_eq!(leases(ours), leases(theirs));
    // Of the whole history: each version of each key, deletions too.
    assert_eq!(hash(ours), hash(theirs));
}

/// A history and what is refused of it; then both go on in the same way.
fn comes_over(release: Release) {
    let Some(programs) = release.programs() else { return };
    let served = start_etcd(&programs);
    let theirs = Etcdctl { program: &programs.etcdctl, endpoint: &served.endpoint };
    live_through(&theirs);
    let server = Ours::start();
    let ours = Etcdctl { program: &programs.etcdctl, endpoint: &server.endpoint };
    let file = server.folder.path().join("etcd.db");
    save(&theirs, &file);
    damaged_ones_are_refused(&server, &file);
    assert_eq!(ours.everything().2, 1);

    let said = server.import(&[file.to_str().unwrap()]).ok();
    assert!(said.contains(" is whole: an etcd at revision "), "{said}");
    assert!(said.contains(" with their revisions. The applications' keyspace has "), "{said}");
    alike(&theirs, &ours);
    for etcd in [&theirs, &ours] {
        etcd.run(&["put", "/app/000", "later"]).ok();
        etcd.run(&["del", "/txn", "--prefix"]).ok();
    }
    alike(&theirs, &ours);
    again_only_with_new_revisions(&server, &ours, &file);
    our_own_snapshot(&programs, &ours);
}

fn damaged_ones_are_refused(server: &Ours, file: &Path) {
    let good = fs::read(file).unwrap();
    let damaged = file.with_extension("damaged");
    let refused = |change: &dyn Fn(&mut Vec<u8>), flags: &[&str], reason: &str| {
        let mut bytes = good.clone();
        change(&mut bytes);
        fs::write(&damaged, bytes).unwrap();
        let said = server.import(&[flags, &[damaged.to_str().unwrap()]].concat()).fails();
        assert!(said.contains("nothing was changed") && said.contains(reason), "{said}");
    };
    let middle = good.len() / 2;
    refused(&|bytes| bytes[middle] ^= 1, &[], "its checksum is wrong");
    refused(&|bytes| bytes.truncate(middle / 512 * 512), &[], "no checksum at its end");
    refused(&|bytes| bytes.truncate(8192), &["--skip-hash-check"], "the file ends before it");
    refused(&|bytes| bytes.clear(), &["--skip-hash-check"], "no bbolt file");
    fs::remove_file(&damaged).unwrap();
}

fn again_only_with_new_revisions(server: &Ours, ours: &Etcdctl<'_>, file: &Path) {
    let file = file.to_str().unwrap();
    let said = server.import(&[file]).fails();
    assert!(said.contains("was written to already") && said.contains("--add"), "{said}");
    ours.run(&["put", "/own", "stays"]).ok();
    let (before, _, revision) = ours.everything();
    let told: Value =
        serde_json::from_str(&server.import(&[file, "--add", "-o", "json"]).ok()).unwrap();
    assert_eq!(told["keepsRevisions"], false);
    let (after, count, now) = ours.everything();
    assert!(now.as_i64() > revision.as_i64());
    // What was deleted since the snapshot is back, and what was not in it stays.
    assert_eq!(count.as_u64().unwrap(), before.as_array().unwrap().len() as u64 + 2);
    let value = |key: &str| ours.run(&["get", key, "--print-value-only"]).ok();
    assert_eq!((&*value("/app/000"), &*value("/own")), ("again\n", "stays\n"));
    assert_eq!(value("/txn/b"), "2\n");
    let leased = |kvs: &Value| kvs.to_string().matches("\"lease\"").count();
    assert_eq!(leased(&after), leased(&before));
}

/// What `etcdctl snapshot save` gets from us is imported as well.
fn our_own_snapshot(programs: &Programs, ours: &Etcdctl<'_>) {
    let server = Ours::start();
    let file = server.folder.path().join("ours.db");
    save(ours, &file);
    server.import(&[file.to_str().unwrap()]).ok();
    alike(ours, &Etcdctl { program: &programs.etcdctl, endpoint: &server.endpoint });
}

#[test]
fn an_etcd_3_4_comes_over() {
    comes_over(Release::Debian34);
}

#[test]
fn an_etcd_3_5_comes_over() {
    comes_over(Release::Distro35);
}
