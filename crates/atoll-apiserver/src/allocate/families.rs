//! Address families of a Service. This cluster has one; pure.

use atoll_api::access::Access as _;
use atoll_api::field::{Error, Path};
use serde_json::{Value, json};

const FAMILY: &str = "IPv4";
const OTHER: &str = "IPv6";

/// Fills in policy and families, and answers what the cluster has not; upstream's rules and texts.
pub(super) fn set(old: Option<&Value>, service: &mut Value) -> Vec<Error> {
    if old.is_some_and(|old| is_as_before(&service["spec"], &old["spec"])) {
        return Vec::new();
    }
    let spec = &service["spec"];
    let headless = spec.text("clusterIP") == "None";
    let selects = spec.fields("selector").is_some_and(|selector| !selector.is_empty());
    // Such a Service names endpoints that may be anywhere.
    let any = headless && !selects;
    let before = old.map_or("", |old| old["spec"].text("ipFamilyPolicy"));
    let policy = match spec.text("ipFamilyPolicy") {
        "" if !before.is_empty() => before,
        "" if any => "RequireDualStack",
        "" => "SingleStack",
        stated => stated,
    };
    let policy = policy.to_owned();
    let mut families = spec.items("ipFamilies").to_vec();
    if policy == "SingleStack" && old.is_some_and(|old| old["spec"].items("ipFamilies") == families)
    {
        families.truncate(1);
    }
    let mut errors = counts(spec, &policy, &families);
    addresses(spec, families.len(), &mut errors);
    if errors.is_empty() && !any {
        configured(&policy, &families, &mut errors);
    }
    if families.is_empty() {
        families.push(json!(FAMILY));
    }
    if any && families.len() < 2 && policy != "SingleStack" {
        families.push(json!(if families[0] == FAMILY { OTHER } else { FAMILY }));
    }
    service["spec"]["ipFamilyPolicy"] = json!(policy);
    service["spec"]["ipFamilies"] = json!(families);
    errors
}

/// What was taken once may stay: it must not stand in the way of other changes.
fn is_as_before(spec: &Value, before: &Value) -> bool {
    let fields = ["type", "selector", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    !spec.items("ipFamilies").is_empty()
        && fields.iter().all(|field| spec[*field] == before[*field])
}

fn counts(spec: &Value, policy: &str, families: &[Value]) -> Vec<Error> {
    let lists = [("cluster IPs", spec.items("clusterIPs").len()), ("IP families", families.len())];
    let two = lists.iter().filter(|(_, count)| policy == "SingleStack" && *count == 2);
    two.map(|(what, _)| {
        let text = format!(
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
        );
        Path::new("spec").child("ipFamilyPolicy").invalid(policy, text)
    })
    .collect()
}

/// Addresses that no family is stated for say themselves which one they are of.
fn addresses(spec: &Value, stated: usize, errors: &mut Vec<Error>) {
    let all = spec.items("clusterIPs");
    for (index, address) in all.iter().enumerate().skip(stated) {
        if address.as_str().is_some_and(|text| text.contains(':')) {
            let at = Path::new("spec").child("clusterIPs").index(index);
            errors.push(at.invalid(all, format!("{OTHER} is not configured on this cluster")));
        }
    }
}

fn configured(policy: &str, families: &[Value], errors: &mut Vec<Error>) {
    let at = Path::new("spec");
    if policy == "RequireDualStack" {
        let text = "this cluster is not configured for dual-stack services";
        errors.push(at.child("ipFamilyPolicy").invalid(policy, text));
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| **family != FAMILY) {
        let at = at.child("ipFamilies").index(index);
        errors.push(at.invalid(family.clone(), "not configured on this cluster"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        json!({"metadata": {"name": "s"}, "spec": spec})
    }

    fn faults(old: Option<&Value>, spec: Value) -> Vec<String> {
        set(old, &mut service(spec)).iter().map(ToString::to_string).collect()
    }

    fn families(spec: Value) -> (Value, Value) {
        let mut service = service(spec);
        assert_eq!(set(None, &mut service).len(), 0);
        (service["spec"]["ipFamilyPolicy"].take(), service["spec"]["ipFamilies"].take())
    }

    #[test]
    fn what_the_cluster_has_not_is_refused() {
        let six = "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster";
        assert_eq!(faults(None, json!({"ipFamilies": ["IPv6"]})), [six]);
        let dual = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not \
                    configured for dual-stack services";
        let asked = json!({"ipFamilyPolicy": "RequireDualStack"});
        assert_eq!(faults(None, asked.clone()), [dual]);
        let selecting = json!({"clusterIP": "None", "selector": {"a": "b"},
            "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        assert_eq!(faults(None, selecting).len(), 2);
        assert_eq!(faults(None, json!({"clusterIPs": ["fd00::1"]})).len(), 1);
        assert_eq!(faults(None, json!({"ipFamilies": ["IPv4", "IPv6"]})).len(), 1);
        // Taken by an earlier release.
        let mut old = service(asked);
        old["spec"]["ipFamilies"] = json!(["IPv4"]);
        assert_eq!(faults(Some(&old), old["spec"].clone()), [""; 0]);
    }

    #[test]
    fn policy_and_families_are_filled_in() {
        let one = (json!("SingleStack"), json!(["IPv4"]));
        assert_eq!(families(json!({})), one);
        let prefers = json!({"ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(families(prefers), (json!("PreferDualStack"), json!(["IPv4"])));
        let both = |first: &str, second: &str| (json!("RequireDualStack"), json!([first, second]));
        let headless = |more: Value| {
            let mut spec = json!({"clusterIP": "None", "clusterIPs": ["None"]});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        assert_eq!(families(headless(json!({}))), both("IPv4", "IPv6"));
        assert_eq!(families(headless(json!({"ipFamilies": ["IPv6"]}))), both("IPv6", "IPv4"));
        assert_eq!(families(headless(json!({"ipFamilyPolicy": "SingleStack"}))), one);
        assert_eq!(families(headless(json!({"selector": {"a": "b"}}))), one);
    }
}
