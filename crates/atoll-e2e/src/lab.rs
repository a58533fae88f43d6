//! Machines as network namespaces on one bridge, and programs that run in them: servers and agents
//! started by hand, without `atoll dev`.

use crate::{
    Output,
    cluster::{binary, run},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server and its nodes, each in a network namespace of its own, joined by a bridge.
#[derive(Debug)]
pub struct Lab {
    name: String,
    folder: tempfile::TempDir,
    pub processes: Vec<Child>,
}

fn ip(arguments: &str) -> Output {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    run(command, "")
}

impl Lab {
    /// Namespaces `<name>-1` and so on, with the addresses 10.251.<net>.1 and so on.
    pub fn new(net: u32, count: u32) -> Self {
        let name = format!("e2e{}x{net}", std::process::id() % 10_000);
        let folder = tempfile::Builder::new().prefix("atoll-join-").tempdir().unwrap();
        let lab = Self { name, folder, processes: Vec::new() };
        let switch = format!("{}-0", lab.name);
        ip(&format!("netns add {switch}")).ok();
        ip(&format!("-n {switch} link add switch type bridge")).ok();
        ip(&format!("-n {switch} link set switch up")).ok();
        for k in 1..=count {
            let node = lab.netns(k);
            ip(&format!("netns add {node}")).ok();
            ip(&format!("-n {node} link set lo up")).ok();
            ip(&format!("-n {switch} link add p{k} type veth peer name eth0 netns {node}")).ok();
            ip(&format!("-n {switch} link set p{k} master switch up")).ok();
            ip(&format!("-n {node} address add 10.251.{net}.{k}/24 dev eth0")).ok();
            ip(&format!("-n {node} link set eth0 up")).ok();
            ip(&format!("-n {node} route add default via 10.251.{net}.254")).ok();
        }
        lab
    }

    pub fn netns(&self, k: u32) -> String {
        format!("{}-{k}", self.name)
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, k: u32, arguments: &[&str]) -> Command {
        let mut command = self.inside(k, binary().to_str().unwrap());
        command.args(arguments);
        command
    }

    /// Not `ip netns exec`, which hides the machine's cgroups.
    pub fn inside(&self, k: u32, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns(k))).arg(program);
        command
    }

    /// Starts it for good; returns its place in the list of processes.
    pub fn start(&mut self, k: u32, log: &str, arguments: &[&str]) -> usize {
        let command = self.command(k, arguments);
        self.start_command(log, command)
    }

    /// The same of a command that [`Self::inside`] has begun.
    pub fn start_command(&mut self, log: &str, mut command: Command) -> usize {
        let log = File::options().create(true).append(true).open(self.dir(log)).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.processes.push(command.spawn().unwrap());
        self.processes.len() - 1
    }

    pub fn signal(&mut self, process: usize, signal: Signal) {
        let pid = i32::try_from(self.processes[process].id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
        self.processes[process].wait().unwrap();
    }

    /// With the kubeconfig of the server in the folder `server`.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.inside(1, "kubectl");
        command.arg("--kubeconfig").arg(self.dir("server/kubeconfig")).args(arguments);
        command.env("HOME", self.folder.path());
        run(command, input)
    }

    pub fn atoll(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(1, arguments);
        command.env("KUBECONFIG", self.dir("server/kubeconfig"));
        run(command, "")
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir(name)).unwrap_or_default()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
            pid.map(|pid| kill_process(pid, Signal::TERM));
            process.wait().ok();
        }
        end_all_of(self.folder.path());
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{}-", self.name)) {
                ip(&format!("netns del {name}"));
            }
        }
    }
}

/// Ends whatever runs from a folder, with its cgroups and mounts: shims outlive their agents, and
/// containers their shims.
pub fn end_all_of(folder: &Path) {
    let all = processes();
    let mut ours: Vec<i32> =
        all.iter().filter(|(pid, _)| runs_from(*pid, folder)).map(|(pid, _)| *pid).collect();
    let mut known = 0;
    while known < ours.len() {
        let parent = ours[known];
        let children = all.iter().filter(|(pid, of)| *of == parent && !ours.contains(pid));
        let children: Vec<i32> = children.map(|(pid, _)| *pid).collect();
        ours.extend(children);
        known += 1;
    }
    let groups: Vec<PathBuf> = ours.iter().flat_map(|pid| cgroups(*pid)).collect();
    for pid in &ours {
        Pid::from_raw(*pid).map(|pid| kill_process(pid, Signal::KILL));
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    let is_there = |pid: &i32| Path::new("/proc").join(pid.to_string()).exists();
    while ours.iter().any(is_there) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    for group in groups {
        // Up to the first that others are in; that of all clusters stays.
        for group in group.ancestors().take_while(|group| !group.ends_with("atoll")) {
            if std::fs::remove_dir(group).is_err() {
                break;
            }
        }
    }
    unmount_below(folder);
}

/// All processes, and their parents.
fn processes() -> Vec<(i32, i32)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; the state comes behind, then the parent.
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

fn runs_from(pid: i32, folder: &Path) -> bool {
    let entry = PathBuf::from(format!("/proc/{pid}"));
    let program = std::fs::read_link(entry.join("exe")).unwrap_or_default();
    let line = std::fs::read(entry.join("cmdline")).unwrap_or_default();
    program.starts_with(folder) || String::from_utf8_lossy(&line).contains(folder.to_str().unwrap())
}

/// The groups below `atoll` that a process is in.
fn cgroups(pid: i32) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let rows = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
    });
    let ours = rows.filter(|(_, path)| path.starts_with("/atoll/"));
    let root = Path::new("/sys/fs/cgroup");
    ours.flat_map(|(names, path)| {
        let path = path.trim_start_matches('/').to_owned();
        names.split(',').map(|name| root.join(name).join(&path)).collect::<Vec<_>>()
    })
    .collect()
}

fn unmount_below(folder: &Path) {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    let below: Vec<&str> = points.filter(|point| Path::new(point).starts_with(folder)).collect();
    for point in below.into_iter().rev() {
        let mut command = Command::new("umount");
        command.args(["-l", point]);
        run(command, "");
    }
}
