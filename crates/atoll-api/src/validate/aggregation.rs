//! APIService.

use serde_json::Value;

use super::faults;
use crate::access::Access as _;
use crate::field::{Error, Path, quote};
use crate::names;

const GROUP_PRIORITY_MAX: i64 = 20_000;
const VERSION_PRIORITY_MAX: i64 = 1000;

pub(crate) fn api_service(object: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let (spec, at) = (&object["spec"], Path::new("spec"));
    let (group, version) = (spec.text("group"), spec.text("version"));
    let (name, wanted) = (object["metadata"].text("name"), format!("{version}.{group}"));
    if !name.is_empty() && names::path_segment(name).is_empty() && name != wanted {
        let text = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&wanted));
        errors.push(Path::new("metadata").child("name").invalid(name, text));
    }
    if group.is_empty() && version != "v1" {
        let text = "only v1 may have an empty group and it better be legacy kube";
        errors.push(at.child("group").required(text));
    }
    if !group.is_empty() {
        faults(&at.child("group"), group, names::dns1123_subdomain(group), &mut errors);
    }
    faults(&at.child("version"), version, names::dns1035_label(version), &mut errors);
    for (field, most) in
        [("groupPriorityMinimum", GROUP_PRIORITY_MAX), ("versionPriority", VERSION_PRIORITY_MAX)]
    {
        let priority = spec.int(field).unwrap_or(0);
        if !(1..=most).contains(&priority) {
            let text = format!("must be positive and less than {most}");
            errors.push(at.child(field).invalid(priority, text));
        }
    }
    if spec.has("service") {
        remote(&at, spec, &mut errors);
    } else {
        local(&at, spec, &mut errors);
    }
    errors
}

pub(crate) fn update(new: &Value, _: &Value) -> Vec<Error> {
    api_service(new)
}

pub(crate) fn status_update(new: &Value, _: &Value) -> Vec<Error> {
    let mut errors = Vec::new();
    let at = Path::new("status").child("conditions");
    let allowed = ["True", "False", "Unknown"];
    for (index, condition) in new["status"].items("conditions").iter().enumerate() {
        let status = condition.text("status");
        if !allowed.contains(&status) {
            errors.push(at.index(index).child("status").not_supported(status, &allowed));
        }
    }
    errors
}

fn local(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let bundle = spec.text("caBundle");
    if !bundle.is_empty() {
        let bytes = bundle.len() / 4 * 3 - bundle.matches('=').count().min(2);
        let text = "local APIServices may not have a caBundle";
        errors.push(at.child("caBundle").invalid(format!("{bytes} bytes"), text));
    }
    if spec.flag("insecureSkipTLSVerify") {
        let text = "local APIServices may not have insecureSkipTLSVerify";
        errors.push(at.child("insecureSkipTLSVerify").invalid(true, text));
    }
}

fn remote(at: &Path, spec: &Value, errors: &mut Vec<Error>) {
    let (own, service) = (at.child("service"), &spec["service"]);
    for field in ["namespace", "name"] {
        if service.text(field).is_empty() {
            errors.push(own.child(field).required(""));
        }
    }
    let port = service.int("port").unwrap_or(0);
    if let Some(fault) = names::port_number(port) {
        errors.push(own.child("port").invalid(port, format!("port is not valid: {fault}")));
    }
    if spec.flag("insecureSkipTLSVerify") && !spec.text("caBundle").is_empty() {
        let text = "may not be true if caBundle is present";
        errors.push(at.child("insecureSkipTLSVerify").invalid(true, text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_name_says_version_and_group() {
        let mut object = json!({"metadata": {"name": "v1.x.io"}, "spec": {
            "group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "service": {"namespace": "n", "name": "s", "port": 443},
        }});
        assert_eq!(api_service(&object), []);
        object["metadata"]["name"] = json!("v2.x.io");
        object["spec"]["versionPriority"] = json!(0);
        let texts: Vec<String> = api_service(&object).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "metadata.name: Invalid value: \"v2.x.io\": must be \
                 `spec.version+\".\"+spec.group`: \"v1.x.io\"",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
            ]
        );
    }

    #[test]
    fn a_local_one_trusts_nobody_else() {
        let object = json!({"metadata": {"name": "v1.x.io"}, "spec": {
            "group": "x.io", "version": "v1", "groupPriorityMinimum": 1, "versionPriority": 1,
            "caBundle": "YWJjZA==",
        }});
        assert_eq!(
            api_service(&object)[0].to_string(),
            "spec.caBundle: Invalid value: \"4 bytes\": local APIServices may not have a caBundle"
        );
    }
}
