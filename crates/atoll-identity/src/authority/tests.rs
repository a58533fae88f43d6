//! Authorities, leaves, requests and signers, read back with another parser.

use std::net::IpAddr;

use super::*;
use crate::leaf::Usage;
use crate::request::new_request;
use crate::signers::{self, SignerError, SignerRequest};
use crate::{IdentityError, renewal_of};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn now() -> Timestamp {
    "2026-11-25T16:00:00Z".parse().unwrap()
}

fn authority(kind: AuthorityKind) -> Authority {
    Authority::create(kind, "c1", now()).unwrap()
}

#[test]
fn a_clock_that_cannot_be_right_is_told() {
    let authority = authority(AuthorityKind::Serving);
    for hours in [-47, -1, 0, 1, 24 * 365] {
        authority.check_clock(now() + SignedDuration::from_hours(hours)).unwrap();
    }
    let behind = authority.check_clock(now() - SignedDuration::from_hours(49)).unwrap_err();
    assert!(matches!(behind, IdentityError::ClockBehind { .. }), "{behind}");
    assert!(behind.to_string().contains("2026-11-23T15:00:00Z"), "{behind}");
    assert!(behind.to_string().contains("set the clock"), "{behind}");
    let ahead = authority.check_clock(now() + AUTHORITY_LIFE).unwrap_err();
    assert!(matches!(ahead, IdentityError::AuthorityEnded { .. }), "{ahead}");
}

#[test]
fn leaves_are_accepted_by_clocks_an_hour_off() {
    let leaf = Leaf::client("jane", &["dev"], DAY);
    let issued = authority(AuthorityKind::Client).issue(&leaf, now()).unwrap();
    let hour = SignedDuration::from_hours(1);
    assert!(issued.not_before <= now() - hour);
    assert!(issued.not_after >= now() + hour);
}

#[test]
fn a_client_leaf_names_its_user_and_groups() {
    let leaf = Leaf::client("jane", &["dev", "ops"], DAY);
    let issued = authority(AuthorityKind::Client).issue(&leaf, now()).unwrap();
    let peer = PeerIdentity::from_pem(&issued.certificate_pem).unwrap();
    assert_eq!(peer.common_name, "jane");
    assert_eq!(peer.organizations, ["dev", "ops"]);
    assert!(issued.key_pem.unwrap().contains("PRIVATE KEY"));
}

#[test]
fn more_groups_than_fit_are_refused_not_dropped() {
    let leaf = Leaf::client("jane", &["a", "b", "c"], DAY);
    let error = authority(AuthorityKind::Client).issue(&leaf, now()).unwrap_err();
    assert!(matches!(error, IdentityError::TooManyOrganizations { count: 3, .. }), "{error}");
}

#[test]
fn a_peer_whose_clock_is_an_hour_back_accepts_a_fresh_leaf() {
    let issued =
        authority(AuthorityKind::Client).issue(&Leaf::client("n", &[], DAY), now()).unwrap();
    let peer = PeerIdentity::from_pem(&issued.certificate_pem).unwrap();
    assert!(peer.not_before <= now() - SignedDuration::from_hours(1));
    assert_eq!(peer.not_after, now() + DAY);
}

#[test]
fn a_short_lived_leaf_is_not_due_at_birth() {
    let leaf = Leaf::client("n", &[], SignedDuration::from_mins(1));
    let issued = authority(AuthorityKind::Client).issue(&leaf, now()).unwrap();
    let due = renewal_of(&issued.certificate_pem).unwrap();
    assert!(due > now() + SignedDuration::from_secs(20), "{due}");
    assert!(due < now() + SignedDuration::from_secs(40), "{due}");
}

#[test]
fn a_request_does_not_choose_its_names() {
    let (pem, _key) = new_request(&Leaf::client("admin", &["system:masters"], DAY)).unwrap();
    let request = SigningRequest::from_pem(&pem).unwrap();
    assert_eq!(request.organizations, ["system:masters"]);
    let issued = authority(AuthorityKind::Client)
        .issue_for(&request, &signers::node_client_leaf("node-2"), now())
        .unwrap();
    let peer = PeerIdentity::from_pem(&issued.certificate_pem).unwrap();
    assert_eq!(peer.common_name, "system:node:node-2");
    assert_eq!(peer.organizations, ["system:nodes"]);
}

#[test]
fn a_request_with_a_broken_signature_is_refused() {
    let (pem, _key) = new_request(&Leaf::client("n", &[], DAY)).unwrap();
    let mut lines: Vec<String> = pem.lines().map(str::to_owned).collect();
    let last = lines.len() - 3;
    let flipped = if lines[last].as_bytes()[10] == b'A' { "B" } else { "A" };
    lines[last].replace_range(10..11, flipped);
    assert!(SigningRequest::from_pem(&lines.join("\n")).is_err());
    assert!(SigningRequest::from_pem("hello").is_err());
}

#[test]
fn a_key_of_another_authority_is_noticed() {
    let (one, two) = (authority(AuthorityKind::Client), authority(AuthorityKind::Peer));
    let error = Authority::load(AuthorityKind::Client, one.certificate_pem(), two.key_pem());
    assert!(matches!(error, Err(IdentityError::KeyMismatch { authority: "client" })));
}

#[test]
fn a_leaf_is_no_authority() {
    let issued =
        authority(AuthorityKind::Client).issue(&Leaf::client("n", &[], DAY), now()).unwrap();
    let error =
        Authority::load(AuthorityKind::Client, &issued.certificate_pem, &issued.key_pem.unwrap());
    assert!(matches!(error, Err(IdentityError::NotAnAuthority { .. })));
}

fn asked<'a>(
    signer: &'a str,
    username: &'a str,
    usages: &'a [String],
    request: &'a SigningRequest,
) -> SignerRequest<'a> {
    SignerRequest { signer, username, groups: &[], usages, expiration_seconds: None, request }
}

#[test]
fn the_serving_signer_wants_the_nodes_own_name() {
    let ip: IpAddr = "10.41.0.2".parse().unwrap();
    let leaf = signers::node_serving_leaf("node-2", &["node-2"], &[ip]);
    let (pem, _key) = new_request(&leaf).unwrap();
    let request = SigningRequest::from_pem(&pem).unwrap();
    let usages = ["digital signature".to_owned(), "server auth".to_owned()];
    let kubelet = authority(AuthorityKind::Kubelet);
    let own = asked(signers::KUBELET_SERVING_SIGNER, "system:node:node-2", &usages, &request);
    let issued = signers::sign(&kubelet, &own, now()).unwrap();
    let peer = PeerIdentity::from_pem(&issued.certificate_pem).unwrap();
    assert_eq!((peer.dns, peer.ips), (vec!["node-2".to_owned()], vec![ip]));

    let other = asked(signers::KUBELET_SERVING_SIGNER, "system:node:node-3", &usages, &request);
    assert!(matches!(signers::sign(&kubelet, &other, now()), Err(SignerError::Refused { .. })));
    let client = authority(AuthorityKind::Client);
    let wrong = signers::sign(&client, &own, now());
    assert!(matches!(wrong, Err(SignerError::WrongAuthority { .. })));
}

#[test]
fn the_client_signer_refuses_masters() {
    let (pem, _key) = new_request(&Leaf::client("eve", &["system:masters"], DAY)).unwrap();
    let request = SigningRequest::from_pem(&pem).unwrap();
    let usages = ["client auth".to_owned()];
    let bad = asked(signers::KUBE_APISERVER_CLIENT_SIGNER, "eve", &usages, &request);
    let error = signers::sign(&authority(AuthorityKind::Client), &bad, now()).unwrap_err();
    assert!(matches!(error, SignerError::Refused { .. }), "{error}");
}

#[test]
fn debug_output_keeps_the_key() {
    let authority = authority(AuthorityKind::Mesh);
    assert!(!format!("{authority:?}").contains("PRIVATE"));
    assert_eq!(Leaf::serving("x", &[], &[], DAY).usage, Usage::Server);
}
