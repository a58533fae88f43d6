//! The server on real sockets: a snapshot that changes, an upstream of ours, and bad input.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use atoll_dns::{Config, Endpoint, Port, Protocol, Service, Snapshot, Upstreams, serve};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(8);

struct Server {
    address: SocketAddr,
    folder: tempfile::TempDir,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    asked_upstream: Arc<AtomicUsize>,
}

/// Waits for a condition that another task brings about.
async fn until(condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Server {
    async fn with(snapshot: Option<&Snapshot>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(snapshot) = snapshot {
            snapshot.write(&folder.path().join("snapshot.json")).unwrap();
        }
        let mut tasks = JoinSet::new();
        let asked_upstream = Arc::new(AtomicUsize::new(0));
        let upstream = upstream(&mut tasks, Arc::clone(&asked_upstream)).await;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let stop = CancellationToken::new();
        let config = Config {
            listen: vec![address],
            snapshot: folder.path().join("snapshot.json"),
            cluster_domain: "cluster.local".to_owned(),
            upstreams: Upstreams::Fixed(vec![upstream]),
        };
        let token = stop.clone();
        tasks.spawn(async move { serve(config, token).await.unwrap() });
        let server = Self { address, folder, stop, tasks, asked_upstream };
        until(async || server.answers().await).await;
        server
    }

    async fn answers(&self) -> bool {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        let ask = query("x.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        let mut buffer = [0; 512];
        socket.send(&ask).await.is_ok()
            && matches!(
                timeout(Duration::from_millis(200), socket.recv(&mut buffer)).await,
                Ok(Ok(_))
            )
    }

    fn snapshot(&self) -> PathBuf {
        self.folder.path().join("snapshot.json")
    }

    async fn udp(&self, question: &Message) -> Message {
        Message::from_vec(&self.udp_bytes(&question.to_vec().unwrap()).await.unwrap()).unwrap()
    }

    async fn udp_bytes(&self, question: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(question, self.address).await.unwrap();
        let mut buffer = vec![0; 65_536];
        let length = timeout(PATIENCE / 8, socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    async fn tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = question.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap();
    }
}

/// Answers every A question with 192.0.2.1; knows nothing of `nowhere.test`.
async fn upstream(tasks: &mut JoinSet<()>, asked: Arc<AtomicUsize>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            let name = question.queries[0].name().clone();
            if name.to_ascii() == "silent.test." {
                continue;
            }
            let mut answer = Message::response(question.id, OpCode::Query);
            answer.queries.clone_from(&question.queries);
            if name.to_ascii() == "nowhere.test." {
                answer.metadata.response_code = ResponseCode::NXDomain;
            } else {
                answer.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
            }
            // A forged answer first: it must not be believed.
            let mut forged = answer.clone();
            forged.metadata.id = question.id.wrapping_add(1);
            socket.send_to(&forged.to_vec().unwrap(), client).await.unwrap();
            socket.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    address
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn web(address: &str) -> Snapshot {
    Snapshot {
        services: vec![Service {
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            cluster_addresses: vec![address.parse().unwrap()],
            ports: vec![Port { name: "http".to_owned(), protocol: Protocol::Tcp, port: 80 }],
            ..Service::default()
        }],
        ..Snapshot::default()
    }
}

fn headless(endpoints: u8) -> Snapshot {
    let endpoint = |number| Endpoint {
        address: Ipv4Addr::new(10, 42, 1, number).into(),
        hostname: None,
        ready: true,
        ports: Vec::new(),
    };
    Snapshot {
        services: vec![Service {
            namespace: "default".to_owned(),
            name: "many".to_owned(),
            endpoints: (0..endpoints).map(endpoint).collect(),
            ..Service::default()
        }],
        ..Snapshot::default()
    }
}

fn first_text(message: &Message) -> String {
    message.answers[0].data.to_string()
}

#[tokio::test]
async fn answers_by_udp_and_tcp_with_a_short_life() {
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    let question = query("web.default.svc.cluster.local.", RecordType::A);
    for answer in [server.udp(&question).await, server.tcp(&question).await] {
        assert_eq!(first_text(&answer), "10.43.0.20");
        assert_eq!((answer.id, answer.answers[0].ttl), (question.id, 5));
        assert!(answer.authoritative && answer.recursion_available);
    }
    let missing = server.udp(&query("gone.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(missing.response_code, ResponseCode::NXDomain);
    assert_eq!(missing.authorities.len(), 1);
    let nothing = server.udp(&query("web.default.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!((nothing.response_code, nothing.answers.len()), (ResponseCode::NoError, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_renamed_snapshot_takes_effect_and_a_broken_one_does_not() {
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    let question = query("web.default.svc.cluster.local.", RecordType::A);
    web("10.43.0.21").write(&server.snapshot()).unwrap();
    until(async || first_text(&server.udp(&question).await) == "10.43.0.21").await;
    std::fs::write(server.snapshot(), "{\"version\":1,").unwrap();
    std::fs::write(server.snapshot(), "{\"version\":99}").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(first_text(&server.udp(&question).await), "10.43.0.21");
    std::fs::remove_file(server.snapshot()).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(first_text(&server.udp(&question).await), "10.43.0.21");
}

#[tokio::test]
async fn before_the_first_snapshot_nothing_is_denied() {
    let server = Server::with(None).await;
    let question = query("web.default.svc.cluster.local.", RecordType::A);
    assert_eq!(server.udp(&question).await.response_code, ResponseCode::ServFail);
    let outside = server.udp(&query("example.test.", RecordType::A)).await;
    assert_eq!(first_text(&outside), "192.0.2.1");
}

#[tokio::test]
async fn other_names_are_forwarded_once_and_kept_for_a_while() {
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    for _ in 0..3 {
        let answer = server.udp(&query("example.test.", RecordType::A)).await;
        assert_eq!(first_text(&answer), "192.0.2.1");
        assert!(!answer.authoritative);
    }
    assert_eq!(server.asked_upstream.load(Ordering::Relaxed), 1);
    let answer = server.tcp(&query("nowhere.test.", RecordType::A)).await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_silent_upstream_is_a_failure_in_time_and_holds_nobody_up() {
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    let silent = query("silent.test.", RecordType::A);
    let waiting = async {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        socket.send_to(&silent.to_vec().unwrap(), server.address).await.unwrap();
        let mut buffer = [0; 512];
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    };
    let web = query("web.default.svc.cluster.local.", RecordType::A);
    let meanwhile = server.udp(&web);
    let (failed, answered) = tokio::join!(waiting, meanwhile);
    assert_eq!(failed.response_code, ResponseCode::ServFail);
    assert_eq!(first_text(&answered), "10.43.0.20");
}

#[tokio::test]
async fn an_external_name_brings_its_addresses() {
    let mut snapshot = web("10.43.0.20");
    snapshot.services[0].cluster_addresses.clear();
    snapshot.services[0].external_name = Some("example.test".to_owned());
    let server = Server::with(Some(&snapshot)).await;
    let answer = server.udp(&query("web.default.svc.cluster.local.", RecordType::A)).await;
    let texts: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    assert_eq!(texts, ["example.test.", "192.0.2.1"]);
}

#[tokio::test]
async fn an_external_name_that_leads_nowhere_says_so_and_a_zone_is_not_handed_out() {
    let mut snapshot = web("10.43.0.20");
    for (name, target) in [("out", "nowhere.test"), ("in", "no.default.svc.cluster.local")] {
        snapshot.services.push(Service {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            external_name: Some(target.to_owned()),
            ..Service::default()
        });
    }
    let server = Server::with(Some(&snapshot)).await;
    for name in ["out", "in"] {
        let name = format!("{name}.default.svc.cluster.local.");
        let answer = server.udp(&query(&name, RecordType::A)).await;
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NXDomain, 1));
    }
    for name in ["cluster.local.", "example.test."] {
        let answer = server.tcp(&query(name, RecordType::AXFR)).await;
        assert_eq!(answer.response_code, ResponseCode::Refused);
    }
    assert_eq!(server.asked_upstream.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn what_does_not_fit_a_datagram_comes_by_tcp() {
    let server = Server::with(Some(&headless(200))).await;
    let mut question = query("many.default.svc.cluster.local.", RecordType::A);
    let bytes = server.udp_bytes(&question.to_vec().unwrap()).await.unwrap();
    let cut = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && cut.truncation && !cut.answers.is_empty());
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let bytes = server.udp_bytes(&question.to_vec().unwrap()).await.unwrap();
    assert!((513..=1232).contains(&bytes.len()), "{}", bytes.len());
    assert!(Message::from_vec(&bytes).unwrap().edns.is_some());
    let whole = server.tcp(&question).await;
    assert!(!whole.truncation);
    assert_eq!(whole.answers.len(), 200);
}

#[tokio::test]
async fn endpoints_take_turns_in_being_first() {
    let server = Server::with(Some(&headless(4))).await;
    let question = query("many.default.svc.cluster.local.", RecordType::A);
    let mut first = std::collections::HashSet::new();
    for _ in 0..4 {
        first.insert(first_text(&server.udp(&question).await));
    }
    assert_eq!(first.len(), 4);
}

#[tokio::test]
async fn bad_questions_are_told_off_and_harm_nobody() {
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    let mut good = query("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    // Every prefix of a question, every byte of it flipped, and plain noise.
    for length in 0..good.len() {
        server_survives(&server, &good[..length]).await;
    }
    for at in 0..good.len() {
        good[at] ^= 0xff;
        server_survives(&server, &good).await;
        good[at] ^= 0xff;
    }
    let looping = [&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat();
    let answer = server.udp_bytes(&looping).await.unwrap();
    assert_eq!(answer[3] & 0x0f, 1, "FORMERR");
    let mut update = query("web.default.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    assert_eq!(server.udp(&update).await.response_code, ResponseCode::NotImp);
    let two = {
        let mut message = query("a.test.", RecordType::A);
        message.add_query(Query::query(Name::root(), RecordType::A));
        message
    };
    let answer = server.udp(&two).await;
    assert_eq!((answer.response_code, answer.queries.len()), (ResponseCode::FormErr, 0));
    let answer = server.udp(&query("web.default.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(first_text(&answer), "10.43.0.20");
}

async fn server_survives(server: &Server, bytes: &[u8]) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(bytes, server.address).await.unwrap();
}

#[tokio::test]
async fn an_outside_program_agrees() {
    let Some(dig) = ["/usr/bin/dig"].into_iter().find(|path| Path::new(path).exists()) else {
        #[allow(clippy::disallowed_methods, reason = "tests ask whether they run in CI")]
        let ci = std::env::var("CI").is_ok();
        assert!(!ci, "CI must have dig (Debian package bind9-dnsutils)");
        println!("skipped: dig is not installed (Debian package bind9-dnsutils)");
        return;
    };
    let server = Server::with(Some(&web("10.43.0.20"))).await;
    let ask = |arguments: &'static [&'static str]| {
        let (dig, port) = (dig, server.address.port().to_string());
        async move {
            let output = tokio::process::Command::new(dig)
                .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=3"])
                .args(arguments)
                .output()
                .await
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        }
    };
    let name = "web.default.svc.cluster.local";
    assert_eq!(ask(&["+short", "web.default.svc.cluster.local"]).await.trim(), "10.43.0.20");
    assert_eq!(
        ask(&["+short", "+tcp", "web.default.svc.cluster.local"]).await.trim(),
        "10.43.0.20"
    );
    let srv = ask(&["+short", "SRV", "_http._tcp.web.default.svc.cluster.local"]).await;
    assert_eq!(srv.trim(), format!("0 100 80 {name}."));
    assert_eq!(ask(&["+short", "-x", "10.43.0.20"]).await.trim(), format!("{name}."));
    let missing = ask(&["nope.default.svc.cluster.local"]).await;
    assert!(missing.contains("status: NXDOMAIN") && missing.contains("SOA"), "{missing}");
    assert!(!missing.contains("malformed") && !missing.contains("mismatch"), "{missing}");
    let version = ask(&["+edns=1", "+noednsneg", "web.default.svc.cluster.local"]).await;
    assert!(version.contains("status: BADVERS"), "{version}");
}
