//! Who may ask the kubelet API: the API servers by their certificate, and whoever the API vouches
//! for by a bearer token (the kubelet's webhook authentication and authorization: Prometheus and
//! metrics-server come that way).

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

use crate::context::Context;
use crate::kubelet::{Answer, text};

/// How long an answer of the API is believed: the kubelet's defaults.
pub(super) const TOKEN_FOR: Duration = Duration::from_secs(120);
pub(super) const ALLOWED_FOR: Duration = Duration::from_secs(300);
pub(super) const DENIED_FOR: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Answers that are kept; beyond it all are asked for anew.
const KEPT_MAX: usize = 1024;

/// What the API has answered lately.
#[derive(Default)]
pub struct Access {
    users: Remembered<String, Option<Arc<UserInfo>>>,
    /// By the whole question: two tokens of one name may be of other groups.
    rights: Remembered<String, bool>,
}

/// Values that are good until a time.
struct Remembered<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).filter(|(until, _)| *until > Instant::now()).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V, keep: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= KEPT_MAX {
            all.clear();
        }
        all.insert(key, (Instant::now() + keep, value));
    }
}

impl Access {
    /// Whether whoever has no certificate of the API servers may have this.
    pub async fn check<B>(&self, cx: &Context, request: &Request<B>) -> Result<(), Box<Answer>> {
        let unauthorized = || Box::new(text(StatusCode::UNAUTHORIZED, "Unauthorized"));
        let token = bearer(request).ok_or_else(unauthorized)?;
        let user = self.user(cx, token).await?.ok_or_else(unauthorized)?;
        let verb = verb(request.method());
        let subresources = subresources(request.uri().path());
        for subresource in subresources {
            if self.may(cx, &user, verb, subresource).await? {
                return Ok(());
            }
        }
        let name = user.username.clone().unwrap_or_default();
        let words = format!(
            "Forbidden (user={name}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            subresources.join(" ")
        );
        Err(Box::new(text(StatusCode::FORBIDDEN, words)))
    }

    async fn user(&self, cx: &Context, token: &str) -> Result<Option<Arc<UserInfo>>, Box<Answer>> {
        let key = token.to_owned();
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: key.clone(), audiences: None };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(cx.client.clone());
        let status = asked(api.create(&PostParams::default(), &review)).await?.status;
        let status = status.unwrap_or_default();
        let is_known = status.authenticated.unwrap_or(false);
        let user = status.user.filter(|_| is_known).map(Arc::new);
        self.users.put(key, user.clone(), if is_known { TOKEN_FOR } else { DENIED_FOR });
        Ok(user)
    }

    async fn may(
        &self,
        cx: &Context,
        user: &UserInfo,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, Box<Answer>> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: user.username.clone(),
                uid: user.uid.clone(),
                groups: user.groups.clone(),
                extra: user.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(cx.config.node_name.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let key = serde_json::to_string(&review.spec).map_err(|error| no_answer(&error))?;
        if let Some(known) = self.rights.get(&key) {
            return Ok(known);
        }
        let api: Api<SubjectAccessReview> = Api::all(cx.client.clone());
        let status = asked(api.create(&PostParams::default(), &review)).await?.status;
        let status = status.unwrap_or_default();
        let keep = if status.allowed { ALLOWED_FOR } else { DENIED_FOR };
        self.rights.put(key, status.allowed, keep);
        Ok(status.allowed)
    }
}

/// What the API says, if it says anything in time; while it is away nobody can be told apart.
async fn asked<T>(review: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Box<Answer>> {
    let reason = match tokio::time::timeout(ANSWER_WITHIN, review).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => error.to_string(),
        Err(_elapsed) => "no answer in time".to_owned(),
    };
    Err(no_answer(&reason))
}

fn no_answer(reason: &dyn std::fmt::Display) -> Box<Answer> {
    tracing::debug!(%reason, "asking the API who asks the kubelet API");
    let words = "Authorization error: the API does not answer";
    Box::new(text(StatusCode::INTERNAL_SERVER_ERROR, words))
}

fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// The part of the node that a path is of, and what includes it (kubelet's
/// `NodeRequestAttributesGetter`).
fn subresources(path: &str) -> &'static [&'static str] {
    match path.trim_start_matches('/').split('/').next().unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_parts_of_the_node() {
        for (path, first) in [
            ("/metrics/resource", "metrics"),
            ("/stats/summary", "stats"),
            ("/logs/", "log"),
            ("/pods", "pods"),
            ("/exec/a/b/c", "proxy"),
            ("/metricsx", "proxy"),
        ] {
            assert_eq!(subresources(path)[0], first, "{path}");
        }
    }

    #[test]
    fn only_bearers_have_a_token() {
        let with = |value: &str| Request::builder().header(AUTHORIZATION, value).body(()).unwrap();
        assert_eq!(bearer(&with("bearer a.b.c")), Some("a.b.c"));
        assert_eq!(bearer(&with("Basic abc")), None);
        assert_eq!(bearer(&with("Bearer ")), None);
        assert_eq!(bearer(&Request::new(())), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_ends() {
        let remembered = Remembered::default();
        remembered.put("a", 1, Duration::from_secs(10));
        assert_eq!(remembered.get(&"a"), Some(1));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(remembered.get(&"a"), None);
    }
}
