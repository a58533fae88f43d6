//! One value, sealed: AES-256-GCM under a key that is made for the value alone.
//!
//! `atoll:sealed:1:<key id>:` and then 16 bytes of salt, 12 of nonce, and the ciphertext with its
//! tag. The value's key is HMAC-SHA256 of the salt under the key of that id, so the bound on
//! random nonces under one key is out of reach. Header and store key are authenticated: a value
//! opens only where it was put.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hmac, rand};

/// What every sealed value begins with. An object is JSON and begins with `{`.
pub const MAGIC: &[u8] = b"atoll:sealed:1:";
/// Hexadecimal digits of a key's id.
pub const ID_LENGTH: usize = 16;
const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
const HEADER_BYTES: usize = MAGIC.len() + ID_LENGTH + 1;

/// Why a value cannot be sealed or opened. No error says anything of the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("it is sealed with the key {id}, which this server does not have")]
    UnknownKey { id: String },
    #[error("it is sealed, and was cut or changed, or stood elsewhere when it was sealed")]
    Forged,
    #[error("sealing failed")]
    Seal,
}

/// 32 secret bytes. They are never shown.
#[derive(Clone)]
pub struct SecretKey([u8; KEY_BYTES]);

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

impl SecretKey {
    pub fn random() -> Result<Self, EnvelopeError> {
        let mut bytes = [0; KEY_BYTES];
        rand::fill(&mut bytes).map_err(|_no_entropy| EnvelopeError::Seal)?;
        Ok(Self(bytes))
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// A key for one purpose out of a secret for others.
    #[must_use]
    pub fn derived(secret: &[u8], purpose: &[u8]) -> Self {
        Self(mac(secret, purpose))
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn mac(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

fn cipher(key: &SecretKey, salt: &[u8]) -> Result<LessSafeKey, EnvelopeError> {
    let own = mac(&key.0, salt);
    UnboundKey::new(&AES_256_GCM, &own)
        .map(LessSafeKey::new)
        .map_err(|_unspecified| EnvelopeError::Seal)
}

/// The id of the key that a value is sealed with; `None` when it is not sealed.
#[must_use]
pub fn key_id(value: &[u8]) -> Option<&str> {
    let rest = value.strip_prefix(MAGIC)?;
    let (id, end) = (rest.get(..ID_LENGTH)?, rest.get(ID_LENGTH)?);
    let plain = id.iter().all(u8::is_ascii_hexdigit) && *end == b':';
    std::str::from_utf8(id).ok().filter(|_| plain)
}

/// Whether a value claims to be sealed, be it well formed or not.
#[must_use]
pub fn is_sealed(value: &[u8]) -> bool {
    value.starts_with(MAGIC)
}

/// Seals what is to stand at `place`. `id` has [`ID_LENGTH`] hexadecimal digits.
pub fn seal(
    key: &SecretKey,
    id: &str,
    place: &[u8],
    value: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    let mut random = [0; SALT_BYTES + NONCE_LEN];
    rand::fill(&mut random).map_err(|_no_entropy| EnvelopeError::Seal)?;
    let (salt, nonce) = random.split_at(SALT_BYTES);
    let mut sealed = Vec::with_capacity(HEADER_BYTES + random.len() + value.len() + 16);
    sealed.extend_from_slice(MAGIC);
    sealed.extend_from_slice(id.as_bytes());
    sealed.push(b':');
    let bound = bound_to(&sealed, place);
    let nonce =
        Nonce::try_assume_unique_for_key(nonce).map_err(|_unspecified| EnvelopeError::Seal)?;
    let mut body = value.to_vec();
    cipher(key, salt)?
        .seal_in_place_append_tag(nonce, Aad::from(bound), &mut body)
        .map_err(|_unspecified| EnvelopeError::Seal)?;
    sealed.extend_from_slice(&random);
    sealed.extend_from_slice(&body);
    Ok(sealed)
}

/// Opens what stands at `place`. A value that is not sealed is no business of this function.
pub fn open(key: &SecretKey, place: &[u8], value: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let forged = || EnvelopeError::Forged;
    let header = value.get(..HEADER_BYTES).ok_or_else(forged)?;
    key_id(value).ok_or_else(forged)?;
    let (salt, rest) = value
        .get(HEADER_BYTES..)
        .and_then(|rest| rest.split_at_checked(SALT_BYTES))
        .ok_or_else(forged)?;
    let (nonce, body) = rest.split_at_checked(NONCE_LEN).ok_or_else(forged)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_unspecified| forged())?;
    let mut body = body.to_vec();
    let length = cipher(key, salt)?
        .open_in_place(nonce, Aad::from(bound_to(header, place)), &mut body)
        .map_err(|_unspecified| forged())?
        .len();
    body.truncate(length);
    Ok(body)
}

/// Header and place, so that neither can be exchanged. The header's length is fixed.
fn bound_to(header: &[u8], place: &[u8]) -> Vec<u8> {
    [header, place].concat()
}
