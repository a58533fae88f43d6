//! Entry point for fuzzers: a body becomes a message of a call, and JSON again.

use bytes::Bytes;

use super::{calls, json, requests};

/// The first byte says which call; the rest is the body, once as one text and once as many.
pub fn body(bytes: &[u8]) {
    let Some((which, body)) = bytes.split_first() else { return };
    let Some(kind) = calls::nth(usize::from(*which)) else { return };
    requests::fuzz(body);
    let Ok(message) = json::read(body, kind.clone()) else { return };
    let shown = json::write(Bytes::from(message.clone()), kind.clone());
    let shown = shown.expect("what was read can be shown");
    let again = json::read(&shown, kind).expect("what is shown can be read");
    assert_eq!(again, message, "{}", String::from_utf8_lossy(&shown));
}

/// Seeds for [`body`].
pub fn bodies() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"key":"Zm9v","range_end":"Zm9w","limit":"2","sort_order":"DESCEND","sortTarget":1}"#,
        r#"{"compare":[{"key":"YQ==","target":"VALUE","value":"AP8="}],"success":[{"request_put":
            {"key":"YQ=="}},{"requestTxn":{"failure":[{"request_range":{"key":"YQ"}}]}}]}"#,
        r#"{"create_request":{"key":"YQ==","filters":["NOPUT",1],"watch_id":-1}} {"cancel_request":{}}"#,
        r#"{"ID":"77","TTL":1e2,"name":null,"peerURLs":["http://a:1"],"leader":{"rev":"9"}}"#,
    ];
    let all = texts.iter().enumerate();
    all.flat_map(|(at, text)| {
        [at, at + 5, at + 44]
            .map(|call| [&[u8::try_from(call).unwrap_or(0)], text.as_bytes()].concat())
    })
    .collect()
}
