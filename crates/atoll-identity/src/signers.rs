//! The rules of the signers for nodes and API clients, with upstream's words.
//!
//! A signer controller reads a CertificateSigningRequest, asks [`sign`], and writes what
//! comes back. Approving is decided elsewhere, by policy.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use crate::authority::{Authority, AuthorityKind};
use crate::error::IdentityError;
use crate::leaf::{Issued, Leaf, Usage};
use crate::request::SigningRequest;

pub const KUBE_APISERVER_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
pub const KUBELET_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub const KUBELET_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

pub const NODE_USER_PREFIX: &str = "system:node:";
pub const NODES_GROUP: &str = "system:nodes";

/// Upstream's kube-controller-manager signs for a year; renewing online costs nothing, so
/// ours live a month.
const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// The shortest life that `expirationSeconds` may ask for.
const LEAF_LIFE_MIN: SignedDuration = SignedDuration::from_mins(10);

/// What a CertificateSigningRequest's spec says.
#[derive(Debug)]
pub struct SignerRequest<'a> {
    pub signer: &'a str,
    /// Who created the object, as the API server recorded it.
    pub username: &'a str,
    pub groups: &'a [String],
    pub usages: &'a [String],
    pub expiration_seconds: Option<i64>,
    pub request: &'a SigningRequest,
}

/// Why a request was not signed. The text goes into the condition Failed.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    #[error("no signer is called {signer}")]
    UnknownSigner { signer: String },
    #[error("{signer} signs with the {wanted} authority, not with {given}")]
    WrongAuthority { signer: String, wanted: &'static str, given: &'static str },
    #[error("invalid usage for {kind}: {problem}")]
    Refused { kind: &'static str, problem: &'static str },
    #[error("signing for {signer}")]
    Identity { signer: String, source: IdentityError },
}

/// The certificate of a node as an API client.
#[must_use]
pub fn node_client_leaf(node: &str) -> Leaf {
    Leaf::client(&format!("{NODE_USER_PREFIX}{node}"), &[NODES_GROUP], LEAF_LIFE)
}

/// The certificate of a node's kubelet API.
#[must_use]
pub fn node_serving_leaf(node: &str, dns: &[&str], ips: &[IpAddr]) -> Leaf {
    Leaf {
        organizations: vec![NODES_GROUP.to_owned()],
        ..Leaf::serving(&format!("{NODE_USER_PREFIX}{node}"), dns, ips, LEAF_LIFE)
    }
}

/// Checks an approved request by its signer's rules and signs it.
pub fn sign(
    authority: &Authority,
    asked: &SignerRequest<'_>,
    now: Timestamp,
) -> Result<Issued, SignerError> {
    let (wanted, leaf) = match asked.signer {
        KUBELET_CLIENT_SIGNER => (AuthorityKind::Client, kubelet_client(asked)?),
        KUBELET_SERVING_SIGNER => (AuthorityKind::Kubelet, kubelet_serving(asked)?),
        KUBE_APISERVER_CLIENT_SIGNER => (AuthorityKind::Client, api_client(asked)?),
        other => return Err(SignerError::UnknownSigner { signer: other.to_owned() }),
    };
    if authority.kind() != wanted {
        return Err(SignerError::WrongAuthority {
            signer: asked.signer.to_owned(),
            wanted: wanted.name(),
            given: authority.kind().name(),
        });
    }
    authority
        .issue_for(asked.request, &leaf, now)
        .map_err(|source| SignerError::Identity { signer: asked.signer.to_owned(), source })
}

fn life(asked: &SignerRequest<'_>) -> SignedDuration {
    asked.expiration_seconds.map_or(LEAF_LIFE, |seconds| {
        SignedDuration::from_secs(seconds).clamp(LEAF_LIFE_MIN, LEAF_LIFE)
    })
}

fn refuse<T>(kind: &'static str, problem: &'static str) -> Result<T, SignerError> {
    Err(SignerError::Refused { kind, problem })
}

fn kubelet_client(asked: &SignerRequest<'_>) -> Result<Leaf, SignerError> {
    const KIND: &str = "kube-apiserver-client-kubelet";
    let request = asked.request;
    if request.organizations != [NODES_GROUP] {
        return refuse(KIND, "subject organization is not system:nodes");
    }
    if !request.dns.is_empty() {
        return refuse(KIND, "DNS subjectAltNames are not allowed");
    }
    if !request.emails.is_empty() {
        return refuse(KIND, "Email subjectAltNames are not allowed");
    }
    if !request.ips.is_empty() {
        return refuse(KIND, "IP subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse(KIND, "URI subjectAltNames are not allowed");
    }
    if !is_node_name(&request.common_name) {
        return refuse(KIND, "subject common name does not begin with system:node:");
    }
    if !only_usages(asked.usages, "client auth") {
        return refuse(
            KIND,
            "usages did not match [digital signature key encipherment client auth]",
        );
    }
    let mut leaf = Leaf::client(&request.common_name, &[NODES_GROUP], life(asked));
    leaf.usage = Usage::Client;
    Ok(leaf)
}

fn kubelet_serving(asked: &SignerRequest<'_>) -> Result<Leaf, SignerError> {
    const KIND: &str = "kubelet-serving";
    let request = asked.request;
    if request.organizations != [NODES_GROUP] {
        return refuse(KIND, "subject organization is not system:nodes");
    }
    if request.dns.is_empty() && request.ips.is_empty() {
        return refuse(KIND, "DNS or IP subjectAltName is required");
    }
    if !request.emails.is_empty() {
        return refuse(KIND, "Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse(KIND, "URI subjectAltNames are not allowed");
    }
    if !is_node_name(&request.common_name) {
        return refuse(KIND, "subject common name does not begin with system:node:");
    }
    if request.common_name != asked.username {
        return refuse(KIND, "a node may ask for a serving certificate of its own name only");
    }
    if !only_usages(asked.usages, "server auth") {
        return refuse(
            KIND,
            "usages did not match [digital signature key encipherment server auth]",
        );
    }
    Ok(Leaf {
        common_name: request.common_name.clone(),
        organizations: vec![NODES_GROUP.to_owned()],
        dns: request.dns.clone(),
        ips: request.ips.clone(),
        uris: Vec::new(),
        usage: Usage::Server,
        life: life(asked),
    })
}

fn api_client(asked: &SignerRequest<'_>) -> Result<Leaf, SignerError> {
    const KIND: &str = "kube-apiserver-client";
    let request = asked.request;
    // Admission refuses this group too; a signer must not depend on it.
    if request.organizations.iter().any(|group| group == "system:masters") {
        return refuse(KIND, "the group system:masters is never signed");
    }
    if !only_usages(asked.usages, "client auth") {
        return refuse(
            KIND,
            "usages did not match [digital signature key encipherment client auth]",
        );
    }
    let groups: Vec<&str> = request.organizations.iter().map(String::as_str).collect();
    Ok(Leaf::client(&request.common_name, &groups, life(asked)))
}

fn is_node_name(common_name: &str) -> bool {
    common_name.strip_prefix(NODE_USER_PREFIX).is_some_and(|node| !node.is_empty())
}

/// `purpose` and nothing but it, beside the two usages of the key itself.
fn only_usages(usages: &[String], purpose: &str) -> bool {
    usages.iter().any(|usage| usage == purpose)
        && usages.iter().all(|usage| {
            usage == purpose || usage == "digital signature" || usage == "key encipherment"
        })
}
