//! Deletes: finalizers, propagation, preconditions, grace, collections, namespaces.

use serde_json::json;

use crate::client::{Api, CONFIG_MAPS, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_an_object_until_they_are_gone() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["metadata"]["finalizers"] = json!(["example.com/x"]);
    api.create(CONFIG_MAPS, &object).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let marked = api.delete(&one).await.ok();
    assert_eq!(marked["kind"], "ConfigMap");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // A second delete changes nothing.
    assert_eq!(api.delete(&one).await.ok(), marked);
    api.merge(&one, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(api.get(&one).await.code, 404);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn propagation_becomes_a_finalizer() {
    let api = Api::start().await;
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        api.create(CONFIG_MAPS, &config_map("a")).await.ok();
        let one = format!("{CONFIG_MAPS}/a");
        let marked = api.delete_with(&one, &json!({"propagationPolicy": policy})).await.ok();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        api.merge(&one, &json!({"metadata": {"finalizers": null}})).await.ok();
        assert_eq!(api.get(&one).await.code, 404);
    }
    let bad =
        api.delete_with(&format!("{CONFIG_MAPS}/a"), &json!({"propagationPolicy": "x"})).await;
    assert_eq!(bad.code, 422);
    api.shutdown().await;
}

/// Nothing goes for want of reading what was meant.
#[tokio::test(flavor = "multi_thread")]
async fn options_of_a_wrong_shape_delete_nothing() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    for options in [
        json!({"dryRun": "All"}),
        json!({"preconditions": "foo"}),
        json!({"preconditions": {"uid": 5}}),
        json!({"preconditions": {"resourceVersion": 5}}),
        json!({"propagationPolicy": ["Orphan"]}),
        json!({"gracePeriodSeconds": "x"}),
        json!({"kind": "Pod", "apiVersion": "v1"}),
        json!({"kind": "DeleteOptions", "apiVersion": "nope/v1"}),
        json!([]),
        json!("x"),
        json!(5),
    ] {
        for place in [CONFIG_MAPS.to_owned(), format!("{CONFIG_MAPS}/a")] {
            let answer = api.delete_with(&place, &options).await;
            assert_eq!(answer.code, 400, "{options}: {}", answer.body);
        }
    }
    let one = format!("{CONFIG_MAPS}/a");
    let words = "DeleteOptions in version \"v1\" cannot be handled as a DeleteOptions: json: cannot \
                 unmarshal string into Go struct field DeleteOptions.dryRun of type []string";
    api.delete_with(&one, &json!({"dryRun": "All"})).await.fails(400, words);
    // Clients write them in the version of any group.
    for version in ["v1", "apps/v1", "meta.k8s.io/v1"] {
        let options = json!({"kind": "DeleteOptions", "apiVersion": version, "dryRun": ["All"]});
        api.delete_with(&one, &options).await.ok();
    }
    api.delete_with(&one, &json!({"unknown": 1})).await.ok();
    assert_eq!(api.get(&one).await.code, 404);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preconditions_must_hold() {
    let api = Api::start().await;
    let made = api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let one = format!("{CONFIG_MAPS}/a");
    api.delete_with(&one, &json!({"preconditions": {"uid": "other"}})).await.fails(
        409,
        &format!(
            "Operation cannot be fulfilled on configmaps \"a\": the UID in the precondition (other) \
             does not match the UID in record ({uid}). The object might have been deleted and then \
             recreated"
        ),
    );
    let status = api.delete_with(&one, &json!({"preconditions": {"uid": uid}})).await.ok();
    assert_eq!(status["status"], "Success");
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": uid}));
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_goes_by_its_selectors() {
    let api = Api::start().await;
    for (name, label) in [("a", "1"), ("b", "2"), ("c", "1")] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"x": label});
        api.create(CONFIG_MAPS, &object).await.ok();
    }
    let deleted = api.delete(&format!("{CONFIG_MAPS}?labelSelector=x=1")).await.ok();
    assert_eq!(deleted["kind"], "ConfigMapList");
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    let rest = api.get(CONFIG_MAPS).await.ok();
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pod_gets_its_grace_period() {
    let api = Api::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]},
    });
    api.create(pods, &pod).await.ok();
    let one = format!("{pods}/p");
    let marked = api.delete(&one).await.ok();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let ends = |pod: &serde_json::Value| -> jiff::Timestamp {
        pod["metadata"]["deletionTimestamp"].as_str().unwrap().parse().unwrap()
    };
    let until = ends(&marked);
    let shorter = api.delete_with(&one, &json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    let sooner = until.duration_since(ends(&shorter));
    assert_eq!(sooner.as_secs(), 25, "it counts from the first delete");
    let longer = api.delete_with(&one, &json!({"gracePeriodSeconds": 50})).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 5);
    api.delete_with(&one, &json!({"gracePeriodSeconds": 0})).await.ok();
    assert_eq!(api.get(&one).await.code, 404);
    api.shutdown().await;
}

/// As upstream's, which marks even what goes at once: watchers tell by it what was deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_state_of_a_pod_says_that_it_was_deleted() {
    let api = Api::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let container = json!([{"name": "c", "image": "i"}]);
    for (name, spec, options) in [
        (
            "forced",
            json!({"nodeName": "n", "containers": container}),
            json!({"gracePeriodSeconds": 0}),
        ),
        ("unscheduled", json!({"containers": container}), json!({})),
    ] {
        let pod = json!({"metadata": {"name": name}, "spec": spec});
        api.create(pods, &pod).await.ok();
        let watch = format!("{pods}?watch=1&fieldSelector=metadata.name={name}&resourceVersion=0");
        let mut watch = api.watch(&watch, "application/json").await;
        assert_eq!(watch.step().await, ("ADDED".to_owned(), name.to_owned()));
        let one = format!("{pods}/{name}");
        let answer = api.delete_with(&one, &options).await.ok();
        let mut shown = vec![("MODIFIED".to_owned(), answer)];
        for _ in 0..2 {
            let event = watch.next().await.unwrap();
            shown.push((event["type"].as_str().unwrap().to_owned(), event["object"].clone()));
        }
        let kinds: Vec<&str> = shown.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["MODIFIED", "MODIFIED", "DELETED"]);
        for (kind, object) in &shown {
            assert_eq!(object["metadata"]["deletionGracePeriodSeconds"], 0, "{kind}: {object}");
            assert!(object["metadata"]["deletionTimestamp"].is_string(), "{kind}: {object}");
        }
        assert_eq!(api.get(&one).await.code, 404);
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_in_a_namespace_that_is_leaving() {
    let api = Api::start().await;
    let missing = api.create("/api/v1/namespaces/x/configmaps", &config_map("a")).await;
    missing.fails(404, "namespaces \"x\" not found");
    api.create("/api/v1/namespaces", &json!({"metadata": {"name": "x"}})).await.ok();
    api.create("/api/v1/namespaces/x/configmaps", &config_map("a")).await.ok();
    let leaving = api.delete("/api/v1/namespaces/x").await.ok();
    assert_eq!(leaving["status"]["phase"], "Terminating");
    let answer = api.create("/api/v1/namespaces/x/configmaps", &config_map("b")).await;
    assert_eq!(answer.code, 403);
    assert_eq!(answer.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let kept = api.delete("/api/v1/namespaces/default").await;
    kept.fails(403, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    api.shutdown().await;
}

/// As upstream: of these two kinds, whose pods outlive them unless somebody says otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_controllers_leave_their_pods() {
    let api = Api::start().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "i"}]}});
    let mut always = template.clone();
    always["spec"]["restartPolicy"] = json!("Always");
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    for (place, spec) in [
        (jobs, json!({"template": template})),
        (controllers, json!({"selector": {"a": "b"}, "template": always})),
    ] {
        let object = json!({"metadata": {"name": "a"}, "spec": spec});
        api.create(place, &object).await.ok();
        let one = format!("{place}/a");
        let answer = api.delete(&one).await;
        let warned = answer.warnings().join("");
        assert_eq!(warned.contains("child pods are preserved by default"), place == jobs);
        assert_eq!(answer.ok()["metadata"]["finalizers"], json!(["orphan"]));
        api.merge(&one, &json!({"metadata": {"finalizers": null}})).await.ok();
        api.create(place, &object).await.ok();
        let background = json!({"propagationPolicy": "Background"});
        let answer = api.delete_with(&one, &background).await;
        assert!(answer.warnings().is_empty());
        assert_eq!(answer.ok()["status"], "Success");
    }
    api.shutdown().await;
}
