//! What is refused of StatefulSets and DaemonSets.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "image": "i",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]},
    })
}

fn set(kind: &str, more: &Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"name": "db", "namespace": "default", "resourceVersion": "1"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}, "template": template()},
    });
    if kind == "StatefulSet" {
        set["spec"]["serviceName"] = json!("db");
        set["spec"]["volumeClaimTemplates"] = json!([{
            "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"],
                     "resources": {"requests": {"storage": "1024Mi"}}},
        }]);
    } else {
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!(null);
    }
    for (field, value) in more.as_object().into_iter().flatten() {
        set["spec"][field] = value.clone();
    }
    let row = kinds::find_kind("apps", "v1", kind).unwrap();
    (row.hooks.default.unwrap())(&mut set);
    set
}

fn texts(errors: &[Error]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn created(kind: &str, more: &Value) -> Vec<String> {
    let check = if kind == "StatefulSet" { stateful_set } else { daemon_set };
    texts(&check(&set(kind, more)))
}

#[test]
fn sets_of_defaults_are_valid() {
    assert_eq!(created("StatefulSet", &json!({})), Vec::<String>::new());
    assert_eq!(created("DaemonSet", &json!({})), Vec::<String>::new());
}

#[test]
fn a_mount_needs_a_volume_or_a_claim() {
    let found = created("StatefulSet", &json!({"volumeClaimTemplates": []}));
    assert_eq!(
        found,
        ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]
    );
}

#[test]
fn only_named_fields_of_a_stateful_set_change() {
    let old = set("StatefulSet", &json!({}));
    let allowed = set(
        "StatefulSet",
        &json!({"replicas": 3, "minReadySeconds": 4, "ordinals": {"start": 2},
                "revisionHistoryLimit": 1, "updateStrategy": {"type": "OnDelete"},
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}),
    );
    assert_eq!(texts(&stateful_set_update(&allowed, &old)), Vec::<String>::new());
    // The same amount in other words is no change.
    let mut same = old.clone();
    same["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] =
        json!("1Gi");
    assert_eq!(texts(&stateful_set_update(&same, &old)), Vec::<String>::new());
    for change in [
        json!({"serviceName": "other"}),
        json!({"podManagementPolicy": "Parallel"}),
        json!({"selector": {"matchLabels": {"app": "db"}, "matchExpressions":
            [{"key": "app", "operator": "Exists"}]}}),
    ] {
        let found = texts(&stateful_set_update(&set("StatefulSet", &change), &old));
        assert_eq!(
            found,
            ["spec: Forbidden: updates to statefulset spec for fields other than 'replicas', \
              'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
              'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"]
        );
    }
}

#[test]
fn strategies_of_stateful_sets() {
    let strategy = |strategy: Value| created("StatefulSet", &json!({"updateStrategy": strategy}));
    assert_eq!(
        strategy(json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})),
        ["spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for \
          updateStrategy 'RollingUpdate'"]
    );
    assert_eq!(
        strategy(json!({"rollingUpdate": {"partition": -1, "maxUnavailable": "0%"}})),
        [
            "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than \
             or equal to 0",
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": cannot be 0",
        ]
    );
    assert_eq!(
        created("StatefulSet", &json!({"podManagementPolicy": "Any"})),
        ["spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'"]
    );
}

#[test]
fn exactly_one_bound_of_a_daemon_sets_update_is_set() {
    let rolling = |rolling: Value| {
        created("DaemonSet", &json!({"updateStrategy": {"rollingUpdate": rolling}}))
    };
    assert_eq!(
        rolling(json!({"maxUnavailable": 1, "maxSurge": "10%"})),
        [
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: \"10%\": may not be set when \
          maxUnavailable is non-zero"
        ]
    );
    assert_eq!(
        rolling(json!({"maxUnavailable": 0})),
        ["spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when \
          maxSurge is 0"]
    );
    assert_eq!(rolling(json!({"maxUnavailable": 0, "maxSurge": 1})), Vec::<String>::new());
}

#[test]
fn a_daemon_sets_selector_stays() {
    let old = set("DaemonSet", &json!({}));
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["more"] = json!("x");
    new["spec"]["template"]["metadata"]["labels"]["more"] = json!("x");
    assert_eq!(
        texts(&daemon_set_update(&new, &old)),
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"db\",\"more\":\"x\"}}: field \
          is immutable"]
    );
}

#[test]
fn pods_of_sets_run_always() {
    for kind in ["StatefulSet", "DaemonSet"] {
        let mut once = set(kind, &json!({}));
        once["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
        once["spec"]["template"]["spec"]["activeDeadlineSeconds"] = json!(5);
        let check = if kind == "StatefulSet" { stateful_set } else { daemon_set };
        assert_eq!(
            texts(&check(&once)),
            [
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                 values: \"Always\""
                    .to_owned(),
                format!(
                    "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in \
                     {kind} is not Supported"
                ),
            ]
        );
    }
}

#[test]
fn the_count_of_templates_is_the_servers() {
    let row = kinds::find_kind("apps", "v1", "DaemonSet").unwrap();
    let mut old = set("DaemonSet", &json!({}));
    row.prepare_create(&mut old);
    let count = |set: &Value| {
        set["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone()
    };
    assert_eq!(count(&old), "1");
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({});
    new["spec"]["minReadySeconds"] = json!(3);
    row.prepare_update(&mut new, &old);
    assert_eq!((count(&new), new["metadata"]["generation"].clone()), (json!("1"), json!(2)));
    new["spec"]["template"]["metadata"]["labels"]["v"] = json!("2");
    let before = new.clone();
    row.prepare_update(&mut new, &old);
    assert_eq!(count(&new), "2");
    assert_eq!(before["metadata"]["generation"], new["metadata"]["generation"]);
}

#[test]
fn counts_of_a_status_fit_together() {
    let old = set("StatefulSet", &json!({}));
    let mut new = old.clone();
    new["status"] = json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 3});
    assert_eq!(
        texts(&stateful_set_status_update(&new, &old)),
        [
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 3: cannot be greater than \
             status.readyReplicas",
        ]
    );
}
