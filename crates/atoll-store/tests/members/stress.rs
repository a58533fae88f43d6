//! Many clients, while members are dropped and started again at random; then the checker.
//!
//! The seed is printed; `ATOLL_STRESS_SEED` and `ATOLL_STRESS_SECONDS` repeat or lengthen a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atoll_history::{
    Ask, Batch, Call, Change, Checker, Found, How, Outcome, Range, Watched, Window,
};
use atoll_store::cluster::Start;
use atoll_store::kv::{
    Compare, CompareTarget, Consistency, Error, EventKind, KeyRange, KvStore, Op, OpResult,
    PutRequest, RangeRequest, Relation, Txn, WatchBatch, WatchRequest,
};
use futures::StreamExt as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::servers::{Server, Servers};

const CLIENTS: u64 = 12;
const WATCHERS: u64 = 3;
const KEYS: u32 = 8;

/// Whom clients find: `None` is down.
type Doors = Arc<Mutex<Vec<Option<Arc<dyn KvStore>>>>>;

fn setting(name: &str) -> Option<u64> {
    #[allow(clippy::disallowed_methods, reason = "only a person sets it, to repeat a run")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "the seed and the numbers of a run")]
async fn what_clients_and_watchers_saw_fits_one_order_of_writes() {
    let seed = setting("ATOLL_STRESS_SEED").unwrap_or_else(rand::random);
    let seconds = setting("ATOLL_STRESS_SECONDS").unwrap_or(15);
    println!("ATOLL_STRESS_SEED={seed} ATOLL_STRESS_SECONDS={seconds}");
    let mut cluster = Servers::new();
    // Short, so that a member that was down for a while needs the whole state.
    (cluster.config.log_entries_max, cluster.config.log_bytes_max) = (300, 256 << 10);
    cluster.config.request_timeout = Duration::from_secs(3);
    let servers = cluster.start(3).await;
    let doors: Doors = Arc::new(Mutex::new(servers.iter().map(|one| Some(one.kv())).collect()));
    let (clock, stop) = (Arc::new(AtomicU64::new(1)), CancellationToken::new());
    let (mut clients, mut watchers) = (JoinSet::new(), JoinSet::new());
    for number in 0..CLIENTS {
        let client = Client {
            number,
            random: StdRng::seed_from_u64(seed ^ number),
            clock: clock.clone(),
            doors: doors.clone(),
        };
        clients.spawn(client.run(stop.clone()));
    }
    for number in 0..WATCHERS {
        let random = StdRng::seed_from_u64(seed ^ (1000 + number));
        watchers.spawn(watch(random, doors.clone(), stop.clone()));
    }
    let servers = disturb(&cluster, servers, &doors, seed, Duration::from_secs(seconds)).await;
    stop.cancel();
    let calls = clients.join_all().await.concat();
    let watches = watchers.join_all().await.concat();
    let logs = changes_of_all(&servers).await;
    assert!(logs.iter().all(|log| *log == logs[0]), "the servers have different histories");
    let (changes, seen) = (&logs[0], BTreeMap::new());
    let window = Window { changes, calls: &calls, watches: &watches, leases: &[], seen: &seen };
    let found = Checker::default().check(&window);
    let count = |is: fn(&Outcome) -> bool| calls.iter().filter(|call| is(&call.outcome)).count();
    let unknown = count(|outcome| *outcome == Outcome::Unknown);
    let refused = count(|outcome| *outcome == Outcome::Refused);
    let batches: usize = watches.iter().map(|watched| watched.batches.len()).sum();
    println!(
        "{} calls, {unknown} unknown, {refused} refused; {} changes; {} watches, {batches} batches",
        calls.len(),
        logs[0].len(),
        watches.len(),
    );
    assert!(
        found.is_empty(),
        "seed {seed}: {} violations: {:#?}",
        found.len(),
        &found[..found.len().min(5)]
    );
    assert!(calls.len() > 500 && unknown + refused < calls.len() / 2, "too little happened");
}

/// Drops one member after the other, in one way or the other, and starts it again.
async fn disturb(
    cluster: &Servers,
    servers: Vec<Server>,
    doors: &Doors,
    seed: u64,
    duration: Duration,
) -> Vec<Server> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut servers: Vec<_> = servers.into_iter().map(Some).collect();
    let start = Instant::now();
    while start.elapsed() < duration {
        tokio::time::sleep(Duration::from_millis(random.random_range(300..2000))).await;
        let number = random.random_range(0..servers.len());
        let server = servers[number].take().unwrap();
        let address = server.address;
        if random.random_bool(0.7) {
            server.kill().await;
        } else {
            server.shut_down().await;
        }
        doors.lock().unwrap()[number] = None;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..2500))).await;
        let back = cluster.open(number, address, Start::New).await;
        doors.lock().unwrap()[number] = Some(back.kv());
        servers[number] = Some(back);
    }
    servers.into_iter().flatten().collect()
}

/// The whole history, as each server gives it.
async fn changes_of_all(servers: &[Server]) -> Vec<Vec<Change>> {
    let mut logs = Vec::new();
    // A write at the end, so that there is something to wait for.
    let start = Instant::now();
    let last = loop {
        let read = servers[0].kv().range(RangeRequest::new(KeyRange::single("none"))).await;
        match read {
            Ok(read) => break read.revision,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
    };
    for server in servers {
        let everything = KeyRange { key: vec![0].into(), end: Some(vec![0].into()) };
        let request = WatchRequest { range: everything, start_revision: Some(1), prev_kv: false };
        let mut stream = server.kv().watch(request);
        let (mut log, mut reached) = (Vec::new(), 1);
        while reached < last {
            let next = tokio::time::timeout(Duration::from_secs(30), stream.next()).await;
            let batch = next.unwrap().unwrap().unwrap();
            reached = batch.revision;
            log.extend(batch_of(batch).changes);
        }
        log.retain(|change| change.revision <= last);
        logs.push(log);
    }
    logs
}

fn batch_of(batch: WatchBatch) -> Batch {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let changes = batch
        .events
        .iter()
        .map(|event| Change {
            revision: event.kv.mod_revision,
            key: text(&event.kv.key),
            value: (event.kind == EventKind::Put).then(|| text(&event.kv.value)),
        })
        .collect();
    Batch { revision: batch.revision, changes, before: None }
}

/// One watch after the other, each from where the last one ended, on whatever server.
async fn watch(mut random: StdRng, doors: Doors, stop: CancellationToken) -> Vec<Watched> {
    let (mut all, mut start) = (Vec::new(), 2);
    while !stop.is_cancelled() {
        let door = random_door(&mut random, &doors);
        let Some(door) = door else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let everything = KeyRange { key: vec![0].into(), end: Some(vec![0].into()) };
        let request =
            WatchRequest { range: everything, start_revision: Some(start), prev_kv: false };
        let mut watched = Watched { range: Range::all(), start, batches: Vec::new() };
        let mut stream = door.watch(request);
        let until = Instant::now() + Duration::from_millis(random.random_range(100..3000));
        loop {
            let next = tokio::time::timeout_at(until.into(), stream.next());
            let Ok(Some(Ok(batch))) = next.await else { break };
            // A server that is behind the start says so by a lower revision.
            start = start.max(batch.revision + 1);
            watched.batches.push(batch_of(batch));
        }
        all.push(watched);
    }
    all
}

fn random_door(random: &mut StdRng, doors: &Doors) -> Option<Arc<dyn KvStore>> {
    let doors = doors.lock().unwrap();
    doors[random.random_range(0..doors.len())].clone()
}

struct Client {
    number: u64,
    random: StdRng,
    clock: Arc<AtomicU64>,
    doors: Doors,
}

impl Client {
    async fn run(mut self, stop: CancellationToken) -> Vec<Call> {
        let mut calls = Vec::new();
        let (mut written, mut seen) = (0, (String::from("key0"), 0));
        while !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(self.random.random_range(0..15))).await;
            let Some(door) = random_door(&mut self.random, &self.doors) else { continue };
            written += 1;
            let ask = self.draw(written, &seen);
            let asked_at = self.clock.fetch_add(1, Ordering::SeqCst);
            let outcome = carry_out(&*door, &ask).await;
            let answered_at = match outcome {
                Outcome::Unknown => u64::MAX,
                _ => self.clock.fetch_add(1, Ordering::SeqCst),
            };
            if let Outcome::Found { found, .. } = &outcome
                && let Some(found) = found.first()
            {
                seen = (found.key.clone(), found.changed_at);
            }
            calls.push(Call { asked_at, answered_at, ask, outcome });
        }
        calls
    }

    fn key(&mut self) -> String {
        format!("key{}", self.random.random_range(0..KEYS))
    }

    fn draw(&mut self, written: u64, seen: &(String, i64)) -> Ask {
        let value = format!("{}.{written}", self.number);
        let key = self.key();
        match self.random.random_range(0..10) {
            0..3 => Ask::Write { guard: None, puts: vec![(key, value)], delete: None },
            3 => {
                let puts = (0..KEYS).map(|number| (format!("key{number}"), value.clone()));
                Ask::Write { guard: None, puts: puts.collect(), delete: None }
            }
            4 => Ask::Write { guard: None, puts: Vec::new(), delete: Some(key) },
            5 => {
                let puts = vec![(seen.0.clone(), value)];
                Ask::Write { guard: Some(seen.clone()), puts, delete: None }
            }
            6 => Ask::Read { range: Range::all(), how: How::Fresh },
            7 => Ask::Read { range: Range::all(), how: How::Stale },
            _ => Ask::Read { range: Range::Key(key), how: How::Fresh },
        }
    }
}

async fn carry_out(door: &dyn KvStore, ask: &Ask) -> Outcome {
    let done = match ask {
        Ask::Read { range, how } => read(door, range, *how).await,
        Ask::Write { guard, puts, delete } => {
            let txn = transaction(guard.as_ref(), puts, delete.as_deref());
            door.txn(txn).await.map(|done| {
                let deleted = done.responses.iter().map(|response| match response {
                    OpResult::Delete { deleted, .. } => *deleted,
                    _ => 0,
                });
                Outcome::Written {
                    revision: done.revision,
                    succeeded: done.succeeded,
                    deleted: deleted.sum(),
                }
            })
        }
    };
    done.unwrap_or_else(|error| match error {
        Error::NoLeader | Error::NoQuorum { .. } | Error::Timeout { maybe_applied: false } => {
            Outcome::Refused
        }
        Error::Timeout { maybe_applied: true } | Error::Unavailable { .. } => Outcome::Unknown,
        other => panic!("{ask:?}: {other}"),
    })
}

async fn read(door: &dyn KvStore, range: &Range, how: How) -> Result<Outcome, Error> {
    let range = match range {
        Range::Key(key) => KeyRange::single(key.clone()),
        Range::Prefix(_) => KeyRange::prefix("key"),
    };
    let mut request = RangeRequest::new(range);
    if how == How::Stale {
        request.consistency = Consistency::Serializable;
    }
    let result = door.range(request).await?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let found = result.kvs.iter().map(|kv| Found {
        key: text(&kv.key),
        value: text(&kv.value),
        changed_at: kv.mod_revision,
    });
    Ok(Outcome::Found { revision: result.revision, found: found.collect() })
}

fn transaction(
    guard: Option<&(String, i64)>,
    puts: &[(String, String)],
    delete: Option<&str>,
) -> Txn {
    let compare = guard.map(|(key, at)| Compare {
        range: KeyRange::single(key.clone()),
        relation: Relation::Equal,
        target: CompareTarget::ModRevision(*at),
    });
    let puts = puts.iter().map(|(key, value)| {
        Op::Put(PutRequest {
            key: key.clone().into(),
            value: value.clone().into(),
            lease: 0,
            prev_kv: false,
        })
    });
    let delete =
        delete.map(|key| Op::Delete { range: KeyRange::single(key.to_owned()), prev_kv: false });
    Txn {
        compare: compare.into_iter().collect(),
        success: puts.chain(delete).collect(),
        failure: Vec::new(),
    }
}
