//! Join tokens: form, cluster, expiry, single use.

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn token() -> (JoinToken, TokenRecord) {
    JoinToken::create(b"the authority", at(1_000)).unwrap()
}

#[test]
fn what_is_printed_is_what_is_read() {
    let (token, record) = token();
    let read = JoinToken::parse(&format!(" {}\n", token.reveal())).unwrap();
    assert_eq!(read, token);
    assert_eq!(read.check(Some(&record), at(999)), Ok(()));
    assert_eq!(read.check_cluster(b"the authority"), Ok(()));
}

#[test]
fn a_token_for_another_cluster_names_both_authorities() {
    let error = token().0.check_cluster(b"another").unwrap_err();
    assert!(matches!(&error, TokenError::OtherCluster { expected, found, .. }
        if *expected == fingerprint(b"the authority") && *found == fingerprint(b"another")));
}

#[test]
fn an_expired_token_says_when() {
    let (token, record) = token();
    let error = token.check(Some(&record), at(1_000)).unwrap_err();
    assert!(error.to_string().contains("expired at 1970-01-01T00:16:40Z"), "{error}");
}

#[test]
fn a_wrong_secret_reads_as_unknown() {
    let (token, mut record) = token();
    record.secret_hash = hex(&Sha256::digest(b"other"));
    assert_eq!(
        token.check(Some(&record), at(1)),
        Err(TokenError::Unknown { id: token.id.clone() })
    );
    assert_eq!(token.check(None, at(1)), Err(TokenError::Unknown { id: token.id.clone() }));
}

#[test]
fn a_second_node_is_refused_and_a_retry_is_not() {
    let mut record = token().1;
    assert_eq!(record.take("node-2", "k1"), Ok(true));
    assert_eq!(record.take("node-2", "k1"), Ok(false));
    let id = record.id.clone();
    let used = Err(TokenError::Used { id, node: "node-2".to_owned() });
    assert_eq!(record.take("node-3", "k1"), used);
    assert_eq!(record.take("node-2", "k2"), used);
}

#[test]
fn mangled_tokens_are_malformed() {
    let text = token().0.reveal();
    for bad in [
        String::new(),
        text.replace("atoll1", "atoll2"),
        format!("{text}.x"),
        text.to_uppercase(),
        text[..text.len() - 1].to_owned(),
    ] {
        assert_eq!(JoinToken::parse(&bad), Err(TokenError::Malformed), "{bad}");
    }
}

#[test]
fn debug_output_keeps_the_secret() {
    let (token, _) = token();
    assert!(!format!("{token:?}").contains(&token.secret));
}

#[test]
fn a_token_lets_in_what_it_was_made_for() {
    let made = JoinToken::create_for(TokenUse::Server, b"the authority", at(1_000)).unwrap();
    let (server, record) = made;
    assert!(server.reveal().starts_with("atoll1-server."), "{server:?}");
    assert!(JoinToken::looks_like(&server.reveal()) && JoinToken::looks_like("atoll1.x"));
    assert!(!JoinToken::looks_like("atoll1-agent.x") && !JoinToken::looks_like("atoll1"));
    let read = JoinToken::parse(&server.reveal()).unwrap();
    assert_eq!(read, server);
    assert_eq!(read.check(Some(&record), at(1)), Ok(()));
    let refused = read.check_use(TokenUse::Agent).unwrap_err().to_string();
    assert!(refused.contains("lets a server join, not a node"), "{refused}");
    let rewritten = server.reveal().replace("atoll1-server.", "atoll1.");
    let rewritten = JoinToken::parse(&rewritten).unwrap();
    let refused = rewritten.check(Some(&record), at(1)).unwrap_err().to_string();
    assert!(refused.contains("token create --usage server"), "{refused}");
}
