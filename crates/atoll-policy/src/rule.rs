//! One rule of a role: what it allows.

use serde_json::{Map, Value};

use crate::message::Request;

const ALL: &str = "*";

/// Verbs on resources, or verbs on paths.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// Reads `rules` of a Role or ClusterRole; anything missing is empty.
    #[must_use]
    pub fn list(role: &Value) -> Vec<Self> {
        role["rules"]
            .as_array()
            .map_or_else(Vec::new, |rules| rules.iter().map(Self::from_value).collect())
    }

    #[must_use]
    pub fn from_value(rule: &Value) -> Self {
        let texts = |field: &str| {
            rule[field].as_array().map_or_else(Vec::new, |list| {
                list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            })
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    /// The rule as it stands in an object, without its empty fields.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut fields = Map::new();
        for (name, list) in [
            ("apiGroups", &self.api_groups),
            ("nonResourceURLs", &self.non_resource_urls),
            ("resourceNames", &self.resource_names),
            ("resources", &self.resources),
            ("verbs", &self.verbs),
        ] {
            if !list.is_empty() || name == "verbs" {
                fields.insert(name.to_owned(), Value::from(list.clone()));
            }
        }
        Value::Object(fields)
    }

    /// Whether the rule lets the request through.
    #[must_use]
    pub fn allows(&self, request: &Request<'_>) -> bool {
        if !has(&self.verbs, request.verb) {
            return false;
        }
        if !request.resource_request {
            return self.non_resource_urls.iter().any(|url| url_matches(url, request.path));
        }
        has(&self.api_groups, request.group)
            && self
                .resources
                .iter()
                .any(|own| resource_matches(own, request.resource, request.subresource))
            && (self.resource_names.is_empty()
                || self.resource_names.iter().any(|name| name == request.name))
    }
}

/// `*` or the word itself.
fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|own| own == ALL || own == word)
}

/// A rule's resource is `*`, `pods`, `pods/log` or `*/scale`.
fn resource_matches(own: &str, resource: &str, subresource: &str) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => subresource.is_empty() && own == resource,
        Some((left, right)) => {
            !subresource.is_empty() && right == subresource && (left == ALL || left == resource)
        }
    }
}

/// A rule's path is `*`, a whole path, or a prefix that ends in `*`.
pub(crate) fn url_matches(own: &str, path: &str) -> bool {
    own == path || own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}
