//! What probes, proxies and impatient clients meet besides the calls: plain HTTP, metrics, gRPC's
//! health, compression, streams that are half closed or taken back; as an etcd has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_etcd::proto::etcdserverpb::kv_client::KvClient;
use atoll_etcd::proto::etcdserverpb::watch_request::RequestUnion;
use atoll_etcd::proto::etcdserverpb::{
    DefragmentRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use atoll_etcd::proto::grpc_health_v1::HealthCheckRequest;
use atoll_etcd::proto::grpc_health_v1::health_client::HealthClient;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::{Code, Request, Status, Streaming};

use crate::etcd::Release;
use crate::random::Pair;
use crate::raw::Raw;
use crate::served::PATIENCE;

/// Streams that are taken back at once.
const TAKEN_BACK: u32 = 500;

/// The head and the body of an answer to HTTP/1.1.
async fn http(address: SocketAddr, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let is_in_chunks = head.to_lowercase().contains("transfer-encoding: chunked");
    (head.to_owned(), if is_in_chunks { joined(body) } else { body.to_owned() })
}

/// A body that came in chunks, each after its size.
fn joined(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let (chunk, rest) = rest.split_at(usize::from_str_radix(size, 16).unwrap());
        out.push_str(chunk);
        body = rest.trim_start_matches("\r\n");
    }
    out
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (String, String) {
    http(address, "GET", path).await
}

/// What is the same whoever answers.
fn levelled((head, body): (String, String)) -> (Vec<String>, String) {
    let names = ["content-type", "allow", "x-content-type-options"];
    let mut lines = head.lines();
    let mut kept = vec![lines.next().unwrap_or_default().to_owned()];
    let fields = lines.filter_map(|line| line.split_once(": "));
    let fields = fields.map(|(name, value)| (name.to_lowercase(), value));
    kept.extend(
        fields
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value}")),
    );
    kept[1..].sort();
    (kept, body)
}

async fn plain(pair: &Pair) {
    let [ours, theirs] = pair.addresses();
    for (method, path) in [
        ("GET", "/health"),
        ("GET", "/health?exclude=NOSPACE&exclude=CORRUPT&serializable=true"),
        ("HEAD", "/health"),
        ("POST", "/health"),
        ("DELETE", "/health"),
        ("PUT", "/version"),
        ("GET", "/nothing"),
        ("GET", "/livez/nothing"),
    ] {
        let (found, expected) = (http(ours, method, path).await, http(theirs, method, path).await);
        assert_eq!(levelled(found), levelled(expected), "{method} {path}");
    }
    // Later releases alone have these.
    for (path, expected) in [
        ("/livez", "ok\n"),
        ("/readyz", "ok\n"),
        ("/livez?verbose", "[+]serializable_read ok\nok\n"),
        ("/readyz/linearizable_read", "ok\n"),
        (
            "/readyz?verbose=true&exclude=serializable_read&exclude=nothing",
            "[+]data_corruption ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
        ),
    ] {
        let (head, body) = levelled(get(ours, path).await);
        let expected_head = [
            "HTTP/1.1 200 OK",
            "content-type: text/plain; charset=utf-8",
            "x-content-type-options: nosniff",
        ];
        assert_eq!(
            (head, body.as_str()),
            (expected_head.map(str::to_owned).to_vec(), expected),
            "{path}"
        );
    }
    let (head, _) = levelled(http(ours, "POST", "/readyz").await);
    assert_eq!(head[..2], ["HTTP/1.1 405 Method Not Allowed", "allow: GET"]);
}

/// Everything that ours counts has the name, the kind and the words that theirs has.
async fn metrics(pair: &mut Pair) {
    // Its own copy of what lives is written before it answers.
    let maintenance = &mut pair.ours.raw.maintenance;
    maintenance.defragment(DefragmentRequest {}).await.expect("it is done");
    let [ours, theirs] = pair.addresses();
    let (found, expected) = (get(ours, "/metrics").await.1, get(theirs, "/metrics").await.1);
    let heads = |page: &str| -> BTreeSet<String> {
        page.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect()
    };
    let others: Vec<_> = heads(&found).difference(&heads(&expected)).cloned().collect();
    assert_eq!(others, Vec::<String>::new(), "theirs has no such metrics");
    assert!(found.contains("etcd_server_version{server_version=\"3.6.8\"} 1\n"), "{found}");
    assert!(found.contains("etcd_cluster_version{cluster_version=\"3.6\"} 1\n"), "{found}");
    let watches = "grpc_server_started_total{grpc_method=\"Watch\",\
                   grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} ";
    let number = |page: &str, name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {name} in {page}"))
    };
    for name in ["etcd_debugging_mvcc_keys_total ", watches] {
        assert_eq!(number(&found, name), number(&expected, name), "{name}");
    }
    assert_eq!(number(&found, "etcd_server_proposals_pending "), "0");
    assert_eq!(number(&found, "process_cpu_seconds_total "), "1.5");
    for name in
        ["etcd_disk_wal_fsync_duration_seconds", "etcd_disk_backend_commit_duration_seconds"]
    {
        let bounds = |page: &str| -> Vec<String> {
            let start = format!("{name}_bucket{{le=");
            let lines = page.lines().filter_map(|line| line.strip_prefix(&start));
            lines.filter_map(|line| Some(line.split_once('}')?.0.to_owned())).collect()
        };
        assert_eq!(bounds(&found), bounds(&expected), "{name}");
        let count: u64 = number(&found, &format!("{name}_count ")).parse().unwrap();
        let sum: f64 = number(&found, &format!("{name}_sum ")).parse().unwrap();
        assert!(count > 0 && sum > 0.0, "{name}: {count}, {sum} s");
    }
    for name in
        ["etcd_mvcc_put_total ", "etcd_mvcc_range_total ", "etcd_server_leader_changes_seen_total "]
    {
        assert_ne!(number(&found, name), "0", "{name}");
    }
}

/// A stream that its client has taken back ends, and is counted so.
async fn cancelled_watches(pair: &Pair) {
    let expected = [
        "etcd_debugging_mvcc_watcher_total 0",
        "etcd_debugging_mvcc_watch_stream_total 0",
        "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",\
         grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 1",
    ];
    let deadline = Instant::now() + PATIENCE;
    for address in pair.addresses() {
        loop {
            let (_, page) = get(address, "/metrics").await;
            if expected.iter().all(|line| page.lines().any(|one| one == *line)) {
                break;
            }
            assert!(Instant::now() < deadline, "{address}: {page}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A stream with one watch, on which the client will ask for nothing more.
async fn half_closed(raw: &mut Raw) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest { key: "half".into(), ..WatchCreateRequest::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let answers = raw.watch.watch(tokio_stream::iter([create])).await.expect("a stream");
    let mut answers = answers.into_inner();
    assert!(answers.message().await.unwrap().expect("it is made").created);
    answers
}

async fn half_closed_streams(pair: &mut Pair) {
    for raw in [&mut pair.ours.raw, &mut pair.theirs.raw] {
        let mut answers = half_closed(raw).await;
        let early = timeout(Duration::from_millis(100), answers.message()).await;
        assert!(early.is_err(), "nothing has happened yet: {early:?}");
        let put = PutRequest { key: "half".into(), ..PutRequest::default() };
        raw.kv.put(put).await.unwrap();
        let answer = timeout(PATIENCE, answers.message()).await.expect("the watch goes on");
        assert_eq!(answer.unwrap().expect("an event").events.len(), 1);
    }
}

async fn health(pair: &Pair) {
    for raw in [&pair.ours.raw, &pair.theirs.raw] {
        let mut health = HealthClient::with_origin(raw.channel.clone(), raw.channel.origin());
        let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let serving = health.check(ask("")).await.unwrap().into_inner();
        assert_eq!(serving.status().as_str_name(), "SERVING");
        let unknown = health.check(ask("etcdserverpb.KV")).await.unwrap_err();
        assert_eq!((unknown.code(), unknown.message()), (Code::NotFound, "unknown service"));
        for (service, status) in [("", "SERVING"), ("other", "SERVICE_UNKNOWN")] {
            let mut told = health.watch(ask(service)).await.unwrap().into_inner();
            let first = timeout(PATIENCE, told.message()).await.unwrap().unwrap().unwrap();
            assert_eq!(first.status().as_str_name(), status);
            let more = timeout(Duration::from_millis(50), told.message()).await;
            assert!(more.is_err(), "{more:?}");
        }
    }
}

/// How an answer was compressed, or the code of the refusal.
fn encoding<T>(answer: Result<tonic::Response<T>, Status>) -> Result<Option<String>, Code> {
    let answer = answer.map_err(|status| status.code())?;
    let encoding = answer.metadata().get("grpc-encoding");
    Ok(encoding.map(|encoding| encoding.to_str().unwrap().to_owned()))
}

async fn compressed(pair: &Pair) {
    let mut told = Vec::new();
    for raw in [&pair.ours.raw, &pair.theirs.raw] {
        let plain = KvClient::with_origin(raw.channel.clone(), raw.channel.origin());
        let mut plain = plain.accept_compressed(Gzip);
        let mut sending = plain.clone().send_compressed(Gzip);
        let put = |bytes: usize| PutRequest {
            key: "zipped".into(),
            value: vec![b'0'; bytes].into(),
            ..PutRequest::default()
        };
        let range = || RangeRequest { key: "zipped".into(), ..RangeRequest::default() };
        let large = encoding(sending.put(put(1_000_000)).await);
        let read = sending.range(range()).await;
        assert_eq!(read.as_ref().unwrap().get_ref().kvs[0].value.len(), 1_000_000);
        // Small on the wire, and too large.
        let bomb = encoding(sending.put(put(64 << 20)).await);
        let unasked = encoding(plain.range(range()).await);
        let mut deflated = Request::new(range());
        deflated.metadata_mut().insert("grpc-encoding", "deflate".parse().unwrap());
        let refused = plain.range(deflated).await.unwrap_err();
        let refused = (refused.code(), refused.message().to_owned());
        told.push((large, encoding(read), bomb, unasked, refused));
    }
    let [ours, theirs] = told.as_slice() else { panic!("two sides") };
    assert_eq!(ours.0, Ok(Some("gzip".to_owned())));
    assert_eq!(ours.2, Err(Code::ResourceExhausted));
    assert_eq!(ours, theirs);
}

/// Frames of HTTP/2: kind, flags, stream, content.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(content);
    out
}

/// `POST /etcdserverpb.KV/Range`, as literals of HPACK.
fn head() -> Vec<u8> {
    let mut out = vec![0x83, 0x86];
    let mut literal = |index: &[u8], value: &str| {
        out.extend(index);
        out.push(u8::try_from(value.len()).unwrap());
        out.extend(value.as_bytes());
    };
    literal(&[0x04], "/etcdserverpb.KV/Range");
    literal(&[0x01], "localhost");
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 0x02, b't', b'e'], "trailers");
    out
}

/// Whether the connection goes on after many streams were opened and taken back in one write.
async fn outlives_resets(address: SocketAddr) -> bool {
    let (headers, reset, settings, ping) = (1, 3, 4, 6);
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(settings, 0, 0, &[]));
    let cancel = 8u32.to_be_bytes();
    for number in 0..TAKEN_BACK {
        bytes.extend(frame(headers, 0x4, number * 2 + 1, &head()));
        bytes.extend(frame(reset, 0, number * 2 + 1, &cancel));
    }
    bytes.extend(frame(ping, 0, 0, b"goes on?"));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut header = [0; 9];
        if stream.read_exact(&mut header).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut content = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut content).await.unwrap();
        match header[3] {
            GOAWAY => return false,
            PING if content == b"goes on?" => return true,
            _ => {}
        }
    }
}

/// Later releases than the one that is compared with refuse it at once.
async fn a_watch_from_below_zero(raw: &mut Raw) {
    let create = WatchCreateRequest { key: "a".into(), start_revision: -1, ..Default::default() };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let answers = raw.watch.watch(tokio_stream::iter([create])).await.expect("a stream");
    let answer = answers.into_inner().message().await.unwrap().expect("an answer");
    assert!(answer.created && answer.canceled && answer.watch_id == -1, "{answer:?}");
    let reason = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(answer.cancel_reason, reason);
}

/// Metadata as long as some tokens.
async fn long_metadata(pair: &mut Pair) {
    for raw in [&mut pair.ours.raw, &mut pair.theirs.raw] {
        for bytes in [17_000, 200_000] {
            let mut request = Request::new(RangeRequest { key: "a".into(), ..Default::default() });
            request.metadata_mut().insert("x-long", "x".repeat(bytes).parse().unwrap());
            raw.kv.range(request).await.expect("it is read");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_impatient_clients_meet_what_an_etcd_has() {
    let Some(mut pair) = Pair::start(Release::Distro35).await else { return };
    half_closed_streams(&mut pair).await;
    cancelled_watches(&pair).await;
    plain(&pair).await;
    metrics(&mut pair).await;
    health(&pair).await;
    compressed(&pair).await;
    long_metadata(&mut pair).await;
    a_watch_from_below_zero(&mut pair.ours.raw).await;
    for address in pair.addresses() {
        let goes_on = timeout(PATIENCE, outlives_resets(address)).await.expect("an answer");
        assert!(goes_on, "{address} ends a connection whose streams were taken back");
    }
}
