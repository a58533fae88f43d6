//! `/runningpods/`: what runs here, whatever the API says; `/run/`: one command in a container.

use http::StatusCode;
use serde_json::{Value, json};

use crate::kubelet::routes::{Place, Query, Routes};
use crate::kubelet::{Answer, json as answer_json, text};
use crate::pod::task::PodHandle;
use crate::pod::track::Run;
use crate::probe::exec;

/// Output of a command that is kept, as of container runtimes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

pub(crate) fn pods(routes: &Routes) -> Answer {
    let items: Vec<Value> = routes.pods.all().values().filter_map(pod).collect();
    answer_json(&json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
}

/// Its containers that run; none without any.
fn pod(handle: &PodHandle) -> Option<Value> {
    let shown = handle.shown.borrow().clone();
    let running = |run: &&Run| run.is_running();
    let containers: Vec<Value> = shown
        .containers
        .iter()
        .filter_map(|(name, container)| Some((name, container.current.as_ref().filter(running)?)))
        .map(|(name, run)| json!({ "name": name, "image": run.image, "resources": {} }))
        .collect();
    let id = &handle.id;
    (!containers.is_empty()).then(|| {
        json!({
            "metadata": { "name": id.name, "namespace": id.namespace, "uid": id.uid,
                "creationTimestamp": null },
            "spec": { "containers": containers },
            "status": {},
        })
    })
}

/// The command's words are parted by spaces.
pub(crate) async fn run(routes: &Routes, place: Place, query: &Query) -> Answer {
    let known = place.shown.containers.get(&place.container);
    let running = known.and_then(|shown| shown.current.as_ref()).filter(|run| run.is_running());
    let Some(run) = running else {
        let reason = format!("container not found (\"{}\")", place.container);
        return text(StatusCode::NOT_FOUND, reason);
    };
    let line = query.get("cmd").unwrap_or_default();
    let command: Vec<String> = line.split(' ').map(str::to_owned).collect();
    let runtime = routes.cx.runtime.as_ref();
    match exec::run_capped(runtime, &run.reference, command, OUTPUT_BYTES_MAX).await {
        Ok(ran) if ran.code == 0 => text(StatusCode::OK, ran.output),
        Ok(ran) => {
            let reason = format!("command '{line}' exited with {}: {}", ran.code, ran.stderr());
            text(StatusCode::INTERNAL_SERVER_ERROR, reason)
        }
        Err(reason) => text(StatusCode::INTERNAL_SERVER_ERROR, reason),
    }
}
