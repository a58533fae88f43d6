//! Certificates, signing requests, join tokens and their rules, built and checked.
//!
//! Nothing here opens a file, a socket or a clock: the caller passes bytes and the time,
//! and stores what comes back. Each [`AuthorityKind`] is an authority of its own, so that a
//! certificate made for one purpose opens nothing else.

mod account_key;
mod authority;
mod error;
mod kubeconfig;
mod leaf;
mod member;
mod peer;
mod pinned;
mod renewal;
mod request;
mod signers;
mod statement;
mod token;

pub use account_key::{AccountKey, AccountPublicKey};
pub use authority::{Authority, AuthorityKind, fingerprint};
pub use error::IdentityError;
pub use kubeconfig::{Kubeconfig, kubeconfig};
pub use leaf::{Issued, Leaf, Usage};
pub use member::{MemberError, MemberIdentity};
pub use peer::{PeerIdentity, certificates_from_pem, private_key_from_pem};
pub use pinned::PinnedServer;
pub use renewal::{renew_at, renewal_of};
pub use request::{SigningRequest, new_request};
pub use signers::{
    KUBE_APISERVER_CLIENT_SIGNER, KUBELET_CLIENT_SIGNER, KUBELET_SERVING_SIGNER, NODE_USER_PREFIX,
    NODES_GROUP, SignerError, SignerRequest, node_client_leaf, node_serving_leaf, sign,
};
pub use statement::{StatementError, verify_statement};
pub use token::{JoinToken, TokenError, TokenRecord, TokenUse};
