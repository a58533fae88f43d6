//! The servers of both sides, as processes on the loopback, each with a folder of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::Client;

use crate::Outcome;

const START_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Name {
    Atoll,
    Etcd,
}

impl Name {
    pub const BOTH: [Self; 2] = [Self::Atoll, Self::Etcd];

    pub fn text(self) -> &'static str {
        match self {
            Self::Atoll => "atoll",
            Self::Etcd => "etcd",
        }
    }
}

pub struct Programs {
    pub atoll: PathBuf,
    pub etcd: PathBuf,
}

/// One server: how it is started again, and its process while it runs.
struct Server {
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    process: Option<Child>,
}

pub struct Side {
    pub name: Name,
    pub endpoints: Vec<String>,
    servers: Vec<Server>,
}

impl Drop for Side {
    fn drop(&mut self) {
        for number in 0..self.servers.len() {
            if let Err(error) = self.kill(number) {
                eprintln!("{} does not end: {error}", self.name.text());
            }
        }
    }
}

impl Side {
    /// Starts `count` servers and waits until they serve.
    pub async fn start(name: Name, programs: &Programs, folder: &Path, count: usize) -> Outcome<Self> {
        let folder = folder.join(name.text());
        std::fs::create_dir_all(&folder)?;
        let ports = free_ports(3 * count)?;
        let endpoints = (0..count).map(|one| format!("http://127.0.0.1:{}", ports[3 * one])).collect();
        let mut side = Self { name, endpoints, servers: Vec::new() };
        match name {
            Name::Etcd => side.start_etcd(&programs.etcd, &folder, &ports)?,
            Name::Atoll if is_trial(&programs.atoll) => side.start_trial(&programs.atoll, &folder)?,
            Name::Atoll => side.start_atoll(&programs.atoll, &folder, &ports).await?,
        }
        side.wait().await?;
        Ok(side)
    }

    fn start_etcd(&mut self, program: &Path, folder: &Path, ports: &[u16]) -> Outcome<()> {
        let count = self.endpoints.len();
        let peer = |one: usize| format!("http://127.0.0.1:{}", ports[3 * one + 1]);
        let all: Vec<_> = (0..count).map(|one| format!("s{one}={}", peer(one))).collect();
        for one in 0..count {
            let data = folder.join(one.to_string()).display().to_string();
            let (peer, client) = (peer(one), self.endpoints[one].clone());
            let (name, all) = (format!("s{one}"), all.join(","));
            let arguments = [
                ["--name", &name],
                ["--data-dir", &data],
                ["--listen-client-urls", &client],
                ["--advertise-client-urls", &client],
                ["--listen-peer-urls", &peer],
                ["--initial-advertise-peer-urls", &peer],
                ["--initial-cluster", &all],
                ["--log-level", "error"],
            ];
            self.add(program, arguments.as_flattened(), folder)?;
        }
        Ok(())
    }

    /// All members in one process, without the rest of a server.
    fn start_trial(&mut self, program: &Path, folder: &Path) -> Outcome<()> {
        let data = folder.join("trial").display().to_string();
        let addresses = self.endpoints.iter().map(|one| one.trim_start_matches("http://"));
        let arguments: Vec<_> = [data].into_iter().chain(addresses.map(str::to_owned)).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.add(program, &arguments, folder)
    }

    async fn start_atoll(&mut self, program: &Path, folder: &Path, ports: &[u16]) -> Outcome<()> {
        let count = self.endpoints.len();
        for one in 0..count {
            let data = folder.join(one.to_string()).display().to_string();
            let host = self::host(one);
            add_address(&host)?;
            // The servers of a cluster have their API on one port.
            let api = format!("{host}:{}", ports[2]);
            let peer = format!("{host}:{}", ports[1]);
            let etcd = self.endpoints[one].trim_start_matches("http://").to_owned();
            let name = format!("s{one}");
            let mut arguments = vec!["server", "--data-dir", &data, "--listen", &api];
            arguments.extend(["--name", &name, "--etcd-listen", &etcd]);
            let (url, token);
            if count > 1 {
                arguments.extend(["--advertise", &host]);
                arguments.extend(["--peer-listen", &peer, "--peer-advertise", &peer]);
            }
            if one > 0 {
                url = format!("https://{}:{}", self::host(0), ports[2]);
                token = server_token(program, folder)?;
                arguments.extend(["--join", &url, "--token", &token]);
            }
            self.add(program, &arguments, folder)?;
            wait_for(&self.endpoints[one]).await?;
        }
        Ok(())
    }

    fn add(&mut self, program: &Path, arguments: &[&str], folder: &Path) -> Outcome<()> {
        self.servers.push(Server {
            program: program.to_owned(),
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
            log: folder.join(format!("{}.log", self.servers.len())),
            process: None,
        });
        self.restart(self.servers.len() - 1)
    }

    pub fn restart(&mut self, number: usize) -> Outcome<()> {
        let server = &mut self.servers[number];
        let log = std::fs::File::options().create(true).append(true).open(&server.log)?;
        let child = Command::new(&server.program)
            .args(&server.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        server.process = Some(child);
        Ok(())
    }

    /// With SIGKILL.
    pub fn kill(&mut self, number: usize) -> Outcome<()> {
        if let Some(mut process) = self.servers[number].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Until every member that runs answers a linearizable read.
    pub async fn wait(&self) -> Outcome<()> {
        for endpoint in &self.endpoints {
            wait_for(endpoint).await?;
        }
        Ok(())
    }

    /// Which of the servers leads.
    pub async fn leader(&self) -> Outcome<usize> {
        let start = Instant::now();
        while start.elapsed() < START_MAX {
            for (number, endpoint) in self.endpoints.iter().enumerate() {
                let Ok(mut client) = Client::connect([endpoint], None).await else { continue };
                let Ok(status) = client.status().await else { continue };
                if status.header().is_some_and(|header| header.member_id() == status.leader()) {
                    return Ok(number);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err("no leader within a minute".into())
    }

    /// CPU time of all its servers.
    pub fn cpu(&self) -> Outcome<Duration> {
        self.processes().map(|process| cpu(process.id())).sum()
    }

    /// Resident megabytes of each server on average.
    pub fn resident_mb(&self) -> Outcome<f64> {
        let each: Vec<f64> =
            self.processes().map(|process| resident_mb(process.id())).collect::<Outcome<_>>()?;
        Ok(each.iter().sum::<f64>() / each.len() as f64)
    }

    fn processes(&self) -> impl Iterator<Item = &Child> {
        self.servers.iter().filter_map(|server| server.process.as_ref())
    }
}

/// The example `serve` of atoll-etcd: the store and its etcd API, and nothing else.
fn is_trial(program: &Path) -> bool {
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.starts_with("serve"))
}

fn server_token(program: &Path, folder: &Path) -> Outcome<String> {
    let kubeconfig = folder.join("0").join("kubeconfig");
    let made = Command::new(program)
        .args(["token", "create", "--usage", "server", "--kubeconfig"])
        .arg(kubeconfig)
        .output()?;
    if !made.status.success() {
        return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
    }
    Ok(String::from_utf8(made.stdout)?.trim().to_owned())
}

/// Servers that join each other have to have addresses that others could reach.
fn host(one: usize) -> String {
    format!("10.77.77.{}", one + 1)
}

/// On the loopback device, where it stays: it costs nothing. Needs root.
fn add_address(host: &str) -> Outcome<()> {
    let added = Command::new("ip")
        .args(["address", "replace", &format!("{host}/32"), "dev", "lo"])
        .status()?;
    if added.success() { Ok(()) } else { Err(format!("{host} cannot be added to lo").into()) }
}

async fn wait_for(endpoint: &str) -> Outcome<()> {
    let start = Instant::now();
    while start.elapsed() < START_MAX {
        if let Ok(mut client) = Client::connect([endpoint], None).await
            && client.get("ready", None).await.is_ok()
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Err(format!("{endpoint} does not answer within a minute").into())
}

fn free_ports(count: usize) -> Outcome<Vec<u16>> {
    let held: Vec<_> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(held.iter().map(|one| one.local_addr().map(|at| at.port())).collect::<Result<_, _>>()?)
}

fn cpu(process: u32) -> Outcome<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn resident_mb(process: u32) -> Outcome<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("an empty VmRSS")?.parse()?;
    Ok(kilobytes / 1024.0)
}
