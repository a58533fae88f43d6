//! The two tables through which requests leave the generic path: creates that compute an
//! answer instead of storing an object, and paths outside of the resources.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Response};
use serde_json::Value;

use crate::body::Body;
use crate::core::Core;
use crate::status::Status;
use crate::user::{Connection, UserInfo};

/// A create that answers: reviews, `serviceaccounts/token`.
#[derive(Debug)]
pub struct VirtualCreate<'a> {
    pub user: &'a UserInfo,
    /// Empty for cluster-scoped resources.
    pub namespace: &'a str,
    /// Empty unless the URL names one (subresources).
    pub name: &'a str,
    /// Decoded, defaulted, validated.
    pub object: Value,
    pub dry_run: bool,
}

pub type VirtualHandler =
    for<'a> fn(&'a Core, VirtualCreate<'a>) -> BoxFuture<'a, Result<Value, Status>>;

/// group, resource, subresource (empty for none), and who answers.
pub type VirtualRow = (&'static str, &'static str, &'static str, VirtualHandler);

/// Every create that is answered and not stored.
pub static VIRTUAL: &[VirtualRow] = &[];

/// A request outside of the resources, its body read (at most 3 MiB).
#[derive(Debug)]
pub struct PlainRequest<'a> {
    pub user: &'a UserInfo,
    pub connection: &'a Connection,
    pub head: &'a http::request::Parts,
    pub body: Bytes,
}

pub type PlainHandler = for<'a> fn(
    &'a Core,
    PlainRequest<'a>,
) -> BoxFuture<'a, Result<Response<Body>, Status>>;

/// One path outside of the resources.
pub struct PlainRoute {
    pub method: Method,
    /// The whole path; a segment `{}` stands for any one.
    pub path: &'static str,
    /// Skips authorization: the handler decides by itself (join tokens, public keys).
    pub public: bool,
    pub handler: PlainHandler,
}

/// Every path outside of the resources beside health, metrics, discovery and OpenAPI.
pub static ROUTES: &[PlainRoute] = &[];
