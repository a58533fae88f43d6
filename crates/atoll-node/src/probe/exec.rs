//! Exec probes and hooks: a command inside the container, its output capped.

use std::time::Duration;

use atoll_container::{ContainerRef, ContainerSpec, ExecSpec, Process, Runtime};

use crate::fd_stream::{FdStream, read_capped};
use crate::probe::Outcome;

/// Output beyond this is read and thrown away.
const OUTPUT_BYTES_MAX: usize = 10 << 10;

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    /// Standard output, then standard error.
    pub output: String,
    stdout_bytes: usize,
}

impl Ran {
    #[must_use]
    pub fn stderr(&self) -> &str {
        self.output.get(self.stdout_bytes..).unwrap_or_default()
    }
}

pub async fn probe(
    runtime: &dyn Runtime,
    container: &ContainerRef,
    command: Vec<String>,
    timeout: Duration,
) -> Outcome {
    let shown = command.join(" ");
    match tokio::time::timeout(timeout, run(runtime, container, command)).await {
        Ok(Ok(ran)) if ran.code == 0 => Outcome::Success,
        Ok(Ok(ran)) => Outcome::Failure(ran.output),
        Ok(Err(reason)) => Outcome::Broken(reason),
        Err(_elapsed) => {
            let seconds = timeout.as_secs();
            Outcome::Failure(format!("command timed out: \"{shown}\" timed out after {seconds}s"))
        }
    }
}

/// Runs a command with the user, environment and directory of the container's own.
pub async fn run(
    runtime: &dyn Runtime,
    container: &ContainerRef,
    command: Vec<String>,
) -> Result<Ran, String> {
    run_capped(runtime, container, command, OUTPUT_BYTES_MAX).await
}

/// The same with room for so much output.
pub async fn run_capped(
    runtime: &dyn Runtime,
    container: &ContainerRef,
    command: Vec<String>,
    bytes_max: usize,
) -> Result<Ran, String> {
    let mut process = process_of(container).await?;
    process.args = command;
    process.tty = false;
    let spec = ExecSpec { process, stdin: false, stdout: true, stderr: true, privileged: false };
    let handle = runtime.exec(container, spec).await.map_err(|error| error.to_string())?;
    let (streams, exit) = handle.into_parts();
    let open = |fd: Option<std::os::fd::OwnedFd>| fd.map(FdStream::new).transpose();
    let stdout = open(streams.stdout).map_err(|error| error.to_string())?;
    let stderr = open(streams.stderr).map_err(|error| error.to_string())?;
    let (out, err) = tokio::join!(read_capped(stdout, bytes_max), read_capped(stderr, bytes_max));
    let mut output = out.map_err(|error| error.to_string())?;
    let stdout_bytes = output.len();
    output.extend(err.map_err(|error| error.to_string())?);
    output.truncate(bytes_max);
    let code = exit.wait().await.map_err(|error| error.to_string())?;
    Ok(Ran { code, output: String::from_utf8_lossy(&output).into_owned(), stdout_bytes })
}

/// The container's own process, as it was made: exec inherits none of it by itself.
pub async fn process_of(container: &ContainerRef) -> Result<Process, String> {
    let path = container.dir.join("container.json");
    let text = tokio::fs::read(&path)
        .await
        .map_err(|error| format!("reading {}: {error}", path.display()))?;
    let record: Record = serde_json::from_slice(&text)
        .map_err(|error| format!("{} holds no container: {error}", path.display()))?;
    Ok(record.spec.process)
}

/// The part of the runtime's record that matters here.
#[derive(serde::Deserialize)]
struct Record {
    spec: ContainerSpec,
}
