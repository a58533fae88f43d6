//! Creates, updates and patches: names, conflicts, field validation, parts.

use serde_json::{Value, json};

use crate::client::{Api, CONFIG_MAPS, JSON, STRATEGIC, config_map};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_refused_warned_of_or_ignored() {
    let api = Api::start().await;
    let mut object = config_map("a");
    object["foo"] = json!(1);
    api.create(&format!("{CONFIG_MAPS}?fieldValidation=Strict"), &object).await.fails(
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         unknown field \"foo\"",
    );
    let body = r#"{"metadata":{"name":"a"},"data":{"x":"1","x":"2"},"foo":1}"#;
    let warned = api.send(http::Method::POST, CONFIG_MAPS, &[JSON], body).await;
    assert_eq!(
        warned.warnings(),
        ["299 - \"unknown field \\\"foo\\\"\"", "299 - \"duplicate field \\\"data.x\\\"\""]
    );
    assert!(warned.ok().get("foo").is_none());
    object["metadata"]["name"] = json!("b");
    let ignored = api.create(&format!("{CONFIG_MAPS}?fieldValidation=Ignore"), &object).await;
    assert!(ignored.warnings().is_empty());
    ignored.ok();
    let mut metadata = deployment();
    metadata["metadata"]["unknownMeta"] = json!("foo");
    api.create(&format!("{DEPLOYMENTS}?fieldValidation=Strict"), &metadata).await.fails(
        400,
        "Deployment in version \"v1\" cannot be handled as a Deployment: strict decoding error: \
         unknown field \"metadata.unknownMeta\"",
    );
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_objects_are_refused_in_upstreams_words() {
    let api = Api::start().await;
    let wrong = json!({"metadata": {"name": "a"}, "data": {"x": 1}});
    api.create(CONFIG_MAPS, &wrong).await.fails(
        400,
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal \
         number into Go struct field ConfigMap.data of type string",
    );
    let empty = api.send(http::Method::POST, CONFIG_MAPS, &[JSON], "").await;
    let start = "the object provided is unrecognized (must be of type ConfigMap): couldn't get \
                 version/kind; json parse error: ";
    assert!(empty.body["message"].as_str().unwrap().starts_with(start), "{}", empty.body);
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    assert_eq!(api.create(CONFIG_MAPS, &other).await.code, 400);
    let media = [("content-type", "text/xml")];
    assert_eq!(api.send(http::Method::POST, CONFIG_MAPS, &media, "<a/>").await.code, 415);
    let nameless = api.create(CONFIG_MAPS, &json!({"data": {}})).await;
    let cause = nameless.fails(
        422,
        "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
    );
    assert_eq!(cause["details"]["causes"][0]["field"], "metadata.name");
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = json!("other");
    api.create(CONFIG_MAPS, &elsewhere).await.fails(
        400,
        "the namespace of the provided object does not match the namespace sent on the request",
    );
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    assert_eq!(api.send(http::Method::POST, CONFIG_MAPS, &[JSON], large).await.code, 413);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_and_protobuf_are_read_as_json_is() {
    let api = Api::start().await;
    let yaml = [("content-type", "application/yaml")];
    let body = "metadata:\n  name: yaml\ndata:\n  a: \"1\"\n";
    let made = api.send(http::Method::POST, CONFIG_MAPS, &yaml, body).await.ok();
    assert_eq!(made["data"]["a"], "1");
    let proto = [("content-type", "application/vnd.kubernetes.protobuf")];
    let body = atoll_api::proto::encode(&config_map("p")).unwrap();
    let made = api.send(http::Method::POST, CONFIG_MAPS, &proto, body).await.ok();
    assert_eq!(made["data"]["a"], "1");
    let read = [("accept", "application/yaml")];
    let text = api.send(http::Method::GET, &format!("{CONFIG_MAPS}/yaml"), &read, "").await;
    assert_eq!(text.headers["content-type"], "application/yaml");
    assert!(text.body.as_str().unwrap().contains("name: yaml"), "{}", text.body);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_differ() {
    let api = Api::start().await;
    let object = json!({"metadata": {"generateName": "x-"}});
    let a = api.create(CONFIG_MAPS, &object).await.ok();
    let b = api.create(CONFIG_MAPS, &object).await.ok();
    assert_ne!(a["metadata"]["name"], b["metadata"]["name"]);
    assert_eq!(a["metadata"]["name"].as_str().unwrap().len(), 7);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_do_not_overwrite_each_other() {
    let api = Api::start().await;
    let made = api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let one = format!("{CONFIG_MAPS}/a");
    let mut fresh = made.clone();
    fresh["data"]["a"] = json!("2");
    api.put(&one, &fresh).await.ok();
    api.put(&one, &fresh).await.fails(
        409,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please \
         apply your changes to the latest version and try again",
    );
    let patches = (0..8).map(|index| {
        let patch = json!({"data": {format!("k{index}"): "1"}});
        let (api, one) = (&api, &one);
        async move { api.merge(one, &patch).await.ok() }
    });
    futures::future::join_all(patches).await;
    let end = api.get(&one).await.ok();
    assert_eq!(end["data"].as_object().unwrap().len(), 9, "a patch was lost: {end}");
    api.shutdown().await;
}

fn deployment() -> Value {
    json!({
        "metadata": {"name": "d"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i:1"}]},
            },
        },
    })
}

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

#[tokio::test(flavor = "multi_thread")]
async fn parts_change_only_what_is_theirs() {
    let api = Api::start().await;
    let made = api.create(DEPLOYMENTS, &deployment()).await.ok();
    assert_eq!(made["metadata"]["generation"], 1);
    let one = format!("{DEPLOYMENTS}/d");
    let mut status = made.clone();
    status["spec"]["replicas"] = json!(9);
    status["status"] = json!({"replicas": 2, "observedGeneration": 1});
    let written = api.put(&format!("{one}/status"), &status).await.ok();
    assert_eq!(written["spec"]["replicas"], 2);
    assert_eq!(written["status"]["replicas"], 2);
    assert_eq!(written["metadata"]["generation"], 1);
    let scale = api.get(&format!("{one}/scale")).await.ok();
    assert_eq!(
        (scale["kind"].as_str(), scale["spec"]["replicas"].as_u64()),
        (Some("Scale"), Some(2))
    );
    let scaled = api.merge(&format!("{one}/scale"), &json!({"spec": {"replicas": 5}})).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 5);
    let now = api.get(&one).await.ok();
    assert_eq!(
        (now["spec"]["replicas"].as_u64(), now["metadata"]["generation"].as_u64()),
        (Some(5), Some(2))
    );
    assert_eq!(now["status"]["replicas"], 2);
    api.shutdown().await;
}

/// Each with what its status may be.
fn with_a_status() -> [(&'static str, Value, Value); 5] {
    let core = "/api/v1/namespaces/default";
    let condition = json!({"type": "Tested", "status": "True", "reason": "Test", "message": "m",
        "lastTransitionTime": "2026-01-02T03:04:05Z"});
    let claim = json!({"accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": {"requests": {"storage": "1Gi"}}});
    let volume = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "hostPath": {"path": "/x"}});
    let result = json!({"request": "r", "driver": "d.example", "pool": "p", "device": "x"});
    [
        (
            core,
            json!({"kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i:1"}]}}),
            json!({"phase": "Pending", "conditions": [condition]}),
        ),
        (
            core,
            json!({"kind": "PersistentVolumeClaim", "spec": claim}),
            json!({"phase": "Pending", "conditions": [condition]}),
        ),
        (
            "/api/v1",
            json!({"kind": "PersistentVolume", "spec": volume}),
            json!({"phase": "Available", "reason": "Test", "message": "m"}),
        ),
        (
            "/apis/storage.k8s.io/v1",
            json!({"kind": "VolumeAttachment", "spec": {"attacher": "a.example",
                "nodeName": "n", "source": {"persistentVolumeName": "x"}}}),
            json!({"attached": true, "attachmentMetadata": {"a": "b"}}),
        ),
        (
            "/apis/resource.k8s.io/v1/namespaces/default",
            json!({"kind": "ResourceClaim", "spec": {"devices": {"requests": [
                {"name": "r", "exactly": {"deviceClassName": "c"}}]}}}),
            json!({"allocation": {"devices": {"results": [result]}}}),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_replaced_and_patched() {
    let api = Api::start().await;
    for (root, mut object, status) in with_a_status() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let all = format!("{root}/{}s", kind.to_lowercase());
        object["metadata"] = json!({"name": "x"});
        object.as_object_mut().unwrap().remove("kind");
        let mut object = api.create(&all, &object).await.ok();
        let part = format!("{all}/x/status");
        object["status"] = status.clone();
        let written = api.put(&part, &object).await.ok();
        for (field, value) in status.as_object().unwrap() {
            assert_eq!(written["status"][field], *value, "{kind}: {}", written["status"]);
        }
        let patch = json!({"metadata": {"annotations": {"patched": "true"}}, "status": status});
        let patched = api.merge(&part, &patch).await.ok();
        assert_eq!(patched["status"], written["status"], "{kind}");
        // Of these two a writer of the status changes nothing else.
        let keeps_all = matches!(&*kind, "VolumeAttachment" | "ResourceClaim");
        let annotated = patched["metadata"]["annotations"]["patched"] == "true";
        assert_ne!(annotated, keeps_all, "{kind}");
        let read = api.get(&part).await.ok();
        assert_eq!(read["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"]);
        // The main way leaves the status alone.
        object = read.clone();
        object["metadata"]["labels"] = json!({"a": "b"});
        object["status"] = json!({});
        let main = api.put(&format!("{all}/x"), &object).await.ok();
        assert_eq!(main["status"], read["status"], "{kind}");
        assert_eq!(main["metadata"]["labels"]["a"], "b", "{kind}");
    }
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strategic_patch_merges_containers_by_name() {
    let api = Api::start().await;
    api.create(DEPLOYMENTS, &deployment()).await.ok();
    let one = format!("{DEPLOYMENTS}/d");
    let containers = json!([{"name": "c", "image": "i:2"}, {"name": "e", "image": "x"}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let changed = api.patch(&one, STRATEGIC, &patch).await.ok();
    let images: Vec<&str> = changed["spec"]["template"]["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["image"].as_str().unwrap())
        .collect();
    assert_eq!(images.len(), 2);
    assert!(images.contains(&"i:2") && images.contains(&"x"), "{images:?}");
    let test = json!([{"op": "test", "path": "/spec/replicas", "value": 99}]);
    api.patch(&one, "application/json-patch+json", &test)
        .await
        .fails(422, "the server rejected our request due to an error in our request");
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_bound_once() {
    let api = Api::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({
        "metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    api.create(pods, &pod).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let url = format!("{pods}/p/binding");
    assert_eq!(api.create(&url, &binding).await.code, 201);
    let bound = api.get(&format!("{pods}/p")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let scheduled = &bound["status"]["conditions"][0];
    assert_eq!(
        (&scheduled["type"], &scheduled["observedGeneration"]),
        (&json!("PodScheduled"), &json!(1))
    );
    api.create(&url, &binding).await.fails(
        409,
        "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \
         \"n1\"",
    );
    let evicted =
        api.create(&format!("{pods}/p/eviction"), &json!({"metadata": {"name": "p"}})).await;
    assert_eq!(evicted.code, 201, "{}", evicted.body);
    api.shutdown().await;
}

const APPLY: &str = "application/apply-patch+yaml";

#[tokio::test(flavor = "multi_thread")]
async fn appliers_own_fields_and_meet_each_other() {
    let api = Api::start().await;
    let one = format!("{CONFIG_MAPS}/a");
    let config = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": value}});
    let m1 = format!("{one}?fieldManager=m1");
    let made = api.patch(&m1, APPLY, &config("1")).await;
    assert_eq!(made.code, 201, "{}", made.body);
    let again = api.patch(&m1, APPLY, &config("1")).await.ok();
    assert_eq!(again, made.body, "applying twice wrote twice");
    let m2 = format!("{one}?fieldManager=m2");
    let conflict = api
        .patch(&m2, APPLY, &config("2"))
        .await
        .fails(409, "Apply failed with 1 conflict: conflict with \"m1\": .data.a");
    assert_eq!(conflict["details"]["causes"][0]["reason"], "FieldManagerConflict");
    let forced = api.patch(&format!("{m2}&force=true"), APPLY, &config("2")).await.ok();
    assert_eq!(forced["data"]["a"], "2");
    let mut without = config("2");
    without["data"] = json!({"b": "1"});
    let pruned = api.patch(&m2, APPLY, &without).await.ok();
    assert_eq!(pruned["data"], json!({"b": "1"}));
    api.patch(&one, APPLY, &without).await.fails(
        422,
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for \
         apply patch",
    );
    let mut unknown = without.clone();
    unknown["foo"] = json!(1);
    api.patch(&m2, APPLY, &unknown).await.fails(
        500,
        "failed to create typed patch object (default/a; /v1, Kind=ConfigMap): .foo: field not \
         declared in schema",
    );
    api.shutdown().await;
}

/// Events hang on a lease of the store; other objects do not.
#[tokio::test(flavor = "multi_thread")]
async fn events_expire() {
    let api = Api::start().await;
    let event = json!({
        "metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "R",
    });
    api.create("/api/v1/namespaces/default/events", &event).await.ok();
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let kv = api.server.core().storage.kv();
    let leases = kv.leases().await.unwrap();
    assert_eq!(leases.len(), 1);
    let lease = kv.lease_info(leases[0]).await.unwrap();
    let keys: Vec<_> = lease.keys.iter().map(|key| String::from_utf8_lossy(key)).collect();
    assert_eq!(keys, ["/registry/core/events/default/e"]);
    // Both groups show the same object.
    let other = api.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!(other["regarding"]["namespace"], "default");
    kv.lease_revoke(leases[0]).await.unwrap();
    assert_eq!(api.get("/api/v1/namespaces/default/events/e").await.code, 404);
    api.shutdown().await;
}

/// Who states the version or the uid of an object means one that was there before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_created_in_place_of_another() {
    let api = Api::start().await;
    let mut stated = config_map("a");
    stated["metadata"]["resourceVersion"] = json!("5");
    let words = "resourceVersion should not be set on objects to be created";
    api.create(CONFIG_MAPS, &stated).await.fails(500, words);
    let mut stated = config_map("a");
    stated["metadata"]["uid"] = json!("abc");
    let answer = api
        .patch(&format!("{CONFIG_MAPS}/a?fieldManager=me"), "application/apply-patch+yaml", &stated)
        .await;
    assert_eq!(answer.code, 409, "{}", answer.body);
    let said = answer.body["message"].as_str().unwrap();
    assert!(said.contains("Precondition failed: UID in precondition: abc"), "{said}");
    assert_eq!(api.get(&format!("{CONFIG_MAPS}/a")).await.code, 404);
    api.shutdown().await;
}

/// Patches state no version: each is applied to what the others have left, until it is stored.
#[tokio::test(flavor = "multi_thread")]
async fn patches_of_a_crowd_are_all_applied() {
    let api = Api::start().await;
    api.create(CONFIG_MAPS, &config_map("a")).await.ok();
    let one = &format!("{CONFIG_MAPS}/a");
    let writers = (0..16).map(|writer| {
        let api = &api;
        async move {
            for key in 0..8 {
                let data = json!({"data": {format!("k{writer}-{key}"): "1"}});
                api.merge(one, &data).await.ok();
            }
        }
    });
    futures::future::join_all(writers).await;
    assert_eq!(api.get(one).await.ok()["data"].as_object().unwrap().len(), 16 * 8 + 1);
    api.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_counts_once() {
    let api = Api::start().await;
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "Node", "name": "n", "uid": uid});
    let mut owned = config_map("a");
    owned["metadata"]["ownerReferences"] = json!([owner("1"), owner("2"), owner("1")]);
    let answer = api.create(CONFIG_MAPS, &owned).await;
    let warning = answer.warnings()[0].to_owned();
    assert!(warning.contains("duplicate UID(s) observed: 1"), "{warning}");
    assert_eq!(answer.ok()["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
    let again = json!({"metadata": {"ownerReferences": [owner("2"), owner("2")]}});
    let answer = api.merge(&format!("{CONFIG_MAPS}/a"), &again).await;
    assert!(answer.warnings()[0].contains("duplicate UID(s) observed: 2"));
    assert_eq!(answer.ok()["metadata"]["ownerReferences"], json!([owner("2")]));
    api.shutdown().await;
}

/// Upstream's types do not tell `false`, `0` and `""` from nothing where they have no pointer.
#[tokio::test(flavor = "multi_thread")]
async fn zero_values_are_as_good_as_none() {
    let api = Api::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let mut deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "labels": {}},
        "spec": {"replicas": 0, "paused": false, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "hostNetwork": false, "nodeName": "", "nodeSelector": {},
                "automountServiceAccountToken": false, "enableServiceLinks": false,
                "containers": [{"name": "c", "image": "i", "stdin": false, "tty": false,
                    "workingDir": "", "env": [{"name": "E", "value": ""}],
                    "ports": [{"containerPort": 1, "hostPort": 0}],
                    "securityContext": {"privileged": false, "runAsUser": 0}}]}}},
    });
    let made = api.create(deployments, &deployment).await.ok();
    assert!(made["spec"].get("paused").is_none() && made["metadata"].get("labels").is_none());
    let pod = &made["spec"]["template"]["spec"];
    for field in ["hostNetwork", "nodeName", "nodeSelector"] {
        assert!(pod.get(field).is_none(), "{field}: {pod}");
    }
    let container = &pod["containers"][0];
    assert!(container.get("stdin").is_none() && container.get("workingDir").is_none());
    assert_eq!(
        (&container["env"], container["ports"][0].get("hostPort")),
        (&json!([{"name": "E"}]), None)
    );
    // Pointers tell them apart.
    assert_eq!((&made["spec"]["replicas"], &pod["enableServiceLinks"]), (&json!(0), &json!(false)));
    assert_eq!(container["securityContext"], json!({"privileged": false, "runAsUser": 0}));
    // Whoever writes them again changes nothing, in whatever way.
    deployment["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"].clone();
    let one = format!("{deployments}/d");
    assert_eq!(api.put(&one, &deployment).await.ok()["metadata"]["generation"], 1);
    let zeros = json!({"spec": {"template": {"spec": {"hostNetwork": false}}}});
    assert_eq!(api.merge(&one, &zeros).await.ok()["metadata"]["generation"], 1);
    let mut applied = deployment.clone();
    applied["metadata"] = json!({"name": "d"});
    let pull = json!([{"name": ""}]);
    applied["spec"]["template"]["spec"]["imagePullSecrets"] = pull.clone();
    let mut first = None;
    for _ in 0..3 {
        let force = format!("{one}?fieldManager=me&force=true");
        let answer = api.patch(&force, APPLY, &applied).await.ok();
        assert!(answer["spec"]["template"]["spec"].get("hostNetwork").is_none());
        assert_eq!(answer["spec"]["template"]["spec"]["imagePullSecrets"], pull);
        // Not even the time of who applies changes.
        let version = answer["metadata"]["resourceVersion"].clone();
        assert_eq!(*first.get_or_insert(version.clone()), version);
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }
    api.shutdown().await;
}
