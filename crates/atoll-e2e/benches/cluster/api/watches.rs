//! Ten thousand watches of one resource over a hundred connections, while it changes.

use super::{
    CONFIG_MAPS, SETTLE,
    client::{self, Client},
    config_map, milliseconds, revision,
    server::Server,
};
use crate::figure::Figure;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

const CONNECTIONS: usize = 100;
const WATCHES_EACH: usize = 100;
const WRITES: usize = 200;
const WRITE_EVERY: Duration = Duration::from_millis(100);
const LAST_EVENT_MAX: Duration = Duration::from_secs(30);

pub fn run(runs: usize) -> Vec<Figure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut all = Figures {
        delay: Figure::new("10,000 watches, 10 writes/s of 1 kB: an event's delay, p50", "ms", ""),
        p99: Figure::new("the same, p99", "ms", ""),
        last: Figure::new("the same, the latest of all events", "ms", "1000 ms"),
        memory: Figure::new("the same: `atoll server`, resident at the end", "MB", "300 MB"),
        cpu: Figure::new("the same: its CPU", "µs an event", ""),
        opened: Figure::new("10,000 watches opened", "s", ""),
    };
    for _ in 0..runs {
        runtime.block_on(once(&mut all));
    }
    vec![all.opened, all.delay, all.p99, all.last, all.cpu, all.memory]
}

struct Figures {
    delay: Figure,
    p99: Figure,
    last: Figure,
    memory: Figure,
    cpu: Figure,
    opened: Figure,
}

async fn once(all: &mut Figures) {
    let server = Server::start().await;
    tokio::time::sleep(SETTLE).await;
    let (token, tls) = server.trusted().await;
    let client = Client { port: server.port, token, tls };
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", revision(&client).await);
    let sent = Arc::new(Mutex::new(Vec::with_capacity(WRITES)));
    let (seen, mut delays) = mpsc::channel(CONNECTIONS * WATCHES_EACH);
    let begun = Instant::now();
    for _ in 0..CONNECTIONS {
        open(&client, &path, &sent, &seen).await;
    }
    drop(seen);
    all.opened.add(begun.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    let before = server.process().cpu_s();
    let writer = tokio::spawn(write(client.clone(), sent.clone()));
    let events = CONNECTIONS * WATCHES_EACH * WRITES;
    let mut took = Vec::with_capacity(CONNECTIONS * WATCHES_EACH);
    while let Ok(Some(delay)) = tokio::time::timeout(LAST_EVENT_MAX, delays.recv()).await {
        took.extend::<Vec<Duration>>(delay);
    }
    writer.await.unwrap();
    assert_eq!(took.len(), events, "events seen");
    all.cpu.add((server.process().cpu_s() - before) * 1e6 / events as f64);
    all.memory.add(server.resident_mb());
    took.sort_unstable();
    all.delay.add(milliseconds(took[events / 2]));
    all.p99.add(milliseconds(took[events * 99 / 100]));
    all.last.add(milliseconds(took[events - 1]));
}

/// One connection and all its watches; each tells of its delays when it has seen every write.
async fn open(
    client: &Client,
    path: &str,
    sent: &Arc<Mutex<Vec<Instant>>>,
    seen: &mpsc::Sender<Vec<Duration>>,
) {
    let mut sender = client.http2().await;
    for _ in 0..WATCHES_EACH {
        let request = client.request("GET", path, Vec::new());
        let answer = sender.send_request(request).await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        tokio::spawn(follow(answer.into_body(), sent.clone(), seen.clone(), sender.clone()));
    }
}

/// The sender is held because the connection ends with the last of it.
async fn follow(
    mut events: Incoming,
    sent: Arc<Mutex<Vec<Instant>>>,
    seen: mpsc::Sender<Vec<Duration>>,
    _sender: impl Sized,
) {
    let mut delays = Vec::with_capacity(WRITES);
    while delays.len() < WRITES {
        let frame = events.frame().await.unwrap().unwrap();
        let lines = frame.into_data().unwrap();
        // Each event is a line, and events come in the order of the writes.
        let ends = lines.iter().filter(|&&byte| byte == b'\n').count();
        let now = Instant::now();
        let from = delays.len();
        let begun = sent.lock().unwrap()[from..from + ends].to_vec();
        delays.extend(begun.into_iter().map(|begun| now - begun));
    }
    seen.send(delays).await.unwrap();
}

/// Writes in even steps, whether or not the last was answered in time.
async fn write(client: Client, sent: Arc<Mutex<Vec<Instant>>>) {
    let mut sender = client.http1().await;
    let mut every = tokio::time::interval(WRITE_EVERY);
    for number in 0..WRITES {
        every.tick().await;
        let (method, path, body) = config_map(number);
        let request = client.request(method, &path, body);
        sent.lock().unwrap().push(Instant::now());
        client::read(sender.send_request(request).await.unwrap()).await;
        sender.ready().await.unwrap();
    }
}
