//! Tokens that live in a Secret of type `kubernetes.io/service-account-token`.
//!
//! They do not expire: they hold while the Secret has them and the account lives (upstream's
//! legacy tokens, `pkg/serviceaccount/legacy.go`). Their claims are upstream's, which tools read.

use atoll_api::access::Access as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::{Deserialize, Serialize};

use super::objects::Objects;
use super::{AccountTokens, Reference, TokenProblem, account_groups, account_user};
use crate::status::Status;
use crate::user::UserInfo;

const ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token in a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretClaims {
    iss: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    account_uid: String,
    sub: String,
}

impl SecretClaims {
    #[must_use]
    pub fn new(namespace: &str, secret: &str, account: &str, account_uid: &str) -> Self {
        Self {
            iss: ISSUER.to_owned(),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.to_owned(),
            account_uid: account_uid.to_owned(),
            sub: account_user(namespace, account),
        }
    }

    fn user(&self) -> UserInfo {
        let name = account_user(&self.namespace, &self.account);
        let uid = self.account_uid.clone();
        UserInfo { uid, ..UserInfo::authenticated(name, account_groups(&self.namespace)) }
    }
}

impl AccountTokens {
    /// Signs a token that is to be put into its Secret.
    pub fn sign_secret(
        &self,
        claims: &SecretClaims,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.header(), claims, &self.signing)
    }

    fn verify_secret(&self, token: &str) -> Result<SecretClaims, TokenProblem> {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_exp = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<SecretClaims>(token, &self.verifying, &rules)
            .map_err(|source| TokenProblem::Invalid { source })?
            .claims;
        if claims.iss != ISSUER || claims.sub != account_user(&claims.namespace, &claims.account) {
            return Err(TokenProblem::NotOurs);
        }
        Ok(claims)
    }
}

/// Whether it was refused for its claims alone, which may be those of a Secret's token.
pub(crate) fn may_be(problem: &TokenProblem) -> bool {
    let TokenProblem::Invalid { source } = problem else { return false };
    matches!(source.kind(), ErrorKind::Json(_))
}

/// The user whom the token proves, if its Secret still has it and its account is the same.
pub(crate) async fn verify(
    tokens: &AccountTokens,
    objects: Objects<'_>,
    token: &str,
) -> Result<UserInfo, TokenProblem> {
    let claims = tokens.verify_secret(token)?;
    let reference = Reference { name: claims.account.clone(), uid: claims.account_uid.clone() };
    objects.check_one("serviceaccounts", &claims.namespace, &reference).await?;
    let encoded = STANDARD.encode(token);
    let lookup = |status: Status| TokenProblem::Lookup { why: status.to_string() };
    let has = |secret: Option<serde_json::Value>| {
        secret.is_some_and(|secret| {
            secret["metadata"].text("deletionTimestamp").is_empty()
                && secret["data"].text("token") == encoded
        })
    };
    let (namespace, name) = (claims.namespace.as_str(), claims.secret.as_str());
    // Memory may still show it as it was before it was filled.
    if has(objects.get("secrets", namespace, name).await.map_err(lookup)?)
        || has(objects.fresh("secrets", namespace, name).await.map_err(lookup)?)
    {
        return Ok(claims.user());
    }
    Err(TokenProblem::Invalidated { kind: "secrets", name: claims.secret })
}
