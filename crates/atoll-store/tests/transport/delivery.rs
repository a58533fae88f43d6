//! Messages arrive, in order, and connections come back by themselves.

use std::time::{Duration, Instant};

use atoll_store::cluster::{Lane, Refusal};
use atoll_store::transport::TransportConfig;
use bytes::Bytes;

use crate::server::{Server, authority, eventually, introduce, material, pair, tls, within};

fn numbered(lane: Lane, number: u32, bytes: usize) -> Bytes {
    let mut out = vec![u8::from(lane == Lane::Urgent)];
    out.extend_from_slice(&number.to_le_bytes());
    out.resize(out.len() + bytes, 7);
    out.into()
}

fn number(message: &Bytes) -> (Lane, u32) {
    let lane = if message[0] == 1 { Lane::Urgent } else { Lane::Bulk };
    (lane, u32::from_le_bytes(message[1..5].try_into().unwrap()))
}

#[tokio::test]
async fn messages_arrive_whole_and_each_lane_in_order() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    let size = |number: u32| [0, 10, 1000, 5000, 70_000, 300_000][number as usize % 6];
    for number in 0..600 {
        one.send(2, Lane::Bulk, numbered(Lane::Bulk, number, size(number)));
        one.send(2, Lane::Urgent, numbered(Lane::Urgent, number, 50));
    }
    eventually("all arrive", || two.store.seen(|seen| seen.delivered.len()) == 1200).await;
    let delivered = two.store.seen(|seen| seen.delivered.clone());
    for lane in [Lane::Urgent, Lane::Bulk] {
        let numbers: Vec<u32> = delivered
            .iter()
            .map(|(_, message)| number(message))
            .filter(|(of, _)| *of == lane)
            .map(|(_, number)| number)
            .collect();
        assert!(numbers.iter().copied().eq(0..600), "{lane:?}: {numbers:?}");
    }
    for (from, message) in &delivered {
        let (lane, number) = number(message);
        let wanted = if lane == Lane::Urgent { 50 } else { size(number) };
        assert_eq!((*from, message.len()), (1, 5 + wanted));
        assert!(message[5..].iter().all(|byte| *byte == 7));
    }
    let (there, here) = (two.status(1), one.status(2));
    assert_eq!((there.received_messages, here.sent_messages), (1200, 1200));
    assert!(here.sent_bytes > 30_000_000 && there.received_bytes > 30_000_000);
    assert_eq!((here.dropped_messages, here.waiting_bytes), (0, 0));
}

/// Or a peer would be taken for an old copy of its folder because of what it acknowledged between
/// its hello and the check, on the other connection.
#[tokio::test]
async fn each_side_checks_a_hello_that_was_made_after_its_own() {
    for _ in 0..5 {
        let (one, two) = pair(TransportConfig::default()).await;
        for server in [&one, &two] {
            assert_eq!(server.store.seen(|seen| seen.checked_too_late), 0);
        }
    }
}

#[tokio::test]
async fn an_urgent_message_overtakes_megabytes_that_wait() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    for number in 0..48 {
        one.send(2, Lane::Bulk, numbered(Lane::Bulk, number, 1 << 20));
    }
    one.send(2, Lane::Urgent, numbered(Lane::Urgent, 0, 50));
    eventually("all arrive", || two.store.seen(|seen| seen.delivered.len()) == 49).await;
    let place = two.store.seen(|seen| {
        seen.delivered.iter().position(|(_, message)| number(message).0 == Lane::Urgent)
    });
    assert!(place.is_some_and(|place| place < 40), "{place:?}");
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_told() {
    let config = TransportConfig { queue_bytes_max: 4 << 20, ..TransportConfig::default() };
    let (mut one, two) = pair(config).await;
    two.store.hold(true);
    let mut sent = 0;
    // What the kernel holds comes on top of the queue.
    while one.status(2).dropped_messages == 0 {
        assert!(sent < 200, "nothing is ever dropped");
        one.send(2, Lane::Bulk, vec![0; 1 << 20]);
        sent += 1;
    }
    eventually("it is told", || one.store.seen(|seen| seen.unreachable.contains(&2))).await;
    assert!(one.status(2).waiting_bytes <= 4 << 20);
    one.send(2, Lane::Urgent, "heartbeat");
    assert_eq!(one.status(2).dropped_messages, 1, "the urgent lane has room of its own");
    two.store.hold(false);
    eventually("the rest arrives", || {
        two.store.seen(|seen| seen.delivered.len()) == sent
            && two.store.seen(|seen| seen.delivered.iter().any(|(_, got)| got == "heartbeat"))
    })
    .await;
    assert!(one.status(2).connected_since.is_some());
}

#[tokio::test]
async fn a_store_without_room_is_counted() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    two.store.manners.lock().unwrap().has_no_room = true;
    one.send(2, Lane::Bulk, "lost");
    eventually("it is counted", || two.status(1).refused_messages == 1).await;
    two.store.manners.lock().unwrap().has_no_room = false;
    one.send(2, Lane::Bulk, "arrives");
    eventually("the next arrives", || two.store.seen(|seen| seen.delivered.len()) == 1).await;
}

#[tokio::test]
async fn a_peer_that_starts_again_is_found_again() {
    let authority = authority();
    let (mut one, mut two) =
        (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    introduce(&mut one, &mut two).await;
    let address = two.address();
    two.shut_down().await;
    eventually("the loss is told", || one.store.seen(|seen| seen.unreachable.contains(&2))).await;
    eventually("it is no longer connected", || one.status(2).connected_since.is_none()).await;
    eventually("its refusal of connections is told", || {
        one.status(2).last_problem.is_some_and(|problem| problem.contains("cannot be reached"))
    })
    .await;
    eventually("the store hears it", || one.store.seen(|seen| seen.gone.contains(&2))).await;
    one.send(2, Lane::Urgent, "into the void");
    let tls = tls(material(&[&authority], &authority, 2));
    let two = Server::start_at(address, tls, TransportConfig::default()).await;
    within(Duration::from_millis(1500), "it is found again", || {
        one.status(2).connected_since.is_some()
    })
    .await;
    assert_eq!(one.status(2).last_problem, None);
    one.send(2, Lane::Urgent, "hello again");
    eventually("messages arrive", || two.store.seen(|seen| !seen.delivered.is_empty())).await;
    let delivered = two.store.seen(|seen| seen.delivered.clone());
    assert_eq!(delivered, [(1, Bytes::from("hello again"))]);
}

/// Its listener is not there for a while, or refuses this server only.
#[tokio::test]
async fn whoever_is_connected_has_not_ended_although_its_address_refuses() {
    let authority = authority();
    let (mut one, mut two) =
        (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    two.set_peers(&[(1, one.address())]);
    two.until_connected(1).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    one.set_peers(&[(2, nobody)]);
    eventually("it is refused", || {
        one.status(2).last_problem.is_some_and(|problem| problem.contains("cannot be reached"))
    })
    .await;
    two.send(1, Lane::Urgent, "here");
    eventually("it is heard", || one.store.seen(|seen| !seen.delivered.is_empty())).await;
    assert!(one.store.seen(|seen| seen.gone.is_empty()));
    two.shut_down().await;
    eventually("the store hears that it has ended", || {
        one.store.seen(|seen| seen.gone.contains(&2))
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_calls_is_called_back_at_once() {
    let authority = authority();
    let (mut one, mut two) =
        (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    // Nobody listens there: the waits between attempts have become long.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    one.set_peers(&[(2, nobody)]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let listener = std::net::TcpListener::bind(nobody).unwrap();
    drop(listener);
    let moved = tls(material(&[&authority], &authority, 2));
    two.set_peers(&[]);
    two.shut_down().await;
    let mut two = Server::start_at(nobody, moved, TransportConfig::default()).await;
    two.set_peers(&[(1, one.address())]);
    two.until_connected(1).await;
    within(Duration::from_millis(300), "one calls back", || {
        one.status(2).connected_since.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_new_address_is_used_at_once() {
    let authority = authority();
    let (mut one, two) = (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    one.set_peers(&[(2, two.address())]);
    one.until_connected(2).await;
    // Also while the old address still answers.
    let moved = Server::start(&authority, 2).await;
    one.set_peers(&[(2, moved.address())]);
    let changed_at = Instant::now();
    within(Duration::from_millis(500), "the new address is called", || {
        let status = one.status(2);
        status.address == moved.address().to_string()
            && status.connected_since.is_some_and(|since| since > changed_at)
    })
    .await;
    one.send(2, Lane::Urgent, "moved");
    eventually("messages go there", || {
        moved.store.seen(|seen| seen.delivered.iter().any(|(_, message)| message == "moved"))
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_hangs_is_given_up_and_found_again() {
    let config = TransportConfig {
        ping_every: Duration::from_millis(50),
        silence_max: Duration::from_millis(300),
        ..TransportConfig::default()
    };
    let (mut one, two) = pair(config).await;
    eventually("the round trip is known", || one.status(2).round_trip.is_some()).await;
    assert!(one.status(2).round_trip.unwrap() < Duration::from_secs(1));
    two.store.hold(true);
    one.send(2, Lane::Bulk, "stuck");
    let start = Instant::now();
    eventually("it is given up", || one.status(2).connected_since.is_none()).await;
    assert!(start.elapsed() >= Duration::from_millis(200), "{:?}", start.elapsed());
    let problem = one.status(2).last_problem;
    assert!(one.store.seen(|seen| seen.unreachable.contains(&2)), "{problem:?}");
    // It listens still.
    assert!(one.store.seen(|seen| seen.gone.is_empty()), "{problem:?}");
    two.store.hold(false);
    one.until_connected(2).await;
}

#[tokio::test]
async fn a_connection_lives_on_while_nothing_is_sent() {
    let config = TransportConfig {
        ping_every: Duration::from_millis(50),
        silence_max: Duration::from_millis(400),
        ..TransportConfig::default()
    };
    let (one, two) = pair(config).await;
    let since = (one.status(2).connected_since, two.status(1).receiving_since);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!((one.status(2).connected_since, two.status(1).receiving_since), since);
    assert!(since.0.is_some() && since.1.is_some());
}

#[tokio::test]
async fn a_removed_peer_is_cut_off_and_told_when_it_calls_again() {
    let (mut one, two) = pair(TransportConfig::default()).await;
    one.store.manners.lock().unwrap().refuses.insert(2, Refusal::Removed { id: 2 });
    one.set_peers(&[]);
    assert!(one.transport.peers().is_empty());
    eventually("two is told", || {
        two.store.seen(|seen| seen.refused_by.contains(&(1, Refusal::Removed { id: 2 })))
    })
    .await;
    eventually("and says so", || two.status(1).last_refusal.is_some()).await;
    let problem = two.status(1).last_problem.unwrap();
    assert!(problem.contains("member 2 was removed from the cluster"), "{problem}");
    one.store.manners.lock().unwrap().refuses.clear();
    one.set_peers(&[(2, two.address())]);
    one.until_connected(2).await;
    two.until_connected(1).await;
}

#[tokio::test]
async fn another_store_takes_over_the_port() {
    let (mut one, mut two) = pair(TransportConfig::default()).await;
    two.drop_net();
    eventually("its connections are closed", || one.status(2).connected_since.is_none()).await;
    eventually("it is forgotten", || two.transport.peers().is_empty()).await;
    eventually("all that it held is freed", || std::sync::Arc::strong_count(&two.store) == 1).await;
    let store = two.another_store();
    two.connect_store(store);
    one.until_connected(2).await;
    one.send(2, Lane::Bulk, "to the new one");
    eventually("it receives", || two.store.seen(|seen| seen.delivered.len()) == 1).await;
    assert_eq!(one.transport.turned_away().total, 0);
}

#[tokio::test]
async fn a_name_is_looked_up_and_a_bad_address_is_told() {
    let authority = authority();
    let (mut one, two) = (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    let mut call = |address: String| {
        one.net().set_peers(&[atoll_store::cluster::Member {
            id: 2,
            peer_address: address,
            ..Default::default()
        }]);
    };
    call("nowhere".to_owned());
    eventually("it is told", || {
        one.status(2).last_problem.is_some_and(|problem| problem.contains("HOST:PORT"))
    })
    .await;
    let mut call = |address: String| {
        one.net().set_peers(&[atoll_store::cluster::Member {
            id: 2,
            peer_address: address,
            ..Default::default()
        }]);
    };
    call(format!("localhost:{}", two.address().port()));
    one.until_connected(2).await;
}
