//! One request for a resource on its way through a verb.

use std::sync::{Arc, OnceLock};

use atoll_api::kinds::{Row, Subresource};
use bytes::Bytes;
use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::{Value, json};

use crate::admission::notes::Notes;
use crate::admission::{self, AdmissionRequest};
use crate::authz::Attributes;
use crate::cache::Entry;
use crate::core::Core;
use crate::crd;
use crate::negotiate::Accept;
use crate::query::Query;
use crate::render::View;
use crate::request::RequestInfo;
use crate::status::Status;
use crate::storage::Stored;
use crate::user::UserInfo;

/// Everything that a verb needs to know; the body is read.
pub(crate) struct Call {
    pub core: Arc<Core>,
    pub user: UserInfo,
    pub row: Row,
    /// The part of the object that the URL names, if it names one.
    pub part: Option<Subresource>,
    pub info: RequestInfo,
    pub query: Query,
    pub headers: HeaderMap,
    pub accept: Accept,
    pub body: Bytes,
    /// What admission has to say; the pipeline sends it.
    pub notes: Arc<Notes>,
    /// The options of a write as admission shows them, once they were asked for.
    pub options: OnceLock<Value>,
}

impl Call {
    /// Empty for cluster-scoped rows.
    pub(crate) fn namespace(&self) -> &str {
        self.info.object_namespace(&self.row)
    }

    pub(crate) fn name(&self) -> &str {
        &self.info.name
    }

    pub(crate) fn subresource(&self) -> &str {
        &self.info.subresource
    }

    pub(crate) fn view(&self) -> View<'_> {
        View {
            row: &self.row,
            accept: self.accept,
            include_object: self.query.text("includeObject"),
            now: self.core.now(),
        }
    }

    /// The User-Agent up to its first slash: who writes, when nothing else says so.
    pub(crate) fn agent(&self) -> String {
        let agent =
            self.headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
        let name = agent.split('/').next().unwrap_or("");
        if name.is_empty() { "unknown".to_owned() } else { name.chars().take(128).collect() }
    }

    pub(crate) fn admission<'a>(
        &'a self,
        operation: admission::Operation,
        name: &'a str,
        old: Option<&'a Value>,
        dry_run: bool,
    ) -> AdmissionRequest<'a> {
        AdmissionRequest {
            user: &self.user,
            operation,
            row: &self.row,
            subresource: &self.info.subresource,
            namespace: self.namespace(),
            name,
            old,
            dry_run,
            options: self.options.get_or_init(|| self.write_options(operation)),
            notes: &self.notes,
            reinvocation: None,
        }
    }

    /// The parameters of the URL as the options that they stand for.
    fn write_options(&self, operation: admission::Operation) -> Value {
        let kind = match operation {
            admission::Operation::Create => "CreateOptions",
            admission::Operation::Update => "UpdateOptions",
            admission::Operation::Delete | admission::Operation::Connect => return Value::Null,
        };
        let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        let dry: Vec<&str> = self.query.all("dryRun").collect();
        if !dry.is_empty() {
            options["dryRun"] = json!(dry);
        }
        for field in ["fieldManager", "fieldValidation"] {
            if let Some(value) = self.query.get(field) {
                options[field] = json!(value);
            }
        }
        options
    }

    /// A stored object in the version of the URL.
    pub(crate) async fn decode(&self, stored: &Stored) -> Result<Value, Status> {
        crd::convert::decode(&self.core, &self.row, stored).await
    }

    /// Makes entries ready to be shown in the version of the URL.
    pub(crate) async fn ready(&self, entries: &[Arc<Entry>]) -> Result<(), Status> {
        crd::convert::ready(&self.core, &self.row, entries).await
    }

    /// An object of the URL's version as it is stored.
    pub(crate) async fn encode(&self, object: &Value) -> Result<Bytes, Status> {
        crd::convert::encode(&self.core, &self.row, object).await
    }

    /// A PUT or an apply that creates needs the right to create, beside its own.
    pub(crate) fn may_create(&self) -> Result<(), Status> {
        let attributes = Attributes {
            version: &self.info.version,
            subresource: self.subresource(),
            namespace: &self.info.namespace,
            name: self.name(),
            ..Attributes::resource(&self.user, "create", &self.info.group, &self.info.resource)
        };
        attributes.require(self.core.authorizer.as_ref())
    }

    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(&self.row, self.name())
    }
}
