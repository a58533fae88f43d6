//! RBAC: roles and bindings indexed by who they are for.
//!
//! A question looks only at the bindings of its user and groups, so its cost does not grow
//! with the number of bindings in the cluster. Roles are found by name at the time of the
//! question: a binding may stand before its role.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::aggregate::{self, Selectors};
use crate::message::Request;
use crate::rule::Rule;

/// The kinds that take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacKind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl RbacKind {
    pub const ALL: [Self; 4] =
        [Self::Role, Self::ClusterRole, Self::RoleBinding, Self::ClusterRoleBinding];

    /// The plural of the URL.
    #[must_use]
    pub fn resource(self) -> &'static str {
        match self {
            Self::Role => "roles",
            Self::ClusterRole => "clusterroles",
            Self::RoleBinding => "rolebindings",
            Self::ClusterRoleBinding => "clusterrolebindings",
        }
    }
}

/// What RBAC says to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// By this binding.
    Allowed { reason: String },
    /// By nothing; the reason names roles that are bound but missing, else it is empty.
    NoOpinion { reason: String },
}

/// Namespace (empty for cluster-wide) and name.
type Key = (String, String);

/// All RBAC objects of a cluster.
#[derive(Debug, Default)]
pub struct Rbac {
    roles: HashMap<Key, Arc<[Rule]>>,
    cluster_roles: HashMap<String, ClusterRole>,
    bindings: HashMap<Key, Arc<Binding>>,
    by_user: HashMap<String, Vec<Arc<Binding>>>,
    by_group: HashMap<String, Vec<Arc<Binding>>>,
}

#[derive(Debug)]
struct ClusterRole {
    rules: Arc<[Rule]>,
    labels: HashMap<String, String>,
    /// What other roles it takes its rules from.
    selectors: Option<Selectors>,
}

#[derive(Debug)]
struct Binding {
    namespace: String,
    name: String,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// The role that a binding hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    pub cluster: bool,
    pub name: String,
}

#[derive(Debug)]
struct Subject {
    group: bool,
    /// The user's or group's full name.
    name: String,
    /// How messages call it.
    shown: String,
}

impl RoleRef {
    /// Reads `roleRef` of a binding.
    #[must_use]
    pub fn of(binding: &Value) -> Self {
        let role = &binding["roleRef"];
        Self {
            cluster: role["kind"] == "ClusterRole",
            name: role["name"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn kind(&self) -> &'static str {
        if self.cluster { "ClusterRole" } else { "Role" }
    }
}

// === impl Rbac: feeding ===

impl Rbac {
    /// Takes in an object that was created or changed.
    pub fn apply(&mut self, kind: RbacKind, object: &Value) {
        let namespace = text(&object["metadata"]["namespace"]);
        let name = text(&object["metadata"]["name"]);
        match kind {
            RbacKind::Role => {
                self.roles.insert((namespace, name), Rule::list(object).into());
            }
            RbacKind::ClusterRole => {
                let role = ClusterRole {
                    rules: Rule::list(object).into(),
                    labels: aggregate::labels(object),
                    selectors: Selectors::of(object),
                };
                self.cluster_roles.insert(name, role);
            }
            RbacKind::RoleBinding | RbacKind::ClusterRoleBinding => {
                self.remove_binding(&namespace, &name);
                self.add_binding(Binding {
                    role: RoleRef::of(object),
                    subjects: subjects(object, &namespace),
                    namespace,
                    name,
                });
            }
        }
    }

    /// Forgets an object that was deleted.
    pub fn remove(&mut self, kind: RbacKind, namespace: &str, name: &str) {
        match kind {
            RbacKind::Role => {
                self.roles.remove(&(namespace.to_owned(), name.to_owned()));
            }
            RbacKind::ClusterRole => {
                self.cluster_roles.remove(name);
            }
            RbacKind::RoleBinding | RbacKind::ClusterRoleBinding => {
                self.remove_binding(namespace, name);
            }
        }
    }

    fn add_binding(&mut self, binding: Binding) {
        let binding = Arc::new(binding);
        for subject in &binding.subjects {
            let index = if subject.group { &mut self.by_group } else { &mut self.by_user };
            index.entry(subject.name.clone()).or_default().push(binding.clone());
        }
        self.bindings.insert((binding.namespace.clone(), binding.name.clone()), binding);
    }

    fn remove_binding(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(old) = self.bindings.remove(&key) else { return };
        for subject in &old.subjects {
            let index = if subject.group { &mut self.by_group } else { &mut self.by_user };
            if let Some(list) = index.get_mut(&subject.name) {
                list.retain(|binding| !Arc::ptr_eq(binding, &old));
                if list.is_empty() {
                    index.remove(&subject.name);
                }
            }
        }
    }
}

// === impl Rbac: asking ===

impl Rbac {
    /// Whether anything bound to the user or its groups allows the request.
    #[must_use]
    pub fn authorize(&self, request: &Request<'_>) -> Verdict {
        let mut missing = Vec::new();
        for (binding, subject) in self.bindings_for(request.user, request.groups) {
            if !applies(binding, request.namespace) {
                continue;
            }
            match self.rules(&binding.role, &binding.namespace) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(request)) => {
                    return Verdict::Allowed { reason: allowed_by(binding, subject) };
                }
                Ok(_) => {}
                Err(problem) => {
                    if !missing.contains(&problem) {
                        missing.push(problem);
                    }
                }
            }
        }
        let reason = match missing.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        };
        Verdict::NoOpinion { reason }
    }

    /// Everything that the user may do in the namespace (empty: cluster-wide only), and what
    /// could not be resolved.
    #[must_use]
    pub fn rules_for(
        &self,
        user: &str,
        groups: &[String],
        namespace: &str,
    ) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for (binding, _) in self.bindings_for(user, groups) {
            if !applies(binding, namespace) {
                continue;
            }
            match self.rules(&binding.role, &binding.namespace) {
                Ok(found) => rules.extend(found),
                Err(problem) => problems.push(problem),
            }
        }
        (rules, problems)
    }

    /// The rules of a role as a binding in `namespace` refers to it; the error is upstream's
    /// text for a role that is not there.
    pub fn rules(&self, role: &RoleRef, namespace: &str) -> Result<Vec<Rule>, String> {
        if !role.cluster {
            return self
                .roles
                .get(&(namespace.to_owned(), role.name.clone()))
                .map(|rules| rules.to_vec())
                .ok_or_else(|| {
                    format!("role.rbac.authorization.k8s.io {:?} not found", role.name)
                });
        }
        let Some(found) = self.cluster_roles.get(&role.name) else {
            return Err(format!("clusterrole.rbac.authorization.k8s.io {:?} not found", role.name));
        };
        match &found.selectors {
            None => Ok(found.rules.to_vec()),
            Some(selectors) => Ok(self.aggregated(selectors, &role.name)),
        }
    }

    /// The rules that a ClusterRole with an aggregationRule gathers from others, sorted by
    /// their names as upstream's controller does.
    #[must_use]
    pub fn aggregate(&self, name: &str) -> Option<Vec<Rule>> {
        let selectors = self.cluster_roles.get(name)?.selectors.as_ref()?;
        Some(self.aggregated(selectors, name))
    }

    /// ClusterRoles with an aggregationRule.
    pub fn aggregating(&self) -> impl Iterator<Item = &str> {
        self.cluster_roles
            .iter()
            .filter(|(_, role)| role.selectors.is_some())
            .map(|(name, _)| name.as_str())
    }

    fn aggregated(&self, selectors: &Selectors, own_name: &str) -> Vec<Rule> {
        let mut sources: Vec<&String> = Vec::new();
        let mut seen = vec![own_name];
        self.collect_sources(selectors, &mut sources, &mut seen);
        sources.sort();
        let mut rules: Vec<Rule> = Vec::new();
        for source in sources {
            for rule in self.cluster_roles[source].rules.iter() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        rules
    }

    /// Follows roles that themselves gather, so that `admin` holds what `edit` gathers even
    /// before anyone wrote that into `edit`.
    fn collect_sources<'a>(
        &'a self,
        selectors: &Selectors,
        sources: &mut Vec<&'a String>,
        seen: &mut Vec<&'a str>,
    ) where
        Self: 'a,
    {
        for (name, role) in &self.cluster_roles {
            if seen.contains(&name.as_str()) || !selectors.match_labels(&role.labels) {
                continue;
            }
            seen.push(name);
            match &role.selectors {
                None => sources.push(name),
                Some(inner) => self.collect_sources(inner, sources, seen),
            }
        }
    }

    fn bindings_for<'a>(
        &'a self,
        user: &'a str,
        groups: &'a [String],
    ) -> impl Iterator<Item = (&'a Binding, &'a Subject)> {
        let of_user = self
            .by_user
            .get(user)
            .into_iter()
            .flatten()
            .map(move |binding| (binding.as_ref(), false, user));
        let of_groups = groups.iter().flat_map(|group| {
            self.by_group
                .get(group)
                .into_iter()
                .flatten()
                .map(move |binding| (binding.as_ref(), true, group.as_str()))
        });
        of_user.chain(of_groups).filter_map(|(binding, group, name)| {
            let subject =
                binding.subjects.iter().find(|own| own.group == group && own.name == name)?;
            Some((binding, subject))
        })
    }
}

/// A ClusterRoleBinding applies everywhere, a RoleBinding in its own namespace.
fn applies(binding: &Binding, namespace: &str) -> bool {
    binding.namespace.is_empty() || binding.namespace == namespace
}

fn allowed_by(binding: &Binding, subject: &Subject) -> String {
    let (kind, name) = if binding.namespace.is_empty() {
        ("ClusterRoleBinding", binding.name.clone())
    } else {
        ("RoleBinding", format!("{}/{}", binding.name, binding.namespace))
    };
    let role = &binding.role;
    format!(
        "RBAC: allowed by {kind} {name:?} of {} {:?} to {}",
        role.kind(),
        role.name,
        subject.shown
    )
}

fn subjects(binding: &Value, namespace: &str) -> Vec<Subject> {
    let list = binding["subjects"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter()
        .filter_map(|subject| {
            let name = text(&subject["name"]);
            match subject["kind"].as_str()? {
                "User" => Some(Subject { group: false, shown: format!("User {name:?}"), name }),
                "Group" => Some(Subject { group: true, shown: format!("Group {name:?}"), name }),
                "ServiceAccount" => {
                    let own = subject["namespace"].as_str().unwrap_or(namespace);
                    Some(Subject {
                        group: false,
                        shown: format!("ServiceAccount {:?}", format!("{name}/{own}")),
                        name: format!("system:serviceaccount:{own}:{name}"),
                    })
                }
                _ => None,
            }
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
