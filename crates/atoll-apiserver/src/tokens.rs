//! ServiceAccount tokens: signed, verified, and what they are bound to.
//!
//! A token is a JWT (ES256). Its signature says that we issued it; whether it still holds is
//! asked of the objects that it is bound to.

pub(crate) mod objects;
pub mod request;
pub mod secret;

use std::collections::BTreeMap;

use atoll_identity::{AccountKey, AccountPublicKey};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::user::UserInfo;

/// A token whose `nbf` lies this far ahead still counts: our clock may have been set back.
const CLOCK_BACK_SECONDS: i64 = 2 * 3600;

const USER_PREFIX: &str = "system:serviceaccount:";
const ACCOUNTS_GROUP: &str = "system:serviceaccounts";

/// The claims of a token, as upstream lays them out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Vec<String>,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    pub nbf: i64,
    pub sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and uid, so that a namesake does not inherit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    pub uid: String,
}

/// Why a token does not hold. Never shown to whoever sent it, except by TokenReview.
#[derive(Debug, thiserror::Error)]
pub enum TokenProblem {
    #[error("the token is not a JWT of this cluster")]
    NotOurs,
    #[error("the token's signature or form is wrong")]
    Invalid { source: jsonwebtoken::errors::Error },
    #[error("service account token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("token audiences {has:?} is invalid for the target audiences {wanted:?}")]
    Audience { has: Vec<String>, wanted: Vec<String> },
    #[error("service account token has been invalidated: {kind} {name:?} is gone")]
    Invalidated { kind: &'static str, name: String },
    #[error("looking up what the token is bound to: {why}")]
    Lookup { why: String },
}

/// The key and the names with which this server issues and verifies.
pub struct AccountTokens {
    issuer: String,
    signing: EncodingKey,
    public: AccountPublicKey,
    verifying: DecodingKey,
}

impl AccountTokens {
    pub(crate) fn new(
        key: &AccountKey,
        issuer: String,
    ) -> Result<Self, jsonwebtoken::errors::Error> {
        let public = key.public().clone();
        Ok(Self {
            issuer,
            signing: EncodingKey::from_ec_pem(key.key_pem().as_bytes())?,
            verifying: DecodingKey::from_ec_components(&public.x, &public.y)?,
            public,
        })
    }

    /// The issuer, which is also the audience of this API.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn sign(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        jsonwebtoken::encode(&self.header(), claims, &self.signing)
    }

    fn header(&self) -> Header {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid = Some(self.public.key_id.clone());
        header
    }

    /// Signature, issuer and times; what the token is bound to is not looked at.
    pub fn verify(&self, token: &str, now: Timestamp) -> Result<Claims, TokenProblem> {
        let header = jsonwebtoken::decode_header(token).map_err(|_form| TokenProblem::NotOurs)?;
        if header.kid.as_ref().is_some_and(|kid| *kid != self.public.key_id) {
            return Err(TokenProblem::NotOurs);
        }
        let mut rules = Validation::new(Algorithm::ES256);
        // Times are judged by our own clock, audiences by the caller.
        rules.validate_exp = false;
        rules.validate_nbf = false;
        rules.validate_aud = false;
        rules.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &rules)
            .map_err(|source| TokenProblem::Invalid { source })?
            .claims;
        if claims.iss != self.issuer {
            return Err(TokenProblem::NotOurs);
        }
        let now = now.as_second();
        if now >= claims.exp {
            return Err(TokenProblem::Expired);
        }
        if now.saturating_add(CLOCK_BACK_SECONDS) < claims.nbf {
            return Err(TokenProblem::NotYet);
        }
        Ok(claims)
    }

    /// `/.well-known/openid-configuration`
    #[must_use]
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    /// `/openid/v1/jwks`
    #[must_use]
    pub fn key_set(&self) -> Value {
        json!({"keys": [{
            "use": "sig", "kty": "EC", "alg": "ES256", "crv": "P-256",
            "kid": self.public.key_id, "x": self.public.x, "y": self.public.y,
        }]})
    }
}

impl Claims {
    /// The user that the token proves.
    #[must_use]
    pub fn user(&self) -> UserInfo {
        let bound = &self.kubernetes;
        let mut extra = BTreeMap::new();
        let mut add = |key: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        add("credential-id", &format!("JTI={}", self.jti));
        for (kind, reference) in [("node", &bound.node), ("pod", &bound.pod)] {
            if let Some(reference) = reference {
                add(&format!("{kind}-name"), &reference.name);
                add(&format!("{kind}-uid"), &reference.uid);
            }
        }
        let namespace = &bound.namespace;
        UserInfo {
            uid: bound.serviceaccount.uid.clone(),
            extra,
            ..UserInfo::authenticated(
                account_user(namespace, &bound.serviceaccount.name),
                account_groups(namespace),
            )
        }
    }
}

/// The user name of a ServiceAccount.
#[must_use]
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("{USER_PREFIX}{namespace}:{name}")
}

/// Its groups, `system:authenticated` aside.
#[must_use]
pub fn account_groups(namespace: &str) -> [String; 2] {
    [ACCOUNTS_GROUP.to_owned(), format!("{ACCOUNTS_GROUP}:{namespace}")]
}

/// Namespace and name of a ServiceAccount's user name.
#[must_use]
pub fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(USER_PREFIX)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests;
