//! The question to the authorizers, and upstream's words for a no.

/// One question, in the words of RBAC.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub user: &'a str,
    pub groups: &'a [String],
    pub verb: &'a str,
    /// False for paths outside of the resources: only `verb` and `path` count then.
    pub resource_request: bool,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for cluster-scoped resources and across namespaces.
    pub namespace: &'a str,
    /// Empty for collections and creates.
    pub name: &'a str,
    pub path: &'a str,
    /// The field selector of a list or watch as it came; empty for none.
    pub field_selector: &'a str,
}

/// Who cannot do what where: `User "u" cannot list resource "pods" in API group "" in the
/// namespace "default"`.
#[must_use]
pub fn denied(request: &Request<'_>) -> String {
    let Request { user, verb, .. } = request;
    if !request.resource_request {
        return format!("User {user:?} cannot {verb} path {:?}", request.path);
    }
    let mut resource = request.resource.to_owned();
    if !request.subresource.is_empty() {
        resource.push('/');
        resource.push_str(request.subresource);
    }
    let scope = if request.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", request.namespace)
    };
    format!(
        "User {user:?} cannot {verb} resource {resource:?} in API group {:?} {scope}",
        request.group
    )
}

/// The whole message of a 403. `reason` comes from the authorizers and may be empty.
#[must_use]
pub fn forbidden(request: &Request<'_>, reason: &str) -> String {
    let mut why = denied(request);
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    if !request.resource_request || request.resource.is_empty() {
        return format!("forbidden: {why}");
    }
    let mut resource = request.resource.to_owned();
    if !request.group.is_empty() {
        resource.push('.');
        resource.push_str(request.group);
    }
    if request.name.is_empty() {
        format!("{resource} is forbidden: {why}")
    } else {
        format!("{resource} {:?} is forbidden: {why}", request.name)
    }
}
