//! What the API serves, and which of it a word on the command line means.

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::{
    Api, Client,
    api::DynamicObject,
    core::{ApiResource, GroupVersionKind},
};
use serde_json::Value;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// One resource as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub singular: String,
    pub short: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    pub verbs: Vec<String>,
}

pub struct Catalog(Vec<Entry>);

impl Entry {
    /// `deployment.apps/web`, as kubectl names objects.
    pub fn name_of(&self, name: &str) -> String {
        format!("{}/{name}", self.qualified())
    }

    /// `deployment.apps`
    pub fn qualified(&self) -> String {
        let singular = if self.singular.is_empty() { &self.plural } else { &self.singular };
        if self.group.is_empty() { singular.clone() } else { format!("{singular}.{}", self.group) }
    }

    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The collection's path; `namespace` `None` is all of them.
    pub fn path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }

    pub fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk(&self.group, &self.version, &self.kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, &self.plural);
        if self.namespaced {
            Api::namespaced_with(client.clone(), namespace, &resource)
        } else {
            Api::all_with(client.clone(), &resource)
        }
    }

    fn answers_to(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let (name, group) = word.split_once('.').unwrap_or((&word, ""));
        let group_fits = group.is_empty()
            || self.group == group
            || format!("{}.{}", self.version, self.group) == group;
        group_fits
            && (self.plural == name
                || self.singular == name
                || self.kind.to_lowercase() == name
                || self.short.iter().any(|short| short == name))
    }
}

impl Catalog {
    pub async fn read(client: &Client) -> Result<Self> {
        let mut entries = Vec::new();
        for path in ["/api", "/apis"] {
            let request = Request::get(path)
                .header(http::header::ACCEPT, AGGREGATED)
                .body(Vec::new())
                .context("building a request")?;
            let document: Value =
                client.request(request).await.context("asking what the API serves")?;
            entries.extend(parse(&document));
        }
        Ok(Self(entries))
    }

    /// The resource that `word` (plural, singular, kind, short name, `name.group`) means.
    pub fn find(&self, word: &str) -> Result<&Entry> {
        match self.0.iter().find(|entry| entry.answers_to(word)) {
            Some(entry) => Ok(entry),
            None => bail!("the server doesn't have a resource type \"{word}\""),
        }
    }

    /// The resources that `word` means: one, or those of a category such as `all`.
    pub fn find_all(&self, word: &str) -> Result<Vec<&Entry>> {
        let in_category = |entry: &&Entry| entry.categories.iter().any(|one| one == word);
        let category: Vec<&Entry> = self.0.iter().filter(in_category).collect();
        if category.is_empty() { Ok(vec![self.find(word)?]) } else { Ok(category) }
    }

    pub fn of_object(&self, api_version: &str, kind: &str) -> Result<&Entry> {
        let fits = |entry: &&Entry| entry.api_version() == api_version && entry.kind == kind;
        self.0
            .iter()
            .find(fits)
            .with_context(|| format!("no matches for kind \"{kind}\" in version \"{api_version}\""))
    }
}

fn parse(document: &Value) -> Vec<Entry> {
    let mut entries = Vec::new();
    for group in document["items"].as_array().into_iter().flatten() {
        let name = text(&group["metadata"]["name"]);
        // The first version is the one the server prefers.
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                entries.push(entry(&name, &text(&version["version"]), resource));
            }
        }
    }
    entries
}

fn entry(group: &str, version: &str, resource: &Value) -> Entry {
    Entry {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: text(&resource["responseKind"]["kind"]),
        plural: text(&resource["resource"]),
        singular: text(&resource["singularResource"]),
        short: texts(&resource["shortNames"]),
        categories: texts(&resource["categories"]),
        namespaced: resource["scope"] == "Namespaced",
        verbs: texts(&resource["verbs"]),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

/// `KIND/NAME`, or `KIND NAME...`, as kubectl takes them.
pub fn targets(words: &[String]) -> Result<Vec<(String, Option<String>)>> {
    let Some(first) = words.first() else {
        bail!("You must specify the type of resource to get, such as `pods` or `deployment/web`");
    };
    if first.contains('/') {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) if !name.is_empty() => {
                    Ok((kind.to_owned(), Some(name.to_owned())))
                }
                _ => bail!(
                    "there is no need to specify a resource type as a separate argument when passing arguments in resource/name form (e.g. 'atoll get resource/<resource_name>' instead of 'atoll get resource resource/<resource_name>'"
                ),
            })
            .collect();
    }
    let kinds: Vec<&str> = first.split(',').collect();
    let names = &words[1..];
    let mut targets = Vec::new();
    for kind in kinds {
        if names.is_empty() {
            targets.push((kind.to_owned(), None));
        }
        targets.extend(names.iter().map(|name| (kind.to_owned(), Some(name.clone()))));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployments() -> Entry {
        entry(
            "apps",
            "v1",
            &json!({
                "resource": "deployments", "singularResource": "deployment", "scope": "Namespaced",
                "shortNames": ["deploy"], "responseKind": { "kind": "Deployment" }, "verbs": ["get"],
            }),
        )
    }

    #[test]
    fn a_resource_answers_to_all_its_names() {
        for word in [
            "deployments",
            "deployment",
            "Deployment",
            "deploy",
            "deploy.apps",
            "deployments.v1.apps",
        ] {
            assert!(deployments().answers_to(word), "{word}");
        }
        assert!(!deployments().answers_to("deployments.batch"));
    }

    #[test]
    fn targets_are_read_in_both_forms() {
        let words = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        let one = |kind: &str, name: Option<&str>| (kind.to_owned(), name.map(ToOwned::to_owned));
        assert_eq!(targets(&words("pods")).unwrap(), [one("pods", None)]);
        assert_eq!(
            targets(&words("pod a b")).unwrap(),
            [one("pod", Some("a")), one("pod", Some("b"))]
        );
        assert_eq!(
            targets(&words("pod/a svc/b")).unwrap(),
            [one("pod", Some("a")), one("svc", Some("b"))]
        );
        assert!(targets(&words("pod/")).is_err());
    }
}
