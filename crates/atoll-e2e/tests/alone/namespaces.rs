//! The end of a namespace: what is in it, and in which order it goes.

use atoll_e2e::eventually;
use serde_json::{Value, json};

use super::{Alone, SOON, template};

/// While a pod is there nothing else of its namespace goes.
pub(crate) fn pods_go_first(alone: &Alone) {
    let named = |kind: &str, name: &str, mut object: Value| {
        object["apiVersion"] = json!("v1");
        object["kind"] = json!(kind);
        object["metadata"]["name"] = json!(name);
        object["metadata"]["namespace"] = json!("ends");
        object
    };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ends"}});
    alone.create(std::slice::from_ref(&namespace));
    eventually(SOON, "the account of the namespace", || {
        let account = alone.get(&["serviceaccount", "default", "-n", "ends"]);
        if account.is_object() { Ok(()) } else { Err("not yet".to_owned()) }
    });
    alone.create(&[
        named("Pod", "held", template("held", &["test.local/hold"])),
        named("Pod", "free", template("free", &[])),
        named("ConfigMap", "used", json!({"data": {"a": "1"}})),
        named("Service", "s", json!({"spec": {"ports": [{"port": 80}]}})),
    ]);
    alone.delete(&["namespace", "ends"], "background");
    eventually(SOON, "only the pod that is held is left", || {
        let pods = alone.items(&["pods", "-n", "ends"]);
        let held = pods.len() == 1 && pods[0]["metadata"]["deletionTimestamp"].is_string();
        if held { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    let said = eventually(SOON, "the namespace says what it waits for", || {
        let namespace = alone.get(&["namespace", "ends"]);
        let conditions = namespace["status"]["conditions"].to_string();
        let waits = conditions.contains("test.local/hold in 1 resource instances");
        if waits { Ok(conditions) } else { Err(conditions) }
    });
    assert!(said.contains("pods. has 1 resource instances"), "{said}");
    assert!(alone.get(&["configmap", "used", "-n", "ends"]).is_object());
    assert!(alone.get(&["service", "s", "-n", "ends"]).is_object());
    alone.patch(&["pod", "held", "-n", "ends"], &json!({"metadata": {"finalizers": null}}));
    alone.gone(&["namespace", "ends"]);
    // A namespace by the same name begins with nothing of it.
    alone.create(&[namespace]);
    for what in ["services", "pods"] {
        assert_eq!(alone.items(&[what, "-n", "ends"]), [Value::Null; 0], "{what}");
    }
    assert_eq!(alone.get(&["configmap", "used", "-n", "ends"]), Value::Null);
    alone.delete(&["namespace", "ends"], "background");
}

/// The authority of the API stands in every namespace, whatever happens to it there.
pub(crate) fn the_authority_is_kept(alone: &Alone) {
    let map = ["configmap", "kube-root-ca.crt"];
    let known = eventually(SOON, "the authority", || {
        let found = alone.get(&map)["data"]["ca.crt"].clone();
        if found.is_string() { Ok(found) } else { Err(found.to_string()) }
    });
    let back = |what: &str| {
        eventually(SOON, what, || {
            let found = alone.get(&map)["data"].clone();
            if found == json!({"ca.crt": known}) { Ok(()) } else { Err(found.to_string()) }
        });
    };
    alone.patch(&map, &json!({"data": {"ca.crt": "", "more": "x"}}));
    back("the authority after a change");
    alone.delete(&map, "background");
    back("the authority after its end");
}

/// A group whose server is away may have objects in a namespace that ends.
pub(crate) fn whoever_is_away_is_waited_for(alone: &Alone) {
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.far.example.com"}, "spec": {"group": "far.example.com",
            "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"name": "none", "namespace": "default"}}});
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "waits"}});
    alone.create(&[service, namespace]);
    eventually(SOON, "the group is known to be away", || {
        let service = alone.get(&["apiservice", "v1.far.example.com"]);
        let said = service["status"]["conditions"].to_string();
        if said.contains("ServiceNotFound") { Ok(()) } else { Err(said) }
    });
    alone.delete(&["namespace", "waits"], "background");
    eventually(SOON, "the namespace says whom it waits for", || {
        let conditions = alone.get(&["namespace", "waits"])["status"]["conditions"].to_string();
        let said = conditions.contains("stale GroupVersion discovery: far.example.com/v1");
        if said { Ok(()) } else { Err(conditions) }
    });
    alone.delete(&["apiservice", "v1.far.example.com"], "background");
    alone.gone(&["namespace", "waits"]);
}
