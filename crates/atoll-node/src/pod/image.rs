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
}

/// `Always` for the tag `latest`, as upstream defaults it.
#[must_use]
pub fn policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ => {
            let image = container.image.as_deref().unwrap_or_default();
            match image.parse::<Reference>() {
                Ok(name) if name.digest.is_none() && name.tag.as_deref() == Some("latest") => {
                    PullPolicy::Always
                }
                _ => PullPolicy::IfNotPresent,
            }
        }
    }
}

/// Pulls or finds the image.
pub async fn ensure(
    cx: &Context,
    pod: &Pod,
    container: &Container,
    secrets: &BTreeMap<String, Secret>,
) -> Result<ImageInfo, PullFailure> {
    let image = container.image.clone().unwrap_or_default();
    let event = |kind, reason: &str, message| {
        cx.container_event(pod, &container.name, kind, reason, message);
    };
    let policy = policy(container);
    let here = match cx.images.resolve(&image) {
        Ok(found) => found,
        Err(error) => return Err(fail(cx, pod, container, &image, &error)),
    };
    let asks_registry = match policy {
        PullPolicy::Always => here.as_ref().is_none_or(|found| !found.builtin),
        PullPolicy::IfNotPresent => here.is_none(),
        PullPolicy::Never => false,
    };
    if asks_registry {
        event(EventType::Normal, "Pulling", messages::pulling(&image));
    }
    let request =
        PullRequest { image: image.clone(), policy, credentials: credentials(&image, secrets) };
    match cx.images.ensure(&request, None).await {
        Ok(outcome) => {
            let text = if asks_registry {
                let elapsed = outcome.elapsed.as_millis();
                messages::pulled(&image, elapsed, outcome.image.size_bytes)
            } else {
                messages::present(&image)
            };
            event(EventType::Normal, "Pulled", text);
            Ok(outcome.image)
        }
        Err(error) => Err(fail(cx, pod, container, &image, &error)),
    }
}

fn fail(
    cx: &Context,
    pod: &Pod,
    container: &Container,
    image: &str,
    error: &ImageError,
) -> PullFailure {
    let event = |reason: &str, message| {
        cx.container_event(pod, &container.name, EventType::Warning, reason, message);
    };
    let text = with_sources(error);
    let (reason, message) = match error {
        ImageError::InvalidName(_) => {
            let message = messages::invalid_image_name(image, &text);
            event("InspectFailed", message.clone());
            (messages::INVALID_IMAGE_NAME, message)
        }
        ImageError::NeverPull { .. } => {
            event("ErrImageNeverPull", text.clone());
            (messages::ERR_IMAGE_NEVER_PULL, text)
        }
        _ => {
            event("Failed", messages::pull_failed(image, &text));
            (messages::ERR_IMAGE_PULL, text)
        }
    };
    event("Failed", format!("Error: {reason}"));
    PullFailure { reason, message }
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
        for (registry, auth) in auths(secret) {
            let prefix = canonical(&registry);
            let fits = full == prefix || full.starts_with(&format!("{prefix}/"));
            if fits && let Some(credentials) = read_auth(auth) {
                found.push((prefix.len(), credentials));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, credentials)| credentials).collect()
}

fn auths(secret: &Secret) -> BTreeMap<String, DockerAuth> {
    let entry = |name: &str| secret.data.as_ref().and_then(|entries| entries.get(name));
    if let Some(text) = entry(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(&text.0)
            .map(|c| c.auths)
            .unwrap_or_default();
    }
    match entry(".dockercfg") {
        Some(text) => serde_json::from_slice(&text.0).unwrap_or_default(),
        None => BTreeMap::new(),
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
        let policy_of = |image: &str| {
            policy(&serde_json::from_value(json!({"name": "c", "image": image})).unwrap())
        };
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
}
