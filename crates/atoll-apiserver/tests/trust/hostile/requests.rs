//! Requests within requests: two lengths, upgrades with bodies, HTTP/2 where it was not spoken.

use super::{Bounds, MAPS, codes, raw, still_serves};
use crate::client::{Caller, Cluster};

const INNER: &str = "GET /api/v1/namespaces/default/secrets HTTP/1.1\r\nhost: x\r\n\r\n";

/// Both lengths in one request: the chunks count, and what follows is a request of its own that
/// has to prove itself.
#[tokio::test(flavor = "multi_thread")]
async fn two_lengths_do_not_hide_a_request() {
    let cluster = Cluster::start().await;
    let jane = cluster.with_certificate("jane", &[]);
    let chunks = format!("0\r\n\r\n{INNER}");
    let lengths = [
        format!("content-length: {}\r\ntransfer-encoding: chunked", chunks.len()),
        format!("transfer-encoding: chunked\r\ncontent-length: {}", chunks.len()),
    ];
    for lengths in &lengths {
        let outer = format!(
            "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{lengths}\r\n\r\n{chunks}"
        );
        let answer = raw(&cluster, &jane, outer.as_bytes()).await;
        // Neither is allowed; none of them is taken for the other's body.
        assert!(codes(&answer).iter().all(|code| matches!(code, 400 | 403)), "{answer}");
        assert!(!answer.contains("\"items\""), "{answer}");
    }
    let refused = [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
        "content-length: 5, 6",
        "content-length: 0x5",
        "content-length: -1",
        "content-length: 99999999999999999999999",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\n x: y",
        "host : x",
    ];
    for headers in refused {
        let bounds = Bounds::begin(headers.escape_debug().to_string());
        let outer = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{INNER}");
        let answer = raw(&cluster, &cluster.admin(), outer.as_bytes()).await;
        assert!(matches!(codes(&answer)[..], [400] | []), "{headers:?}: {answer}");
        bounds.hold();
    }
    let old = format!("POST {MAPS} HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n{chunks}");
    let answer = raw(&cluster, &cluster.admin(), old.as_bytes()).await;
    assert!(matches!(codes(&answer)[..], [400] | []), "{answer}");
    for chunk in ["FFFFFFFFFFFFFFFFF\r\nx", "-1\r\nx", "5;a=b\nxxxxx", "zz\r\nx"] {
        let bounds = Bounds::begin(format!("a chunk {chunk:?}"));
        let outer = format!(
            "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
             transfer-encoding: chunked\r\n\r\n{chunk}\r\n\r\n{INNER}"
        );
        let answer = raw(&cluster, &cluster.admin(), outer.as_bytes()).await;
        assert!(!answer.contains("\"items\""), "{chunk:?}: {answer}");
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// What stands behind an upgrade is never a request of him who may upgrade.
#[tokio::test(flavor = "multi_thread")]
async fn upgrades_carry_no_requests() {
    let cluster = Cluster::start().await;
    let jane = cluster.with_certificate("jane", &[]);
    let pod = "/api/v1/namespaces/default/pods/p";
    let socket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                  sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let length = format!("content-length: {}", INNER.len());
    for (method, path, headers) in [
        ("GET", format!("{pod}/exec?command=a"), socket.to_owned()),
        ("POST", format!("{pod}/exec?command=a"), format!("{socket}\r\n{length}")),
        ("POST", format!("{pod}/attach"), "connection: upgrade\r\nupgrade: SPDY/3.1".to_owned()),
        ("GET", format!("{pod}/proxy/x"), format!("{socket}\r\n{length}")),
        ("GET", format!("{MAPS}?watch=1"), socket.to_owned()),
    ] {
        let bounds = Bounds::begin(format!("{method} {path}"));
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n{INNER}");
        let answer = raw(&cluster, &jane, request.as_bytes()).await;
        assert!(codes(&answer).iter().all(|code| matches!(code, 400 | 403)), "{answer}");
        bounds.hold();
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// A request whose sender proves himself by a header proves nothing for the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_speaks_for_its_own_request() {
    let cluster = Cluster::start().await;
    let first = "GET /version HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nobody\r\n\r\n";
    let both = format!("{first}{INNER}");
    let answer = raw(&cluster, &Caller::anonymous(), both.as_bytes()).await;
    assert_eq!(codes(&answer), [401, 403], "{answer}");
    let twice = "GET /version HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a\r\n\
                 authorization: Bearer b\r\n\r\n";
    let answer = raw(&cluster, &Caller::anonymous(), twice.as_bytes()).await;
    assert_eq!(codes(&answer), [401], "{answer}");
    cluster.shutdown().await;
}

/// HTTP/2 is spoken where TLS agreed on it; an upgrade to it in the clear is passed over.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_http2_is_passed_over() {
    let cluster = Cluster::start().await;
    let request = "GET /version HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\n\
                   upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
    let answer = raw(&cluster, &cluster.admin(), request.as_bytes()).await;
    assert_eq!(codes(&answer), [200], "{answer}");
    let preface = format!("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{INNER}");
    let answer = raw(&cluster, &cluster.admin(), preface.as_bytes()).await;
    assert!(!answer.contains("\"items\""), "{answer}");
    still_serves(&cluster).await;
    cluster.shutdown().await;
}
