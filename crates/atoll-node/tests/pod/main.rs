//! A pod's life on a node whose runtime, network and API server are fakes: what is started,
//! what is told to the API, and in which order it ends. The image store is the real one.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests fail by panicking")]

mod fake;

use std::time::Duration;

use atoll_node::pod::identity::PodId;
use atoll_node::pod::task::{self, Desired, PodHandle, Start};
use fake::{Node, exit, needs_root, pod};
use serde_json::json;

fn start(node: &Node, pod: k8s_openapi::api::core::v1::Pod) -> PodHandle {
    let id = PodId::of(&pod).unwrap();
    let desired =
        Desired { pod: pod.into(), gone: false, halted: false, refused: None, pending: None };
    task::spawn(&node.cx, Start { desired, id, observed: Vec::new() })
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn phase(handle: &PodHandle) -> String {
    handle.shown.borrow().status.phase.clone().unwrap_or_default()
}

#[tokio::test]
async fn a_plain_pod_runs_and_says_so() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let handle = start(&node, pod(json!({"containers": [{"name": "c", "image": "test.local/x"}]})));
    eventually("running", || phase(&handle) == "Running").await;
    eventually("written to the API", || {
        node.api.last_status().is_some_and(|status| {
            status["phase"] == "Running"
                && status["podIP"] == "10.42.0.7"
                && status["containerStatuses"][0]["ready"] == true
        })
    })
    .await;
    let made = node.runtime.created("c");
    assert_eq!(made[0].process.args, ["/program"]);
    assert!(made[0].process.env.iter().any(|(name, value)| name == "HOSTNAME" && value == "p"));
}

#[tokio::test]
async fn a_job_ends_with_its_exit_code_and_leaves_nothing() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let spec = json!({"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "test.local/x"}]});
    let handle = start(&node, pod(spec));
    eventually("running", || phase(&handle) == "Running").await;
    node.runtime.end("c", exit(3));
    handle.notify.notify_one();
    eventually("failed", || phase(&handle) == "Failed").await;
    eventually("cleared", || node.runtime.sandboxes_removed() == 1).await;
    let status = node.api.last_status().unwrap();
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    assert!(!node.api.was_deleted(), "a finished pod's object stays");
    eventually("no folder", || !node.cx.config.pod_dir("u").exists()).await;
}

/// The pods' handles may be dropped before their tasks hear that the agent ends.
#[tokio::test]
async fn a_pod_whose_handle_is_dropped_runs_on() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "test.local/x"}]});
    let handle = start(&node, pod(spec));
    eventually("running", || phase(&handle) == "Running").await;
    drop(handle);
    // Endpoints would have half a second to leave before a signal.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(node.runtime.signals().is_empty(), "{:?}", node.runtime.signals());
    assert!(node.runtime.is_running("c"));
}

/// A controller of nodes, or of an operator, may give up a pod: it ends, and what was said stays.
#[tokio::test]
async fn a_pod_that_others_call_failed_ends() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let running = pod(json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": "test.local/x"}]}));
    let handle = start(&node, running.clone());
    eventually("running", || phase(&handle) == "Running").await;
    eventually("written", || node.api.last_status().is_some()).await;
    let before = node.api.last_status();
    let mut failed = running;
    failed.status =
        serde_json::from_value(json!({"phase": "Failed", "reason": "GivenUp"})).unwrap();
    handle.desired.send_modify(|desired| desired.pod = failed.into());
    eventually("told to end", || node.runtime.signalled() == ["c"]).await;
    node.runtime.end("c", exit(0));
    handle.notify.notify_one();
    eventually("cleared", || node.runtime.sandboxes_removed() == 1).await;
    assert_eq!(node.api.last_status(), before, "nothing is said against it");
    assert!(!node.api.was_deleted());
}

/// The agent takes the pod along, and the next one goes on with what is on disk: how `ended`
/// ended is known, how `cut` would have nobody knows.
#[tokio::test]
async fn a_pod_that_is_halted_keeps_what_it_has_on_disk() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [
        {"name": "ended", "image": "test.local/x"}, {"name": "cut", "image": "test.local/x"}]});
    let handle = start(&node, pod(spec));
    eventually("both run", || ["ended", "cut"].iter().all(|name| node.runtime.is_running(name)))
        .await;
    node.runtime.end("ended", exit(0));
    handle.notify.notify_one();
    eventually("one has ended", || {
        let status = node.api.last_status().unwrap_or_default();
        status.to_string().contains("terminated")
    })
    .await;
    handle.desired.send_modify(|desired| (desired.gone, desired.halted) = (true, true));
    eventually("told to end", || node.runtime.signalled() == ["cut"]).await;
    node.runtime.end("cut", exit(0));
    handle.notify.notify_one();
    eventually("over", || handle.desired.is_closed()).await;
    assert_eq!(node.runtime.cut_off(), ["cut"]);
    assert_eq!((node.runtime.sandboxes_halted(), node.runtime.sandboxes_removed()), (1, 0));
    assert!(node.cx.config.pod_dir("u").exists());
    assert_eq!(node.api.last_status().unwrap()["phase"], "Running", "the API hears nothing of it");
    assert!(!node.api.was_deleted());
}

#[tokio::test]
async fn a_crash_restarts_at_once_and_then_waits() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let handle = start(&node, pod(json!({"containers": [{"name": "c", "image": "test.local/x"}]})));
    for attempt in 0..2 {
        eventually("an attempt", || node.runtime.created("c").len() == attempt + 1).await;
        eventually("running", || node.runtime.is_running("c")).await;
        node.runtime.end("c", exit(1));
        handle.notify.notify_one();
    }
    eventually("held back", || {
        node.api.last_status().is_some_and(|status| {
            let container = &status["containerStatuses"][0];
            container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                && container["restartCount"] == 1
        })
    })
    .await;
    assert_eq!(node.runtime.created("c").len(), 2);
    let status = node.api.last_status().unwrap();
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "back-off 10s restarting failed container=c pod=p_ns(u)"
    );
}

#[tokio::test]
async fn a_deleted_pod_goes_only_when_its_containers_are_gone() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let running = pod(json!({"containers": [{"name": "c", "image": "test.local/x"}]}));
    let handle = start(&node, running.clone());
    eventually("running", || phase(&handle) == "Running").await;
    let mut deleted = running;
    deleted.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(node.cx.now()));
    deleted.metadata.deletion_grace_period_seconds = Some(30);
    let seen = tokio::time::Instant::now();
    handle.desired.send_modify(|desired| desired.pod = deleted.into());
    eventually("told to stop", || !node.runtime.signals().is_empty()).await;
    assert!(seen.elapsed() >= Duration::from_millis(500), "endpoints leave first");
    assert!(!node.api.was_deleted(), "its container still runs");
    node.runtime.end("c", exit(0));
    eventually("deleted", || node.api.was_deleted()).await;
    assert_eq!(node.runtime.sandboxes_removed(), 1);
    assert_eq!(node.network.detached(), ["u"]);
    assert_eq!(node.api.last_status().unwrap()["phase"], "Succeeded");
}

#[tokio::test]
async fn a_missing_configmap_is_waited_for() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let spec = json!({"containers": [{"name": "c", "image": "test.local/x",
        "envFrom": [{"configMapRef": {"name": "gone"}}]}]});
    let _handle = start(&node, pod(spec));
    eventually("waiting", || {
        node.api.last_status().is_some_and(|status| {
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CreateContainerConfigError"
                && waiting["message"] == "configmap \"gone\" not found"
        })
    })
    .await;
}

#[tokio::test]
async fn a_resize_widens_the_pod_then_its_containers_then_narrows_the_pod() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let spec = |cpu: &str, memory: &str| {
        json!({"containers": [{"name": "c", "image": "test.local/x",
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": "NotRequired"}],
            "resources": {"limits": {"cpu": cpu, "memory": memory}}}]})
    };
    let handle = start(&node, pod(spec("1", "64Mi")));
    eventually("running", || phase(&handle) == "Running").await;
    node.runtime.take_updates();
    let resize = |cpu: &str, memory: &str| {
        handle.desired.send_modify(|desired| desired.pod = pod(spec(cpu, memory)).into());
    };
    let shows = |memory: &str| {
        let status = serde_json::to_value(&*handle.shown.borrow().status).unwrap();
        let has = &status["containerStatuses"][0]["resources"]["limits"]["memory"];
        let quiet = !status["conditions"].to_string().contains("PodResize");
        *has == memory && quiet
    };
    resize("500m", "128Mi");
    eventually("resized", || shows("128Mi")).await;
    let of = |(whose, limits): &(String, atoll_container::Resources)| {
        (whose.clone(), limits.cpu_quota_us.unwrap(), limits.memory_limit_bytes.unwrap() >> 20)
    };
    let steps: Vec<_> = node.runtime.take_updates().iter().map(of).collect();
    assert_eq!(
        steps,
        [("pod".into(), 100_000, 128), ("c".into(), 50_000, 128), ("pod".into(), 50_000, 128),]
    );
    resize("500m", "4Mi");
    eventually("refused", || {
        let status = serde_json::to_value(&*handle.shown.borrow().status).unwrap();
        status["conditions"].to_string().contains("below current usage (8388608)")
    })
    .await;
    assert!(node.runtime.take_updates().is_empty(), "nothing was changed");
    resize("500m", "128Mi");
    eventually("as it was", || shows("128Mi")).await;
}

/// What clients of upstream's see of a changed image is one container running, then the next.
#[tokio::test]
async fn a_changed_image_is_started_anew_without_a_word_of_an_end() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let of = |image: &str| {
        pod(json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": image}]}))
    };
    let handle = start(&node, of("test.local/x"));
    let ready = |status: &serde_json::Value| status["containerStatuses"][0]["ready"] == true;
    eventually("ready", || node.api.last_status().as_ref().is_some_and(ready)).await;
    let before = node.api.statuses().len();
    handle.desired.send_modify(|desired| desired.pod = of("test.local/x:latest").into());
    eventually("told to stop", || !node.runtime.signals().is_empty()).await;
    node.runtime.end("c", exit(0));
    handle.notify.notify_one();
    eventually("started anew", || {
        node.api.last_status().is_some_and(|status| {
            let container = &status["containerStatuses"][0];
            container["restartCount"] == 1 && container["lastState"]["terminated"]["exitCode"] == 0
        })
    })
    .await;
    for status in &node.api.statuses()[before..] {
        assert!(ready(status), "{status}");
        assert_eq!(status["phase"], "Running", "{status}");
    }
}

#[tokio::test]
async fn a_changed_image_is_not_held_back_for_the_crashes_of_the_last() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let of = |image: &str| pod(json!({"containers": [{"name": "c", "image": image}]}));
    let handle = start(&node, of("test.local/x"));
    for attempt in 0..2 {
        eventually("an attempt", || node.runtime.created("c").len() == attempt + 1).await;
        eventually("running", || node.runtime.is_running("c")).await;
        node.runtime.end("c", exit(1));
        handle.notify.notify_one();
    }
    eventually("held back", || {
        node.api.last_status().is_some_and(|status| {
            let waiting = &status["containerStatuses"][0]["state"]["waiting"];
            waiting["reason"] == "CrashLoopBackOff"
        })
    })
    .await;
    let changed = tokio::time::Instant::now();
    handle.desired.send_modify(|desired| desired.pod = of("test.local/x:latest").into());
    eventually("started at once", || node.runtime.is_running("c")).await;
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
}

#[tokio::test]
async fn sidecars_of_finished_work_end_one_after_the_other_the_last_one_first() {
    if needs_root() {
        return;
    }
    let node = Node::new().await;
    let side = |name: &str| {
        json!({"name": name, "image": "test.local/x",
            "restartPolicy": "Always"})
    };
    let spec = json!({"restartPolicy": "Never", "initContainers": [side("one"), side("two")],
        "containers": [{"name": "c", "image": "test.local/x"}]});
    let handle = start(&node, pod(spec));
    eventually("running", || node.runtime.is_running("c")).await;
    for (name, expected) in [("c", &["two"][..]), ("two", &["two", "one"])] {
        node.runtime.end(name, exit(0));
        handle.notify.notify_one();
        eventually("the next is told to end", || node.runtime.signalled() == expected).await;
    }
    node.runtime.end("one", exit(0));
    handle.notify.notify_one();
    eventually("succeeded", || phase(&handle) == "Succeeded").await;
}
