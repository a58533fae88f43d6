//! Locks and elections, beside those of an etcd.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, RangeRequest,
};
use atoll_etcd::proto::v3electionpb::election_client::ElectionClient;
use atoll_etcd::proto::v3electionpb::{
    CampaignRequest, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ResignRequest,
};
use atoll_etcd::proto::v3lockpb::lock_client::LockClient;
use atoll_etcd::proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use crate::etcd::Release;
use crate::random::Pair;
use crate::raw::{Channel, Raw};
use crate::served::{PATIENCE, Served};

/// What should not happen has this long to happen.
const QUIET: Duration = Duration::from_millis(100);

/// One server's services, and what they answered.
struct Side {
    raw: Raw,
    lock: LockClient<Channel>,
    election: ElectionClient<Channel>,
    told: Vec<String>,
}

impl Side {
    fn of(raw: &Raw) -> Self {
        let (channel, origin) = (raw.channel.clone(), raw.channel.origin());
        Self {
            lock: LockClient::with_origin(channel.clone(), origin.clone()),
            election: ElectionClient::with_origin(channel, origin),
            raw: raw.clone(),
            told: Vec::new(),
        }
    }

    async fn lease(&mut self, id: i64) {
        self.raw.lease.lease_grant(LeaseGrantRequest { id, ttl: 600 }).await.unwrap();
    }

    fn tell(&mut self, what: impl Into<String>) {
        self.told.push(what.into());
    }

    fn refused<T: std::fmt::Debug>(&mut self, answer: Result<T, Status>) {
        let status = answer.expect_err("it is refused");
        self.tell(format!("{:?} {}", status.code(), status.message()));
    }

    async fn lock(&mut self, name: &'static str, lease: i64) -> bytes::Bytes {
        let request = LockRequest { name: name.into(), lease };
        let locked = self.lock.lock(request).await.unwrap().into_inner();
        let revision = locked.header.unwrap().revision;
        self.tell(format!("{:?} locked at {revision}", locked.key));
        locked.key
    }

    /// How many keys there are below a name.
    async fn below(&mut self, name: &str) -> i64 {
        let range = RangeRequest {
            key: format!("{name}/").into(),
            range_end: format!("{name}0").into(),
            count_only: true,
            ..RangeRequest::default()
        };
        self.raw.kv.range(range).await.unwrap().into_inner().count
    }

    async fn until_below(&mut self, name: &str, count: i64) {
        let deadline = Instant::now() + PATIENCE;
        while self.below(name).await != count {
            assert!(Instant::now() < deadline, "{name} does not have {count} keys");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn locks(&mut self) {
        for id in [1, 2, 3] {
            self.lease(id).await;
        }
        let key = self.lock("l", 1).await;
        // Who has it gets it again.
        self.lock("l", 1).await;
        let mut waiting = JoinSet::new();
        for lease in [2, 3] {
            let mut lock = self.lock.clone();
            let request = LockRequest { name: "l".into(), lease };
            waiting.spawn(async move { (lease, lock.lock(request).await) });
            self.until_below("l", lease).await;
        }
        assert!(timeout(QUIET, waiting.join_next()).await.is_err(), "two have the lock");
        let unlocked = self.lock.unlock(UnlockRequest { key }).await.unwrap().into_inner();
        self.tell(format!("unlocked at {}", unlocked.header.unwrap().revision));
        let next = timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap();
        let locked = next.1.unwrap().into_inner();
        self.tell(format!("then {} at {}", next.0, locked.header.unwrap().revision));
        assert!(timeout(QUIET, waiting.join_next()).await.is_err(), "two have the lock");
        // Who waits no longer stands in nobody's way.
        waiting.abort_all();
        self.until_below("l", 1).await;
        // An owner that ends.
        let mut lock = self.lock.clone();
        let request = LockRequest { name: "l".into(), lease: 3 };
        waiting.spawn(async move { (3, lock.lock(request).await) });
        self.until_below("l", 2).await;
        self.raw.lease.lease_revoke(LeaseRevokeRequest { id: 2 }).await.unwrap();
        let locked = loop {
            // Those that were taken back come first.
            let next = timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap();
            if let Ok((_, Ok(locked))) = next {
                break locked.into_inner();
            }
        };
        self.tell(format!("{:?} at {}", locked.key, locked.header.unwrap().revision));
    }

    async fn expired(&mut self) {
        self.lease(4).await;
        self.lease(5).await;
        let key = self.lock("x", 4).await;
        let mut lock = self.lock.clone();
        let request = LockRequest { name: "x".into(), lease: 5 };
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { lock.lock(request).await });
        self.until_below("x", 2).await;
        self.raw.lease.lease_revoke(LeaseRevokeRequest { id: 5 }).await.unwrap();
        self.lock.unlock(UnlockRequest { key }).await.unwrap();
        let ended = timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap();
        self.refused(ended);
    }

    async fn refusals(&mut self) {
        let unknown = self.lock.lock(LockRequest { name: "r".into(), lease: 99 }).await;
        self.refused(unknown);
        let nothing = self.lock.unlock(UnlockRequest::default()).await;
        self.refused(nothing);
        let free = self.lock.unlock(UnlockRequest { key: "free".into() }).await.unwrap();
        self.tell(format!("{}", free.into_inner().header.unwrap().revision));
        let nobody = self.election.leader(LeaderRequest { name: "r".into() }).await;
        self.refused(nobody);
        let unnamed = self.election.resign(ResignRequest::default()).await;
        self.refused(unnamed);
        let unnamed = self.election.proclaim(ProclaimRequest::default()).await;
        self.refused(unnamed);
        let campaign = CampaignRequest { name: "r".into(), lease: 99, value: "v".into() };
        let unknown = self.election.campaign(campaign).await;
        self.refused(unknown);
        let leader = LeaderKey { name: "r".into(), key: "r/1".into(), rev: 5, lease: 1 };
        let proclaim = ProclaimRequest { leader: Some(leader.clone()), value: "v".into() };
        let other = self.election.proclaim(proclaim).await;
        self.refused(other);
        let resigned = self.election.resign(ResignRequest { leader: Some(leader) }).await.unwrap();
        self.tell(format!("{}", resigned.into_inner().header.unwrap().revision));
        // A lease of its own for whoever names none.
        let own = self.lock.lock(LockRequest { name: "own".into(), lease: 0 }).await.unwrap();
        assert!(own.into_inner().key.starts_with(b"own/"));
    }

    async fn campaign(&mut self, lease: i64, value: &'static str) -> LeaderKey {
        let request = CampaignRequest { name: "e".into(), lease, value: value.into() };
        let won = self.election.campaign(request).await.unwrap().into_inner();
        let revision = won.header.unwrap().revision;
        let leader = won.leader.unwrap();
        self.tell(format!("{leader:?} at {revision}"));
        leader
    }

    async fn observed(&mut self, leaders: &mut Streaming<LeaderResponse>) {
        let next = timeout(PATIENCE, leaders.message()).await.unwrap().unwrap().unwrap();
        self.saw(next);
    }

    fn saw(&mut self, next: LeaderResponse) {
        let (revision, kv) = (next.header.unwrap().revision, next.kv.unwrap());
        self.tell(format!("observed {kv:?} at {revision}"));
    }

    async fn elections(&mut self) {
        for id in [11, 12] {
            self.lease(id).await;
        }
        // An etcd begins its answer when there is something to tell.
        let (mut election, mut observing) = (self.election.clone(), JoinSet::new());
        observing.spawn(async move {
            let request = LeaderRequest { name: "e".into() };
            let mut leaders = election.observe(request).await.unwrap().into_inner();
            let first = leaders.message().await.unwrap().unwrap();
            (first, leaders)
        });
        assert!(timeout(QUIET, observing.join_next()).await.is_err(), "nobody leads");
        let first = self.campaign(11, "one").await;
        let observed = timeout(PATIENCE, observing.join_next()).await.unwrap().unwrap().unwrap();
        let (seen, mut leaders) = observed;
        self.saw(seen);
        // Who leads already proclaims.
        self.campaign(11, "two").await;
        self.observed(&mut leaders).await;
        let mut election = self.election.clone();
        let request = CampaignRequest { name: "e".into(), lease: 12, value: "three".into() };
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { election.campaign(request).await });
        self.until_below("e", 2).await;
        assert!(timeout(QUIET, waiting.join_next()).await.is_err(), "two lead");
        let proclaim = ProclaimRequest { leader: Some(first.clone()), value: "more".into() };
        let said = self.election.proclaim(proclaim).await.unwrap().into_inner();
        self.tell(format!("proclaimed at {}", said.header.unwrap().revision));
        self.observed(&mut leaders).await;
        let found = self.election.leader(LeaderRequest { name: "e".into() }).await.unwrap();
        let kv = found.into_inner().kv;
        self.tell(format!("{kv:?}"));
        let resign = ResignRequest { leader: Some(first.clone()) };
        let resigned = self.election.resign(resign).await.unwrap().into_inner();
        self.tell(format!("resigned at {}", resigned.header.unwrap().revision));
        let won = timeout(PATIENCE, waiting.join_next()).await.unwrap().unwrap().unwrap();
        let leader = won.unwrap().into_inner().leader;
        self.tell(format!("{leader:?}"));
        self.observed(&mut leaders).await;
        let proclaim = ProclaimRequest { leader: Some(first), value: "late".into() };
        let late = self.election.proclaim(proclaim).await;
        self.refused(late);
        let all = DeleteRangeRequest {
            key: "e/".into(),
            range_end: "e0".into(),
            ..DeleteRangeRequest::default()
        };
        self.raw.kv.delete_range(all).await.unwrap();
        assert!(timeout(QUIET, leaders.message()).await.is_err(), "nobody leads any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections_are_those_of_an_etcd() {
    let Some(pair) = Pair::start(Release::Distro35).await else { return };
    let mut told = Vec::new();
    for raw in [&pair.ours.raw, &pair.theirs.raw] {
        let mut side = Side::of(raw);
        side.locks().await;
        side.expired().await;
        side.refusals().await;
        side.elections().await;
        told.push(side.told);
    }
    assert_eq!(told[0], told[1]);
}

/// Calls of one lease have one place, which goes with the last of them, and not at all when one of
/// them has the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_lease_share_their_place() {
    let served = Served::start(1).await;
    let mut side = Side::of(&Raw::open(served.address(0)).await);
    for id in [1, 2] {
        side.lease(id).await;
    }
    let held = side.lock("l", 1).await;
    let call = |side: &Side| {
        let mut lock = side.lock.clone();
        async move { lock.lock(LockRequest { name: "l".into(), lease: 2 }).await }
    };
    let (mut one, mut other) = (JoinSet::new(), JoinSet::new());
    one.spawn(call(&side));
    side.until_below("l", 2).await;
    other.spawn(call(&side));
    // Both wait by now.
    tokio::time::sleep(QUIET).await;
    one.abort_all();
    tokio::time::sleep(QUIET).await;
    assert_eq!(side.below("l").await, 2, "the other call still waits there");
    side.lock.unlock(UnlockRequest { key: held.clone() }).await.unwrap();
    let won = timeout(PATIENCE, other.join_next()).await.unwrap().unwrap().unwrap();
    assert_eq!(won.unwrap().into_inner().key, "l/2");
    // Its owner locks it again, and one who has it no more unlocks nothing.
    assert_eq!(side.lock("l", 2).await, "l/2");
    side.lock.unlock(UnlockRequest { key: held }).await.unwrap();
    assert_eq!(side.below("l").await, 1, "the second has it");
    // The last that waits takes the place along.
    side.lease(3).await;
    let mut lock = side.lock.clone();
    let mut last = JoinSet::new();
    last.spawn(async move { lock.lock(LockRequest { name: "l".into(), lease: 3 }).await });
    side.until_below("l", 2).await;
    last.abort_all();
    side.until_below("l", 1).await;
}

/// A call that is taken back does not take the lock along that the next of the same lease gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_taken_back_leaves_the_next_one_alone() {
    let served = Served::start(1).await;
    let mut side = Side::of(&Raw::open(served.address(0)).await);
    for id in [1, 2] {
        side.lease(id).await;
    }
    for round in 0..50 {
        let held = side.lock("l", 1).await;
        let mut waiting = JoinSet::new();
        let mut lock = side.lock.clone();
        waiting.spawn(async move { lock.lock(LockRequest { name: "l".into(), lease: 2 }).await });
        side.until_below("l", 2).await;
        waiting.abort_all();
        drop(waiting);
        side.lock.unlock(UnlockRequest { key: held }).await.unwrap();
        let own = side.lock("l", 2).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(side.below("l").await, 1, "round {round}: nobody has what was locked");
        side.lock.unlock(UnlockRequest { key: own }).await.unwrap();
    }
}
