//! ServiceAccount tokens for projected volumes: asked for, kept, and renewed in time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::pod::identity::PodId;

/// What a pod gets when it names no lifetime.
const DEFAULT_SECONDS: i64 = 3600;
/// However long it lives, a token is renewed after this time.
const AGE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// Which token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Wanted {
    pub account: String,
    pub audience: Option<String>,
    pub seconds: Option<i64>,
}

struct Kept {
    token: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// Tokens in use, by pod. One pod's are forgotten with it.
pub struct Tokens {
    client: Client,
    kept: Mutex<HashMap<(String, Wanted), Kept>>,
}

impl Tokens {
    #[must_use]
    pub fn new(client: Client) -> Tokens {
        Tokens { client, kept: Mutex::default() }
    }

    /// A token that is good for a while yet. While the API cannot be reached, the old one
    /// serves until it expires.
    pub async fn get(
        &self,
        pod: &PodId,
        wanted: &Wanted,
        now: Timestamp,
    ) -> Result<String, kube::Error> {
        let key = (pod.uid.clone(), wanted.clone());
        let old = {
            let kept = self.lock();
            match kept.get(&key) {
                Some(token) if now < token.renew_at => return Ok(token.token.clone()),
                Some(token) => (now < token.expires_at).then(|| token.token.clone()),
                None => None,
            }
        };
        match self.request(pod, wanted, now).await {
            Ok((token, expires_at)) => {
                let renew_at = renew_at(now, expires_at);
                let entry = Kept { token: token.clone(), renew_at, expires_at };
                self.lock().insert(key, entry);
                Ok(token)
            }
            Err(error) => match old {
                Some(token) => {
                    tracing::warn!(%pod, %error, "service account token not renewed; will retry");
                    Ok(token)
                }
                None => Err(error),
            },
        }
    }

    pub fn forget(&self, uid: &str) {
        self.lock().retain(|(owner, _), _| owner != uid);
    }

    async fn request(
        &self,
        pod: &PodId,
        wanted: &Wanted,
        now: Timestamp,
    ) -> Result<(String, Timestamp), kube::Error> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &pod.namespace);
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().map(|audience| vec![audience]),
                expiration_seconds: Some(wanted.seconds.unwrap_or(DEFAULT_SECONDS)),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name.clone()),
                    uid: Some(pod.uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let answer =
            api.create_token_request(&wanted.account, &PostParams::default(), &request).await?;
        let status = answer.status.unwrap_or_default();
        let expires_at = status.expiration_timestamp.map_or(now, |time| time.0);
        Ok((status.token.unwrap_or_default(), expires_at))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, Wanted), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At four fifths of its life, and after a day at the latest.
fn renew_at(now: Timestamp, expires_at: Timestamp) -> Timestamp {
    let life = expires_at.duration_since(now);
    let wait = (life * 4 / 5).min(AGE_MAX).max(SignedDuration::ZERO);
    now.saturating_add(wait).unwrap_or(expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_comes_before_the_end() {
        let now = Timestamp::from_second(0).unwrap();
        let after = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(renew_at(now, after(3600)), after(2880));
        assert_eq!(renew_at(now, after(100 * 86_400)), after(86_400));
        assert_eq!(renew_at(after(10), after(5)), after(10));
    }
}
