//! One of three servers finds that its store was changed, cut, replaced by an old copy or removed,
//! and comes back by itself as a new member, under continuous writes and reads.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]
#![allow(clippy::print_stdout, reason = "what was measured is worth reading")]

use atoll_e2e::{Cluster, Output, cluster::run, eventually, is_root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// From the start of the server to its vote; 3 s on a machine of its own.
const BACK_WITHIN: Duration = Duration::from_secs(40);

#[test]
fn a_server_whose_store_goes_bad_comes_back_by_itself() {
    if !is_root("rejoin") {
        return;
    }
    let mut cluster = Cluster::start_servers(3, 3);
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(BTreeSet::new()));
    let load = Load { cluster: &cluster, stop: &stop, acknowledged: &acknowledged };
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| load.write());
        let reader = threads.spawn(|| load.read());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            load.until_more(5);
            load.goes_bad("node-2", "a flipped bit in the log", &flip_in_log, "is damaged at");
            load.goes_bad("node-3", "a flipped bit in the state", &flip_in_state, "is damaged at");
            load.goes_bad("node-2", "a log that was cut", &cut_log, "");
            load.old_copy("node-3");
            let said = "another than that of the majority";
            load.goes_bad("node-3", "another history", &another_history, said);
            load.only_when_a_majority_is_there("node-1", "node-3");
        }));
        stop.store(true, Ordering::Relaxed);
        let (writes, reads) = (writer.join().unwrap(), reader.join().unwrap());
        println!("{writes} writes acknowledged, {reads} consistent reads");
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    cluster.stop();
}

#[derive(Clone, Copy)]
struct Load<'a> {
    cluster: &'a Cluster,
    stop: &'a AtomicBool,
    acknowledged: &'a Mutex<BTreeSet<String>>,
}

impl Load<'_> {
    fn write(&self) -> usize {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let name = format!("configmap/w-{number}");
            let words = ["create", "configmap", &name[10..], "--request-timeout=5s"];
            if self.cluster.kubectl(&words).code == 0 {
                self.acknowledged.lock().unwrap().insert(name);
            }
        }
        self.known().len()
    }

    /// Through whichever server the supervisor chooses.
    fn read(&self) -> usize {
        let mut reads = 0;
        while !self.stop.load(Ordering::Relaxed) {
            reads += usize::from(
                self.nothing_is_missing("any server", &|words| self.cluster.kubectl(words)),
            );
        }
        reads
    }

    fn known(&self) -> BTreeSet<String> {
        self.acknowledged.lock().unwrap().clone()
    }

    fn until_more(&self, writes: usize) {
        let before = self.known().len();
        eventually(Duration::from_secs(30), "writes go on", || {
            let now = self.known().len();
            if now >= before + writes { Ok(()) } else { Err(format!("{now} after {before}")) }
        });
    }

    /// A consistent read is refused, or shows everything that was acknowledged before.
    fn nothing_is_missing(&self, who: &str, kubectl: &dyn Fn(&[&str]) -> Output) -> bool {
        let known = self.known();
        let read = kubectl(&["get", "configmaps", "-o", "name", "--request-timeout=5s"]);
        if read.code != 0 {
            return false;
        }
        let there: BTreeSet<String> = read.stdout.lines().map(ToOwned::to_owned).collect();
        let missing: Vec<&String> = known.difference(&there).collect();
        assert!(missing.is_empty(), "a wrong read of {who}: {missing:?} are missing");
        true
    }

    fn member(&self, node: &str) -> Value {
        let listed = self.cluster.atoll(&["member", "list", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        let members = listed["members"].as_array().cloned().unwrap_or_default();
        members.into_iter().rfind(|one| one["name"] == node).unwrap_or_default()
    }

    fn folder(&self, node: &str) -> PathBuf {
        let name =
            if node == "node-1" { "server".to_owned() } else { node.replace("node", "server") };
        self.cluster.dir.join(name)
    }

    /// Asks that very server, from its own node.
    fn inside(&self, node: &str, url: &str, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.cluster.netns(node).display()));
        command.arg("kubectl").arg("--kubeconfig").arg(self.cluster.kubeconfig());
        command.arg(format!("--server={url}")).args(words);
        run(command, "")
    }

    fn goes_bad(&self, node: &str, what: &str, damage: &dyn Fn(&Path), said: &str) {
        let before = self.member(node);
        self.cluster.chaos("kill", node);
        damage(&self.folder(node).join("store"));
        self.until_more(2);
        let begun = Instant::now();
        let log = self.log(node).len();
        std::thread::scope(|threads| {
            let healing = threads.spawn(|| self.cluster.chaos("heal", node));
            self.is_back(node, &before);
            healing.join().unwrap();
        });
        println!("{what} of {node}: it has its vote again after {:?}", begun.elapsed());
        self.says_so(node, &self.log(node)[log..], said);
    }

    /// A new member under the same name, with a vote, that has everything; it shows nothing wrong on
    /// its way there.
    fn is_back(&self, node: &str, before: &Value) {
        let url = before["clientUrls"][0].as_str().unwrap().to_owned();
        let inside = |words: &[&str]| self.inside(node, &url, words);
        eventually(BACK_WITHIN, &format!("{node} is back"), || {
            let has_read = self.nothing_is_missing(node, &inside);
            let now = self.member(node);
            let is_new = now["id"].is_string() && now["id"] != before["id"];
            if is_new && now["isLearner"] == false && now["isThere"] == true && has_read {
                return Ok(());
            }
            Err(format!("{now}\n{}", self.log(node)))
        });
    }

    fn log(&self, node: &str) -> String {
        fs::read_to_string(self.folder(node).join("server.log")).unwrap_or_default()
    }

    fn says_so(&self, node: &str, log: &str, said: &str) {
        let told = log.lines().find(|line| line.contains("this server has stopped serving"));
        let told = told.unwrap_or_else(|| panic!("it did not say so:\n{log}"));
        assert!(told.contains("ERROR") && told.contains(said), "{said}: {told}");
        assert!(log.contains("taken in as a new member"), "{log}");
        let entries = fs::read_dir(self.folder(node)).unwrap().flatten();
        let kept = entries.filter(|one| one.file_name().to_string_lossy().starts_with("store.d"));
        let kept: Vec<PathBuf> = kept.map(|one| one.path()).collect();
        assert!(kept.len() <= 1, "{kept:?}");
        let check = self.cluster.atoll(&["check"]).stdout;
        let note = format!("Note: server/{node} became a new member at ");
        assert!(check.contains(&note), "{check}");
        for place in kept {
            assert!(check.contains(&format!("is kept in {}", place.display())), "{check}");
        }
    }

    fn old_copy(&self, node: &str) {
        let store = self.folder(node).join("store");
        let former = self.cluster.dir.join("former");
        self.cluster.chaos("kill", node);
        copy(&store, &former);
        self.cluster.chaos("heal", node);
        self.until_more(10);
        let put_back = |store: &Path| {
            fs::remove_dir_all(store).unwrap();
            copy(&former, store);
        };
        self.goes_bad(node, "an old copy", &put_back, "started from an old copy of its folder");
    }

    fn freeze(&self, node: &str, signal: Signal) -> i32 {
        let folder = self.folder(node).canonicalize().unwrap();
        let all = self.cluster.pids(&format!("server --data-dir {}", folder.display()));
        assert_eq!(all.len(), 1, "{all:?}");
        kill_process(Pid::from_raw(all[0]).unwrap(), signal).unwrap();
        all[0]
    }

    /// The store of the first server is gone, which must not found a cluster of its own, and with
    /// another one down it waits.
    fn only_when_a_majority_is_there(&self, node: &str, other: &str) {
        let before = self.member(node);
        let log = self.log(node).len();
        self.cluster.chaos("kill", node);
        fs::remove_dir_all(self.folder(node).join("store")).unwrap();
        let stopped = self.freeze(other, Signal::STOP);
        std::thread::scope(|threads| {
            let healing = threads.spawn(|| self.cluster.chaos("heal", node));
            eventually(BACK_WITHIN, "it says what it waits for", || {
                let log = self.log(node);
                let waits = |line: &str| {
                    line.contains("not taken in yet")
                        && line.contains("a majority of the 3 servers")
                };
                if log.lines().any(waits) { Ok(()) } else { Err(log) }
            });
            assert_eq!(self.freeze(other, Signal::CONT), stopped);
            self.is_back(node, &before);
            healing.join().unwrap();
        });
        self.says_so(node, &self.log(node)[log..], "is gone");
        self.until_more(2);
    }
}

fn last_segment(store: &Path) -> (PathBuf, Vec<u8>, usize) {
    let entries = fs::read_dir(store.join("wal")).unwrap().flatten();
    let last = entries.map(|one| one.path()).max().unwrap();
    let content = fs::read(&last).unwrap();
    let used = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    (last, content, used)
}

fn flip_in_log(store: &Path) {
    let (file, mut content, used) = last_segment(store);
    content[used / 2] ^= 0x10;
    fs::write(file, content).unwrap();
}

fn cut_log(store: &Path) {
    let (file, content, used) = last_segment(store);
    fs::write(file, &content[..used / 2]).unwrap();
}

/// In a page that is in use: the one that has the first object.
fn flip_in_state(store: &Path) {
    let file = store.join("state.redb");
    let mut content = fs::read(&file).unwrap();
    let wanted = b"/registry/core/namespaces/kube-system";
    let at = content.windows(wanted.len()).position(|window| window == wanted).unwrap();
    content[at + wanted.len() + 8] ^= 0x10;
    fs::write(file, content).unwrap();
}

/// As if an entry of the log had been another one there: nothing about the folder is wrong by itself.
fn another_history(store: &Path) {
    let key = b"/registry/core/namespaces/kube-system";
    let value = br#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"kube-other"}}"#;
    atoll_store::testing::diverge(store, atoll_store::Keyspace::Cluster, key, value).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let place = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &place);
        } else {
            fs::copy(entry.path(), place).unwrap();
        }
    }
}
