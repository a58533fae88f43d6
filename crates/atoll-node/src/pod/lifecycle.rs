//! postStart and preStop hooks.

use std::time::Duration;

use atoll_container::ContainerRef;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::context::Context;
use crate::probe::{exec, http};

/// An HTTP hook that takes longer than this has failed.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs one hook to its end. The error is what the event tells.
pub async fn run_hook(
    cx: &Context,
    handler: &LifecycleHandler,
    container: &Container,
    reference: &ContainerRef,
    ip: &str,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        let ran = exec::run(cx.runtime.as_ref(), reference, command).await?;
        return match ran.code {
            0 => Ok(()),
            code => Err(format!("command '{shown}' exited with {code}: {}", ran.output.trim_end())),
        };
    }
    if let Some(action) = &handler.http_get {
        let ports = container.ports.clone().unwrap_or_default();
        let target = http::Target::of(action, &ports, ip, "kube-lifecycle/1.36")?;
        // Any answer will do, as upstream has it.
        return target.get(HTTP_TIMEOUT).await.map(|_| ());
    }
    if let Some(action) = &handler.sleep {
        let seconds = u64::try_from(action.seconds).unwrap_or(0);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        return Ok(());
    }
    Err("invalid handler: exec, httpGet or sleep is needed".to_owned())
}
