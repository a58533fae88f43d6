//! The calls as JSON over HTTP, as an etcd's gateway has them.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::etcd::Release;
use crate::random::Pair;
use crate::served::PATIENCE;

/// Requests whose whole answers are compared: an etcd writes the same JSON.
const SAME: &[(&str, &str)] = &[
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#),
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"2","serializable":true} and more"#),
    ("/v3/kv/range", r#"{"key":"Zg==","rangeEnd":"eg==","limit":2,"sort_order":"DESCEND"}"#),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","sort_order":2,"sort_target":"MOD"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","nothing":[{"a":null}],"count_only":true}"#),
    ("/v3/kv/range", r#"{"key":"bm8="}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"99"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":null}"#),
    ("/v3/kv/range", "{}"),
    ("/v3/kv/range", ""),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"key":"Zm9v","result":"EQUAL","target":"VALUE","value":"YmF6"},
            {"key":"Zm9v","result":"GREATER","target":"CREATE","create_revision":"1"}],
            "success":[{"request_put":{"key":"YQ==","value":"AP8="}},
                {"requestRange":{"key":"Zm9v"}},
                {"request_txn":{"success":[{"request_delete_range":{"key":"eHk="}}]}}],
            "failure":[{"request_range":{"key":"eA=="}}]}"#,
    ),
    ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"","value":"AP8="}}]}"#),
    ("/v3/kv/deleterange", r#"{"key":"YQ==","prev_kv":true}"#),
    ("/v3/kv/compaction", r#"{"revision":"2"}"#),
    ("/v3/kv/compaction", r#"{"revision":"2"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"1"}"#),
    ("/v3/lease/grant", r#"{"ID":"77","TTL":"1000"}"#),
    ("/v3/lease/grant", r#"{"ID":77,"TTL":1000}"#),
    ("/v3/kv/put", r#"{"key":"bGVhc2Vk","lease":"77"}"#),
    ("/v3/lease/timetolive", r#"{"ID":"77","keys":true}"#),
    ("/v3/kv/lease/timetolive", r#"{"ID":"78"}"#),
    ("/v3/lease/keepalive", r#"{"ID":"77"}{"ID":"78"}"#),
    ("/v3/lease/leases", "{}"),
    ("/v3/kv/lease/leases", ""),
    ("/v3/kv/lease/revoke", r#"{"ID":"77"}"#),
    ("/v3/lease/revoke", r#"{"ID":"77"}"#),
    ("/v3/maintenance/alarm", "{}"),
    ("/v3/auth/status", "{}"),
    ("/v3/auth/enable", "{}"),
    ("/v3/cluster/member/promote", r#"{"ID":"5"}"#),
    ("/v3/nothing", "{}"),
];
/// Requests that are refused in words of our own, with an etcd's codes.
const REFUSED: &[(&str, &str)] = &[
    ("/v3/kv/range", r#"{"key":"#),
    ("/v3/kv/range", r#"{"key":5}"#),
    ("/v3/kv/range", r#"{"key":"*"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"descend"}"#),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"two"}"#),
    ("/v3/kv/range", "[]"),
    ("/v3/kv/range", "\"a\""),
];
/// Answers that say how a server is: they have the same fields.
const ALIKE: &[&str] = &["/v3/maintenance/hash", "/v3/cluster/member/list"];

struct Posted {
    stream: TcpStream,
    come: String,
}

impl Posted {
    async fn send(address: SocketAddr, path: &str, headers: &str, body: &str) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, come: String::new() }
    }

    /// Status and body, without the sizes of chunks.
    async fn whole(mut self) -> (u16, String) {
        timeout(PATIENCE, self.stream.read_to_string(&mut self.come)).await.unwrap().unwrap();
        let (head, body) = self.come.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let is_size =
            |line: &str| !line.is_empty() && line.bytes().all(|one| one.is_ascii_hexdigit());
        let is_in_chunks = head.to_lowercase().contains("transfer-encoding: chunked");
        let lines = body.split("\r\n").filter(|line| !(is_in_chunks && is_size(line)));
        (status, lines.collect())
    }

    /// The next line that is a JSON text.
    async fn line(&mut self) -> Value {
        loop {
            if let Some(at) = self.come.find('\n') {
                let line: String = self.come.drain(..=at).collect();
                if line.starts_with('{') {
                    return serde_json::from_str(&line).unwrap();
                }
                continue;
            }
            let mut part = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut part)).await.unwrap().unwrap();
            assert_ne!(read, 0, "the stream goes on: {}", self.come);
            self.come.push_str(std::str::from_utf8(&part[..read]).unwrap());
        }
    }
}

async fn post(address: SocketAddr, path: &str, body: &str) -> (u16, String) {
    Posted::send(address, path, "", body).await.whole().await
}

/// What differs from server to server is made the same.
fn level(value: &mut Value) {
    let Value::Object(fields) = value else {
        if let Value::Array(items) = value {
            items.iter_mut().for_each(level);
        }
        return;
    };
    for (name, value) in fields.iter_mut() {
        match name.as_str() {
            "cluster_id" | "member_id" | "raft_term" => *value = json!("one"),
            // Both clocks run.
            "TTL" if *value == json!("999") => *value = json!("1000"),
            _ => level(value),
        }
    }
    // What etcd 3.6 has besides.
    if fields.get("details") == Some(&json!([])) {
        fields.remove("details");
    }
}

fn levelled(text: &str) -> Vec<Value> {
    let mut texts: Vec<_> = serde_json::Deserializer::from_str(text)
        .into_iter::<Value>()
        .map(|text| text.unwrap_or_else(|error| panic!("{error}")))
        .collect();
    texts.iter_mut().for_each(level);
    texts
}

async fn same(addresses: [SocketAddr; 2]) {
    for (path, body) in SAME {
        let [ours, theirs] = addresses.map(|address| post(address, path, body));
        let (ours, theirs) = (ours.await, theirs.await);
        if !theirs.1.starts_with('{') {
            assert_eq!(ours, theirs, "{path} {body}");
            continue;
        }
        let told = [&ours, &theirs].map(|(status, text)| (*status, levelled(text)));
        assert_eq!(told[0], told[1], "{path} {body}");
    }
    for (path, body) in REFUSED {
        let mut told = Vec::new();
        for address in addresses {
            let (status, text) = post(address, path, body).await;
            let text: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(text["error"], text["message"], "{text}");
            told.push((status, text["code"].clone()));
        }
        assert_eq!(told[0], told[1], "{path} {body}");
        assert_eq!(told[0], (400, json!(3)));
    }
    for path in ALIKE {
        let mut told = Vec::new();
        for address in addresses {
            let (status, text) = post(address, path, "{}").await;
            let text: Value = serde_json::from_str(&text).unwrap();
            let names: Vec<_> = text.as_object().unwrap().keys().cloned().collect();
            told.push((status, names));
        }
        assert_eq!(told[0], told[1], "{path}");
    }
}

/// A watch by one request tells what happens after it, a line for each answer.
async fn watch(addresses: [SocketAddr; 2]) {
    let mut told = Vec::new();
    for address in addresses {
        let create = r#"{"create_request":{"key":"d2F0Y2g=","prev_kv":true}}"#;
        let mut watch = Posted::send(address, "/v3/watch", "", create).await;
        let mut lines = vec![watch.line().await];
        assert_eq!(lines[0]["result"]["created"], json!(true));
        for value in ["MQ==", "Mg=="] {
            let put = json!({ "key": "d2F0Y2g=", "value": value }).to_string();
            post(address, "/v3/kv/put", &put).await;
            lines.push(watch.line().await);
        }
        post(address, "/v3/kv/deleterange", r#"{"key":"d2F0Y2g="}"#).await;
        lines.push(watch.line().await);
        lines.iter_mut().for_each(level);
        told.push(lines);
    }
    assert_eq!(told[0], told[1]);
    assert_eq!(told[0].last().unwrap()["result"]["events"][0]["type"], json!("DELETE"));
}

/// Of requests that only pages of browsers make, and of those that none should.
async fn others(address: SocketAddr) {
    let put = r#"{"key":"cGFnZQ==","value":"MQ=="}"#;
    let page = "Origin: http://attacker.example\r\n";
    let (status, text) = Posted::send(address, "/v3/kv/put", page, put).await.whole().await;
    assert!(status == 403 && text.contains("has the header Origin"), "{status} {text}");
    let (_, text) = post(address, "/v3/kv/range", r#"{"key":"cGFnZQ=="}"#).await;
    assert!(!text.contains("kvs"), "{text}");
    let (head, body) = crate::surface::get(address, "/v3/kv/range").await;
    assert!(head.starts_with("HTTP/1.1 405 ") && body == "Method Not Allowed\n", "{head}");
    let (_, text) = post(address, "/v3/kv/range", r#"{"key":"YQ==","limit":"x"}"#).await;
    assert!(
        text.contains("the body is no etcdserverpb.RangeRequest: limit: invalid digit"),
        "{text}"
    );
    // A text that is deeper than any message, and one that is longer.
    let deep = format!("{}1{}", "{\"a\":[".repeat(5_000), "]}".repeat(5_000));
    let (status, _) = post(address, "/v3/kv/range", &deep).await;
    assert_eq!(status, 400);
    let put =
        |bytes: usize| format!("{{\"key\":\"YQ==\",\"value\":\"{}\"}}", "YWFh".repeat(bytes / 3));
    let (status, text) = post(address, "/v3/kv/put", &put(1_700_000)).await;
    assert!(status == 400 && text.contains("etcdserver: request is too large"), "{text}");
    // Not read to its end; who sends it may see the answer or a connection that is closed.
    let mut stream = TcpStream::connect(address).await.unwrap();
    let text = put(8_000_000);
    let head =
        format!("POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(text.as_bytes()).await.ok();
    let (_, text) = post(address, "/v3/kv/range", r#"{"key":"YQ=="}"#).await;
    assert!(!text.contains("kvs"), "{text}");
    // A stream that has not begun is refused as a call is; a client tries another server by that.
    let (status, text) = post(address, "/v3/watch", "{\"create_request\":").await;
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &text["error"]["grpc_code"]), (400, &json!(3)), "{text}");
    let (status, text) = post(address, "/v3beta/kv/range", r#"{"key":"Zm9v"}"#).await;
    assert!(status == 200 && text.contains("kvs"), "{text}");
    let many = format!(r#"{{"compare":[{}{{}}]}}"#, "{},".repeat(20_000));
    let (status, text) = post(address, "/v3/kv/txn", &many).await;
    assert!(status == 400 && text.contains("more than 16384 objects"), "{text}");
    // As long as the client waits, and no longer.
    let wait = "Grpc-Timeout: 100m\r\n";
    let create = r#"{"create_request":{"key":"d2F0Y2g="}}"#;
    let watch = Posted::send(address, "/v3/watch", wait, create).await;
    let (_, text) = timeout(Duration::from_secs(10), watch.whole()).await.expect("it ends");
    assert!(text.contains("context deadline exceeded"), "{text}");
    let observe = Posted::send(address, "/v3/election/observe", wait, r#"{"name":"eA=="}"#).await;
    let (status, text) = timeout(Duration::from_secs(10), observe.whole()).await.expect("it ends");
    assert!(status == 504 && text.contains("context deadline exceeded"), "{status} {text}");
    let wrong = Posted::send(address, "/v3/kv/range", "Grpc-Timeout: 1\r\n", "{}").await;
    let (status, text) = wrong.whole().await;
    assert!(status == 400 && text.contains("invalid grpc-timeout: 1"), "{status} {text}");
    // A body that does not come.
    let head = format!("POST /v3/kv/put HTTP/1.1\r\nHost: a\r\n{wait}Content-Length: 9\r\n\r\n{{");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 16];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 504"), "{answer:?}");
    let (_, text) = post(address, "/v3/maintenance/snapshot", "{}").await;
    assert!(levelled(&text)[0]["result"]["blob"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_answered_as_json() {
    let Some(pair) = Pair::start(Release::Distro35).await else { return };
    same(pair.addresses()).await;
    watch(pair.addresses()).await;
    others(pair.addresses()[0]).await;
}
