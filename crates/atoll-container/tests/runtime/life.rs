//! A container starts, logs, is looked into and ends.

use std::io::Read;
use std::os::fd::OwnedFd;

use atoll_container::{Error, Event, ExecSpec, Process, Scope, Signal, State, User};

use crate::world::{DEADLINE, World, is_root, tear_down};

pub(crate) async fn read_all(fd: OwnedFd) -> String {
    let read = tokio::task::spawn_blocking(move || {
        set_blocking(&fd);
        let mut text = Vec::new();
        match std::fs::File::from(fd).read_to_end(&mut text) {
            Ok(_) => {}
            // A terminal whose command is gone.
            Err(e) => assert_eq!(e.raw_os_error(), Some(5), "{e}"),
        }
        String::from_utf8_lossy(&text).into_owned()
    });
    tokio::time::timeout(DEADLINE, read).await.expect("the stream ends").unwrap()
}

fn set_blocking(fd: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let raw = fd.as_raw_fd();
    nix::fcntl::fcntl(raw, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
}

pub(crate) fn command(args: &[&str]) -> ExecSpec {
    ExecSpec {
        process: Process { args: args.iter().map(|&a| a.into()).collect(), ..Process::default() },
        stdin: false,
        stdout: true,
        stderr: true,
        privileged: false,
    }
}

#[tokio::test]
async fn a_container_logs_and_its_exit_code_is_told() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("s1").await;
    let script = "echo $GREETING; hostname; echo bad >&2; exit 7";
    let spec = world.spec(&sandbox, "c", &["sh", "-c", script]);
    let container = world.run(&spec).await;
    let exit = world.exit(&container).await;
    assert_eq!((exit.code, exit.signal, exit.unknown), (7, None, false));
    assert!(exit.started_at.unwrap() <= exit.finished_at);
    assert_eq!(world.output("c", "stdout"), "hello\nbox\n");
    assert_eq!(world.output("c", "stderr"), "bad\n");
    tear_down(world, &["s1"]).await;
}

#[tokio::test]
async fn a_command_runs_inside_with_its_own_user_and_code() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("s2").await;
    let mut spec = world.spec(&sandbox, "c", &["sleep", "1000"]);
    spec.process.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000] };
    let container = world.run(&spec).await;

    let mut wish = command(&["sh", "-c", "id; echo $HOME; cat /proc/self/status; exit 3"]);
    wish.process.user = User { uid: 1000, gid: 1000, additional_gids: vec![2000] };
    let handle = world.runtime.exec(&container, wish).await.unwrap();
    let (mut streams, exit) = handle.into_parts();
    let out = read_all(streams.stdout.take().unwrap()).await;
    assert_eq!(exit.wait().await.unwrap(), 3);
    assert!(out.starts_with("uid=1000(app) gid=1000 groups=1000,2000\n/home/app\n"), "{out}");
    assert!(out.contains("CapEff:\t0000000000000000"), "{out}");
    let caps = crate::isolation::default_capabilities();
    assert!(out.contains(&format!("CapBnd:\t{caps}")), "{out}");
    assert!(out.contains("Seccomp:\t2"), "{out}");
    assert!(out.contains("NoNewPrivs:\t0"), "{out}");

    let missing = world.runtime.exec(&container, command(&["nope"])).await.unwrap_err();
    assert!(
        matches!(&missing, Error::Exec { reason, .. }
        if reason == r#"exec: "nope": executable file not found in $PATH"#),
        "{missing}"
    );
    tear_down(world, &["s2"]).await;
}

#[tokio::test]
async fn a_signal_reaches_the_first_process_and_kill_all_of_them() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("s3").await;
    let script = "trap 'echo bye; exit 4' TERM; sleep 1000 & while true; do wait; done";
    let spec = world.spec(&sandbox, "polite", &["sh", "-c", script]);
    let polite = world.run(&spec).await;
    let spec = world.spec(&sandbox, "deaf", &["sh", "-c", "trap '' TERM; sleep 1000; sleep 1000"]);
    let deaf = world.run(&spec).await;
    // Both have set their traps once they answer an exec.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    world.runtime.signal(&polite, Signal::TERM, Scope::Init).await.unwrap();
    assert_eq!(world.exit(&polite).await.code, 4);
    world.runtime.signal(&deaf, Signal::TERM, Scope::Init).await.unwrap();
    assert!(matches!(world.observed(&deaf).await.state, State::Running { .. }));
    world.runtime.signal(&deaf, Signal::KILL, Scope::All).await.unwrap();
    let exit = world.exit(&deaf).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    // Too late is no error.
    world.runtime.signal(&deaf, Signal::KILL, Scope::All).await.unwrap();
    tear_down(world, &["s3"]).await;
}

#[tokio::test]
async fn a_command_that_does_not_exist_is_told_in_runcs_words() {
    if !is_root() {
        return;
    }
    let world = World::oci().await;
    let sandbox = world.sandbox("s4").await;
    let spec = world.spec(&sandbox, "c", &["/nope"]);
    let error = world.runtime.create(&spec).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(r#"exec: "/nope": stat /nope: no such file or directory"#), "{text}");
    // Nothing is left of it: the same attempt may be tried again.
    assert_eq!(world.runtime.list().await.unwrap(), []);
    let path = world.dir.path().join("root-fs/bin/text");
    std::fs::write(&path, "no program").unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let spec = world.spec(&sandbox, "c", &["/bin/text"]);
    let container = world.runtime.create(&spec).await.unwrap();
    let error = world.runtime.start(&container).await.unwrap_err().to_string();
    assert!(error.contains(r#"exec: "/bin/text": exec format error"#), "{error}");
    tear_down(world, &["s4"]).await;
}

#[tokio::test]
async fn events_tell_of_start_and_end_once() {
    if !is_root() {
        return;
    }
    let mut world = World::oci().await;
    let sandbox = world.sandbox("s5").await;
    let spec = world.spec(&sandbox, "c", &["sh", "-c", "exit 0"]);
    let container = world.run(&spec).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = tokio::time::timeout(DEADLINE, world.events.recv()).await.unwrap().unwrap();
        seen.push(event);
    }
    assert!(matches!(&seen[0], Event::Started { key } if *key == container.key));
    assert!(matches!(&seen[1], Event::Exited { exit, .. } if exit.code == 0));
    tear_down(world, &["s5"]).await;
}
