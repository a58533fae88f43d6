//! `atoll rollout`: follow, list, undo, pause and restart the rollouts of Deployments,
//! StatefulSets and DaemonSets.

mod progress;
mod template;

use super::{connect::Connection, output};
use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, ReplicaSet},
    core::v1::PodTemplateSpec,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use std::time::Duration;

const REVISION: &str = "deployment.kubernetes.io/revision";
const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";

#[derive(Debug, clap::Args)]
pub struct Rollout {
    #[command(subcommand)]
    pub action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Wait until the rollout is complete
    Status {
        /// KIND/NAME: a deployment, statefulset or daemonset
        #[arg(required = true)]
        target: Vec<String>,
        /// Give up after this time, such as 30s; 0 is never
        #[arg(long, default_value = "0s", value_parser = super::duration)]
        timeout: Duration,
    },
    /// List the revisions that can be gone back to
    History {
        /// KIND/NAME: a deployment, statefulset or daemonset
        #[arg(required = true)]
        target: Vec<String>,
        /// Show the pod template of one revision; 0 lists them all
        #[arg(long, default_value_t = 0)]
        revision: i64,
    },
    /// Go back to the revision before, or to another
    Undo {
        /// KIND/NAME: a deployment, statefulset or daemonset
        #[arg(required = true)]
        target: Vec<String>,
        /// Which revision; 0 is the one before
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace all pods, a few at a time
    Restart {
        /// KIND/NAME: a deployment, statefulset or daemonset
        #[arg(required = true)]
        target: Vec<String>,
    },
    /// Hold a rollout
    Pause {
        /// deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
    },
    /// Let a held rollout go on
    Resume {
        /// deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
    },
}

/// What has rollouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Deployment,
    StatefulSet,
    DaemonSet,
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        let word = word.to_lowercase();
        match word.trim_end_matches(".apps") {
            "deployment" | "deployments" | "deploy" => Some(Self::Deployment),
            "statefulset" | "statefulsets" | "sts" => Some(Self::StatefulSet),
            "daemonset" | "daemonsets" | "ds" => Some(Self::DaemonSet),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }

    /// `deployment`: in what is said of one.
    fn singular(self) -> String {
        self.name().to_lowercase()
    }
}

/// One template that a workload has had.
struct Revision {
    number: i64,
    cause: Option<String>,
    template: PodTemplateSpec,
    /// What `kubectl` sends to go back to it; a Deployment's is made anew.
    patch: Option<Value>,
}

pub async fn run(
    connection: &Connection,
    namespace: Option<&str>,
    rollout: &Rollout,
) -> Result<()> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let of = |target: &[String]| Workload::of(&connection.client, namespace, target);
    match &rollout.action {
        Action::Status { target, timeout } => {
            let workload = of(target)?;
            let follow = workload.follow();
            if timeout.is_zero() {
                return follow.await;
            }
            tokio::time::timeout(*timeout, follow)
                .await
                .map_err(|_elapsed| anyhow::anyhow!("timed out waiting for the condition"))?
        }
        Action::History { target, revision } => of(target)?.history(*revision).await,
        Action::Undo { target, to_revision } => of(target)?.undo(*to_revision).await,
        Action::Restart { target } => of(target)?.restart().await,
        Action::Pause { target } => of(target)?.pause().await,
        Action::Resume { target } => of(target)?.resume().await,
    }
}

/// One object whose rollouts are looked at.
struct Workload {
    kind: Kind,
    name: String,
    api: Api<DynamicObject>,
    sets: Api<ReplicaSet>,
    revisions: Api<ControllerRevision>,
}

impl Workload {
    /// A bare name is a Deployment's.
    fn of(client: &Client, namespace: &str, target: &[String]) -> Result<Self> {
        let (kind, name) = match target {
            [bare] if !bare.contains('/') => (Kind::Deployment, bare.clone()),
            _ => {
                let (word, name) = super::one_target(target)?;
                let Some(kind) = Kind::of(&word) else {
                    bail!(
                        "rollouts of {word:?} are not supported; name a deployment, statefulset or daemonset"
                    );
                };
                (kind, name)
            }
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind.name()));
        Ok(Self {
            kind,
            name,
            api: Api::namespaced_with(client.clone(), namespace, &resource),
            sets: Api::namespaced(client.clone(), namespace),
            revisions: Api::namespaced(client.clone(), namespace),
        })
    }

    fn say(&self, what: &str) {
        output::line(&format!("{}.apps/{} {what}", self.kind.singular(), self.name));
    }

    async fn read(&self) -> Result<Value> {
        let object = self.api.get(&self.name).await?;
        serde_json::to_value(object).context("reading the answer")
    }

    async fn change(&self, patch: &Value, verb: &str) -> Result<()> {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        self.say(verb);
        Ok(())
    }

    async fn is_paused(&self) -> Result<bool> {
        Ok(self.read().await?["spec"]["paused"] == true)
    }

    fn only_deployments(&self, what: &str) -> Result<()> {
        if self.kind == Kind::Deployment {
            return Ok(());
        }
        bail!("{}s.apps \"{}\" {what} is not supported", self.kind.singular(), self.name)
    }

    async fn pause(&self) -> Result<()> {
        self.only_deployments("pausing")?;
        if self.is_paused().await? {
            bail!("deployments.apps \"{}\" is already paused", self.name);
        }
        self.change(&json!({ "spec": { "paused": true } }), "paused").await
    }

    async fn resume(&self) -> Result<()> {
        self.only_deployments("resuming")?;
        if !self.is_paused().await? {
            bail!("deployments.apps \"{}\" is not paused", self.name);
        }
        self.change(&json!({ "spec": { "paused": null } }), "resumed").await
    }

    async fn restart(&self) -> Result<()> {
        if self.is_paused().await? {
            bail!(
                "deployments.apps \"{}\" can't restart paused deployment (run rollout resume first)",
                self.name
            );
        }
        let now = jiff::Timestamp::now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
        let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
        let patch =
            json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        self.change(&patch, "restarted").await
    }

    async fn follow(&self) -> Result<()> {
        self.api.get(&self.name).await?;
        let only = watcher::Config::default().fields(&format!("metadata.name={}", self.name));
        let states = watcher(self.api.clone(), only).default_backoff().applied_objects();
        let mut states = Box::pin(states);
        let mut last = String::new();
        while let Some(object) = states.try_next().await.context("watching the rollout")? {
            let object = serde_json::to_value(object).context("reading the watch")?;
            let (done, message) = progress::progress(self.kind, &object)?;
            if message != last {
                output::line(&message);
                last = message;
            }
            if done {
                return Ok(());
            }
        }
        bail!("the watch of {} {} ended", self.kind.singular(), self.name)
    }

    /// The templates that it has had by number, oldest first.
    async fn revisions(&self, object: &Value) -> Result<Vec<Revision>> {
        let uid = object["metadata"]["uid"].as_str().map(str::to_owned);
        let mut revisions = match self.kind {
            Kind::Deployment => {
                let sets = self.sets.list(&ListParams::default()).await?;
                let owned = sets.items.into_iter().filter(|set| {
                    set.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
                });
                owned.filter_map(revision_of_set).collect::<Vec<_>>()
            }
            Kind::StatefulSet | Kind::DaemonSet => {
                let all = self.revisions.list(&ListParams::default()).await?;
                let owned = all.items.into_iter().filter(|one| {
                    one.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref())
                });
                owned.filter_map(revision_of_data).collect()
            }
        };
        revisions.sort_by_key(|revision| revision.number);
        Ok(revisions)
    }

    async fn history(&self, wanted: i64) -> Result<()> {
        let object = self.read().await?;
        let revisions = self.revisions(&object).await?;
        if wanted == 0 {
            self.say("");
            output::line("REVISION  CHANGE-CAUSE");
            for revision in revisions {
                let cause = revision.cause.as_deref().unwrap_or("<none>");
                output::line(&format!("{:<9} {cause}", revision.number));
            }
            output::line("");
            return Ok(());
        }
        let Some(mut found) = revisions.into_iter().find(|one| one.number == wanted) else {
            bail!("unable to find the specified revision");
        };
        if let Some(cause) = found.cause.filter(|_| self.kind == Kind::Deployment) {
            let meta = found.template.metadata.get_or_insert_default();
            meta.annotations.get_or_insert_default().insert(CHANGE_CAUSE.into(), cause);
        }
        self.say(&format!("with revision #{wanted}"));
        output::line(&template::describe(&found.template));
        Ok(())
    }

    async fn undo(&self, wanted: i64) -> Result<()> {
        let object = self.read().await?;
        let revisions = self.revisions(&object).await?;
        if object["spec"]["paused"] == true {
            bail!(
                "you cannot rollback a paused deployment; resume it first with 'atoll rollout resume' and try again"
            );
        }
        let annotated = object["metadata"]["annotations"][REVISION].as_str();
        let now = match self.kind {
            Kind::Deployment => annotated.and_then(|text| text.parse().ok()),
            Kind::StatefulSet | Kind::DaemonSet => revisions.last().map(|newest| newest.number),
        };
        let found = if wanted == 0 {
            revisions.iter().rev().find(|one| Some(one.number) != now)
        } else {
            revisions.iter().find(|one| one.number == wanted)
        };
        let Some(revision) = found else {
            match (wanted, self.kind) {
                (0, Kind::Deployment) => {
                    bail!("no rollout history found for deployment \"{}\"", self.name)
                }
                (0, _) => bail!("no last revision to roll back to"),
                (wanted, _) => bail!("unable to find specified revision {wanted} in history"),
            }
        };
        if Some(revision.number) == now {
            self.say(&format!(
                "skipped rollback (current template already matches revision {})",
                revision.number
            ));
            return Ok(());
        }
        self.go_back(revision).await?;
        self.say("rolled back");
        Ok(())
    }

    async fn go_back(&self, revision: &Revision) -> Result<()> {
        let params = PatchParams::default();
        if let Some(patch) = &revision.patch {
            self.api.patch(&self.name, &params, &Patch::Strategic(patch)).await?;
            return Ok(());
        }
        let mut template = revision.template.clone();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove("pod-template-hash");
        }
        // The whole template is replaced, as parts of the present one may have to go.
        let patch = serde_json::from_value(json!([
            { "op": "replace", "path": "/spec/template", "value": template },
        ]))
        .context("building the patch")?;
        self.api.patch(&self.name, &params, &Patch::Json::<()>(patch)).await?;
        Ok(())
    }
}

fn revision_of_set(set: ReplicaSet) -> Option<Revision> {
    Some(Revision {
        number: set.annotations().get(REVISION)?.parse().ok()?,
        cause: set.annotations().get(CHANGE_CAUSE).cloned(),
        template: set.spec.and_then(|spec| spec.template).unwrap_or_default(),
        patch: None,
    })
}

fn revision_of_data(revision: ControllerRevision) -> Option<Revision> {
    let patch = revision.data.as_ref()?.0.clone();
    let mut template = patch["spec"]["template"].clone();
    template.as_object_mut()?.remove("$patch");
    Some(Revision {
        number: revision.revision,
        cause: revision.annotations().get(CHANGE_CAUSE).cloned(),
        template: serde_json::from_value(template).ok()?,
        patch: Some(patch),
    })
}
