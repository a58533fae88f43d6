//! Forwarding to a listener of the test's own, spoken to in frames as kubectl would.

use tokio::net::TcpListener;

use super::*;
use crate::kubelet::spdy::frame::{FLAG_FIN, Frame, Reader, Writer};

async fn echo_once() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    });
    port
}

fn headers(kind: &str, port: u16) -> spdy::Headers {
    [("streamtype", kind.to_owned()), ("port", port.to_string()), ("requestid", "0".to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
}

async fn forward(port: u16) -> (Vec<u8>, String) {
    forward_and(port, FLAG_FIN).await
}

/// With `flags` on what the client says: whether it is done with that.
async fn forward_and(port: u16, flags: u8) -> (Vec<u8>, String) {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (read, write) = tokio::io::split(far);
    let (mut reader, mut writer) = (Reader::new(read), Writer::new(write));
    let client = async {
        let open =
            |stream, kind| Frame::SynStream { stream, headers: headers(kind, port), flags: 0 };
        writer.write(open(1, "error")).await.unwrap();
        writer.write(open(3, "data")).await.unwrap();
        let bytes = Bytes::from("ping");
        writer.write(Frame::Data { stream: 3, bytes, flags }).await.unwrap();
        let (mut answer, mut error, mut ended) = (Vec::new(), String::new(), 0);
        while ended < 2 {
            match reader.next().await.unwrap().unwrap() {
                Frame::Data { stream, bytes, flags } => {
                    if stream == 3 {
                        answer.extend_from_slice(&bytes);
                    } else {
                        error.push_str(std::str::from_utf8(&bytes).unwrap());
                    }
                    ended += i32::from(flags & FLAG_FIN != 0);
                }
                Frame::SynReply { .. } => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        (answer, error)
    };
    tokio::select! {
        result = client => result,
        () = serve_spdy(near, Way::default()) => panic!("the server ended first"),
    }
}

#[tokio::test]
async fn bytes_go_there_and_back() {
    let port = echo_once().await;
    assert_eq!(forward(port).await, (b"ping".to_vec(), String::new()));
}

#[tokio::test]
async fn a_closed_port_is_told_on_the_error_stream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (answer, error) = forward(port).await;
    assert!(answer.is_empty());
    assert!(error.contains(&format!("error forwarding port {port} to pod")), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn the_pods_end_reaches_a_client_that_is_not_done() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        stream.write_all(b"bye").await.unwrap();
    });
    let answer = tokio::time::timeout(Duration::from_secs(5), forward_and(port, 0)).await;
    assert_eq!(answer.unwrap(), (b"bye".to_vec(), String::new()));
}
