//! Measures create → running beside `runc` and `crun`, interleaved, with one bundle.
//!
//! `create_to_running ROOTFS [ROUNDS [PROFILE]]`, as root; ROOTFS holds a static
//! `/bin/busybox`. PROFILE is the seccomp profile that the others load, in the runtime
//! specification's JSON; without it nobody has one.
//! The example `shim` must be built beside it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measuring tool, not part of the product"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_container::{
    ContainerSpec, LogSpec, NamespaceMode, Namespaces, OciRuntime, Process, Resources, Root,
    Runtime, RuntimeConfig, SandboxSpec, Scope, Seccomp, Security, Signal, User,
};

fn spec(
    rootfs: &Path,
    sandbox: &atoll_container::Sandbox,
    attempt: u32,
    dir: &Path,
) -> ContainerSpec {
    let path = |p: &Option<PathBuf>| p.clone().map_or(NamespaceMode::Host, NamespaceMode::Path);
    ContainerSpec {
        sandbox: sandbox.uid.clone(),
        name: "c".into(),
        attempt,
        id: format!("bench{attempt}"),
        labels: [].into(),
        rootfs: rootfs.to_owned(),
        root: Root::default(),
        process: Process {
            args: vec!["/bin/busybox".into(), "sleep".into(), "1000".into()],
            env: Vec::new(),
            cwd: String::new(),
            user: User::default(),
            tty: false,
        },
        stdio: atoll_container::Stdio::default(),
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
        security: Security {
            seccomp: if std::env::args().nth(3).is_some() {
                Seccomp::RuntimeDefault
            } else {
                Seccomp::Unconfined
            },
            ..Security::default()
        },
        cgroup: format!("c{attempt}"),
        resources: Resources { memory_limit_bytes: Some(64 << 20), ..Resources::default() },
        oom_score_adj: None,
        log: LogSpec::new(dir.join("log")),
    }
}

fn other(program: &str, bundle: &Path, id: &str) -> Duration {
    let run = |args: &[&str]| {
        let status = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .status()
            .unwrap();
        assert!(status.success(), "{program} {args:?}");
    };
    let begin = Instant::now();
    run(&["create", "--bundle", bundle.to_str().unwrap(), id]);
    run(&["start", id]);
    let took = begin.elapsed();
    run(&["delete", "--force", id]);
    took
}

fn bundle(dir: &Path, config: &Path, cgroup: &str) -> PathBuf {
    let mut value: serde_json::Value =
        serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    value["linux"]["cgroupsPath"] = cgroup.into();
    if let Some(profile) = std::env::args().nth(3) {
        let profile = std::fs::read(profile).unwrap();
        value["linux"]["seccomp"] = serde_json::from_slice(&profile).unwrap();
        let plain = value["process"]["capabilities"]["bounding"].clone();
        for set in ["effective", "permitted"] {
            value["process"]["capabilities"][set] = plain.clone();
        }
    }
    std::fs::create_dir_all(dir).unwrap();
    std::fs::write(dir.join("config.json"), value.to_string()).unwrap();
    dir.to_owned()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rootfs = PathBuf::from(std::env::args().nth(1).unwrap());
    let rounds: u32 = std::env::args().nth(2).map_or(50, |n| n.parse().unwrap());
    let dir = std::env::temp_dir().join(format!("atoll-bench-{}", std::process::id()));
    let program = std::env::current_exe().unwrap();
    let runtime = OciRuntime::new(RuntimeConfig {
        shim: program.parent().unwrap().join("shim"),
        pods: dir.join("pods"),
        run: dir.join("run"),
        cgroup_root: "/atoll-bench".into(),
        shim_cgroup: "/atoll-bench-shims".into(),
    })
    .await
    .unwrap();
    let sandbox = SandboxSpec { uid: "b".into(), hostname: "b".into(), ..SandboxSpec::default() };
    let sandbox = runtime.ensure_sandbox(&sandbox).await.unwrap();
    let others: Vec<&str> = ["runc", "crun"]
        .into_iter()
        .filter(|p| Command::new(p).arg("--version").stdout(Stdio::null()).status().is_ok())
        .collect();
    let mut times = vec![Vec::new(); others.len() + 1];
    let mut bundles = Vec::new();
    for round in 0..rounds {
        let wish = spec(&rootfs, &sandbox, round, &dir);
        let begin = Instant::now();
        let container = runtime.create(&wish).await.unwrap();
        runtime.start(&container).await.unwrap();
        times[0].push(begin.elapsed());
        if bundles.is_empty() {
            for program in &others {
                let cgroup = format!("/atoll-bench-{program}");
                let config = container.dir.join("config.json");
                bundles.push(bundle(&dir.join(program), &config, &cgroup));
            }
        }
        for (index, program) in others.iter().enumerate() {
            let id = format!("{program}{round}");
            times[index + 1].push(other(program, &bundles[index], &id));
        }
        runtime.signal(&container, Signal::KILL, Scope::All).await.unwrap();
    }
    runtime.remove_sandbox("b").await.unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    println!("create -> running, median of {rounds}:");
    let names = std::iter::once("atoll").chain(others);
    for (name, times) in names.zip(&mut times) {
        println!("  {name:5} {:6.2} ms", median(times).as_secs_f64() * 1000.0);
    }
}
