//! Which path leads to what.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::context::Context;
use crate::kubelet::access::Access;
use crate::kubelet::usage::Usage;
use crate::kubelet::{
    Answer, configz, exec, files, forward, logs, metrics, probed, resource, running, stats, text,
};
use crate::pod::task::{PodHandle, Shown};
use crate::pods::PodIndex;

/// What the handlers need.
#[derive(Clone)]
pub struct Routes {
    pub cx: Arc<Context>,
    pub pods: PodIndex,
    pub usage: Arc<Usage>,
    pub access: Arc<Access>,
}

/// A request's query, in order; names may repeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    #[must_use]
    pub fn parse(query: Option<&str>) -> Query {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `true` and `1` mean yes.
    #[must_use]
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("true" | "1"))
    }
}

/// Percent-decoding of a part of a path, where `+` is itself.
fn decode_part(text: &str) -> String {
    decode(&text.replace('+', "%2B"))
}

/// Percent-decoding, with `+` for a space as in queries.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                }
                _ => bytes.push(b'%'),
            },
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A container of a pod on this node.
pub struct Place {
    pub handle: PodHandle,
    pub shown: Arc<Shown>,
    pub container: String,
}

impl Routes {
    pub async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let parts: Vec<String> = path.trim_matches('/').split('/').map(decode_part).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let query = Query::parse(request.uri().query());
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        let streams = request.method() == Method::GET || request.method() == Method::POST;
        match parts.as_slice() {
            ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => text(StatusCode::OK, "ok"),
            ["metrics"] => metrics::answer(self),
            ["metrics", "resource"] => resource::answer(self),
            ["metrics", "probes"] => probed::answer(self),
            ["configz"] => configz::answer(self),
            ["runningpods"] => running::pods(self),
            ["logs", below @ ..] if reads => files::answer(self, &path, below).await,
            ["stats", "summary"] => stats::answer(self),
            ["pods"] => stats::pods(self),
            ["containerLogs", namespace, pod, container] => {
                match self.find(namespace, pod, container) {
                    Ok(place) => logs::answer(self, &place, &query),
                    Err(answer) => *answer,
                }
            }
            [verb @ ("exec" | "attach"), namespace, pod, rest @ ..] if streams => {
                // An optional UID stands between pod and container.
                let container = rest.last().copied().unwrap_or_default();
                match self.find(namespace, pod, container) {
                    Ok(place) if *verb == "exec" => exec::exec(self, place, &query, request).await,
                    Ok(place) => exec::attach(self, place, &query, request).await,
                    Err(answer) => *answer,
                }
            }
            ["portForward", namespace, pod, ..] if streams => match self.find(namespace, pod, "") {
                Ok(place) => forward::answer(self, &place, &query, request),
                Err(answer) => *answer,
            },
            ["run", namespace, pod, rest @ ..] if request.method() == Method::POST => {
                let container = rest.last().copied().unwrap_or_default();
                match self.find(namespace, pod, container) {
                    Ok(place) => running::run(self, place, &query).await,
                    Err(answer) => *answer,
                }
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        }
    }

    /// An empty container name means the first one.
    fn find(&self, namespace: &str, pod: &str, container: &str) -> Result<Place, Box<Answer>> {
        let handle = self.pods.find(namespace, pod).ok_or_else(|| {
            let reason = format!("pod \"{pod}\" does not exist in namespace \"{namespace}\"");
            Box::new(text(StatusCode::NOT_FOUND, reason))
        })?;
        let shown = handle.shown.borrow().clone();
        let spec = shown.pod.spec.as_ref();
        let name = if container.is_empty() {
            spec.and_then(|spec| spec.containers.first()).map(|c| c.name.clone())
        } else {
            spec.and_then(|spec| crate::pod::identity::find_container(spec, container))
                .map(|(_, c)| c.name.clone())
        };
        match name {
            Some(container) => Ok(Place { handle, shown, container }),
            None => Err(Box::new(text(
                StatusCode::BAD_REQUEST,
                format!("container {container} is not valid for pod {pod}"),
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded_and_names_may_repeat() {
        let query = Query::parse(Some("command=sh&command=-c&command=echo+a%26b%zz&tty=1&x"));
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["sh", "-c", "echo a&b%zz"]);
        assert!(query.flag("tty") && !query.flag("input"));
        assert_eq!(query.get("x"), Some(""));
    }
}
