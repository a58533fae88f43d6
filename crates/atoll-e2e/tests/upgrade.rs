//! A rolling upgrade: three servers of the release before are restarted one by one with this one,
//! under writes; the format level rises with the last, and then there is no way back.
//!
//! This program does as the release before did when it is told to (`--format-level-max`): it says
//! that it supports no more, and writes nothing of more. With `ATOLL_BINARY_BEFORE` the servers
//! begin with that program instead, one that was really built before.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]
#![allow(clippy::print_stdout, reason = "what was tried is worth reading")]

use atoll_e2e::{
    cluster::{binary, run},
    eventually, is_root,
    lab::Lab,
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(60);
const BEFORE: &str = "ATOLL_BINARY_BEFORE";
/// What the release before supports, and what this one does.
const LEVELS: [u64; 2] = [1, 2];

/// How a server of the release before is started.
#[derive(Clone)]
enum Former {
    /// This program, held at the level.
    Held,
    Program(PathBuf),
}

impl Former {
    fn words(&self) -> (PathBuf, &'static [&'static str]) {
        match self {
            Self::Held => (binary(), &["--format-level-max", "1"]),
            Self::Program(path) => (path.clone(), &[]),
        }
    }
}

struct Servers {
    lab: Lab,
    net: u32,
    /// Where each runs among the lab's processes.
    places: [usize; 3],
}

impl Servers {
    fn start(&mut self, k: u32, program: &Path, more: &[&str]) {
        let name = format!("server-{k}");
        let folder = if k == 1 { self.lab.dir("server") } else { self.lab.dir(&name) };
        let mut command = self.lab.inside(k, program.to_str().unwrap());
        command.args(["server", "--data-dir", folder.to_str().unwrap(), "--name", &name]);
        command.args(["--advertise", &format!("10.251.{}.{k}", self.net)]).args(more);
        self.places[k as usize - 1] = self.lab.start_command(&format!("{name}.log"), command);
    }

    fn start_former(&mut self, k: u32, former: &Former, more: &[&str]) {
        let (program, held) = former.words();
        self.start(k, &program, &[held, more].concat());
    }

    fn token(&self) -> String {
        self.lab.atoll(&["token", "create", "--usage", "server"]).ok().trim().to_owned()
    }

    fn url(&self) -> String {
        format!("https://10.251.{}.1:6443", self.net)
    }

    fn until_voters(&self, count: usize) {
        eventually(SOON, &format!("{count} servers have a vote and are there"), || {
            let all = self.members()?;
            let members = all["members"].as_array().cloned().unwrap_or_default();
            let good = |one: &&Value| one["isLearner"] == false && one["isThere"] == true;
            let there = members.iter().filter(good).count();
            if there == count { Ok(()) } else { Err(format!("{all}\n{}", self.logs())) }
        });
    }

    fn members(&self) -> Result<Value, String> {
        let said = self.lab.atoll(&["member", "list", "-o", "json"]);
        serde_json::from_str(&said.stdout).map_err(|_error| format!("{said:?}"))
    }

    fn logs(&self) -> String {
        (1..=3).map(|k| self.lab.log(&format!("server-{k}.log"))).collect()
    }

    fn level(&self) -> Option<u64> {
        self.members().ok()?["formatLevel"].as_u64()
    }

    /// Ends a server in order and starts it with this release.
    fn upgrade(&mut self, k: u32) {
        self.lab.signal(self.places[k as usize - 1], Signal::TERM);
        self.start(k, &binary(), &[]);
        self.until_voters(3);
    }
}

/// `kubectl` against one server, from the first namespace; it does not hold on to the lab.
struct Writer {
    words: Vec<OsString>,
    home: PathBuf,
}

impl Writer {
    fn new(servers: &Servers, k: u32) -> Self {
        let mut command = servers.lab.inside(1, "kubectl");
        command.arg("--kubeconfig").arg(servers.lab.dir("server/kubeconfig"));
        command.args(["--server", &format!("https://10.251.{}.{k}:6443", servers.net)]);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        Self { words: words.map(ToOwned::to_owned).collect(), home: servers.lab.dir("home") }
    }

    fn creates(&self, name: &str) -> bool {
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).env("HOME", &self.home);
        command.args(["create", "configmap", name, "--request-timeout=5s"]);
        command.output().unwrap().status.success()
    }
}

/// One object after the other, each through another server; returns those that were acknowledged.
fn write(writers: &[Writer], stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("w{number}");
        if writers[number % writers.len()].creates(&name) {
            acknowledged.push(name);
        }
    }
    acknowledged
}

fn begin(net: u32, former: &Former) -> Servers {
    let mut servers = Servers { lab: Lab::new(net, 4), net, places: [0; 3] };
    servers.start_former(1, former, &[]);
    servers.until_voters(1);
    for k in [2, 3] {
        let (token, url) = (servers.token(), servers.url());
        servers.start_former(k, former, &["--join", &url, "--token", &token]);
        servers.until_voters(k as usize);
    }
    servers
}

fn rolls(net: u32, former: &Former) {
    let mut servers = begin(net, former);
    let writers = [1, 2, 3].map(|k| Writer::new(&servers, k));
    let stop = AtomicBool::new(false);
    let acknowledged = std::thread::scope(|threads| {
        let writing = threads.spawn(|| write(&writers, &stop));
        let rolled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for k in [3, 2] {
                servers.upgrade(k);
                stays_at(&servers, k);
            }
            servers.upgrade(1);
            rises(&servers);
        }));
        stop.store(true, Ordering::Relaxed);
        let acknowledged = writing.join().unwrap();
        rolled.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        acknowledged
    });
    println!("{} writes acknowledged", acknowledged.len());
    assert!(acknowledged.len() > 4, "{}", servers.logs());
    let there = servers.lab.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    let there: Vec<&str> = there.lines().filter_map(|line| line.split('/').nth(1)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|name| !there.contains(&name.as_str())).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    no_way_back(&mut servers, former);
    too_old_to_join(&servers, former);
}

/// With two releases side by side nothing of the newer is written, and `check` says who it is for.
fn stays_at(servers: &Servers, upgraded: u32) {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        // The first server is of the release before, which may not speak of levels.
        assert!(servers.level().is_none_or(|level| level == LEVELS[0]), "{:?}", servers.members());
    }
    let kubeconfig = servers.lab.dir(&format!("server-{upgraded}/kubeconfig"));
    let mut command = servers.lab.inside(1, binary().to_str().unwrap());
    command.args(["check", "--kubeconfig", kubeconfig.to_str().unwrap()]);
    let said = run(command, "").stdout;
    assert!(said.contains("new formats wait (the level is 1, most servers know 2) for "), "{said}");
    assert!(said.contains("server-1"), "{said}");
}

fn rises(servers: &Servers) {
    let listed = eventually(SOON, "the level rises", || {
        let all = servers.members()?;
        let supported = |one: &Value| one["formatLevelSupported"] == LEVELS[1];
        let members = all["members"].as_array().cloned().unwrap_or_default();
        let done = all["formatLevel"] == LEVELS[1] && members.iter().all(supported);
        if done { Ok(all) } else { Err(format!("{all}\n{}", servers.logs())) }
    });
    for one in listed["members"].as_array().unwrap() {
        assert_eq!(one["release"], env!("CARGO_PKG_VERSION"), "{listed}");
    }
}

/// A server that is started with the release before does not open its folder, and says why.
fn no_way_back(servers: &mut Servers, former: &Former) {
    servers.lab.signal(servers.places[2], Signal::TERM);
    let seen = servers.lab.log("server-3.log").len();
    servers.start_former(3, former, &[]);
    let ended = servers.lab.processes[servers.places[2]].wait().unwrap();
    assert!(!ended.success());
    let said = servers.lab.log("server-3.log").split_off(seen);
    if matches!(former, Former::Held) {
        let told = ["has the format 2", "reads up to 1", "start the release that wrote it"];
        assert!(told.iter().all(|words| said.contains(words)), "{said}");
    }
    println!("the release before says: {}", said.lines().last().unwrap_or_default());
    servers.start(3, &binary(), &[]);
    servers.until_voters(3);
}

fn too_old_to_join(servers: &Servers, former: &Former) {
    let (program, held) = former.words();
    let token = servers.token();
    let mut command = servers.lab.inside(4, program.to_str().unwrap());
    command.args(["server", "--join", &servers.url(), "--name", "late", "--token", &token]);
    command.arg("--data-dir").arg(servers.lab.dir("late")).args(held);
    command.args(["--advertise", &format!("10.251.{}.4", servers.net)]);
    let refused = run(command, "").fails();
    let told = "this cluster has the format level 2 and the joining server supports 1";
    assert!(refused.contains(told), "{refused}");
    assert_eq!(servers.members().unwrap()["members"].as_array().map(Vec::len), Some(3));
}

#[test]
fn servers_are_upgraded_one_by_one_under_writes() {
    if is_root("upgrade") {
        rolls(6, &Former::Held);
    }
}

#[test]
fn servers_that_were_built_before_are_upgraded_one_by_one() {
    let Some(program) = std::env::var_os(BEFORE).map(PathBuf::from) else {
        println!("skipped: {BEFORE} names no program of the release before");
        return;
    };
    if is_root("upgrade") {
        rolls(7, &Former::Program(program));
    }
}
