//! The key that signs ServiceAccount tokens, and its public half as a JSON web key.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::error::IdentityError;

const OWNER: &str = "ServiceAccount tokens";

/// An uncompressed P-256 point: 0x04, x, y.
const POINT_BYTES: usize = 65;

/// A P-256 key for ES256 signatures.
#[derive(Clone)]
pub struct AccountKey {
    key_pem: String,
    public: AccountPublicKey,
}

/// What verifiers need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountPublicKey {
    /// Derived from the public key, as upstream does: base64url of SHA-256 of its DER.
    pub key_id: String,
    /// Coordinates in base64url, as a JSON web key has them.
    pub x: String,
    pub y: String,
}

impl AccountKey {
    pub fn create() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|source| IdentityError::MakeKey { source })?;
        Self::load(&key.serialize_pem())
    }

    pub fn load(key_pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|source| IdentityError::ReadKey { owner: OWNER.to_owned(), source })?;
        let point = key.public_key_raw();
        if point.len() != POINT_BYTES || point[0] != 4 {
            return Err(IdentityError::NoKey { owner: format!("{OWNER} (it must be P-256)") });
        }
        let (x, y) = point[1..].split_at(32);
        let public = AccountPublicKey {
            key_id: URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info())),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
        };
        Ok(Self { key_pem: key_pem.to_owned(), public })
    }

    /// The secret half in PKCS #8 PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    #[must_use]
    pub fn public(&self) -> &AccountPublicKey {
        &self.public
    }
}

impl std::fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccountKey").field("key_id", &self.public.key_id).finish_non_exhaustive()
    }
}
