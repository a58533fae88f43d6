//! Three servers and more in one process: real threads and files, the network in memory.

use std::time::{Duration, Instant};

use atoll_store::kv::{Consistency, Error, KeyRange, Op, PutRequest, RangeRequest, Revision, Txn};
use atoll_store::testing::TestCluster;
use atoll_store::{EmbeddedStore, Keyspace, StoreConfig};
use tempfile::TempDir;

async fn put(store: &EmbeddedStore, key: &str, value: &str) -> Result<Revision, Error> {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease: 0,
        prev_kv: false,
    };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    store.keyspace(Keyspace::Cluster).txn(txn).await.map(|result| result.revision)
}

async fn get(
    store: &EmbeddedStore,
    key: &str,
    consistency: Consistency,
) -> Result<Option<String>, Error> {
    let mut request = RangeRequest::new(KeyRange::single(key.to_owned()));
    request.consistency = consistency;
    let found = store.keyspace(Keyspace::Cluster).range(request).await?;
    Ok(found.kvs.first().map(|kv| String::from_utf8_lossy(&kv.value).into_owned()))
}

async fn linearizable(store: &EmbeddedStore, key: &str) -> Option<String> {
    get(store, key, Consistency::Linearizable).await.expect("a majority is there")
}

fn dir() -> TempDir {
    TempDir::new().expect("a temporary folder")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_acknowledged_every_other_reads_at_once() {
    let dir = dir();
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    for round in 0..30 {
        let (writer, reader) = (cluster.store(round % 3), cluster.store((round + 1) % 3));
        let value = round.to_string();
        let revision = put(writer, "a", &value).await.expect("written");
        assert_eq!(linearizable(reader, "a").await, Some(value));
        let status = reader.keyspace(Keyspace::Cluster).status().await.expect("open");
        assert!(status.revision >= revision);
    }
}

/// Many readers at one server share rounds; none of them misses what was acknowledged before it
/// asked, and none of them is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_readers_is_served_and_leaves_nobody_waiting() {
    const READERS: usize = 40;
    let dir = dir();
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    let leader = cluster.leader().await.expect("a leader");
    let follower = (leader + 1) % 3;
    for at in [follower, leader] {
        for round in 0..20 {
            let value = format!("{at}-{round}");
            put(cluster.store(leader), "a", &value).await.expect("written");
            let (store, value) = (cluster.store(at), value.as_str());
            let readers = (0..READERS).map(|_| async move {
                for _ in 0..5 {
                    assert_eq!(linearizable(store, "a").await.as_deref(), Some(value));
                }
            });
            futures::future::join_all(readers).await;
        }
        // Alone, just after the crowd has gone.
        let mut taken = Vec::new();
        for _ in 0..30 {
            let began = Instant::now();
            linearizable(cluster.store(at), "a").await;
            taken.push(began.elapsed());
        }
        taken.sort_unstable();
        // Whom nobody wakes is found by a tick, 100 ms later.
        assert!(taken[taken.len() / 2] < Duration::from_millis(50), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_the_leader_is_gone_and_it_comes_back() {
    let dir = dir();
    let mut cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    put(cluster.store(1), "before", "1").await.expect("written");
    let leader = cluster.leader().await.expect("a leader");
    cluster.kill(leader).await;
    let rest = cluster.numbers();
    let began = Instant::now();
    put(cluster.store(rest[0]), "after", "2").await.expect("written by the rest");
    assert!(began.elapsed() < Duration::from_secs(5), "after {:?}", began.elapsed());
    for number in rest {
        assert_eq!(linearizable(cluster.store(number), "before").await, Some("1".to_owned()));
        assert_eq!(linearizable(cluster.store(number), "after").await, Some("2".to_owned()));
    }
    cluster.open(leader).await.expect("it comes back");
    assert_eq!(linearizable(cluster.store(leader), "after").await, Some("2".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_its_place_over() {
    let dir = dir();
    let mut cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    let leader = cluster.leader().await.expect("a leader");
    cluster.stop(leader).await;
    let began = Instant::now();
    let rest = cluster.numbers();
    put(cluster.store(rest[0]), "a", "1").await.expect("written");
    // Without an election timeout, which is a second at least.
    assert!(began.elapsed() < Duration::from_millis(900), "after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_says_how_many_it_sees_and_serves_what_it_has() {
    let dir = dir();
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    put(cluster.store(0), "a", "1").await.expect("written");
    for number in [0, 1, 2] {
        assert_eq!(linearizable(cluster.store(number), "a").await, Some("1".to_owned()));
    }
    let alone = cluster.leader().await.expect("a leader");
    cluster.network.isolate(cluster.store(alone).member_id());
    let lost = Error::NoQuorum { seen: 1, voters: 3 };
    let deadline = Instant::now() + Duration::from_secs(20);
    // Until the leader knows, a read waits for what does not come.
    while get(cluster.store(alone), "a", Consistency::Linearizable).await != Err(lost.clone()) {
        assert!(Instant::now() < deadline, "it never said that it is alone");
    }
    let began = Instant::now();
    assert_eq!(put(cluster.store(alone), "a", "2").await, Err(lost.clone()));
    assert_eq!(get(cluster.store(alone), "a", Consistency::Linearizable).await, Err(lost));
    assert!(began.elapsed() < Duration::from_millis(500), "after {:?}", began.elapsed());
    let stale = get(cluster.store(alone), "a", Consistency::Serializable).await;
    assert_eq!(stale, Ok(Some("1".to_owned())));
    let other = (alone + 1) % 3;
    put(cluster.store(other), "a", "3").await.expect("the majority writes");
    cluster.network.heal();
    cluster.leader().await.expect("one leader again");
    assert_eq!(linearizable(cluster.store(alone), "a").await, Some("3".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_under_load_and_a_removed_one_learns_it() {
    let dir = dir();
    // So few entries are kept that a new member gets the whole state.
    let config = StoreConfig { log_entries_max: 10, ..StoreConfig::default() };
    let mut cluster = TestCluster::start_with(dir.path(), 3, config).await.expect("it starts");
    for number in 0..200 {
        put(cluster.store(number % 3), &format!("key/{number}"), "v").await.expect("written");
    }
    cluster.add(3).await.expect("a fourth");
    cluster.add(4).await.expect("a fifth");
    assert_eq!(linearizable(cluster.store(4), "key/0").await, Some("v".to_owned()));
    for gone in [0, 1] {
        let id = cluster.store(gone).member_id();
        cluster.store(2).cluster().remove(id).await.expect("removed");
        cluster
            .until("the removed member knows", |cluster| {
                let failure = cluster.store(gone).failure().unwrap_or_default();
                failure.contains("removed from the cluster")
            })
            .await
            .expect("it learns it");
        cluster.stop(gone).await;
    }
    put(cluster.store(3), "last", "1").await.expect("written by those who stay");
    assert_eq!(linearizable(cluster.store(4), "last").await, Some("1".to_owned()));
    assert_eq!(cluster.store(2).cluster().membership().members.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_kept_alive_anywhere_survives_and_then_ends() {
    let dir = dir();
    let mut cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    let leader = cluster.leader().await.expect("a leader");
    let follower = (leader + 1) % 3;
    let kv = cluster.store(follower).keyspace(Keyspace::Cluster);
    let (id, ttl) = kv.lease_grant(0, 3).await.expect("granted");
    let put = PutRequest { key: "a".into(), value: "1".into(), lease: id, prev_kv: false };
    kv.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.expect("written");
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(kv.lease_keep_alive(id).await, Ok(ttl));
    }
    cluster.kill(leader).await;
    let kept = kv.lease_keep_alive(id).await;
    assert_eq!(kept, Ok(ttl), "a new leader gives it its whole time");
    let deadline = Instant::now() + Duration::from_secs(15);
    while kv.leases().await.expect("readable") == [id] {
        assert!(Instant::now() < deadline, "it does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(linearizable(cluster.store(follower), "a").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_folder_is_recognised() {
    let dir = dir();
    let mut cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    put(cluster.store(0), "a", "1").await.expect("written");
    let leader = cluster.leader().await.expect("a leader");
    let number = (leader + 1) % 3;
    let (folder, copy) = (dir.path().join(format!("m{number}")), dir.path().join("copy"));
    cluster.stop(number).await;
    copy_folder(&folder, &copy);
    cluster.open(number).await.expect("it comes back");
    for count in 0..20 {
        put(cluster.store(leader), "a", &count.to_string()).await.expect("written");
    }
    assert_eq!(linearizable(cluster.store(number), "a").await, Some("19".to_owned()));
    cluster.stop(number).await;
    std::fs::remove_dir_all(&folder).expect("removable");
    copy_folder(&copy, &folder);
    cluster.open(number).await.expect("it opens: nothing in it is wrong by itself");
    cluster
        .until("the old copy is recognised", |cluster| {
            cluster.store(number).failure().is_some_and(|text| text.contains("old copy"))
        })
        .await
        .expect("it is recognised");
    put(cluster.store(leader), "a", "last").await.expect("the others go on");
}

fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent_and_addresses_heal() {
    let dir = dir();
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    let leader = cluster.leader().await.expect("a leader");
    let to = (leader + 1) % 3;
    let id = cluster.store(to).member_id();
    let other = cluster.store((leader + 2) % 3);
    other.cluster().transfer_leadership(Some(id)).await.expect("transferred");
    assert_eq!(cluster.leader().await.expect("a leader"), to);
    let mut record = other.cluster().membership().member(id).cloned().expect("known");
    record.client_urls = vec!["https://elsewhere:6443".to_owned()];
    other.cluster().update(record.clone()).await.expect("updated");
    cluster
        .until("everybody knows", |cluster| {
            // Its own start says otherwise, and says so: that heals the record again.
            cluster.numbers().into_iter().all(|number| {
                let known = cluster.store(number).cluster().membership();
                known.member(id).is_some_and(|known| known.client_urls[0].contains("m"))
            })
        })
        .await
        .expect("the member's own word counts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linearizable_read_does_not_wait_for_the_next_tick() {
    let dir = dir();
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it starts");
    put(cluster.store(0), "a", "1").await.expect("written");
    for number in cluster.numbers() {
        let began = Instant::now();
        for _ in 0..50 {
            assert_eq!(linearizable(cluster.store(number), "a").await, Some("1".to_owned()));
        }
        // Ticks are 100 ms apart: 50 of them would be 5 s.
        assert!(began.elapsed() < Duration::from_millis(2500), "after {:?}", began.elapsed());
    }
}

/// The bytes of one number, of which the last has no high bit.
fn skip_number(bytes: &[u8], at: &mut usize) -> Vec<u8> {
    let start = *at;
    while bytes[*at] & 0x80 != 0 {
        *at += 1;
    }
    *at += 1;
    bytes[start..*at].to_vec()
}

/// What the release with one server left: `member.json` and the state's own record in format 1.
fn make_older(folder: &std::path::Path, member_id: u64) {
    let file = folder.join("member.json");
    let text = std::fs::read_to_string(&file).expect("readable");
    let member: serde_json::Value = serde_json::from_str(&text).expect("json");
    let older = serde_json::json!({
        "format": 1,
        "cluster_id": member["cluster_id"],
        "member_id": member["member_id"],
        "epoch": member["epoch"],
    });
    std::fs::write(&file, older.to_string()).expect("writable");
    let table = redb::TableDefinition::<&str, &[u8]>::new("meta");
    let state = redb::Database::create(folder.join("state.redb")).expect("opens");
    let writes = state.begin_write().expect("begins");
    {
        let mut meta = writes.open_table(table).expect("there");
        let present = redb::ReadableTable::get(&meta, "state")
            .expect("readable")
            .expect("there")
            .value()
            .to_vec();
        let mut at = 1;
        let mut older = vec![1];
        // Index, term and chain; then the sole voter; then two pairs of revisions, at the end.
        for _ in 0..3 {
            older.extend(skip_number(&present, &mut at));
        }
        older.push(1);
        let mut number = member_id;
        while number >= 0x80 {
            older.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
            number >>= 7;
        }
        older.push(u8::try_from(number).expect("seven bits"));
        // Both keyspaces are young: their numbers take a byte each.
        older.extend(&present[present.len() - 4..]);
        meta.insert("state", older.as_slice()).expect("written");
    }
    writes.commit().expect("committed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_release_before_goes_on_and_takes_others_in() {
    let dir = dir();
    let folder = dir.path().join("m0");
    // What level 1 writes, the release before wrote too: no checksums among others.
    let config = StoreConfig { dir: folder.clone(), level_max: 1, ..StoreConfig::default() };
    let store = EmbeddedStore::open(config).await.expect("opens");
    for number in 0..20 {
        put(&store, "a", &number.to_string()).await.expect("written");
    }
    let member_id = store.member_id();
    store.shutdown().await;
    drop(store);
    make_older(&folder, member_id);
    let cluster = TestCluster::start(dir.path(), 3).await.expect("it goes on");
    assert_eq!(cluster.store(0).member_id(), member_id);
    assert_eq!(linearizable(cluster.store(2), "a").await, Some("19".to_owned()));
    cluster
        .until("its name is known", |cluster| {
            let known = cluster.store(2).cluster().membership();
            known.member(member_id).is_some_and(|member| member.name == "m0")
        })
        .await
        .expect("it tells its name");
}
