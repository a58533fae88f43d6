//! Whether the objects that a token is bound to are still there.

use atoll_api::access::Access as _;
use atoll_api::kinds;
use serde_json::Value;

use super::{Claims, Reference, TokenProblem};
use crate::registry::Registry;
use crate::status::Status;
use crate::storage::Storage;

/// Objects by name: from memory, and from the store when memory does not have them (yet).
#[derive(Clone, Copy)]
pub(crate) struct Objects<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) storage: &'a Storage,
}

impl Objects<'_> {
    /// The core object; `None` when neither memory nor the store has it.
    pub(crate) async fn get(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let row = kinds::find("", "v1", resource).ok_or_else(Status::no_resource)?;
        if let Some(entry) = self.registry.cache(row).and_then(|cache| cache.get(namespace, name)) {
            return entry.object(row).map(Some);
        }
        self.fresh(resource, namespace, name).await
    }

    /// The core object as of every acknowledged write.
    pub(crate) async fn fresh(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Status> {
        let row = kinds::find("", "v1", resource).ok_or_else(Status::no_resource)?;
        match self.storage.get(row, namespace, name).await? {
            Some(stored) => stored.object(row).map(Some),
            None => Ok(None),
        }
    }

    /// Checks everything that the token is bound to.
    pub(crate) async fn check(&self, claims: &Claims) -> Result<(), TokenProblem> {
        let bound = &claims.kubernetes;
        let namespace = bound.namespace.as_str();
        self.check_one("serviceaccounts", namespace, &bound.serviceaccount).await?;
        if let Some(pod) = &bound.pod {
            self.check_one("pods", namespace, pod).await?;
        }
        if let Some(secret) = &bound.secret {
            self.check_one("secrets", namespace, secret).await?;
        }
        // A pod's token names its node for information; a token bound to a node needs it.
        if let (Some(node), None) = (&bound.node, &bound.pod) {
            self.check_one("nodes", "", node).await?;
        }
        Ok(())
    }

    pub(super) async fn check_one(
        &self,
        resource: &'static str,
        namespace: &str,
        wanted: &Reference,
    ) -> Result<(), TokenProblem> {
        let lookup = |status: Status| TokenProblem::Lookup { why: status.to_string() };
        let uid = |object: Option<Value>| {
            object.is_some_and(|object| object["metadata"].text("uid") == wanted.uid)
        };
        if uid(self.get(resource, namespace, &wanted.name).await.map_err(lookup)?) {
            return Ok(());
        }
        // Memory may still hold the predecessor of an object that was just made anew.
        if uid(self.fresh(resource, namespace, &wanted.name).await.map_err(lookup)?) {
            return Ok(());
        }
        Err(TokenProblem::Invalidated { kind: resource, name: wanted.name.clone() })
    }
}
