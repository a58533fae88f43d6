//! `atoll dev` without root: one node on the host's own network, whose pods are processes
//! of the user.

use super::{
    Dev, READY_MAX, folder::Cluster, folder::Folder, greet, joining, nodes_ready, program, recipe,
    signals::Signals, start_under,
};
use crate::{client::connect::connect, process::Process};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Instant,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const NODE: &str = "node-1";
/// Between the API's port and the kubelet's.
const KUBELET_OFFSET: u16 = 3_807;
/// A socket's path ends at 108 bytes; below the run folder stand `shim/<16 digits>.sock`.
const RUN_BYTES_MAX: usize = 107 - "/shim/0123456789abcdef.sock".len();

/// The two processes of such a cluster.
#[derive(Default)]
struct Processes {
    server: Option<Process>,
    agent: Option<Process>,
    hurry: CancellationToken,
}

pub async fn run(
    dev: &Dev,
    folder: &Folder,
    cluster: &Cluster,
    listener: TcpListener,
    signals: &mut Signals,
    started: Instant,
) -> Result<()> {
    if dev.nodes > 1 {
        bail!(
            "{} nodes need root, for their network namespaces; run it with sudo, or with --nodes 1",
            dev.nodes
        );
    }
    if cluster.servers > 1 {
        bail!(
            "{} servers need root, for their network namespaces; run it with sudo",
            cluster.servers
        );
    }
    sweep();
    let program = program::copy(folder)?;
    let run_dir = run_dir(&folder.node(NODE), &cluster.id)?;
    tell_missing(&program, folder.root()).await;
    // The server listens itself: there is no namespace to cross.
    drop(listener);
    let mut processes = Processes::default();
    let ready = async {
        let up = processes.bring_up(dev, folder, cluster, &program, &run_dir);
        tokio::time::timeout(READY_MAX, up).await.map_err(|_elapsed| {
            anyhow::anyhow!(
                "the cluster was not ready within {} s; the logs are in {}",
                READY_MAX.as_secs(),
                folder.root().display()
            )
        })?
    };
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        result = ready => match result {
            Ok(()) => {
                let published = folder.publish_kubeconfig();
                if published.is_ok() {
                    greet(folder, 1, started.elapsed());
                    signals.next().await;
                }
                published
            }
            Err(error) => Err(error),
        },
    };
    folder.stopping();
    info!("stopping: pods first");
    let hurry = processes.hurry.clone();
    let mut teardown = std::pin::pin!(processes.teardown());
    tokio::select! {
        () = &mut teardown => {}
        () = signals.next() => {
            info!("told again to stop: pods do not get the rest of their grace periods");
            hurry.cancel();
            teardown.await;
        }
    }
    end_shims(folder.root());
    remove_run_dir(&run_dir);
    program::remove(&program);
    result
}

impl Processes {
    async fn bring_up(
        &mut self,
        dev: &Dev,
        folder: &Folder,
        cluster: &Cluster,
        program: &Path,
        run_dir: &Path,
    ) -> Result<()> {
        let (server_folder, node_folder) = (folder.server(), folder.node(NODE));
        for path in [&server_folder, &node_folder] {
            std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        }
        let port = dev.port;
        let mut arguments = vec![
            ("data-dir", server_folder.display().to_string()),
            ("listen", format!("127.0.0.1:{port}")),
            ("advertise", "127.0.0.1".to_owned()),
            ("kubeconfig-server", format!("https://127.0.0.1:{port}")),
            ("supervised", String::new()),
        ];
        arguments.extend(dev.etcd_space.arguments());
        arguments.extend(dev.audit.arguments(1)?);
        if let Some(listen) = dev.etcd_listen {
            arguments.push(("etcd-listen", listen.to_string()));
        }
        let log = server_folder.join("server.log");
        let server = recipe("server", program, None, &log, &arguments);
        self.server = Some(start_under(server, &self.hurry).await?);
        let client = connect(&server_folder.join("kubeconfig"), None).await?.client;
        let token_file = joining::token_file(&client, NODE, &node_folder).await?;
        let mut arguments = vec![
            ("join", format!("https://127.0.0.1:{port}")),
            ("token-file", token_file.display().to_string()),
            ("name", NODE.to_owned()),
            ("data-dir", node_folder.display().to_string()),
            ("run-dir", run_dir.display().to_string()),
            ("cluster-id", cluster.id.clone()),
            ("node-ip", "127.0.0.1".to_owned()),
            ("kubelet-port", kubelet_port(port)?.to_string()),
            ("program", program.display().to_string()),
            ("no-dns", String::new()),
            ("supervised", String::new()),
        ];
        arguments.extend(dev.registries.arguments().chain(dev.confinement.arguments()));
        let log = node_folder.join("agent.log");
        let agent = recipe("agent/node-1", program, None, &log, &arguments);
        self.agent = Some(start_under(agent, &self.hurry).await?);
        nodes_ready(client, 1).await
    }

    async fn teardown(&mut self) {
        for process in [self.agent.take(), self.server.take()].into_iter().flatten() {
            process.teardown().await;
        }
    }
}

/// The usual distance from the API's port, so that several users can have a cluster each,
/// or else any port that is free.
fn kubelet_port(port: u16) -> Result<u16> {
    let usual = port.checked_add(KUBELET_OFFSET).unwrap_or(0);
    let listen = |port: u16| std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, port));
    let listener = listen(usual).or_else(|_taken| listen(0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.context("finding a port for the node")?.port())
}

/// Below the node's folder, unless that is too long for a socket.
fn run_dir(node: &Path, id: &str) -> Result<PathBuf> {
    let beside = node.join("run");
    if beside.as_os_str().len() <= RUN_BYTES_MAX {
        return Ok(beside);
    }
    let own = std::env::temp_dir().join(format!("atoll-{}", geteuid().as_raw()));
    let name = own.display();
    match std::fs::DirBuilder::new().mode(0o700).create(&own) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("making {name}"));
        }
        _ => {}
    }
    // Anybody may have made it before.
    let found = std::fs::symlink_metadata(&own).with_context(|| format!("reading {name}"))?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() || found.mode() & 0o077 != 0 {
        bail!("{name} is not a folder of yours alone; remove it, or choose a shorter --data-dir");
    }
    Ok(own.join(id))
}

fn remove_run_dir(run_dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(run_dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        warn!(path = %run_dir.display(), %error, "not removed");
    }
    // That of all clusters of this user: the last one to go takes it along.
    if let Some(own) = run_dir.parent().filter(|own| own.starts_with(std::env::temp_dir())) {
        std::fs::remove_dir(own).ok();
    }
}

#[allow(clippy::print_stderr, reason = "a person has to know what will not work")]
async fn tell_missing(program: &Path, folder: &Path) {
    eprintln!("Without root: one node, and its pods are processes of yours.");
    match atoll_container::obstacle(program, folder).await {
        None => eprintln!("  They have images, volumes, users and host names of their own."),
        Some(reason) => {
            eprintln!("  This machine does not let you make namespaces ({reason}),");
            eprintln!("  so images and volumes are missing: only atoll.local/hello runs, and");
            eprintln!("  commands of this machine by the image atoll.local/host.");
        }
    }
    eprintln!("  Missing are pod and Service addresses and cluster DNS: a program is told by PORT");
    eprintln!("  where to listen. Limits are not enforced. With sudo all of it is there.");
}

struct Running {
    parent: i32,
    words: Vec<String>,
}

/// The processes of this user.
fn processes() -> BTreeMap<i32, Running> {
    let own = geteuid().as_raw();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mine = entries.filter(|entry| entry.metadata().is_ok_and(|found| found.uid() == own));
    let read = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into());
        Some((pid, Running { parent, words: words.collect() }))
    };
    mine.filter_map(|entry| read(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The folder for which a shim runs.
fn folder_of(words: &[String]) -> Option<&Path> {
    match words {
        [program, command, flag, folder, ..]
            if Path::new(program).file_name().is_some_and(|name| name == "atoll")
                && command == "shim"
                && flag == "--dir" =>
        {
            Some(Path::new(folder))
        }
        _ => None,
    }
}

/// Ends what killed clusters whose folder is gone have left running.
fn sweep() {
    let count = end(|folder| !folder.exists());
    if count > 0 {
        info!(processes = count, "ended, which clusters whose folders are gone had left");
    }
}

/// What an agent that was ended in a hurry has left.
fn end_shims(root: &Path) {
    let count = end(|folder| folder.starts_with(root));
    if count > 0 {
        info!(processes = count, "ended without their grace period");
    }
}

/// Kills shims for such folders with all that they run.
fn end(is_wanted: impl Fn(&Path) -> bool) -> usize {
    let all = processes();
    let is_shim = |running: &Running| folder_of(&running.words).is_some_and(&is_wanted);
    let mut doomed: BTreeSet<i32> =
        all.iter().filter(|(_, running)| is_shim(running)).map(|(pid, _)| *pid).collect();
    loop {
        let more: Vec<i32> = all
            .iter()
            .filter(|(pid, running)| doomed.contains(&running.parent) && !doomed.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        doomed.extend(more);
    }
    for pid in doomed.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // One that has just ended is as dead as it was to be.
        kill_process(pid, Signal::KILL).ok();
    }
    doomed.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_gets_a_short_run_folder() {
        let short = run_dir(Path::new("/home/u/dev/node-1"), "12345678").unwrap();
        assert_eq!(short, Path::new("/home/u/dev/node-1/run"));
        let long = Path::new("/home").join("x".repeat(90));
        let elsewhere = run_dir(&long, "12345678").unwrap();
        assert!(elsewhere.as_os_str().len() <= RUN_BYTES_MAX && elsewhere.ends_with("12345678"));
        remove_run_dir(&elsewhere);
    }

    #[test]
    fn shims_are_told_by_their_command_line() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let found = |text: &str| folder_of(&words(text)).map(Path::to_owned);
        assert_eq!(found("/x/atoll shim --dir /d/pods/u/c/0"), Some("/d/pods/u/c/0".into()));
        assert_eq!(found("/x/atoll server --dir /d"), None);
        assert_eq!(found("/bin/sh shim --dir /d"), None);
    }

    #[test]
    fn a_kubelet_port_that_is_taken_is_passed_over() {
        let first = kubelet_port(21_000).unwrap();
        let _listener = std::net::TcpListener::bind(("127.0.0.1", first)).unwrap();
        assert_ne!(kubelet_port(21_000).unwrap(), first);
        assert_ne!(kubelet_port(65_000).unwrap(), 0);
    }
}
