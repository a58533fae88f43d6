//! Why an agent cannot run.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// An error names its object, keeps its cause, and says what to do where known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("{path} holds no valid list of pods; move it away and start again")]
    Checkpoint { path: PathBuf, source: serde_json::Error },

    #[error("the {what} of the kubelet API is not valid PEM")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },

    #[error("the {what} of the kubelet API cannot be used")]
    Tls { what: &'static str, source: rustls::Error },

    #[error("the kubelet API's client authority cannot be used")]
    ClientAuthority { source: rustls::server::VerifierBuilderError },

    #[error("listening on {address} for the kubelet API; is another agent running on this node?")]
    Listen { address: SocketAddr, source: io::Error },

    #[error("setting up the container runtime")]
    Runtime { source: atoll_container::Error },

    #[error("opening the image store")]
    Images { source: atoll_image::Error },

    #[error("setting up the node's network")]
    Network { source: crate::network::NetworkError },

    #[error("node {node}: {what}")]
    Api { node: String, what: &'static str, source: kube::Error },

    #[error("reading what this machine has: {what}")]
    Machine { what: &'static str, source: io::Error },
}
