//! Why a container has no image, or its image not the program that it is to run.

use super::{
    Cause,
    pod::{container_path, spec_of},
};
use atoll_image::Reference;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};

/// What precedes the runtime's own words.
const RUNTIME: &str = "OCI runtime create failed: unable to start container process: ";

/// For a container that waits with one of the reasons that are about images.
pub fn cause(
    pod: &Pod,
    status: &ContainerStatus,
    reason: &str,
    message: &str,
    events: &[Event],
) -> Cause {
    let wanted = Wanted::of(pod, status, message);
    let Wanted { image, whose, policy, .. } = &wanted;
    match reason {
        "InvalidImageName" => {
            let what = image.parse::<Reference>().err().map_or(message, |error| error.reason);
            let sentence = format!("{image:?} is no image for {whose}: {what}.");
            Cause::new(reason, sentence).remedy(format!(
                "Correct {}; an image is called node:22 or registry.example/team/app:1.",
                wanted.field
            ))
        }
        "ErrImageNeverPull" => {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let sentence = format!(
                "image {image} of {whose} is not on {}, and {policy} Never forbids to pull it.",
                node.unwrap_or("the node")
            );
            let place = wanted.field.rsplit_once('.').map_or("", |(place, _)| place);
            Cause::new(reason, sentence).remedy(format!(
                "Bring it with `atoll image import FILE`, which takes what `docker save {image}` writes; or set {policy}: IfNotPresent in {place}."
            ))
        }
        _ => not_pulled(&status.name, &wanted, reason, message, events),
    }
}

/// The image that is not there: the container's own, or that of a volume which it mounts.
struct Wanted {
    image: String,
    whose: String,
    /// Which of the container's images it is.
    which: String,
    /// Where the manifest names it.
    field: String,
    policy: &'static str,
}

impl Wanted {
    fn of(pod: &Pod, status: &ContainerStatus, message: &str) -> Wanted {
        let name = &status.name;
        let image = image_of(pod, status);
        let place = container_path(pod, name);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).enumerate();
        let mut named = volumes.filter_map(|(index, volume)| {
            let reference = volume.image.as_ref()?.reference.clone()?;
            let is_it = message.contains(&reference) && !message.contains(&image);
            is_it.then(|| (index, volume.name.clone(), reference))
        });
        match named.next() {
            Some((index, volume, image)) => {
                let spec = place.rsplit_once('.').map_or("spec", |(spec, _)| spec);
                Wanted {
                    image,
                    whose: format!("volume {volume} of container {name}"),
                    which: format!("the image of its volume {volume}"),
                    field: format!("{spec}.volumes[{index}].image.reference"),
                    policy: "pullPolicy",
                }
            }
            None => Wanted {
                image,
                whose: format!("container {name}"),
                which: "its image".to_owned(),
                field: format!("{place}.image"),
                policy: "imagePullPolicy",
            },
        }
    }
}

fn not_pulled(name: &str, wanted: &Wanted, reason: &str, message: &str, events: &[Event]) -> Cause {
    let image = &wanted.image;
    let failed = format!("Failed to pull image \"{image}\": ");
    // While backing off the status may repeat only that; the event has the cause.
    let told =
        || events.iter().rev().find_map(|event| event.message.as_deref()?.strip_prefix(&failed));
    let backing_off = format!("Back-off pulling image \"{image}\"");
    let text = match message.strip_prefix(&backing_off) {
        Some("") => told().unwrap_or(message),
        Some(rest) => rest.trim_start_matches(": ").trim_start_matches("ErrImagePull: "),
        None => message,
    };
    let (what, remedy) = text.rsplit_once("; ").unwrap_or((text, "check the name"));
    let mut sentence = format!("container {name} waits for {}: {what}.", wanted.which);
    let secret = events
        .iter()
        .rev()
        .find(|event| event.reason.as_deref() == Some("FailedToRetrieveImagePullSecret"));
    if let Some(message) = secret.and_then(|event| event.message.as_deref()) {
        let message = message.split(';').next().unwrap_or(message);
        sentence.push_str(&format!(" {message}."));
    }
    let mut remedy = format!("{}.", capital(remedy));
    if remedy.contains("atoll image import") {
        remedy.push_str(&format!(" It takes what `docker save {image}` writes."));
    }
    Cause::new(reason, sentence).remedy(remedy)
}

/// For a container whose command cannot be run.
pub fn cannot_run(pod: &Pod, status: &ContainerStatus, state: &str, message: &str) -> Cause {
    let name = &status.name;
    let image = image_of(pod, status);
    let place = container_path(pod, name);
    let said = message.strip_prefix(RUNTIME).unwrap_or(message);
    let given =
        spec_of(pod, name).is_some_and(|spec| spec.command.is_some() || spec.args.is_some());
    let program = said.split('"').nth(1).unwrap_or_default();
    let from = if given { "the manifest" } else { "the image" };
    let what = if said.contains("executable file not found in $PATH") {
        format!("{from} says to run {program:?}, which is nowhere in the $PATH of image {image}")
    } else if said.contains("no such file or directory") {
        format!("{from} says to run {program:?}, which image {image} does not have")
    } else if said.contains("permission denied") {
        format!("{from} says to run {program:?}, which is not executable in image {image}")
    } else if said.contains("is a directory") {
        format!("{from} says to run {program:?}, which is a directory in image {image}")
    } else {
        return Cause::new(state, format!("container {name} cannot run: {said}."));
    };
    let sentence = format!("container {name} cannot run: {what} ({said}).");
    let remedy = if given {
        format!("Correct command and args of {place}, or use an image that has the program.")
    } else {
        format!("Give {place} a command that the image has, or build the image again.")
    };
    Cause::new(state, sentence).remedy(remedy)
}

fn image_of(pod: &Pod, status: &ContainerStatus) -> String {
    let written = spec_of(pod, &status.name).and_then(|spec| spec.image.clone());
    written.unwrap_or_else(|| status.image.clone())
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::super::pod;
    use super::*;
    use serde_json::{Value, json};

    fn why(container: Value, state: Value) -> (String, String) {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "web" },
            "spec": { "nodeName": "node-1", "containers": [container] },
            "status": { "phase": "Pending", "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": state["state"], "lastState": state["last"],
            }] },
        }))
        .unwrap();
        let cause = pod::cause(&pod, &[]).unwrap();
        (cause.sentence, cause.remedy.unwrap())
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({ "state": { "waiting": { "reason": reason, "message": message } } })
    }

    #[test]
    fn cause_and_remedy_of_a_failed_pull_are_told_apart() {
        let message = "Back-off pulling image \"a:1\": ErrImagePull: image docker.io/library/a:1 was not found at registry-1.docker.io (404 Not Found); check its name and tag, or import it with `atoll image import`";
        let (sentence, remedy) =
            why(json!({ "name": "c", "image": "a:1" }), waiting("ImagePullBackOff", message));
        assert_eq!(
            sentence,
            "container c waits for its image: image docker.io/library/a:1 was not found at registry-1.docker.io (404 Not Found)."
        );
        assert_eq!(
            remedy,
            "Check its name and tag, or import it with `atoll image import`. It takes what `docker save a:1` writes."
        );
    }

    #[test]
    fn a_name_that_is_none_is_explained() {
        let (sentence, remedy) =
            why(json!({ "name": "c", "image": "Node:18" }), waiting("InvalidImageName", "x"));
        assert!(sentence.ends_with("its name has capital letters."), "{sentence}");
        assert!(remedy.contains("spec.containers[0].image"), "{remedy}");
    }

    #[test]
    fn the_image_of_a_volume_is_told_from_the_containers() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {"containers": [{"name": "c", "image": "a:1"}],
                "volumes": [{"name": "v", "image": {"reference": "r.example/v:1"}}]},
        }))
        .unwrap();
        let status: ContainerStatus = serde_json::from_value(json!({"name": "c", "image": "a:1",
            "imageID": "", "ready": false, "restartCount": 0}))
        .unwrap();
        let said = "Back-off pulling image \"r.example/v:1\": ErrImagePull: image r.example/v:1 was not found; check its name";
        let found = cause(&pod, &status, "ImagePullBackOff", said, &[]);
        assert_eq!(
            found.sentence,
            "container c waits for the image of its volume v: image r.example/v:1 was not found."
        );
        let never = "Container image \"r.example/v:1\" is not present with pull policy of Never";
        let remedy = cause(&pod, &status, "ErrImageNeverPull", never, &[]).remedy.unwrap();
        assert!(
            remedy.ends_with("set pullPolicy: IfNotPresent in spec.volumes[0].image."),
            "{remedy}"
        );
    }

    #[test]
    fn a_program_that_the_image_lacks_is_named() {
        let message = "OCI runtime create failed: unable to start container process: exec: \"serve\": executable file not found in $PATH";
        let container = json!({ "name": "c", "image": "a:1", "command": ["serve"] });
        let crash = json!({
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "last": { "terminated": { "reason": "StartError", "exitCode": 128, "message": message } },
        });
        for state in [waiting("RunContainerError", message), crash] {
            let (sentence, remedy) = why(container.clone(), state);
            assert_eq!(
                sentence,
                "container c cannot run: the manifest says to run \"serve\", which is nowhere in the $PATH of image a:1 (exec: \"serve\": executable file not found in $PATH)."
            );
            assert!(remedy.contains("spec.containers[0]"), "{remedy}");
        }
    }
}
