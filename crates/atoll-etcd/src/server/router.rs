//! From a path to the service it names, and what etcd asks of every call.

use std::convert::Infallible;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Incoming};
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::codegen::{Bytes, Service, StdError};
use tonic::{Code, Status};

use super::counters::Call;
use super::{MESSAGE_OVERHEAD_BYTES, Shared, deadline, error, gateway, plain};
use crate::proto::etcdserverpb::auth_server::AuthServer;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::proto::grpc_health_v1::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;

/// A call with this header is refused, and a stream ends, where there is no leader.
const REQUIRE_LEADER: &str = "hasleader";
/// How the messages of a call are compressed, and how its answers may be.
const ENCODING: &str = "grpc-encoding";
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// What a server without a vote answers; ranges are looked at closer.
const FOR_LEARNERS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Maintenance/Snapshot",
];

#[derive(Clone)]
pub(super) struct Router {
    shared: Shared,
    kv: KvServer<Shared>,
    watch: WatchServer<Shared>,
    lease: LeaseServer<Shared>,
    cluster: ClusterServer<Shared>,
    maintenance: MaintenanceServer<Shared>,
    auth: AuthServer<Shared>,
    lock: LockServer<Shared>,
    election: ElectionServer<Shared>,
    health: HealthServer<Shared>,
}

impl Router {
    pub(super) fn new(shared: &Shared) -> Self {
        let message_bytes_max = message_bytes_max(shared);
        macro_rules! service {
            ($server:ident) => {
                $server::new(shared.clone())
                    .max_decoding_message_size(message_bytes_max)
                    .accept_compressed(Gzip)
                    .send_compressed(Gzip)
            };
        }
        Self {
            kv: service!(KvServer),
            watch: service!(WatchServer),
            lease: service!(LeaseServer),
            cluster: service!(ClusterServer),
            maintenance: service!(MaintenanceServer),
            auth: service!(AuthServer),
            lock: service!(LockServer),
            election: service!(ElectionServer),
            health: service!(HealthServer),
            shared: shared.clone(),
        }
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        message_bytes_max(&self.shared)
    }

    pub(super) fn stops(&self) -> impl Future<Output = ()> + use<> {
        self.shared.stop.clone().cancelled_owned()
    }

    pub(super) async fn serve(self, request: Request<Incoming>) -> Response<Body> {
        if gateway::owns(request.uri().path()) {
            return gateway::serve(self, request).await;
        }
        if let Some(answer) = plain::answer(&self.shared, &request).await {
            return answer;
        }
        self.call(request).await
    }

    /// A call, whoever made a request of it.
    pub(super) async fn call<B: CallBody>(self, request: Request<B>) -> Response<Body> {
        let call = Call::begin(&self.shared.counters, request.uri().path());
        call.answered(self.answer(request).await)
    }

    async fn answer<B: CallBody>(self, mut request: Request<B>) -> Response<Body> {
        let checked = encoding(request.headers_mut()).and_then(|()| self.check(&request));
        if let Err(refused) = checked {
            return refused.into_http();
        }
        match deadline::of(request.headers()) {
            Ok(None) => self.dispatch(request).await,
            Ok(Some(timeout)) => tokio::time::timeout(timeout, self.dispatch(request))
                .await
                .unwrap_or_else(|_elapsed| deadline::exceeded().into_http()),
            Err(refused) => refused.into_http(),
        }
    }

    async fn dispatch<B: CallBody>(self, request: Request<B>) -> Response<Body> {
        let path = request.uri().path();
        let Some((service, method)) = path.trim_start_matches('/').rsplit_once('/') else {
            let malformed = format!("malformed method name: \"{path}\"");
            return Status::unimplemented(malformed).into_http();
        };
        let unknown = format!("unknown method {method} for service {service}");
        let answer = match service {
            "etcdserverpb.KV" => to(self.kv, request).await,
            "etcdserverpb.Watch" => to(self.watch, request).await,
            "etcdserverpb.Lease" => to(self.lease, request).await,
            "etcdserverpb.Cluster" => to(self.cluster, request).await,
            "etcdserverpb.Maintenance" => to(self.maintenance, request).await,
            "etcdserverpb.Auth" => to(self.auth, request).await,
            "v3lockpb.Lock" => to(self.lock, request).await,
            "v3electionpb.Election" => to(self.election, request).await,
            "grpc.health.v1.Health" => to(self.health, request).await,
            _ => return Status::unimplemented(format!("unknown service {service}")).into_http(),
        };
        reword(answer, &unknown)
    }

    fn check<B>(&self, request: &Request<B>) -> Result<(), Status> {
        if requires_leader(request.headers()) && !self.shared.has_leader() {
            return Err(error::NO_LEADER.into());
        }
        if !FOR_LEARNERS.contains(&request.uri().path()) && self.shared.is_learner() {
            return Err(error::NOT_FOR_LEARNER.into());
        }
        Ok(())
    }
}

/// The body of a call: of a connection, or of the gateway.
pub(super) trait CallBody:
    HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static
{
}

impl<B> CallBody for B where B: HttpBody<Data = Bytes, Error: Into<StdError> + Send> + Send + 'static
{}

fn message_bytes_max(shared: &Shared) -> usize {
    shared.config.request_bytes_max + MESSAGE_OVERHEAD_BYTES
}

async fn to<S, B>(mut service: S, request: Request<B>) -> Response<Body>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    match service.call(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

pub(super) fn requires_leader(headers: &HeaderMap) -> bool {
    headers.get(REQUIRE_LEADER).is_some_and(|value| value.as_bytes() == b"true")
}

/// Answers are compressed as the messages of the call are, as by grpc-go, and not at all where a
/// client only could read it.
fn encoding(headers: &mut HeaderMap) -> Result<(), Status> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => {
            headers.remove(ACCEPT_ENCODING);
            Ok(())
        }
        Some(b"gzip") => {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
            Ok(())
        }
        Some(other) => Err(Status::unimplemented(format!(
            "grpc: Decompressor is not installed for grpc-encoding {:?}",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// A refusal that was made before the service saw the call, in etcd's words: clients match them.
fn reword(answer: Response<Body>, unknown: &str) -> Response<Body> {
    let Some(status) = answer.headers().get(Status::GRPC_STATUS) else { return answer };
    let code = Code::from_bytes(status.as_bytes());
    let message = answer.headers().get(Status::GRPC_MESSAGE).map(HeaderValue::as_bytes);
    match (code, message) {
        (Code::Unimplemented, None) => Status::unimplemented(unknown).into_http(),
        (Code::OutOfRange, Some(message)) => match sizes(message) {
            Some((found, limit)) => Status::resource_exhausted(format!(
                "grpc: received message larger than max ({found} vs. {limit})"
            ))
            .into_http(),
            None => answer,
        },
        (Code::ResourceExhausted, Some(message)) => match numbers(message).as_slice() {
            [limit] if contains(message, "exceeded while decompressing") => {
                Status::resource_exhausted(format!(
                    "grpc: received message after decompression larger than max {limit}"
                ))
                .into_http()
            }
            _ => answer,
        },
        (Code::Internal, Some(_)) => match Status::from_header_map(answer.headers()) {
            Some(status) if status.message().starts_with(UNDECODABLE) => {
                let why = status.message().trim_start_matches(UNDECODABLE);
                Status::internal(format!("grpc: error unmarshalling request: {why}")).into_http()
            }
            _ => answer,
        },
        _ => answer,
    }
}

/// How tonic begins to say that a message was no protobuf.
const UNDECODABLE: &str = "failed to decode Protobuf message: ";

/// The two numbers of tonic's refusal of a message that is too large.
fn sizes(message: &[u8]) -> Option<(u64, u64)> {
    if !contains(message, "length too large") {
        return None;
    }
    match numbers(message).as_slice() {
        [found, limit] => Some((*found, *limit)),
        _ => None,
    }
}

/// As it stands in a header.
fn decoded(message: &[u8]) -> String {
    String::from_utf8_lossy(message).replace("%20", " ")
}

fn contains(message: &[u8], words: &str) -> bool {
    decoded(message).contains(words)
}

fn numbers(message: &[u8]) -> Vec<u64> {
    let message = decoded(message);
    let digits = message.split(|character: char| !character.is_ascii_digit());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}
