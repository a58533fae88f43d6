//! The two tables through which requests leave the generic path: creates that compute an
//! answer instead of storing an object, and paths outside of the resources.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Response};
use serde_json::Value;

use crate::body::Body;
use crate::core::Core;
use crate::servers::{self, check, members};
use crate::status::Status;
use crate::user::{Connection, UserInfo};
use crate::{authn, authz, backup, encryption, etcd_import, heartbeat, join, part, tokens};

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
pub static VIRTUAL: &[VirtualRow] = &[
    ("", "bindings", "", part::binding::create),
    ("", "serviceaccounts", "token", tokens::request::create),
    ("authentication.k8s.io", "tokenreviews", "", authn::review::token),
    ("authentication.k8s.io", "selfsubjectreviews", "", authn::review::own),
    ("authorization.k8s.io", "subjectaccessreviews", "", authz::review::subject),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "", authz::review::own),
    ("authorization.k8s.io", "localsubjectaccessreviews", "", authz::review::local),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "", authz::review::rules),
];

/// A request outside of the resources, its body read (at most 3 MiB).
#[derive(Debug)]
pub struct PlainRequest<'a> {
    pub user: &'a UserInfo,
    pub connection: &'a Connection,
    pub head: &'a http::request::Parts,
    pub body: Bytes,
}

pub type PlainHandler =
    for<'a> fn(&'a Core, PlainRequest<'a>) -> BoxFuture<'a, Result<Response<Body>, Status>>;

/// One path outside of the resources.
pub struct PlainRoute {
    pub method: Method,
    /// The whole path; a segment `{}` stands for any one.
    pub path: &'static str,
    /// Skips authorization: the handler decides by itself (join tokens, statements, public keys).
    pub public: bool,
    pub handler: PlainHandler,
}

/// Every path outside of the resources beside health, metrics, discovery and OpenAPI.
pub static ROUTES: &[PlainRoute] = &[
    PlainRoute::new(Method::POST, "/atoll/v1/join", join::join).public(),
    PlainRoute::new(Method::POST, "/atoll/v1/join-tokens", join::create_token),
    PlainRoute::new(Method::POST, "/atoll/v1/join-server", servers::join::join).public(),
    PlainRoute::new(Method::POST, "/atoll/v1/rejoin-server", servers::rejoin::rejoin).public(),
    PlainRoute::new(Method::POST, "/atoll/v1/server-tokens", servers::tokens::create),
    PlainRoute::new(Method::GET, "/atoll/v1/server-tokens", servers::tokens::list),
    PlainRoute::new(Method::DELETE, "/atoll/v1/server-tokens/{}", servers::tokens::revoke),
    PlainRoute::new(Method::GET, "/atoll/v1/members", members::list),
    PlainRoute::new(Method::POST, "/atoll/v1/members/{}/promote", members::promote),
    PlainRoute::new(Method::POST, "/atoll/v1/members/{}/lead", members::lead),
    PlainRoute::new(Method::DELETE, "/atoll/v1/members/{}", members::remove),
    PlainRoute::new(Method::GET, "/atoll/v1/check", check::serve),
    PlainRoute::new(Method::POST, "/atoll/v1/backup", backup::create),
    PlainRoute::new(Method::GET, "/atoll/v1/secrets", encryption::admin::show),
    PlainRoute::new(Method::POST, "/atoll/v1/secrets/rotate-key", encryption::admin::rotate),
    PlainRoute::new(Method::GET, "/atoll/v1/etcd", etcd_import::stand),
    PlainRoute::new(Method::POST, "/atoll/v1/etcd/import", etcd_import::import),
    PlainRoute::new(Method::POST, "/atoll/v1/etcd/put", etcd_import::put),
    PlainRoute::new(Method::POST, "/atoll/v1/nodes/{}/ping", heartbeat::ping),
    PlainRoute::new(Method::GET, "/.well-known/openid-configuration", tokens::request::discovery),
    PlainRoute::new(Method::GET, "/openid/v1/jwks", tokens::request::key_set),
];

impl PlainRoute {
    const fn new(method: Method, path: &'static str, handler: PlainHandler) -> Self {
        Self { method, path, public: false, handler }
    }

    const fn public(mut self) -> Self {
        self.public = true;
        self
    }
}
