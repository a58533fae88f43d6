//! Authorization: may this user do this.

use crate::user::UserInfo;

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

/// What an authorizer says. Only `Allow` lets a request through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow { reason: String },
    Deny { reason: String },
    /// Not allowed by anything; the reason may be empty.
    NoOpinion { reason: String },
}

/// Decides from what it holds in memory; it never waits.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, attributes: &Attributes<'_>) -> Decision;
}

/// Lets everyone do everything: for tests and loopback tools.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes<'_>) -> Decision {
        Decision::Allow { reason: String::new() }
    }
}
