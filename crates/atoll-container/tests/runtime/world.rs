//! A runtime in a directory of its own, with a root file system of one static program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use atoll_container::{
    ContainerRef, ContainerSpec, Event, Exit, LogSpec, NamespaceMode, Namespaces, Observed,
    OciRuntime, Process, ProcessRuntime, Resources, Root, Runtime, RuntimeConfig, Sandbox,
    SandboxSpec, Security, State, Stdio, User,
};
use tokio::sync::broadcast;

/// Nothing in these tests takes this long on a working machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: Box<dyn Runtime>,
    pub(crate) events: broadcast::Receiver<Event>,
    id: String,
    oci: bool,
}

/// Whether tests of containers can run; on CI they must.
pub(crate) fn is_root() -> bool {
    let root = effective_uid() == 0;
    if !root {
        assert!(std::env::var_os("CI").is_none(), "CI must run these tests as root");
        println!("skipped: containers need root");
    }
    root
}

fn effective_uid() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .find_map(|l| l.strip_prefix("Uid:"))
        .and_then(|l| l.split_ascii_whitespace().nth(1)?.parse().ok())
        .unwrap()
}

fn busybox() -> PathBuf {
    let path = PathBuf::from("/bin/busybox");
    if !path.exists() {
        let status = Command::new("apt-get")
            .args(["install", "-y", "-q", "busybox-static"])
            .status()
            .expect("apt-get");
        assert!(status.success(), "busybox-static is needed");
    }
    path
}

pub(crate) fn sandbox_spec(uid: &str) -> SandboxSpec {
    SandboxSpec {
        uid: uid.into(),
        hostname: "box".into(),
        cgroup: format!("pod{uid}"),
        ..SandboxSpec::default()
    }
}

pub(crate) fn rootfs(dir: &Path) -> PathBuf {
    let root = dir.join("root-fs");
    for sub in ["bin", "proc", "sys", "dev", "tmp", "etc", "root", "data"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    std::fs::copy(busybox(), root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "id", "sleep", "ls", "head", "hostname", "stty", "mkdir", "mount", "dd", "tr",
        "yes", "env", "kill", "printf", "seq", "unshare", "grep", "touch", "ps", "mknod",
        "readlink",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), passwd).unwrap();
    root
}

pub(crate) fn shim() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let shim = test.parent().unwrap().parent().unwrap().join("examples/shim");
    assert!(shim.exists(), "{} is missing: cargo builds it with the tests", shim.display());
    shim
}

pub(crate) fn config(dir: &Path, id: &str) -> RuntimeConfig {
    RuntimeConfig {
        shim: shim(),
        pods: dir.join("pods"),
        run: dir.join("run"),
        cgroup_root: format!("/atoll-test-{id}/pods"),
        shim_cgroup: format!("/atoll-test-{id}/shims"),
    }
}

impl World {
    pub(crate) async fn oci() -> World {
        let dir = tempfile::Builder::new().prefix("ac").tempdir().unwrap();
        rootfs(dir.path());
        let id =
            dir.path().file_name().unwrap().to_string_lossy().trim_start_matches('.').to_owned();
        let runtime = OciRuntime::new(config(dir.path(), &id)).await.unwrap();
        let events = runtime.events();
        World { dir, runtime: Box::new(runtime), events, id, oci: true }
    }

    pub(crate) async fn process() -> World {
        let dir = tempfile::Builder::new().prefix("ac").tempdir().unwrap();
        let id = "process".to_owned();
        let runtime = ProcessRuntime::new(config(dir.path(), &id)).await.unwrap();
        let events = runtime.events();
        World { dir, runtime: Box::new(runtime), events, id, oci: false }
    }

    /// As an agent that was killed: nobody is connected to the shims.
    pub(crate) async fn stop(&mut self) {
        let elsewhere = RuntimeConfig {
            pods: self.dir.path().join("nothing"),
            ..config(self.dir.path(), &self.id)
        };
        self.runtime = Box::new(ProcessRuntime::new(elsewhere).await.unwrap());
    }

    /// As an agent that was killed and started again.
    pub(crate) async fn restart(&mut self) {
        let config = config(self.dir.path(), &self.id);
        if self.oci {
            self.runtime = Box::new(OciRuntime::new(config).await.unwrap());
        } else {
            self.runtime = Box::new(ProcessRuntime::new(config).await.unwrap());
        }
        self.events = self.runtime.events();
    }

    pub(crate) fn cgroup_path(&self, controller: &str, below: &str) -> PathBuf {
        let v1 = PathBuf::from("/sys/fs/cgroup").join(controller);
        let base = if v1.join("cgroup.procs").exists() { v1 } else { "/sys/fs/cgroup".into() };
        base.join(format!("atoll-test-{}/pods", self.id)).join(below)
    }

    pub(crate) async fn sandbox(&self, uid: &str) -> Sandbox {
        self.runtime.ensure_sandbox(&sandbox_spec(uid)).await.unwrap()
    }

    pub(crate) fn spec(&self, sandbox: &Sandbox, name: &str, args: &[&str]) -> ContainerSpec {
        let path = |p: &Option<PathBuf>| match p {
            Some(path) => NamespaceMode::Path(path.clone()),
            None => NamespaceMode::Host,
        };
        ContainerSpec {
            sandbox: sandbox.uid.clone(),
            name: name.into(),
            attempt: 0,
            id: format!("{}{name}", "ab12".repeat(10)),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            rootfs: self.dir.path().join("root-fs"),
            root: Root::default(),
            process: Process {
                args: args.iter().map(|&a| a.into()).collect(),
                env: vec![("GREETING".into(), "hello".into())],
                cwd: String::new(),
                user: User::default(),
                tty: false,
            },
            stdio: Stdio::default(),
            mounts: Vec::new(),
            devices: Vec::new(),
            namespaces: Namespaces {
                net: path(&sandbox.net),
                ipc: path(&sandbox.ipc),
                uts: path(&sandbox.uts),
                pid: NamespaceMode::New,
            },
            hostname: None,
            sysctls: [].into(),
            security: Security::default(),
            cgroup: format!("pod{}/{name}", sandbox.uid),
            resources: Resources::default(),
            oom_score_adj: None,
            log: LogSpec::new(self.dir.path().join("logs").join(name).join("0.log")),
        }
    }

    pub(crate) async fn run(&self, spec: &ContainerSpec) -> ContainerRef {
        let container = self.runtime.create(spec).await.unwrap();
        self.runtime.start(&container).await.unwrap();
        container
    }

    pub(crate) async fn observed(&self, container: &ContainerRef) -> Observed {
        self.runtime.inspect(&container.key).await.unwrap().unwrap()
    }

    /// The exit as told by an event.
    pub(crate) async fn exit(&mut self, container: &ContainerRef) -> Exit {
        if let State::Exited(exit) = self.observed(container).await.state {
            return exit;
        }
        let wait = async {
            loop {
                match self.events.recv().await.unwrap() {
                    Event::Exited { key, exit } if key == container.key => return exit,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait).await.expect("the container ends")
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("logs").join(name).join("0.log")).unwrap()
    }

    /// The log's text without stamps, of one stream.
    pub(crate) fn output(&self, name: &str, stream: &str) -> String {
        self.log(name)
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(4, ' ');
                let (_at, from, _tag) = (parts.next()?, parts.next()?, parts.next()?);
                (from == stream).then(|| format!("{}\n", parts.next().unwrap_or("")))
            })
            .collect()
    }
}

/// A test that fails takes its containers and mounts along.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let dir = self.dir.path().to_string_lossy().into_owned();
        let states = Command::new("find").args([&dir, "-name", "state.json"]).output().unwrap();
        for path in String::from_utf8_lossy(&states.stdout).lines() {
            let Ok(text) = std::fs::read(path) else { continue };
            let Ok(state) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
            for key in ["shim_pid", "pid"] {
                let pid = state[key].to_string();
                println!("killing {pid}: {:?}", Command::new("kill").args(["-9", &pid]).status());
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        for mount in mounts.lines().filter_map(|l| l.split(' ').nth(1)) {
            if mount.starts_with(&dir) {
                println!("{mount}: {:?}", Command::new("umount").args(["-l", mount]).status());
            }
        }
    }
}

/// Takes everything down and says what is left.
pub(crate) async fn tear_down(world: World, sandboxes: &[&str]) {
    for uid in sandboxes {
        world.runtime.remove_sandbox(uid).await.unwrap();
    }
    let pods = world.dir.path().join("pods");
    for uid in sandboxes {
        assert!(!pods.join(uid).join("containers").exists(), "records are left");
    }
    if world.oci {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let ours = world.dir.path().to_string_lossy().into_owned();
        assert!(!mounts.contains(&ours), "mounts are left");
        for controller in ["memory", "freezer", "devices", "unified"] {
            for uid in sandboxes {
                let path = world.cgroup_path(controller, &format!("pod{uid}"));
                assert!(!path.exists(), "{} is left", path.display());
            }
        }
        remove_cgroups(&world.id).await;
    }
}

/// The shims' own cgroup, once they are gone.
async fn remove_cgroups(id: &str) {
    let roots = std::fs::read_dir("/sys/fs/cgroup").unwrap();
    let mut bases: Vec<PathBuf> = roots.map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    bases.push("/sys/fs/cgroup".into());
    for base in bases {
        let top = base.join(format!("atoll-test-{id}"));
        for sub in ["shims", "pods", ""] {
            let path = top.join(sub);
            for _ in 0..200 {
                if !path.exists() || std::fs::remove_dir(&path).is_ok() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
