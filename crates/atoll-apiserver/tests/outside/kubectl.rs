//! The real kubectl meets webhooks, API servers behind the API, and priority levels.

use serde_json::json;
use tokio::process::Command;

use crate::aggregate::{register, things};
use crate::client::Api;
use crate::hooked::Hook;
use crate::webhooks::configure;

struct Kubectl {
    server: String,
    cache: tempfile::TempDir,
}

impl Kubectl {
    async fn run(&self, arguments: &str) -> (bool, String) {
        let output = Command::new("kubectl")
            .args(["--kubeconfig=/dev/null", "--server", &self.server])
            .arg(format!("--cache-dir={}", self.cache.path().display()))
            .args(arguments.split(' '))
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    async fn says(&self, arguments: &str, success: bool, wanted: &str) {
        let (ended_well, text) = self.run(arguments).await;
        assert_eq!(ended_well, success, "{arguments}: {text}");
        assert!(text.contains(wanted), "{arguments}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_they_say() {
    if Command::new("kubectl").arg("--help").output().await.is_err() {
        assert!(std::env::var_os("CI").is_none(), "kubectl is not here");
        println!("skipped: kubectl is not here");
        return;
    }
    let api = Api::start().await;
    let (address, _serving) = api.open().await;
    let server = format!("http://{address}");
    let mut kubectl = Kubectl { server, cache: tempfile::tempdir().unwrap() };
    let hook = Hook::start(|asked| match asked["name"].as_str() {
        Some("bad") => json!({"allowed": false, "status": {"message": "not on Fridays"}}),
        _ => json!({"allowed": true, "warnings": ["think again"]}),
    })
    .await;
    let webhook = hook.webhook("v.example.com", &["CREATE"], "configmaps");
    configure(&api, "validating", "v", vec![webhook]).await;
    kubectl
        .says(
            "create configmap bad",
            false,
            "error: failed to create configmap: admission webhook \"v.example.com\" denied the \
             request: not on Fridays",
        )
        .await;
    kubectl.says("create configmap good", true, "Warning: think again").await;
    kubectl.says("get validatingwebhookconfigurations", true, "v      1          ").await;
    kubectl.says("get flowschemas", true, "catch-all").await;
    kubectl.says("get flowschemas exempt", true, "False").await;
    kubectl.says("get prioritylevelconfigurations workload-low", true, "Limited   100").await;
    let (address, bundle, _tasks) = things().await;
    register(&api, address.port(), &bundle).await;
    // What it found out of the server it keeps for ten minutes.
    kubectl.cache = tempfile::tempdir().unwrap();
    kubectl.says("get apiservices v1.things.io", true, "default/things   True").await;
    kubectl.says("get apiservices v1.apps", true, "Local     True").await;
    kubectl.says("api-resources --api-group=things.io", true, "th").await;
    kubectl.says("get --raw /apis/things.io/v1/things", true, "\"path\"").await;
    api.shutdown().await;
}
