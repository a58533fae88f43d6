//! The authorizer that expressions of webhooks and policies ask.

use atoll_api::cel::authorizer::{Authorize, Decision as Answer, Question};

use crate::authz::{Attributes, Authorizer, Decision};
use crate::tokens::{account_groups, account_user};
use crate::user::UserInfo;

/// The authorizer of the server, asked about the user of the request or a service account.
pub(super) struct Answering<'a> {
    pub(super) authorizer: &'a dyn Authorizer,
    pub(super) user: &'a UserInfo,
}

impl Authorize for Answering<'_> {
    fn authorize(&self, question: &Question) -> Answer {
        let account = question.account.as_ref().map(|(namespace, name)| {
            UserInfo::authenticated(account_user(namespace, name), account_groups(namespace))
        });
        let path = question.path.as_deref().unwrap_or("");
        let attributes = Attributes {
            verb: &question.verb,
            resource_request: question.path.is_none(),
            group: &question.group,
            // As upstream: any version.
            version: "*",
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            field_selector: &question.field_selector,
            label_selector: &question.label_selector,
            ..Attributes::empty(account.as_ref().unwrap_or(self.user), path)
        };
        let (allowed, reason) = match self.authorizer.authorize(&attributes) {
            Decision::Allow { reason } => (true, reason),
            Decision::Deny { reason } | Decision::NoOpinion { reason } => (false, reason),
        };
        Answer { allowed, reason, error: String::new() }
    }
}
