//! Gets or transactions through the store's trait, in its own process: what `bench/etcd` sets
//! beside etcd by gRPC. `embedded FOLDER get|txn CLIENTS SECONDS`; it prints how many a second,
//! the median and the 99th percentile in microseconds, and microseconds of processor time for each.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use atoll_store::kv::{KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USAGE: &str = "usage: embedded FOLDER get|txn CLIENTS SECONDS";
const VALUE_BYTES: usize = 1024;
const KEYS: usize = 1000;
/// A get does not wait, so other clients would never have their turn.
const YIELD_EVERY: usize = 64;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, clients, seconds] = arguments.as_slice() else { return Err(USAGE.into()) };
    let clients: usize = clients.parse()?;
    let time = Duration::from_secs_f64(seconds.parse()?);
    let is_get = match kind.as_str() {
        "get" => true,
        "txn" => false,
        _ => return Err(USAGE.into()),
    };
    let config = StoreConfig { dir: PathBuf::from(folder), ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await?;
    let kv = store.keyspace(Keyspace::Applications);
    // All at once: they share the syncs.
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let kv = kv.clone();
        tasks.spawn(async move { fill(&*kv, client).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let (cpu, end) = (cpu_micros()?, Instant::now() + time);
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let kv = kv.clone();
        tasks.spawn(async move { one(&*kv, client, is_get, end).await });
    }
    let mut taken = Vec::new();
    while let Some(done) = tasks.join_next().await {
        taken.extend(done??);
    }
    let cpu = cpu_micros()? - cpu;
    taken.sort_unstable();
    let count = taken.len().max(1);
    let at = |share: usize| taken.get(count * share / 100).map_or(0.0, Duration::as_secs_f64) * 1e6;
    let per_second = count as f64 / time.as_secs_f64();
    println!("{per_second} {} {} {}", at(50), at(99), cpu as f64 / count as f64);
    store.shutdown().await;
    Ok(())
}

fn key(client: usize, step: usize) -> String {
    format!("bench/{client:03}/{:05}", step % KEYS)
}

fn put(client: usize, step: usize) -> Op {
    let value = vec![b'v'; VALUE_BYTES].into();
    Op::Put(PutRequest { key: key(client, step).into(), value, lease: 0, prev_kv: false })
}

async fn fill(kv: &dyn KvStore, client: usize) -> Outcome<()> {
    for step in 0..KEYS {
        let txn = Txn { success: vec![put(client, step)], ..Txn::default() };
        kv.txn(txn).await?;
    }
    Ok(())
}

async fn one(
    kv: &dyn KvStore,
    client: usize,
    is_get: bool,
    end: Instant,
) -> Outcome<Vec<Duration>> {
    let mut taken = Vec::new();
    let mut step = 0;
    while Instant::now() < end {
        let start = Instant::now();
        let get = RangeRequest::new(KeyRange::single(key(client, step)));
        if is_get {
            kv.range(get).await?;
            if step % YIELD_EVERY == 0 {
                tokio::task::yield_now().await;
            }
        } else {
            let success = vec![Op::Range(get), put(client, step)];
            kv.txn(Txn { success, ..Txn::default() }).await?;
        }
        taken.push(start.elapsed());
        step += 1;
    }
    Ok(taken)
}

/// Of all threads of this process, from the kernel's counters.
fn cpu_micros() -> Outcome<u64> {
    let mut nanos = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += text.split(' ').next().ok_or("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(nanos / 1000)
}
