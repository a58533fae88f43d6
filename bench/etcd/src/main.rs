//! Atoll beside etcd: both by gRPC on the loopback from the same client, with a watch open, the
//! same disk and the same requests, in turns; medians of the rounds. See [`HELP`].

use std::path::PathBuf;
use std::time::{Duration, Instant};

use etcd_client::{Client, WatchOptions};

use load::{Figures, Kind, connect, figures, fill, measure};
use sides::{Name, Programs, Side};

mod compaction;
mod embedded;
mod load;
mod sides;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const HELP: &str = "\
Sets Atoll beside etcd: the same requests to both in turns, on the same disk; medians of the rounds.

usage: atoll-bench-etcd ATOLL ETCD FOLDER [OPTION…] [NAME…]

  ATOLL   `atoll`, or the example `serve` of atoll-etcd: the store and its API alone
  ETCD    etcd 3.5 or 3.6
  FOLDER  new, on the disk that is to be measured

  --servers N          of each side (1); with several Atolls it needs root, for addresses on lo
  --rounds N           (5)
  --seconds S          of each measurement (2)
  --only TEXT          of `load` and `embedded`, what has this in its name, as \"put ×1\"
  --at-last           all clients of `load` at the last server, which seldom leads
  --embedded PROGRAM   the example `embedded` of atoll-store

NAMEs; all of them without one, but `embedded` only with its program:
  load        puts, gets, transactions and lists with 1 to 256 clients: throughput, latency, and
              processor time of all servers for each
  start       an empty folder until the first put is acknowledged
  memory      resident, 15 s after the start and after 100,000 keys of 1 KiB were put
  restart     a million keys of 1 KiB, all servers killed with -9: until all serve again
  kill        the leader of several killed with -9 under load: until the next acknowledged write
  watchers    1,000 watches of one prefix at 1,000 puts a second: delivery, and memory
  compaction  puts while a million revisions are compacted, beside quiet ones
  embedded    gets and transactions through the store's own trait, beside etcd by gRPC";

struct Settings {
    programs: Programs,
    folder: PathBuf,
    servers: usize,
    rounds: usize,
    time: Duration,
    /// Of the loads, those with this in their name.
    only: String,
    at_last: bool,
    embedded: Option<PathBuf>,
    names: Vec<String>,
}

fn settings() -> Outcome<Settings> {
    let mut plain = Vec::new();
    let (mut servers, mut rounds, mut seconds) = (1, 5, 2.0);
    let (mut only, mut at_last, mut embedded) = (String::new(), false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(HELP);
        match argument.as_str() {
            "--servers" => servers = value()?.parse()?,
            "--rounds" => rounds = value()?.parse()?,
            "--seconds" => seconds = value()?.parse()?,
            "--only" => only = value()?,
            "--at-last" => at_last = true,
            "--embedded" => embedded = Some(PathBuf::from(value()?)),
            "--help" => {
                println!("{HELP}");
                std::process::exit(0);
            }
            _ => plain.push(argument),
        }
    }
    if plain.len() < 3 {
        eprintln!("{HELP}");
        std::process::exit(2);
    }
    let names = plain.split_off(3);
    let [atoll, etcd, folder] = [0, 1, 2].map(|at| PathBuf::from(&plain[at]));
    let programs = Programs { atoll, etcd };
    let time = Duration::from_secs_f64(seconds);
    Ok(Settings { programs, folder, servers, rounds, time, only, at_last, embedded, names })
}

impl Settings {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }

    async fn side(&self, name: Name, run: &str) -> Outcome<Side> {
        let folder = self.folder.join(run);
        Side::start(name, &self.programs, &folder, self.servers).await
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Outcome<()> {
    let settings = settings()?;
    println!("servers: {}, rounds: {}", settings.servers, settings.rounds);
    if settings.wants("start") {
        start(&settings).await?;
    }
    if settings.wants("load") {
        under_load(&settings).await?;
    }
    if settings.wants("watchers") {
        watchers(&settings).await?;
    }
    if settings.wants("memory") {
        memory(&settings).await?;
    }
    if settings.wants("restart") {
        restart(&settings).await?;
    }
    if settings.wants("kill") && settings.servers > 1 {
        kill(&settings).await?;
    }
    if settings.wants("compaction") {
        compaction::run(&settings).await?;
    }
    if settings.wants("embedded") && (settings.embedded.is_some() || !settings.names.is_empty()) {
        embedded::run(&settings).await?;
    }
    Ok(())
}

async fn under_load(settings: &Settings) -> Outcome<()> {
    let sides = both(settings, "load").await?;
    let mut watches = Vec::new();
    for side in &sides {
        let mut client = Client::connect([&side.endpoints[0]], None).await?;
        let options = WatchOptions::new().with_prefix();
        watches.push(client.watch("bench/", Some(options)).await?);
    }
    for mut watch in watches {
        // Read to the end of the run, or the servers would keep everything.
        tokio::spawn(async move { while let Ok(Some(_)) = watch.message().await {} });
    }
    let plan = [
        ("put", Kind::Put, [1, 32, 256].as_slice()),
        ("get", Kind::Get, &[1, 32, 256]),
        ("serializable get", Kind::SerializableGet, &[32]),
        ("txn of get and put", Kind::Txn, &[32]),
        ("list of 500", Kind::List, &[1]),
    ];
    for (name, kind, counts) in plan {
        for &clients in counts {
            let what = format!("{name} ×{clients}");
            if !what.contains(&settings.only) {
                continue;
            }
            let mut found = [Vec::new(), Vec::new()];
            for _ in 0..settings.rounds {
                for (side, found) in sides.iter().zip(&mut found) {
                    let first = if settings.at_last { side.endpoints.len() - 1 } else { 0 };
                    let connections = connect(&side.endpoints[first..], clients).await?;
                    let before = side.cpu()?;
                    let taken = measure(&connections, kind, clients, settings.time).await?;
                    let cpu = side.cpu()?.saturating_sub(before);
                    found.push(figures(taken, settings.time, cpu));
                }
            }
            print(&what, &found);
        }
    }
    Ok(())
}

async fn both(settings: &Settings, run: &str) -> Outcome<Vec<Side>> {
    let mut sides = Vec::new();
    for name in Name::BOTH {
        sides.push(settings.side(name, run).await?);
    }
    Ok(sides)
}

/// An empty start until the first put is acknowledged.
async fn start(settings: &Settings) -> Outcome<()> {
    let mut found = [Vec::new(), Vec::new()];
    for round in 0..settings.rounds {
        for (name, found) in Name::BOTH.into_iter().zip(&mut found) {
            let began = Instant::now();
            let side = settings.side(name, &format!("start-{round}")).await?;
            Client::connect([&side.endpoints[0]], None).await?.put("first", "1", None).await?;
            found.push(began.elapsed().as_secs_f64());
        }
    }
    print_one("empty start to the first put, s", &found, 3);
    Ok(())
}

async fn memory(settings: &Settings) -> Outcome<()> {
    let (mut empty, mut full) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 0..settings.rounds {
        for (at, name) in Name::BOTH.into_iter().enumerate() {
            let side = settings.side(name, &format!("memory-{round}")).await?;
            tokio::time::sleep(Duration::from_secs(15)).await;
            empty[at].push(side.resident_mb()?);
            fill(&connect(&side.endpoints, 64).await?, 100_000).await?;
            tokio::time::sleep(Duration::from_secs(15)).await;
            full[at].push(side.resident_mb()?);
            drop(side);
            std::fs::remove_dir_all(settings.folder.join(format!("memory-{round}")).join(name.text()))?;
        }
    }
    print_one("resident, empty, MB each server", &empty, 1);
    print_one("resident, 100,000 keys of 1 KiB, MB each server", &full, 1);
    Ok(())
}

/// A million keys, all servers killed and started again, until all serve.
async fn restart(settings: &Settings) -> Outcome<()> {
    let mut found = [Vec::new(), Vec::new()];
    let mut sides = both(settings, "restart").await?;
    for side in &sides {
        fill(&connect(&side.endpoints, 64).await?, 1_000_000).await?;
    }
    for _ in 0..settings.rounds {
        for (side, found) in sides.iter_mut().zip(&mut found) {
            for number in 0..settings.servers {
                side.kill(number)?;
            }
            let began = Instant::now();
            for number in 0..settings.servers {
                side.restart(number)?;
            }
            side.wait().await?;
            found.push(began.elapsed().as_secs_f64());
        }
    }
    print_one("restart with a million keys, s", &found, 2);
    Ok(())
}

/// The leader killed under load: until the next write of a client of the others is acknowledged.
async fn kill(settings: &Settings) -> Outcome<()> {
    let mut found = [Vec::new(), Vec::new()];
    let mut sides = both(settings, "kill").await?;
    for _ in 0..settings.rounds {
        for (side, found) in sides.iter_mut().zip(&mut found) {
            found.push(kill_once(side).await?);
        }
    }
    print_one("leader killed: next acknowledged write, s", &found, 2);
    Ok(())
}

async fn kill_once(side: &mut Side) -> Outcome<f64> {
    let leader = side.leader().await?;
    let others: Vec<_> = side
        .endpoints
        .iter()
        .enumerate()
        .filter(|(number, _)| *number != leader)
        .map(|(_, endpoint)| endpoint.clone())
        .collect();
    let connections = connect(&others, 8).await?;
    let load = connections.clone();
    let background =
        tokio::spawn(async move { measure(&load, Kind::Put, 8, Duration::from_secs(1)).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    side.kill(leader)?;
    let began = Instant::now();
    let taken = loop {
        let mut client = connections[0].clone();
        let put = client.put("after", "1", None);
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(300), put).await {
            break began.elapsed();
        }
        if began.elapsed() > Duration::from_secs(60) {
            return Err(format!("{}: no write for a minute", side.name.text()).into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // It ends with an error when a write was under way at the kill.
    drop(background.await);
    side.restart(leader)?;
    side.wait().await?;
    Ok(taken.as_secs_f64())
}

async fn watchers(settings: &Settings) -> Outcome<()> {
    let sides = both(settings, "watchers").await?;
    let mut found = [Vec::new(), Vec::new()];
    let mut memory = [Vec::new(), Vec::new()];
    for _ in 0..settings.rounds {
        for (at, side) in sides.iter().enumerate() {
            let time = Duration::from_secs(3);
            let before = side.cpu()?;
            let taken = load::watchers(&side.endpoints, 1000, 1000, time).await?;
            memory[at].push(side.resident_mb()?);
            found[at].push(figures(taken, time, side.cpu()?.saturating_sub(before)));
        }
    }
    print("1,000 watchers, 1,000 puts/s: delivery", &found);
    print_one("the same: resident, MB each server", &memory, 1);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn print_one(what: &str, found: &[Vec<f64>; 2], digits: usize) {
    let [atoll, etcd] = found.each_ref().map(|values| median(values.clone()));
    let ratio = atoll / etcd;
    println!("{what:<48} atoll {atoll:.digits$}  etcd {etcd:.digits$}  ratio {ratio:.2}");
}

fn print(what: &str, found: &[Vec<Figures>; 2]) {
    let of = |at: usize, pick: fn(&Figures) -> f64| median(found[at].iter().map(pick).collect());
    for (at, name) in Name::BOTH.into_iter().enumerate() {
        println!(
            "{what:<40} {:<6} {:>8.0}/s  p50 {:>8.0} µs  p99 {:>8.0} µs  {:>7.1} µs of CPU each",
            name.text(),
            of(at, |one| one.per_second),
            of(at, |one| one.p50_micros),
            of(at, |one| one.p99_micros),
            of(at, |one| one.cpu_micros),
        );
    }
    // Ratio of each round, since the machine's noise hits neighbours alike.
    let ratio = |pick: fn(&Figures) -> f64| {
        median(found[0].iter().zip(&found[1]).map(|(ours, theirs)| pick(ours) / pick(theirs)).collect())
    };
    println!(
        "{what:<40} ratio  throughput {:.2}  p99 {:.2}  CPU {:.2}",
        ratio(|one| one.per_second),
        ratio(|one| one.p99_micros),
        ratio(|one| one.cpu_micros),
    );
}
