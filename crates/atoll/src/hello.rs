//! The program of the built-in image `atoll.local/hello`: a small web server that says
//! where it runs.
//!
//! `/` answers in a line, `/json` as JSON; `/slow?ms=N` waits, `/fail` is an error,
//! `/healthz` and `/readyz` are for probes, `/exit?code=N` ends the process. SIGTERM stops
//! accepting, finishes what is under way, and ends with 0. A datagram to the same port is
//! answered with the line, too.

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    signal::unix::{SignalKind, signal},
};

const PORT_DEFAULT: u16 = 8080;
/// `/slow` waits no longer than this, whatever it is asked for.
const SLOW_MS_MAX: u64 = 60_000;
/// Requests under way at SIGTERM are given this long.
const DRAIN: Duration = Duration::from_secs(20);

struct Hello {
    pod: String,
    node: String,
    namespace: String,
    version: String,
    requests: AtomicU64,
    stopping: AtomicBool,
}

/// What the container's environment says.
pub struct Environment(pub BTreeMap<String, String>);

impl Environment {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }
}

/// Serves until SIGTERM or SIGINT.
pub fn run(environment: &Environment) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(serve(environment))
}

async fn serve(environment: &Environment) -> Result<()> {
    let port = match environment.get("PORT") {
        Some(text) => {
            text.parse().with_context(|| format!("PORT is {text:?}, not a port number"))?
        }
        None => PORT_DEFAULT,
    };
    let hello = Arc::new(Hello {
        pod: environment
            .get("POD_NAME")
            .or_else(|| environment.get("HOSTNAME"))
            .unwrap_or_else(|| "unknown".into()),
        node: environment.get("NODE_NAME").unwrap_or_else(|| "unknown".into()),
        namespace: environment.get("POD_NAMESPACE").unwrap_or_else(|| "default".into()),
        version: environment.get("VERSION").unwrap_or_else(|| env!("CARGO_PKG_VERSION").into()),
        requests: AtomicU64::new(0),
        stopping: AtomicBool::new(false),
    });
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listening on port {port}"))?;
    say(&format!("hello from {} version {} on port {port}", hello.pod, hello.version));
    let graceful = GracefulShutdown::new();
    tokio::select! {
        ended = accept_until_signal(&listener, &hello, &graceful) => ended?,
        () = answer_datagrams(address, &hello) => {}
    }
    drop(listener);
    say("stopping: finishing the requests under way");
    tokio::select! {
        () = graceful.shutdown() => say("stopped"),
        () = tokio::time::sleep(DRAIN) => say("stopped with requests under way"),
    }
    Ok(())
}

/// Never ends. Where the port is somebody else's for datagrams, there is HTTP alone.
async fn answer_datagrams(address: SocketAddr, hello: &Hello) {
    let socket = match UdpSocket::bind(address).await {
        Ok(socket) => socket,
        Err(error) => {
            say(&format!("no datagrams on port {}: {error}", address.port()));
            return std::future::pending().await;
        }
    };
    loop {
        // What is in the datagram does not matter, nor whether its sender is still there.
        let Ok((_, sender)) = socket.recv_from(&mut [0]).await else { continue };
        let number = hello.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if socket.send_to(hello.line(number).as_bytes(), sender).await.is_ok() {
            say(&format!("datagram from {}", sender.ip()));
        }
    }
}

async fn accept_until_signal(
    listener: &TcpListener,
    hello: &Arc<Hello>,
    graceful: &GracefulShutdown,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watching for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for SIGINT")?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
        };
        // Out of descriptors, or a connection that ended before it was taken: go on.
        let Ok((stream, _)) = accepted else { continue };
        let hello = hello.clone();
        let service = service_fn(move |request| answer(hello.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30))
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // A client that went away is no event.
            watched.await.is_ok()
        });
    }
    hello.stopping.store(true, Ordering::Relaxed);
    connections.detach_all();
    Ok(())
}

async fn answer(
    hello: Arc<Hello>,
    request: Request<Incoming>,
) -> Result<Response<String>, Infallible> {
    let number = hello.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let query = request.uri().query().unwrap_or_default();
    let (status, body) = match request.uri().path() {
        "/" => (StatusCode::OK, hello.line(number)),
        "/json" => (StatusCode::OK, hello.json(number)),
        "/healthz" => (StatusCode::OK, "ok\n".into()),
        "/readyz" if hello.stopping.load(Ordering::Relaxed) => {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into())
        }
        "/readyz" => (StatusCode::OK, "ok\n".into()),
        "/slow" => {
            let wait_ms = number_in(query, "ms").unwrap_or(1_000).min(SLOW_MS_MAX);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            (StatusCode::OK, hello.line(number))
        }
        "/fail" => {
            let code = number_in(query, "code").and_then(|code| u16::try_from(code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, format!("failing as asked, from {}\n", hello.pod))
        }
        "/exit" => exit(number_in(query, "code")),
        path => (StatusCode::NOT_FOUND, format!("nothing at {path}\n")),
    };
    say(&format!("{} {} {}", request.method(), request.uri(), status.as_u16()));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    Ok(response)
}

impl Hello {
    fn line(&self, number: u64) -> String {
        format!(
            "hello from {} on {}, version {}, request {number}\n",
            self.pod, self.node, self.version
        )
    }

    fn json(&self, number: u64) -> String {
        let Self { pod, node, namespace, version, .. } = self;
        let body = serde_json::json!({
            "pod": pod, "node": node, "namespace": namespace, "version": version,
            "requests": number,
        });
        format!("{body}\n")
    }
}

fn number_in(query: &str, name: &str) -> Option<u64> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut found = pairs.filter(|(key, _)| *key == name);
    found.next()?.1.parse().ok()
}

#[allow(clippy::exit, reason = "ending at once is what the path is for: it shows restarts")]
fn exit(code: Option<u64>) -> ! {
    let code = code.and_then(|code| i32::try_from(code).ok()).unwrap_or(1);
    say(&format!("exiting with {code} as asked"));
    std::process::exit(code)
}

#[allow(clippy::print_stdout, reason = "a container's log is its standard output")]
fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_from_queries() {
        assert_eq!(number_in("a=1&ms=250", "ms"), Some(250));
        assert_eq!(number_in("ms=abc", "ms"), None);
        assert_eq!(number_in("", "ms"), None);
    }
}
