//! The services for operators on three members: status, hashes, leadership, members.

use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::*;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::raw::Raw;
use crate::served::{PATIENCE, Served};
use crate::surface::get;

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
    // As it was given, though peers here speak TLS.
    assert_eq!(member.peer_ur_ls, ["http://m9:2380"]);
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
    let updated = cluster.member_update(update(peer_ur_ls.clone())).await.expect("a new address");
    let known = updated.into_inner().members;
    assert!(known.iter().any(|one| one.id == member.id && one.peer_ur_ls == peer_ur_ls));
    let remove = MemberRemoveRequest { id: member.id };
    let removed = cluster.member_remove(remove).await.expect("it goes").into_inner();
    assert_eq!(removed.members.len(), 3);
    let refused = refusal(cluster.member_remove(remove).await);
    assert_eq!(refused, says(Code::NotFound, "member not found"));
    // Each says itself where clients reach it; a port of another would not be its own.
    let expected: Vec<(u64, Vec<String>)> = (0..3)
        .map(|number| (three.id(number), vec![format!("http://{}", three.served.address(number))]))
        .collect();
    let deadline = Instant::now() + PATIENCE;
    for raw in &mut three.raws {
        loop {
            let asked = raw.cluster.member_list(MemberListRequest { linearizable: true }).await;
            let members = asked.unwrap().into_inner().members;
            let is_there = |(id, urls): &(u64, Vec<String>)| {
                members.iter().any(|one| one.id == *id && one.client_ur_ls == *urls)
            };
            if members.len() == 3 && expected.iter().all(is_there) {
                break;
            }
            assert!(Instant::now() < deadline, "{members:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_learner_at_a_time_is_added_and_all_its_urls_are_kept() {
    let served = Served::start(1).await;
    let mut raw = Raw::open(served.address(0)).await;
    let add = |urls: &[&str], is_learner| MemberAddRequest {
        peer_ur_ls: urls.iter().map(|url| (*url).to_owned()).collect(),
        is_learner,
    };
    let several = add(&["http://m1:778", "http://m1:777"], true);
    let added = raw.cluster.member_add(several).await.unwrap().into_inner().member.unwrap();
    assert_eq!(added.peer_ur_ls, ["http://m1:777", "http://m1:778"]);
    let taken = refusal(raw.cluster.member_add(add(&["http://m1:778"], false)).await);
    assert_eq!(taken, says(Code::FailedPrecondition, "Peer URLs already exists"));
    let second = refusal(raw.cluster.member_add(add(&["unix://m2:88"], true)).await);
    assert_eq!(second, says(Code::FailedPrecondition, "too many learner members in cluster"));
    // One that is to vote is no learner to etcd.
    let voter = raw.cluster.member_add(add(&["unix://m2:88"], false)).await.unwrap().into_inner();
    assert_eq!(voter.member.unwrap().peer_ur_ls, ["unix://m2:88"]);
    raw.cluster.member_remove(MemberRemoveRequest { id: added.id }).await.unwrap();
    raw.cluster.member_add(add(&["http://m3:2380"], true)).await.expect("the first is gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_removes_itself_says_that_it_is_done() {
    let mut three = Three::start().await;
    let number = three.follower();
    let remove = MemberRemoveRequest { id: three.id(number) };
    let began = Instant::now();
    let removed = three.raws[number].cluster.member_remove(remove).await.expect("it goes");
    // Not only when the call's own time is over.
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    let left: Vec<u64> = removed.into_inner().members.iter().map(|member| member.id).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(!left.contains(&remove.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_that_one_member_was_told_of_is_known_to_all() {
    let mut three = Three::start().await;
    let (follower, leader) = (three.follower(), three.leader);
    let alarm = |action| AlarmRequest { action, member_id: 123, alarm: 2 };
    three.raws[follower].maintenance.alarm(alarm(1)).await.unwrap();
    let put = || PutRequest { key: "a".into(), ..PutRequest::default() };
    let corrupt = says(Code::DataLoss, "corrupt cluster");
    assert_eq!(refusal(three.raws[follower].kv.put(put()).await), corrupt);
    let deadline = Instant::now() + PATIENCE;
    while three.raws[leader].kv.put(put()).await.is_ok() {
        assert!(Instant::now() < deadline, "the leader knows of no alarm");
    }
    let status = three.status(leader).await;
    assert_eq!(status.errors, ["memberID:123 alarm:CORRUPT "]);
    let ready = get(three.served.address(leader), "/readyz").await;
    let failed = "[-]data_corruption failed: alarm activated: CORRUPT\n";
    assert!(ready.0.contains("503") && ready.1.starts_with(failed), "{ready:?}");
    let health = get(three.served.address(leader), "/health").await;
    assert_eq!(health.1, "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n");
    let health = get(three.served.address(leader), "/health?exclude=CORRUPT").await;
    assert_eq!(health.1, "{\"health\":\"true\",\"reason\":\"\"}");
    let counted = get(three.served.address(leader), "/metrics").await.1;
    let up = "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"7b\"} 1";
    assert!(counted.contains(up), "{counted}");
    three.raws[follower].maintenance.alarm(alarm(2)).await.unwrap();
    three.raws[follower].kv.put(put()).await.expect("it is lowered");
}
