//! The services for operators on three members: status, hashes, leadership, members.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::*;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::raw::Raw;
use crate::served::{PATIENCE, Served};

struct Three {
    served: Served,
    raws: Vec<Raw>,
    leader: usize,
}

impl Three {
    async fn start() -> Self {
        let served = Served::start(3).await;
        let mut raws = Vec::new();
        for number in 0..3 {
            raws.push(Raw::open(served.address(number)).await);
        }
        let leader = served.members.leader().await.unwrap();
        Self { served, raws, leader }
    }

    fn id(&self, number: usize) -> u64 {
        self.served.members.store(number).member_id()
    }

    fn follower(&self) -> usize {
        (self.leader + 1) % 3
    }

    async fn status(&mut self, number: usize) -> StatusResponse {
        self.raws[number].maintenance.status(StatusRequest {}).await.unwrap().into_inner()
    }

    /// A linearizable read: it has everything that was acknowledged.
    async fn catch_up(&mut self, number: usize) {
        let range = RangeRequest { key: "a".into(), ..RangeRequest::default() };
        self.raws[number].kv.range(range).await.unwrap();
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it is refused");
    (status.code(), status.message().to_owned())
}

fn says(code: Code, text: &str) -> (Code, String) {
    (code, format!("etcdserver: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_agree_on_what_they_say_of_themselves_and_on_their_hashes() {
    let mut three = Three::start().await;
    for number in 0_usize..60 {
        let key = format!("k{}", number % 7);
        let put = PutRequest { key: key.into(), value: "v".into(), ..PutRequest::default() };
        three.raws[number % 3].kv.put(put).await.unwrap();
    }
    let delete = DeleteRangeRequest { key: "k3".into(), ..DeleteRangeRequest::default() };
    let end = three.raws[1].kv.delete_range(delete).await.unwrap().into_inner();
    let end = end.header.unwrap().revision;
    let mut indices = Vec::new();
    for number in 0..3 {
        three.catch_up(number).await;
        let status = three.status(number).await;
        let header = status.header.unwrap();
        assert!(status.version.starts_with("3.6."), "{}", status.version);
        assert_eq!((header.member_id, header.revision), (three.id(number), end));
        assert_eq!(status.leader, three.id(three.leader));
        assert_eq!(status.raft_term, header.raft_term);
        assert!(status.raft_applied_index > 60 && status.raft_index >= status.raft_applied_index);
        assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.db_size_quota > 0);
        assert_eq!((status.is_learner, status.errors), (false, Vec::new()));
        indices.push(status.raft_term);
    }
    indices.dedup();
    assert_eq!(indices.len(), 1, "terms differ");
    let compaction = CompactionRequest { revision: end - 20, physical: true };
    three.raws[2].kv.compact(compaction).await.unwrap();
    for revision in [0, end - 20, end - 5] {
        let mut hashes = Vec::new();
        for number in 0..3 {
            three.catch_up(number).await;
            let asked = three.raws[number].maintenance.hash_kv(HashKvRequest { revision }).await;
            let hash = asked.unwrap().into_inner();
            hashes.push((hash.hash, hash.compact_revision, hash.hash_revision));
        }
        let wanted = if revision == 0 { end } else { revision };
        assert_eq!((hashes[0].1, hashes[0].2), (end - 20, wanted));
        hashes.dedup();
        assert_eq!(hashes.len(), 1, "{hashes:?}");
    }
    let mut hashes = Vec::new();
    for raw in &mut three.raws {
        hashes.push(raw.maintenance.hash(HashRequest {}).await.unwrap().into_inner().hash);
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_moved_by_the_leader_to_a_voter() {
    let mut three = Three::start().await;
    let (leader, follower) = (three.leader, three.follower());
    let to = MoveLeaderRequest { target_id: three.id(follower) };
    let refused = refusal(three.raws[follower].maintenance.move_leader(to).await);
    assert_eq!(refused, says(Code::FailedPrecondition, "not leader"));
    let nobody = MoveLeaderRequest { target_id: 1234 };
    let refused = refusal(three.raws[leader].maintenance.move_leader(nobody).await);
    assert_eq!(refused, says(Code::FailedPrecondition, "bad leader transferee"));
    let itself = MoveLeaderRequest { target_id: three.id(leader) };
    three.raws[leader].maintenance.move_leader(itself).await.expect("nothing to do");
    three.raws[leader].maintenance.move_leader(to).await.expect("it moves");
    // The call is answered when it is done, as by an etcd.
    let status = three.status(leader).await;
    assert_eq!(status.leader, three.id(follower));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_added_as_learners_and_are_found_until_they_are_removed() {
    let mut three = Three::start().await;
    let follower = three.follower();
    let add =
        |url: &str, is_learner| MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    let cluster = &mut three.raws[follower].cluster;
    let added = cluster.member_add(add("http://m9:2380", false)).await.unwrap().into_inner();
    let member = added.member.expect("the new one");
    // It begins without a vote, whatever was asked: a vote that nobody casts is a majority lost.
    assert!(member.is_learner && member.name.is_empty() && member.id != 0);
    assert_eq!(added.members.len(), 4);
    let again = refusal(cluster.member_add(add("http://m9:2380", true)).await);
    assert_eq!(again, says(Code::FailedPrecondition, "Peer URLs already exists"));
    let promoted = refusal(cluster.member_promote(MemberPromoteRequest { id: member.id }).await);
    let in_sync = "can only promote a learner member which is in sync with leader";
    assert_eq!(promoted, says(Code::FailedPrecondition, in_sync));
    let voter = MemberPromoteRequest { id: three.served.members.store(0).member_id() };
    let promoted = refusal(cluster.member_promote(voter).await);
    assert_eq!(promoted, says(Code::FailedPrecondition, "can only promote a learner member"));

    let peer_ur_ls = vec!["http://m8:2380".to_owned()];
    let taken = vec!["http://m0:2380".to_owned()];
    let update = |peer_ur_ls| MemberUpdateRequest { id: member.id, peer_ur_ls };
    let refused = refusal(cluster.member_update(update(taken)).await);
    assert_eq!(refused, says(Code::FailedPrecondition, "Peer URLs already exists"));
    cluster.member_update(update(peer_ur_ls)).await.expect("a new address");
    let remove = MemberRemoveRequest { id: member.id };
    let removed = cluster.member_remove(remove).await.expect("it goes").into_inner();
    assert_eq!(removed.members.len(), 3);
    let refused = refusal(cluster.member_remove(remove).await);
    assert_eq!(refused, says(Code::NotFound, "member not found"));
    let deadline = Instant::now() + PATIENCE;
    for raw in &mut three.raws {
        loop {
            let asked = raw.cluster.member_list(MemberListRequest { linearizable: true }).await;
            let members = asked.unwrap().into_inner().members;
            if members.len() == 3 && members.iter().all(|one| !one.client_ur_ls.is_empty()) {
                break;
            }
            assert!(Instant::now() < deadline, "{members:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
