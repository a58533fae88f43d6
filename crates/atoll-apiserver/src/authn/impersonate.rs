//! Impersonation: acting as somebody else, for those who have the right to.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};

use crate::authz::{Attributes, Authorizer};
use crate::request::percent_decode;
use crate::status::Status;
use crate::tokens::{account_groups, account_of};
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA_PREFIX: &str = "impersonate-extra-";

const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user that the request acts as: the sender, unless it asks for another.
pub(super) fn apply(
    sender: UserInfo,
    headers: &HeaderMap,
    authorizer: &dyn Authorizer,
) -> Result<UserInfo, Status> {
    let texts = |name: &str| -> Result<Vec<String>, Status> {
        headers.get_all(name).iter().map(|value| text(name, value)).collect()
    };
    let user = texts(USER)?.into_iter().next().unwrap_or_default();
    let groups = texts(GROUP)?;
    let uid = texts(UID)?.into_iter().next().unwrap_or_default();
    let extra = extra(headers)?;
    if user.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(sender);
        }
        return Err(Status::internal("requested impersonation without impersonating a user"));
    }
    let allowed = Check { sender: &sender, authorizer };
    allowed.user(&user)?;
    for group in &groups {
        allowed.to_be("", "groups", "", group)?;
    }
    if !uid.is_empty() {
        allowed.to_be(AUTHENTICATION, "uids", "", &uid)?;
    }
    for (key, values) in &extra {
        for value in values {
            allowed.to_be(AUTHENTICATION, "userextras", key, value)?;
        }
    }
    let groups = complete_groups(&user, groups);
    Ok(UserInfo { name: user, uid, groups, extra, sender: Some(Arc::new(sender)) })
}

struct Check<'a> {
    sender: &'a UserInfo,
    authorizer: &'a dyn Authorizer,
}

impl Check<'_> {
    fn user(&self, name: &str) -> Result<(), Status> {
        let Some((namespace, account)) = account_of(name) else {
            return self.to_be("", "users", "", name);
        };
        let attributes = Attributes {
            namespace,
            name: account,
            ..Attributes::resource(self.sender, "impersonate", "", "serviceaccounts")
        };
        attributes.require(self.authorizer)
    }

    fn to_be(
        &self,
        group: &str,
        resource: &str,
        subresource: &str,
        name: &str,
    ) -> Result<(), Status> {
        let attributes = Attributes {
            subresource,
            name,
            ..Attributes::resource(self.sender, "impersonate", group, resource)
        };
        attributes.require(self.authorizer)
    }
}

/// A user has the groups that come with it, as if it had proven who it is.
fn complete_groups(user: &str, mut groups: Vec<String>) -> Vec<String> {
    if groups.is_empty()
        && let Some((namespace, _)) = account_of(user)
    {
        groups.extend(account_groups(namespace));
    }
    let known = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
    if !groups.iter().any(known) {
        let group = if user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        groups.push(group.to_owned());
    }
    groups
}

/// A header that cannot be read must not be as one that is not there: the request would be
/// the sender's own.
fn text(name: &str, value: &HeaderValue) -> Result<String, Status> {
    String::from_utf8(value.as_bytes().to_vec())
        .map_err(|_error| Status::bad_request(format!("the header {name} is not valid UTF-8")))
}

fn extra(headers: &HeaderMap) -> Result<BTreeMap<String, Vec<String>>, Status> {
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA_PREFIX) {
            let value = text(name.as_str(), value)?;
            extra.entry(percent_decode(key, false)).or_default().push(value);
        }
    }
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::AlwaysAllow;

    fn acting(pairs: &[(&'static str, &'static str)]) -> Result<UserInfo, Status> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let sender = UserInfo::authenticated("admin", ["system:masters"]);
        apply(sender, &headers, &AlwaysAllow)
    }

    #[test]
    fn without_headers_the_sender_acts() {
        assert_eq!(acting(&[]).unwrap().name, "admin");
    }

    #[test]
    fn the_senders_own_groups_do_not_come_along() {
        let user = acting(&[(USER, "jane"), (GROUP, "dev")]).unwrap();
        assert_eq!(user.name, "jane");
        assert_eq!(user.groups, ["dev", "system:authenticated"]);
    }

    #[test]
    fn an_account_has_its_groups() {
        let user = acting(&[(USER, "system:serviceaccount:a:b")]).unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
    }

    #[test]
    fn nobody_stays_unproven() {
        let user = acting(&[(USER, "system:anonymous")]).unwrap();
        assert_eq!(user.groups, ["system:unauthenticated"]);
    }

    #[test]
    fn a_group_without_a_user_is_an_error() {
        assert!(acting(&[(GROUP, "dev")]).is_err());
    }

    #[test]
    fn a_name_beyond_ascii_is_a_name_and_rubbish_is_refused() {
        let acting = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.append(USER, HeaderValue::from_bytes(value).unwrap());
            apply(UserInfo::authenticated("admin", ["system:masters"]), &headers, &AlwaysAllow)
        };
        assert_eq!(acting("jürgen".as_bytes()).unwrap().name, "jürgen");
        assert_eq!(acting(&[0xff, 0xfe]).unwrap_err().code(), 400);
    }

    #[test]
    fn extra_keys_are_unescaped() {
        let user = acting(&[(USER, "jane"), ("impersonate-extra-example.com%2fscopes", "view")]);
        assert_eq!(user.unwrap().extra["example.com/scopes"], ["view"]);
    }
}
