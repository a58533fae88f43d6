//! `atoll dev` without root: one node on the host's own network, whose pods are processes
//! of the host.

use super::{Dev, folder::Cluster, folder::Folder, greet, nodes_ready, recipe, start};
use crate::client::connect::connect;
use anyhow::{Context as _, Result, bail};
use std::time::Instant;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Between the API's port and the kubelet's, so that several users can have a cluster each.
const KUBELET_OFFSET: u16 = 3_807;

pub async fn run(
    dev: &Dev,
    folder: &Folder,
    cluster: &Cluster,
    listener: TcpListener,
    started: Instant,
) -> Result<()> {
    if dev.nodes > 1 {
        bail!(
            "{} nodes need root, for their network namespaces; run it with sudo, or with --nodes 1",
            dev.nodes
        );
    }
    missing();
    // The server listens itself: there is no namespace to cross.
    drop(listener);
    let program = std::env::current_exe().context("finding this program")?;
    let port = dev.port;
    let server_folder = folder.server();
    let node_folder = folder.node("node-1");
    for path in [&server_folder, &node_folder] {
        std::fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
    }
    let arguments = [
        ("data-dir", server_folder.display().to_string()),
        ("listen", format!("127.0.0.1:{port}")),
        ("advertise", "127.0.0.1".to_owned()),
        ("write-kubeconfig", folder.kubeconfig().display().to_string()),
        ("kubeconfig-server", format!("https://127.0.0.1:{port}")),
        ("supervised", String::new()),
    ];
    let log = server_folder.join("server.log");
    let server = start(recipe("server", &program, None, &log, &arguments)).await?;
    let client = connect(&folder.kubeconfig(), None).await?.client;
    let token = crate::token::create(&client, 600).await?.token;
    let token_file = node_folder.join("join-token");
    super::folder::write_atomically(&token_file, token.as_bytes(), 0o600)?;
    let arguments = [
        ("join", format!("https://127.0.0.1:{port}")),
        ("token-file", token_file.display().to_string()),
        ("name", "node-1".to_owned()),
        ("data-dir", node_folder.display().to_string()),
        ("run-dir", node_folder.join("run").display().to_string()),
        ("cluster-id", cluster.id.clone()),
        ("node-ip", "127.0.0.1".to_owned()),
        ("kubelet-port", port.wrapping_add(KUBELET_OFFSET).to_string()),
        ("program", program.display().to_string()),
        ("no-dns", String::new()),
        ("supervised", String::new()),
    ];
    let log = node_folder.join("agent.log");
    let agent = start(recipe("agent/node-1", &program, None, &log, &arguments)).await?;
    nodes_ready(client, 1).await?;
    greet(folder, 1, started.elapsed());

    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    agent.teardown().await;
    server.teardown().await;
    Ok(())
}

#[allow(clippy::print_stderr, reason = "a person has to know what will not work")]
fn missing() {
    eprintln!("Without root: one node, and pods are processes of this machine. Missing are");
    eprintln!("  containers and images, pod addresses, Service addresses, cluster DNS, limits.");
    eprintln!("Start it with sudo to have them.");
}
