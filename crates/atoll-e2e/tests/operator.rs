//! An operator written with kube-rs, as its users write them: a custom kind, a reconciler, a
//! finalizer and a status.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test, which may block")]

use atoll_e2e::{Cluster, eventually, is_root};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config, Resource, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
    runtime::{
        controller::{Action, Controller},
        finalizer::{Event, finalizer},
        watcher,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{borrow::Cow, sync::Arc, time::Duration};

const SOON: Duration = Duration::from_secs(30);
const FINALIZER: &str = "lanterns.harbour.example.com/put-out";
const MANAGER: &str = "lamplighter";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct LanternSpec {
    lights: u32,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Lantern {
    #[serde(default)]
    metadata: ObjectMeta,
    spec: LanternSpec,
    #[serde(default)]
    status: Option<serde_json::Value>,
}

impl Resource for Lantern {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        "Lantern".into()
    }

    fn group(_: &()) -> Cow<'_, str> {
        "harbour.example.com".into()
    }

    fn version(_: &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural(_: &()) -> Cow<'_, str> {
        "lanterns".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[derive(Debug)]
struct Failure(String);

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string())
}

/// Keeps a ConfigMap with as many lines as the lantern has lights, and puts them out with a
/// mark of its own before the lantern goes.
async fn reconcile(lantern: Arc<Lantern>, client: Arc<Client>) -> Result<Action, Failure> {
    let namespace = lantern.namespace().unwrap_or_default();
    let lanterns: Api<Lantern> = Api::namespaced((*client).clone(), &namespace);
    let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &namespace);
    let done = finalizer(&lanterns, FINALIZER, lantern, |event| async {
        match event {
            Event::Apply(lantern) => light(&lanterns, &maps, &lantern).await,
            Event::Cleanup(lantern) => put_out(&maps, &lantern).await,
        }
    });
    done.await.map_err(failed)
}

async fn light(
    lanterns: &Api<Lantern>,
    maps: &Api<ConfigMap>,
    lantern: &Lantern,
) -> Result<Action, Failure> {
    let name = lantern.name_any();
    let owner = lantern.controller_owner_ref(&());
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": name, "ownerReferences": [owner] },
        "data": { "lights": lantern.spec.lights.to_string() },
    });
    let apply = PatchParams::apply(MANAGER).force();
    maps.patch(&name, &apply, &Patch::Apply(&map)).await.map_err(failed)?;
    let status = json!({
        "apiVersion": "harbour.example.com/v1", "kind": "Lantern",
        "status": { "lit": lantern.spec.lights },
    });
    lanterns.patch_status(&name, &apply, &Patch::Apply(&status)).await.map_err(failed)?;
    Ok(Action::await_change())
}

async fn put_out(maps: &Api<ConfigMap>, lantern: &Lantern) -> Result<Action, Failure> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": format!("{}-out", lantern.name_any()) },
    });
    let apply = PatchParams::apply(MANAGER).force();
    let name = format!("{}-out", lantern.name_any());
    maps.patch(&name, &apply, &Patch::Apply(&map)).await.map_err(failed)?;
    Ok(Action::await_change())
}

async fn client(cluster: &Cluster) -> Client {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

async fn operate(client: Client) {
    let lanterns: Api<Lantern> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    Controller::new(lanterns, watcher::Config::default())
        .owns(maps, watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(500)), Arc::new(client))
        .for_each(|_| async {})
        .await;
}

#[test]
fn an_operator_keeps_what_its_kind_promises() {
    if !is_root("operator") {
        return;
    }
    let cluster = Cluster::start(1);
    let definition = include_str!("clients/chart/crds/lanterns.yaml");
    cluster.kubectl_with(&["apply", "-f", "-"], definition).ok();
    let established = "customresourcedefinition/lanterns.harbour.example.com";
    cluster.kubectl(&["wait", "--for=condition=Established", established, "--timeout=30s"]).ok();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = runtime.block_on(client(&cluster));
    let operator = runtime.spawn(operate(api.clone()));
    let lantern = |lights: i32| {
        json!({ "apiVersion": "harbour.example.com/v1", "kind": "Lantern",
                "metadata": { "name": "east" }, "spec": { "lights": lights } })
    };
    let apply =
        |lights: i32| cluster.kubectl_with(&["apply", "-f", "-"], &lantern(lights).to_string());
    apply(2).ok();
    let lit = |count: &str| {
        eventually(SOON, &format!("{count} lights"), || {
            let map =
                cluster.kubectl(&["get", "configmap", "east", "-o", "jsonpath={.data.lights}"]);
            let status =
                cluster.kubectl(&["get", "lantern", "east", "-o", "jsonpath={.status.lit}"]);
            if map.stdout == count && status.stdout == count {
                Ok(())
            } else {
                Err(format!("{map:?} {status:?}"))
            }
        });
    };
    lit("2");
    apply(5).ok();
    lit("5");
    let refused = apply(0).fails();
    assert!(refused.contains("spec.lights"), "{refused}");
    // What it owns comes back.
    cluster.kubectl(&["delete", "configmap", "east"]).ok();
    lit("5");
    let stored = cluster.json(&["lantern", "east"]);
    assert_eq!(stored["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(stored["metadata"]["generation"], 2, "its status is no change of its spec");
    let maps: Api<ConfigMap> = Api::default_namespaced(api.clone());
    let lanterns: Api<Lantern> = Api::default_namespaced(api);
    runtime.block_on(lanterns.delete("east", &DeleteParams::default())).unwrap();
    eventually(SOON, "the lantern and what it owns are gone, and its mark is there", || {
        let state = runtime.block_on(async {
            let lantern = lanterns.get_opt("east").await.map_err(|error| error.to_string())?;
            let map = maps.get_opt("east").await.map_err(|error| error.to_string())?;
            let mark = maps.get_opt("east-out").await.map_err(|error| error.to_string())?;
            Ok::<_, String>((lantern.is_none(), map.is_none(), mark.is_some()))
        })?;
        if state == (true, true, true) { Ok(()) } else { Err(format!("{state:?}")) }
    });
    operator.abort();
}
