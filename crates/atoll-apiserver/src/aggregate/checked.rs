//! Whether a server behind this one is there: its Service, its pods, and its own word.

use std::time::Duration;

use atoll_api::access::Access as _;
use http::header::HOST;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;

use super::{Remote, Said, headers};
use crate::body::BoxError;
use crate::core::Core;
use crate::storage;
use crate::user::UserInfo;

/// A server that takes longer to say what it has.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of what it says.
const SAID_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A condition `Available`, in upstream's words.
pub(super) struct Availability {
    pub(super) available: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Availability {
    fn lacks(reason: &'static str, message: String) -> Self {
        Self { available: false, reason, message }
    }
}

/// Looks, asks, and gives what the server said of itself.
pub(super) async fn check(core: &Core, remote: &Remote) -> (Availability, Said) {
    if let Some(lack) = service_lacks(core, &remote.service) {
        return (lack, Said::default());
    }
    let path = if remote.group.is_empty() {
        format!("/api/{}", remote.version)
    } else {
        format!("/apis/{}/{}", remote.group, remote.version)
    };
    match get(core, remote, &path).await {
        Ok(resources) => {
            let openapi = openapi(core, remote).await;
            let passed = Availability {
                available: true,
                reason: "Passed",
                message: "all checks passed".to_owned(),
            };
            (passed, Said { resources, openapi })
        }
        Err(why) => {
            let authority = remote.target.as_ref().map_or("", |target| target.authority());
            let message =
                format!("failing or missing response from https://{authority}{path}: {why}");
            (Availability::lacks("FailedDiscoveryCheck", message), Said::default())
        }
    }
}

/// What is wrong with the Service before anybody is asked.
fn service_lacks(core: &Core, service: &Value) -> Option<Availability> {
    let (namespace, name) = (service.text("namespace"), service.text("name"));
    let quoted = atoll_api::field::quote(namespace);
    let entry = core.registry.objects("", "services").and_then(|cache| cache.get(namespace, name));
    let Some(entry) = entry else {
        let message = format!("service/{name} in {quoted} is not present");
        return Some(Availability::lacks("ServiceNotFound", message));
    };
    let object = storage::parse(&entry.json).ok()?;
    if object["spec"].text("type") == "ExternalName" {
        return None;
    }
    let port = service.int("port").unwrap_or(443);
    let ports = object["spec"].items("ports");
    let Some(found) = ports.iter().find(|one| one.int("port") == Some(port)) else {
        let message = format!("service/{name} in {quoted} is not listening on port {port}");
        return Some(Availability::lacks("ServicePortError", message));
    };
    let slices = core.registry.objects("discovery.k8s.io", "endpointslices");
    let slices = slices.map(|cache| cache.list(namespace)).unwrap_or_default();
    let own: Vec<Value> = slices
        .iter()
        .filter(|slice| slice.label("kubernetes.io/service-name") == Some(name))
        .filter_map(|slice| storage::parse(&slice.json).ok())
        .collect();
    if own.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {quoted}");
        return Some(Availability::lacks("EndpointsNotFound", message));
    }
    let port_name = found.text("name");
    let serves = |slice: &Value| {
        let ready = |endpoint: &Value| endpoint["conditions"].opt_flag("ready") != Some(false);
        slice.items("endpoints").iter().any(ready)
            && slice.items("ports").iter().any(|port| port.text("name") == port_name)
    };
    if own.iter().any(serves) {
        return None;
    }
    let message = format!(
        "endpointslices for service/{name} in {quoted} have no addresses with port name {}",
        atoll_api::field::quote(port_name)
    );
    Some(Availability::lacks("MissingEndpoints", message))
}

/// Where the server's OpenAPI v3 document of this version is.
async fn openapi(core: &Core, remote: &Remote) -> String {
    let Ok(index) = get(core, remote, "/openapi/v3").await else { return String::new() };
    let place = format!("apis/{}/{}", remote.group, remote.version);
    index["paths"][&place].text("serverRelativeURL").to_owned()
}

async fn get(core: &Core, remote: &Remote, path: &str) -> Result<Value, String> {
    match tokio::time::timeout(ANSWER_WITHIN, ask(core, remote, path)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err("context deadline exceeded".to_owned()),
    }
}

async fn ask(core: &Core, remote: &Remote, path: &str) -> Result<Value, String> {
    let target = remote.target.as_ref().map_err(Clone::clone)?;
    let body = http_body_util::Empty::new();
    let body = body.map_err(|never| -> BoxError { match never {} }).boxed_unsync();
    let request = Request::builder().method(Method::GET).uri(path).body(body);
    let mut request = request.map_err(|error| error.to_string())?;
    let own = request.headers_mut();
    if let Ok(authority) = HeaderValue::from_str(target.authority()) {
        own.insert(HOST, authority);
    }
    own.insert(http::header::ACCEPT, HeaderValue::from_static("application/json"));
    let who = UserInfo {
        name: "system:kube-aggregator".to_owned(),
        groups: vec![crate::user::MASTERS.to_owned()],
        ..UserInfo::default()
    };
    headers::identify(own, &who);
    let sent = core.hooks.send(target, request).await;
    let (answer, lease) = sent.map_err(|error| error.to_string())?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), SAID_BYTES_MAX).collect().await;
    let bytes = body.map_err(|error| error.to_string())?.to_bytes();
    lease.give_back();
    if !(StatusCode::OK..StatusCode::BAD_REQUEST).contains(&code) {
        return Err(format!(
            "bad status from https://{}{path}: {}",
            target.authority(),
            code.as_u16()
        ));
    }
    Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}
