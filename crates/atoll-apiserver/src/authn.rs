//! Authentication: who sends a request.

use async_trait::async_trait;
use http::request::Parts;

use crate::status::Status;
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
