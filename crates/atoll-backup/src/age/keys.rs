//! X25519 keys as age writes them: `age1…` for whom to encrypt, `AGE-SECRET-KEY-1…` to open.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};

use super::{Error, bech32};

const RECIPIENT_PREFIX: &str = "age";
const IDENTITY_PREFIX: &str = "age-secret-key-";

/// A public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

/// The key that belongs to a [`Recipient`].
#[derive(Clone)]
pub struct Identity([u8; 32]);

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Identity")
    }
}

impl Recipient {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::str::FromStr for Recipient {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.to_ascii_lowercase().starts_with(IDENTITY_PREFIX) {
            return Err(Error::Key(
                "that is a secret key; the one to encrypt for begins with age1",
            ));
        }
        bech32::decode(RECIPIENT_PREFIX, text)
            .map(Self)
            .ok_or(Error::Key("that is not a public key of age, which is age1 and 58 characters"))
    }
}

impl std::fmt::Display for Recipient {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&bech32::encode(RECIPIENT_PREFIX, &self.0))
    }
}

impl Identity {
    /// The keys in a file as `age-keygen` writes it: one a line, and remarks.
    pub fn parse_file(text: &str) -> Result<Vec<Self>, Error> {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Self> = keys
            .map(|line| {
                bech32::decode(IDENTITY_PREFIX, line)
                    .map(Self)
                    .ok_or(Error::Key("a line is not a secret key of age (AGE-SECRET-KEY-1…)"))
            })
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(Error::Key("there is no secret key of age in it"));
        }
        Ok(keys)
    }

    pub fn recipient(&self) -> Result<Recipient, Error> {
        public(&self.private()?).map(Recipient)
    }

    pub(super) fn agree(&self, share: &[u8; 32]) -> Result<[u8; 32], Error> {
        agree_with(&self.private()?, share)
    }

    fn private(&self) -> Result<PrivateKey, Error> {
        PrivateKey::from_private_key(&X25519, &self.0).map_err(|_rejected| Error::Failed)
    }
}

/// Made for one file and forgotten.
pub(super) struct EphemeralKey(PrivateKey);

impl EphemeralKey {
    pub(super) fn generate() -> Result<Self, Error> {
        PrivateKey::generate(&X25519).map(Self).map_err(|_unspecified| Error::Failed)
    }

    pub(super) fn public(&self) -> Result<[u8; 32], Error> {
        public(&self.0)
    }

    pub(super) fn agree(&self, recipient: &Recipient) -> Result<[u8; 32], Error> {
        agree_with(&self.0, recipient.bytes())
    }
}

/// A new key, as text: what `age-keygen` does.
pub fn generate() -> Result<String, Error> {
    let key = PrivateKey::generate(&X25519).map_err(|_unspecified| Error::Failed)?;
    let seed: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(|_unspecified| Error::Failed)?;
    let seed: [u8; 32] = seed.as_ref().try_into().map_err(|_length| Error::Failed)?;
    Ok(bech32::encode(IDENTITY_PREFIX, &seed).to_ascii_uppercase())
}

fn public(key: &PrivateKey) -> Result<[u8; 32], Error> {
    let public = key.compute_public_key().map_err(|_unspecified| Error::Failed)?;
    public.as_ref().try_into().map_err(|_length| Error::Failed)
}

/// A share that leads to a shared key of zeros is refused.
fn agree_with(key: &PrivateKey, share: &[u8; 32]) -> Result<[u8; 32], Error> {
    let wrong = Error::Header("a key in it is none");
    agree(key, UnparsedPublicKey::new(&X25519, share), wrong.clone(), |shared| {
        shared.try_into().map_err(|_length| wrong.clone())
    })
}
