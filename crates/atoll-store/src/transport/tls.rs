//! Who may talk to whom: the certificates of members, shown and checked on both sides.
//!
//! TLS checks that a certificate was issued by the peer authority and is in force. Whom it names
//! is compared afterwards, so that the other side can be told in words. No server name is
//! checked: addresses change, a member's id does not.

use std::sync::Arc;

use atoll_identity::{IdentityError, MemberError, MemberIdentity, PeerIdentity};
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// A member's certificate and key, and whom it trusts. Bytes only: where they are kept is the
/// caller's affair.
pub struct PeerMaterial {
    /// Certificates of the peer authority; two while it is being replaced.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The member's own certificate first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// [`PeerMaterial`], checked and made ready for use.
#[derive(Clone)]
pub struct PeerTls {
    identity: MemberIdentity,
    not_after: Timestamp,
    checks: Arc<Checks>,
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
}

/// Certificates or a key that cannot be used between members.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the member's own certificate cannot be read")]
    Unreadable { source: IdentityError },
    #[error("the member's own certificate cannot be used")]
    NotAMember { source: MemberError },
    #[error("no certificate of the peer authority was given, or none that can be used")]
    NoAuthority { source: RustlsError },
    #[error("the member's own certificate would be refused by every other member")]
    Refused { source: CertificateRefusal },
    #[error("the member's key does not fit its certificate; restore both from the same backup")]
    Key { source: RustlsError },
    #[error("this TLS provider cannot do TLS 1.3")]
    Provider { source: RustlsError },
    #[error(
        "the new certificate is of {theirs}, this server is {ours}; a certificate is replaced only by one of the same member"
    )]
    OtherIdentity { theirs: String, ours: String },
}

/// Why a certificate shown by another server is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    #[error(
        "its certificate was not issued by the peer authority of this cluster; let that server join this cluster again, or take its address off this one"
    )]
    OtherAuthority,
    #[error(
        "its certificate ended at {ended} and this server's clock says {now}; start that server so that it renews its certificate, or set the clock that is wrong"
    )]
    Expired { ended: Timestamp, now: Timestamp },
    #[error(
        "its certificate begins at {begins} and this server's clock says {now}; set the clock that is wrong"
    )]
    NotYetValid { begins: Timestamp, now: Timestamp },
    #[error("its certificate is outside of its time; set the clocks, or renew the certificate")]
    OutsideOfTime,
    #[error("it showed no certificate; only members of the cluster may connect here")]
    NoCertificate,
    #[error("its certificate belongs to a member of the cluster {theirs}, this is {ours}")]
    OtherCluster { theirs: String, ours: String },
    #[error(
        "its certificate is of member {found:x}, and member {wanted:x} was called; correct the address of member {wanted:x}"
    )]
    OtherMember { wanted: u64, found: u64 },
    #[error("{0}")]
    NotAMember(#[from] MemberError),
    #[error("its certificate cannot be used: {0}")]
    Unusable(String),
}

/// What the holder of a certificate does on this connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Caller,
    Called,
}

impl PeerTls {
    pub fn new(material: PeerMaterial, provider: Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let unreadable = |source| TlsError::Unreadable { source };
        let leaf = material.chain.first().map_or(&[][..], |leaf| leaf);
        let named = PeerIdentity::from_der(leaf).map_err(unreadable)?;
        let identity =
            MemberIdentity::of(&named).map_err(|source| TlsError::NotAMember { source })?;
        let checks = Arc::new(Checks::new(material.authorities, provider.clone())?);
        // In the middle of its life, whatever the clock says: a server whose certificate has
        // ended starts, and says so.
        let inside = named.not_before.as_second().max(0).unsigned_abs();
        let inside = UnixTime::since_unix_epoch(std::time::Duration::from_secs(inside));
        for side in [Side::Caller, Side::Called] {
            checks
                .chain(&material.chain, inside, side)
                .map_err(|source| TlsError::Refused { source })?;
        }
        let client = client_config(&material.chain, material.key.clone_key(), &checks)?;
        let server = server_config(material.chain, material.key, &checks)?;
        let not_after = named.not_after;
        Ok(Self { identity, not_after, checks, server, client })
    }

    pub fn identity(&self) -> MemberIdentity {
        self.identity
    }

    /// When the member's own certificate ends.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// Whether a member may show this chain at this time, and which member it names.
    pub fn check(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
    ) -> Result<MemberIdentity, CertificateRefusal> {
        self.checks.chain(chain, now, side)?;
        self.member_of(chain.first().map_or(&[][..], |leaf| leaf))
    }

    /// Which member of this cluster a certificate names that TLS has verified.
    pub(super) fn member_of(&self, leaf: &[u8]) -> Result<MemberIdentity, CertificateRefusal> {
        let named = PeerIdentity::from_der(leaf)
            .map_err(|error| CertificateRefusal::Unusable(error.to_string()))?;
        let member = MemberIdentity::of(&named)?;
        if member.cluster_id != self.identity.cluster_id {
            return Err(CertificateRefusal::OtherCluster {
                theirs: cluster_hex(&member.cluster_id),
                ours: cluster_hex(&self.identity.cluster_id),
            });
        }
        Ok(member)
    }
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PeerMaterial {
    /// Leaves the key out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerMaterial").finish_non_exhaustive()
    }
}

impl CertificateRefusal {
    /// The called member must be the one that was meant.
    pub fn unless(wanted: u64, found: MemberIdentity) -> Result<(), Self> {
        let found = found.member_id;
        if wanted == found { Ok(()) } else { Err(Self::OtherMember { wanted, found }) }
    }

    fn of(error: &RustlsError) -> Self {
        use CertificateError::{
            BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
        };
        match error {
            RustlsError::NoCertificatesPresented => Self::NoCertificate,
            // An authority made anew for the same cluster has the same name and another key.
            RustlsError::InvalidCertificate(UnknownIssuer | BadSignature) => Self::OtherAuthority,
            RustlsError::InvalidCertificate(ExpiredContext { time, not_after }) => {
                Self::Expired { ended: timestamp(*not_after), now: timestamp(*time) }
            }
            RustlsError::InvalidCertificate(NotValidYetContext { time, not_before }) => {
                Self::NotYetValid { begins: timestamp(*not_before), now: timestamp(*time) }
            }
            RustlsError::InvalidCertificate(Expired | NotValidYet) => Self::OutsideOfTime,
            other => Self::Unusable(other.to_string()),
        }
    }
}

/// What a failed TLS handshake or read means for the people who run the two servers.
pub(super) fn explain(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<RustlsError>());
    match inner {
        None => error.to_string(),
        Some(RustlsError::AlertReceived(alert)) => match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                "it does not accept this server's certificate, because another authority issued it; let the server that is in the wrong cluster join again".to_owned()
            }
            AlertDescription::CertificateExpired => {
                "it does not accept this server's certificate, because by its clock that has ended or has not begun; compare the clocks of both, or renew the certificate".to_owned()
            }
            AlertDescription::CertificateRequired => {
                "it wants a certificate, and this server showed none".to_owned()
            }
            other => format!("it ended the TLS handshake with {other:?}"),
        },
        Some(
            refused @ (RustlsError::InvalidCertificate(_) | RustlsError::NoCertificatesPresented),
        ) => CertificateRefusal::of(refused).to_string(),
        Some(other) => format!("what it sends is not our TLS: {other}"),
    }
}

pub(super) fn cluster_hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn timestamp(time: UnixTime) -> Timestamp {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn client_config(
    chain: &[CertificateDer<'static>],
    key: PrivateKeyDer<'static>,
    checks: &Arc<Checks>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(checks.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsError::Provider { source })?
        .dangerous()
        .with_custom_certificate_verifier(checks.clone())
        .with_client_auth_cert(chain.to_vec(), key)
        .map_err(|source| TlsError::Key { source })?;
    config.enable_sni = false;
    // Every connection shows its certificate anew: one that was replaced must not live on.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    checks: &Checks,
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(checks.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| TlsError::Provider { source })?
        .with_client_cert_verifier(checks.callers.clone())
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Key { source })?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// What a chain is checked against.
#[derive(Debug)]
struct Checks {
    roots: Arc<RootCertStore>,
    callers: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Checks {
    fn new(
        authorities: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(|source| TlsError::NoAuthority { source })?;
        }
        let roots = Arc::new(roots);
        let callers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| TlsError::NoAuthority {
                source: RustlsError::General(error.to_string()),
            })?;
        Ok(Self { roots, callers, provider })
    }

    fn chain(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
    ) -> Result<(), CertificateRefusal> {
        let Some((leaf, rest)) = chain.split_first() else {
            return Err(CertificateRefusal::NoCertificate);
        };
        let checked = match side {
            Side::Caller => self.callers.verify_client_cert(leaf, rest, now).map(drop),
            Side::Called => self.called(leaf, rest, now),
        };
        checked.map_err(|error| CertificateRefusal::of(&error))
    }

    fn called(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), RustlsError> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let leaf = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(
            &leaf,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )
    }
}

impl ServerCertVerifier for Checks {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        self.called(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        Err(RustlsError::General("members speak TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
