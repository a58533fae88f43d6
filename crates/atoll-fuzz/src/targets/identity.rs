//! Who somebody says they are: tokens, certificates, signing requests.

use std::sync::OnceLock;

use atoll_identity::{
    JoinToken, Leaf, MemberIdentity, PeerIdentity, SigningRequest, certificates_from_pem,
    new_request, private_key_from_pem, renewal_of,
};

use super::texts;
use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "join_token", run: join_token, seeds: token_seeds },
    Target { name: "account_token", run: account_token, seeds: account_token_seeds },
    Target { name: "certificate", run: certificate, seeds: certificate_seeds },
    Target { name: "join_server", run: atoll_apiserver::fuzz::join_server, seeds: join_seeds },
    Target { name: "pem", run: pem, seeds: pem_seeds },
    Target { name: "sealed", run: atoll_apiserver::fuzz::sealed, seeds: sealed_seeds },
];

fn join_token(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(token) = JoinToken::parse(text) {
        assert!(JoinToken::looks_like(text.trim()));
        assert!(JoinToken::parse(&token.reveal()).is_ok_and(|again| again == token));
        drop(token.check_cluster(input));
    }
}

fn token_seeds() -> Vec<Vec<u8>> {
    let digits = "0123456789abcdef";
    let hash = digits.repeat(4);
    texts(&[
        &format!(" atoll1.{hash}.0123456789.{} \n", digits.repeat(2)),
        &format!("atoll1-server.{hash}.0123456789.{}", digits.repeat(2)),
    ])
}

fn join_seeds() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"name":"node-2","key":"00","peerAddress":"10.0.0.2:2380","clientUrl":"https://10.0.0.2:6443"}"#,
        r#"{"name":"","key":"","peerAddress":"[::1]:1","clientUrl":""}"#,
    ])
}

fn account_token(input: &[u8]) {
    static TOKENS: OnceLock<Option<atoll_apiserver::fuzz::Tokens>> = OnceLock::new();
    let tokens = TOKENS.get_or_init(atoll_apiserver::fuzz::Tokens::new);
    if let (Some(tokens), Ok(text)) = (tokens, std::str::from_utf8(input)) {
        tokens.verify(text);
    }
}

fn account_token_seeds() -> Vec<Vec<u8>> {
    // {"alg":"ES256"} and {"iss":"x","exp":1,"nbf":0}
    texts(&["eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJ4IiwiZXhwIjoxLCJuYmYiOjB9.AAAA"])
}

fn certificate(input: &[u8]) {
    if let Ok(peer) = PeerIdentity::from_der(input) {
        drop(MemberIdentity::of(&peer));
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(member) = MemberIdentity::parse(text)
    {
        assert_eq!(member.uri(), text);
    }
}

/// A certificate of each shape that we make.
fn made() -> Vec<atoll_identity::Issued> {
    use atoll_identity::{Authority, AuthorityKind};
    let hour = jiff::SignedDuration::from_hours(1);
    let now = jiff::Timestamp::from_second(1_767_225_600).unwrap_or_default();
    let Ok(authority) = Authority::create(AuthorityKind::ALL[0], "fuzz", now) else {
        return Vec::new();
    };
    let leaves = [
        Leaf::client("system:node:n", &["system:nodes"], hour),
        Leaf::serving("n", &["n.example"], &[[10, 0, 0, 1].into()], hour),
        Leaf::member(MemberIdentity { cluster_id: [7; 16], member_id: 9 }, hour),
    ];
    leaves.iter().filter_map(|leaf| authority.issue(leaf, now).ok()).collect()
}

fn certificate_seeds() -> Vec<Vec<u8>> {
    made()
        .iter()
        .filter_map(|issued| certificates_from_pem("seed", &issued.certificate_pem).ok())
        .flat_map(|chain| chain.into_iter().map(|one| one.to_vec()))
        .collect()
}

fn pem(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    drop(SigningRequest::from_pem(text));
    drop(certificates_from_pem("fuzz", text));
    drop(private_key_from_pem("fuzz", text));
    drop(renewal_of(text));
    drop(PeerIdentity::from_pem(text));
}

fn pem_seeds() -> Vec<Vec<u8>> {
    let hour = jiff::SignedDuration::from_hours(1);
    let request = new_request(&Leaf::client("system:node:n", &["system:nodes"], hour));
    let mut seeds: Vec<_> = made().into_iter().map(|one| one.certificate_pem.into()).collect();
    if let Ok((request, key)) = request {
        seeds.extend([request.into_bytes(), key.into_bytes()]);
    }
    seeds
}

fn sealed_seeds() -> Vec<Vec<u8>> {
    let value = [b"atoll:sealed:1:0123456789abcdef:".as_slice(), &[7; 60]].concat();
    let file = r#"{"version":1,"primary":"0123456789abcdef","keys":[{"id":"0123456789abcdef",
"key":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}]}"#;
    vec![value, file.as_bytes().to_vec(), b"{}".to_vec()]
}
