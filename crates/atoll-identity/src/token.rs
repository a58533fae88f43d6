//! Join tokens: `atoll1.<SHA-256 of the serving authority>.<id>.<secret>` lets a node join,
//! `atoll1-server.…` a server.
//!
//! The hash lets the joining machine recognise the cluster before it says anything; the
//! secret lets the cluster recognise the machine, once. The server stores only a
//! [`TokenRecord`], from which the secret cannot be had back.

use std::fmt;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::authority::{fingerprint, hex};
use crate::error::IdentityError;
use crate::leaf::random;

const HASH_CHARS: usize = 64;
const ID_BYTES: usize = 5;
/// 128 bits: guessing is hopeless, so one round of SHA-256 is enough to store it.
const SECRET_BYTES: usize = 16;

/// Whom a token lets in. A server gets the keys of the whole cluster, a node one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenUse {
    Agent,
    Server,
}

/// A token as it is typed.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub usage: TokenUse,
    pub authority_hash: String,
    pub id: String,
    secret: String,
}

/// What the server keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    pub usage: TokenUse,
    pub id: String,
    /// SHA-256 of the secret in hex.
    pub secret_hash: String,
    pub expires_at: Timestamp,
    /// The node that used it, and the fingerprint of its key.
    pub used_by: Option<(String, String)>,
}

/// Why a token was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error(
        "this is not a join token; it must look like atoll1.<hash>.<id>.<secret>, as `atoll token create` prints it"
    )]
    Malformed,
    #[error(
        "join token {id} is for another cluster: it expects the serving authority {expected}, this cluster has {found}"
    )]
    OtherCluster { id: String, expected: String, found: String },
    #[error("join token {id} is not known here; create one with `atoll token create`")]
    Unknown { id: String },
    #[error("join token {id} expired at {expires_at}; create a new one with `atoll token create`")]
    Expired { id: String, expires_at: Timestamp },
    #[error(
        "join token {id} lets {} join, not {}; create another with `{}`",
        .has.who(), .needs.who(), .needs.command()
    )]
    WrongUse { id: String, has: TokenUse, needs: TokenUse },
    #[error(
        "join token {id} was already used by node {node:?}; a token lets one node join, create another with `atoll token create`"
    )]
    Used { id: String, node: String },
}

impl TokenUse {
    pub const ALL: [Self; 2] = [Self::Agent, Self::Server];

    /// What a token for this begins with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Agent => "atoll1",
            Self::Server => "atoll1-server",
        }
    }

    fn who(self) -> &'static str {
        match self {
            Self::Agent => "a node",
            Self::Server => "a server",
        }
    }

    fn command(self) -> &'static str {
        match self {
            Self::Agent => "atoll token create",
            Self::Server => "atoll token create --usage server",
        }
    }
}

impl JoinToken {
    /// Makes a token with which a node can join the cluster whose serving authority has this
    /// certificate.
    pub fn create(
        serving_authority_der: &[u8],
        expires_at: Timestamp,
    ) -> Result<(Self, TokenRecord), IdentityError> {
        Self::create_for(TokenUse::Agent, serving_authority_der, expires_at)
    }

    pub fn create_for(
        usage: TokenUse,
        serving_authority_der: &[u8],
        expires_at: Timestamp,
    ) -> Result<(Self, TokenRecord), IdentityError> {
        let (mut id, mut secret) = ([0u8; ID_BYTES], [0u8; SECRET_BYTES]);
        random(&mut id)?;
        random(&mut secret)?;
        let token = Self {
            usage,
            authority_hash: fingerprint(serving_authority_der),
            id: hex(&id),
            secret: hex(&secret),
        };
        let record = TokenRecord {
            usage,
            id: token.id.clone(),
            secret_hash: token.secret_hash(),
            expires_at,
            used_by: None,
        };
        Ok((token, record))
    }

    /// Reads a token as typed; surrounding white space is forgiven.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split('.');
        let (Some(prefix), Some(hash), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let usage = TokenUse::ALL.into_iter().find(|usage| usage.prefix() == prefix);
        let usage = usage.ok_or(TokenError::Malformed)?;
        let fits = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !fits(hash, HASH_CHARS) || !fits(id, ID_BYTES * 2) || !fits(secret, SECRET_BYTES * 2) {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            usage,
            authority_hash: hash.to_owned(),
            id: id.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// Whether bearer text could be a join token at all.
    #[must_use]
    pub fn looks_like(text: &str) -> bool {
        let prefix = text.split_once('.').map(|(prefix, _)| prefix);
        TokenUse::ALL.iter().any(|usage| prefix == Some(usage.prefix()))
    }

    /// The text to hand to the joining machine.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}.{}.{}.{}", self.usage.prefix(), self.authority_hash, self.id, self.secret)
    }

    /// Checks that the token lets in what wants to join.
    pub fn check_use(&self, needs: TokenUse) -> Result<(), TokenError> {
        if self.usage == needs {
            return Ok(());
        }
        Err(TokenError::WrongUse { id: self.id.clone(), has: self.usage, needs })
    }

    /// Whether the certificate is the serving authority that the token was made for.
    #[must_use]
    pub fn pins(&self, authority_der: &[u8]) -> bool {
        same(&self.authority_hash, &fingerprint(authority_der))
    }

    /// Checks that the token is for the cluster with this serving authority.
    pub fn check_cluster(&self, serving_authority_der: &[u8]) -> Result<(), TokenError> {
        if self.pins(serving_authority_der) {
            return Ok(());
        }
        Err(TokenError::OtherCluster {
            id: self.id.clone(),
            expected: self.authority_hash.clone(),
            found: fingerprint(serving_authority_der),
        })
    }

    /// Checks the secret and the expiry against the record that has this token's id. A used
    /// token passes here: what it may still do is [`TokenRecord::take`]'s to say.
    pub fn check(&self, record: Option<&TokenRecord>, now: Timestamp) -> Result<(), TokenError> {
        let unknown = || TokenError::Unknown { id: self.id.clone() };
        let record = record.ok_or_else(unknown)?;
        // A wrong secret reads as an unknown token: it must not tell that the id is right.
        if record.id != self.id || !same(&record.secret_hash, &self.secret_hash()) {
            return Err(unknown());
        }
        // Whoever rewrites the beginning of a token does not make it another.
        self.check_use(record.usage)?;
        if now >= record.expires_at {
            return Err(TokenError::Expired { id: self.id.clone(), expires_at: record.expires_at });
        }
        Ok(())
    }

    fn secret_hash(&self) -> String {
        hex(&Sha256::digest(self.secret.as_bytes()))
    }
}

impl TokenRecord {
    /// Records the use by `node`, whose request has a key with this fingerprint. The same
    /// node with the same key may come again: its first answer may have been lost. Returns
    /// whether the record changed and must be stored before anything is issued.
    pub fn take(&mut self, node: &str, key_fingerprint: &str) -> Result<bool, TokenError> {
        match &self.used_by {
            None => {
                self.used_by = Some((node.to_owned(), key_fingerprint.to_owned()));
                Ok(true)
            }
            Some((user, key)) if user == node && key == key_fingerprint => Ok(false),
            Some((user, _)) => Err(TokenError::Used { id: self.id.clone(), node: user.clone() }),
        }
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Equality that takes the same time wherever the texts differ.
fn same(a: &str, b: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_bytes(), b.as_bytes()).is_ok()
}

#[cfg(test)]
mod tests;
