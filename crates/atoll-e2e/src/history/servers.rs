//! Servers of the real program, each in its network namespace and on a disk of its own kind.

use super::{
    link::Link,
    net::{Net, PEER_PORT},
};
use crate::{
    cluster::{Output, run},
    disk::SlowDisk,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(super) const ETCD_PORT: u16 = 2379;
const START_MAX: Duration = Duration::from_secs(90);
const STOP_MAX: Duration = Duration::from_secs(60);
const VOTE_MAX: Duration = Duration::from_secs(60);
/// The small disk holds what a run writes; what is left is taken away to fill it.
const SMALL_DISK: &str = "size=1g";

pub(super) struct Servers {
    pub(super) net: Net,
    pub(super) all: Vec<Server>,
    folder: PathBuf,
    program: PathBuf,
    /// Servers that ended by themselves.
    pub(super) ended: u64,
    disk: SlowDisk,
    _small: SmallDisk,
}

pub(super) struct Server {
    pub(super) number: usize,
    arguments: Vec<String>,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

/// The one whose disk can be slow or fail, and the one whose disk can be full.
pub(super) const SLOW: usize = 1;
pub(super) const SMALL: usize = 2;

/// A tmpfs; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", SMALL_DISK, "history"]).arg(at);
        run(command, "").ok();
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = Command::new("umount");
        command.arg("-l").arg(&self.0);
        run(command, "");
    }
}

impl Servers {
    pub(super) async fn start(count: usize, program: &Path, folder: &Path) -> Self {
        let folder = folder.to_owned();
        let home = |number: usize| folder.join(format!("s{number}"));
        let slow = folder.join("slow");
        std::fs::create_dir_all(&slow).unwrap();
        let disk = SlowDisk::mount(&slow, &home(SLOW), 0);
        let small = SmallDisk::mount(&home(SMALL));
        let all = (0..count).map(|number| Server {
            number,
            arguments: Vec::new(),
            data: home(number),
            log: folder.join(format!("s{number}.log")),
            process: None,
        });
        let mut servers = Self {
            net: Net::new(count),
            all: all.collect(),
            program: program.to_owned(),
            folder,
            ended: 0,
            disk,
            _small: small,
        };
        for number in 0..count {
            servers.first_start(number).await;
        }
        servers.all_vote().await;
        servers
    }

    pub(super) fn disk(&self) -> &SlowDisk {
        &self.disk
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    async fn first_start(&mut self, number: usize) {
        let address = self.net.places[number].address;
        let mut arguments = vec![
            "server".to_owned(),
            "--data-dir".to_owned(),
            self.all[number].data.display().to_string(),
            format!("--name=s{number}"),
            format!("--advertise={address}"),
            format!("--peer-listen={address}:{PEER_PORT}"),
            format!("--etcd-listen=127.0.0.1:{ETCD_PORT}"),
        ];
        if number == 0 {
            let kubeconfig = self.kubeconfig().display().to_string();
            arguments.push(format!("--write-kubeconfig={kubeconfig}"));
            arguments.push(format!("--kubeconfig-server=https://{address}:6443"));
        } else {
            let first = self.net.places[0].address;
            arguments.push(format!("--join=https://{first}:6443"));
            arguments.push(format!("--token={}", self.token()));
        }
        self.all[number].arguments = arguments;
        self.restart(number);
        self.serves(number, START_MAX).await;
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    fn token(&self) -> String {
        // The kubeconfig is written after the etcd API answers.
        crate::eventually(START_MAX, "a token for a server", || {
            let output = self.atoll(&["token", "create", "--usage", "server"]);
            if output.code == 0 { Ok(output.stdout.trim().to_owned()) } else { Err(output.stderr) }
        })
    }

    fn atoll(&self, arguments: &[&str]) -> Output {
        let mut command = self.net.places[0].command(self.program.to_str().unwrap());
        command.args(arguments).env("KUBECONFIG", self.kubeconfig());
        run(command, "")
    }

    pub(super) fn restart(&mut self, number: usize) {
        let server = &mut self.all[number];
        if server.process.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(&server.log).unwrap();
        // It goes with this process, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net={}", self.net.places[number].path().display()))
            .arg(&self.program)
            .args(&server.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        server.process = Some(command.spawn().unwrap());
    }

    /// Starts what ended by itself.
    pub(super) fn revive(&mut self) {
        for number in 0..self.count() {
            if self.all[number].has_ended() {
                self.ended += 1;
            }
            self.restart(number);
        }
    }

    pub(super) fn link(&self, number: usize) -> Link {
        Link::new(self.net.places[number].path())
    }

    /// Until it answers a linearizable read.
    pub(super) async fn serves(&mut self, number: usize, within: Duration) {
        let (start, link) = (Instant::now(), self.link(number));
        loop {
            let answer = link.revision().await;
            if answer.is_ok() {
                return;
            }
            if self.all[number].has_ended() {
                self.ended += 1;
                self.restart(number);
            }
            assert!(
                start.elapsed() < within,
                "server {number} does not serve: {answer:?}\n{}",
                self.all[number].last_words()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn all_vote(&self) {
        let (start, link) = (Instant::now(), self.link(0));
        while link.voters().await != Some(self.count()) {
            assert!(start.elapsed() < VOTE_MAX, "not every server got a vote");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The one that says so itself; `None` when nobody does within this time.
    pub(super) async fn leader(&self, within: Duration) -> Option<usize> {
        let start = Instant::now();
        while start.elapsed() < within {
            for server in self.all.iter().filter(|server| server.process.is_some()) {
                let link = self.link(server.number);
                if link.leads().await == Some(true) {
                    return Some(server.number);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// The small disk has no room left, or some again.
    pub(super) fn fill(&self, is_full: bool) {
        let filler = self.all[SMALL].data.join("filler");
        if is_full {
            let file = File::create(&filler).unwrap();
            let left = rustix::fs::fstatvfs(&file).unwrap();
            let bytes = left.f_bavail * left.f_frsize;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).ok();
        } else if filler.exists() {
            std::fs::remove_file(&filler).unwrap();
        }
    }
}

impl Server {
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
            kill_process(pid, signal).ok();
        }
    }

    /// With SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// With SIGTERM.
    pub(super) async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let start = Instant::now();
        while self.process.is_some() && !self.has_ended() {
            assert!(start.elapsed() < STOP_MAX, "it does not stop:\n{}", self.last_words());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn has_ended(&mut self) -> bool {
        let ended = self.process.as_mut().is_some_and(|one| one.try_wait().unwrap().is_some());
        if ended {
            self.process = None;
        }
        ended
    }

    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(40).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.all {
            server.signal(Signal::CONT);
            server.kill();
        }
    }
}
