//! Many requests on one connection: watches, and requests that are taken back at once.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Bounds, MAPS, still_serves};
use crate::client::Cluster;

/// As many as one connection may have open at once.
const WATCHES: usize = 250;

async fn connected(cluster: &Cluster, tasks: &mut JoinSet<()>) -> SendRequest<Empty<Bytes>> {
    let stream = cluster.connect(&cluster.admin(), &["h2"]).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tasks.spawn(async move { drop(connection.await) });
    sender
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::builder().uri(format!("https://test{path}")).body(Empty::new()).unwrap()
}

/// Reads until the watch has told of the object.
async fn told(answer: Response<Incoming>, name: &str) {
    assert_eq!(answer.status(), 200);
    let (mut body, mut seen) = (answer.into_body(), Vec::new());
    while !String::from_utf8_lossy(&seen).contains(name) {
        let frame = body.frame().await.expect("the watch goes on").unwrap();
        seen.extend_from_slice(frame.data_ref().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watches_on_one_connection_all_hear() {
    let cluster = Cluster::start().await;
    let mut tasks = JoinSet::new();
    let sender = connected(&cluster, &mut tasks).await;
    let bounds = Bounds::begin("250 watches on one connection");
    let watches = (0..WATCHES).map(|_| {
        let mut sender = sender.clone();
        async move { sender.send_request(request(&format!("{MAPS}?watch=1"))).await.unwrap() }
    });
    let watches = join_all(watches).await;
    // One more has to wait until another ends, and does not end the connection.
    let mut late = sender.clone();
    let late = late.send_request(request("/version"));
    let mut late = std::pin::pin!(late);
    let waits = tokio::time::timeout(Duration::from_millis(100), late.as_mut()).await;
    assert!(waits.is_err(), "{waits:?}");
    let object = json!({"metadata": {"name": "seen-by-all"}});
    assert_eq!(cluster.call(&cluster.admin(), Method::POST, MAPS, &object).await.0, 201);
    let all = join_all(watches.into_iter().map(|watch| told(watch, "seen-by-all")));
    tokio::time::timeout(Duration::from_secs(5), all).await.expect("all have heard of it");
    assert_eq!(late.await.unwrap().status(), 200);
    bounds.hold();
    still_serves(&cluster).await;
    tasks.abort_all();
    cluster.shutdown().await;
}

/// Requests that are reset as soon as they are made are cheap, or end the connection.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_taken_back_at_once() {
    let cluster = Cluster::start().await;
    let mut tasks = JoinSet::new();
    let mut sender = connected(&cluster, &mut tasks).await;
    let bounds = Bounds::begin("thousands of resets");
    for _ in 0..3000 {
        if sender.ready().await.is_err() {
            break;
        }
        let asked = sender.send_request(request(&format!("{MAPS}?watch=1")));
        let soon = tokio::time::timeout(Duration::from_micros(50), asked).await;
        drop(soon);
    }
    bounds.hold();
    still_serves(&cluster).await;
    tasks.abort_all();
    cluster.shutdown().await;
}
