//! One process of a `dev` cluster, kept running.
//!
//! A process ends when the pipe on its standard input closes, so that none outlives the
//! supervisor; a line on that pipe asks it to stop for good. It says that it is ready by a
//! line on its standard output.

use anyhow::{Context as _, Result};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What a process prints when it does its work.
pub const READY: &str = "ready";
/// What a process is told when it is to undo all that it made in the system.
pub const TEARDOWN: &str = "teardown";

/// A process that ends sooner than this after its start is started again with backoff.
const STABLE_AFTER: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// How long a process may take to tear down, pods' grace periods included.
const TEARDOWN_MAX: Duration = Duration::from_secs(45);

/// How to start it.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// The network namespace to start in.
    pub netns: Option<PathBuf>,
    pub log: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    Ready,
    Stopped,
}

/// A handle on the task that keeps the process running.
pub struct Process {
    state: watch::Receiver<State>,
    stop: CancellationToken,
    kill: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Process {
    pub fn start(recipe: Recipe) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let keeper = Keeper { recipe, state: sender, stop: stop.clone(), kill: kill.clone() };
        #[allow(clippy::disallowed_methods, reason = "the handle is awaited by stop and kill")]
        let task = tokio::spawn(keeper.run());
        Self { state, stop, kill, task }
    }

    /// Waits until the process has said that it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        self.state
            .wait_for(|state| *state == State::Ready)
            .await
            .context("the process was stopped before it was ready")?;
        Ok(())
    }

    /// Lets it undo what it made, and waits for its end.
    pub async fn teardown(self) {
        self.stop.cancel();
        self.task.await.ok();
    }

    /// Ends it at once, as a power cut would.
    pub async fn kill(self) {
        self.kill.cancel();
        self.task.await.ok();
    }
}

struct Keeper {
    recipe: Recipe,
    state: watch::Sender<State>,
    stop: CancellationToken,
    kill: CancellationToken,
}

enum Ended {
    ForGood,
    ByItself,
}

impl Keeper {
    async fn run(self) {
        let mut backoff = BACKOFF_FIRST;
        loop {
            let started = Instant::now();
            match self.once().await {
                Ok(Ended::ForGood) => break,
                Ok(Ended::ByItself) => {}
                Err(error) => warn!(process = %self.recipe.name, "{error:#}"),
            }
            self.state.send_replace(State::Starting);
            if started.elapsed() > STABLE_AFTER {
                backoff = BACKOFF_FIRST;
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.kill.cancelled() => break,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        self.state.send_replace(State::Stopped);
    }

    async fn once(&self) -> Result<Ended> {
        let mut child = spawn(&self.recipe)?;
        let input = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        loop {
            tokio::select! {
                () = self.kill.cancelled() => {
                    child.kill().await.context("killing the process")?;
                    return Ok(Ended::ForGood);
                }
                () = self.stop.cancelled() => {
                    return stop(child, input).await.map(|()| Ended::ForGood);
                }
                line = lines.next_line() => match line {
                    Ok(Some(line)) if line == READY => {
                        self.state.send_replace(State::Ready);
                    }
                    Ok(Some(_)) => {}
                    _ => break,
                },
            }
        }
        // Its output has ended, so it has, or is about to.
        let status = child.wait().await.context("waiting for the process")?;
        self.report(status);
        Ok(Ended::ByItself)
    }

    fn report(&self, status: ExitStatus) {
        let Recipe { name, log, .. } = &self.recipe;
        if status.success() {
            info!(process = %name, "ended; starting it again");
        } else {
            let last = last_line(log).unwrap_or_default();
            warn!(process = %name, %status, log = %log.display(), last, "ended; starting it again");
        }
    }
}

async fn stop(mut child: Child, input: Option<ChildStdin>) -> Result<()> {
    if let Some(mut input) = input {
        // A process that has just ended needs no telling.
        input.write_all(format!("{TEARDOWN}\n").as_bytes()).await.ok();
        input.flush().await.ok();
        let waited = tokio::time::timeout(TEARDOWN_MAX, child.wait()).await;
        drop(input);
        if waited.is_ok() {
            return Ok(());
        }
    }
    child.kill().await.context("killing a process that did not stop")
}

fn spawn(recipe: &Recipe) -> Result<Child> {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&recipe.log)
        .with_context(|| format!("opening {}", recipe.log.display()))?;
    let mut command = Command::new(&recipe.program);
    command
        .args(&recipe.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    // Ctrl-C is for the supervisor, which then stops the others in order.
    command.process_group(0);
    if let Some(netns) = &recipe.netns {
        enter(&mut command, netns)?;
    }
    command.spawn().with_context(|| format!("starting {}", recipe.name))
}

#[allow(unsafe_code, reason = "pre_exec runs between fork and exec, where only setns is called")]
fn enter(command: &mut Command, netns: &Path) -> Result<()> {
    let file = std::fs::File::open(netns)
        .with_context(|| format!("opening the network namespace {}", netns.display()))?;
    // SAFETY: the closure makes one system call on a descriptor that it owns; it neither
    // allocates nor takes a lock.
    unsafe {
        command.pre_exec(move || {
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&file),
                Some(rustix::thread::LinkNameSpaceType::Network),
            )?;
            Ok(())
        });
    }
    Ok(())
}

/// What a process said last, for the report of its end.
fn last_line(log: &Path) -> Option<String> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(2_048))).ok()?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().find(|line| !line.trim().is_empty()).map(ToOwned::to_owned)
}

/// Kills the containers and shims of a node that run on without its agent. Containers are
/// told by `cgroup`, a folder of cgroups that only this node has; shims by running from
/// `program` for a folder below `root`. Returns how many processes were killed.
pub fn kill_node(cgroup: &str, program: &Path, root: &Path) -> Result<usize> {
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc").context("listing processes")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if !(is_in_cgroup(pid, cgroup) || is_shim(pid, program, root)) {
            continue;
        }
        let Some(pid) = rustix::process::Pid::from_raw(pid) else { continue };
        // One that has just ended is as dead as it was to be.
        if rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok() {
            killed += 1;
        }
    }
    Ok(killed)
}

fn is_in_cgroup(pid: i32, cgroup: &str) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let prefix = format!("{cgroup}/");
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|path| path.contains(&prefix))
}

fn is_shim(pid: i32, program: &Path, root: &Path) -> bool {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut words = text.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let is_ours = words.next().is_some_and(|word| Path::new(word.as_ref()) == program)
        && words.next().is_some_and(|word| word == "shim");
    is_ours && words.any(|word| Path::new(word.as_ref()).starts_with(root))
}

/// For the process itself: reads its standard input until the supervisor has gone or asks
/// for a teardown. Returns whether it asked.
pub async fn supervised() -> bool {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line == TEARDOWN {
            return true;
        }
    }
    false
}

/// For the process itself: tells the supervisor that the work has begun.
#[allow(clippy::print_stdout, reason = "standard output is the channel to the supervisor")]
pub fn say_ready() {
    println!("{READY}");
}
