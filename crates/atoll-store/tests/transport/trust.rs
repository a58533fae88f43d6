//! Who is let in: certificates, who they name, and what both ends say when it is not so.

use std::net::SocketAddr;

use atoll_identity::MemberIdentity;
use atoll_store::cluster::{Lane, Refusal};
use atoll_store::transport::{PeerMaterial, TlsError, TransportConfig};
use jiff::SignedDuration;

use crate::server::{
    CLUSTER, Server, authority, eventually, introduce, material, material_of, now, pair, tls,
};

/// A server with this certificate calls a proper one; what the caller and the called say.
async fn call(caller: PeerMaterial, called: &Server) -> (String, String) {
    let mut caller = Server::start_with(tls(caller), TransportConfig::default()).await;
    let before = called.transport.turned_away().total;
    caller.set_peers(&[(called.id, called.address())]);
    eventually("the caller knows why", || caller.status(called.id).last_problem.is_some()).await;
    eventually("the called side knows why", || called.transport.turned_away().total > before).await;
    assert_eq!(caller.status(called.id).connected_since, None);
    // Whoever listens there, it is not for the store to conclude that the member has ended.
    assert!(caller.store.seen(|seen| seen.gone.is_empty()));
    let here = caller.status(called.id).last_problem.unwrap();
    (here, called.transport.turned_away().last.unwrap().1)
}

#[tokio::test]
async fn a_caller_of_another_authority_is_refused_and_both_say_why() {
    let (ours, theirs) = (authority(), authority());
    let called = Server::start(&ours, 1).await;
    let (caller_says, called_says) = call(material(&[&theirs, &ours], &theirs, 2), &called).await;
    assert!(caller_says.contains("does not accept this server's certificate"), "{caller_says}");
    assert!(caller_says.contains("another authority issued it"), "{caller_says}");
    assert!(
        called_says.contains("not issued by the peer authority of this cluster"),
        "{called_says}"
    );
    // The caller does not trust the called: then it is the caller that refuses.
    let (caller_says, called_says) = call(material(&[&theirs], &theirs, 2), &called).await;
    assert!(
        caller_says.contains("not issued by the peer authority of this cluster"),
        "{caller_says}"
    );
    assert!(called_says.contains("does not accept this server's certificate"), "{called_says}");
}

#[tokio::test]
async fn certificates_outside_of_their_time_are_refused_and_both_say_why() {
    let authority = authority();
    let called = Server::start(&authority, 1).await;
    let two = MemberIdentity { cluster_id: CLUSTER, member_id: 2 };
    for (shift_hours, word) in [(-25, "ended at"), (25, "begins at")] {
        let issued_at = now() + SignedDuration::from_hours(shift_hours);
        let caller = material_of(&[&authority], &authority, two, issued_at);
        let (caller_says, called_says) = call(caller, &called).await;
        assert!(caller_says.contains("compare the clocks"), "{caller_says}");
        assert!(called_says.contains(word) && called_says.contains("clock"), "{called_says}");
    }
}

#[tokio::test]
async fn a_member_of_another_cluster_is_refused_and_both_say_why() {
    let authority = authority();
    let called = Server::start(&authority, 1).await;
    let other = MemberIdentity { cluster_id: [0xc2; 16], member_id: 2 };
    let caller = material_of(&[&authority], &authority, other, now());
    let (caller_says, called_says) = call(caller, &called).await;
    // The caller is the first to notice, and tells the called.
    assert!(caller_says.contains("a member of the cluster c1c1"), "{caller_says}");
    assert!(called_says.contains("cluster"), "{called_says}");
}

#[tokio::test]
async fn an_address_that_leads_to_another_member_is_told() {
    let authority = authority();
    let (mut one, two) = (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    one.set_peers(&[(3, two.address())]);
    eventually("it is told", || one.status(3).last_problem.is_some()).await;
    let problem = one.status(3).last_problem.unwrap();
    assert!(problem.contains("of member 2, and member 3 was called"), "{problem}");
    eventually("the called hears of it", || two.transport.turned_away().total > 0).await;
    let (_, reason) = two.transport.turned_away().last.unwrap();
    assert!(reason.contains("member 3 was called"), "{reason}");
    // This server's own address, by mistake.
    let mine = one.address();
    one.set_peers(&[(3, mine)]);
    eventually("it is told", || {
        one.status(3).last_problem.is_some_and(|problem| problem.contains("of member 1"))
    })
    .await;
}

#[tokio::test]
async fn a_store_that_says_it_is_another_is_refused() {
    let authority = authority();
    let (mut one, two) = (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    one.store.manners.lock().unwrap().claims_to_be = Some(9);
    one.set_peers(&[(2, two.address())]);
    let refusal = Refusal::OtherMember { claimed: 9 };
    eventually("it is refused", || {
        one.store.seen(|seen| seen.refused_by.contains(&(2, refusal.clone())))
    })
    .await;
    let (_, reason) = two.transport.turned_away().last.unwrap();
    assert_eq!(reason, refusal.to_string());
}

#[tokio::test]
async fn what_the_called_store_refuses_reaches_the_callers_store() {
    let authority = authority();
    let refusals = [
        Refusal::OldCopy { id: 1, acknowledged: 100, last: 7 },
        Refusal::Removed { id: 1 },
        Refusal::Unknown { id: 1 },
        Refusal::Other("for a reason".to_owned()),
    ];
    for refusal in refusals {
        let (mut one, two) =
            (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
        two.store.manners.lock().unwrap().refuses.insert(1, refusal.clone());
        one.set_peers(&[(2, two.address())]);
        eventually("the caller's store hears it", || {
            one.store.seen(|seen| seen.refused_by.contains(&(2, refusal.clone())))
        })
        .await;
        assert_eq!(one.status(2).last_refusal, Some(refusal.clone()));
        assert_eq!(two.transport.turned_away().last.unwrap().1, refusal.to_string());
    }
}

#[tokio::test]
async fn what_the_callers_store_refuses_reaches_the_called_store() {
    let authority = authority();
    let (mut one, mut two) =
        (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    let refusal = Refusal::OldCopy { id: 2, acknowledged: 100, last: 10 };
    one.store.manners.lock().unwrap().refuses.insert(2, refusal.clone());
    // Only one calls: what it finds out, two must hear.
    one.set_peers(&[(2, two.address())]);
    eventually("two's store hears it", || {
        two.store.seen(|seen| seen.refused_by.contains(&(1, refusal.clone())))
    })
    .await;
    let problem = one.status(2).last_problem.unwrap();
    assert!(problem.contains("old copy of its folder"), "{problem}");
    two.set_peers(&[]);
}

#[tokio::test]
async fn a_release_that_speaks_nothing_in_common_is_refused() {
    let authority = authority();
    let (mut one, two) = (Server::start(&authority, 1).await, Server::start(&authority, 2).await);
    one.store.manners.lock().unwrap().format = Some(0);
    one.set_peers(&[(2, two.address())]);
    eventually("it is refused", || {
        one.store
            .seen(|seen| seen.refused_by.contains(&(2, Refusal::Format { theirs: 0, ours: 1 })))
    })
    .await;
    // A later release speaks what this one speaks.
    one.store.manners.lock().unwrap().format = Some(7);
    one.until_connected(2).await;
}

#[tokio::test]
async fn certificates_and_authorities_are_replaced_without_losing_a_connection() {
    let (old, new) = (authority(), authority());
    let (mut one, mut two) = (Server::start(&old, 1).await, Server::start(&old, 2).await);
    introduce(&mut one, &mut two).await;
    let since = (one.status(2).connected_since, two.status(1).connected_since);

    // First all trust both, then all show the new one, then nobody trusts the old one.
    for (trusted, signer) in
        [(vec![&old, &new], &old), (vec![&old, &new], &new), (vec![&new], &new)]
    {
        for server in [&one, &two] {
            server.transport.set_tls(tls(material(&trusted, signer, server.id))).unwrap();
        }
        one.send(2, Lane::Bulk, "still here");
    }
    eventually("messages go on", || two.store.seen(|seen| seen.delivered.len()) == 3).await;
    assert_eq!((one.status(2).connected_since, two.status(1).connected_since), since);

    // New connections take the new certificates: one of the old authority gets none.
    let (caller_says, _) = call(material(&[&old, &new], &old, 3), &one).await;
    assert!(caller_says.contains("does not accept this server's certificate"), "{caller_says}");
    let address: SocketAddr = two.address();
    two.shut_down().await;
    let again = tls(material(&[&new], &new, 2));
    let two = Server::start_at(address, again, TransportConfig::default()).await;
    one.until_connected(2).await;
    assert!(one.transport.certificate_ends() > now());
    drop(two);
}

#[tokio::test]
async fn a_certificate_of_another_member_does_not_replace_ones_own() {
    let authority = authority();
    let (one, _two) = pair(TransportConfig::default()).await;
    let refused = one.transport.set_tls(tls(material(&[&authority], &authority, 3))).unwrap_err();
    assert!(matches!(refused, TlsError::OtherIdentity { .. }), "{refused}");
    assert!(refused.to_string().contains("member/3"), "{refused}");
}
