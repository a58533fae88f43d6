//! Latency and processor time of the store on a real disk.
//!
//! `cargo run --release -p atoll-store --example bench -- DIR [SECONDS]`. It prints one line a
//! measurement; compare runs of the same machine and disk only.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_store::kv::{KeyRange, KvStore, Op, PutRequest, RangeRequest, Txn};
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALUE_BYTES: usize = 1024;
const TRICKLE_WRITES: u64 = 10;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = PathBuf::from(arguments.next().ok_or("usage: bench DIR [SECONDS]")?);
    let seconds = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let duration = Duration::from_secs(seconds);
    let config = StoreConfig { dir, ..StoreConfig::default() };

    let start = Instant::now();
    let store = EmbeddedStore::open(config.clone()).await?;
    println!("open        {:>9.1} ms, {} kB resident", millis(start.elapsed()), resident_kb()?);
    let kv = store.keyspace(Keyspace::Cluster);

    for writers in [1, 32, 256] {
        report("put", writers, measure(&kv, writers, duration, Kind::Put).await?);
    }
    for readers in [1, 32] {
        report("get", readers, measure(&kv, readers, duration, Kind::Get).await?);
    }
    trickle(&kv).await?;
    // Until what was measured before is in the state file.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let (idle_from, written) = (cpu_micros()?, disk_bytes_written()?);
    tokio::time::sleep(duration).await;
    println!(
        "idle        {} µs of processor in {seconds} s, {} bytes to disk an hour, {} kB resident",
        cpu_micros()? - idle_from,
        (disk_bytes_written()? - written) * 3600 / seconds,
        resident_kb()?,
    );
    let status = kv.status().await?;
    let start = Instant::now();
    store.shutdown().await;
    println!("shutdown    {:>9.1} ms", millis(start.elapsed()));
    drop((store, kv));
    let start = Instant::now();
    let store = EmbeddedStore::open(config).await?;
    println!(
        "open again  {:>9.1} ms, revision {}, {} kB resident",
        millis(start.elapsed()),
        status.revision,
        resident_kb()?
    );
    store.shutdown().await;
    Ok(())
}

/// What one small write costs the disk when nothing else happens: the log, the seal, and its
/// share of the state file.
async fn trickle(kv: &Arc<dyn KvStore>) -> Outcome<()> {
    // Until what was measured before has been flushed.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = disk_bytes_written()?;
    for number in 0..TRICKLE_WRITES {
        let key = format!("trickle/{number}");
        let put = PutRequest { key: key.into(), value: "v".into(), lease: 0, prev_kv: false };
        kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let log = disk_bytes_written()? - before;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let all = disk_bytes_written()? - before;
    println!(
        "trickle     {} bytes of log a write, {} bytes for a flush",
        log / TRICKLE_WRITES,
        all - log
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Kind {
    Put,
    Get,
}

struct Measured {
    latencies: Vec<Duration>,
    elapsed: Duration,
    cpu_micros: u64,
}

async fn measure(
    kv: &Arc<dyn KvStore>,
    clients: usize,
    duration: Duration,
    kind: Kind,
) -> Outcome<Measured> {
    let cpu = cpu_micros()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let kv = kv.clone();
        tasks.spawn(async move { client_loop(&*kv, client, start + duration, kind).await });
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    let elapsed = start.elapsed();
    latencies.sort_unstable();
    Ok(Measured { latencies, elapsed, cpu_micros: cpu_micros()? - cpu })
}

async fn client_loop(
    kv: &dyn KvStore,
    client: usize,
    until: Instant,
    kind: Kind,
) -> Outcome<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut number = 0_usize;
    while Instant::now() < until {
        let key = format!("bench/{client:03}/{:05}", number % 1000);
        number += 1;
        let start = Instant::now();
        match kind {
            Kind::Put => {
                let value = vec![b'v'; VALUE_BYTES].into();
                let put = PutRequest { key: key.into(), value, lease: 0, prev_kv: false };
                kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
            }
            Kind::Get => {
                kv.range(RangeRequest::new(KeyRange::single(key))).await?;
                if number.is_multiple_of(64) {
                    tokio::task::yield_now().await;
                }
            }
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}

fn report(what: &str, clients: usize, measured: Measured) {
    let count = measured.latencies.len().max(1);
    let at = |share: usize| {
        let latency = measured.latencies.get(count * share / 1000).copied().unwrap_or_default();
        latency.as_secs_f64() * 1e6
    };
    println!(
        "{what} ×{clients:<4} {:>9.0} /s, p50 {:>8.1} µs, p99 {:>8.1} µs, p999 {:>8.1} µs, {:>6.1} µs of processor each",
        count as f64 / measured.elapsed.as_secs_f64(),
        at(500),
        at(990),
        at(999),
        measured.cpu_micros as f64 / count as f64,
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
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

fn disk_bytes_written() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line =
        text.lines().find(|line| line.starts_with("write_bytes:")).ok_or("no write_bytes")?;
    Ok(line.split_whitespace().nth(1).ok_or("an empty write_bytes")?.parse()?)
}

fn resident_kb() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("an empty VmRSS")?.parse()?)
}
