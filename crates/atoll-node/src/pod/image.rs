//! Gets a container's image onto the node, with the events that tell of it.

use std::collections::BTreeMap;

use atoll_image::{
    Credentials, Error as ImageError, ImageInfo, PullPolicy, PullRequest, Reference,
};
use atoll_informer::EventType;
use base64::Engine as _;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use serde::Deserialize;

use crate::context::Context;
use crate::pod::messages;

/// Why there is no image: the container's waiting reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullFailure {
    pub reason: &'static str,
    pub message: String,
    /// As the pod names it.
    pub image: String,
}

/// An image that a pod asks for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    pub image: &'a str,
    pub policy: PullPolicy,
    /// Whom the events are about; the pod, where it is for a volume.
    pub container: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    #[must_use]
    pub fn of(container: &'a Container) -> Wanted<'a> {
        let image = container.image.as_deref().unwrap_or_default();
        let policy = policy(container.image_pull_policy.as_deref(), image);
        Wanted { image, policy, container: Some(&container.name) }
    }

    fn event(&self, cx: &Context, pod: &Pod, kind: EventType, reason: &str, message: String) {
        match self.container {
            Some(name) => cx.container_event(pod, name, kind, reason, message),
            None => cx.recorder.record(pod, kind, reason, message, None),
        }
    }
}

/// `Always` for the tag `latest`, as upstream defaults it.
#[must_use]
pub fn policy(asked: Option<&str>, image: &str) -> PullPolicy {
    match asked {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => match image.parse::<Reference>() {
            Ok(name) if name.digest.is_none() && name.tag.as_deref() == Some("latest") => {
                PullPolicy::Always
            }
            _ => PullPolicy::IfNotPresent,
        },
    }
}

/// Pulls or finds the image.
pub async fn ensure(
    cx: &Context,
    pod: &Pod,
    wanted: &Wanted<'_>,
    secrets: &BTreeMap<String, Secret>,
) -> Result<ImageInfo, PullFailure> {
    let event = |reason: &str, message| {
        wanted.event(cx, pod, EventType::Normal, reason, message);
    };
    let Wanted { image, policy, .. } = *wanted;
    let credentials = credentials(image, secrets);
    // What another pod's secret has brought is not there for this one.
    let found = cx.images.resolve(image).and_then(|found| match found {
        Some(found) => Ok(cx.images.is_open_to(&found, &credentials)?.then_some(found)),
        None => Ok(None),
    });
    let here = match found {
        Ok(found) => found,
        Err(error) => return Err(fail(cx, pod, wanted, &error)),
    };
    let asks_registry = match policy {
        PullPolicy::Always => here.as_ref().is_none_or(|found| !found.builtin),
        PullPolicy::IfNotPresent => here.is_none(),
        PullPolicy::Never => false,
    };
    if asks_registry {
        event("Pulling", messages::pulling(image));
    }
    let request = PullRequest { image: image.to_owned(), policy, credentials, by_hand: false };
    match cx.images.ensure(&request, None).await {
        Ok(outcome) => {
            let text = if asks_registry {
                let elapsed = outcome.elapsed.as_millis();
                messages::pulled(image, elapsed, outcome.image.size_bytes)
            } else {
                messages::present(image)
            };
            event("Pulled", text);
            Ok(outcome.image)
        }
        Err(error) => Err(fail(cx, pod, wanted, &error)),
    }
}

fn fail(cx: &Context, pod: &Pod, wanted: &Wanted<'_>, error: &ImageError) -> PullFailure {
    let event = |reason: &str, message| {
        wanted.event(cx, pod, EventType::Warning, reason, message);
    };
    let image = wanted.image.to_owned();
    let text = match error {
        // These two are upstream's, word for word.
        ImageError::InvalidName(_) | ImageError::NeverPull { .. } => error.to_string(),
        _ => error.in_full(),
    };
    let (reason, message) = match error {
        ImageError::InvalidName(_) => {
            let message = messages::invalid_image_name(&image, &text);
            event("InspectFailed", message.clone());
            (messages::INVALID_IMAGE_NAME, message)
        }
        ImageError::NeverPull { .. } => {
            event("ErrImageNeverPull", text.clone());
            (messages::ERR_IMAGE_NEVER_PULL, text)
        }
        _ => {
            event("Failed", messages::pull_failed(&image, &text));
            (messages::ERR_IMAGE_PULL, text)
        }
    };
    PullFailure { reason, message, image }
}

/// An error and its causes in one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A pull secret that is not there, or holds nothing that can be read, is told of: the
/// pull goes on without it.
pub(crate) fn tell_of_secrets(cx: &Context, pod: &Pod, secrets: &BTreeMap<String, Secret>) {
    let unusable: Vec<String> = pull_secrets(pod)
        .into_iter()
        .filter(|name| secrets.get(name).is_none_or(|secret| auths(secret).is_none()))
        .collect();
    if !unusable.is_empty() {
        let text = messages::pull_secrets_missing(&unusable);
        cx.warning(pod, "FailedToRetrieveImagePullSecret", text);
    }
}

/// Names of the pod's pull secrets.
#[must_use]
pub fn pull_secrets(pod: &Pod) -> Vec<String> {
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    secrets.map(|secret| secret.name.clone()).collect()
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
}

/// Credentials for the image's registry, those of the longest matching prefix first.
#[must_use]
pub fn credentials(image: &str, secrets: &BTreeMap<String, Secret>) -> Vec<Credentials> {
    let Ok(name) = image.parse::<Reference>() else { return Vec::new() };
    let full = name.name();
    let mut found = Vec::new();
    for secret in secrets.values() {
        for (registry, auth) in auths(secret).unwrap_or_default() {
            let prefix = canonical(&registry);
            if is_prefix(&prefix, &full)
                && let Some(credentials) = read_auth(auth)
            {
                found.push((prefix.len(), credentials));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

/// `None` when the secret holds no such thing.
fn auths(secret: &Secret) -> Option<BTreeMap<String, DockerAuth>> {
    let entry = |name: &str| secret.data.as_ref().and_then(|entries| entries.get(name));
    if let Some(text) = entry(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(&text.0).map(|c| c.auths).ok();
    }
    serde_json::from_slice(&entry(".dockercfg")?.0).ok()
}

/// `*` stands for any letters within one part of the registry's name, as in `*.example.com`.
fn is_prefix(prefix: &str, full: &str) -> bool {
    let split = |text: &str| -> (String, String) {
        let (host, path) = text.split_once('/').unwrap_or((text, ""));
        (host.to_owned(), path.to_owned())
    };
    let ((own, own_path), (host, path)) = (split(prefix), split(full));
    let (own, host): (Vec<&str>, Vec<&str>) = (own.split('.').collect(), host.split('.').collect());
    let hosts = own.len() == host.len() && own.iter().zip(&host).all(|(own, part)| glob(own, part));
    let paths =
        own_path.is_empty() || path == own_path || path.starts_with(&format!("{own_path}/"));
    hosts && paths
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))
        }),
    }
}

/// `https://index.docker.io/v1/` and the like name the registry `docker.io`.
fn canonical(registry: &str) -> String {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

fn read_auth(auth: DockerAuth) -> Option<Credentials> {
    if !auth.username.is_empty() {
        return Some(Credentials { username: auth.username, password: auth.password });
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some(Credentials { username: username.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_policy_follows_the_tag() {
        let policy_of = |image| policy(None, image);
        assert_eq!(policy_of("node"), PullPolicy::Always);
        assert_eq!(policy_of("node:latest"), PullPolicy::Always);
        assert_eq!(policy_of("node:18"), PullPolicy::IfNotPresent);
    }

    #[test]
    fn the_longest_prefix_wins() {
        let config = json!({"auths": {
            "registry.example": {"username": "wide", "password": "x"},
            "registry.example/team": {"auth": "bmFycm93Onk="},
            "https://index.docker.io/v1/": {"username": "hub", "password": "z"}}});
        let text = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret =
            serde_json::from_value(json!({"data": {".dockerconfigjson": text}})).unwrap();
        let secrets = [("s".to_owned(), secret)].into();
        let names = |image| -> Vec<String> {
            credentials(image, &secrets).into_iter().map(|c| c.username).collect()
        };
        assert_eq!(names("registry.example/team/app:1"), ["narrow", "wide"]);
        assert_eq!(names("registry.example/teams/app"), ["wide"]);
        assert_eq!(names("node:18"), ["hub"]);
        assert!(names("other.example/a").is_empty());
    }

    #[test]
    fn a_star_stands_within_one_part_of_a_registrys_name() {
        for (prefix, image, fits) in [
            ("*.example.com", "eu.example.com/app", true),
            ("*.example.com", "example.com/app", false),
            ("*.example.com", "a.b.example.com/app", false),
            ("r*y.example.com/team", "registry.example.com/team/app", true),
            ("localhost:5000", "localhost:5000/app", true),
            ("localhost", "localhost:5000/app", false),
        ] {
            assert_eq!(is_prefix(prefix, image), fits, "{prefix} {image}");
        }
    }
}
