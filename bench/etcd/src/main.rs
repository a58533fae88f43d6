//! Atoll's store by its trait, in process, beside etcd by gRPC on the loopback: the same disk,
//! the same requests, one after the other, several rounds.
//!
//! `atoll-bench-etcd ETCD-PROGRAM FOLDER [ROUNDS [SECONDS]]` prints medians. It is no fair
//! comparison: etcd pays for gRPC and for a second process, Atoll does not yet. Read it as an
//! upper bound of what the store can win.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_store::kv::{KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn, WatchRequest};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use futures::StreamExt;
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALUE_BYTES: usize = 1024;
/// Keys of a list, as a client of Kubernetes pages them.
const LISTED: usize = 500;
const WATCHED: usize = 300;
const ENDPOINT: &str = "http://127.0.0.1:17152";

#[derive(Clone)]
enum Side {
    Atoll(Arc<dyn KvStore>),
    Etcd(etcd_client::Client),
}

impl Side {
    async fn put(&mut self, key: String) -> Outcome<()> {
        let value = vec![b'v'; VALUE_BYTES];
        match self {
            Self::Atoll(kv) => {
                let put =
                    PutRequest { key: key.into(), value: value.into(), lease: 0, prev_kv: false };
                kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
            }
            Self::Etcd(client) => drop(client.put(key, value, None).await?),
        }
        Ok(())
    }

    async fn get(&mut self, key: String) -> Outcome<usize> {
        Ok(match self {
            Self::Atoll(kv) => kv.range(RangeRequest::new(KeyRange::single(key))).await?.kvs.len(),
            Self::Etcd(client) => client.get(key, None).await?.kvs().len(),
        })
    }

    async fn list(&mut self) -> Outcome<usize> {
        Ok(match self {
            Self::Atoll(kv) => {
                let range = RangeRequest { limit: LISTED, ..all() };
                kv.range(range).await?.kvs.len()
            }
            Self::Etcd(client) => {
                let options = etcd_client::GetOptions::new()
                    .with_prefix()
                    .with_limit(i64::try_from(LISTED)?);
                client.get("bench/", Some(options)).await?.kvs().len()
            }
        })
    }

    /// From a put's beginning until a watch has its event.
    async fn watch(&mut self) -> Outcome<Vec<Duration>> {
        let mut taken = Vec::new();
        match self.clone() {
            Self::Atoll(kv) => {
                let mut events = kv.watch(WatchRequest {
                    range: KeyRange::prefix("watched/"),
                    start_revision: None,
                    prev_kv: false,
                });
                for number in 0..WATCHED {
                    let start = Instant::now();
                    let put = self.put(format!("watched/{number}"));
                    let (put, event) = tokio::join!(put, events.next());
                    put?;
                    event.ok_or("the watch ended")??;
                    taken.push(start.elapsed());
                }
            }
            Self::Etcd(mut client) => {
                let options = etcd_client::WatchOptions::new().with_prefix();
                let mut events = client.watch("watched/", Some(options)).await?;
                // It says first that it watches.
                events.message().await?;
                for number in 0..WATCHED {
                    let start = Instant::now();
                    let put = self.put(format!("watched/{number}"));
                    let (put, event) = tokio::join!(put, events.message());
                    put?;
                    event?.ok_or("the watch ended")?;
                    taken.push(start.elapsed());
                }
            }
        }
        Ok(taken)
    }
}

fn all() -> RangeRequest {
    RangeRequest::new(KeyRange::prefix("bench/"))
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Put,
    Get,
    List,
}

/// What one measurement says.
#[derive(Default, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_micros: f64,
    p99_micros: f64,
    cpu_micros: f64,
}

async fn measure(side: &Side, kind: Kind, clients: usize, time: Duration) -> Outcome<Vec<Duration>> {
    let end = Instant::now() + time;
    let mut tasks: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    for client in 0..clients {
        let mut side = side.clone();
        tasks.spawn(async move {
            let mut taken = Vec::new();
            let mut number = 0_usize;
            while Instant::now() < end {
                let key = format!("bench/{client:03}/{:05}", number % 1000);
                number += 1;
                let start = Instant::now();
                match kind {
                    Kind::Put => side.put(key).await?,
                    Kind::Get => drop(side.get(key).await?),
                    Kind::List => drop(side.list().await?),
                }
                taken.push(start.elapsed());
                // A read in process never waits; others must have their turn.
                tokio::task::coop::consume_budget().await;
            }
            Ok(taken)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}

fn figures(mut taken: Vec<Duration>, time: Duration, cpu: Duration) -> Figures {
    taken.sort_unstable();
    let at = |share: usize| {
        let place = (taken.len() * share / 100).min(taken.len().saturating_sub(1));
        taken.get(place).map_or(0.0, |one| one.as_secs_f64() * 1e6)
    };
    Figures {
        per_second: taken.len() as f64 / time.as_secs_f64(),
        p50_micros: at(50),
        p99_micros: at(99),
        cpu_micros: cpu.as_secs_f64() * 1e6 / taken.len().max(1) as f64,
    }
}

struct Etcd(Child);

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("etcd does not end: {error}");
        }
    }
}

fn start_etcd(program: &Path, folder: &Path) -> Outcome<Etcd> {
    let peer = "http://127.0.0.1:17153";
    let child = Command::new(program)
        .args(["--data-dir".as_ref(), folder.join("etcd").as_os_str()])
        .args(["--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Etcd(child))
}

/// Of all threads of a process: both sides' own, and for etcd its server's only.
fn cpu(process: &str) -> Outcome<Duration> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn resident_mb(process: &str) -> Outcome<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    let kilobytes: f64 = line.split_whitespace().nth(1).ok_or("an empty VmRSS")?.parse()?;
    Ok(kilobytes / 1024.0)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: atoll-bench-etcd ETCD-PROGRAM FOLDER [ROUNDS [SECONDS]]";
    let program = PathBuf::from(arguments.next().ok_or(usage)?);
    let folder = PathBuf::from(arguments.next().ok_or(usage)?);
    let rounds: usize = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let seconds: f64 = arguments.next().map_or(Ok(1.0), |text| text.parse())?;
    let time = Duration::from_secs_f64(seconds);
    std::fs::create_dir_all(&folder)?;
    let etcd = start_etcd(&program, &folder)?;
    let etcd_process = etcd.0.id().to_string();
    let config = StoreConfig { dir: folder.join("atoll"), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await?;
    let client = loop {
        if let Ok(mut client) = etcd_client::Client::connect([ENDPOINT], None).await
            && client.status().await.is_ok()
        {
            break client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let sides = [Side::Atoll(store.keyspace(Keyspace::Cluster)), Side::Etcd(client)];
    println!("resident, empty: atoll {:.1} MB, etcd {:.1} MB", resident_mb("self")?, resident_mb(&etcd_process)?);
    let plan = [
        ("put ×1", Kind::Put, 1),
        ("put ×32", Kind::Put, 32),
        ("get ×1", Kind::Get, 1),
        ("get ×32", Kind::Get, 32),
        ("list of 500 ×1", Kind::List, 1),
    ];
    for (name, kind, clients) in plan {
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (side, found) in sides.iter().zip(&mut found) {
                let process = if matches!(side, Side::Etcd(_)) { etcd_process.as_str() } else { "self" };
                let before = cpu(process)?;
                let taken = measure(side, kind, clients, time).await?;
                found.push(figures(taken, time, cpu(process)?.saturating_sub(before)));
            }
        }
        print(name, &found);
    }
    let mut found = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (side, found) in sides.iter().zip(&mut found) {
            let taken = side.clone().watch().await?;
            let time = taken.iter().sum();
            found.push(figures(taken, time, Duration::ZERO));
        }
    }
    print("put to event ×1", &found);
    println!(
        "resident, after: atoll {:.1} MB (with this program's clients), etcd {:.1} MB",
        resident_mb("self")?,
        resident_mb(&etcd_process)?
    );
    store.shutdown().await;
    drop(etcd);
    Ok(())
}

fn print(name: &str, found: &[Vec<Figures>; 2]) {
    for (side, found) in ["atoll", "etcd"].into_iter().zip(found) {
        let of = |pick: fn(&Figures) -> f64| median(found.iter().map(pick).collect());
        println!(
            "{name:<16} {side:<6} {:>9.0}/s  p50 {:>8.0} µs  p99 {:>8.0} µs  {:>7.1} µs of CPU each",
            of(|one| one.per_second),
            of(|one| one.p50_micros),
            of(|one| one.p99_micros),
            of(|one| one.cpu_micros),
        );
    }
}
