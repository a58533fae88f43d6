//! The text of a kubeconfig with an embedded client certificate.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What a kubeconfig says.
#[derive(Debug, Clone, Copy)]
pub struct Kubeconfig<'a> {
    pub cluster: &'a str,
    /// `https://127.0.0.1:6443`
    pub server: &'a str,
    pub serving_authority_pem: &'a str,
    pub user: &'a str,
    pub certificate_pem: &'a str,
    pub key_pem: &'a str,
}

/// Renders it. The text holds a private key: store it with mode 0600.
#[must_use]
pub fn kubeconfig(config: &Kubeconfig<'_>) -> String {
    let Kubeconfig { cluster, server, user, .. } = config;
    let authority = STANDARD.encode(config.serving_authority_pem);
    let certificate = STANDARD.encode(config.certificate_pem);
    let key = STANDARD.encode(config.key_pem);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {cluster}
  cluster:
    server: {server}
    certificate-authority-data: {authority}
users:
- name: {user}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {cluster}
  context:
    cluster: {cluster}
    user: {user}
current-context: {cluster}
preferences: {{}}
"
    )
}
