//! A client that costs little: HTTP over TLS with a bearer token, each connection used again.

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What a stream may be ahead of its reader, and a connection of all of its.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

#[derive(Clone)]
pub struct Client {
    pub port: u16,
    pub token: String,
    pub tls: Arc<rustls::ClientConfig>,
}

impl Client {
    async fn connect(&self, protocol: &[u8]) -> TokioIo<TlsStream<TcpStream>> {
        let mut tls = (*self.tls).clone();
        tls.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        TokioIo::new(TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap())
    }

    pub async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let (sender, connection) = http1::handshake(self.connect(b"http/1.1").await).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(self.connect(b"h2").await)
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }

    pub fn request(&self, method: &str, path: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:{}{path}", self.port))
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// So many requests, so many at once, each connection one after the other; how long each took.
    pub async fn load(&self, at_once: usize, count: usize, load: Load) -> Vec<Duration> {
        let workers = (0..at_once).map(|worker| {
            let client = self.clone();
            tokio::spawn(async move {
                let mut sender = client.http1().await;
                let mut took = Vec::new();
                for number in (worker..count).step_by(at_once) {
                    let (method, path, body) = load(number);
                    let request = client.request(method, &path, body);
                    let begun = Instant::now();
                    read(sender.send_request(request).await.unwrap()).await;
                    took.push(begun.elapsed());
                    sender.ready().await.unwrap();
                }
                took
            })
        });
        let all = futures::future::join_all(workers).await;
        all.into_iter().flat_map(Result::unwrap).collect()
    }
}

/// Method, path and body of the request with this number.
pub type Load = fn(usize) -> (&'static str, String, Vec<u8>);

/// The whole body of an answer that must be a good one.
pub async fn read(answer: Response<Incoming>) -> Bytes {
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
    body
}
