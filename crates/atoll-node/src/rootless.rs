//! A node without root: what is different about its pods.
//!
//! They are processes of the user who runs the node, on the node's own network. Where the
//! machine allows user namespaces they have an image, volumes and a host name of their
//! own; elsewhere they are commands of the node.

pub mod ports;
pub mod refuse;
pub mod root;

use std::path::PathBuf;

/// The image whose files are the node's own.
pub const NODE_IMAGE: &str = "atoll.local/host";

/// What a node without root is told besides its other settings.
#[derive(Debug, Clone, Default)]
pub struct Rootless {
    /// Where pods reach the API, as no Service address leads there.
    pub api: Option<(String, u16)>,
    /// Folders that no pod sees: they hold the keys of the node and of its cluster.
    pub hidden: Vec<PathBuf>,
}

impl Rootless {
    /// Variables by which client libraries find the API.
    #[must_use]
    pub fn api_variables(&self) -> Vec<(String, String)> {
        let Some((host, port)) = &self.api else { return Vec::new() };
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let port = port.to_string();
        vec![
            variable("KUBERNETES_SERVICE_HOST", host),
            variable("KUBERNETES_SERVICE_PORT", &port),
            variable("KUBERNETES_SERVICE_PORT_HTTPS", &port),
        ]
    }
}
