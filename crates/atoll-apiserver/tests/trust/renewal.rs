//! Certificates that are renewed while the server runs, and pinned by joining machines.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_apiserver::config::Clock;
use atoll_apiserver::{Trust, TrustConfig, tls};
use atoll_identity::{JoinToken, PeerIdentity, PinnedServer};
use jiff::{SignedDuration, Timestamp};
use rustls::ClientConfig;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use crate::client::{Keys, now};

/// A clock that stands where it is put.
struct SetClock(Mutex<Timestamp>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// What the client takes for the time.
#[derive(Debug)]
struct StandingTime(Timestamp);

impl TimeProvider for StandingTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.as_second()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

fn trust(keys: Keys) -> Arc<Trust> {
    let Keys { client, serving, kubelet, account } = keys;
    let ips = vec!["127.0.0.1".parse().unwrap()];
    Trust::new(TrustConfig::new(client, serving, kubelet, account, ips), now()).unwrap()
}

/// Shakes hands over loopback; returns the server's own certificate as the client saw it.
async fn handshake(
    trust: &Trust,
    token: JoinToken,
    at: Timestamp,
) -> Result<PeerIdentity, std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls::server_config(trust).unwrap());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_details(provider.clone(), Arc::new(StandingTime(at)))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedServer::new(token, provider)))
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let server = async {
        let (stream, _) = listener.accept().await.unwrap();
        // A refused handshake is the client's to report.
        acceptor.accept(stream).await.ok()
    };
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        connector.connect(name, stream).await
    };
    let (_server, client) = tokio::join!(server, client);
    let client = client?;
    let chain = client.get_ref().1.peer_certificates().unwrap();
    Ok(PeerIdentity::from_der(&chain[0]).unwrap())
}

fn token(trust: &Trust) -> JoinToken {
    let expires_at = now() + SignedDuration::from_hours(1);
    JoinToken::create(trust.serving.certificate_der(), expires_at).unwrap().0
}

#[tokio::test]
async fn a_joining_machine_knows_its_cluster_before_it_says_anything() {
    let (ours, theirs) = (trust(Keys::create()), trust(Keys::create()));
    let peer = handshake(&ours, token(&ours), now()).await.unwrap();
    assert_eq!(peer.common_name, "kube-apiserver");
    let error = handshake(&ours, token(&theirs), now()).await.unwrap_err();
    let refusal = PinnedServer::refusal(&error).unwrap().to_string();
    assert!(refusal.contains("is for another cluster"), "{refusal}");
    // A joining machine whose clock is an hour back.
    let behind = now() - SignedDuration::from_hours(1);
    assert!(handshake(&ours, token(&ours), behind).await.is_ok());
}

#[tokio::test]
async fn the_serving_certificate_is_renewed_long_before_it_expires() {
    let trust = trust(Keys::create());
    let first = handshake(&trust, token(&trust), now()).await.unwrap();
    let life = first.not_after.duration_since(first.not_before);
    let later = first.not_before + life / 4 * 3;
    let clock = Arc::new(SetClock(Mutex::new(later)));
    let stop = CancellationToken::new();
    let renewing = tls::renew_forever(trust.clone(), clock, stop.clone());
    let watching = async {
        for _ in 0..500 {
            tokio::time::sleep(Duration::from_millis(2)).await;
            let second = handshake(&trust, token(&trust), later).await.unwrap();
            if second.serial != first.serial {
                stop.cancel();
                return second;
            }
        }
        panic!("the certificate was not renewed");
    };
    let ((), second) = tokio::join!(renewing, watching);
    assert!(second.not_after > first.not_after);
}
