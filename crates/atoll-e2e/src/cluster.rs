//! A cluster of the real program, and the commands that are run against it.

use crate::{http, wait::eventually};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// A debug build on a loaded machine takes a while.
const READY_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(60);
/// An emulated machine takes a minute.
const HELLO_MAX: &str = "--timeout=120s";

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed: {}\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error of a command that must have failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "succeeded: {}", self.stdout);
        self.stderr
    }
}

pub struct Cluster {
    child: Option<Child>,
    pub dir: PathBuf,
    pub port: u16,
    nodes: u32,
    servers: u32,
    /// A command that runs the program in surroundings of its own.
    wrapper: Vec<String>,
    _folder: Option<tempfile::TempDir>,
}

/// The program under test.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("ATOLL_BINARY").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let root = workspace();
        let target =
            root.join("target").join(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
        target.join("debug/atoll")
    });
    assert!(path.exists(), "{} is not built; run `cargo build -p atoll`", path.display());
    path
}

pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Cluster {
    /// A new cluster in a folder that goes with it.
    pub fn start(nodes: u32) -> Self {
        Self::start_under(&[], nodes)
    }

    /// A new cluster on whose first nodes there are several servers.
    pub fn start_servers(servers: u32, nodes: u32) -> Self {
        Self::start_servers_under(&[], servers, nodes)
    }

    /// The same, by a command as [`Self::start_under`] has it.
    pub fn start_servers_under(wrapper: &[&str], servers: u32, nodes: u32) -> Self {
        let mut cluster = Self::folder(wrapper, nodes);
        cluster.servers = servers;
        cluster.launch();
        cluster
    }

    /// The same as [`Self::start`], by a command that takes the program's command line as its last arguments
    /// and ends by becoming it.
    pub fn start_under(wrapper: &[&str], nodes: u32) -> Self {
        let mut cluster = Self::folder(wrapper, nodes);
        cluster.launch();
        cluster
    }

    fn folder(wrapper: &[&str], nodes: u32) -> Self {
        let folder = tempfile::Builder::new().prefix("atoll-e2e-").tempdir().unwrap();
        Self {
            child: None,
            dir: folder.path().join("data"),
            port: free_port(),
            nodes,
            servers: 1,
            wrapper: wrapper.iter().map(|&word| word.to_owned()).collect(),
            _folder: Some(folder),
        }
    }

    /// A cluster in a folder of the caller's.
    pub fn start_in(dir: &Path, nodes: u32) -> Self {
        let mut cluster = Self {
            child: None,
            dir: dir.to_owned(),
            port: free_port(),
            nodes,
            servers: 1,
            wrapper: Vec::new(),
            _folder: None,
        };
        cluster.launch();
        cluster
    }

    /// Starts it (again) on its folder, and waits until it says that it is ready.
    pub fn launch(&mut self) {
        let log = File::create(self.dir.with_extension("log")).unwrap();
        let program = [binary().display().to_string()];
        let mut words = self.wrapper.iter().chain(&program);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .args(["dev", "--nodes", &self.nodes.to_string()])
            .args(["--servers", &self.servers.to_string()])
            .args(["--port", &self.port.to_string()])
            .arg("--data-dir")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        self.child = Some(child);
        match lines.recv_timeout(READY_MAX) {
            Ok(line) => assert!(line.starts_with("Ready"), "{line}"),
            Err(_) => panic!("the cluster was not ready:\n{}", self.logs()),
        }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// The id that all its names in the system carry.
    pub fn id(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("cluster.json")).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        record["id"].as_str().unwrap().to_owned()
    }

    /// The network namespace of one of its nodes.
    pub fn netns(&self, node: &str) -> PathBuf {
        Path::new("/run/atoll").join(self.id()).join("netns").join(node)
    }

    /// The network namespace of a pod that runs, by way of the first process of one of its
    /// containers: others, of a command in it for example, may be gone in a moment.
    pub fn pod_netns(&self, pod: &str) -> PathBuf {
        let pod = self.json(&["pod", pod]);
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        let mut inside = processes.filter(|process| {
            let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
            let shut = std::fs::read_link(process.join("ns/pid")).is_ok_and(|pids| pids != own);
            let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
            let numbers = status.lines().find(|line| line.starts_with("NSpid:"));
            let is_first = numbers.is_some_and(|line| line.ends_with("\t1"));
            shut && is_first && groups.contains(&format!("pod{uid}"))
        });
        inside.next().unwrap_or_else(|| panic!("no process of {uid}")).join("ns/net")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().unwrap().id()).unwrap()
    }

    /// Everything that its processes said, for a failed test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let mut files = vec![self.dir.with_extension("log"), self.dir.join("server/server.log")];
        for index in 2..=self.servers {
            files.push(self.dir.join(format!("server-{index}/server.log")));
        }
        for index in 1..=self.nodes {
            files.push(self.dir.join(format!("node-{index}/agent.log")));
        }
        for file in files {
            let log = std::fs::read_to_string(&file).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            text.push_str(&format!("--- {}\n", file.display()));
            for line in tail.into_iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// `input` is what the command reads.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.env("HOME", self.dir.parent().unwrap());
        run(command, input)
    }

    /// Runs this very program as a tool against the cluster.
    pub fn atoll(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        run(command, "")
    }

    pub fn chaos(&self, action: &str, node: &str) {
        let dir = self.dir.display().to_string();
        self.atoll(&["chaos", action, node, "--data-dir", &dir]).ok();
    }

    /// An object as JSON; `what` is what `kubectl get` takes.
    #[track_caller]
    pub fn json(&self, what: &[&str]) -> Value {
        let mut arguments = vec!["get"];
        arguments.extend(what);
        arguments.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&arguments).ok()).unwrap()
    }

    /// Applies a manifest in YAML.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        self.kubectl_with(&["apply", "-f", "-"], manifest).ok();
    }

    /// Five replicas on their way in; the address of their Service, which answers.
    #[track_caller]
    pub fn hello(&self) -> SocketAddr {
        let manifest = workspace().join("examples/hello.yaml");
        self.kubectl(&["apply", "-f", manifest.to_str().unwrap()]).ok();
        let rolled = self.kubectl(&["rollout", "status", "deployment/hello", HELLO_MAX]);
        assert_eq!(rolled.code, 0, "{}{}\n{}", rolled.stdout, rolled.stderr, self.logs());
        self.pods_ready("app=hello", 5, Duration::from_secs(60));
        let address = SocketAddr::new(self.service_ip("hello"), 80);
        let answers = || http::get(address, "/");
        eventually(Duration::from_secs(60), "the service answers", answers);
        address
    }

    pub fn service_ip(&self, name: &str) -> IpAddr {
        let service = self.json(&["service", name]);
        service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
    }

    /// Its processes whose command line has these words behind `atoll`.
    pub fn pids(&self, role: &str) -> Vec<i32> {
        let dir = self.dir.canonicalize().unwrap().display().to_string();
        let role = format!("atoll {role}");
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let processes = processes.filter(|process| {
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            words.starts_with(&dir) && words.contains(&role)
        });
        processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
    }

    /// Waits until so many pods are ready on other nodes than this.
    #[track_caller]
    pub fn ready_elsewhere(&self, selector: &str, than: &str, count: usize, within: Duration) {
        eventually(within, &format!("{count} pods of {selector} elsewhere than {than}"), || {
            let pods = self.json(&["pods", "-l", selector]);
            let all = pods["items"].as_array().into_iter().flatten();
            match all.filter(|pod| is_ready(pod) && pod["spec"]["nodeName"] != than).count() {
                ready if ready == count => Ok(()),
                ready => Err(format!("{ready} ready")),
            }
        });
    }

    #[track_caller]
    pub fn node_ready(&self, node: &str, within: Duration) {
        eventually(within, &format!("{node} is ready"), || {
            let shown = self.kubectl(&["get", "node", node, "--no-headers"]).ok();
            if shown.contains(" Ready ") { Ok(()) } else { Err(shown) }
        });
    }

    /// Container ids and restart counts of the pods in the default namespace.
    pub fn containers(&self) -> BTreeSet<(String, i64)> {
        let pods = self.json(&["pods"]);
        let statuses = pods["items"].as_array().into_iter().flatten();
        statuses
            .flat_map(|pod| pod["status"]["containerStatuses"].as_array().cloned())
            .flatten()
            .map(|status| {
                let id = status["containerID"].as_str().unwrap_or_default().to_owned();
                (id, status["restartCount"].as_i64().unwrap_or(-1))
            })
            .collect()
    }

    /// Since when each node is ready, or not. Equal answers say that none was lost between.
    pub fn node_health(&self) -> BTreeMap<String, String> {
        let nodes = self.json(&["nodes"]);
        let nodes = nodes["items"].as_array().unwrap();
        let health = nodes.iter().map(|node| {
            let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions
                .filter(|one| one["type"] == "Ready")
                .map(|one| format!("{} since {}", one["status"], one["lastTransitionTime"]));
            (node["metadata"]["name"].as_str().unwrap().to_owned(), ready.collect())
        });
        health.collect()
    }

    /// Waits until a pod is as `check` wants it; `check` says what it is instead.
    #[track_caller]
    pub fn pod_becomes<T>(
        &self,
        name: &str,
        within: Duration,
        mut check: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        eventually(within, &format!("pod {name}"), || {
            let pod = self.json(&["pod", name]);
            check(&pod).ok_or_else(|| {
                let events = self.kubectl(&["events", "--for", &format!("pod/{name}")]).stdout;
                format!("{:#}\n{events}", pod["status"])
            })
        })
    }

    /// Texts of the events about a pod, each as `reason: message`.
    #[track_caller]
    pub fn events(&self, pod: &str) -> Vec<String> {
        let events =
            self.json(&["events", "--field-selector", &format!("involvedObject.name={pod}")]);
        let items = events["items"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        items.iter().map(|e| format!("{}: {}", text(&e["reason"]), text(&e["message"]))).collect()
    }

    /// Waits for an event about a pod.
    #[track_caller]
    pub fn event(&self, pod: &str, event: &str) {
        eventually(Duration::from_secs(20), &format!("event of {pod}: {event}"), || {
            let all = self.events(pod);
            if all.iter().any(|one| one == event) { Ok(()) } else { Err(all.join("\n")) }
        });
    }

    /// Waits until so many pods of `selector` are ready and no other is left of it.
    #[track_caller]
    pub fn pods_ready(&self, selector: &str, count: usize, within: Duration) -> Vec<Value> {
        eventually(within, &format!("{count} ready pods of {selector}"), || {
            let pods = self.json(&["pods", "-l", selector]);
            let items = pods["items"].as_array().cloned().unwrap_or_default();
            let ready = items.iter().filter(|pod| is_ready(pod)).count();
            if ready == count && items.len() == count {
                return Ok(items);
            }
            let shown = self.kubectl(&["get", "pods", "-o", "wide", "-l", selector]).stdout;
            Err(format!("{ready} of {} ready\n{shown}\n{}", items.len(), self.logs()))
        })
    }

    /// Ctrl-C, and the wait for its end.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(&child, rustix::process::Signal::INT);
        let ended = std::iter::repeat_with(|| {
            std::thread::sleep(Duration::from_millis(50));
            child.try_wait().ok().flatten()
        })
        .take(usize::try_from(STOP_MAX.as_millis() / 50).unwrap())
        .flatten()
        .next();
        if ended.is_none() {
            child.kill().ok();
            child.wait().ok();
            assert!(std::thread::panicking(), "the cluster did not stop:\n{}", self.logs());
        }
    }

    /// kill -9 of the supervisor alone.
    pub fn kill(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        rustix::process::kill_process(pid, signal).ok();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions
            .into_iter()
            .flatten()
            .any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Runs a command to its end.
pub fn run(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    // A command that reads nothing may have ended already.
    stdin.write_all(input.as_bytes()).ok();
    drop(stdin);
    let mut stderr = child.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).ok();
        text
    });
    let mut stdout = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    let status = child.wait().unwrap();
    Output {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&errors.join().unwrap()).into_owned(),
    }
}
