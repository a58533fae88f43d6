//! `/exec/{namespace}/{pod}/{container}` and `/attach/…`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use atoll_container::{ContainerRef, ExecSpec};
use bytes::Bytes;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::kubelet::remote::{self, Channel, Far, Session};
use crate::kubelet::routes::{Place, Query, Routes};
use crate::kubelet::upgrade::{self, Protocol};
use crate::kubelet::{Answer, spdy, text, websocket};
use crate::probe::exec::process_of;

/// Versions of the SPDY protocol, best first.
const SPDY_PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// A client has to open all of its streams within this time.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);
/// A session in which nothing moves is ended after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// Which streams the client wants; both the API server's and the kubelet's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Wanted, &'static str> {
        let flag = |long: &str, short: &str| query.flag(long) || query.flag(short);
        let wanted = Wanted {
            stdin: flag("stdin", "input"),
            stdout: flag("stdout", "output"),
            // A terminal has no output apart.
            stderr: flag("stderr", "error") && !query.flag("tty"),
            tty: query.flag("tty"),
        };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err("you must specify at least 1 of stdin, stdout, stderr")
        }
    }
}

enum Command {
    Exec(Vec<String>),
    Attach,
}

pub(crate) async fn exec(
    routes: &Routes,
    place: Place,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 command");
    }
    serve(routes, &place, query, request, Command::Exec(command)).await
}

pub(crate) async fn attach(
    routes: &Routes,
    place: Place,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    serve(routes, &place, query, request, Command::Attach).await
}

#[allow(clippy::unused_async, reason = "answers are awaited alike")]
async fn serve(
    routes: &Routes,
    place: &Place,
    query: &Query,
    request: Request<Incoming>,
    command: Command,
) -> Answer {
    let mut wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(reason) => return text(StatusCode::BAD_REQUEST, reason),
    };
    let known = place.shown.containers.get(&place.container);
    let running = known.and_then(|shown| shown.current.as_ref()).filter(|run| run.is_running());
    let Some(run) = running else {
        let reason = format!("container not found (\"{}\")", place.container);
        return text(StatusCode::NOT_FOUND, reason);
    };
    let reference = run.reference.clone();
    if matches!(command, Command::Attach)
        && let Some(spec) = &place.shown.pod.spec
        && let Some((_, container)) = crate::pod::identity::find_container(spec, &place.container)
    {
        wanted.stdin &= container.stdin.unwrap_or(false);
        wanted.tty = container.tty.unwrap_or(false);
        wanted.stderr &= !wanted.tty;
    }
    let (protocol, answer) =
        match upgrade::agree(request.headers(), websocket::PROTOCOLS, SPDY_PROTOCOLS) {
            Ok(agreed) => agreed,
            Err(answer) => return *answer,
        };
    let (cx, stop) = (routes.cx.clone(), routes.cx.stop.clone());
    let idle = IDLE_TIMEOUT;
    routes.cx.tasks.spawn(async move {
        let session = Box::pin(session(cx, reference, command, wanted, protocol, request));
        tokio::select! {
            () = stop.cancelled() => {}
            result = tokio::time::timeout(idle, session) => {
                if result.is_err() {
                    tracing::info!("stream ended after its idle timeout");
                }
            }
        }
    });
    answer
}

async fn session(
    cx: Arc<Context>,
    reference: ContainerRef,
    command: Command,
    wanted: Wanted,
    protocol: Protocol,
    request: Request<Incoming>,
) {
    let upgraded = match hyper::upgrade::on(request).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "stream not upgraded");
            return;
        }
    };
    let (session, far) = remote::pair();
    let command = Box::pin(run(&cx, &reference, command, wanted, session));
    match protocol {
        Protocol::WebSocket(name) => {
            let socket = websocket::accept(upgraded).await;
            tokio::join!(command, websocket::serve(socket, &name, far));
        }
        Protocol::Spdy(version) => {
            let served = serve_spdy(upgraded, &version, wanted, far);
            let (_, served) = tokio::join!(command, served);
            if let Err(reason) = served {
                tracing::debug!(reason, "SPDY client");
            }
        }
    }
}

async fn run(
    cx: &Context,
    reference: &ContainerRef,
    command: Command,
    wanted: Wanted,
    session: Session,
) {
    let Session { stdin, resize, output, end, closed } = session;
    let status = match command {
        Command::Exec(args) => {
            run_exec(cx, reference, args, wanted, Pipes { stdin, resize, output, closed }).await
        }
        Command::Attach => {
            run_attach(cx, reference, wanted, Pipes { stdin, resize, output, closed }).await
        }
    };
    let status = status.unwrap_or_else(|reason| {
        remote::internal_error(&format!("Internal error occurred: {reason}"))
    });
    if end.send(status).is_err() {
        tracing::trace!("the client went before the end");
    }
}

struct Pipes {
    stdin: mpsc::Receiver<Bytes>,
    resize: mpsc::Receiver<(u16, u16)>,
    output: mpsc::Sender<(Channel, Bytes)>,
    closed: tokio_util::sync::CancellationToken,
}

async fn run_exec(
    cx: &Context,
    reference: &ContainerRef,
    args: Vec<String>,
    wanted: Wanted,
    pipes: Pipes,
) -> Result<serde_json::Value, String> {
    let mut process = process_of(reference).await?;
    process.args = args;
    process.tty = wanted.tty;
    if wanted.tty && !process.env.iter().any(|(name, _)| name == "TERM") {
        process.env.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let spec = ExecSpec {
        process,
        stdin: wanted.stdin,
        stdout: wanted.stdout,
        stderr: wanted.stderr,
        privileged: false,
    };
    let handle = cx.runtime.exec(reference, spec).await;
    let handle = handle.map_err(|error| {
        let reason = crate::pod::image::with_sources(&error);
        format!("error executing command in container: failed to exec in container: {reason}")
    })?;
    let (streams, exit) = handle.into_parts();
    let copied =
        remote::copy(streams, pipes.stdin, pipes.resize, pipes.output, &pipes.closed).await;
    if !copied.map_err(|error| error.to_string())? {
        // Dropping the handle ends the command.
        return Err("the client is gone".to_owned());
    }
    let code = tokio::select! {
        code = exit.wait() => code.map_err(|error| error.to_string())?,
        () = pipes.closed.cancelled() => return Err("the client is gone".to_owned()),
    };
    Ok(remote::exit_status(code))
}

async fn run_attach(
    cx: &Context,
    reference: &ContainerRef,
    wanted: Wanted,
    pipes: Pipes,
) -> Result<serde_json::Value, String> {
    let streams = cx.runtime.attach(reference, wanted.stdin).await;
    let mut streams = streams.map_err(|error| format!("error attaching to container: {error}"))?;
    if !wanted.stdout {
        streams.stdout = None;
    }
    if !wanted.stderr {
        streams.stderr = None;
    }
    let copied =
        remote::copy(streams, pipes.stdin, pipes.resize, pipes.output, &pipes.closed).await;
    copied.map_err(|error| error.to_string())?;
    Ok(remote::success())
}

/// Serves the streams of one SPDY session; each has its kind in the header `streamtype`.
async fn serve_spdy<S>(io: S, version: &str, wanted: Wanted, far: Far) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite,
{
    let (mut connection, driver) = spdy::connection(io);
    let serve = async {
        let opened = collect_streams(&mut connection, version, wanted);
        let streams = match tokio::time::timeout(STREAMS_TIMEOUT, opened).await {
            Ok(streams) => streams?,
            Err(_elapsed) => {
                return Err("timed out waiting for client to create streams".to_owned());
            }
        };
        exchange(connection, &streams, version, far).await;
        Ok(())
    };
    tokio::pin!(driver);
    tokio::select! {
        result = &mut driver => {
            result.map_err(|error| error.to_string())
        }
        result = serve => {
            // What is still to be written is written.
            let flushed = tokio::time::timeout(Duration::from_secs(5), driver).await;
            tracing::trace!(flushed = flushed.is_ok(), "SPDY session ended");
            result
        }
    }
}

/// Stream numbers by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Streams {
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    error: Option<u32>,
    resize: Option<u32>,
}

async fn collect_streams(
    connection: &mut spdy::Connection,
    version: &str,
    wanted: Wanted,
) -> Result<Streams, String> {
    let resizes = wanted.tty && !matches!(version, "channel.k8s.io" | "v2.channel.k8s.io");
    let mut missing: BTreeSet<&str> = BTreeSet::from(["error"]);
    for (kind, is_wanted) in [
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", resizes),
    ] {
        if is_wanted {
            missing.insert(kind);
        }
    }
    let mut streams = Streams::default();
    while !missing.is_empty() {
        let event = connection.events.recv().await.ok_or("the client closed the connection")?;
        let spdy::Event::Opened { stream, headers, .. } = event else { continue };
        let kind = spdy::header(&headers, "streamtype").unwrap_or_default().to_ascii_lowercase();
        match kind.as_str() {
            "stdin" => streams.stdin = Some(stream),
            "stdout" => streams.stdout = Some(stream),
            "stderr" => streams.stderr = Some(stream),
            "error" => streams.error = Some(stream),
            "resize" => streams.resize = Some(stream),
            other => return Err(format!("invalid stream type: \"{other}\"")),
        }
        missing.remove(kind.as_str());
    }
    Ok(streams)
}

async fn exchange(connection: spdy::Connection, streams: &Streams, version: &str, far: Far) {
    let spdy::Connection { mut events, tell } = connection;
    let Far { stdin, resize, mut output, end, closed } = far;
    let write = async {
        while let Some((channel, bytes)) = output.recv().await {
            let stream = match channel {
                Channel::Stdout => streams.stdout,
                Channel::Stderr => streams.stderr,
            };
            let Some(stream) = stream else { continue };
            if tell.send(spdy::Tell::Data { stream, bytes, fin: false }).await.is_err() {
                return;
            }
        }
        let status = end.await.unwrap_or_else(|_| remote::internal_error("the command is lost"));
        let words = if version == "v4.channel.k8s.io" {
            status.to_string()
        } else if status["status"] == "Success" {
            String::new()
        } else {
            status["message"].as_str().unwrap_or_default().to_owned()
        };
        let all = [streams.error, streams.stdout, streams.stderr];
        for (i, stream) in all.into_iter().enumerate() {
            let Some(stream) = stream else { continue };
            let bytes = if i == 0 { Bytes::from(words.clone()) } else { Bytes::new() };
            if tell.send(spdy::Tell::Data { stream, bytes, fin: true }).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut stdin = Some(stdin);
        while let Some(event) = events.recv().await {
            match event {
                spdy::Event::Data { stream, bytes, fin } if Some(stream) == streams.stdin => {
                    if let Some(input) = &stdin
                        && !bytes.is_empty()
                        && input.send(bytes).await.is_err()
                    {
                        stdin = None;
                    }
                    if fin {
                        stdin = None;
                    }
                }
                spdy::Event::Data { stream, bytes, .. } if Some(stream) == streams.resize => {
                    for line in bytes.split(|byte| *byte == b'\n') {
                        if let Some(size) = remote::parse_size(line)
                            && resize.send(size).await.is_err()
                        {
                            tracing::trace!("resize after the end");
                        }
                    }
                }
                _ => {}
            }
        }
        closed.cancel();
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_the_streams_are_understood() {
        let parse = |query: &str| Wanted::parse(&Query::parse(Some(query)));
        let expected = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(parse("input=1&output=1&tty=1&error=1"), Ok(expected));
        assert_eq!(parse("stdin=true&stdout=true&tty=true"), Ok(expected));
        assert!(parse("command=ls").is_err());
    }
}
