//! Clients that take their time, and those that are gone.

use std::time::{Duration, Instant};

use atoll_apiserver::config::Patience;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{MAPS, codes, still_serves};
use crate::client::Cluster;

const PATIENCE: Duration = Duration::from_millis(400);
/// What is slow is ended by then.
const ENDED_WITHIN: Duration = Duration::from_secs(4);

async fn world() -> Cluster {
    let patience = Patience { headers: PATIENCE, body: PATIENCE };
    Cluster::start_with(|config| config.patience = patience).await
}

/// Sends the first bytes at once, then one at a time; gives what was answered by the end.
async fn trickle<S>(stream: S, first: &[u8], rest: u8) -> String
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let begun = Instant::now();
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async {
        drop(write.write_all(first).await);
        loop {
            let sent = async {
                write.write_all(&[rest]).await?;
                write.flush().await
            };
            if sent.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    let mut answer = Vec::new();
    let reading = async {
        // However it ends: closed in order, or cut off.
        drop(read.read_to_end(&mut answer).await);
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
        () = tokio::time::sleep(ENDED_WITHIN) => panic!("still open after {ENDED_WITHIN:?}"),
    }
    assert!(begun.elapsed() >= PATIENCE / 2, "ended at once: {:?}", begun.elapsed());
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_is_closed() {
    let cluster = world().await;
    // Before TLS, within its handshake, and after it.
    let mut silent = TcpStream::connect(cluster.address).await.unwrap();
    let read = tokio::time::timeout(ENDED_WITHIN, silent.read(&mut [0; 64])).await;
    assert_eq!(read.expect("closed").unwrap(), 0);
    let half = TcpStream::connect(cluster.address).await.unwrap();
    trickle(half, &[0x16, 3, 1, 0, 0xff, 1], 0).await;
    let mut stream = cluster.connect(&cluster.admin(), &["h2", "http/1.1"]).await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(ENDED_WITHIN, stream.read_to_end(&mut rest)).await;
    drop(read.expect("closed"));
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_and_bodies_that_trickle_are_cut_off() {
    let cluster = world().await;
    let admin = cluster.admin();
    let stream = cluster.connect(&admin, &[]).await.unwrap();
    let answer = trickle(stream, b"GET /version HTTP/1.1\r\nx: ", b'a').await;
    assert!(!answer.contains("gitVersion"), "{answer}");
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: 100000\r\n\r\n{{\"data\":\""
    );
    let stream = cluster.connect(&admin, &[]).await.unwrap();
    let answer = trickle(stream, head.as_bytes(), b'x').await;
    assert_eq!(codes(&answer), [504], "{answer}");
    assert!(answer.contains("the body did not arrive in time"), "{answer}");
    // The frame of a request's headers that goes on and on.
    let stream = cluster.connect(&admin, &["h2"]).await.unwrap();
    let mut opened = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    opened.extend_from_slice(&[0, 0x3f, 0xff, 1, 0, 0, 0, 0, 1]);
    trickle(stream, &opened, 0).await;
    still_serves(&cluster).await;
    cluster.shutdown().await;
}

/// A hundred at once take no place from anybody.
#[tokio::test(flavor = "multi_thread")]
async fn many_slow_clients_hold_nobody_up() {
    let cluster = world().await;
    let admin = cluster.admin();
    let mut open = Vec::new();
    for number in 0..100 {
        let mut stream = cluster.connect(&admin, &[]).await.unwrap();
        let head = if number % 2 == 0 {
            "GET / HTTP/1.1\r\nx: ".to_owned()
        } else {
            format!(
                "POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 10\r\n\r\n{{"
            )
        };
        stream.write_all(head.as_bytes()).await.unwrap();
        open.push(stream);
    }
    still_serves(&cluster).await;
    for mut stream in open {
        let mut rest = Vec::new();
        drop(tokio::time::timeout(ENDED_WITHIN, stream.read_to_end(&mut rest)).await.unwrap());
    }
    cluster.shutdown().await;
}

/// Who closes the way there but goes on listening, and who goes without a word in the middle of
/// a request.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_half_open_end() {
    let cluster = world().await;
    let admin = cluster.admin();
    let watch = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut stream = cluster.connect(&admin, &[]).await.unwrap();
    stream.write_all(watch.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    drop(tokio::time::timeout(ENDED_WITHIN, stream.read_to_end(&mut rest)).await.expect("ended"));
    for cut in ["GET /api/v1/na", "POST /api/v1/namespaces HTTP/1.1\r\ncontent-length: 9\r\n\r\n{"]
    {
        let mut stream = cluster.connect(&admin, &[]).await.unwrap();
        stream.write_all(cut.as_bytes()).await.unwrap();
        drop(stream);
    }
    still_serves(&cluster).await;
    cluster.shutdown().await;
}
