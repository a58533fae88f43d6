//! What a server says of itself to the others without a connection between members: a text, signed
//! with the key of an authority that every server of the cluster holds and nobody else.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::SigningKey as _;

use crate::authority::Authority;
use crate::error::IdentityError;

/// Stands before every text that is signed, so that none is taken for a certificate.
const BEGINNING: &str = "atoll statement\n";

/// A statement that is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    #[error("its signature is not in base64")]
    Form,
    #[error("it was not signed by a server of this cluster")]
    Signature,
    #[error("the authority's certificate cannot be read")]
    Authority,
}

impl Authority {
    /// Signs `text` for one `purpose`: it proves nothing elsewhere. The signature is in base64.
    pub fn sign_statement(&self, purpose: &str, text: &str) -> Result<String, IdentityError> {
        let signature = self.key().sign(&signed(purpose, text));
        let subject = || format!("a statement ({purpose})");
        let signature =
            signature.map_err(|source| IdentityError::Sign { subject: subject(), source })?;
        Ok(STANDARD.encode(signature))
    }
}

/// Whether the authority of this certificate signed `text` for this `purpose`.
pub fn verify_statement(
    authority_der: &[u8],
    purpose: &str,
    text: &str,
    signature: &str,
) -> Result<(), StatementError> {
    let signature = STANDARD.decode(signature).map_err(|_base64| StatementError::Form)?;
    let (_, authority) = x509_parser::parse_x509_certificate(authority_der)
        .map_err(|_der| StatementError::Authority)?;
    let key = authority.public_key().subject_public_key.data.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(&signed(purpose, text), &signature)
        .map_err(|_unspecified| StatementError::Signature)
}

/// A purpose is a word, so where it ends is certain.
fn signed(purpose: &str, text: &str) -> Vec<u8> {
    format!("{BEGINNING}{purpose}\n{text}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::AuthorityKind;
    use jiff::Timestamp;

    #[test]
    fn a_statement_holds_for_its_text_its_purpose_and_its_authority_alone() {
        let now: Timestamp = "2026-11-25T16:00:00Z".parse().unwrap();
        let authority = Authority::create(AuthorityKind::Peer, "c", now).unwrap();
        let other = Authority::create(AuthorityKind::Peer, "c", now).unwrap();
        let signature = authority.sign_statement("rejoin", "I am 5").unwrap();
        let verified = |authority: &Authority, purpose, text, signature: &str| {
            verify_statement(authority.certificate_der(), purpose, text, signature)
        };
        assert_eq!(verified(&authority, "rejoin", "I am 5", &signature), Ok(()));
        let refused = Err(StatementError::Signature);
        assert_eq!(verified(&other, "rejoin", "I am 5", &signature), refused);
        assert_eq!(verified(&authority, "leave", "I am 5", &signature), refused);
        assert_eq!(verified(&authority, "rejoin", "I am 6", &signature), refused);
        assert_eq!(verified(&authority, "rejoin", "I am 5", "AAAA"), refused);
        assert_eq!(verified(&authority, "rejoin", "I am 5", "?"), Err(StatementError::Form));
        let nonsense = verify_statement(b"no certificate", "rejoin", "I am 5", &signature);
        assert_eq!(nonsense, Err(StatementError::Authority));
    }
}
