//! `atoll why KIND/NAME`: one sentence from the real cause, and what to do about it.
//!
//! [`pod`] (with [`image`]), [`workload`], [`service`] and [`node`] say why one object is not well, from
//! objects alone; this file fetches them.

mod image;
mod node;
mod pod;
mod service;
mod workload;

use crate::client::{catalog::Catalog, connect::Connection, output};
use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{Event, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use std::collections::BTreeMap;

#[derive(Debug, clap::Args)]
pub struct Why {
    /// KIND/NAME: a pod, deployment, replicaset, service or node
    pub target: String,
    /// How to print the answer
    #[arg(short, long)]
    pub output: Option<crate::cli::Output>,
}

/// What is wrong with an object; `None` where nothing is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Cause {
    /// The state that a user sees, such as CrashLoopBackOff.
    pub state: String,
    /// One sentence: the object, and why it is in that state.
    pub sentence: String,
    /// What to do, where that is known.
    pub remedy: Option<String>,
}

impl Cause {
    fn new(state: &str, sentence: impl Into<String>) -> Self {
        Self { state: state.into(), sentence: sentence.into(), remedy: None }
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

pub async fn run(connection: &Connection, namespace: Option<&str>, why: &Why) -> Result<()> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let Some((word, name)) = why.target.split_once('/') else {
        bail!("{:?} is not of the form KIND/NAME, such as pod/web-1 or deployment/web", why.target);
    };
    let catalog = Catalog::read(&connection.client).await?;
    let kind = catalog.find(word)?.kind.clone();
    let fetch = Fetch { client: connection.client.clone(), namespace: namespace.to_owned() };
    let cause = match kind.as_str() {
        "Pod" => {
            let pod: Pod = fetch.one(name).await?;
            pod::cause(&pod, &fetch.events(&pod).await?)
        }
        "Deployment" => fetch.deployment(name).await?,
        "ReplicaSet" => {
            let set: ReplicaSet = fetch.one(name).await?;
            workload::replica_set(&set, &fetch.pods_of(&set).await?)
        }
        "Service" => fetch.service(name).await?,
        "Node" => {
            let node: Node = Api::all(fetch.client.clone()).get(name).await?;
            node::cause(&node)
        }
        other => bail!(
            "`atoll why` explains pods, deployments, replicasets, services and nodes, not {other}"
        ),
    };
    print(&why.target, cause.as_ref(), why.output)
}

fn print(target: &str, cause: Option<&Cause>, format: Option<crate::cli::Output>) -> Result<()> {
    if let Some(format) = format {
        let document = serde_json::json!({ "object": target, "cause": cause });
        return crate::client::get::print_document(&document, format == crate::cli::Output::Yaml);
    }
    match cause {
        None => output::line(&format!("{target} is well.")),
        Some(cause) => {
            output::line(&format!("{target} is {}: {}", cause.state, cause.sentence));
            if let Some(remedy) = &cause.remedy {
                output::line(remedy);
            }
        }
    }
    Ok(())
}

/// A pod with the events about it.
pub type Seen = (Pod, Vec<Event>);

struct Fetch {
    client: Client,
    namespace: String,
}

impl Fetch {
    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn one<K>(&self, name: &str) -> Result<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        Ok(self.api::<K>().get(name).await?)
    }

    async fn events(&self, pod: &Pod) -> Result<Vec<Event>> {
        let about = format!("involvedObject.uid={}", pod.uid().unwrap_or_default());
        let params = ListParams::default().fields(&about);
        let mut events = self.api::<Event>().list(&params).await.context("listing events")?.items;
        events.sort_by_key(crate::client::events::last_seen);
        Ok(events)
    }

    async fn pods_of(&self, set: &ReplicaSet) -> Result<Vec<Seen>> {
        let uid = set.uid();
        let listed =
            self.api::<Pod>().list(&ListParams::default()).await.context("listing pods")?;
        let mut pods = Vec::new();
        for pod in listed.items {
            if pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref()) {
                let events = self.events(&pod).await?;
                pods.push((pod, events));
            }
        }
        Ok(pods)
    }

    async fn deployment(&self, name: &str) -> Result<Option<Cause>> {
        let deployment: Deployment = self.one(name).await?;
        let uid = deployment.uid();
        let sets = self.api::<ReplicaSet>().list(&ListParams::default()).await?.items;
        let mut owned = Vec::new();
        for set in sets {
            if set.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref()) {
                let pods = self.pods_of(&set).await?;
                owned.push((set, pods));
            }
        }
        Ok(workload::deployment(&deployment, &owned))
    }

    async fn service(&self, name: &str) -> Result<Option<Cause>> {
        let service: Service = self.one(name).await?;
        let label = format!("kubernetes.io/service-name={name}");
        let params = ListParams::default().labels(&label);
        let slices = self.api::<EndpointSlice>().list(&params).await?.items;
        let selector: BTreeMap<String, String> =
            service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        let labels: Vec<String> =
            selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut pods = Vec::new();
        if !labels.is_empty() {
            let params = ListParams::default().labels(&labels.join(","));
            for pod in self.api::<Pod>().list(&params).await?.items {
                let events = self.events(&pod).await?;
                pods.push((pod, events));
            }
        }
        Ok(service::cause(&service, &slices, &pods))
    }
}
