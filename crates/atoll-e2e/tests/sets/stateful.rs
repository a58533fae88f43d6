//! StatefulSets: names, order, updates, claims.

use super::*;
use atoll_e2e::cluster::{is_ready, run};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    process::Command,
    time::Instant,
};

fn database(version: &str, more: &Value) -> Value {
    let mut spec = json!({ "replicas": 3, "serviceName": "db" });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    set("StatefulSet", "db", version, &spec)
}

/// When the pod became ready, in the API's words.
fn ready_at(pod: &Value) -> &str {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|one| one["type"] == "Ready");
    ready.next().and_then(|one| one["lastTransitionTime"].as_str()).unwrap_or_default()
}

pub(super) fn stateful_set_comes_up_in_order(cluster: &Cluster) {
    apply(
        cluster,
        &json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db" },
                 "spec": { "clusterIP": "None", "selector": { "app": "db" },
                           "ports": [{ "port": 80, "targetPort": 8080 }] } }),
    );
    let before = Instant::now();
    apply(cluster, &database("1", &json!({})));
    rolled_out(cluster, "statefulset/db");
    println!("three replicas in order after {:?}", before.elapsed());
    let pods = pods(cluster, "db");
    assert_eq!(names(&pods), ["db-0", "db-1", "db-2"]);
    for (index, (name, pod)) in pods.iter().enumerate() {
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], name.as_str());
        assert_eq!(labels["apps.kubernetes.io/pod-index"], index.to_string());
        assert_eq!(
            (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            (&json!(name), &json!("db"))
        );
        let revision = labels["controller-revision-hash"].as_str().unwrap();
        assert!(revision.starts_with("db-"), "{revision}");
    }
    let all: Vec<&Value> = pods.values().collect();
    for pair in all.windows(2) {
        let created = pair[1]["metadata"]["creationTimestamp"].as_str().unwrap();
        assert!(ready_at(pair[0]) <= created, "{} after {created}", ready_at(pair[0]));
    }
    let shown = cluster.kubectl(&["get", "statefulset", "db"]).ok();
    assert!(shown.starts_with("NAME   READY   AGE\ndb     3/3 "), "{shown}");
    let status = cluster.json(&["statefulset", "db"])["status"].clone();
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    for count in ["replicas", "readyReplicas", "availableReplicas", "currentReplicas"] {
        assert_eq!(status[count], 3, "{count}: {status}");
    }
    assert_eq!((&status["collisionCount"], &status["observedGeneration"]), (&json!(0), &json!(1)));
    cluster.event("db", "SuccessfulCreate: create Pod db-0 in StatefulSet db successful");
}

/// Each replica has a name of its own below its Service's.
pub(super) fn names_resolve(cluster: &Cluster) {
    let IpAddr::V4(first) = cluster.service_ip("kubernetes") else { panic!("not IPv4") };
    let dns = Ipv4Addr::from(u32::from(first) + 9);
    for (name, pod) in pods(cluster, "db") {
        let address = pod["status"]["podIP"].as_str().unwrap();
        eventually(SOON, &format!("the name of {name}"), || {
            let mut dig = Command::new("dig");
            dig.args(["+short", "+time=2", "+tries=1", &format!("@{dns}")]);
            dig.arg(format!("{name}.db.default.svc.cluster.local"));
            let answer = run(dig, "").stdout;
            if answer.trim() == address { Ok(()) } else { Err(format!("{answer} not {address}")) }
        });
    }
}

pub(super) fn partition(cluster: &Cluster) {
    let strategy = |partition: i32| {
        json!({ "updateStrategy":
            { "type": "RollingUpdate", "rollingUpdate": { "partition": partition } } })
    };
    apply(cluster, &database("2", &strategy(2)));
    let said = rolled_out(cluster, "statefulset/db");
    assert!(said.contains("partitioned roll out complete: 1 new pods have been updated"), "{said}");
    assert_eq!(versions(cluster, "db"), ["1", "1", "2"]);
    let status = cluster.json(&["statefulset", "db"])["status"].clone();
    assert_ne!(status["currentRevision"], status["updateRevision"]);
    assert_eq!((&status["updatedReplicas"], &status["currentReplicas"]), (&json!(1), &json!(2)));
    // Below the partition a pod comes back as it was.
    cluster.kubectl(&["delete", "pod", "db-0"]).ok();
    cluster.pods_ready("app=db", 3, SOON);
    assert_eq!(versions(cluster, "db"), ["1", "1", "2"]);
    apply(cluster, &database("2", &strategy(0)));
    rolled_out(cluster, "statefulset/db");
    assert_eq!(versions(cluster, "db"), ["2", "2", "2"]);
    let pods = pods(cluster, "db");
    let times: Vec<&str> = pods.values().map(ready_at).collect();
    assert!(times[1] <= times[0] && times[2] <= times[1], "the highest first: {times:?}");
}

pub(super) fn history_of_a_stateful_set(cluster: &Cluster) {
    let target = "statefulset/db";
    let history = cluster.kubectl(&["rollout", "history", target]).ok();
    let shown =
        "statefulset.apps/db \nREVISION  CHANGE-CAUSE\n1         <none>\n2         <none>\n\n";
    assert_eq!(history, shown);
    let first = cluster.kubectl(&["rollout", "history", target, "--revision=1"]).ok();
    assert!(first.contains("VERSION:\t1"), "{first}");
    cluster.kubectl(&["rollout", "undo", target]).ok();
    rolled_out(cluster, target);
    assert_eq!(versions(cluster, "db"), ["1", "1", "1"]);
    let history = cluster.kubectl(&["rollout", "history", target]).ok();
    assert!(history.ends_with("2         <none>\n3         <none>\n\n"), "{history}");
    let revisions = cluster.json(&["controllerrevisions", "-l", "app=db"]);
    assert_eq!(revisions["items"].as_array().unwrap().len(), 2, "{revisions}");
    rollouts_by_our_own_command(cluster, target);
    cluster.atoll(&["rollout", "restart", target]).ok();
    rolled_out(cluster, target);
    let annotated = |pod: &Value| {
        pod["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"].is_string()
    };
    assert!(pods(cluster, "db").values().all(annotated));
    // Of those that nobody uses as many are kept as the set says.
    let patch = r#"{"spec":{"revisionHistoryLimit":1}}"#;
    cluster.kubectl(&["patch", target, "-p", patch]).ok();
    eventually(SOON, "two revisions are left", || {
        let revisions = cluster.json(&["controllerrevisions", "-l", "app=db"]);
        let count = revisions["items"].as_array().unwrap().len();
        if count == 2 { Ok(()) } else { Err(count.to_string()) }
    });
}

pub(super) fn what_may_not_change(cluster: &Cluster) {
    let patch = r#"{"spec":{"serviceName":"other"}}"#;
    let refused = cluster.kubectl(&["patch", "statefulset/db", "-p", patch]).fails();
    assert!(
        refused.contains(
            "The StatefulSet \"db\" is invalid: spec: Forbidden: updates to statefulset spec for \
             fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
             'minReadySeconds' are forbidden"
        ),
        "{refused}"
    );
}

/// Nobody can say whether the containers of a dead node have ended: its replica waits until
/// an administrator does.
pub(super) fn a_node_dies(cluster: &Cluster) {
    let pods_before = pods(cluster, "db");
    let victim = pods_before.values().find(|pod| pod["spec"]["nodeName"] != "node-1").unwrap();
    let (name, uid) = (victim["metadata"]["name"].as_str().unwrap(), &victim["metadata"]["uid"]);
    let node = victim["spec"]["nodeName"].as_str().unwrap();
    cluster.chaos("kill", node);
    cluster.pod_becomes(name, SOON, |pod| {
        pod["metadata"]["deletionTimestamp"].is_string().then_some(())
    });
    assert_eq!(cluster.json(&["pod", name])["metadata"]["uid"], *uid);
    let taint = "node.kubernetes.io/out-of-service=shutdown:NoExecute";
    cluster.kubectl(&["taint", "node", node, taint]).ok();
    let before = Instant::now();
    eventually(SOON, &format!("{name} is back elsewhere"), || {
        let found = pods(cluster, "db").remove(name).ok_or("gone")?;
        let back = is_ready(&found)
            && found["metadata"]["uid"] != *uid
            && found["spec"]["nodeName"] != node;
        if back { Ok(()) } else { Err(format!("{:#}", found["status"])) }
    });
    println!("{name} was back {:?} after its node was given up", before.elapsed());
    cluster.chaos("heal", node);
    cluster.node_ready(node, SOON);
    cluster.kubectl(&["taint", "node", node, &format!("{taint}-")]).ok();
    rolled_out(cluster, "statefulset/db");
}

pub(super) fn scale_down_in_order(cluster: &Cluster) {
    scale_by_hand(cluster, "/apis/apps/v1/namespaces/default/statefulsets/db", 1);
    eventually(SOON, "one replica, and db-2 gone before db-1 went", || {
        let pods = pods(cluster, "db");
        let going = |name: &str| {
            pods.get(name).is_none_or(|pod| pod["metadata"]["deletionTimestamp"].is_string())
        };
        assert!(!going("db-1") || !pods.contains_key("db-2"), "{:?}", names(&pods));
        if names(&pods) == ["db-0"] { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    let scale = ["--raw", "/apis/apps/v1/namespaces/default/statefulsets/db/scale"];
    let scale = cluster.kubectl(&["get", scale[0], scale[1]]).ok();
    let scale: Value = serde_json::from_str(&scale).unwrap();
    assert_eq!(
        (&scale["spec"]["replicas"], &scale["status"]["selector"]),
        (&json!(1), &json!("app=db"))
    );
    cluster.kubectl(&["delete", "statefulset/db", "--timeout=60s"]).ok();
    cluster.pods_ready("app=db", 0, SOON);
}

pub(super) fn in_parallel(cluster: &Cluster) {
    let spec = json!({ "replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel",
                       "ordinals": { "start": 5 } });
    let mut object = set("StatefulSet", "many", "1", &spec);
    // They never become ready, and none waits for another.
    object["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] =
        json!({ "tcpSocket": { "port": 1 } });
    apply(cluster, &object);
    eventually(SOON, "all three at once", || {
        let pods = pods(cluster, "many");
        let names = names(&pods);
        if names == ["many-5", "many-6", "many-7"] { Ok(()) } else { Err(format!("{names:?}")) }
    });
    // Orphans are taken over by a set of the same name.
    let uids = || -> BTreeSet<String> {
        pods(cluster, "many").values().map(|pod| pod["metadata"]["uid"].to_string()).collect()
    };
    let before = uids();
    cluster.kubectl(&["delete", "statefulset/many", "--cascade=orphan"]).ok();
    apply(cluster, &object);
    let owner = cluster.json(&["statefulset", "many"])["metadata"]["uid"].clone();
    eventually(SOON, "the pods are adopted", || {
        let pods = pods(cluster, "many");
        let owned = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == owner;
        if pods.values().all(owned) { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    assert_eq!(uids(), before);
    // Nor does one wait on the way down.
    cluster.kubectl(&["scale", "statefulset/many", "--replicas=0"]).ok();
    cluster.pods_ready("app=many", 0, SOON);
    cluster.kubectl(&["delete", "statefulset/many", "--timeout=60s"]).ok();
}

/// Another template has the hash of ours, as far as names tell.
pub(super) fn a_name_that_is_taken(cluster: &Cluster) {
    let object = set("StatefulSet", "same", "1", &json!({ "replicas": 0 }));
    let revision = || {
        let status = cluster.json(&["statefulset", "same"])["status"].clone();
        let name = status["updateRevision"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() { Err(status.to_string()) } else { Ok((name, status)) }
    };
    apply(cluster, &object);
    let (name, _) = eventually(SOON, "its revision", revision);
    cluster.kubectl(&["delete", "statefulset/same", "--cascade=foreground"]).ok();
    let taken = json!({ "apiVersion": "apps/v1", "kind": "ControllerRevision", "revision": 1,
                        "metadata": { "name": name }, "data": { "spec": "another" } });
    cluster.kubectl_with(&["create", "-f", "-"], &taken.to_string()).ok();
    apply(cluster, &object);
    let (other, status) = eventually(SOON, "its revision under another name", revision);
    assert_ne!(other, name);
    assert_eq!(status["collisionCount"], 1, "{status}");
    cluster.kubectl(&["delete", "statefulset/same", &format!("controllerrevision/{name}")]).ok();
}

/// Claims are made for each replica, and go as the set says.
pub(super) fn claims(cluster: &Cluster) {
    let spec = json!({
        "replicas": 2, "serviceName": "kept", "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete", "whenDeleted": "Retain" },
        "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "resources": { "requests": { "storage": "1Mi" } } } }],
    });
    let mut object = set("StatefulSet", "kept", "1", &spec);
    object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    apply(cluster, &object);
    let standing = || -> Vec<String> {
        let listed = cluster.json(&["persistentvolumeclaims", "-l", "app=kept"]);
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let stays = |claim: &&Value| claim["metadata"]["deletionTimestamp"].is_null();
        let claims = items.iter().filter(stays);
        claims.map(|claim| claim["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    let are = |wanted: &[&str]| {
        eventually(SOON, &format!("claims {wanted:?}"), || {
            let found = standing();
            if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    are(&["data-kept-0", "data-kept-1"]);
    eventually(SOON, "both pods, each with its claim", || {
        let pods = pods(cluster, "kept");
        let claimed = |(name, pod): (&String, &Value)| {
            pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
                == format!("data-{name}")
        };
        let all = pods.len() == 2 && pods.iter().all(claimed);
        if all { Ok(()) } else { Err(format!("{:?}", names(&pods))) }
    });
    let claim = cluster.json(&["persistentvolumeclaim", "data-kept-0"]);
    assert!(claim["metadata"]["ownerReferences"].is_null(), "{claim}");
    cluster.kubectl(&["scale", "statefulset/kept", "--replicas=1"]).ok();
    are(&["data-kept-0"]);
    // Now what is left is to go with the set.
    let patch = r#"{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Delete"}}}"#;
    cluster.kubectl(&["patch", "statefulset/kept", "-p", patch]).ok();
    eventually(SOON, "the claim is the set's", || {
        let claim = cluster.json(&["persistentvolumeclaim", "data-kept-0"]);
        let owner = &claim["metadata"]["ownerReferences"][0];
        if owner["kind"] == "StatefulSet" { Ok(()) } else { Err(claim["metadata"].to_string()) }
    });
    cluster.kubectl(&["delete", "statefulset/kept", "--timeout=60s"]).ok();
    are(&[]);
}
