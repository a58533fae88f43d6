//! What etcd answers besides gRPC on the port of its clients: health, version and metrics, for
//! `GET` over HTTP/1.1 or HTTP/2.

use std::fmt::Write as _;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use tonic::body::Body;

use super::maintenance::STORAGE_VERSION;
use super::{Core, ETCD_VERSION};

/// `None` for calls of gRPC, which are posted.
pub(super) async fn answer(core: &Core, request: &Request<Incoming>) -> Option<Response<Body>> {
    if request.method() == Method::POST && request.version() == http::Version::HTTP_2 {
        return None;
    }
    let path = request.uri().path();
    Some(match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/health") => health(core).await,
        (&Method::GET | &Method::HEAD, "/version") => json(StatusCode::OK, version()),
        (&Method::GET | &Method::HEAD, "/metrics") => metrics(core).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    })
}

async fn health(core: &Core) -> Response<Body> {
    let reason = match core.store.status().await {
        Ok(_) if !core.has_leader() => "RAFT NO LEADER",
        Err(_) => "RAFT NO LEADER",
        Ok(status) if status.no_space => "ALARM NOSPACE",
        Ok(_) => return json(StatusCode::OK, r#"{"health":"true","reason":""}"#.to_owned()),
    };
    let body = format!(r#"{{"health":"false","reason":"{reason}"}}"#);
    json(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn version() -> String {
    format!(
        r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{STORAGE_VERSION}","storage":"{STORAGE_VERSION}"}}"#
    )
}

/// Under etcd's names, as far as there is such a thing here.
async fn metrics(core: &Core) -> Response<Body> {
    let status = match core.store.status().await {
        Ok(status) => status,
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let leader = core.membership.borrow().leader;
    let gauges = [
        ("etcd_server_has_leader", Some(u64::from(leader.is_some()))),
        ("etcd_server_is_leader", Some(u64::from(leader == Some(core.config.member_id)))),
        ("etcd_server_is_learner", Some(u64::from(core.is_learner()))),
        ("etcd_server_quota_backend_bytes", Some(status.quota_bytes)),
        ("etcd_mvcc_db_total_size_in_bytes", Some(status.state_bytes)),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", Some(status.live_bytes)),
        ("etcd_debugging_mvcc_current_revision", u64::try_from(status.revision).ok()),
        ("etcd_debugging_mvcc_compact_revision", u64::try_from(status.compacted_revision).ok()),
        ("process_resident_memory_bytes", (core.config.resident_bytes)()),
    ];
    let mut out = String::new();
    for (name, value) in gauges {
        if let Some(value) = value {
            // Writing to a string does not fail.
            writeln!(out, "# TYPE {name} gauge\n{name} {value}").unwrap_or_default();
        }
    }
    if status.no_space {
        let (name, id) = ("etcd_debugging_server_alarms", core.config.member_id);
        let labels = format!(r#"alarm_type="NOSPACE",server_id="{id:x}""#);
        writeln!(out, "# TYPE {name} gauge\n{name}{{{labels}}} 1").unwrap_or_default();
    }
    text(StatusCode::OK, out)
}

fn json(status: StatusCode, body: String) -> Response<Body> {
    respond(status, "application/json", body)
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    respond(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
