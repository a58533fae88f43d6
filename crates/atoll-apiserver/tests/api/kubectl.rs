//! The real kubectl, over HTTP.

use std::process::Stdio;

use tokio::process::Command;

use crate::client::Api;

pub(crate) struct Kubectl {
    pub(crate) server: String,
    pub(crate) cache: tempfile::TempDir,
}

impl Kubectl {
    pub(crate) async fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new("kubectl")
            .args(["--kubeconfig=/dev/null", "--server", &self.server])
            .arg(format!("--cache-dir={}", self.cache.path().display()))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub(crate) async fn ok(&self, arguments: &[&str], input: &str, wanted: &str) {
        let (success, text) = self.run(arguments, input).await;
        assert!(success, "{arguments:?}: {text}");
        assert!(text.contains(wanted), "{arguments:?}: {text}");
    }
}

const MANIFEST: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: c, image: 'nginx:1'}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_unmodified() {
    if Command::new("kubectl").arg("--help").output().await.is_err() {
        assert!(std::env::var_os("CI").is_none(), "kubectl is not here");
        println!("skipped: kubectl is not here");
        return;
    }
    let api = Api::start().await;
    let (address, _serving) = api.open().await;
    let server = format!("http://{address}");
    let kubectl = Kubectl { server, cache: tempfile::tempdir().unwrap() };

    kubectl.ok(&["get", "namespaces"], "", "kube-system").await;
    kubectl
        .ok(&["create", "configmap", "a", "--from-literal=x=1"], "", "configmap/a created")
        .await;
    kubectl.ok(&["get", "cm", "a", "-o", "jsonpath={.data.x}"], "", "1").await;
    kubectl.ok(&["apply", "-f", "-"], MANIFEST, "deployment.apps/web created").await;
    kubectl.ok(&["apply", "-f", "-"], MANIFEST, "deployment.apps/web unchanged").await;
    let changed = MANIFEST.replace("replicas: 3", "replicas: 4");
    kubectl.ok(&["apply", "-f", "-"], &changed, "deployment.apps/web configured").await;
    kubectl.ok(&["scale", "deployment/web", "--replicas=2"], "", "scaled").await;
    kubectl.ok(&["get", "deploy"], "", "0/2").await;
    kubectl.ok(&["label", "deployment", "web", "a=b"], "", "labeled").await;
    kubectl.ok(&["set", "image", "deployment/web", "c=nginx:2"], "", "image updated").await;
    kubectl.ok(&["describe", "deployment", "web"], "", "nginx:2").await;
    kubectl.ok(&["explain", "deployment.spec.replicas"], "", "Number of desired pods").await;
    kubectl.ok(&["api-resources"], "", "endpointslices").await;
    kubectl
        .ok(&["create", "deployment", "d", "--image=i", "--dry-run=server"], "", "dry run")
        .await;
    kubectl.ok(&["delete", "deployment", "web"], "", "deleted").await;
    let (success, text) = kubectl.run(&["get", "cm", "nope"], "").await;
    assert!(!success && text.contains("configmaps \"nope\" not found"), "{text}");
    let unknown = MANIFEST.replace("replicas", "replica");
    let (success, text) = kubectl.run(&["apply", "-f", "-"], &unknown).await;
    assert!(!success && text.contains("unknown field \"spec.replica\""), "{text}");
    let apply = ["apply", "--server-side", "-f", "-"];
    kubectl.ok(&apply, MANIFEST, "deployment.apps/web serverside-applied").await;
    let (success, text) = kubectl.run(&["scale", "deployment/web", "--replicas=9"], "").await;
    assert!(success, "{text}");
    let (success, text) = kubectl.run(&apply, MANIFEST).await;
    assert!(!success && text.contains("Apply failed with 1 conflict"), "{text}");
    api.shutdown().await;
}
