//! The pod that a Job's template describes.

use super::{
    facts::{COMPLETION_INDEX, INDEX_FAILURES, INDEX_IGNORED, TRACKING},
    plan::Create,
};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};

/// By which a program knows its index.
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Bytes of `generateName` that the API server keeps.
const PREFIX_BYTES_MAX: usize = 58;

pub(super) fn from_template(job: &Job, create: Create) -> Pod {
    let template = super::facts::spec(job).template.clone();
    let mut metadata = template.metadata.unwrap_or_default();
    metadata.name = None;
    metadata.namespace = job.namespace();
    metadata.generate_name = Some(prefix(&job.name_any(), create.index));
    metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
    metadata.owner_references = job
        .controller_owner_ref(&())
        .map(|owner| vec![OwnerReference { block_owner_deletion: Some(true), ..owner }]);
    let mut spec = template.spec;
    if let Some(index) = create.index {
        let text = index.to_string();
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(COMPLETION_INDEX.to_owned(), text.clone());
        if let Some((failures, ignored)) = create.failures {
            annotations.insert(INDEX_FAILURES.to_owned(), failures.to_string());
            if ignored > 0 {
                annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
            }
        }
        metadata.labels.get_or_insert_default().insert(COMPLETION_INDEX.to_owned(), text);
        if let Some(spec) = &mut spec {
            spec.hostname = Some(format!("{}-{index}", job.name_any()));
            let init = spec.init_containers.iter_mut().flatten();
            spec.containers.iter_mut().chain(init).for_each(tell_index);
        }
    }
    Pod { metadata, spec, status: None }
}

fn prefix(name: &str, index: Option<i32>) -> String {
    let tail = index.map_or_else(|| "-".to_owned(), |index| format!("-{index}-"));
    let mut end = name.len().min(PREFIX_BYTES_MAX.saturating_sub(tail.len()));
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{tail}", name.get(..end).unwrap_or(name))
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|one| one.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        api_version: None,
        field_path: format!("metadata.labels['{COMPLETION_INDEX}']"),
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value: None,
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job() -> Job {
        serde_json::from_value(json!({
            "metadata": { "name": "j", "namespace": "n", "uid": "u" },
            "spec": { "template": { "metadata": { "labels": { "job-name": "j" } },
                "spec": { "containers": [{ "name": "c" }] } } },
        }))
        .unwrap()
    }

    #[test]
    fn an_index_shows_in_name_labels_environment_and_hostname() {
        let pod = from_template(&job(), Create { index: Some(3), failures: Some((1, 0)) });
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-3-"));
        assert_eq!(pod.annotations()[COMPLETION_INDEX], "3");
        assert_eq!(pod.annotations()[INDEX_FAILURES], "1");
        assert_eq!(pod.labels()[COMPLETION_INDEX], "3");
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-3"));
        assert_eq!(spec.containers[0].env.as_ref().unwrap()[0].name, "JOB_COMPLETION_INDEX");
    }

    #[test]
    fn a_pod_without_index_is_only_tracked() {
        let pod = from_template(&job(), Create { index: None, failures: None });
        assert_eq!(pod.finalizers(), [TRACKING]);
        assert_eq!(pod.metadata.generate_name.as_deref(), Some("j-"));
        assert!(pod.spec.unwrap().hostname.is_none());
    }
}
