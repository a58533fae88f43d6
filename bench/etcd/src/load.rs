//! Closed loops of clients over the etcd API, the same for both sides.

use std::time::{Duration, Instant};

use etcd_client::{Client, GetOptions, PutOptions, Txn, TxnOp, WatchOptions};
use tokio::task::JoinSet;

use crate::Outcome;

pub const VALUE_BYTES: usize = 1024;
/// Keys of a list, as a client of Kubernetes pages them.
const LISTED: i64 = 500;
/// Beyond this, clients share connections.
const CONNECTIONS_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Put,
    Get,
    SerializableGet,
    Txn,
    List,
}

/// What one measurement says.
#[derive(Default, Clone, Copy)]
pub struct Figures {
    pub per_second: f64,
    pub p50_micros: f64,
    pub p99_micros: f64,
    /// Of all servers of the side.
    pub cpu_micros: f64,
}

/// Connections spread over all members.
pub async fn connect(endpoints: &[String], clients: usize) -> Outcome<Vec<Client>> {
    let mut made = Vec::new();
    for number in 0..clients.min(CONNECTIONS_MAX) {
        let endpoint = &endpoints[number % endpoints.len()];
        made.push(Client::connect([endpoint], None).await?);
    }
    Ok(made)
}

pub async fn measure(
    connections: &[Client],
    kind: Kind,
    clients: usize,
    time: Duration,
) -> Outcome<Vec<Duration>> {
    let end = Instant::now() + time;
    let mut tasks: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    for number in 0..clients {
        let client = connections[number % connections.len()].clone();
        tasks.spawn(async move { one(client, kind, number, end).await });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}

async fn one(mut client: Client, kind: Kind, number: usize, end: Instant) -> Outcome<Vec<Duration>> {
    let mut taken = Vec::new();
    let mut step = 0_usize;
    while Instant::now() < end {
        let key = format!("bench/{number:03}/{:05}", step % 1000);
        step += 1;
        let start = Instant::now();
        call(&mut client, kind, key).await?;
        taken.push(start.elapsed());
    }
    Ok(taken)
}

async fn call(client: &mut Client, kind: Kind, key: String) -> Outcome<()> {
    let value = || vec![b'v'; VALUE_BYTES];
    match kind {
        Kind::Put => drop(client.put(key, value(), None).await?),
        Kind::Get => drop(client.get(key, None).await?),
        Kind::SerializableGet => {
            drop(client.get(key, Some(GetOptions::new().with_serializable())).await?);
        }
        Kind::Txn => {
            let put = TxnOp::put(key.clone(), value(), Some(PutOptions::new()));
            let txn = Txn::new().and_then([TxnOp::get(key, None), put]);
            drop(client.txn(txn).await?);
        }
        Kind::List => {
            let options = GetOptions::new().with_prefix().with_limit(LISTED);
            drop(client.get("bench/", Some(options)).await?);
        }
    }
    Ok(())
}

pub fn figures(mut taken: Vec<Duration>, time: Duration, cpu: Duration) -> Figures {
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

/// `keys` keys of 1 KiB, many at once.
pub async fn fill(connections: &[Client], keys: usize) -> Outcome<()> {
    let mut tasks: JoinSet<Outcome<()>> = JoinSet::new();
    let writers = 64;
    for writer in 0..writers {
        let mut client = connections[writer % connections.len()].clone();
        tasks.spawn(async move {
            for key in (writer..keys).step_by(writers) {
                client.put(format!("fill/{key:08}"), vec![b'v'; VALUE_BYTES], None).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// `watchers` watches of one prefix, 16 a connection; `rate` puts a second for `time`. The time
/// from each put's beginning until each watch has its event.
pub async fn watchers(
    endpoints: &[String],
    watchers: usize,
    rate: u32,
    time: Duration,
) -> Outcome<Vec<Duration>> {
    let origin = Instant::now();
    let mut tasks: JoinSet<Outcome<Vec<Duration>>> = JoinSet::new();
    let count = (f64::from(rate) * time.as_secs_f64()) as usize;
    let mut client = Client::connect([&endpoints[0]], None).await?;
    for number in 0..watchers {
        if number % 16 == 0 {
            client = Client::connect([&endpoints[number / 16 % endpoints.len()]], None).await?;
        }
        let options = WatchOptions::new().with_prefix();
        let mut events = client.clone().watch("watched/", Some(options)).await?;
        // It says first that it watches.
        events.message().await?;
        tasks.spawn(async move {
            let mut taken = Vec::new();
            while taken.len() < count {
                let message = events.message().await?.ok_or("the watch ended")?;
                for event in message.events() {
                    let value = event.kv().ok_or("an event without a key")?.value();
                    let sent = u64::from_be_bytes(value[..8].try_into()?);
                    taken.push(origin.elapsed().saturating_sub(Duration::from_nanos(sent)));
                }
            }
            Ok(taken)
        });
    }
    let writers = connect(endpoints, 8).await?;
    let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
    for number in 0..count {
        tick.tick().await;
        let mut value = (origin.elapsed().as_nanos() as u64).to_be_bytes().to_vec();
        value.resize(128, b'v');
        let mut writer = writers[number % writers.len()].clone();
        tokio::spawn(async move { writer.put(format!("watched/{}", number % 100), value, None).await });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    Ok(all)
}
