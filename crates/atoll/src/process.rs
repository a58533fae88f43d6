//! One process of a `dev` cluster, kept running.
//!
//! A process ends when the pipe on its standard input closes, so that none outlives the
//! supervisor; a line on that pipe asks it to stop for good. It says that it is ready by a
//! line on its standard output.

use anyhow::{Context as _, Result, bail};
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
use tracing::warn;

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
/// A process that has never been ready and has ended this often will not get better by
/// itself: the start fails with what it said last.
const FIRST_ATTEMPTS_MAX: u32 = 3;

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

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting,
    Ready,
    /// It was never ready; why it ended the last time.
    Failed(String),
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
    /// `hurry` ends it at once, even while it tears down.
    pub fn start(recipe: Recipe, hurry: &CancellationToken) -> Self {
        let (sender, state) = watch::channel(State::Starting);
        let (stop, kill) = (CancellationToken::new(), hurry.child_token());
        let keeper = Keeper { recipe, state: sender, stop: stop.clone(), kill: kill.clone() };
        #[allow(clippy::disallowed_methods, reason = "the handle is awaited by stop and kill")]
        let task = tokio::spawn(keeper.run());
        Self { state, stop, kill, task }
    }

    /// Waits until the process has said that it is ready.
    pub async fn ready(&mut self) -> Result<()> {
        let state = self.state.wait_for(|state| *state != State::Starting).await;
        match &*state.context("the process was stopped before it was ready")? {
            State::Failed(why) => bail!("{why}"),
            State::Stopped => bail!("it was stopped before it was ready"),
            State::Starting | State::Ready => Ok(()),
        }
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
    /// And how, in words.
    ByItself(String),
}

impl Keeper {
    async fn run(self) {
        let end = self.keep().await;
        self.state.send_replace(end);
    }

    /// Starts it again and again until it is stopped, or until it is clear that it cannot
    /// start.
    async fn keep(&self) -> State {
        let mut backoff = BACKOFF_FIRST;
        let mut failures: u32 = 0;
        let mut was_ready = false;
        loop {
            let started = Instant::now();
            let why = match self.once().await {
                Ok(Ended::ForGood) => return State::Stopped,
                Ok(Ended::ByItself(why)) => why,
                Err(error) => format!("{error:#}"),
            };
            was_ready |= *self.state.borrow() == State::Ready;
            failures = failures.saturating_add(1);
            if !was_ready && failures >= FIRST_ATTEMPTS_MAX {
                return State::Failed(why);
            }
            warn!(process = %self.recipe.name, "ended, starting it again: {why}");
            self.state.send_replace(State::Starting);
            if started.elapsed() > STABLE_AFTER {
                backoff = BACKOFF_FIRST;
            }
            tokio::select! {
                () = self.stop.cancelled() => return State::Stopped,
                () = self.kill.cancelled() => return State::Stopped,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
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
                    return stop(child, input, &self.kill).await.map(|()| Ended::ForGood);
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
        Ok(Ended::ByItself(self.describe(status)))
    }

    fn describe(&self, status: ExitStatus) -> String {
        let log = &self.recipe.log;
        match last_line(log).filter(|_| !status.success()) {
            Some(last) => format!("{last} ({status}; its log is {})", log.display()),
            None => format!("{status}; its log is {}", log.display()),
        }
    }
}

async fn stop(
    mut child: Child,
    input: Option<ChildStdin>,
    hurry: &CancellationToken,
) -> Result<()> {
    if let Some(mut input) = input {
        // A process that has just ended needs no telling.
        input.write_all(format!("{TEARDOWN}\n").as_bytes()).await.ok();
        input.flush().await.ok();
        let waited = tokio::select! {
            () = hurry.cancelled() => None,
            waited = tokio::time::timeout(TEARDOWN_MAX, child.wait()) => waited.ok(),
        };
        drop(input);
        if waited.is_some() {
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
pub fn say_ready() {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // A supervisor that has gone is noticed by the end of standard input.
    writeln!(out, "{READY}").and_then(|()| out.flush()).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(folder: &Path, script: &str) -> Recipe {
        Recipe {
            name: "test".to_owned(),
            program: PathBuf::from("/bin/sh"),
            arguments: ["-c", script].map(OsString::from).to_vec(),
            netns: None,
            log: folder.join("log"),
        }
    }

    #[tokio::test]
    async fn a_process_that_cannot_start_is_given_up_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let recipe = shell(folder.path(), "echo error: no such thing >&2; exit 3");
        let mut process = Process::start(recipe, &CancellationToken::new());
        let refused = process.ready().await.unwrap_err().to_string();
        assert!(refused.contains("error: no such thing (exit status: 3"), "{refused}");
        assert!(refused.contains("log"), "{refused}");
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log.lines().count(), 3, "{log}");
    }

    #[tokio::test]
    async fn one_that_was_ready_is_started_again_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let counter = folder.path().join("count");
        let script = format!("echo x >> {0}; echo ready; exit 1", counter.display());
        let process = Process::start(shell(folder.path(), &script), &CancellationToken::new());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_to_string(&counter).unwrap_or_default().lines().count() < 5 {
            assert!(Instant::now() < deadline, "it was not started five times");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        process.kill().await;
    }

    #[tokio::test]
    async fn a_teardown_can_be_hurried() {
        let folder = tempfile::tempdir().unwrap();
        let hurry = CancellationToken::new();
        let recipe = shell(folder.path(), "echo ready; exec sleep 100");
        let mut process = Process::start(recipe, &hurry);
        process.ready().await.unwrap();
        let started = Instant::now();
        let ending = process.teardown();
        hurry.cancel();
        ending.await;
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
