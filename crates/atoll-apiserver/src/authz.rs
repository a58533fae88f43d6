//! Authorization: may this user do this.

mod follow;
mod models;
pub mod review;

use std::sync::Arc;

use atoll_policy::node::NodeVerdict;
use atoll_policy::rbac::{Rbac, RoleRef, Verdict};
use atoll_policy::{Request, Rule};

use crate::registry::Registry;
use crate::status::Status;
use crate::user::{MASTERS, UserInfo};
use follow::Followed;
use models::{NodeModel, RbacModel};

/// One question to an authorizer, in the words of RBAC.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`;
    /// for other paths the method in lower case.
    pub verb: &'a str,
    /// False for paths outside of the resources: only `verb` and `path` count then.
    pub resource_request: bool,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources and across namespaces.
    pub namespace: &'a str,
    /// Empty for collections and creates.
    pub name: &'a str,
    pub path: &'a str,
    /// The selectors of a list or watch as they came; empty for none.
    pub field_selector: &'a str,
    pub label_selector: &'a str,
}

impl<'a> Attributes<'a> {
    /// A question in which everything but the user and the path is still open.
    #[must_use]
    pub fn empty(user: &'a UserInfo, path: &'a str) -> Self {
        Self {
            user,
            verb: "",
            resource_request: false,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            path,
            field_selector: "",
            label_selector: "",
        }
    }
}

/// What an authorizer says. Only `Allow` lets a request through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow {
        reason: String,
    },
    Deny {
        reason: String,
    },
    /// Not allowed by anything; the reason may be empty.
    NoOpinion {
        reason: String,
    },
}

/// Decides from what it holds in memory; it never waits.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;

    /// Everything that the user may do in the namespace by rules, and what could not be
    /// resolved.
    fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>);

    /// The rules that a binding in `namespace` would hand out.
    fn role(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String>;
}

/// Lets everyone do everything: for tests and loopback tools.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow { reason: String::new() }
    }

    fn rules(&self, _: &UserInfo, _: &str) -> (Vec<Rule>, Vec<String>) {
        let all = || vec!["*".to_owned()];
        let resources =
            Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() };
        let paths = Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() };
        (vec![resources, paths], Vec::new())
    }

    fn role(&self, _: &RoleRef, _: &str) -> Result<Vec<Rule>, String> {
        Ok(Vec::new())
    }
}

/// The cluster's own: `system:masters`, then the node authorizer, then RBAC.
///
/// Its indexes are brought up to date at a question when the caches have moved on, so a
/// binding counts as soon as a watch would show it.
pub struct ClusterAuthorizer {
    rbac: Followed<RbacModel>,
    nodes: Followed<NodeModel>,
}

impl ClusterAuthorizer {
    pub fn new(registry: &Registry) -> Arc<Self> {
        Arc::new(Self { rbac: Followed::new(registry), nodes: Followed::new(registry) })
    }

    /// Reads the RBAC index as it is now.
    pub(crate) fn with_rbac<R>(&self, ask: impl FnOnce(&Rbac) -> R) -> R {
        self.rbac.with(|model| ask(&model.0))
    }
}

impl Authorizer for ClusterAuthorizer {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let request = attributes.question();
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow { reason: String::new() };
        }
        let mut reasons = Vec::new();
        let is_node = atoll_policy::node::node_of(request.user, request.groups).is_some();
        if is_node {
            match self.nodes.with(|model| model.0.authorize(&request)) {
                Some(NodeVerdict::Allowed) => return Decision::Allow { reason: String::new() },
                Some(NodeVerdict::NoOpinion(reason)) => reasons.push(reason),
                None => {}
            }
        }
        match self.with_rbac(|rbac| rbac.authorize(&request)) {
            Verdict::Allowed { reason } => return Decision::Allow { reason },
            Verdict::NoOpinion { reason } => reasons.push(reason),
        }
        reasons.retain(|reason| !reason.is_empty());
        Decision::NoOpinion { reason: reasons.join("\n") }
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        if user.in_group(MASTERS) {
            return AlwaysAllow.rules(user, namespace);
        }
        self.with_rbac(|rbac| rbac.rules_for(&user.name, &user.groups, namespace))
    }

    fn role(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String> {
        self.with_rbac(|rbac| rbac.rules(role, namespace))
    }
}

// === impl Attributes ===

impl<'a> Attributes<'a> {
    /// A question about a resource, to be completed by the caller.
    #[must_use]
    pub fn resource(user: &'a UserInfo, verb: &'a str, group: &'a str, resource: &'a str) -> Self {
        Self {
            user,
            verb,
            resource_request: true,
            group,
            version: "",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            field_selector: "",
            label_selector: "",
        }
    }

    /// The question in the words of atoll-policy.
    #[must_use]
    pub fn question(&self) -> Request<'a> {
        Request {
            user: &self.user.name,
            groups: &self.user.groups,
            verb: self.verb,
            resource_request: self.resource_request,
            group: self.group,
            resource: self.resource,
            subresource: self.subresource,
            namespace: self.namespace,
            name: self.name,
            path: self.path,
            field_selector: self.field_selector,
        }
    }

    /// The 403 for this question, in upstream's words.
    #[must_use]
    pub fn forbidden(&self, reason: &str) -> Status {
        let message = atoll_policy::forbidden(&self.question(), reason);
        if self.resource_request {
            Status::forbidden_text(self.group, self.resource, self.name, message)
        } else {
            Status::forbidden_text("", "", "", message)
        }
    }

    /// `Ok` when the authorizer allows it, the 403 otherwise.
    pub fn require(&self, authorizer: &dyn Authorizer) -> Result<(), Status> {
        match authorizer.authorize(self) {
            Decision::Allow { .. } => Ok(()),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => {
                Err(self.forbidden(&reason))
            }
        }
    }
}
