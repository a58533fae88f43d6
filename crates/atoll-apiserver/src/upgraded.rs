//! Connections that have become something else than HTTP: they outlive their answer.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, Response, StatusCode};

use crate::body::Body;

/// An extension of the answer that switches protocols, kept by whoever carries on: what the
/// request holds is let go when both have gone.
#[derive(Clone, Default)]
pub(crate) struct Upgraded(Arc<Mutex<Vec<Box<dyn Send>>>>);

/// The answer that switches protocols.
pub(crate) fn switching(headers: HeaderMap) -> (Response<Body>, Upgraded) {
    let upgraded = Upgraded::default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response.extensions_mut().insert(upgraded.clone());
    (response, upgraded)
}

/// Keeps something until the answer's body, or what its connection becomes, has ended.
pub(crate) fn hold(response: Response<Body>, guard: impl Send + 'static) -> Response<Body> {
    match response.extensions().get::<Upgraded>() {
        None => response.map(|body| body.holding(guard)),
        Some(Upgraded(held)) => {
            held.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(guard));
            response
        }
    }
}
