//! One agent against an API server that lets everybody in, for trying things out:
//! `agent SERVER-URL DIR NODE-IP`, as root, in a network namespace of its own.
//!
//! The program is its own shim and the built-in image's content. Client certificates for
//! its kubelet API are written to DIR.
#![allow(clippy::print_stderr, clippy::exit, reason = "a program to play with")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use atoll_identity::{Authority, AuthorityKind, Leaf};
use atoll_image::{Builtin, ImageConfig, RegistryConfig};
use atoll_node::{Agent, Config, KubeletTls, Shutdown};

type BoxError = Box<dyn std::error::Error>;

fn main() {
    let mut args = std::env::args_os().skip(1).peekable();
    let code = match args.peek().and_then(|arg| arg.to_str()) {
        Some("shim") => atoll_container::shim_main(args.skip(1)),
        Some("hello") => report(hello()),
        Some("exit") => 3,
        _ => report(run()),
    };
    std::process::exit(code);
}

fn report(result: Result<(), BoxError>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{error}: {:?}", error.source());
            1
        }
    }
}

/// Answers everything with its name; says so on its output.
fn hello() -> Result<(), BoxError> {
    let listener = TcpListener::bind("0.0.0.0:8080")?;
    eprintln!("listening on 8080");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut buffer = [0; 2048];
        let count = stream.read(&mut buffer)?;
        let line = String::from_utf8_lossy(&buffer[..count]);
        eprintln!("{}", line.lines().next().unwrap_or_default());
        stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nhello\n",
        )?;
    }
    Ok(())
}

fn run() -> Result<(), BoxError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [server, dir, ip] = args.as_slice() else {
        return Err("usage: agent SERVER-URL DIR NODE-IP".into());
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(Box::pin(agent(server, Path::new(dir), ip.parse()?)))
}

async fn agent(server: &str, dir: &Path, node_ip: IpAddr) -> Result<(), BoxError> {
    std::fs::create_dir_all(dir.join("program"))?;
    let program = dir.join("program").join("atoll");
    if !program.exists() {
        std::fs::copy(std::env::current_exe()?, &program)?;
    }
    let config = kube::Config::new(server.parse()?);
    let client = kube::Client::try_from(config)?;
    let shutdown = Shutdown::default();
    let config = Config {
        node_name: "node-1".into(),
        cluster_id: "trial".into(),
        root: dir.to_owned(),
        run: PathBuf::from("/run/atoll-trial"),
        node_ip,
        labels: [].into(),
        client,
        servers: None,
        kubelet_tls: kubelet_tls(dir, node_ip)?,
        kubelet_listen: SocketAddr::new(node_ip, 10250),
        cluster_domain: "cluster.local".into(),
        cluster_dns: "10.43.0.10".parse()?,
        service_cidr: "10.43.0.0/16".into(),
        pod_cidr: "10.42.0.0/16".into(),
        upstream_dns: Vec::new(),
        own_pod_cidr: None,
        builtin_images: vec![Builtin {
            reference: "atoll.local/hello:latest".into(),
            rootfs: dir.join("program"),
            config: ImageConfig {
                entrypoint: vec!["/atoll".into(), "hello".into()],
                ..ImageConfig::default()
            },
        }],
        registry: RegistryConfig::default(),
        shim: program,
        version: "trial".into(),
        max_pods: 110,
        seccomp_default: false,
        containers: true,
        rootless: atoll_node::rootless::Rootless::default(),
    };
    let leave = shutdown.leave.clone();
    let remove = shutdown.remove.clone();
    let mut running = Box::pin(Agent::run(config, shutdown));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = &mut running => return Ok(result?),
        _ = tokio::signal::ctrl_c() => remove.cancel(),
        _ = terminate.recv() => leave.cancel(),
    }
    Ok(running.await?)
}

fn kubelet_tls(dir: &Path, ip: IpAddr) -> Result<KubeletTls, BoxError> {
    let now = jiff::Timestamp::now();
    let year = jiff::SignedDuration::from_hours(24 * 365);
    let authority = Authority::create(AuthorityKind::Kubelet, "trial", now)?;
    let serving = authority.issue(&Leaf::serving("node-1", &["node-1"], &[ip], year), now)?;
    let client = authority.issue(&Leaf::client("trial", &[], year), now)?;
    std::fs::write(dir.join("client.crt"), &client.certificate_pem)?;
    std::fs::write(dir.join("client.key"), client.key_pem.as_deref().unwrap_or_default())?;
    std::fs::write(dir.join("ca.crt"), authority.certificate_pem())?;
    Ok(KubeletTls {
        certificate_chain: serving.certificate_pem,
        key: serving.key_pem.unwrap_or_default(),
        client_ca: authority.certificate_pem().to_owned(),
    })
}
