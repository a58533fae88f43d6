//! What is refused of configurations of webhooks.

use serde_json::json;

use super::*;

fn hook() -> Value {
    json!({
        "name": "a.b.c",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://x/"},
        "rules": [{
            "operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
            "resources": ["pods"], "scope": "*",
        }],
        "failurePolicy": "Fail", "matchPolicy": "Exact", "timeoutSeconds": 10,
    })
}

fn texts(hooks: Vec<Value>) -> Vec<String> {
    let configuration = json!({"webhooks": hooks});
    validating(&configuration).iter().map(ToString::to_string).collect()
}

fn with(field: &str, value: Value) -> Vec<String> {
    let mut hook = hook();
    hook[field] = value;
    texts(vec![hook])
}

#[test]
fn a_good_one_has_no_faults() {
    assert_eq!(texts(vec![hook()]), [] as [&str; 0]);
}

#[test]
fn names_are_qualified_and_unique() {
    let domain = "should be a domain with at least three segments separated by dots";
    assert_eq!(
        with("name", json!("a.b")),
        [format!("webhooks[0].name: Invalid value: \"a.b\": {domain}")]
    );
    assert_eq!(with("name", json!("")), ["webhooks[0].name: Required value"]);
    assert_eq!(texts(vec![hook(), hook()]), ["webhooks[1].name: Duplicate value: \"a.b.c\""]);
}

#[test]
fn side_effects_are_stated() {
    assert_eq!(
        with("sideEffects", Value::Null),
        ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]
    );
    assert_eq!(
        with("sideEffects", json!("Some")),
        ["webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \
          \"NoneOnDryRun\""]
    );
}

#[test]
fn review_versions_are_known() {
    let at = "webhooks[0].admissionReviewVersions";
    assert_eq!(
        with("admissionReviewVersions", json!([])),
        [format!("{at}: Required value: must specify one of v1, v1beta1")]
    );
    assert_eq!(
        with("admissionReviewVersions", json!(["v2"])),
        [format!("{at}: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1")]
    );
    assert_eq!(
        with("admissionReviewVersions", json!(["v1", "v1"])),
        [format!("{at}[1]: Invalid value: \"v1\": duplicate version")]
    );
}

#[test]
fn urls_are_plain_https() {
    let at = "webhooks[0].clientConfig";
    let form = "; desired format: https://host[/path]";
    let url = |url: &str| with("clientConfig", json!({"url": url}));
    assert_eq!(
        url("http://x"),
        [format!(
            "{at}.url: Invalid value: \"http\": 'https' is the only allowed URL scheme{form}"
        )]
    );
    assert_eq!(
        url("https://u:p@x/?q=1#f"),
        [
            format!(
                "{at}.url: Invalid value: \"u:p\": user information is not permitted in the URL"
            ),
            format!("{at}.url: Invalid value: \"f\": fragments are not permitted in the URL"),
            format!(
                "{at}.url: Invalid value: \"q=1\": query parameters are not permitted in the URL"
            ),
        ]
    );
    assert_eq!(
        url("https:///path"),
        [format!("{at}.url: Invalid value: \"\": host must be specified{form}")]
    );
    let both = json!({"url": "https://x", "service": {}});
    assert_eq!(
        with("clientConfig", both),
        [format!("{at}: Required value: exactly one of url or service is required")]
    );
}

#[test]
fn paths_of_services_are_segments() {
    let at = "webhooks[0].clientConfig.service";
    let path = |path: &str| {
        let service = json!({"namespace": "n", "name": "s", "port": 443, "path": path});
        with("clientConfig", json!({"service": service}))
    };
    assert_eq!(path("/a/b/"), [] as [&str; 0]);
    assert_eq!(
        path("//"),
        [format!("{at}.path: Invalid value: \"//\": segment[0] may not be empty")]
    );
    assert_eq!(path("/a//b").len(), 1);
    let lacking = json!({"service": {"port": 0}});
    assert_eq!(
        with("clientConfig", lacking),
        [
            format!("{at}.name: Required value"),
            format!("{at}.namespace: Required value"),
            format!(
                "{at}.port: Invalid value: 0: port is not valid: must be between 1 and 65535, \
                 inclusive"
            ),
        ]
    );
}

#[test]
fn wildcards_stand_alone() {
    let at = "webhooks[0].rules[0]";
    let rule = |field: &str, value: Value| {
        let mut rule = hook()["rules"][0].clone();
        rule[field] = value;
        with("rules", json!([rule]))
    };
    assert_eq!(
        rule("operations", json!(["*", "CREATE"])),
        [format!(
            "{at}.operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not \
             specify other operations"
        )]
    );
    assert_eq!(
        rule("resources", json!(["pods/*", "pods/log"])),
        [format!(
            "{at}.resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not \
             specify pods/log"
        )]
    );
    assert_eq!(
        rule("scope", json!("All")),
        [format!(
            "{at}.scope: Unsupported value: \"All\": supported values: \"*\", \"Cluster\", \
             \"Namespaced\""
        )]
    );
}

#[test]
fn what_was_stored_may_stay() {
    let mut old = hook();
    old["sideEffects"] = json!("Some");
    let old = json!({"webhooks": [old]});
    assert_eq!(validating_update(&old, &old), []);
}

#[test]
fn conditions_are_named_and_compile() {
    let at = "webhooks[0].matchConditions";
    let conditions = json!([
        {"name": "a", "expression": "object.metadata.name == 'x'"},
        {"name": "a", "expression": "request.operation != 'DELETE'"},
        {"name": "", "expression": ""},
    ]);
    assert_eq!(
        with("matchConditions", conditions),
        [
            format!("{at}[1].name: Duplicate value: \"a\""),
            format!("{at}[2].expression: Required value"),
            format!("{at}[2].name: Required value"),
        ]
    );
    let bad = with("matchConditions", json!([{"name": "b", "expression": "1 +"}]));
    assert_eq!(bad.len(), 1);
    assert!(bad[0].starts_with(&format!("{at}[0].expression: Invalid value: ")), "{bad:?}");
}
