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
        // Whatever runs from this folder: shims outlive their agents.
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let program = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let folder = self.folder.path();
            let ours = program.starts_with(folder)
                || String::from_utf8_lossy(&line).contains(folder.to_str().unwrap());
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok();
            if let Some(pid) = pid.filter(|_| ours).and_then(Pid::from_raw) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{}-", self.name)) {
                ip(&format!("netns del {name}"));
            }
        }
        unmount_below(self.folder.path());
    }
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
