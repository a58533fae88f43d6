//! Terminals, input, attached clients and log rotation.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use atoll_container::{Signal, Stdio};

use crate::life::{command, read_all};
use crate::world::{DEADLINE, World, is_root, tear_down};

fn write(fd: &OwnedFd, text: &str) {
    std::fs::File::from(fd.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn exec_passes_input_and_keeps_the_streams_apart() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("t1").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sleep", "1000"])).await;
    let mut wish = command(&["sh", "-c", "tr a-z A-Z; echo oops >&2"]);
    wish.stdin = true;
    let (mut streams, exit) = world.runtime.exec(&container, wish).await.unwrap().into_parts();
    let stdin = streams.stdin.take().unwrap();
    write(&stdin, "hello\n");
    drop(stdin);
    assert_eq!(read_all(streams.stdout.take().unwrap()).await, "HELLO\n");
    assert_eq!(read_all(streams.stderr.take().unwrap()).await, "oops\n");
    assert_eq!(exit.wait().await.unwrap(), 0);
    tear_down(world, &["t1"]).await;
}

#[tokio::test]
async fn exec_with_a_terminal_knows_its_size() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("t2").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sleep", "1000"])).await;
    let mut wish = command(&["sh", "-c", "read line; stty size; echo $TERM; exit 2"]);
    wish.stdin = true;
    wish.process.tty = true;
    let (mut streams, exit) = world.runtime.exec(&container, wish).await.unwrap().into_parts();
    assert!(streams.tty && streams.stderr.is_none());
    streams.resize(101, 37).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    write(streams.stdin.as_ref().unwrap(), "go\n");
    let out = read_all(streams.stdout.take().unwrap()).await;
    assert!(out.contains("37 101\r\nxterm\r\n"), "{out:?}");
    assert_eq!(exit.wait().await.unwrap(), 2);
    tear_down(world, &["t2"]).await;
}

#[tokio::test]
async fn dropping_an_exec_kills_it_and_signals_reach_it() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("t3").await;
    let container = world.run(&world.spec(&sandbox, "c", &["sleep", "1000"])).await;
    let handle = world.runtime.exec(&container, command(&["sleep", "1001"])).await.unwrap();
    handle.signal(Signal::TERM).await;
    assert_eq!(tokio::time::timeout(DEADLINE, handle.wait()).await.unwrap().unwrap(), 143);
    drop(world.runtime.exec(&container, command(&["sleep", "1002"])).await.unwrap());
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let stats = world.runtime.stats(&container).await.unwrap();
        if stats.pids == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} processes", stats.pids);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tear_down(world, &["t3"]).await;
}

#[tokio::test]
async fn attach_feeds_stdin_once_and_shows_what_comes() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("t4").await;
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", "cat; echo end >&2"]);
    spec.stdio = Stdio { stdin: true, stdin_once: true };
    let container = world.run(&spec).await;
    let mut streams = world.runtime.attach(&container, true).await.unwrap();
    let mut watcher = world.runtime.attach(&container, false).await.unwrap();
    // More than pipes hold, so that pressure goes back to the writer.
    let text: String = (0..60_000).map(|n| format!("line {n}\n")).collect();
    let stdin = streams.stdin.take().unwrap();
    let fed = text.clone();
    let feeder = tokio::task::spawn_blocking(move || {
        nix::fcntl::fcntl(
            std::os::fd::AsRawFd::as_raw_fd(&stdin),
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
        )
        .unwrap();
        write(&stdin, &fed);
    });
    let (out, seen) = tokio::join!(
        read_all(streams.stdout.take().unwrap()),
        read_all(watcher.stdout.take().unwrap())
    );
    feeder.await.unwrap();
    assert_eq!(world.exit(&container).await.code, 0);
    // The log has all of it; attached clients may lose some when they are slow.
    assert_eq!(world.output("c", "stdout"), text);
    assert!(out.starts_with("line 0\n") && seen.starts_with("line 0\n"));
    assert_eq!(world.output("c", "stderr"), "end\n");
    tear_down(world, &["t4"]).await;
}

#[tokio::test]
async fn a_container_with_a_terminal_logs_and_attaches() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("t5").await;
    let script = "read line; echo got $line; stty size; exit 8";
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    spec.process.tty = true;
    spec.stdio.stdin = true;
    let container = world.run(&spec).await;
    let mut streams = world.runtime.attach(&container, true).await.unwrap();
    streams.resize(90, 30).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    write(streams.stdin.as_ref().unwrap(), "it\n");
    let out = read_all(streams.stdout.take().unwrap()).await;
    assert!(out.contains("got it\r\n30 90\r\n"), "{out:?}");
    assert_eq!(world.exit(&container).await.code, 8);
    assert!(world.output("c", "stdout").contains("got it"));
    tear_down(world, &["t5"]).await;
}

#[tokio::test]
async fn a_log_flood_is_rotated_and_ends() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("t6").await;
    let mut spec = world.spec(&sandbox, "c", &["sh", "-c", "seq 1 200000"]);
    spec.log.max_bytes = 1 << 20;
    spec.log.max_files = 3;
    let container = world.run(&spec).await;
    assert_eq!(world.exit(&container).await.code, 0);
    let logs = world.dir.path().join("logs/c");
    let list = || {
        let mut files: Vec<(String, u64)> = std::fs::read_dir(&logs)
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().to_string_lossy().into_owned(), e.metadata().unwrap().len()))
            .collect();
        files.sort();
        files
    };
    let deadline = Instant::now() + DEADLINE;
    let mut files = list();
    while files.len() != 3 || !files[1].0.ends_with(".gz") {
        assert!(Instant::now() < deadline, "the older one is not compressed: {files:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        files = list();
    }
    assert!(files.iter().all(|(_, length)| *length <= 1 << 20), "{files:?}");
    assert!(world.output("c", "stdout").ends_with("\n200000\n"));
    tear_down(world, &["t6"]).await;
}
