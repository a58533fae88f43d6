//! Who asks: the identity that authentication found, and the connection it came over.
//!
//! An identity travels as an extension of the request, never in a header.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;

/// The group of everyone whose identity was proven.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that no authorizer refuses.
pub const MASTERS: &str = "system:masters";
/// The user of a request that carried no proof of identity.
pub const ANONYMOUS: &str = "system:anonymous";

/// A user as authentication, authorization and admission see it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
    /// Who acts as this user, where somebody does.
    pub sender: Option<Arc<UserInfo>>,
}

impl UserInfo {
    /// A proven user: `system:authenticated` is added to its groups.
    pub fn authenticated<G: Into<String>>(
        name: impl Into<String>,
        groups: impl IntoIterator<Item = G>,
    ) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        groups.push(AUTHENTICATED.to_owned());
        Self { name: name.into(), groups, ..Self::default() }
    }

    pub fn anonymous() -> Self {
        Self {
            name: ANONYMOUS.to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What a connection says about its other end; an extension of every request that came over
/// a socket.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    pub remote: Option<SocketAddr>,
    /// The verified chain of the client's certificate, its own first; empty without one.
    pub peer_certificates: Vec<CertificateDer<'static>>,
}
