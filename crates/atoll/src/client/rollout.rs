//! `atoll rollout`: follow, list, undo, pause and restart a Deployment's rollouts.

use super::{connect::Connection, output};
use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
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
        /// deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
        /// Give up after this time, such as 30s; 0 is never
        #[arg(long, default_value = "0s", value_parser = super::duration)]
        timeout: Duration,
    },
    /// List the revisions that can be gone back to
    History {
        /// deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
    },
    /// Go back to the revision before, or to another
    Undo {
        /// deployment/NAME
        #[arg(required = true)]
        target: Vec<String>,
        /// Which revision; 0 is the one before
        #[arg(long, default_value_t = 0)]
        to_revision: i64,
    },
    /// Replace all pods, a few at a time
    Restart {
        /// deployment/NAME
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

pub async fn run(
    connection: &Connection,
    namespace: Option<&str>,
    rollout: &Rollout,
) -> Result<()> {
    let namespace = namespace.unwrap_or(&connection.namespace);
    let deployments = Deployments {
        api: Api::namespaced(connection.client.clone(), namespace),
        sets: Api::namespaced(connection.client.clone(), namespace),
    };
    match &rollout.action {
        Action::Status { target, timeout } => {
            let name = name_of(target)?;
            let follow = deployments.follow(&name);
            if timeout.is_zero() {
                return follow.await;
            }
            tokio::time::timeout(*timeout, follow)
                .await
                .map_err(|_elapsed| anyhow::anyhow!("timed out waiting for the condition"))?
        }
        Action::History { target } => deployments.history(&name_of(target)?).await,
        Action::Undo { target, to_revision } => {
            deployments.undo(&name_of(target)?, *to_revision).await
        }
        Action::Restart { target } => {
            let name = name_of(target)?;
            if deployments.is_paused(&name).await? {
                bail!(
                    "deployments.apps \"{name}\" can't restart paused deployment (run rollout resume first)"
                );
            }
            let now = jiff::Timestamp::now();
            let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
            let annotations = json!({ "kubectl.kubernetes.io/restartedAt": now });
            let patch =
                json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
            deployments.change(&name, &patch, "restarted").await
        }
        Action::Pause { target } => {
            let name = name_of(target)?;
            if deployments.is_paused(&name).await? {
                bail!("deployments.apps \"{name}\" is already paused");
            }
            deployments.change(&name, &json!({ "spec": { "paused": true } }), "paused").await
        }
        Action::Resume { target } => {
            let name = name_of(target)?;
            if !deployments.is_paused(&name).await? {
                bail!("deployments.apps \"{name}\" is not paused");
            }
            deployments.change(&name, &json!({ "spec": { "paused": null } }), "resumed").await
        }
    }
}

fn name_of(target: &[String]) -> Result<String> {
    if let [bare] = target
        && !bare.contains('/')
    {
        return Ok(bare.clone());
    }
    let (kind, name) = super::one_target(target)?;
    match kind.to_lowercase().as_str() {
        "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps" => {
            Ok(name)
        }
        _ => bail!("rollouts of {kind:?} are not supported; name a deployment"),
    }
}

struct Deployments {
    api: Api<Deployment>,
    sets: Api<ReplicaSet>,
}

impl Deployments {
    async fn change(&self, name: &str, patch: &Value, verb: &str) -> Result<()> {
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        output::line(&format!("deployment.apps/{name} {verb}"));
        Ok(())
    }

    async fn is_paused(&self, name: &str) -> Result<bool> {
        let deployment = self.api.get(name).await?;
        Ok(deployment.spec.and_then(|spec| spec.paused) == Some(true))
    }

    async fn follow(&self, name: &str) -> Result<()> {
        self.api.get(name).await?;
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut states =
            Box::pin(watcher(self.api.clone(), only).default_backoff().applied_objects());
        let mut last = String::new();
        while let Some(deployment) = states.try_next().await.context("watching the rollout")? {
            let (done, message) = progress(&deployment)?;
            if message != last {
                output::line(&message);
                last = message;
            }
            if done {
                return Ok(());
            }
        }
        bail!("the watch of deployment {name} ended")
    }

    /// The ReplicaSets of a Deployment by revision, oldest first.
    async fn revisions(&self, name: &str) -> Result<(Deployment, Vec<(i64, ReplicaSet)>)> {
        let deployment = self.api.get(name).await?;
        let sets = self.sets.list(&ListParams::default()).await?;
        let owned = sets.items.into_iter().filter(|set| {
            set.owner_references().iter().any(|owner| Some(&owner.uid) == deployment.uid().as_ref())
        });
        let mut revisions: Vec<(i64, ReplicaSet)> = owned
            .filter_map(|set| Some((set.annotations().get(REVISION)?.parse().ok()?, set)))
            .collect();
        revisions.sort_by_key(|(revision, _)| *revision);
        Ok((deployment, revisions))
    }

    async fn history(&self, name: &str) -> Result<()> {
        let (_, revisions) = self.revisions(name).await?;
        output::line(&format!("deployment.apps/{name} "));
        output::line("REVISION  CHANGE-CAUSE");
        for (revision, set) in revisions {
            let cause = set.annotations().get(CHANGE_CAUSE).map_or("<none>", String::as_str);
            output::line(&format!("{revision:<9} {cause}"));
        }
        output::line("");
        Ok(())
    }

    async fn undo(&self, name: &str, wanted: i64) -> Result<()> {
        let (deployment, revisions) = self.revisions(name).await?;
        if deployment.spec.as_ref().and_then(|spec| spec.paused) == Some(true) {
            bail!(
                "you cannot rollback a paused deployment; resume it first with 'atoll rollout resume' and try again"
            );
        }
        let now = deployment.annotations().get(REVISION).and_then(|text| text.parse().ok());
        let found = if wanted == 0 {
            revisions.iter().rev().find(|(revision, _)| Some(*revision) != now)
        } else {
            revisions.iter().find(|(revision, _)| *revision == wanted)
        };
        let Some((revision, set)) = found else {
            match wanted {
                0 => bail!("no rollout history found for deployment \"{name}\""),
                wanted => bail!("unable to find specified revision {wanted} in history"),
            }
        };
        if Some(*revision) == now {
            output::line(&format!(
                "deployment.apps/{name} skipped rollback (current template already matches revision {revision})"
            ));
            return Ok(());
        }
        let mut template =
            set.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
        if let Some(labels) = template.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
            labels.remove("pod-template-hash");
        }
        // The whole template is replaced, as parts of the present one may have to go.
        let patch = serde_json::from_value(json!([
            { "op": "replace", "path": "/spec/template", "value": template },
        ]))
        .context("building the patch")?;
        self.api.patch(name, &PatchParams::default(), &Patch::Json::<()>(patch)).await?;
        output::line(&format!("deployment.apps/{name} rolled back"));
        Ok(())
    }
}

/// kubectl's sentences for `rollout status`.
fn progress(deployment: &Deployment) -> Result<(bool, String)> {
    let name = deployment.name_any();
    let status = deployment.status.clone().unwrap_or_default();
    if deployment.metadata.generation > status.observed_generation {
        return Ok((false, "Waiting for deployment spec update to be observed...".into()));
    }
    let progressing = status.conditions.iter().flatten().find(|one| one.type_ == "Progressing");
    if progressing.is_some_and(|one| one.reason.as_deref() == Some("ProgressDeadlineExceeded")) {
        bail!(
            "deployment \"{name}\" exceeded its progress deadline; `atoll why deployment/{name}` says why"
        );
    }
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let updated = status.updated_replicas.unwrap_or(0);
    let all = status.replicas.unwrap_or(0);
    let available = status.available_replicas.unwrap_or(0);
    let waiting = |what: String| {
        Ok((false, format!("Waiting for deployment \"{name}\" rollout to finish: {what}...")))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new replicas have been updated"));
    }
    if all > updated {
        return waiting(format!("{} old replicas are pending termination", all - updated));
    }
    if available < updated {
        return waiting(format!("{available} of {updated} updated replicas are available"));
    }
    Ok((true, format!("deployment \"{name}\" successfully rolled out")))
}
