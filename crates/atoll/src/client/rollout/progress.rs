//! kubectl's sentences for `rollout status`.

use super::Kind;
use anyhow::{Result, bail};
use serde_json::Value;

/// Whether the rollout is complete, and what is to be said of it.
pub(super) fn progress(kind: Kind, object: &Value) -> Result<(bool, String)> {
    match kind {
        Kind::Deployment => deployment(object),
        Kind::StatefulSet => stateful_set(object),
        Kind::DaemonSet => daemon_set(object),
    }
}

fn number(object: &Value, field: &str) -> i64 {
    object[field].as_i64().unwrap_or(0)
}

fn is_observed(object: &Value) -> bool {
    number(&object["metadata"], "generation") <= number(&object["status"], "observedGeneration")
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn rolls(object: &Value) -> Result<()> {
    if object["spec"]["updateStrategy"]["type"] != "RollingUpdate" {
        bail!("rollout status is only available for RollingUpdate strategy type");
    }
    Ok(())
}

fn deployment(deployment: &Value) -> Result<(bool, String)> {
    let name = name(deployment);
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    if !is_observed(deployment) {
        return Ok((false, "Waiting for deployment spec update to be observed...".into()));
    }
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let progressing = conditions.find(|one| one["type"] == "Progressing");
    if progressing.is_some_and(|one| one["reason"] == "ProgressDeadlineExceeded") {
        bail!(
            "deployment \"{name}\" exceeded its progress deadline; `atoll why deployment/{name}` says why"
        );
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let updated = number(status, "updatedReplicas");
    let all = number(status, "replicas");
    let available = number(status, "availableReplicas");
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

fn stateful_set(set: &Value) -> Result<(bool, String)> {
    rolls(set)?;
    let (spec, status) = (&set["spec"], &set["status"]);
    if number(status, "observedGeneration") == 0 || !is_observed(set) {
        return Ok((false, "Waiting for statefulset spec update to be observed...".into()));
    }
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    let (ready, updated) = (number(status, "readyReplicas"), number(status, "updatedReplicas"));
    if ready < wanted {
        return Ok((false, format!("Waiting for {} pods to be ready...", wanted - ready)));
    }
    let rolling = &spec["updateStrategy"]["rollingUpdate"];
    if !rolling.is_null() {
        let beyond = wanted - number(rolling, "partition");
        if updated < beyond {
            return Ok((
                false,
                format!(
                    "Waiting for partitioned roll out to finish: {updated} out of {beyond} new \
                     pods have been updated..."
                ),
            ));
        }
        return Ok((
            true,
            format!("partitioned roll out complete: {updated} new pods have been updated..."),
        ));
    }
    let revision = |field: &str| status[field].as_str().unwrap_or_default().to_owned();
    let (new, current) = (revision("updateRevision"), revision("currentRevision"));
    if new != current {
        let text = "waiting for statefulset rolling update to complete";
        return Ok((false, format!("{text} {updated} pods at revision {new}...")));
    }
    let count = number(status, "currentReplicas");
    Ok((true, format!("statefulset rolling update complete {count} pods at revision {current}...")))
}

fn daemon_set(set: &Value) -> Result<(bool, String)> {
    rolls(set)?;
    let (name, status) = (name(set), &set["status"]);
    if !is_observed(set) {
        return Ok((false, "Waiting for daemon set spec update to be observed...".into()));
    }
    let wanted = number(status, "desiredNumberScheduled");
    let updated = number(status, "updatedNumberScheduled");
    let available = number(status, "numberAvailable");
    let waiting = |what: String| {
        Ok((false, format!("Waiting for daemon set \"{name}\" rollout to finish: {what}...")))
    };
    if updated < wanted {
        return waiting(format!("{updated} out of {wanted} new pods have been updated"));
    }
    if available < wanted {
        return waiting(format!("{available} of {wanted} updated pods are available"));
    }
    Ok((true, format!("daemon set \"{name}\" successfully rolled out")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(spec: Value, status: Value) -> Value {
        let mut spec = spec;
        spec["updateStrategy"]["type"] = json!("RollingUpdate");
        json!({ "metadata": { "name": "db", "generation": 2 }, "spec": spec, "status": status })
    }

    #[test]
    fn a_partition_is_a_rollouts_end() {
        let spec =
            json!({ "replicas": 3, "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
        let status = |updated: i64| json!({ "observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": updated });
        let said =
            |updated| progress(Kind::StatefulSet, &set(spec.clone(), status(updated))).unwrap();
        assert_eq!(
            said(0),
            (
                false,
                "Waiting for partitioned roll out to finish: 0 out of 1 new pods have been \
                     updated..."
                    .to_owned()
            )
        );
        assert!(said(1).0);
    }

    #[test]
    fn a_daemon_set_counts_nodes() {
        let status = json!({ "observedGeneration": 2, "desiredNumberScheduled": 3,
                             "updatedNumberScheduled": 3, "numberAvailable": 1 });
        let said = progress(Kind::DaemonSet, &set(json!({}), status)).unwrap();
        let text = "Waiting for daemon set \"db\" rollout to finish: 1 of 3 updated pods are \
                    available...";
        assert_eq!(said, (false, text.to_owned()));
    }
}
