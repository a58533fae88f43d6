//! postStart and preStop hooks.

use std::time::Duration;

use atoll_container::ContainerRef;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::Context;
use crate::pod::env::go_quote;
use crate::pod::identity::PodId;
use crate::probe::{exec, http};

/// An HTTP hook that takes longer than this has failed.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one hook to its end. The error is what the container waits for; no event tells
/// it, since a hook's output may hold what only the pod's owner may see.
pub async fn run_hook(
    cx: &Context,
    handler: &LifecycleHandler,
    container: &Container,
    reference: &ContainerRef,
    (pod, ip): (&PodId, &str),
) -> Result<(), String> {
    let whose = format!("for Container \"{}\" in Pod \"{pod}\" failed - error", container.name);
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let hook = format!("Exec lifecycle hook ([{shown}]) {whose}");
        let ran = exec::run(cx.runtime.as_ref(), reference, command).await;
        let ran = ran.map_err(|error| format!("{hook}: {error}, message: \"\""))?;
        return match ran.code {
            0 => Ok(()),
            code => Err(format!(
                "{hook}: command '{shown}' exited with {code}: {}, message: {}",
                ran.stderr(),
                go_quote(&ran.output)
            )),
        };
    }
    if let Some(action) = &handler.http_get {
        let ports = container.ports.clone().unwrap_or_default();
        let path = action.path.as_deref().unwrap_or_default();
        let failed = |error| format!("HTTP lifecycle hook ({path}) {whose}: {error}");
        let target = http::Target::of(action, &ports, ip, "kube-lifecycle/1.36");
        let target = target.map_err(failed)?;
        // Any answer will do, as upstream has it.
        return target.get(HTTP_TIMEOUT).await.map(|_| ()).map_err(failed);
    }
    if let Some(action) = &handler.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("invalid handler: exec, httpGet or sleep is needed".to_owned())
}
