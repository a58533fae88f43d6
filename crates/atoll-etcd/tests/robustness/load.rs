//! Clients that write without pause, and what is asked of members afterwards.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::{
    DeleteRangeRequest, HashKvRequest, PutRequest, RangeRequest, RangeResponse,
};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

use crate::raw::{Channel, Raw};
use crate::served::{PATIENCE, Served};

/// One call; a member that is dead does not say so.
const CALL_MAX: Duration = Duration::from_secs(2);

/// Key, and the revision that its write was told.
pub(crate) type Acknowledged = BTreeMap<String, i64>;

/// Writers, some at each of the addresses. Every key is written once.
pub(crate) struct Load {
    written: Arc<AtomicU64>,
    stop: CancellationToken,
    clients: JoinSet<Acknowledged>,
}

impl Load {
    pub(crate) fn start(name: &str, addresses: &[SocketAddr], clients: usize) -> Self {
        let (written, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = Client {
                prefix: format!("{name}/{number}"),
                address: addresses[number % addresses.len()],
                written: written.clone(),
                stop: stop.clone(),
            };
            running.spawn(client.run());
        }
        Self { written, stop, clients: running }
    }

    /// So many more are acknowledged than now.
    pub(crate) async fn more(&self, count: u64) {
        let wanted = self.written.load(Ordering::Relaxed) + count;
        let deadline = Instant::now() + PATIENCE;
        while self.written.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < deadline, "writes do not go on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn stop(self) -> Acknowledged {
        self.stop.cancel();
        self.clients.join_all().await.into_iter().flatten().collect()
    }
}

struct Client {
    prefix: String,
    address: SocketAddr,
    written: Arc<AtomicU64>,
    stop: CancellationToken,
}

impl Client {
    async fn run(self) -> Acknowledged {
        let mut acknowledged = Acknowledged::new();
        let mut raw = None;
        for number in 0_u64.. {
            if self.stop.is_cancelled() {
                break;
            }
            let Some(open) = &mut raw else {
                raw = Channel::open_pinging(self.address, None).await.ok().map(Raw::over);
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let key = format!("{}/{number}", self.prefix);
            match put(open, &key, "v").await {
                Ok(revision) => {
                    acknowledged.insert(key, revision);
                    self.written.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) if open.channel.is_closed() => raw = None,
                // Nobody knows whether it was written.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        acknowledged
    }
}

/// The revision.
pub(crate) async fn put(raw: &mut Raw, key: &str, value: &str) -> Result<i64, Status> {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    let mut request = Request::new(put);
    request.set_timeout(CALL_MAX);
    let answered = tokio::time::timeout(CALL_MAX, raw.kv.put(request)).await;
    let answer = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?;
    Ok(answer.into_inner().header.expect("a header").revision)
}

pub(crate) async fn delete(raw: &mut Raw, key: &str, end: &str) -> i64 {
    let request = DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        prev_kv: false,
    };
    let deleted = raw.kv.delete_range(request).await.expect("it is deleted").into_inner();
    deleted.header.expect("a header").revision
}

/// Everything, with what was acknowledged before.
pub(crate) async fn everything(raw: &mut Raw) -> RangeResponse {
    let request =
        RangeRequest { key: "\0".into(), range_end: "\0".into(), ..RangeRequest::default() };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match raw.kv.range(request.clone()).await {
            Ok(found) => return found.into_inner(),
            Err(status) => assert!(Instant::now() < deadline, "it answers nothing: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was acknowledged is there, at the revision that was told, and nothing is older.
pub(crate) async fn assert_kept(raw: &mut Raw, acknowledged: &Acknowledged) -> i64 {
    let found = everything(raw).await;
    let kept: BTreeMap<_, _> =
        found.kvs.iter().map(|kv| (kv.key.as_ref(), kv.mod_revision)).collect();
    for (key, revision) in acknowledged {
        assert_eq!(kept.get(key.as_bytes()), Some(revision), "{key} was acknowledged");
    }
    found.header.expect("a header").revision
}

/// All members have the same history, of which the hash is taken over everything.
pub(crate) async fn assert_agreement(served: &Served) {
    let mut hashes = Vec::new();
    let mut raws = Vec::new();
    for api in served.apis.values() {
        let mut raw = Raw::open(api.address).await;
        everything(&mut raw).await;
        raws.push(raw);
    }
    for raw in &mut raws {
        // Catches up with whatever the first one still brought.
        let revision = everything(raw).await.header.expect("a header").revision;
        let hash = raw.maintenance.hash_kv(HashKvRequest { revision: 0 }).await;
        let hash = hash.expect("a hash").into_inner();
        hashes.push((hash.hash, hash.hash_revision, hash.compact_revision, revision));
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "members differ: {hashes:?}");
}
