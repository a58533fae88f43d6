//! kube's client over the service in this process, as the controllers use it.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::client::{Api, admin, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn kubes_client_needs_no_socket() {
    let api = Api::start().await;
    let client = Client::new(api.server.local_service(admin()), "default");
    let maps: kube::Api<ConfigMap> = kube::Api::default_namespaced(client.clone());
    let object: ConfigMap = serde_json::from_value(config_map("a")).unwrap();
    let made = maps.create(&PostParams::default(), &object).await.unwrap();
    assert!(made.uid().is_some());
    let patch = Patch::Apply(config_map("a"));
    maps.patch("a", &PatchParams::apply("m").force(), &patch).await.unwrap();
    assert_eq!(maps.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let error = maps.get("nope").await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.code == 404));

    let events = watcher(maps.clone(), watcher::Config::default().streaming_lists());
    let mut seen = events.default_backoff().applied_objects().boxed();
    assert_eq!(seen.try_next().await.unwrap().unwrap().name_any(), "a");
    let next = json!({"data": {"later": "1"}});
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&next)).await.unwrap();
    let changed = seen.try_next().await.unwrap().unwrap();
    assert!(changed.data.unwrap().contains_key("later"));

    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let deployments: kube::Api<Deployment> = kube::Api::default_namespaced(client);
    assert!(deployments.list_metadata(&ListParams::default()).await.unwrap().items.is_empty());
    api.shutdown().await;
}
