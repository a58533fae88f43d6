//! What clients of exec, attach and port-forward send: SPDY, WebSocket, and channels; and what a
//! caller of the store's peer port sends.

use atoll_node::kubelet::spdy::frame::{Frame, Reader, Writer};
use atoll_node::kubelet::{remote, websocket};
use atoll_store::transport::fuzz as peer;
use futures::executor::block_on;

use crate::Target;

pub(super) const TARGETS: &[Target] = &[
    Target { name: "spdy", run: spdy, seeds: spdy_seeds },
    Target { name: "websocket", run: websocket, seeds: websocket_seeds },
    Target { name: "peer_greeting", run: peer::greeting, seeds: peer::greetings },
    Target { name: "peer_frames", run: peer::frames, seeds: peer::frame_streams },
];

fn spdy(input: &[u8]) {
    block_on(async {
        let mut reader = Reader::new(input);
        while let Ok(Some(_)) = reader.next().await {}
    });
}

fn spdy_seeds() -> Vec<Vec<u8>> {
    let headers = |kind: &str| vec![("streamtype".to_owned(), kind.to_owned())];
    let frames = [
        Frame::SynStream { stream: 1, headers: headers("error"), flags: 0 },
        Frame::SynStream { stream: 3, headers: headers("data"), flags: 1 },
        Frame::SynReply { stream: 1 },
        Frame::Data { stream: 1, bytes: "hello".into(), flags: 1 },
        Frame::Ping { id: 7 },
        Frame::Reset { stream: 3, status: 5 },
        Frame::GoAway,
    ];
    let mut out = Vec::new();
    block_on(async {
        let mut writer = Writer::new(&mut out);
        for frame in frames {
            if writer.write(frame).await.is_err() {
                return;
            }
        }
    });
    vec![out]
}

/// Sessions have time limits, which want a runtime.
fn within_runtime(work: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: Option<tokio::runtime::Runtime> =
            tokio::runtime::Builder::new_current_thread().enable_time().build().ok();
    }
    RUNTIME.with(|runtime| {
        if let Some(runtime) = runtime {
            runtime.block_on(work);
        }
    });
}

/// The subprotocol in the first byte.
fn websocket(input: &[u8]) {
    let Some((protocol, bytes)) = input.split_first() else { return };
    let protocol = websocket::PROTOCOLS[usize::from(*protocol) % websocket::PROTOCOLS.len()];
    within_runtime(async {
        let socket = websocket::accept(tokio::io::join(bytes, tokio::io::sink())).await;
        let (session, far) = remote::pair();
        let remote::Session { mut stdin, mut resize, output, end, closed } = session;
        let read = async {
            websocket::serve(socket, protocol, far).await;
            // Until here the session's output has not ended.
            drop((output, end, closed));
        };
        let input = async { while stdin.recv().await.is_some() {} };
        let sizes = async { while resize.recv().await.is_some() {} };
        futures::join!(read, input, sizes);
    });
}

/// A frame as clients send it: masked, here with zeros.
fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
    let mut out = vec![0x80 | opcode, 0x80 | length, 0, 0, 0, 0];
    out.extend_from_slice(&payload[..usize::from(length)]);
    out
}

fn websocket_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for protocol in 0..5 {
        let mut session = vec![protocol];
        let frames: [(u8, &[u8]); 7] = [
            (2, b"\0input"),
            (2, b"\x04{\"Width\":80,\"Height\":24}"),
            (1, b"0aW5wdXQ="),
            (1, b"4eyJXaWR0aCI6ODAsIkhlaWdodCI6MjR9"),
            (9, b"ping"),
            (2, b"\xff\0"),
            (8, b"\x03\xe8"),
        ];
        for (opcode, payload) in frames {
            session.extend_from_slice(&masked(opcode, payload));
        }
        seeds.push(session);
    }
    seeds
}
