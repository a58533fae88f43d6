//! HTTP probes against sockets that answer with fixed bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with the next text; returns port and the requests it saw.
async fn serve(answers: Vec<&'static str>) -> (u16, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    let task = tokio::spawn(async move {
        let mut seen = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            seen.push(String::from_utf8_lossy(&buffer[..count]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        seen
    });
    (port, task)
}

fn target(port: u16) -> Target {
    let action: HTTPGetAction =
        serde_json::from_value(serde_json::json!({"port": port, "path": "/healthz"})).unwrap();
    Target::of(&action, &[], "127.0.0.1", "kube-probe/1.36").unwrap()
}

const TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_status_decides() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", Outcome::Success),
        (
            "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
            Outcome::Failure("HTTP probe failed with statuscode: 503".into()),
        ),
    ] {
        let (port, task) = serve(vec![answer]).await;
        assert_eq!(target(port).probe(TIMEOUT).await, expected);
        let request = task.await.unwrap().remove(0).to_lowercase();
        assert!(request.starts_with("get /healthz http/1.1\r\n"), "{request}");
        for header in ["user-agent: kube-probe/1.36", "accept: */*", "connection: close"] {
            assert!(request.contains(header), "{header} in {request}");
        }
    }
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed_and_another_host_is_a_warning() {
    let (port, _task) = serve(vec![
        "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n",
    ])
    .await;
    assert!(matches!(target(port).probe(TIMEOUT).await, Outcome::Failure(_)));
    let (port, _task) =
        serve(vec!["HTTP/1.1 302 F\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n"])
            .await;
    assert!(matches!(target(port).probe(TIMEOUT).await, Outcome::Warning(_)));
}

#[tokio::test]
async fn refusal_and_silence_read_as_from_go() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let Outcome::Failure(text) = target(port).probe(Duration::from_millis(50)).await else {
        panic!("silence must fail")
    };
    assert!(text.contains("context deadline exceeded"), "{text}");
    drop(listener);
    let Outcome::Failure(text) = target(port).probe(TIMEOUT).await else {
        panic!("refusal must fail")
    };
    assert_eq!(
        text,
        format!(
            "Get \"http://127.0.0.1:{port}/healthz\": dial tcp 127.0.0.1:{port}: connect: \
             connection refused"
        )
    );
}

#[test]
fn ports_are_found_by_name() {
    let ports: Vec<ContainerPort> =
        serde_json::from_value(serde_json::json!([{"name": "web", "containerPort": 80}])).unwrap();
    assert_eq!(port_number(&IntOrString::String("web".into()), &ports), Ok(80));
    assert!(port_number(&IntOrString::String("nope".into()), &ports).is_err());
    assert!(port_number(&IntOrString::Int(0), &ports).is_err());
}
