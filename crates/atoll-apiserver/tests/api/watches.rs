//! Watches: order, selections, bookmarks, positions too old.

use serde_json::json;

use crate::client::{Api, CONFIG_MAPS, config_map};

const JSON: &str = "application/json";

fn step(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_moves_out_of_the_selection_is_deleted_for_the_watcher() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1&labelSelector=x=1"), JSON).await;
    let one = format!("{CONFIG_MAPS}/a");
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let label = |value| json!({"metadata": {"labels": {"x": value}}});
    api.merge(&one, &label(Some("1"))).await.ok();
    assert_eq!(watch.step().await, step("ADDED", "a"));
    api.merge(&one, &json!({"data": {"b": "2"}})).await.ok();
    assert_eq!(watch.step().await, step("MODIFIED", "a"));
    let out = api.merge(&one, &label(None)).await.ok();
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    // It is shown as it was, at the revision at which it left.
    assert_eq!(event["object"]["metadata"]["labels"]["x"], "1");
    let revision = &out["metadata"]["resourceVersion"];
    assert_eq!(&event["object"]["metadata"]["resourceVersion"], revision);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_a_list_ended() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("before")).await.ok();
    let list = api.get(CONFIG_MAPS).await.ok();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    api.create(CONFIG_MAPS, &config_map("after")).await.ok();
    api.delete(&format!("{CONFIG_MAPS}/before")).await.ok();
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let mut watch = api.watch(&url, JSON).await;
    assert_eq!(watch.step().await, step("ADDED", "after"));
    assert_eq!(watch.step().await, step("DELETED", "before"));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_bookmark() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    api.create(CONFIG_MAPS, &config_map("b")).await.ok();
    let url = format!(
        "{CONFIG_MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&\
         allowWatchBookmarks=true"
    );
    let mut watch = api.watch(&url, JSON).await;
    assert_eq!(watch.step().await, step("ADDED", "a"));
    assert_eq!(watch.step().await, step("ADDED", "b"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    let annotations = &bookmark["object"]["metadata"]["annotations"];
    assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_in_time_with_a_last_bookmark() {
    let api = Api::start().await;
    let url = format!("{CONFIG_MAPS}?watch=1&allowWatchBookmarks=true&timeoutSeconds=1");
    let mut watch = api.watch(&url, JSON).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.next().await.is_none());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_behind_the_ring_is_too_old() {
    let api = Api::start().await;
    let old = api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let revision = old["metadata"]["resourceVersion"].as_str().unwrap();
    // Bigger than what the ring keeps.
    let big = "x".repeat(1_000_000);
    for index in 0..10 {
        let patch = json!({"data": {"big": format!("{index}{big}")}});
        api.merge(&format!("{CONFIG_MAPS}/a"), &patch).await.ok();
    }
    api.server.core().registry.catch_up().await.unwrap();
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let mut watch = api.watch(&url, JSON).await;
    let event = watch.next().await.unwrap();
    assert_eq!(
        (event["type"].as_str(), event["object"]["code"].as_u64()),
        (Some("ERROR"), Some(410))
    );
    assert_eq!(event["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_carry_their_columns_once() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    api.create(CONFIG_MAPS, &config_map("b")).await.ok();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1"), accept).await;
    let first = watch.next().await.unwrap();
    assert_eq!(first["object"]["kind"], "Table");
    assert!(first["object"]["columnDefinitions"].is_array());
    assert!(watch.next().await.unwrap()["object"]["columnDefinitions"].is_null());
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_ends_watches() {
    let api = Api::start().await;
    let mut watch = api.watch(&format!("{CONFIG_MAPS}?watch=1"), JSON).await;
    api.shutdown().await;
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_over_a_restart() {
    let api = Api::start().await;
    let made = api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    api.create(CONFIG_MAPS, &config_map("b")).await.ok();
    let api = api.restart().await;
    let url = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let mut watch = api.watch(&url, JSON).await;
    assert_eq!(watch.step().await, step("ADDED", "b"));
    api.create(CONFIG_MAPS, &config_map("c")).await.ok();
    assert_eq!(watch.step().await, step("ADDED", "c"));
    api.shutdown().await;
}

/// The next message of a WebSocket: its kind, and what is in it.
async fn message(socket: &mut tokio::net::TcpStream) -> (u8, Vec<u8>) {
    use tokio::io::AsyncReadExt as _;
    let mut head = [0; 2];
    socket.read_exact(&mut head).await.unwrap();
    let length = match head[1] {
        126 => usize::from(socket.read_u16().await.unwrap()),
        127 => usize::try_from(socket.read_u64().await.unwrap()).unwrap(),
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    socket.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}

/// Browsers watch so: each event is a message, text where it is JSON.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_a_websocket_is_a_message_for_each_event() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let api = Api::start().await;
    let (address, _serving) = api.open().await;
    for name in ["a", "b"] {
        api.create(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    for (accept, kind) in [(JSON, 0x81), ("application/vnd.kubernetes.protobuf", 0x82)] {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET {CONFIG_MAPS}?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        for name in ["a", "b"] {
            let (found, payload) = message(&mut socket).await;
            assert_eq!(found, kind);
            let is_there =
                |text: &str| payload.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(is_there("ADDED") && is_there(name), "{payload:?}");
            if kind == 0x81 {
                let event: serde_json::Value = serde_json::from_slice(&payload).unwrap();
                assert_eq!(event["object"]["metadata"]["name"], name);
            } else {
                assert!(payload.starts_with(b"k8s\0") || is_there("k8s\0"), "{payload:?}");
            }
        }
        // A change comes as one more.
        let change = json!({"data": {"changed-for": accept}});
        api.merge(&format!("{CONFIG_MAPS}/a"), &change).await.ok();
        let (_, payload) = message(&mut socket).await;
        assert!(payload.windows(8).any(|part| part == b"MODIFIED"));
    }
    api.shutdown().await;
}
