//! One request for a resource on its way through a verb.

use std::sync::Arc;

use atoll_api::kinds::{ResourceInfo, Subresource};
use bytes::Bytes;
use http::HeaderMap;

use crate::admission::{self, AdmissionRequest};
use crate::core::Core;
use crate::negotiate::Accept;
use crate::query::Query;
use crate::render::View;
use crate::request::RequestInfo;
use crate::status::Status;
use crate::user::UserInfo;

/// Everything that a verb needs to know; the body is read.
pub struct Call {
    pub core: Arc<Core>,
    pub user: UserInfo,
    pub row: &'static ResourceInfo,
    /// The part of the object that the URL names, if it names one.
    pub part: Option<&'static Subresource>,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub accept: Accept,
    pub body: Bytes,
}

impl Call {
    /// Empty for cluster-scoped rows.
    pub fn namespace(&self) -> &str {
        self.info.object_namespace(self.row)
    }

    pub fn name(&self) -> &str {
        &self.info.name
    }

    pub fn subresource(&self) -> &str {
        &self.info.subresource
    }

    pub fn view(&self) -> View<'_> {
        View {
            row: self.row,
            accept: self.accept,
            include_object: self.query.text("includeObject"),
            now: self.core.now(),
        }
    }

    pub fn admission<'a>(
        &'a self,
        operation: admission::Operation,
        name: &'a str,
        old: Option<&'a serde_json::Value>,
        dry_run: bool,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            user: &self.user,
            operation,
            row: self.row,
            subresource: &self.info.subresource,
            namespace: self.namespace(),
            name,
            old,
            dry_run,
        }
    }

    pub fn not_found(&self) -> Status {
        Status::not_found(self.row, self.name())
    }
}
