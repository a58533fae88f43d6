//! The administrator's kubeconfig in the hands of an unmodified kubectl.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

use serde_json::json;

use crate::client::{Cluster, now};

/// Whether kubectl is there. In CI it has to be.
async fn available() -> bool {
    let found = tokio::process::Command::new("kubectl").arg("version").arg("--client").output();
    if found.await.is_ok() {
        return true;
    }
    #[allow(clippy::disallowed_methods, reason = "a test may know whether CI runs it")]
    let in_ci = std::env::var("CI").is_ok();
    assert!(!in_ci, "kubectl is missing");
    println!("skipped: there is no kubectl on this machine");
    false
}

struct Kubectl<'a> {
    config: &'a Path,
}

impl Kubectl<'_> {
    async fn run(&self, arguments: &str) -> Output {
        tokio::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(self.config)
            .arg("--cache-dir")
            .arg(self.config.with_extension("cache"))
            .args(arguments.split(' '))
            .output()
            .await
            .unwrap()
    }

    async fn ok(&self, arguments: &str) -> String {
        let output = self.run(arguments).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "kubectl {arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn refused(&self, arguments: &str) -> String {
        let output = self.run(arguments).await;
        assert!(!output.status.success(), "kubectl {arguments} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_works_with_the_administrators_kubeconfig() {
    if !available().await {
        return;
    }
    let cluster = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("kubeconfig");
    let server = format!("https://{}", cluster.address);
    std::fs::write(&config, cluster.trust.admin_kubeconfig("atoll", &server, now()).unwrap())
        .unwrap();
    std::fs::set_permissions(&config, std::fs::Permissions::from_mode(0o600)).unwrap();
    let kubectl = Kubectl { config: &config };

    let namespaces = kubectl.ok("get namespaces -o name").await;
    assert!(namespaces.contains("namespace/kube-system"), "{namespaces}");
    let who = kubectl.ok("auth whoami -o jsonpath={.status.userInfo.username}").await;
    assert_eq!(who, "kubernetes-admin");
    assert_eq!(kubectl.ok("auth can-i create deployments").await.trim(), "yes");
    let refused = kubectl.refused("get pods --as jane").await;
    assert_eq!(
        refused.trim(),
        r#"Error from server (Forbidden): pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let output = kubectl.run("auth can-i list secrets --as jane").await;
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "no");

    kubectl.ok("create serviceaccount app").await;
    let token = kubectl.ok("create token app").await;
    assert_eq!(token.trim().split('.').count(), 3);
    kubectl.ok("create rolebinding app --clusterrole=view --serviceaccount=default:app").await;
    cluster.server.core().registry.catch_up().await.unwrap();
    // A kubeconfig without a certificate: one would win over the token.
    let bare = dir.path().join("bare");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {"token": token.trim()}}],
    });
    std::fs::write(&bare, text.to_string()).unwrap();
    let account = Kubectl { config: &bare };
    account.ok("get configmaps").await;
    let refused = account.refused("get secrets").await;
    assert!(
        refused
            .contains(r#"User "system:serviceaccount:default:app" cannot list resource "secrets""#),
        "{refused}"
    );
    cluster.shutdown().await;
}
