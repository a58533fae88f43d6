//! Callers of the peer port that are no members, or that are and misbehave: they are turned away
//! or cut off, and members go on.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_identity::{Authority, Leaf, MemberIdentity};
use atoll_store::cluster::Lane;
use atoll_store::transport::{PeerMaterial, TransportConfig};
use jiff::SignedDuration;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::server::{
    CLUSTER, Server, authority, eventually, material, now, pair, provider, tls, within,
};

fn hasty() -> TransportConfig {
    TransportConfig {
        handshake_max: Duration::from_millis(400),
        handshakes_max: 8,
        ..TransportConfig::default()
    }
}

async fn start(authority: &Authority, id: u64) -> Server {
    Server::start_with(tls(material(&[authority], authority, id)), hasty()).await
}

/// The called side closes, whatever it says before.
async fn closes<S: tokio::io::AsyncRead + Unpin>(mut stream: S) {
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await;
    assert!(read.is_ok(), "the connection was not closed");
}

async fn still_works(one: &mut Server, two: &mut Server) {
    let before = two.store.seen(|seen| seen.delivered.len());
    crate::server::introduce(one, two).await;
    one.send(two.id, Lane::Bulk, "still works");
    eventually("messages arrive", || two.store.seen(|seen| seen.delivered.len()) > before).await;
}

#[tokio::test]
async fn garbage_and_silence_are_turned_away() {
    let authority = authority();
    let (mut one, mut two) = (start(&authority, 1).await, start(&authority, 2).await);
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0xff; 5000], b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(one.address()).await.unwrap();
        // It may be closed before all of it is written.
        drop(stream.write_all(garbage).await);
        closes(stream).await;
    }
    eventually("all are counted", || one.transport.turned_away().total == 4).await;
    let silent = TcpStream::connect(one.address()).await.unwrap();
    let start = Instant::now();
    closes(silent).await;
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    eventually("it is told", || {
        one.transport.turned_away().last.is_some_and(|(_, why)| why.contains("did not greet"))
    })
    .await;
    still_works(&mut one, &mut two).await;
}

#[tokio::test]
async fn callers_that_only_hold_connections_open_do_not_keep_members_out() {
    let authority = authority();
    let config = TransportConfig { handshake_max: Duration::from_secs(60), ..hasty() };
    let start =
        |id| Server::start_with(tls(material(&[&authority], &authority, id)), config.clone());
    let (mut one, mut two) = (start(1).await, start(2).await);
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(one.address()).await.unwrap());
    }
    still_works(&mut one, &mut two).await;
    eventually("most were closed", || one.transport.turned_away().total >= 92).await;
    let (_, why) = one.transport.turned_away().last.unwrap();
    assert!(why.contains("8 callers had not greeted yet"), "{why}");
    drop(idle);
}

/// Takes any server: the tests here are about what the called side does.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn tls_to(address: SocketAddr, shown: Option<PeerMaterial>) -> TlsStream<TcpStream> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match shown {
        Some(shown) => builder.with_client_auth_cert(shown.chain, shown.key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// A greeting, written by the description of the protocol and not by its code.
fn greeting(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = b"ATPEER\x01".to_vec();
    out.push(kind);
    out.extend_from_slice(&u16::try_from(body.len()).unwrap().to_le_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
    out
}

fn hello(purpose: u8, from: u64, to: u64) -> Vec<u8> {
    let mut body = vec![purpose];
    body.extend_from_slice(&1_u32.to_le_bytes());
    body.extend_from_slice(&1_u32.to_le_bytes());
    body.extend_from_slice(&CLUSTER);
    for number in [from, to, u64::MAX, 10, 1, 0, 0] {
        body.extend_from_slice(&number.to_le_bytes());
    }
    greeting(1, &body)
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_le_bytes().to_vec();
    out.push(kind);
    let sum = crc32c::crc32c_append(crc32c::crc32c(&out), payload);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(payload);
    out
}

/// A member that has greeted and been greeted.
async fn greeted(authority: &Authority, server: &Server, purpose: u8) -> TlsStream<TcpStream> {
    let mut stream = tls_to(server.address(), Some(material(&[authority], authority, 9))).await;
    hear(&mut stream).await;
    stream.write_all(&hello(purpose, 9, server.id)).await.unwrap();
    stream.flush().await.unwrap();
    hear(&mut stream).await;
    stream
}

async fn hear(stream: &mut TlsStream<TcpStream>) {
    let mut head = [0; 10];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head[..8], b"ATPEER\x01\x01");
    let mut rest = vec![0; usize::from(u16::from_le_bytes([head[8], head[9]])) + 4];
    stream.read_exact(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_caller_without_a_certificate_is_turned_away() {
    let authority = authority();
    let one = start(&authority, 1).await;
    closes(tls_to(one.address(), None).await).await;
    eventually("it is told", || {
        one.transport.turned_away().last.is_some_and(|(_, why)| why.contains("no certificate"))
    })
    .await;
}

#[tokio::test]
async fn members_that_greet_wrongly_are_turned_away() {
    let authority = authority();
    let (mut one, mut two) = (start(&authority, 1).await, start(&authority, 2).await);
    let mut cut = hello(1, 9, 1);
    cut.truncate(20);
    let mut long = hello(1, 9, 1);
    long[9] = 0xff;
    let mut sum = hello(1, 9, 1);
    sum[30] ^= 1;
    let cases = [
        (b"hello there, this is no greeting".to_vec(), "does not speak the peer protocol"),
        (long, "the limit is 4096"),
        (sum, "checksum"),
        (greeting(1, b"short"), "cannot be read"),
        (greeting(7, b""), "cannot be read"),
        (hello(9, 9, 1), "cannot be read"),
        (hello(1, 9, 5), "not the one that was called"),
        (cut, "did not greet"),
    ];
    for (bytes, reason) in cases {
        let shown = material(&[&authority], &authority, 9);
        let mut stream = tls_to(one.address(), Some(shown)).await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        closes(stream).await;
        eventually(reason, || {
            one.transport.turned_away().last.is_some_and(|(_, why)| why.contains(reason))
        })
        .await;
    }
    assert!(one.store.seen(|seen| seen.delivered.is_empty()));
    still_works(&mut one, &mut two).await;
}

#[tokio::test]
async fn members_that_send_wrong_frames_are_cut_off() {
    let authority = authority();
    let (mut one, mut two) = (start(&authority, 1).await, start(&authority, 2).await);
    let mut oversize = frame(2, b"");
    oversize[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut sum = frame(2, b"payload");
    sum[10] ^= 1;
    let endless = frame(3, &vec![0; 256 << 10]).repeat(65);
    for bytes in [oversize, sum, frame(99, b""), frame(9, b""), endless] {
        let mut stream = greeted(&authority, &one, 1).await;
        stream.write_all(&frame(2, b"a good one")).await.unwrap();
        // It may be cut off before all of it is written.
        drop(stream.write_all(&bytes).await);
        drop(stream.flush().await);
        closes(stream).await;
    }
    eventually("the good ones arrived", || one.store.seen(|seen| seen.delivered.len()) == 5).await;
    assert!(one.store.seen(|seen| seen.delivered.iter().all(|(from, _)| *from == 9)));
    still_works(&mut one, &mut two).await;
}

#[tokio::test]
async fn a_newer_connection_of_a_member_takes_the_place_of_the_older() {
    let authority = authority();
    let one = start(&authority, 1).await;
    let old = greeted(&authority, &one, 1).await;
    let mut new = greeted(&authority, &one, 1).await;
    closes(old).await;
    new.write_all(&frame(1, b"urgent")).await.unwrap();
    new.flush().await.unwrap();
    eventually("the newer one works", || one.store.seen(|seen| seen.delivered.len()) == 1).await;
}

#[tokio::test]
async fn a_member_that_says_nothing_for_too_long_is_cut_off() {
    let authority = authority();
    let config = TransportConfig { silence_max: Duration::from_millis(300), ..hasty() };
    let one = Server::start_with(tls(material(&[&authority], &authority, 1)), config).await;
    let stream = greeted(&authority, &one, 1).await;
    let start = Instant::now();
    closes(stream).await;
    assert!(start.elapsed() > Duration::from_millis(200), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_was_sent_is_not_taken() {
    let authority = authority();
    let one = start(&authority, 1).await;
    let end = |bytes: u64, sum: u32| {
        let mut payload = bytes.to_le_bytes().to_vec();
        payload.extend_from_slice(&sum.to_le_bytes());
        frame(9, &payload)
    };
    let good = crc32c::crc32c(b"content");
    let cases = [end(7, good ^ 1), end(8, good), end(0, 0), frame(9, b""), frame(2, b"message")];
    for (number, last) in cases.iter().enumerate() {
        let mut stream = greeted(&authority, &one, 2).await;
        let begin = frame(7, b"message");
        stream.write_all(&[begin, frame(8, b"content"), last.clone()].concat()).await.unwrap();
        stream.flush().await.unwrap();
        closes(stream).await;
        let got = one.store.seen(|seen| seen.snapshots[number].clone());
        assert!(!got.is_finished, "case {number}");
    }
    let mut stream = greeted(&authority, &one, 2).await;
    let whole = [frame(7, b"m"), frame(8, b"content"), end(7, good)].concat();
    stream.write_all(&whole).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..], frame(10, b"")[..]);
    assert!(one.store.seen(|seen| seen.snapshots.last().unwrap().is_finished));
}

/// An outside program with a certificate of another authority, and with a proper one.
#[tokio::test]
async fn openssl_gets_in_only_with_a_certificate_of_the_peer_authority() {
    let (ours, theirs) = (authority(), authority());
    let one = start(&ours, 1).await;
    let member = MemberIdentity { cluster_id: CLUSTER, member_id: 9 };
    let leaf = Leaf::member(member, SignedDuration::from_hours(1));
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
        path
    };
    let trusted = write("ca.crt", ours.certificate_pem());
    for (signer, reason) in [(&theirs, "not issued by the peer authority"), (&ours, "greet")] {
        let issued = signer.issue(&leaf, now()).unwrap();
        let certificate = write("tls.crt", &issued.certificate_pem);
        let key = write("tls.key", &issued.key_pem.unwrap());
        let before = one.transport.turned_away().total;
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-tls1_3", "-connect"]).arg(one.address().to_string());
        openssl.arg("-CAfile").arg(&trusted).arg("-cert").arg(&certificate).arg("-key").arg(&key);
        openssl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || openssl.output()).await.unwrap();
        let output = output.expect("openssl is installed (scripts/prepare)");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        within(Duration::from_secs(5), "it is turned away", || {
            one.transport.turned_away().total > before
        })
        .await;
        let (_, why) = one.transport.turned_away().last.unwrap();
        assert!(why.contains(reason), "{why}");
    }
    assert!(one.store.seen(|seen| seen.delivered.is_empty()));
}

#[tokio::test]
async fn while_all_this_goes_on_members_hear_each_other() {
    let (mut one, two) = pair(hasty()).await;
    let target = two.address();
    let noise = tokio::task::spawn_blocking(move || {
        for number in 0..60_u8 {
            if let Ok(mut stream) = std::net::TcpStream::connect(target) {
                drop(stream.write_all(&[number; 64]));
            }
        }
    });
    let since = one.status(2).connected_since;
    for number in 1..=100 {
        one.send(2, Lane::Urgent, "heartbeat");
        within(Duration::from_secs(1), "a heartbeat arrives", || {
            two.store.seen(|seen| seen.delivered.len()) == number
        })
        .await;
    }
    noise.await.unwrap();
    assert_eq!(one.status(2).connected_since, since);
}
