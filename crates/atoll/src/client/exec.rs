//! `atoll exec`: runs a command in a container, with a terminal if asked.

use super::{connect::Connection, logs::find_pod, output};
use anyhow::{Context as _, Result, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, ResourceExt as _,
    api::{AttachParams, AttachedProcess, TerminalSize},
};
use rustix::termios::{self, OptionalActions, Termios};
use std::{io::IsTerminal as _, process::ExitCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
};

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// POD or KIND/NAME
    pub target: String,
    /// Which container, if the pod has several
    #[arg(short, long)]
    pub container: Option<String>,
    /// Pass standard input
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The command and its arguments, after --
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// Returns the command's own exit code.
pub async fn run(
    connection: &Connection,
    namespace: Option<&str>,
    exec: &Exec,
) -> Result<ExitCode> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let pod = find_pod(connection, namespace, &pod_first(&exec.target), false).await?;
    let api: Api<Pod> = Api::namespaced(connection.client.clone(), namespace);
    let tty = exec.tty && std::io::stdin().is_terminal();
    if exec.tty && !tty {
        output::remark("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let container = exec
        .container
        .clone()
        .or_else(|| pod.spec.as_ref()?.containers.first().map(|one| one.name.clone()));
    let mut params = AttachParams::default().stdin(exec.stdin).tty(tty).stderr(!tty);
    params.container = container;
    let process = api
        .exec(&pod.name_any(), exec.command.clone(), &params)
        .await
        .with_context(|| format!("running {:?} in pod {}", exec.command[0], pod.name_any()))?;
    let raw =
        if tty { Some(RawTerminal::enter().context("switching the terminal")?) } else { None };
    let status = carry(process, tty).await;
    drop(raw);
    exit_code(status?)
}

/// A bare name is a pod's, and a missing one is told of as the server does.
fn pod_first(target: &str) -> String {
    if target.contains('/') { target.to_owned() } else { format!("pod/{target}") }
}

/// Restores the terminal when it goes.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> std::io::Result<Self> {
        let stdin = std::io::stdin();
        let saved = termios::tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(saved))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let restored = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
        if restored.is_err() {
            output::remark("the terminal could not be restored; type `reset`");
        }
    }
}

async fn carry(mut process: AttachedProcess, tty: bool) -> Result<Option<Status>> {
    let status = process.take_status().context("the server sends no status")?;
    let mut tasks = tokio::task::JoinSet::new();
    if let Some(mut reader) = process.stdout() {
        tasks.spawn(async move { pump(&mut reader, output::bytes).await });
    }
    if let Some(mut reader) = process.stderr() {
        tasks.spawn(async move { pump(&mut reader, error_bytes).await });
    }
    let mut input = tokio::task::JoinSet::new();
    if let Some(mut writer) = process.stdin() {
        input.spawn(async move {
            let mut stdin = tokio::io::stdin();
            // The command may end before it has read everything.
            if tokio::io::copy(&mut stdin, &mut writer).await.is_ok() {
                writer.shutdown().await.ok();
            }
        });
    }
    if let Some(sizes) = process.terminal_size().filter(|_| tty) {
        input.spawn(follow_size(sizes));
    }
    let status = status.await;
    while tasks.join_next().await.is_some() {}
    input.abort_all();
    Ok(status)
}

async fn pump(reader: &mut (impl tokio::io::AsyncRead + Unpin), write: fn(&[u8])) {
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(length) = reader.read(&mut buffer).await {
        if length == 0 {
            return;
        }
        write(&buffer[..length]);
    }
}

fn error_bytes(bytes: &[u8]) {
    use std::io::Write as _;
    // Nobody is left to be told when standard error is gone.
    std::io::stderr().write_all(bytes).ok();
}

async fn follow_size(mut sizes: impl futures::Sink<TerminalSize> + Unpin + Send) {
    use futures::SinkExt as _;
    let Ok(mut changed) = signal(SignalKind::window_change()) else { return };
    loop {
        if let Ok(size) = termios::tcgetwinsize(std::io::stdin()) {
            let size = TerminalSize { width: size.ws_col, height: size.ws_row };
            if sizes.send(size).await.is_err() {
                return;
            }
        }
        if changed.recv().await.is_none() {
            return;
        }
    }
}

fn exit_code(status: Option<Status>) -> Result<ExitCode> {
    let Some(status) = status else { bail!("the connection ended before the command did") };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    let code = causes
        .into_iter()
        .flatten()
        .find(|cause| cause.reason.as_deref() == Some("ExitCode"))
        .and_then(|cause| cause.message.as_ref()?.parse::<u8>().ok());
    match code {
        Some(code) => {
            output::remark(&format!("command terminated with exit code {code}"));
            Ok(ExitCode::from(code))
        }
        None => bail!("{}", status.message.unwrap_or_else(|| "the command failed".into())),
    }
}
