//! `/portForward/{namespace}/{pod}`: connections to ports inside the pod's own network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::kubelet::routes::{Place, Query, Routes};
use crate::kubelet::upgrade::{self, Protocol};
use crate::kubelet::{Answer, spdy, text, websocket};
use crate::pod::image::with_sources;
use crate::rootless::ports::PodPorts;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const WEBSOCKET_PROTOCOLS: &[&str] = &[TUNNEL, "v4.channel.k8s.io"];
const SPDY_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// Bytes between a tunnel's messages and the streams in it.
const TUNNEL_BYTES: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pieces for one connection that it has not taken yet; its peer waits.
const PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 32 << 10;
/// Connections of one session.
const FORWARDS_MAX: usize = 1024;

pub(crate) fn answer(
    routes: &Routes,
    place: &Place,
    query: &Query,
    request: Request<Incoming>,
) -> Answer {
    let running = place
        .shown
        .containers
        .values()
        .any(|c| c.current.as_ref().is_some_and(crate::pod::track::Run::is_running));
    if !running {
        let reason =
            format!("unable to forward port because pod is not running: {}", place.handle.id.name);
        return text(StatusCode::BAD_REQUEST, reason);
    }
    let agreed = upgrade::agree(request.headers(), WEBSOCKET_PROTOCOLS, SPDY_PROTOCOLS);
    let (protocol, answer) = match agreed {
        Ok(agreed) => agreed,
        Err(answer) => return *answer,
    };
    // Streams of their own each name a port; channels have theirs from the query.
    let channels = matches!(&protocol, Protocol::WebSocket(name) if name != TUNNEL);
    let ports = match ports(query) {
        Ok(ports) => ports,
        Err(reason) if channels => return text(StatusCode::BAD_REQUEST, reason),
        Err(_) => Vec::new(),
    };
    let way = Way { netns: place.shown.netns.clone(), ports: place.shown.ports.clone() };
    let stop = routes.cx.stop.clone();
    routes.cx.tasks.spawn(async move {
        let session = Box::pin(session(way, ports, protocol, request));
        tokio::select! {
            () = stop.cancelled() => {}
            () = session => {}
        }
    });
    answer
}

fn ports(query: &Query) -> Result<Vec<u16>, String> {
    let named: Vec<&str> = query.all("port").chain(query.all("ports")).collect();
    if named.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    if named.contains(&"") {
        return Err("query parameter \"port\" cannot be empty".to_owned());
    }
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err(format!("port \"{text}\" must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => {
            let fault = match error.kind() {
                std::num::IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            let cause = format!("strconv.ParseUint: parsing \"{text}\": {fault}");
            Err(format!("unable to parse \"{text}\" as a port: {cause}"))
        }
    };
    named.iter().flat_map(|list| list.split(',')).map(port).collect()
}

async fn session(way: Way, ports: Vec<u16>, protocol: Protocol, request: Request<Incoming>) {
    let io = match hyper::upgrade::on(request).await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "port-forward not upgraded");
            return;
        }
    };
    match protocol {
        Protocol::WebSocket(name) if name == TUNNEL => {
            let socket = websocket::accept(io).await;
            let (near, far) = tokio::io::duplex(TUNNEL_BYTES);
            tokio::select! {
                () = tunnel(socket, far) => {}
                () = serve_spdy(near, way) => {}
            }
        }
        Protocol::WebSocket(_) => {
            let socket = websocket::accept(io).await;
            serve_channels(socket, &ports, way).await;
        }
        Protocol::Spdy(_) => serve_spdy(io, way).await,
    }
}

/// Carries a byte stream in the binary messages of a WebSocket.
async fn tunnel<S>(socket: WebSocketStream<S>, io: tokio::io::DuplexStream)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut messages) = socket.split();
    let (mut read, mut write) = tokio::io::split(io);
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            if message.is_close() || write.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let piece = Bytes::copy_from_slice(&buffer[..count]);
            if sink.send(Message::Binary(piece)).await.is_err() {
                return;
            }
        }
        if sink.send(websocket::goodbye()).await.is_err() {
            tracing::trace!("the client closed first");
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

/// How the pod's ports are reached.
#[derive(Clone, Default)]
struct Way {
    netns: Option<PathBuf>,
    ports: PodPorts,
}

/// A port inside the pod.
async fn connect(way: Way, port: u16) -> Result<TcpStream, String> {
    let real = way.ports.node_port(port);
    let dial = |address: IpAddr| {
        atoll_network::netns::connect_tcp(
            way.netns.as_deref(),
            SocketAddr::new(address, real),
            CONNECT_TIMEOUT,
        )
    };
    let first = match dial(IpAddr::V4(Ipv4Addr::LOCALHOST)).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    dial(IpAddr::V6(Ipv6Addr::LOCALHOST)).await.map_err(|_second| {
        let reason = with_sources(&first);
        format!("failed to connect to localhost:{port} inside the pod's network: {reason}")
    })
}

/// A pair of streams that belong together: errors and data of one connection.
#[derive(Default)]
struct Pair {
    error: Option<u32>,
    data: Option<u32>,
    port: Option<u16>,
}

async fn serve_spdy<S>(io: S, way: Way)
where
    S: AsyncRead + AsyncWrite,
{
    let (connection, driver) = spdy::connection(io);
    let spdy::Connection { mut events, tell } = connection;
    let serve = async {
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        let mut inputs: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
        let mut forwards = JoinSet::new();
        while let Some(event) = events.recv().await {
            while forwards.try_join_next().is_some() {}
            match event {
                spdy::Event::Opened { stream, headers, .. } => {
                    if forwards.len() >= FORWARDS_MAX {
                        if tell.send(spdy::Tell::Reset { stream }).await.is_err() {
                            return;
                        }
                        continue;
                    }
                    let Some(pair) = open(&mut pairs, stream, &headers) else { continue };
                    let (Some(error), Some(bytes_on), Some(port)) =
                        (pair.error, pair.data, pair.port)
                    else {
                        continue;
                    };
                    let (input, pieces) = mpsc::channel(PIECES_MAX);
                    inputs.insert(bytes_on, input);
                    let forward = Forward {
                        way: way.clone(),
                        port,
                        data: bytes_on,
                        error,
                        tell: tell.clone(),
                    };
                    forwards.spawn(forward.run(pieces));
                }
                spdy::Event::Data { stream, bytes, fin } => {
                    if let Some(input) = inputs.get(&stream)
                        && !bytes.is_empty()
                        && input.send(bytes).await.is_err()
                    {
                        inputs.remove(&stream);
                    }
                    if fin {
                        inputs.remove(&stream);
                    }
                }
                spdy::Event::Reset { stream } => {
                    inputs.remove(&stream);
                }
            }
        }
    };
    tokio::select! {
        () = serve => {}
        result = driver => {
            if let Err(error) = result {
                tracing::debug!(%error, "port-forward client");
            }
        }
    }
}

/// Notes a new stream; returns its pair when that is complete.
fn open(pairs: &mut HashMap<String, Pair>, stream: u32, headers: &spdy::Headers) -> Option<Pair> {
    let kind = spdy::header(headers, "streamtype")?.to_ascii_lowercase();
    let port: u16 = spdy::header(headers, "port")?.parse().ok()?;
    // Old clients send no number: the error stream comes right before its data.
    let id = spdy::header(headers, "requestid").map(str::to_owned).unwrap_or_else(|| {
        let own = if kind == "error" { stream } else { stream.saturating_sub(2) };
        format!("stream {own}")
    });
    let pair = pairs.entry(id.clone()).or_default();
    pair.port = Some(port);
    match kind.as_str() {
        "error" => pair.error = Some(stream),
        "data" => pair.data = Some(stream),
        _ => return None,
    }
    if pair.error.is_some() && pair.data.is_some() { pairs.remove(&id) } else { None }
}

struct Forward {
    way: Way,
    port: u16,
    data: u32,
    error: u32,
    tell: mpsc::Sender<spdy::Tell>,
}

impl Forward {
    async fn run(self, mut pieces: mpsc::Receiver<Bytes>) {
        let words = match connect(self.way.clone(), self.port).await {
            Ok(stream) => {
                self.copy(stream, &mut pieces).await;
                String::new()
            }
            Err(reason) => {
                format!("error forwarding port {} to pod: {reason}", self.port)
            }
        };
        self.say(self.error, words.into(), true).await;
        self.say(self.data, Bytes::new(), true).await;
    }

    async fn copy(&self, stream: TcpStream, pieces: &mut mpsc::Receiver<Bytes>) {
        let (mut read, mut write) = stream.into_split();
        let outward = async {
            let mut buffer = vec![0; PIECE_BYTES];
            while let Ok(count @ 1..) = read.read(&mut buffer).await {
                let bytes = Bytes::copy_from_slice(&buffer[..count]);
                if !self.say(self.data, bytes, false).await {
                    return;
                }
            }
        };
        let inward = async {
            while let Some(piece) = pieces.recv().await {
                if write.write_all(&piece).await.is_err() {
                    return;
                }
            }
            if write.shutdown().await.is_err() {
                tracing::trace!("the pod closed first");
            }
        };
        tokio::pin!(outward);
        // The pod's side may have more to say after the client is done; when it is done
        // itself there is nobody to listen to the client.
        tokio::select! {
            () = &mut outward => {}
            () = inward => outward.await,
        }
    }

    async fn say(&self, stream: u32, bytes: Bytes, fin: bool) -> bool {
        self.tell.send(spdy::Tell::Data { stream, bytes, fin }).await.is_ok()
    }
}

/// Plain WebSocket: for each port two channels, data and errors, each beginning with the
/// port's number.
async fn serve_channels<S>(mut socket: WebSocketStream<S>, ports: &[u16], way: Way)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (out, mut outputs) = mpsc::channel::<(u8, Bytes)>(PIECES_MAX);
    let mut inputs: HashMap<u8, mpsc::Sender<Bytes>> = HashMap::new();
    let mut forwards = JoinSet::new();
    for (i, port) in ports.iter().enumerate() {
        let Ok(channel_of_bytes) = u8::try_from(2 * i) else { break };
        for channel in [channel_of_bytes, channel_of_bytes + 1] {
            let first = [&[channel][..], &port.to_le_bytes()].concat();
            if socket.send(Message::Binary(first.into())).await.is_err() {
                return;
            }
        }
        let (input, pieces) = mpsc::channel(PIECES_MAX);
        inputs.insert(channel_of_bytes, input);
        let way = way.clone();
        forwards.spawn(forward_channel(way, *port, channel_of_bytes, out.clone(), pieces));
    }
    drop(out);
    loop {
        tokio::select! {
            output = outputs.recv() => {
                let Some((channel, bytes)) = output else { break };
                let framed = [&[channel][..], &bytes].concat();
                if socket.send(Message::Binary(framed.into())).await.is_err() {
                    return;
                }
            }
            message = socket.next() => match message {
                Some(Ok(Message::Binary(mut bytes))) if !bytes.is_empty() => {
                    let channel = bytes.get_u8();
                    if let Some(input) = inputs.get(&channel)
                        && input.send(bytes).await.is_err()
                    {
                        inputs.remove(&channel);
                    }
                }
                Some(Ok(message)) if !message.is_close() => {}
                _ => return,
            }
        }
    }
    if socket.send(websocket::goodbye()).await.is_err() {
        tracing::trace!("the client closed first");
    }
}

async fn forward_channel(
    way: Way,
    port: u16,
    channel: u8,
    out: mpsc::Sender<(u8, Bytes)>,
    mut pieces: mpsc::Receiver<Bytes>,
) {
    let stream = match connect(way, port).await {
        Ok(stream) => stream,
        Err(reason) => {
            let words = format!("error forwarding port {port} to pod: {reason}");
            if out.send((channel + 1, words.into())).await.is_err() {
                tracing::trace!("the client is gone");
            }
            return;
        }
    };
    let (mut read, mut write) = stream.into_split();
    let outward = async {
        let mut buffer = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let bytes = Bytes::copy_from_slice(&buffer[..count]);
            if out.send((channel, bytes)).await.is_err() {
                return;
            }
        }
    };
    let inward = async {
        while let Some(piece) = pieces.recv().await {
            if write.write_all(&piece).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = outward => {}
        () = inward => {}
    }
}

#[cfg(test)]
#[path = "forward/tests.rs"]
mod tests;
