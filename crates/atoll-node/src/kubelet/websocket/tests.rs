//! Sessions over an in-memory socket, with the client's side of the library.

use serde_json::json;

use super::*;
use crate::kubelet::remote::{self, Session};

async fn session(
    protocol: &'static str,
) -> (Session, WebSocketStream<tokio::io::DuplexStream>, tokio::task::JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let server = accept(ours).await;
    let client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
    let (session, far) = remote::pair();
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    let task = tokio::spawn(async move { serve(server, protocol, far).await });
    (session, client, task)
}

async fn next(client: &mut WebSocketStream<tokio::io::DuplexStream>) -> Message {
    client.next().await.unwrap().unwrap()
}

#[tokio::test]
async fn output_and_end_arrive_on_their_channels() {
    let (session, mut client, task) = session("v5.channel.k8s.io").await;
    assert_eq!(next(&mut client).await, Message::binary(vec![1]));
    session.output.send((Channel::Stderr, Bytes::from("oops"))).await.unwrap();
    drop(session.output);
    session.end.send(json!({"status": "Success"})).unwrap();
    assert_eq!(next(&mut client).await, Message::binary(b"\x02oops".to_vec()));
    assert_eq!(next(&mut client).await, Message::binary(b"\x03{\"status\":\"Success\"}".to_vec()));
    assert!(next(&mut client).await.is_close());
    task.await.unwrap();
}

#[tokio::test]
async fn input_ends_by_the_close_message_of_version_5() {
    let (mut session, mut client, _task) = session("v5.channel.k8s.io").await;
    client.send(Message::binary(b"\x00hello".to_vec())).await.unwrap();
    client.send(Message::binary(b"\x04{\"Width\":80,\"Height\":24}".to_vec())).await.unwrap();
    client.send(Message::binary(vec![255, 0])).await.unwrap();
    assert_eq!(session.stdin.recv().await.unwrap(), "hello");
    assert_eq!(session.resize.recv().await, Some((80, 24)));
    assert_eq!(session.stdin.recv().await, None);
}

#[tokio::test]
async fn a_client_that_goes_closes_the_session() {
    let (session, mut client, task) = session("v4.channel.k8s.io").await;
    client.close(None).await.unwrap();
    session.closed.cancelled().await;
    task.await.unwrap();
}

#[test]
fn the_base64_form_writes_text() {
    let form = Form::of("base64.channel.k8s.io");
    let message = form.encode(1, b"hi");
    assert_eq!(message, Message::text("1aGk="));
    assert_eq!(form.decode(Message::text("0aGk=")), Some((0, Bytes::from("hi"))));
    assert!(form.end(&json!({"status": "Success"})).is_none());
}
