//! Refusals of policies and bindings, word for word.

use serde_json::{Value, json};

use super::*;
use crate::kinds;

fn policy(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["deployments"],
            }]},
            "validations": [{"expression": "object.spec.replicas <= 5"}],
        },
    });
    crate::defaults::policies::validating(&mut policy);
    change(&mut policy);
    validating(&policy).iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_policy_is_good() {
    assert_eq!(policy(|_| {}), Vec::<String>::new());
    let row = kinds::find("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
    assert!(row.is_some_and(|row| row.hooks.validate_create.is_some()));
}

#[test]
fn expressions_are_compiled() {
    let found = policy(|one| one["spec"]["validations"][0]["expression"] = json!("object.a +"));
    assert_eq!(found.len(), 1);
    let start = "spec.validations[0].expression: Invalid value: \"object.a +\": compilation failed: \
                 ERROR: <input>:1:11: Syntax error: mismatched input '<EOF>' expecting";
    assert!(found[0].starts_with(start), "{}", found[0]);
    assert_eq!(
        policy(|one| one["spec"]["validations"][0]["expression"] = json!("object.a")),
        [
            "spec.validations[0].expression: Invalid value: \"object.a\": must evaluate to bool but got dyn"
        ]
    );
    assert_eq!(
        policy(|one| one["spec"]["validations"][0]["expression"] = json!("params.a == 1")),
        [
            "spec.validations[0].expression: Invalid value: \"params.a == 1\": compilation failed: ERROR: \
          <input>:1:1: undeclared reference to 'params' (in container '')\n | params.a == 1\n | ^"
        ]
    );
    assert_eq!(
        policy(|one| one["spec"]["validations"][0]["expression"] = json!("request.foo == 1")),
        [
            "spec.validations[0].expression: Invalid value: \"request.foo == 1\": compilation failed: \
          ERROR: <input>:1:8: undefined field 'foo'\n | request.foo == 1\n | .......^"
        ]
    );
}

#[test]
fn variables_have_types() {
    let found = policy(|one| {
        one["spec"]["variables"] = json!([
            {"name": "n", "expression": "1 + 1"},
            {"name": "1x", "expression": "variables.n"},
        ]);
        one["spec"]["validations"][0]["expression"] = json!("variables.n == 'a'");
    });
    assert_eq!(
        found,
        [
            "spec.variables[1].name: Invalid value: \"1x\": name is not a valid CEL identifier",
            "spec.validations[0].expression: Invalid value: \"variables.n == 'a'\": compilation \
             failed: ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, \
             string)'\n | variables.n == 'a'\n | ............^",
        ]
    );
}

#[test]
fn fields_are_required_and_one_of_their_values() {
    let found = policy(|one| {
        one["spec"]["failurePolicy"] = json!("Maybe");
        one["spec"]["paramKind"] = json!({"apiVersion": "a/b/c", "kind": "-"});
        one["spec"]["validations"][0]["reason"] = json!("Because");
        one["spec"]["validations"][0]["message"] = json!("a\nb");
        one["spec"]["matchConstraints"]["resourceRules"] = json!([]);
    });
    assert_eq!(
        found,
        [
            "spec.failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "spec.paramKind.kind: Invalid value: \"-\": may have mixed case, but should otherwise match: \
             a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
             alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', \
             regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            "spec.matchConstraints.resourceRules: Required value",
            "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            "spec.validations[0].reason: Unsupported value: \"Because\": supported values: \
             \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
        ]
    );
}

#[test]
fn bindings() {
    let mut binding = json!({
        "metadata": {"name": "b"},
        "spec": {
            "paramRef": {"name": "x", "selector": {}},
            "validationActions": ["Deny", "Warn", "Deny", "Shout"],
        },
    });
    crate::defaults::policies::binding(&mut binding);
    let found: Vec<String> = validating_binding(&binding).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "spec.policyName: Required value",
            "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
            "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            "spec.validationActions[2]: Duplicate value: \"Deny\"",
            "spec.validationActions[3]: Unsupported value: \"Shout\": supported values: \"Audit\", \
             \"Deny\", \"Warn\"",
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Deny\",\"Shout\"]: must not \
             contain both Deny and Warn (repeating the same validation failure information in the API \
             response and headers serves no purpose)",
        ]
    );
}

#[test]
fn mutations_give_objects_or_patches() {
    let check = |mutation: Value| -> Vec<String> {
        let mut policy = json!({
            "metadata": {"name": "p"},
            "spec": {
                "reinvocationPolicy": "Never",
                "matchConstraints": {"resourceRules": [{
                    "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
                    "resources": ["pods"],
                }]},
                "mutations": [mutation],
            },
        });
        crate::defaults::policies::mutating(&mut policy);
        mutating(&policy).iter().map(ToString::to_string).collect()
    };
    let good = "Object{metadata: Object.metadata{labels: {'a': 'b'}}}";
    let apply = |source: &str| json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": source}});
    assert_eq!(check(apply(good)), Vec::<String>::new());
    assert_eq!(
        check(apply("1")),
        [
            "spec.mutations[0].applyConfiguration.expression: Invalid value: \"1\": must evaluate to \
          Object but got int"
        ]
    );
    let patch = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]";
    let patch = json!({"patchType": "JSONPatch", "jsonPatch": {"expression": patch}});
    assert_eq!(check(patch), Vec::<String>::new());
    assert_eq!(
        check(json!({"patchType": "JSONPatch"})),
        [
            "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch"
        ]
    );
}
