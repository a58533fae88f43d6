//! Authentication: who sends a request.

mod bearer;
mod impersonate;
pub mod review;

pub(crate) use bearer::WEBSOCKET_PREFIX as TOKEN_PROTOCOL;
use std::sync::Arc;

use async_trait::async_trait;
use atoll_identity::{JoinToken, PeerIdentity};
use http::request::Parts;

use crate::authz::Authorizer;
use crate::config::Clock;
use crate::registry::Registry;
use crate::status::Status;
use crate::storage::Storage;
use crate::tokens::objects::Objects;
use crate::trust::Trust;
use crate::user::{Connection, UserInfo};

/// Finds out who sends a request.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user, `system:anonymous` when the request carries no credentials; an error when it
    /// carries some that do not hold.
    async fn authenticate(
        &self,
        request: &Parts,
        connection: &Connection,
    ) -> Result<UserInfo, Status>;
}

/// Takes every request as coming from one user: for tests and loopback tools.
#[derive(Debug, Clone)]
pub struct AlwaysUser(pub UserInfo);

#[async_trait]
impl Authenticator for AlwaysUser {
    async fn authenticate(&self, _: &Parts, _: &Connection) -> Result<UserInfo, Status> {
        Ok(self.0.clone())
    }
}

/// The cluster's own: client certificates, ServiceAccount tokens, anonymous; then
/// impersonation, which needs the right to it.
pub struct ClusterAuthenticator {
    pub trust: Arc<Trust>,
    pub registry: Arc<Registry>,
    pub storage: Storage,
    pub authorizer: Arc<dyn Authorizer>,
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Authenticator for ClusterAuthenticator {
    async fn authenticate(
        &self,
        request: &Parts,
        connection: &Connection,
    ) -> Result<UserInfo, Status> {
        let user = self.proven(request, connection).await?;
        impersonate::apply(user, &request.headers, self.authorizer.as_ref())
    }
}

impl ClusterAuthenticator {
    async fn proven(&self, request: &Parts, connection: &Connection) -> Result<UserInfo, Status> {
        if let Some(certificate) = connection.peer_certificates.first() {
            return self.by_certificate(certificate);
        }
        // A join token proves no user; the join endpoint looks at it by itself.
        if let Some(token) = bearer::token(request).filter(|text| !JoinToken::looks_like(text)) {
            let objects = Objects { registry: &self.registry, storage: &self.storage };
            let verified = bearer::verify(&self.trust, objects, &token, &[], self.clock.now());
            return match verified.await {
                Ok(verified) => Ok(verified.user),
                Err(problem) => {
                    tracing::debug!(%problem, "bearer token refused");
                    Err(Status::unauthorized())
                }
            };
        }
        Ok(UserInfo::anonymous())
    }

    /// TLS has verified the chain when the connection began; connections outlive
    /// certificates, so the end is looked at again.
    fn by_certificate(&self, der: &[u8]) -> Result<UserInfo, Status> {
        let peer = PeerIdentity::from_der(der).map_err(|error| {
            tracing::debug!(%error, "client certificate unreadable");
            Status::unauthorized()
        })?;
        if peer.common_name.is_empty() || peer.not_after <= self.clock.now() {
            return Err(Status::unauthorized());
        }
        let mut user = UserInfo::authenticated(peer.common_name, peer.organizations);
        let credential = format!("X509SHA256={}", peer.fingerprint);
        user.extra
            .insert("authentication.kubernetes.io/credential-id".to_owned(), vec![credential]);
        Ok(user)
    }
}
