//! Puts while a million old revisions are compacted, beside puts when nothing else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, CompactionOptions};
use tokio::task::JoinSet;

use crate::load::{Kind, connect, figures, measure};
use crate::sides::{Name, Side};
use crate::{Outcome, Settings, both, median, print_one};

const REVISIONS: usize = 1_000_000;
/// Each is overwritten a hundred times.
const KEYS: usize = 10_000;
const OLD_VALUE_BYTES: usize = 256;
const WRITERS: usize = 32;
/// A compaction that takes less is still measured for so long.
const MEASURED_MIN: Duration = Duration::from_millis(500);

pub async fn run(settings: &Settings) -> Outcome<()> {
    let sides = both(settings, "compaction").await?;
    let mut found = [const { Vec::new() }; 3].map(|_: Vec<f64>| [Vec::new(), Vec::new()]);
    for _ in 0..settings.rounds {
        for (at, side) in sides.iter().enumerate() {
            let (quiet, busy, took) = once(side, settings.time).await?;
            for (of, value) in found.iter_mut().zip([quiet, busy, took]) {
                of[at].push(value);
            }
        }
    }
    let [quiet, busy, took] = &found;
    print_one("put ×32, quiet: p99, µs", quiet, 0);
    print_one("the same while a million revisions are compacted", busy, 0);
    print_one("compaction, s", took, 2);
    for (at, name) in Name::BOTH.into_iter().enumerate() {
        let ratios = busy[at].iter().zip(&quiet[at]).map(|(busy, quiet)| busy / quiet).collect();
        println!("p99 while compacting / quiet, {:<6} {:.2}", name.text(), median(ratios));
    }
    Ok(())
}

/// 99th percentiles in µs, quiet and during the compaction, and how long that took in seconds.
async fn once(side: &Side, time: Duration) -> Outcome<(f64, f64, f64)> {
    let connections = connect(&side.endpoints, WRITERS).await?;
    overwrite(&connections).await?;
    let quiet = measure(&connections, Kind::Put, WRITERS, time).await?;
    let quiet = figures(quiet, time, Duration::ZERO);
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    for number in 0..WRITERS {
        let client = connections[number % connections.len()].clone();
        let stop = stop.clone();
        tasks.spawn(async move { write_until(client, number, &stop).await });
    }
    let began = Instant::now();
    let mut client = connections[0].clone();
    let header = client.get("ready", None).await?.header().map_or(0, |header| header.revision());
    let options = CompactionOptions::new().with_physical();
    client.compact(header, Some(options)).await?;
    let took = began.elapsed();
    tokio::time::sleep(MEASURED_MIN.saturating_sub(took)).await;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Vec::new();
    while let Some(done) = tasks.join_next().await {
        taken.extend(done??);
    }
    let busy = figures(taken, began.elapsed(), Duration::ZERO);
    Ok((quiet.p99_micros, busy.p99_micros, took.as_secs_f64()))
}

async fn overwrite(connections: &[Client]) -> Outcome<()> {
    let mut tasks: JoinSet<Outcome<()>> = JoinSet::new();
    let writers = 64;
    for writer in 0..writers {
        let mut client = connections[writer % connections.len()].clone();
        tasks.spawn(async move {
            for number in (writer..REVISIONS).step_by(writers) {
                let key = format!("old/{:05}", number % KEYS);
                client.put(key, vec![b'v'; OLD_VALUE_BYTES], None).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn write_until(
    mut client: Client,
    number: usize,
    stop: &AtomicBool,
) -> Outcome<Vec<Duration>> {
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("bench/{number:03}/{:05}", taken.len() % 1000);
        let start = Instant::now();
        client.put(key, vec![b'v'; crate::load::VALUE_BYTES], None).await?;
        taken.push(start.elapsed());
    }
    Ok(taken)
}
