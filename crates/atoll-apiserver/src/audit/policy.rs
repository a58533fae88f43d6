//! audit.k8s.io/v1 `Policy`: which requests are kept, and how much of them.
//!
//! Unlike upstream's, a policy with a field that is not known is refused: a misspelt one would
//! keep less than somebody counts on.

mod check;
mod lines;

use serde::Deserialize;

use crate::authz::Attributes;

/// How much of a request is kept. Each level has what those before it have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

/// When an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

/// What is wrong with a policy file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct PolicyError {
    /// From 1 on.
    pub line: usize,
    pub cause: String,
}

/// A policy that holds.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What a policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keep {
    pub level: Level,
    pub omit_stages: Vec<Stage>,
    pub omit_managed_fields: bool,
}

impl Stage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

impl Level {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

impl Policy {
    /// From the YAML or JSON of a file.
    ///
    /// # Errors
    ///
    /// When it is neither, or no policy that holds; with the line of what is wrong.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let at = |line, cause: String| PolicyError { line, cause };
        let decoded = atoll_api::tree::from_yaml(text.as_bytes())
            .map_err(|error| at(lines::of_error(&error), error.to_string()))?;
        let lines = lines::of(text);
        if let Some(path) = decoded.duplicates.first() {
            let line = lines::last(&lines, path);
            return Err(at(line, format!("duplicate field {path:?}")));
        }
        if let Some(error) = check::policy(&decoded.object).into_iter().next() {
            return Err(at(lines::nearest(&lines, &error.path), error.to_string()));
        }
        serde_json::from_value(decoded.object).map_err(|error| at(1, error.to_string()))
    }

    /// The first rule that fits decides.
    pub(crate) fn keep(&self, attributes: &Attributes<'_>) -> Keep {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(attributes)) else {
            return Keep {
                level: Level::None,
                omit_stages: self.omit_stages.clone(),
                omit_managed_fields: self.omit_managed_fields,
            };
        };
        let mut omit_stages = self.omit_stages.clone();
        omit_stages.extend(&rule.omit_stages);
        let omit_managed_fields = rule.omit_managed_fields.unwrap_or(self.omit_managed_fields);
        Keep { level: rule.level, omit_stages, omit_managed_fields }
    }
}

impl Rule {
    fn fits(&self, asked: &Attributes<'_>) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|one| one == wanted);
        if !self.users.is_empty() && !has(&self.users, &asked.user.name) {
            return false;
        }
        let in_groups = || asked.user.groups.iter().any(|group| has(&self.user_groups, group));
        if !self.user_groups.is_empty() && !in_groups() {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, asked.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return asked.resource_request
                && (self.namespaces.is_empty() || has(&self.namespaces, asked.namespace))
                && (self.resources.is_empty()
                    || self.resources.iter().any(|resources| resources.fit(asked)));
        }
        self.non_resource_urls.is_empty()
            || (!asked.resource_request
                && self.non_resource_urls.iter().any(|spec| path_fits(spec, asked.path)))
    }
}

impl GroupResources {
    fn fit(&self, asked: &Attributes<'_>) -> bool {
        if self.group != "*" && self.group != asked.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty()
            || self.resource_names.iter().any(|name| name == asked.name);
        named && self.resources.iter().any(|spec| resource_fits(spec, asked))
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/log`, `*`.
fn resource_fits(spec: &str, asked: &Attributes<'_>) -> bool {
    let (resource, part) = (asked.resource, asked.subresource);
    match spec.split_once('/') {
        None => spec == "*" || (part.is_empty() && spec == resource),
        Some((of, "*")) => of == resource,
        Some(("*", of)) => !part.is_empty() && of == part,
        Some((of, own)) => of == resource && own == part,
    }
}

fn path_fits(spec: &str, path: &str) -> bool {
    spec == "*"
        || spec == path
        || spec.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests;
