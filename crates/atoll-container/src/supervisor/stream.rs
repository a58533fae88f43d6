//! Exec and attach: descriptors for the caller, a task that keeps the connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::pipe::PipeFlags;
use tokio::sync::{mpsc, oneshot};

use super::{Supervisor, unexpected};
use crate::connection::Connection;
use crate::error::Error;
use crate::frame::{Body, ErrorCode, Op};
use crate::runtime::{CONTROL_MAX, ContainerRef, Control, ExecHandle, State, Streams};
use crate::spec::ExecSpec;

/// The two ends of a command's streams.
#[derive(Default)]
struct Pipes {
    ours: [Option<OwnedFd>; 3],
    theirs: Vec<OwnedFd>,
}

impl Pipes {
    /// Pipes for the wanted ones of stdin, stdout and stderr.
    fn new(wanted: [bool; 3]) -> io::Result<Pipes> {
        let mut pipes = Pipes::default();
        for (index, _) in wanted.iter().enumerate().filter(|(_, wanted)| **wanted) {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let (ours, theirs) = if index == 0 { (write, read) } else { (read, write) };
            // Only our end: the flag belongs to each end, and commands expect to block.
            rustix::io::ioctl_fionbio(&ours, true)?;
            pipes.ours[index] = Some(ours);
            pipes.theirs.push(theirs);
        }
        Ok(pipes)
    }

    fn to_send(&self) -> Vec<BorrowedFd<'_>> {
        self.theirs.iter().map(AsFd::as_fd).collect()
    }
}

impl Supervisor {
    pub(crate) async fn exec(
        self: &Arc<Self>,
        container: &ContainerRef,
        spec: ExecSpec,
    ) -> Result<ExecHandle, Error> {
        let name = container.key.to_string();
        self.must_run(container).await?;
        let failed = |source| Error::ShimIo { container: name.clone(), source };
        let connection = self.connect(container)?;
        let tty = spec.process.tty;
        let wanted = [spec.stdin, spec.stdout, spec.stderr].map(|wanted| wanted && !tty);
        let pipes = Pipes::new(wanted).map_err(failed)?;
        let op = Op::Exec {
            process: spec.process,
            privileged: spec.privileged,
            stdin: wanted[0],
            stdout: wanted[1],
            stderr: wanted[2],
        };
        connection.send(op, &pipes.to_send()).await.map_err(failed)?;
        let Pipes { ours, theirs } = pipes;
        drop(theirs);
        let mut fds = match connection.recv().await.map_err(failed)? {
            Some((reply, fds)) => match reply.body {
                Body::ExecStarted { .. } => fds,
                Body::Error { code: ErrorCode::Exec, message } => {
                    return Err(Error::Exec { container: name, reason: message });
                }
                Body::Error { code: ErrorCode::State, .. } => {
                    return Err(Error::NotRunning { container: name });
                }
                other => return Err(unexpected(name, "exec", &other)),
            },
            None => return Err(Error::ShimGone { container: name }),
        };
        let [mut stdin, mut stdout, stderr] = ours;
        if tty && let Some(terminal) = fds.pop() {
            rustix::io::ioctl_fionbio(&terminal, true).map_err(|e| failed(e.into()))?;
            stdin = spec.stdin.then(|| terminal.try_clone()).transpose().map_err(failed)?;
            stdout = Some(terminal);
        }
        let (control, requests) = mpsc::channel(CONTROL_MAX);
        let (done, exit) = oneshot::channel();
        let streams = Streams { stdin, stdout, stderr, tty, control };
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(carry_exec(name, connection, requests, done)).await;
        });
        Ok(ExecHandle { streams, exit })
    }

    pub(crate) async fn attach(
        self: &Arc<Self>,
        container: &ContainerRef,
        stdin: bool,
    ) -> Result<Streams, Error> {
        let name = container.key.to_string();
        self.must_run(container).await?;
        let tty = self.find(&container.key).await?.is_some_and(|tracked| tracked.tty);
        let failed = |source| Error::ShimIo { container: name.clone(), source };
        let connection = self.connect(container)?;
        let wanted = [stdin, true, !tty];
        let pipes = Pipes::new(wanted).map_err(failed)?;
        let op = Op::Attach { stdin: wanted[0], stdout: wanted[1], stderr: wanted[2] };
        connection.send(op, &pipes.to_send()).await.map_err(failed)?;
        match connection.recv().await.map_err(failed)? {
            Some((reply, _)) => match reply.body {
                Body::Done => {}
                other => return Err(unexpected(name, "attach", &other)),
            },
            None => return Err(Error::ShimGone { container: name }),
        }
        let (control, requests) = mpsc::channel(CONTROL_MAX);
        let [stdin, stdout, stderr] = pipes.ours;
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            cancel.run_until_cancelled(carry_attach(connection, requests)).await;
        });
        Ok(Streams { stdin, stdout, stderr, tty, control })
    }

    async fn must_run(self: &Arc<Self>, container: &ContainerRef) -> Result<(), Error> {
        let name = container.key.to_string();
        let Some(tracked) = self.find(&container.key).await? else {
            return Err(Error::NotFound { container: name });
        };
        let running = matches!(*tracked.state.borrow(), State::Running { .. });
        if !running {
            return Err(Error::NotRunning { container: name });
        }
        if !tracked.shim_alive {
            return Err(Error::ShimGone { container: name });
        }
        Ok(())
    }
}

async fn forward(connection: &Connection, control: Control) {
    let op = match control {
        Control::Resize(size) => Op::Resize(size),
        Control::Signal(signal) => Op::Signal { signal: signal.number() },
    };
    if let Err(error) = connection.send(op, &[]).await {
        tracing::debug!(%error, "telling the shim");
    }
}

/// Carries requests to the command and its exit back. Ends, and so kills the command,
/// when nobody waits for the exit any more.
async fn carry_exec(
    name: String,
    connection: Connection,
    mut requests: mpsc::Receiver<Control>,
    mut done: oneshot::Sender<Result<i32, Error>>,
) {
    let mut open = true;
    let result = loop {
        tokio::select! {
            reply = connection.recv() => match reply {
                Ok(Some((reply, _))) => match reply.body {
                    Body::ExecExited { code } => break Ok(code),
                    other => tracing::debug!(?other, "not expected of an exec"),
                },
                Ok(None) => break Err(Error::ShimGone { container: name }),
                Err(source) => break Err(Error::ShimIo { container: name, source }),
            },
            request = requests.recv(), if open => match request {
                Some(control) => forward(&connection, control).await,
                None => open = false,
            },
            () = done.closed() => return,
        }
    };
    if done.send(result).is_err() {
        tracing::trace!("nobody waits for the exit");
    }
}

/// Keeps the attachment as long as its owner keeps the streams.
async fn carry_attach(connection: Connection, mut requests: mpsc::Receiver<Control>) {
    loop {
        tokio::select! {
            reply = connection.recv() => match reply {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
            request = requests.recv() => match request {
                Some(control) => forward(&connection, control).await,
                None => return,
            },
        }
    }
}
