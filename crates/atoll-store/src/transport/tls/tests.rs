//! Certificates that are accepted, and each way in which one is not.

use std::time::Duration;

use atoll_identity::{Authority, AuthorityKind, Leaf, certificates_from_pem, private_key_from_pem};
use jiff::SignedDuration;

use super::*;

const CLUSTER: [u8; 16] = [0xc1; 16];
const DAY: SignedDuration = SignedDuration::from_hours(24);

fn now() -> Timestamp {
    "2026-11-25T16:00:00Z".parse().unwrap()
}

fn unix(at: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().unsigned_abs()))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn authority() -> Authority {
    Authority::create(AuthorityKind::Peer, "c1", now()).unwrap()
}

fn member(cluster_id: [u8; 16], member_id: u64) -> Leaf {
    Leaf::member(MemberIdentity { cluster_id, member_id }, DAY)
}

fn material(trusted: &[&Authority], signer: &Authority, leaf: &Leaf) -> PeerMaterial {
    let issued = signer.issue(leaf, now()).unwrap();
    PeerMaterial {
        authorities: trusted.iter().map(|one| one.certificate_der().clone()).collect(),
        chain: certificates_from_pem("m", &issued.certificate_pem).unwrap(),
        key: private_key_from_pem("m", &issued.key_pem.unwrap()).unwrap(),
    }
}

fn chain(signer: &Authority, leaf: &Leaf) -> Vec<CertificateDer<'static>> {
    certificates_from_pem("m", &signer.issue(leaf, now()).unwrap().certificate_pem).unwrap()
}

fn tls(authority: &Authority) -> PeerTls {
    PeerTls::new(material(&[authority], authority, &member(CLUSTER, 1)), provider()).unwrap()
}

fn refused(tls: &PeerTls, chain: &[CertificateDer<'_>], at: Timestamp) -> CertificateRefusal {
    let called = tls.check(chain, unix(at), Side::Called).unwrap_err();
    let caller = tls.check(chain, unix(at), Side::Caller).unwrap_err();
    assert_eq!(called, caller);
    called
}

#[test]
fn a_member_of_the_same_cluster_is_accepted_on_both_sides() {
    let authority = authority();
    let (tls, other) = (tls(&authority), chain(&authority, &member(CLUSTER, 2)));
    for side in [Side::Caller, Side::Called] {
        let found = tls.check(&other, unix(now()), side).unwrap();
        assert_eq!(found, MemberIdentity { cluster_id: CLUSTER, member_id: 2 });
        CertificateRefusal::unless(2, found).unwrap();
        let wrong = CertificateRefusal::unless(3, found).unwrap_err();
        assert_eq!(wrong, CertificateRefusal::OtherMember { wanted: 3, found: 2 });
        assert!(wrong.to_string().contains("correct the address of member 3"), "{wrong}");
    }
    assert_eq!(tls.identity().member_id, 1);
    assert_eq!(tls.not_after(), now() + DAY);
}

#[test]
fn a_certificate_of_another_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let refusal = refused(&tls(&ours), &chain(&theirs, &member(CLUSTER, 2)), now());
    assert_eq!(refusal, CertificateRefusal::OtherAuthority);
    assert!(refusal.to_string().contains("join this cluster again"), "{refusal}");
    // Nor is one of another purpose, or of an authority of another name.
    let client = Authority::create(AuthorityKind::Client, "c1", now()).unwrap();
    let refusal = refused(&tls(&ours), &chain(&client, &member(CLUSTER, 2)), now());
    assert_eq!(refusal, CertificateRefusal::OtherAuthority);
}

#[test]
fn another_cluster_and_no_member_are_refused() {
    let authority = authority();
    let tls = tls(&authority);
    let refusal = refused(&tls, &chain(&authority, &member([0xc2; 16], 2)), now());
    let hex = |byte: &str| byte.repeat(16);
    assert_eq!(refusal, CertificateRefusal::OtherCluster { theirs: hex("c2"), ours: hex("c1") });
    let mut nobody = member(CLUSTER, 2);
    nobody.uris.clear();
    let refusal = refused(&tls, &chain(&authority, &nobody), now());
    assert!(matches!(refusal, CertificateRefusal::NotAMember(_)), "{refusal}");
    assert_eq!(refused(&tls, &[], now()), CertificateRefusal::NoCertificate);
    let refusal = refused(&tls, &[CertificateDer::from(vec![1, 2, 3])], now());
    assert!(matches!(refusal, CertificateRefusal::Unusable(_)), "{refusal}");
}

#[test]
fn a_certificate_outside_of_its_time_is_refused_with_both_times() {
    let authority = authority();
    let (tls, chain) = (tls(&authority), chain(&authority, &member(CLUSTER, 2)));
    let late = now() + DAY + SignedDuration::from_secs(1);
    let refusal = refused(&tls, &chain, late);
    assert_eq!(refusal, CertificateRefusal::Expired { ended: now() + DAY, now: late });
    let text = refusal.to_string();
    assert!(text.contains("2026-11-26T16:00:00Z") && text.contains("renews"), "{text}");
    let begins = now() - SignedDuration::from_hours(2);
    let early = begins - SignedDuration::from_secs(1);
    let refusal = refused(&tls, &chain, early);
    assert_eq!(refusal, CertificateRefusal::NotYetValid { begins, now: early });
    assert!(refusal.to_string().contains("set the clock"), "{refusal}");
}

#[test]
fn a_certificate_for_one_side_only_is_refused_on_the_other() {
    let authority = authority();
    let tls = tls(&authority);
    let mut client = member(CLUSTER, 2);
    client.usage = atoll_identity::Usage::Client;
    let chain = chain(&authority, &client);
    tls.check(&chain, unix(now()), Side::Caller).unwrap();
    let refusal = tls.check(&chain, unix(now()), Side::Called).unwrap_err();
    assert!(matches!(refusal, CertificateRefusal::Unusable(_)), "{refusal}");
}

#[test]
fn while_an_authority_is_replaced_both_are_trusted() {
    let (old, new) = (authority(), authority());
    let tls = PeerTls::new(material(&[&old, &new], &old, &member(CLUSTER, 1)), provider()).unwrap();
    for signer in [&old, &new] {
        tls.check(&chain(signer, &member(CLUSTER, 2)), unix(now()), Side::Called).unwrap();
    }
}

#[test]
fn own_certificates_that_nobody_would_accept_are_told_at_once() {
    let (ours, theirs) = (authority(), authority());
    let new = |material| PeerTls::new(material, provider()).unwrap_err();
    let foreign = new(material(&[&ours], &theirs, &member(CLUSTER, 1)));
    assert!(matches!(foreign, TlsError::Refused { .. }), "{foreign}");
    let none = new(material(&[], &ours, &member(CLUSTER, 1)));
    assert!(matches!(none, TlsError::NoAuthority { .. }), "{none}");
    let client = new(material(&[&ours], &ours, &Leaf::client("jane", &[], DAY)));
    assert!(matches!(client, TlsError::NotAMember { .. }), "{client}");
    let mut other_key = material(&[&ours], &ours, &member(CLUSTER, 1));
    other_key.key = material(&[&ours], &ours, &member(CLUSTER, 1)).key;
    let other_key = new(other_key);
    assert!(matches!(other_key, TlsError::Key { .. }), "{other_key}");
    let mut empty = material(&[&ours], &ours, &member(CLUSTER, 1));
    empty.chain.clear();
    assert!(matches!(new(empty), TlsError::Unreadable { .. }));
}

#[test]
fn debug_output_keeps_the_key() {
    let authority = authority();
    let material = material(&[&authority], &authority, &member(CLUSTER, 1));
    let text = format!("{material:?} {:?}", tls(&authority));
    assert!(!text.contains("key") && text.contains("member_id: 1"), "{text}");
}
