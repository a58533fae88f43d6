//! What members go through: restarts, new addresses, snapshots, leaving.

use std::time::{Duration, Instant};

use atoll_store::cluster::{Member, Refusal, Start};
use atoll_store::kv::{Consistency, Error, KeyRange, Op, PutRequest, RangeRequest, Txn};
use bytes::Bytes;

use crate::servers::{Server, Servers, any_port, leader, until};

async fn put(server: &Server, key: &str, value: impl Into<Bytes>) -> Result<i64, Error> {
    let put =
        PutRequest { key: key.to_owned().into(), value: value.into(), lease: 0, prev_kv: false };
    let txn = Txn { success: vec![Op::Put(put)], ..Txn::default() };
    server.kv().txn(txn).await.map(|result| result.revision)
}

/// Until there is a leader again.
async fn put_patiently(server: &Server, key: &str, value: &str) -> i64 {
    let start = Instant::now();
    loop {
        match put(server, key, value.to_owned()).await {
            Ok(revision) => return revision,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
    }
}

async fn read(server: &Server, key: &str) -> Option<Bytes> {
    let request = RangeRequest::new(KeyRange::single(key.to_owned()));
    let found = server.kv().range(request).await.unwrap();
    found.kvs.first().map(|kv| kv.value.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_servers_are_written_and_read_through_each() {
    let servers = Servers::new().start(3).await;
    for round in 0..30_usize {
        let (writer, reader) = (&servers[round % 3], &servers[(round + 1) % 3]);
        let value = vec![b'v'; [1, 1000, 100_000, 1_200_000][round % 4]];
        put(writer, "key", value.clone()).await.unwrap();
        assert_eq!(read(reader, "key").await.unwrap(), value);
    }
    for server in &servers {
        let peers = server.transport.peers();
        assert_eq!(peers.len(), 2);
        assert!(peers.iter().all(|peer| peer.connected_since.is_some()), "{peers:?}");
        assert_eq!(server.transport.turned_away().total, 0);
    }
}

/// Members wait at least so long for one that has only fallen silent.
const SILENCE_MIN: Duration = Duration::from_millis(900);

/// How long nobody could write.
async fn kill_the_leader_and_write(cluster: &Servers, servers: &mut Vec<Server>) -> Duration {
    put(&servers[0], "before", "1").await.unwrap();
    let killed = servers.remove(leader(servers).await);
    let (number, address) = (killed.number, killed.address);
    let start = Instant::now();
    let write = async {
        put_patiently(&servers[0], "without", "2").await;
        start.elapsed()
    };
    // It tries in vain to hand over, for longer than the others wait for it.
    let ((), took) = tokio::join!(killed.kill(), write);
    let back = cluster.open(number, address, Start::New).await;
    assert_eq!(read(&back, "before").await.unwrap(), "1");
    assert_eq!(read(&back, "without").await.unwrap(), "2");
    put(&back, "after", "3").await.unwrap();
    assert_eq!(read(&servers[1], "after").await.unwrap(), "3");
    servers.push(back);
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_not_waited_for_and_comes_back_with_all_that_was_written_without_it() {
    let cluster = Servers::new();
    let mut servers = cluster.start(3).await;
    let mut times = Vec::new();
    // A machine with much to do may be late with it, but not each time.
    while times.iter().all(|took| *took >= SILENCE_MIN) {
        assert!(times.len() < 3, "{times:?}");
        times.push(kill_the_leader_and_write(&cluster, &mut servers).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_joins_late_gets_the_whole_state_over_the_wire() {
    let mut cluster = Servers::new();
    cluster.config.log_entries_max = 50;
    cluster.config.log_bytes_max = 64 << 10;
    let servers = cluster.start(1).await;
    for round in 0..300 {
        put(&servers[0], &format!("key/{}", round % 150), vec![b'v'; 4000]).await.unwrap();
    }
    let late = cluster.join(1, &servers[0]).await;
    late.until_voters(2).await;
    let mut request = RangeRequest::new(KeyRange::prefix("key/"));
    request.consistency = Consistency::Linearizable;
    let (there, here) =
        (servers[0].kv().range(request.clone()).await, late.kv().range(request).await);
    let (there, here) = (there.unwrap(), here.unwrap());
    assert_eq!((there.kvs.len(), &there), (150, &here));
    // It came as a snapshot: the log no longer reached back so far.
    let sent = servers[0].transport.peers()[0].sent_bytes;
    assert!(sent < 300 * 4000, "{sent} bytes of messages");
    put(&late, "from the late one", "1").await.unwrap();
    assert_eq!(read(&servers[0], "from the late one").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_address_heals_when_the_cluster_is_told() {
    let cluster = Servers::new();
    let mut servers = cluster.start(3).await;
    let lead = leader(&servers).await;
    let moved = servers.remove((lead + 1) % 3);
    let (number, id) = (moved.number, moved.id());
    moved.shut_down().await;
    let moved = cluster.open(number, any_port(), Start::New).await;
    put_patiently(&servers[0], "key", "1").await;
    let member = servers[0].store.cluster().membership().member(id).unwrap().clone();
    let update = Member { peer_address: moved.address.to_string(), ..member };
    servers[0].store.cluster().update(update).await.unwrap();
    assert_eq!(read(&moved, "key").await.unwrap(), "1");
    put(&moved, "key", "2").await.unwrap();
    assert_eq!(read(&servers[0], "key").await.unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_learns_it_and_another_takes_its_place() {
    let cluster = Servers::new();
    let mut servers = cluster.start(3).await;
    let lead = leader(&servers).await;
    let removed = servers.remove((lead + 1) % 3);
    let id = removed.id();
    servers[0].store.cluster().remove(id).await.unwrap();
    for server in &servers {
        server.until_voters(2).await;
    }
    until("the removed one is told", || {
        let peers = removed.transport.peers();
        let told = peers.iter().any(|peer| peer.last_refusal == Some(Refusal::Removed { id }));
        let knows = removed.store.cluster().membership().member(id).is_none();
        if told || knows { Ok(()) } else { Err(format!("{peers:?}")) }
    })
    .await;
    removed.kill().await;
    let another = cluster.join(7, &servers[0]).await;
    assert_ne!(another.id(), id);
    another.until_voters(3).await;
    put(&another, "key", "1").await.unwrap();
    assert_eq!(read(&servers[1], "key").await.unwrap(), "1");
}
