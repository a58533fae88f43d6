//! What happens to dependents when their owners go.

use atoll_e2e::eventually;
use serde_json::{Value, json};

use super::{Alone, SOON, controller, template};

const HOLD: &str = "test.local/hold";

fn reference(owner: &Value) -> Value {
    json!({"apiVersion": owner["apiVersion"], "kind": owner["kind"], "controller": false,
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": true})
}

/// Three pods, each of which owns the next; one is deleted and all go.
pub(crate) fn a_circle_holds_nothing(alone: &Alone) {
    let names = ["circle-0", "circle-1", "circle-2"];
    let pod = |name: &&str| {
        let mut pod = template("circle", &[]);
        pod["metadata"]["name"] = json!(name);
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod
    };
    alone.create(&names.iter().map(pod).collect::<Vec<_>>());
    let made: Vec<Value> = names.iter().map(|name| alone.get(&["pod", name])).collect();
    for (index, name) in names.iter().enumerate() {
        let owner = reference(&made[(index + 2) % 3]);
        alone.patch(&["pod", name], &json!({"metadata": {"ownerReferences": [owner]}}));
    }
    alone.delete(&["pod", "circle-0"], "foreground");
    alone.count(&["pods", "-l", "app=circle"], 0);
}

pub(crate) fn a_deployment_goes_with_all_of_its_own(alone: &Alone) {
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "whole"}, "spec": {"replicas": 2,
            "selector": {"matchLabels": {"app": "whole"}}, "template": template("whole", &[])}});
    alone.create(&[deployment]);
    alone.count(&["pods", "-l", "app=whole"], 2);
    alone.count(&["replicasets", "-l", "app=whole"], 1);
    alone.delete(&["deployment", "whole"], "background");
    alone.count(&["replicasets", "-l", "app=whole"], 0);
    alone.count(&["pods", "-l", "app=whole"], 0);
    assert_eq!(alone.get(&["deployment", "whole"]), Value::Null);
}

/// In the foreground the owner is the last to go.
pub(crate) fn a_controller_waits_for_its_pods(alone: &Alone) {
    alone.create(&[controller("last", 2, &[HOLD])]);
    let pods = alone.count(&["pods", "-l", "app=last"], 2);
    alone.delete(&["rc", "last"], "foreground");
    eventually(SOON, "the pods are told to go", || {
        let pods = alone.items(&["pods", "-l", "app=last"]);
        let told = |pod: &Value| pod["metadata"]["deletionTimestamp"].is_string();
        if pods.iter().all(told) { Ok(()) } else { Err(format!("{pods:?}")) }
    });
    let waiting = alone.get(&["rc", "last"]);
    assert!(waiting["metadata"]["deletionTimestamp"].is_string(), "{waiting}");
    assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    release(alone, &pods[..1]);
    alone.count(&["pods", "-l", "app=last"], 1);
    assert!(alone.get(&["rc", "last"]).is_object(), "one of its pods is still there");
    release(alone, &pods[1..]);
    alone.gone(&["rc", "last"]);
    alone.count(&["pods", "-l", "app=last"], 0);
}

fn release(alone: &Alone, pods: &[Value]) {
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        alone.patch(&["pod", name], &json!({"metadata": {"finalizers": null}}));
    }
}

/// Of four pods two have a second owner, which stays when the first one waits for its pods.
pub(crate) fn an_owner_that_stays_keeps_what_two_have(alone: &Alone) {
    alone.create(&[controller("goes", 4, &[]), controller("stays", 0, &[])]);
    let pods = alone.count(&["pods", "-l", "app=goes"], 4);
    let second = reference(&alone.get(&["rc", "stays"]));
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
    for pod in &pods[..2] {
        let mut owners = pod["metadata"]["ownerReferences"].as_array().unwrap().clone();
        owners.push(second.clone());
        let patch = json!({"metadata": {"ownerReferences": owners}});
        alone.patch(&["pod", &name(pod)], &patch);
    }
    alone.delete(&["rc", "goes"], "foreground");
    alone.gone(&["rc", "goes"]);
    let left = alone.count(&["pods", "-l", "app=goes"], 2);
    for pod in &left {
        assert!(pods[..2].iter().any(|kept| name(kept) == name(pod)), "{pod}");
        assert_eq!(pod["metadata"]["ownerReferences"], json!([second]));
    }
    alone.delete(&["rc", "stays"], "background");
    alone.count(&["pods", "-l", "app=goes"], 0);
}

pub(crate) fn orphans_stay(alone: &Alone) {
    alone.create(&[controller("parent", 2, &[])]);
    alone.count(&["pods", "-l", "app=parent"], 2);
    alone.delete(&["rc", "parent"], "orphan");
    alone.gone(&["rc", "parent"]);
    let orphans = alone.count(&["pods", "-l", "app=parent"], 2);
    for orphan in &orphans {
        assert!(orphan["metadata"].get("ownerReferences").is_none(), "{orphan}");
        assert!(orphan["metadata"].get("deletionTimestamp").is_none(), "{orphan}");
    }
    alone.delete(&["pods", "-l", "app=parent"], "background");
}

/// An owner in another namespace is none; the event is the only hint why the object went.
pub(crate) fn who_owns_across_namespaces_is_told(alone: &Alone) {
    let map = |name: &str, namespace: &str, owners: &[Value]| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
            {"name": name, "namespace": namespace, "ownerReferences": owners}})
    };
    alone.create(&[map("owner", "kube-public", &[])]);
    let owner = alone.get(&["configmap", "owner", "-n", "kube-public"]);
    alone.create(&[map("owned", "default", &[reference(&owner)])]);
    alone.gone(&["configmap", "owned"]);
    let told = eventually(SOON, "an event says why", || {
        let events = alone.items(&["events", "--field-selector=reason=OwnerRefInvalidNamespace"]);
        events.first().cloned().ok_or_else(|| "no event".to_owned())
    });
    let uid = owner["metadata"]["uid"].as_str().unwrap();
    let text = format!(
        "ownerRef [v1/ConfigMap, namespace: default, name: owner, uid: {uid}] does not exist in \
         namespace \"default\""
    );
    assert_eq!(told["message"], text);
    assert_eq!(told["involvedObject"]["name"], "owned");
    alone.delete(&["configmap", "owner", "-n", "kube-public"], "background");
}
