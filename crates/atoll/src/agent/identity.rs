//! A node's keys and certificates on disk, and their renewal while the node runs.
//!
//! The client certificate says `system:node:<name>` to the API; the kubelet's says the
//! same to the API server when it calls the node. Both are renewed through signing
//! requests, long before they end.

use super::store;
use crate::keys::{read, read_secret};
use anyhow::{Context as _, Result, bail};
use atoll_node::KubeletTls;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use std::{
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::{info, warn};

/// A server that takes longer to accept a connection is not there.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A failed renewal is tried again after this time; there are days left then.
const RENEW_RETRY: Duration = Duration::from_secs(600);
/// The wall clock is looked at no less often than this, since it may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// A signing request is answered sooner than this, or not at all.
const SIGN_MAX: Duration = Duration::from_secs(30);

const FILES: [(&str, u32); 6] = [
    ("client.key", 0o600),
    ("kubelet.key", 0o600),
    ("serving-ca.crt", 0o644),
    ("kubelet-ca.crt", 0o644),
    ("kubelet.crt", 0o644),
    // Last: its presence says that the others are there.
    ("client.crt", 0o644),
];

/// All PEM.
pub struct Identity {
    pub client_key: String,
    pub client_certificate: String,
    pub kubelet_key: String,
    pub kubelet_certificate: String,
    pub serving_authority: String,
    pub kubelet_authority: String,
}

impl Identity {
    /// `None` when the node has not joined yet.
    pub fn load(folder: &Path) -> Result<Option<Self>> {
        if !folder.join("client.crt").exists() {
            return Ok(None);
        }
        let identity = Self {
            client_key: read_secret(&folder.join("client.key"))?,
            client_certificate: read(&folder.join("client.crt"))?,
            kubelet_key: read_secret(&folder.join("kubelet.key"))?,
            kubelet_certificate: read(&folder.join("kubelet.crt"))?,
            serving_authority: read(&folder.join("serving-ca.crt"))?,
            kubelet_authority: read(&folder.join("kubelet-ca.crt"))?,
        };
        Ok(Some(identity))
    }

    /// A certificate that has ended, or has not begun, opens nothing: better said at once.
    pub fn check_clock(&self, name: &str, now: Timestamp) -> Result<()> {
        let life = atoll_identity::PeerIdentity::from_pem(&self.client_certificate)
            .context("reading the node's certificate")?;
        if now < life.not_before {
            bail!(
                "this machine's clock says {now}, which is before the certificate of {name} begins ({}); set the clock",
                life.not_before
            );
        }
        if now >= life.not_after {
            bail!(
                "the certificate of {name} ended at {}, and this machine's clock says {now}; set the clock if it is wrong, else delete the node (kubectl delete node {name}) and its folder agent, and let it join with a new token",
                life.not_after
            );
        }
        Ok(())
    }

    pub fn store(&self, folder: &Path) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making {}", folder.display()))?;
        let texts = [
            &self.client_key,
            &self.kubelet_key,
            &self.serving_authority,
            &self.kubelet_authority,
            &self.kubelet_certificate,
            &self.client_certificate,
        ];
        for ((name, mode), text) in FILES.iter().zip(texts) {
            store(&folder.join(name), text, *mode)?;
        }
        Ok(())
    }

    /// The settings of a client of the API that acts as this node.
    pub async fn client_config(&self, server: &str) -> Result<kube::Config> {
        let text = atoll_identity::kubeconfig(&atoll_identity::Kubeconfig {
            cluster: "atoll",
            server,
            serving_authority_pem: &self.serving_authority,
            user: "node",
            certificate_pem: &self.client_certificate,
            key_pem: &self.client_key,
        });
        let kubeconfig = Kubeconfig::from_yaml(&text).context("setting up the node's client")?;
        let options = KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .context("setting up the node's client")?;
        // A server that has gone without a word is noticed by the pings.
        config.connect_timeout = Some(CONNECT_MAX);
        Ok(config)
    }

    pub fn kubelet_tls(&self) -> KubeletTls {
        KubeletTls {
            certificate_chain: self.kubelet_certificate.clone(),
            key: self.kubelet_key.clone(),
            client_ca: self.kubelet_authority.clone(),
        }
    }
}

/// Renews both certificates on disk when they are due. Returns after a renewal: whoever
/// uses them has to take the new ones up.
pub async fn until_renewed(folder: PathBuf, name: String, client: Client) {
    loop {
        let wait = match renew_due(&folder, &name, &client).await {
            Ok(Some(wait)) => wait,
            Ok(None) => return,
            Err(error) => {
                warn!("renewing the node's certificates failed: {error:#}");
                RENEW_RETRY
            }
        };
        tokio::time::sleep(wait.min(LOOK_AGAIN)).await;
    }
}

/// How long until the first is due; `None` when something was renewed.
async fn renew_due(folder: &Path, name: &str, client: &Client) -> Result<Option<Duration>> {
    let now = Timestamp::now();
    let mut next = LOOK_AGAIN;
    let mut renewed = false;
    for pair in PAIRS {
        let certificate = read(&folder.join(pair.certificate))?;
        let due = atoll_identity::renewal_of(&certificate)
            .with_context(|| format!("reading {}", pair.certificate))?;
        if due <= now {
            renew(folder, name, client, pair).await?;
            renewed = true;
        } else {
            next = next.min(due.duration_since(now).unsigned_abs());
        }
    }
    Ok((!renewed).then_some(next))
}

#[derive(Clone, Copy)]
struct Pair {
    certificate: &'static str,
    key: &'static str,
    signer: &'static str,
    usage: &'static str,
}

const PAIRS: [Pair; 2] = [
    Pair {
        certificate: "client.crt",
        key: "client.key",
        signer: atoll_identity::KUBELET_CLIENT_SIGNER,
        usage: "client auth",
    },
    Pair {
        certificate: "kubelet.crt",
        key: "kubelet.key",
        signer: atoll_identity::KUBELET_SERVING_SIGNER,
        usage: "server auth",
    },
];

async fn renew(folder: &Path, name: &str, client: &Client, pair: Pair) -> Result<()> {
    let old = read(&folder.join(pair.certificate))?;
    let peer =
        atoll_identity::PeerIdentity::from_pem(&old).context("reading the old certificate")?;
    let dns: Vec<&str> = peer.dns.iter().map(String::as_str).collect();
    let leaf = if pair.signer == atoll_identity::KUBELET_SERVING_SIGNER {
        atoll_identity::node_serving_leaf(name, &dns, &peer.ips)
    } else {
        atoll_identity::node_client_leaf(name)
    };
    let (request, key) = atoll_identity::new_request(&leaf).context("making a signing request")?;
    let certificate = ask(client, pair, request).await?;
    store(&folder.join(pair.key), &key, 0o600)?;
    store(&folder.join(pair.certificate), &certificate, 0o644)?;
    info!(certificate = pair.certificate, "renewed");
    Ok(())
}

async fn ask(client: &Client, pair: Pair, request: String) -> Result<String> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let wanted = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("node-csr-".into()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(request.into_bytes()),
            signer_name: pair.signer.to_owned(),
            usages: Some(vec!["digital signature".into(), pair.usage.into()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    let created =
        api.create(&PostParams::default(), &wanted).await.context("asking for a certificate")?;
    let name = created.name_any();
    let is_signed = |request: Option<&CertificateSigningRequest>| {
        let status = request.and_then(|request| request.status.as_ref());
        status.is_some_and(|status| status.certificate.is_some())
    };
    let waited =
        tokio::time::timeout(SIGN_MAX, await_condition(api.clone(), &name, is_signed)).await;
    let signed = match waited {
        Ok(signed) => signed.context("waiting for the certificate")?,
        Err(_elapsed) => bail!("the request {name} was not signed in time"),
    };
    // It has served its purpose; the server removes those that stay.
    api.delete(&name, &DeleteParams::default()).await.ok();
    let certificate = signed.and_then(|signed| signed.status).and_then(|status| status.certificate);
    let bytes = certificate.context("the signed request has no certificate")?.0;
    String::from_utf8(bytes).context("the certificate is not PEM text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_identity::{Authority, AuthorityKind, SigningRequest, new_request, node_client_leaf};
    use jiff::SignedDuration;

    #[test]
    fn a_wrong_clock_is_named_and_an_hour_is_forgiven() {
        let now: Timestamp = "2026-11-25T16:00:00Z".parse().unwrap();
        let leaf = node_client_leaf("node-9");
        let (request, client_key) = new_request(&leaf).unwrap();
        let request = SigningRequest::from_pem(&request).unwrap();
        let authority = Authority::create(AuthorityKind::Client, "c", now).unwrap();
        let issued = authority.issue_for(&request, &leaf, now).unwrap();
        let identity = Identity {
            client_key,
            client_certificate: issued.certificate_pem,
            kubelet_key: String::new(),
            kubelet_certificate: String::new(),
            serving_authority: String::new(),
            kubelet_authority: String::new(),
        };
        for hours in [-1, 0, 1] {
            identity.check_clock("node-9", now + SignedDuration::from_hours(hours)).unwrap();
        }
        let behind = identity.check_clock("node-9", now - SignedDuration::from_hours(24));
        let behind = behind.unwrap_err().to_string();
        assert!(behind.contains("2026-11-24T16:00:00Z") && behind.contains("set the clock"));
        let ahead = identity.check_clock("node-9", now + SignedDuration::from_hours(24 * 3_650));
        let ahead = ahead.unwrap_err().to_string();
        assert!(ahead.contains("certificate of node-9 ended at"), "{ahead}");
        assert!(ahead.contains("kubectl delete node node-9"), "{ahead}");
    }
}
