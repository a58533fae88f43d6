//! What this server signs with and whom it trusts, and the state that hangs on it.

use std::net::IpAddr;
use std::sync::Arc;

use atoll_identity::{AccountKey, Authority, IdentityError, Issued, Kubeconfig, Leaf, kubeconfig};
use jiff::{SignedDuration, Timestamp};

use tokio_rustls::TlsAcceptor;

use crate::authn::ClusterAuthenticator;
use crate::authz::ClusterAuthorizer;
use crate::config::Config;
use crate::core::Core;
use crate::heartbeat::{self, Heartbeats};
use crate::server::{Access, ApiServer, StartError};
use crate::status::Status;
use crate::storage::Storage;
use crate::tls::{ServingCertificate, TlsError};
use crate::tokens::{AccountTokens, account_groups, account_user};
use crate::user::UserInfo;
use crate::{bootstrap, tls};

/// Life of the API server's own certificates; they are renewed online at two thirds of it.
const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Life of the administrator's certificate. It stands in a file that is written anew at
/// every start.
const ADMIN_LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);

const ADMIN_USER: &str = "kubernetes-admin";
/// Name in the certificate with which this server dials kubelets.
pub const KUBELET_CLIENT: &str = "system:atoll:apiserver";

/// The issuer of ServiceAccount tokens, also their default audience.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Keys and settings of [`Trust`].
#[derive(Debug)]
pub struct TrustConfig {
    /// Signs clients of the API.
    pub client: Authority,
    /// Signs this server's own certificate.
    pub serving: Authority,
    /// Signs both ends of the kubelet API.
    pub kubelet: Authority,
    /// Signs ServiceAccount tokens.
    pub account_key: AccountKey,
    pub issuer: String,
    /// Names and addresses under which clients reach this server, those of the Service
    /// `default/kubernetes` among them.
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
    /// How long pods stay on a node that is not ready or not reachable, unless they say so
    /// themselves. Upstream: 300.
    pub default_toleration_seconds: i64,
}

/// Shared by authentication, tokens, joining and TLS.
pub struct Trust {
    pub client: Arc<Authority>,
    pub serving: Arc<Authority>,
    pub kubelet: Arc<Authority>,
    pub tokens: AccountTokens,
    pub default_toleration_seconds: i64,
    pub heartbeats: Heartbeats,
    /// How this server dials kubelets.
    pub kubelet_tls: Arc<rustls::ClientConfig>,
    pub(crate) certificate: Arc<ServingCertificate>,
    pub(crate) kubelet_certificate: Arc<ServingCertificate>,
    server_leaf: Leaf,
}

/// Why the keys could not be put to use.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("issuing the certificate of {whom}")]
    Issue { whom: &'static str, source: IdentityError },
    #[error("setting up TLS")]
    Tls { source: TlsError },
    #[error("setting up the key of ServiceAccount tokens")]
    AccountKey { source: jsonwebtoken::errors::Error },
}

impl TrustConfig {
    /// Atoll's defaults over the given keys. `ips` must hold every address by which clients,
    /// pods and nodes reach this server.
    #[must_use]
    pub fn new(
        client: Authority,
        serving: Authority,
        kubelet: Authority,
        account_key: AccountKey,
        ips: Vec<IpAddr>,
    ) -> Self {
        let dns = [
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ];
        Self {
            client,
            serving,
            kubelet,
            account_key,
            issuer: ISSUER.to_owned(),
            dns: dns.map(str::to_owned).to_vec(),
            ips,
            default_toleration_seconds: 5,
        }
    }
}

impl Trust {
    pub fn new(config: TrustConfig, now: Timestamp) -> Result<Arc<Self>, TrustError> {
        let tls = |source| TrustError::Tls { source };
        let names: Vec<&str> = config.dns.iter().map(String::as_str).collect();
        let server_leaf = Leaf::serving("kube-apiserver", &names, &config.ips, SERVER_LIFE);
        let issued = issue(&config.serving, "the API server", &server_leaf, now)?;
        let certificate =
            ServingCertificate::new(&issued, config.serving.certificate_pem()).map_err(tls)?;
        let issued = issue(&config.kubelet, KUBELET_CLIENT, &kubelet_leaf(), now)?;
        let kubelet_certificate =
            ServingCertificate::new(&issued, config.kubelet.certificate_pem()).map_err(tls)?;
        let kubelet_certificate = Arc::new(kubelet_certificate);
        let authority = config.kubelet.certificate_der();
        let kubelet_tls =
            tls::kubelet_client(authority, kubelet_certificate.clone()).map_err(tls)?;
        let tokens = AccountTokens::new(&config.account_key, config.issuer)
            .map_err(|source| TrustError::AccountKey { source })?;
        Ok(Arc::new(Self {
            client: Arc::new(config.client),
            serving: Arc::new(config.serving),
            kubelet: Arc::new(config.kubelet),
            tokens,
            default_toleration_seconds: config.default_toleration_seconds,
            heartbeats: Heartbeats::default(),
            kubelet_tls,
            certificate: Arc::new(certificate),
            kubelet_certificate,
            server_leaf,
        }))
    }

    /// Renews those of this server's own certificates that are due.
    pub(crate) fn renew(&self, now: Timestamp) -> Result<(), TrustError> {
        let kubelet_leaf = kubelet_leaf();
        let all = [
            (&self.certificate, &self.serving, "the API server", &self.server_leaf),
            (&self.kubelet_certificate, &self.kubelet, KUBELET_CLIENT, &kubelet_leaf),
        ];
        for (certificate, authority, whom, leaf) in all {
            if certificate.renew_at() > now {
                continue;
            }
            let issued = issue(authority, whom, leaf, now)?;
            certificate
                .replace(&issued, authority.certificate_pem())
                .map_err(|source| TrustError::Tls { source })?;
            tracing::info!(whom, until = %issued.not_after, "certificate renewed");
        }
        Ok(())
    }

    /// The administrator's kubeconfig for the given URL: group `system:masters`. It holds a
    /// key, store it with mode 0600.
    pub fn admin_kubeconfig(
        &self,
        cluster: &str,
        server: &str,
        now: Timestamp,
    ) -> Result<String, TrustError> {
        let leaf = Leaf::client(ADMIN_USER, &["system:masters"], ADMIN_LIFE);
        let issued = self
            .client
            .issue(&leaf, now)
            .map_err(|source| TrustError::Issue { whom: "the administrator", source })?;
        Ok(kubeconfig(&Kubeconfig {
            cluster,
            server,
            serving_authority_pem: self.serving.certificate_pem(),
            user: ADMIN_USER,
            certificate_pem: &issued.certificate_pem,
            key_pem: issued.key_pem.as_deref().unwrap_or_default(),
        }))
    }
}

/// The user as which a part of this program calls the API: controllers are ServiceAccounts of
/// kube-system, the scheduler and what controllers share are users of their own, as upstream.
#[must_use]
pub fn component(name: &str) -> UserInfo {
    match name {
        "kube-controller-manager" | "kube-scheduler" => {
            UserInfo::authenticated(format!("system:{name}"), NO_GROUPS)
        }
        _ => UserInfo::authenticated(
            account_user("kube-system", name),
            account_groups("kube-system"),
        ),
    }
}

const NO_GROUPS: [&str; 0] = [];

fn kubelet_leaf() -> Leaf {
    Leaf::client(KUBELET_CLIENT, &[], SERVER_LIFE)
}

fn issue(
    authority: &Authority,
    whom: &'static str,
    leaf: &Leaf,
    now: Timestamp,
) -> Result<Issued, TrustError> {
    authority.issue(leaf, now).map_err(|source| TrustError::Issue { whom, source })
}

impl Core {
    /// The keys of this server; an API server without any (in tests) cannot issue.
    pub fn trust(&self) -> Result<&Arc<Trust>, Status> {
        self.config
            .trust
            .as_ref()
            .ok_or_else(|| Status::lacking("this API server was started without any keys"))
    }
}

impl ApiServer {
    /// Starts a server that lets in only whom [`Config::trust`] vouches for, and that lets
    /// them do only what RBAC allows.
    pub async fn start(mut config: Config) -> Result<Self, StartError> {
        let Some(trust) = config.trust.clone() else {
            let source = Status::unavailable("an API server needs keys to know anyone by");
            return Err(StartError::Access { source });
        };
        config.kubelet_tls.get_or_insert_with(|| trust.kubelet_tls.clone());
        let mut authorizer = None;
        let server = Self::start_with(config, |config, registry| {
            let cluster = ClusterAuthorizer::new(registry);
            authorizer = Some(cluster.clone());
            let authenticator = ClusterAuthenticator {
                trust: trust.clone(),
                registry: registry.clone(),
                storage: Storage::new(config.store.clone()),
                authorizer: cluster.clone(),
                clock: config.clock.clone(),
            };
            Ok(Access { authenticator: Arc::new(authenticator), authorizer: cluster })
        })
        .await?;
        let core = server.core();
        let initial = |source| StartError::Initial { source };
        bootstrap::run(core).await.map_err(initial)?;
        core.registry.catch_up().await.map_err(initial)?;
        if let Some(authorizer) = authorizer {
            bootstrap::gather(core, &authorizer).await.map_err(initial)?;
            core.tasks.spawn(bootstrap::aggregate_forever(core.clone(), authorizer));
        }
        heartbeat::start(core);
        Ok(server)
    }

    /// How to serve this server's API: see [`ApiServer::serve_tls`]. The certificate is
    /// renewed online for as long as the server runs.
    pub fn tls(&self) -> Result<TlsAcceptor, TlsError> {
        let core = self.core();
        let Some(trust) = &core.config.trust else { return Err(TlsError::NoKeys) };
        let config = tls::server_config(trust)?;
        let clock = core.config.clock.clone();
        core.tasks.spawn(tls::renew_forever(trust.clone(), clock, core.stop.clone()));
        Ok(TlsAcceptor::from(config))
    }
}
