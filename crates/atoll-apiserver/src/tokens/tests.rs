//! Signing and verifying, without a server.

use atoll_identity::AccountKey;

use super::*;

fn tokens() -> AccountTokens {
    AccountTokens::new(&AccountKey::create().unwrap(), "https://issuer".to_owned()).unwrap()
}

fn claims() -> Claims {
    Claims {
        aud: vec!["https://issuer".to_owned()],
        exp: 10_000,
        iat: 1_000,
        iss: "https://issuer".to_owned(),
        jti: "j".to_owned(),
        kubernetes: Bound {
            namespace: "team".to_owned(),
            node: None,
            pod: Some(Reference { name: "p".to_owned(), uid: "pu".to_owned() }),
            secret: None,
            serviceaccount: Reference { name: "app".to_owned(), uid: "u".to_owned() },
            warnafter: None,
        },
        nbf: 1_000,
        sub: "system:serviceaccount:team:app".to_owned(),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

#[test]
fn a_signed_token_proves_its_account() {
    let tokens = tokens();
    let token = tokens.sign(&claims()).unwrap();
    let user = tokens.verify(&token, at(2_000)).unwrap().user();
    assert_eq!(user.name, "system:serviceaccount:team:app");
    assert_eq!(user.uid, "u");
    assert_eq!(
        user.groups,
        ["system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"]
    );
    assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["p"]);
    assert_eq!(account_of(&user.name), Some(("team", "app")));
}

#[test]
fn time_decides() {
    let tokens = tokens();
    let token = tokens.sign(&claims()).unwrap();
    assert!(matches!(tokens.verify(&token, at(10_000)), Err(TokenProblem::Expired)));
    // Our clock was set an hour back since.
    let mut ahead = claims();
    (ahead.nbf, ahead.exp) = (5_000, 9_000);
    let token = tokens.sign(&ahead).unwrap();
    assert!(tokens.verify(&token, at(5_000 - 3_600)).is_ok());
    (ahead.nbf, ahead.exp) = (50_000, 90_000);
    let token = tokens.sign(&ahead).unwrap();
    assert!(matches!(tokens.verify(&token, at(5_000)), Err(TokenProblem::NotYet)));
}

#[test]
fn another_key_or_a_changed_byte_is_refused() {
    let (ours, theirs) = (tokens(), tokens());
    let token = theirs.sign(&claims()).unwrap();
    assert!(ours.verify(&token, at(2_000)).is_err());
    let mut token = ours.sign(&claims()).unwrap().into_bytes();
    let middle = token.len() / 2;
    token[middle] = if token[middle] == b'A' { b'B' } else { b'A' };
    assert!(ours.verify(&String::from_utf8(token).unwrap(), at(2_000)).is_err());
    assert!(matches!(ours.verify("hello", at(2_000)), Err(TokenProblem::NotOurs)));
}

#[test]
fn an_unsigned_token_is_refused() {
    use base64::Engine as _;
    let encode =
        |value: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string());
    let body = serde_json::to_value(claims()).unwrap();
    for algorithm in ["none", "HS256"] {
        let token = format!("{}.{}.", encode(&json!({"alg": algorithm})), encode(&body));
        assert!(tokens().verify(&token, at(2_000)).is_err(), "{algorithm}");
    }
}
