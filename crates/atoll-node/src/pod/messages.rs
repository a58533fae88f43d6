//! Reasons and messages that users, scripts and alerts read: the kubelet's own words.

use jiff::SignedDuration;

use crate::pod::backoff::go_duration;
use crate::pod::identity::PodId;

pub const CONTAINER_CREATING: &str = "ContainerCreating";
pub const POD_INITIALIZING: &str = "PodInitializing";
pub const ERR_IMAGE_PULL: &str = "ErrImagePull";
pub const IMAGE_PULL_BACK_OFF: &str = "ImagePullBackOff";
pub const ERR_IMAGE_NEVER_PULL: &str = "ErrImageNeverPull";
pub const INVALID_IMAGE_NAME: &str = "InvalidImageName";
pub const CREATE_CONTAINER_CONFIG_ERROR: &str = "CreateContainerConfigError";
pub const CREATE_CONTAINER_ERROR: &str = "CreateContainerError";
pub const RUN_CONTAINER_ERROR: &str = "RunContainerError";
pub const POST_START_HOOK_ERROR: &str = "PostStartHookError";
pub const CRASH_LOOP_BACK_OFF: &str = "CrashLoopBackOff";

pub const COMPLETED: &str = "Completed";
pub const ERROR: &str = "Error";
pub const OOM_KILLED: &str = "OOMKilled";
pub const START_ERROR: &str = "StartError";
pub const CONTAINER_STATUS_UNKNOWN: &str = "ContainerStatusUnknown";

pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
pub const DEADLINE_MESSAGE: &str = "Pod was active on the node longer than the specified deadline";
pub const UNSUPPORTED_POD_SPEC: &str = "UnsupportedPodSpec";

pub const STATUS_UNKNOWN_MESSAGE: &str =
    "The container could not be located when the pod was terminated";

#[must_use]
pub fn crash_loop(delay: SignedDuration, container: &str, pod: &PodId) -> String {
    format!("back-off {} restarting failed container={container} pod={pod}", go_duration(delay))
}

#[must_use]
pub fn crash_loop_event(container: &str, pod: &PodId) -> String {
    format!("Back-off restarting failed container {container} in pod {pod}")
}

#[must_use]
pub fn pulling(image: &str) -> String {
    format!("Pulling image \"{image}\"")
}

#[must_use]
pub fn present(image: &str) -> String {
    format!("Container image \"{image}\" already present on machine and can be accessed by the pod")
}

#[must_use]
pub fn pulled(image: &str, elapsed_ms: u128, size_bytes: u64) -> String {
    let seconds = go_millis(elapsed_ms);
    format!(
        "Successfully pulled image \"{image}\" in {seconds} ({seconds} including waiting). Image \
         size: {size_bytes} bytes."
    )
}

#[must_use]
pub fn pull_failed(image: &str, error: &str) -> String {
    format!("Failed to pull image \"{image}\": {error}")
}

#[must_use]
pub fn pull_back_off(image: &str) -> String {
    format!("Back-off pulling image \"{image}\"")
}

#[must_use]
pub fn pull_secrets_missing(names: &[String]) -> String {
    let names = names.join(", ");
    format!(
        "Unable to retrieve some image pull secrets ({names}); attempting to pull the image may \
         not succeed."
    )
}

#[must_use]
pub fn invalid_image_name(image: &str, error: &str) -> String {
    format!("Failed to apply default image tag \"{image}\": {error}")
}

#[must_use]
pub fn unhealthy(kind: &str, output: &str) -> String {
    format!("{kind} probe failed: {output}")
}

/// Of ours: upstream's runtimes report such a container as ended.
#[must_use]
pub fn unreachable(container: &str) -> String {
    format!("Container {container} cannot be reached any more: its shim is gone")
}

#[must_use]
pub fn failed_liveness(container: &str) -> String {
    format!("Container {container} failed liveness probe, will be restarted")
}

#[must_use]
pub fn failed_startup(container: &str) -> String {
    format!("Container {container} failed startup probe, will be restarted")
}

#[must_use]
pub fn definition_changed(container: &str) -> String {
    format!("Container {container} definition changed, will be restarted")
}

#[must_use]
pub fn resize_restart(container: &str) -> String {
    format!("Container {container} resize requires restart")
}

#[must_use]
pub fn stopping(container: &str) -> String {
    format!("Stopping container {container}")
}

/// As Go prints a duration of whole milliseconds: `12ms`, `1.204s`, `1m2.5s`.
fn go_millis(millis: u128) -> String {
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1000, rest % 1000);
    while seconds.ends_with('0') {
        seconds.pop();
    }
    let seconds = seconds.trim_end_matches('.');
    if minutes > 0 { format!("{minutes}m{seconds}s") } else { format!("{seconds}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_times_read_as_upstreams() {
        assert_eq!(go_millis(12), "12ms");
        assert_eq!(go_millis(1204), "1.204s");
        assert_eq!(go_millis(62_500), "1m2.5s");
        assert_eq!(go_millis(2000), "2s");
    }

    #[test]
    fn crash_loop_names_container_and_pod() {
        let id = PodId { namespace: "ns".into(), name: "p".into(), uid: "u".into() };
        assert_eq!(
            crash_loop(SignedDuration::from_secs(10), "c", &id),
            "back-off 10s restarting failed container=c pod=p_ns(u)"
        );
    }
}
